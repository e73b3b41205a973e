//! Triggers: restart apps by schedule (`cron_restart`) or when files change (`watch`).
//!
//! Each app has one set of triggers, shared by its instances.

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

/// The triggers of all apps by name.
pub struct Triggers {
    queue: mpsc::UnboundedSender<Input>,
    apps: HashMap<String, AppTriggers>,
}

/// The triggers of one app. They stop when this is dropped.
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
    /// Restarts are requested through `queue`.
    pub fn new(queue: mpsc::UnboundedSender<Input>) -> Self {
        Self { queue, apps: HashMap::new() }
    }

    /// Starts and stops triggers after the list of instances has changed.
    pub fn update(&mut self, instances: &BTreeMap<u32, Instance>, home: &Home) {
        let mut apps: HashMap<&str, &Instance> = HashMap::new();
        for instance in instances.values() {
            if instance.spec().watch.is_some() || instance.spec().cron_restart.is_some() {
                apps.entry(&instance.spec().name).or_insert(instance);
            }
        }
        self.apps.retain(|name, triggers| {
            apps.get(name.as_str()).is_some_and(|instance| has_same_triggers(instance.spec(), &triggers.spec))
        });
        for (name, instance) in apps {
            if !self.apps.contains_key(name) {
                let triggers = self.start_triggers(instance, home);
                self.apps.insert(name.to_owned(), triggers);
            }
        }
    }

    fn start_triggers(&self, instance: &Instance, home: &Home) -> AppTriggers {
        let spec = instance.spec();
        let mut tasks = Vec::new();
        if let Some(pattern) = &spec.cron_restart {
            match Schedule::parse(pattern) {
                Ok(schedule) => tasks.push(self.start_schedule(&spec.name, pattern, schedule)),
                Err(error) => tracing::error!(app = %spec.name, "cron_restart \"{pattern}\": {error}"),
            }
        }
        if spec.watch.is_some() {
            tasks.push(self.start_watch(instance, home));
        }
        AppTriggers { spec: spec.clone(), tasks }
    }

    fn start_schedule(&self, app: &str, pattern: &str, schedule: Schedule) -> AbortHandle {
        let (queue, app, reason) =
            (self.queue.clone(), app.to_owned(), format!("cron_restart \"{pattern}\""));
        let on_due = move || drop(queue.send(Input::Triggered { app: app.clone(), reason: reason.clone() }));
        tokio::task::spawn_local(cron::run(schedule, on_due)).abort_handle()
    }

    fn start_watch(&self, instance: &Instance, home: &Home) -> AbortHandle {
        let (queue, spec) = (self.queue.clone(), instance.spec().clone());
        // The log files of an app must not restart it.
        let files = logs::log_files(&spec, instance.id(), &instance.file_name(), home);
        let exempt: Vec<PathBuf> = [files.out, files.err, files.combined].into_iter().flatten().collect();
        let task = async move {
            let Some(watch) = spec.watch.clone() else { return };
            let (changed, mut changes) = mpsc::unbounded_channel();
            // Reading the directories can take long.
            let watcher = tokio::task::spawn_blocking(move || Watcher::start(&watch, &exempt, changed)).await;
            let _watcher = match watcher {
                Ok(Ok(watcher)) => watcher,
                Ok(Err(error)) => return tracing::error!(app = %spec.name, "{error}"),
                Err(_) => return,
            };
            while let Some(path) = changes.recv().await {
                let reason = format!("{} changed", path.display());
                let _ = queue.send(Input::Triggered { app: spec.name.clone(), reason });
            }
        };
        tokio::task::spawn_local(task).abort_handle()
    }
}

fn has_same_triggers(new: &Arc<AppSpec>, old: &Arc<AppSpec>) -> bool {
    Arc::ptr_eq(new, old) || new.watch == old.watch && new.cron_restart == old.cron_restart
}
