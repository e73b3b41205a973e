//! Cleanup of process trees: signals the processes that remain of ended runs.
//!
//! All requests of a batch share one scan of the system's processes.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::daemon::supervisor::Input;
use crate::daemon::world::stop_signals::{self, StopSignals};
use crate::instance::event::InstanceEvent;
use crate::instance::launch;
use crate::instance::state::{CleanUp, RunProcess};
use crate::instance::status::RunId;
use crate::paths::Home;
use crate::process::proc::stat;
use crate::process::process_ref::ProcessRef;
use crate::process::tree::{self, EndedRun, OrphanScope, TreeMember};
use crate::spec::{KillMode, StopPolicy};

/// How long a run waits for a process that is exiting. Longer than the time after which SIGKILL is reported to have had
/// no effect.
const EXIT_TIMEOUT: Duration = Duration::from_secs(8);

/// The same for an exiting process whose run cannot be determined.
const UNASSIGNED_EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the time of an exiting process is remembered.
const EXITING_MEMORY: Duration = Duration::from_secs(60);

/// Maximum number of processes of a run whose exits are awaited at the same time.
const MAX_AWAITED: usize = 64;

/// A run to clean up.
struct CleanupRequest {
    process: RunProcess,
    mode: CleanUp,
    policy: StopPolicy,
}

/// The cleanups of all runs.
pub struct TreeCleanup {
    home: Home,
    keeper_pid: i32,
    signals: StopSignals,
    queue: mpsc::UnboundedSender<Input>,
    /// Pids of the running leaders, which no cleanup touches.
    leaders: HashMap<RunId, i32>,
    /// Requests of this batch. A run that is requested twice is scanned once: a second scan would report
    /// processes that the first one killed.
    requests: BTreeMap<RunId, CleanupRequest>,
    /// Runs whose orphans may not be children of the keeper.
    orphan_scopes: HashMap<RunId, OrphanScope>,
    /// The users as whom apps run.
    users: HashSet<u32>,
    /// Runs that leave processes running.
    leaving: HashSet<RunId>,
    /// When processes were first seen that are exiting and do not end.
    exiting_since: HashMap<ProcessRef, Instant>,
    /// Remaining processes whose exits are awaited.
    awaited: Rc<RefCell<HashSet<ProcessRef>>>,
}

impl TreeCleanup {
    pub fn new(
        home: Home,
        keeper_pid: i32,
        signals: StopSignals,
        queue: mpsc::UnboundedSender<Input>,
    ) -> Self {
        Self {
            home,
            keeper_pid,
            signals,
            queue,
            leaders: HashMap::new(),
            requests: BTreeMap::new(),
            orphan_scopes: HashMap::new(),
            users: HashSet::new(),
            leaving: HashSet::new(),
            exiting_since: HashMap::new(),
            awaited: Rc::default(),
        }
    }

    /// Sends signals to runs.
    pub fn signals(&mut self) -> &mut StopSignals {
        &mut self.signals
    }

    /// Sets where to look for orphans of a run, if not among the children of the keeper.
    pub fn set_orphan_scope(&mut self, run: RunId, scope: OrphanScope) {
        self.orphan_scopes.insert(run, scope);
    }

    /// Sets the users as whom apps run.
    pub fn set_users(&mut self, users: HashSet<u32>) {
        self.users = users;
    }

    pub fn run_started(&mut self, run: RunId, pid: i32) {
        self.leaders.insert(run, pid);
    }

    /// Whether an ended run may have left processes running, as its policy says.
    pub fn leaves_processes(&self, run: RunId) -> bool {
        self.leaving.contains(&run)
    }

    pub fn run_ended(&mut self, run: RunId) {
        self.leaving.remove(&run);
        self.orphan_scopes.remove(&run);
        self.signals.run_ended(run);
    }

