//! The real world of the supervisor: performs its effects on processes, ports, files and the keeper.
//!
//! Nothing here blocks the loop. Whatever takes time runs in a task or a thread, and its result returns as an
//! [`Input`].

mod cleanup;
pub(super) mod cluster_events;
mod cron;
pub(super) mod keeper_link;
mod keeper_mirror;
pub(super) mod limits;
pub(super) mod node_channel;
mod notify_socket;
pub(super) mod pid_file;
pub(super) mod port_registry;
pub(super) mod ports;
mod probes;
mod starter;
pub(super) mod state_writer;
mod stop_signals;
mod triggers;
pub(super) mod usage;
mod watch;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc};

use crate::daemon::supervisor::Input;
use crate::daemon::supervisor::world::{Clock, EventSink, Persistence, PortControl, ProcessControl};
use crate::daemon::world::cleanup::TreeCleanup;
use crate::daemon::world::keeper_link::{AttachedRun, KeeperLink, STATE_FD_NAME};
use crate::daemon::world::limits::ResourceLimiter;
use crate::daemon::world::node_channel::NodeChannels;
use crate::daemon::world::pid_file::pid_file;
use crate::daemon::world::ports::PortSharing;
use crate::daemon::world::probes::Probes;
use crate::daemon::world::starter::RunStarter;
use crate::daemon::world::state_writer::StateWriter;
use crate::daemon::world::stop_signals::StopSignals;
use crate::daemon::world::triggers::Triggers;
use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::state::{CleanUp, RunProcess};
use crate::instance::status::RunId;
use crate::ipc::message::{EventKind, EventView};
use crate::keeper::protocol::{FdRole, KeeperRequest};
use crate::logs::LogHandle;
use crate::paths::Home;
use crate::process::memfd;
use crate::process::tree::{self, Activity, OrphanScope};
use crate::secure_fs::FileUser;
use crate::spec::StopPolicy;
use crate::time::{self, Moment};

/// State that no reply waits for is saved again after this many times the duration of the last save, so that
/// saving takes at most 5 % of the time.
const SAVE_INTERVAL_FACTOR: u32 = 20;

/// How long the last lines of a run may take before the keeper closes its copies of the pipes.
const LOG_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Performs effects on the system.
pub struct SystemWorld {
    home: Home,
    keeper: KeeperLink,
    logs: LogHandle,
    starter: RunStarter,
    state_writer: StateWriter,
    queue: mpsc::UnboundedSender<Input>,
    events: broadcast::Sender<EventView>,
    triggers: Triggers,
    ports: Rc<RefCell<PortSharing>>,
    probes: Probes,
    cleanup: TreeCleanup,
    /// Ended runs, to be released after the next save.
    finished_runs: Vec<RunId>,
    next_save: Option<Instant>,
    save_pending: bool,
}

/// What a [`SystemWorld`] is made of.
pub struct WorldParts {
    pub home: Home,
    pub keeper: KeeperLink,
    pub keeper_pid: i32,
    pub logs: LogHandle,
    pub state_writer: StateWriter,
    pub queue: mpsc::UnboundedSender<Input>,
    pub events: broadcast::Sender<EventView>,
    pub ports: PortSharing,
    pub node_channels: NodeChannels,
    pub limiter: ResourceLimiter,
}

impl SystemWorld {
    pub fn new(parts: WorldParts) -> Self {
        let WorldParts { home, keeper, keeper_pid, logs, state_writer, queue, events, .. } = parts;
        let ports = Rc::new(RefCell::new(parts.ports));
        let starter = RunStarter {
            home: home.clone(),
            keeper: keeper.clone(),
            logs: logs.clone(),
            queue: queue.clone(),
            ports: ports.clone(),
            notify_listeners: Rc::default(),
            node_channels: parts.node_channels,
            limiter: parts.limiter,
        };
        let probes = Probes::new(home.clone(), queue.clone(), ports.clone());
        let triggers = Triggers::new(queue.clone());
        let cleanup =
            TreeCleanup::new(home.clone(), keeper_pid, StopSignals::new(keeper.clone()), queue.clone());
        Self {
            home,
            keeper,
            logs,
            starter,
            state_writer,
            queue,
            events,
            triggers,
            ports,
            probes,
            cleanup,
            finished_runs: Vec::new(),
            next_save: None,
            save_pending: false,
        }
    }

    /// Sets where to look for orphans of a run, if not among the children of the keeper.
    pub fn set_orphan_scope(&mut self, run: RunId, scope: OrphanScope) {
        self.cleanup.set_orphan_scope(run, scope);
    }

