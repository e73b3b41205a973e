//! Schedules and watched files: what restarts an app without a command.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::daemon::supervisor::Input;
use crate::daemon::world::cron;
use crate::daemon::world::watch::Watcher;
use crate::instance::Instance;
use crate::logs;
use crate::paths::Home;
use crate::schedule::Schedule;
use crate::spec::AppSpec;

/// The triggers of all apps, by name.
pub struct Triggers {
    queue: mpsc::UnboundedSender<Input>,
    apps: HashMap<String, AppTriggers>,
}

/// Dropped, it ends.
struct AppTriggers {
    spec: Arc<AppSpec>,
    tasks: Vec<AbortHandle>,
}

impl Drop for AppTriggers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Triggers {
    /// No app yet; restarts are asked for through `queue`.
    pub fn new(queue: mpsc::UnboundedSender<Input>) -> Self {
        Self { queue, apps: HashMap::new() }
    }

    /// Brings the triggers in line with the list: one set for each app, whatever its instances.
    pub fn update(&mut self, instances: &BTreeMap<u32, Instance>, home: &Home) {
        let mut wanted: HashMap<&str, &Instance> = HashMap::new();
        for instance in instances.values() {
            if instance.spec().watch.is_some() || instance.spec().cron_restart.is_some() {
                wanted.entry(&instance.spec().name).or_insert(instance);
            }
        }
        self.apps.retain(|name, trigger| {
            wanted.get(name.as_str()).is_some_and(|instance| is_unchanged(instance.spec(), &trigger.spec))
        });
        for (name, instance) in wanted {
            if !self.apps.contains_key(name) {
                let trigger = self.start_triggers(instance, home);
                self.apps.insert(name.to_owned(), trigger);
            }
        }
    }

    fn start_triggers(&self, instance: &Instance, home: &Home) -> AppTriggers {
        let spec = instance.spec();
        let mut tasks = Vec::new();
        if let Some(pattern) = &spec.cron_restart {
            match Schedule::parse(pattern) {
                Ok(schedule) => tasks.push(self.schedule(&spec.name, pattern, schedule)),
                Err(error) => tracing::error!(app = %spec.name, "cron_restart \"{pattern}\": {error}"),
            }
        }
        if spec.watch.is_some() {
            tasks.push(self.watch(instance, home));
        }
        AppTriggers { spec: spec.clone(), tasks }
    }

    fn schedule(&self, app: &str, pattern: &str, schedule: Schedule) -> AbortHandle {
        let (queue, app, why) = (self.queue.clone(), app.to_owned(), format!("cron_restart \"{pattern}\""));
        let due = move || drop(queue.send(Input::Triggered { app: app.clone(), reason: why.clone() }));
        tokio::task::spawn_local(cron::run(schedule, due)).abort_handle()
    }

    fn watch(&self, instance: &Instance, home: &Home) -> AbortHandle {
        let (queue, spec) = (self.queue.clone(), instance.spec().clone());
        // Its own log files must not restart an app.
        let files = logs::log_files(&spec, instance.id(), home);
        let own: Vec<PathBuf> = [files.out, files.err, files.combined].into_iter().flatten().collect();
        let task = async move {
            let Some(watch) = spec.watch.clone() else { return };
            let (changed, mut changes) = mpsc::unbounded_channel();
            // Walking the directories may take a while.
            let watcher = tokio::task::spawn_blocking(move || Watcher::start(&watch, &own, changed)).await;
            let _watcher = match watcher {
                Ok(Ok(watcher)) => watcher,
                Ok(Err(error)) => return tracing::error!(app = %spec.name, "{error}"),
                Err(_) => return,
            };
            while let Some(path) = changes.recv().await {
                let why = format!("{} changed", path.display());
                let _ = queue.send(Input::Triggered { app: spec.name.clone(), reason: why });
            }
        };
        tokio::task::spawn_local(task).abort_handle()
    }
}

fn is_unchanged(now: &Arc<AppSpec>, before: &Arc<AppSpec>) -> bool {
    Arc::ptr_eq(now, before) || now.watch == before.watch && now.cron_restart == before.cron_restart
}
