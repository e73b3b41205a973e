//! Cleanup of process trees: signals the processes that remain of ended runs.
//!
//! All requests of a batch share one scan of the system's processes.

use std::collections::{BTreeMap, HashMap, HashSet};

use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use crate::daemon::supervisor::Input;
use crate::instance::event::InstanceEvent;
use crate::instance::launch;
use crate::instance::state::{CleanUp, RunProcess};
use crate::instance::status::RunId;
use crate::paths::Home;
use crate::process::process_ref::ProcessRef;
use crate::process::tree::{self, EndedRun, OrphanScope};

/// A run to clean up.
struct CleanupRequest {
    process: RunProcess,
    mode: CleanUp,
}

/// The cleanups of all runs.
pub struct TreeCleanup {
    home: Home,
    keeper_pid: i32,
    queue: mpsc::UnboundedSender<Input>,
    /// Pids of the running leaders, which no cleanup touches.
    leaders: HashMap<RunId, i32>,
    /// Requests of this batch. A run that is requested twice is scanned once: a second scan would report
    /// processes that the first one killed.
    requests: BTreeMap<RunId, CleanupRequest>,
    /// Runs whose orphans may not be children of the keeper.
    orphan_scopes: HashMap<RunId, OrphanScope>,
}

impl TreeCleanup {
    pub fn new(home: Home, keeper_pid: i32, queue: mpsc::UnboundedSender<Input>) -> Self {
        let (leaders, orphan_scopes) = (HashMap::new(), HashMap::new());
        Self { home, keeper_pid, queue, leaders, requests: BTreeMap::new(), orphan_scopes }
    }

    /// Sets where to look for orphans of a run, if not among the children of the keeper.
    pub fn set_orphan_scope(&mut self, run: RunId, scope: OrphanScope) {
        self.orphan_scopes.insert(run, scope);
    }

    pub fn run_started(&mut self, run: RunId, pid: i32) {
        self.leaders.insert(run, pid);
    }

    pub fn run_ended(&mut self, run: RunId) {
        self.orphan_scopes.remove(&run);
    }

    /// Requests the cleanup of a run at the end of the batch.
    pub fn request(&mut self, run: RunId, process: RunProcess, mode: CleanUp) {
        let request = self.requests.entry(run).or_insert(CleanupRequest { process, mode });
        request.mode = request.mode.max(mode);
    }

    /// Signals the remaining processes of the requested runs, and reports them.
    pub fn run_requests(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        if requests.is_empty() {
            return;
        }
        for run in requests.keys() {
            self.leaders.remove(run);
        }
        let leaders: HashSet<i32> = self.leaders.values().copied().collect();
        let ended_run = |(run, request): (&RunId, &CleanupRequest)| EndedRun {
            run: run.to_u64(),
            leader: process_ref(request.process),
            orphans: self.orphan_scopes.get(run).copied().unwrap_or(OrphanScope::KeeperChildren),
        };
        let runs: Vec<EndedRun> = requests.iter().map(ended_run).collect();
        let mut found =
            tree::find_remaining(self.keeper_pid, &runs, &launch::run_marker(&self.home), &leaders);
        for (run, request) in requests {
            let remaining = found.remove(&run.to_u64()).unwrap_or_default();
            let signal = match request.mode {
                CleanUp::Terminate => Signal::SIGTERM,
                CleanUp::Kill => Signal::SIGKILL,
            };
            for process in &remaining {
                let _ = process.signal(signal as i32);
            }
            if let Some(first) = remaining.first().copied() {
                self.notify_on_exit(first);
            }
            let remaining = remaining.into_iter().map(|process| process.pid).collect();
            let event = InstanceEvent::TreeChecked { run: run.number, remaining };
            let _ = self.queue.send(Input::InstanceEvent { instance: run.instance, event });
        }
    }

    /// Waiting for one of the remaining processes is enough: after its exit, all are checked again.
    fn notify_on_exit(&self, process: ProcessRef) {
        let queue = self.queue.clone();
        tokio::task::spawn_local(async move {
            process.wait_exit().await;
            let _ = queue.send(Input::OrphanExited);
        });
    }
}

fn process_ref(process: RunProcess) -> ProcessRef {
    ProcessRef { pid: process.pid, start_time: process.start_time }
}