    /// Connects to a run that a previous daemon started: its output pipes, sockets, ports and probes.
    pub fn adopt(&mut self, instance: &Instance, attached: AttachedRun) {
        let AttachedRun { run, process, fds, .. } = attached;
        self.cleanup.run_started(run, process.pid);
        let (mut out, mut err, mut notifier, mut control_sockets) = (None, None, None, Vec::new());
        for (role, fd) in fds {
            match role {
                FdRole::Stdout => out = Some(fd),
                FdRole::Stderr => err = Some(fd),
                FdRole::Notifier => notifier = Some(fd),
                role => control_sockets.push((role, fd)),
            }
        }
        match (out, err) {
            (Some(out), Some(err)) => self.starter.attach_logs(instance, run, out, err),
            // The app blocked the call that reopens its pipes.
            _ => self.starter.attach_logs_later(instance, run, process),
        }
        self.ports.borrow_mut().run_started(run, instance, notifier);
        for (role, socket) in control_sockets {
            self.starter.attach_control_socket(run, instance, role, socket);
        }
        self.probes.start(run, instance, self.starter.watchdog_pings(run));
    }

    /// Passes the apps that share ports to the cluster. Must come before their runs are adopted.
    pub fn set_apps(&mut self, instances: &BTreeMap<u32, Instance>) {
        self.ports.borrow_mut().update(instances);
    }

    /// Reports that all runs of the previous daemon are adopted.
    pub fn recovery_complete(&self) {
        self.ports.borrow().recovery_complete();
    }

    /// Closes the control sockets and ports of a run, and removes its limits with the processes in its cgroup.
    fn close_run(&mut self, run: RunId, remove_limits: bool) {
        self.starter.detach_control_socket(run);
        if remove_limits {
            self.starter.limiter.release(run);
        }
        self.ports.borrow_mut().run_ended(run);
    }

    /// Releases the keeper's copies after the last line was captured: until then, the next daemon would need
    /// them.
    fn release_in_keeper(&self, run: RunId) {
        let (keeper, logs) = (self.keeper.clone(), self.logs.clone());
        tokio::task::spawn_local(async move {
            // A process that was not found can hold the pipe open forever; capture continues without the copy.
            let _ = tokio::time::timeout(LOG_DRAIN_TIMEOUT, logs.wait_closed(run.to_u64())).await;
            keeper.send(KeeperRequest::Release { run: run.to_u64() }, Vec::new());
        });
    }

    /// Requests the save that was postponed, unless that is already done.
    fn schedule_save(&mut self, at: Instant) {
        if !std::mem::replace(&mut self.save_pending, true) {
            let queue = self.queue.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep_until(at.into()).await;
                let _ = queue.send(Input::SaveDue);
            });
        }
    }
}

impl Clock for SystemWorld {
    fn now(&self) -> Moment {
        time::now()
    }

    fn set_timer(&mut self, instance: u32, at: u64) {
        let queue = self.queue.clone();
        let delay = Duration::from_millis(at.saturating_sub(time::now().mono));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(delay).await;
            let _ = queue.send(Input::InstanceEvent { instance, event: InstanceEvent::TimerFired { at } });
        });
    }
}

impl ProcessControl for SystemWorld {
    fn spawn(&mut self, run: RunId, instance: &Instance) {
        let (starter, instance, queue) = (self.starter.clone(), instance.clone(), self.queue.clone());
        tokio::task::spawn_local(async move {
            if let Err(failure) = starter.start(run, &instance).await {
                let event = InstanceEvent::SpawnFailed { run: run.number, failure };
                let _ = queue.send(Input::InstanceEvent { instance: run.instance, event });
            }
        });
    }

    fn stop(&mut self, run: RunId, process: RunProcess, instance: &Instance) {
        self.ports.borrow().drain(run);
        let spec = &instance.spec().stop;
        self.starter.node_channels.disconnect_when_idle(run, process.reference());
        // The signal follows if the message cannot be sent.
        if spec.by_message && self.starter.node_channels.send(run, &"shutdown".into()).is_ok() {
            return;
        }
        self.cleanup.signals().stop(run, process, spec);
    }

    fn kill(&mut self, run: RunId, process: RunProcess, policy: &StopPolicy) {
        self.cleanup.signals().kill(run, process, policy);
    }

    fn clean_up_tree(&mut self, run: RunId, process: RunProcess, mode: CleanUp, policy: &StopPolicy) {
        self.cleanup.request(run, process, mode, policy);
    }

