//! Triggers: restart apps by schedule (`cron_restart`) or when files change (`watch`).
//!
//! Each app has one set of triggers, shared by its instances.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::daemon::supervisor::Input;
use crate::daemon::world::cron;
use crate::daemon::world::pid_file::pid_file;
use crate::daemon::world::watch::Watcher;
use crate::daemon::world::watch::own_files::{OwnFileList, OwnFiles};
use crate::instance::Instance;
use crate::logs;
use crate::paths::Home;
use crate::schedule::{self, Schedule};
use crate::spec::AppSpec;

/// The triggers of all apps by name.
pub struct Triggers {
    queue: mpsc::UnboundedSender<Input>,
    apps: HashMap<String, AppTriggers>,
    own_files: OwnFiles,
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
        Self { queue, apps: HashMap::new(), own_files: OwnFiles::default() }
    }

    /// Starts and stops triggers after the list of instances has changed.
    pub fn update(&mut self, instances: &BTreeMap<u32, Instance>, home: &Home) {
        let mut apps: HashMap<&str, &Instance> = HashMap::new();
        for instance in instances.values() {
            if instance.spec().watch.is_some() || instance.spec().cron_restart.is_some() {
                apps.entry(&instance.spec().name).or_insert(instance);
            }
        }
        if apps.values().any(|instance| instance.spec().watch.is_some()) {
            self.own_files.set(own_files(instances, home));
        }
        self.apps.retain(|name, triggers| {
            apps.get(name.as_str()).is_some_and(|instance| has_same_triggers(instance.spec(), &triggers.spec))
        });
        for (name, instance) in apps {
            if !self.apps.contains_key(name) {
                let triggers = self.start_triggers(instance);
                self.apps.insert(name.to_owned(), triggers);
            }
        }
    }

    fn start_triggers(&self, instance: &Instance) -> AppTriggers {
        let spec = instance.spec();
        let mut tasks = Vec::new();
        if let Some(pattern) = &spec.cron_restart {
            let zone = schedule::time_zone(spec.timezone.as_deref());
            match (Schedule::parse(pattern), zone) {
                (Ok(schedule), Ok(zone)) => {
                    tasks.push(self.start_schedule(&spec.name, pattern, (schedule, zone)));
                }
                (Err(error), _) => tracing::error!(app = %spec.name, "cron_restart \"{pattern}\": {error}"),
                (_, Err(error)) => tracing::error!(app = %spec.name, "timezone: {error}"),
            }
        }
        if spec.watch.is_some() {
            tasks.push(self.start_watch(instance));
        }
        AppTriggers { spec: spec.clone(), tasks }
    }

    fn start_schedule(
        &self,
        app: &str,
        pattern: &str,
        (schedule, zone): (Schedule, TimeZone),
    ) -> AbortHandle {
        let (queue, app, reason) =
            (self.queue.clone(), app.to_owned(), format!("cron_restart \"{pattern}\""));
        let on_due = move || {
            drop(queue.send(Input::Triggered { app: app.clone(), by_schedule: true, reason: reason.clone() }))
        };
        tokio::task::spawn_local(cron::run(schedule, zone, on_due)).abort_handle()
    }

    fn start_watch(&self, instance: &Instance) -> AbortHandle {
        let (queue, spec, own) = (self.queue.clone(), instance.spec().clone(), self.own_files.clone());
        let task = async move {
            let Some(watch) = spec.watch.clone() else { return };
            let (changed, mut changes) = mpsc::unbounded_channel();
            // Reading the directories can take long.
            let cwd = spec.cwd.clone();
            let start = move || Watcher::start(&watch, &cwd, own, changed);
            let watcher = tokio::task::spawn_blocking(start).await;
            let _watcher = match watcher {
                Ok(Ok(watcher)) => watcher,
                Ok(Err(error)) => return tracing::error!(app = %spec.name, "{error}"),
                Err(_) => return,
            };
            while let Some(path) = changes.recv().await {
                let reason = format!("{} changed", path.display());
                let _ = queue.send(Input::Triggered { app: spec.name.clone(), by_schedule: false, reason });
            }
        };
        tokio::task::spawn_local(task).abort_handle()
    }
}

/// The files that rsm writes for these instances, or below its home directory.
fn own_files(instances: &BTreeMap<u32, Instance>, home: &Home) -> OwnFileList {
    let of_instance = |instance: &Instance| {
        let logs = logs::log_files(instance.spec(), instance.id(), &instance.file_name(), home);
        let pid_file = pid_file(instance, home);
        [logs.out, logs.err, logs.combined].into_iter().flatten().chain([pid_file])
    };
    let mut files: Vec<PathBuf> = instances.values().flat_map(of_instance).collect();
    files.sort_unstable();
    files.dedup();
    OwnFileList { home: home.path().to_owned(), files }
}

fn has_same_triggers(new: &Arc<AppSpec>, old: &Arc<AppSpec>) -> bool {
    let schedule = |spec: &AppSpec| (spec.cron_restart.clone(), spec.timezone.clone());
    let is_same = new.watch == old.watch && schedule(new) == schedule(old);
    Arc::ptr_eq(new, old) || is_same && (new.watch.is_none() || new.cwd == old.cwd)
}