    /// Requests the cleanup of a run at the end of the batch.
    pub fn request(&mut self, run: RunId, process: RunProcess, mode: CleanUp, policy: &StopPolicy) {
        if policy.mode == KillMode::Main {
            self.leaving.insert(run);
        }
        let new = || CleanupRequest { process, mode, policy: policy.clone() };
        let request = self.requests.entry(run).or_insert_with(new);
        if mode == CleanUp::Kill {
            request.mode = mode;
        }
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
            leader: request.process.reference(),
            orphans: self.orphan_scopes.get(run).copied().unwrap_or(OrphanScope::KeeperChildren),
        };
        let runs: Vec<EndedRun> = requests.iter().map(ended_run).collect();
        let mut found = tree::find_remaining(
            self.keeper_pid,
            &runs,
            &launch::run_marker(&self.home),
            &leaders,
            &self.users,
        );
        for (run, request) in requests {
            let (leader, policy) = (request.process.reference(), &request.policy);
            let mut remaining = found.remove(&run.to_u64()).unwrap_or_default();
            remaining.retain(|member| stop_signals::is_in_scope(member, leader, policy));
            remaining.retain(|member| self.must_wait_for(member, request.mode));
            // Programs that put themselves into the background create their own session.
            let background = remaining.iter().find(|member| member.session != leader.pid);
            let background = background.map(|member| stat::comm(member.process.pid));
            let awaited = match request.mode {
                CleanUp::Terminate => {
                    let members: Vec<TreeMember> =
                        remaining.iter().filter(|member| member.is_assigned).copied().collect();
                    self.signals.stop_remaining(run, &members, policy)
                }
                CleanUp::Kill => {
                    for member in remaining.iter().filter(|member| member.is_assigned) {
                        let _ = member.process.signal(libc::SIGKILL);
                    }
                    Vec::new()
                }
            };
            self.notify_on_exit(&awaited, &remaining);
            let remaining = remaining.into_iter().map(|member| member.process.pid).collect();
            let event = InstanceEvent::TreeChecked { run: run.number, remaining, background };
            let _ = self.queue.send(Input::InstanceEvent { instance: run.instance, event });
        }
    }

    /// A process that is exiting executes no program any more. If it does not end, for example because the kernel waits
    /// for a dead disk, the run ends without it after a time. A run to which it may not even belong waits less.
    fn must_wait_for(&mut self, member: &TreeMember, mode: CleanUp) -> bool {
        if member.is_assigned && !member.is_exiting {
            return true;
        }
        let now = Instant::now();
        self.exiting_since.retain(|process, since| now < *since + EXITING_MEMORY || process.is_running());
        let limit = if member.is_assigned { EXIT_TIMEOUT } else { UNASSIGNED_EXIT_TIMEOUT };
        if !self.exiting_since.contains_key(&member.process) {
            self.check_again_in(limit);
        }
        let since = *self.exiting_since.entry(member.process).or_insert(now);
        let is_overdue = now >= since + limit && (mode == CleanUp::Kill || !member.is_assigned);
        if is_overdue {
            let pid = member.process.pid;
            tracing::warn!(pid, "the kernel does not end this exiting process; no run waits for it any more");
        }
        !is_overdue
    }

    fn check_again_in(&self, delay: Duration) {
        let queue = self.queue.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(delay).await;
            let _ = queue.send(Input::OrphanExited);
        });
    }

    /// Waits for the exit of the processes after which others are signaled, or of any one: after each exit, all are
    /// checked again.
    fn notify_on_exit(&self, handling: &[ProcessRef], remaining: &[TreeMember]) {
        let any = remaining.first().map(|member| member.process);
        let processes: Vec<ProcessRef> = match handling {
            [] => any.into_iter().collect(),
            handling => handling.iter().copied().take(MAX_AWAITED).collect(),
        };
        for process in processes {
            if !self.awaited.borrow_mut().insert(process) {
                continue;
            }
            let (queue, awaited) = (self.queue.clone(), self.awaited.clone());
            tokio::task::spawn_local(async move {
                process.wait_exit().await;
                awaited.borrow_mut().remove(&process);
                let _ = queue.send(Input::OrphanExited);
            });
        }
    }
}