    fn signal(&mut self, run: RunId, number: i32) {
        self.cleanup.signals().signal_leader(run, number);
    }

    fn activity(&self, process: RunProcess) -> Activity {
        tree::activity(process.reference())
    }

    fn release_run(&mut self, run: RunId) {
        // Removing the cgroup would kill what the run leaves.
        self.close_run(run, !self.cleanup.leaves_processes(run));
        self.cleanup.run_ended(run);
        self.probes.stop(run);
        self.finished_runs.push(run);
    }

    fn on_run_started(&mut self, instance: &Instance) {
        if let Some(process) = instance.status().state.process() {
            let run = RunId { instance: instance.id(), number: process.run };
            self.cleanup.run_started(run, process.pid);
            self.ports.borrow_mut().run_started(run, instance, None);
            self.probes.start(run, instance, self.starter.watchdog_pings(run));
        }
    }

    fn flush(&mut self) {
        self.cleanup.run_requests();
    }
}

impl PortControl for SystemWorld {
    fn drain(&mut self, run: RunId) {
        let (drained, queue) = (self.ports.borrow().wait_drained(run), self.queue.clone());
        tokio::task::spawn_local(async move {
            let _ = drained.await; // fails if the cluster has ended, which also ends the drain
            let event = InstanceEvent::Drained { run: run.number };
            let _ = queue.send(Input::InstanceEvent { instance: run.instance, event });
        });
    }

    fn pause_traffic(&mut self, run: RunId) {
        self.ports.borrow().drain(run);
    }

    fn on_ready(&mut self, run: RunId) {
        self.ports.borrow().set_ready(run);
    }

    fn missing_ports(&self, old: RunId, new: RunId) -> Vec<String> {
        self.ports.borrow().registry().missing(old, new)
    }

    fn has_only_unix_sockets(&self, run: RunId) -> bool {
        self.ports.borrow().registry().has_only_unix_sockets(run)
    }

    fn port_warnings(&self, last: RunId) -> Vec<String> {
        self.ports.borrow().registry().warnings(last.instance, last.number.saturating_add(1))
    }

    fn on_slot_idle(&mut self, instance: &Instance) {
        self.ports.borrow().on_slot_idle(instance);
    }
}

impl Persistence for SystemWorld {
    fn save(&mut self, urgent: bool, state: &dyn Fn() -> Vec<u8>) -> bool {
        let begin = Instant::now();
        if let (Some(at), false) = (self.next_save.filter(|at| *at > begin), urgent) {
            self.schedule_save(at);
            return false;
        }
        self.save_pending = false;
        let state = state();
        // The copy in the keeper is complete at once, however slow the disk is.
        match memfd::with_contents(c"rsm-state", &state) {
            Ok(copy) => self.keeper.send(
                KeeperRequest::StoreFd { name: STATE_FD_NAME.to_owned() },
                vec![(FdRole::Stored, copy.into())],
            ),
            Err(errno) => tracing::warn!("cannot store the state in the keeper: {errno}"),
        }
        self.state_writer.write_state(self.home.state(), state);
        for run in std::mem::take(&mut self.finished_runs) {
            self.release_in_keeper(run);
        }
        self.next_save = Some(Instant::now() + begin.elapsed() * SAVE_INTERVAL_FACTOR);
        true
    }

    fn write_pid_file(&mut self, instance: &Instance, pid: Option<i32>) {
        let user = FileUser::of(instance.spec().account.as_ref());
        self.state_writer.write_pid_file(pid_file(instance, &self.home), pid, user);
    }
}

impl EventSink for SystemWorld {
    fn publish(&mut self, event: EventView) {
        if event.event == EventKind::StartFailed {
            self.close_run(RunId { instance: event.id, number: event.run }, true);
        }
        tracing::info!(app = %event.name, id = event.id, "{}", event_text(&event));
        let _ = self.events.send(event); // fails without subscribers
    }

    fn on_apps_changed(&mut self, instances: &BTreeMap<u32, Instance>) {
        let users = instances.values().filter_map(|instance| Some(instance.spec().account.as_ref()?.uid));
        self.cleanup.set_users(users.collect());
        self.triggers.update(instances, &self.home);
        self.ports.borrow_mut().update(instances);
    }
}

fn event_text(event: &EventView) -> String {
    let status = event.status.as_str();
    let detail = event.detail.iter().map(|detail| format!(": {detail}"));
    let exit = event.exit.iter().map(|exit| format!(": {exit}"));
    format!("{:?} (run {}, {status}){}", event.event, event.run, exit.chain(detail).collect::<String>())
}
