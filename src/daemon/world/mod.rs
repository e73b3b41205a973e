//! Performs for real what the supervisor decides.

pub(super) mod cron;
pub(super) mod keeper_link;
pub(super) mod keeper_mirror;
pub(super) mod limits;
pub(super) mod node_channel;
pub(super) mod notify_socket;
pub(super) mod ports;
pub(super) mod probes;
pub(super) mod starter;
pub(super) mod state_writer;
pub(super) mod triggers;
pub(super) mod usage;
pub(super) mod watch;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{broadcast, mpsc};

use crate::daemon::recovery;
use crate::daemon::supervisor::Input;
use crate::daemon::supervisor::world::{Clock, EventSink, Persistence, PortControl, ProcessControl};
use crate::daemon::world::keeper_link::{AttachedRun, KeeperLink};
use crate::daemon::world::limits::ResourceLimiter;
use crate::daemon::world::node_channel::NodeChannels;
use crate::daemon::world::ports::PortSharing;
use crate::daemon::world::probes::Probes;
use crate::daemon::world::starter::RunStarter;
use crate::daemon::world::state_writer::StateWriter;
use crate::daemon::world::triggers::Triggers;
use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::launch;
use crate::instance::state::{CleanUp, RunProcess};
use crate::instance::status::RunId;
use crate::ipc::message::{EventKind, EventView};
use crate::keeper::protocol::{FdRole, KeeperRequest};
use crate::logs::LogHandle;
use crate::paths::{self, Home};
use crate::process::memfd;
use crate::process::process_ref::ProcessRef;
use crate::process::signal;
use crate::process::tree::{self, EndedRun, OrphanScope};
use crate::time::Moment;

/// State that nobody waits for is saved after a pause of this many times what the last save took,
/// so that saving takes no more than a twentieth of the time.
const SAVE_INTERVAL_FACTOR: u32 = 20;

/// How long the last lines of a run may take before the keeper lets go of its pipes.
const LOG_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The real world.
pub struct SystemWorld {
    home: Home,
    keeper: KeeperLink,
    keeper_pid: i32,
    logs: LogHandle,
    starter: RunStarter,
    saver: StateWriter,
    queue: mpsc::UnboundedSender<Input>,
    events: broadcast::Sender<EventView>,
    triggers: Triggers,
    ports: Rc<RefCell<PortSharing>>,
    probes: Probes,
    /// Leaders that live, by run.
    leaders: HashMap<RunId, i32>,
    /// What to look for, and whether to kill it. A run asked for twice is looked for once: its
    /// second answer would find the first one's gone.
    cleanups: BTreeMap<RunId, (RunProcess, CleanUp)>,
    /// How the orphans of runs are found that the keeper is not the parent of.
    foreign_runs: HashMap<RunId, OrphanScope>,
    /// Runs that are over, to be let go of once that is saved.
    finished_runs: Vec<RunId>,
    next_save: Option<Instant>,
    save_pending: bool,
}

/// The ways out of the supervisor's loop.
pub struct WorldParts {
    /// Where files lie.
    pub home: Home,
    /// The keeper.
    pub keeper: KeeperLink,
    /// Its pid.
    pub keeper_pid: i32,
    /// The log thread.
    pub logs: LogHandle,
    /// Writes files.
    pub saver: StateWriter,
    /// Back into the loop.
    pub queue: mpsc::UnboundedSender<Input>,
    /// Who wants to know what happens.
    pub events: broadcast::Sender<EventView>,
    /// Shared ports.
    pub ports: PortSharing,
    /// Node's channels.
    pub channels: NodeChannels,
    /// Hard limits.
    pub limiter: ResourceLimiter,
}

impl SystemWorld {
    /// A world with these ways out of it.
    pub fn new(ways: WorldParts) -> Self {
        let WorldParts { home, keeper, keeper_pid, logs, saver, queue, events, ports, channels, limiter } =
            ways;
        let ports = Rc::new(RefCell::new(ports));
        let starter = RunStarter {
            home: home.clone(),
            keeper: keeper.clone(),
            logs: logs.clone(),
            queue: queue.clone(),
            ports: ports.clone(),
            notify_listeners: Rc::default(),
            channels: channels.clone(),
            limiter,
        };
        let checks = Probes::new(home.clone(), queue.clone(), ports.clone());
        let triggers = Triggers::new(queue.clone());
        Self {
            home,
            keeper,
            keeper_pid,
            logs,
            starter,
            saver,
            queue,
            events,
            triggers,
            ports,
            probes: checks,
            leaders: HashMap::new(),
            cleanups: BTreeMap::new(),
            foreign_runs: HashMap::new(),
            finished_runs: Vec::new(),
            next_save: None,
            save_pending: false,
        }
    }

    /// Notes that a run of this number may have left orphans that are not the keeper's children.
    pub fn set_orphan_scope(&mut self, run: RunId, orphans: OrphanScope) {
        self.foreign_runs.insert(run, orphans);
    }

    /// Takes up the output pipes of a run that a former daemon began.
    pub fn adopt(&mut self, instance: &Instance, kept: AttachedRun) {
        self.leaders.insert(kept.run, kept.process.pid);
        let (mut out, mut err, mut notifier, mut voices) = (None, None, None, Vec::new());
        for (role, fd) in kept.fds {
            match role {
                FdRole::Stdout => out = Some(fd),
                FdRole::Stderr => err = Some(fd),
                FdRole::Notifier => notifier = Some(fd),
                role => voices.push((role, fd)),
            }
        }
        if let (Some(out), Some(err)) = (out, err) {
            self.starter.attach_logs(instance, kept.run, out, err);
        }
        self.ports.borrow_mut().run_started(kept.run, instance, notifier);
        voices
            .into_iter()
            .for_each(|(role, voice)| self.starter.attach_control_socket(kept.run, instance, role, voice));
        self.probes.start(kept.run, instance, self.starter.watchdog_pings(kept.run));
    }

    /// Makes the apps known whose ports are shared, before their runs are.
    pub fn apps(&mut self, instances: &BTreeMap<u32, Instance>) {
        self.ports.borrow_mut().follow(instances);
    }

    /// All runs that were there before this daemon are adopted.
    pub fn recovery_complete(&self) {
        self.ports.borrow().recovery_complete();
    }

    fn send_event(&self, run: RunId, event: InstanceEvent) {
        let _ = self.queue.send(Input::InstanceEvent { instance: run.instance, event });
    }

    /// One look at the processes serves all that were asked for.
    fn run_cleanups(&mut self) {
        let asked = std::mem::take(&mut self.cleanups);
        if asked.is_empty() {
            return;
        }
        for run in asked.keys() {
            self.leaders.remove(run);
        }
        let leaders: HashSet<i32> = self.leaders.values().copied().collect();
        let runs: Vec<EndedRun> = asked
            .iter()
            .map(|(run, (process, _))| EndedRun {
                run: run.to_u64(),
                leader: process_ref(*process),
                orphans: self.foreign_runs.get(run).copied().unwrap_or(OrphanScope::KeeperChildren),
            })
            .collect();
        let mut found =
            tree::find_remaining(self.keeper_pid, &runs, &launch::run_marker(&self.home), &leaders);
        for (run, (_, mode)) in asked {
            let left = found.remove(&run.to_u64()).unwrap_or_default();
            let signal = match mode {
                CleanUp::Kill => Signal::SIGKILL,
                CleanUp::Terminate => Signal::SIGTERM,
            };
            for process in &left {
                let _ = process.signal(signal as i32);
            }
            if let Some(first) = left.first().copied() {
                self.notify_on_exit(first);
            }
            let left = left.into_iter().map(|process| process.pid).collect();
            self.send_event(run, InstanceEvent::TreeChecked { run: run.number, remaining: left });
        }
    }

    /// One of those that are left is enough: when it has ended the rest is looked for again.
    fn notify_on_exit(&self, process: ProcessRef) {
        let queue = self.queue.clone();
        tokio::task::spawn_local(async move {
            process.wait_exit().await;
            let _ = queue.send(Input::OrphanExited);
        });
    }

    /// Only once its end is on record and its last line written: until then the keeper's copy is
    /// what another daemon would need.
    fn release_run_resources(&self, run: RunId) {
        let (keeper, logs) = (self.keeper.clone(), self.logs.clone());
        tokio::task::spawn_local(async move {
            // A process that nobody found may hold the pipe for ever; it is read all the same.
            let _ = tokio::time::timeout(LOG_DRAIN_TIMEOUT, logs.wait_closed(run.to_u64())).await;
            keeper.send(KeeperRequest::Release { run: run.to_u64() }, Vec::new());
        });
    }

    fn pid_file(&self, instance: &Instance) -> std::path::PathBuf {
        pid_file(instance, &self.home)
    }
}

fn process_ref(process: RunProcess) -> ProcessRef {
    ProcessRef { pid: process.pid, start_time: process.start_time }
}

/// Where the pid of an instance is written.
pub fn pid_file(instance: &Instance, home: &Home) -> std::path::PathBuf {
    let name = || home.pids().join(format!("{}.pid", paths::sanitize_file_name(&instance.spec().name)));
    let base = instance.spec().pid_file.clone().unwrap_or_else(name);
    paths::with_instance_id(&base, instance.id())
}

impl Clock for SystemWorld {
    fn now(&self) -> Moment {
        crate::time::now()
    }

    fn set_timer(&mut self, instance: u32, at: u64) {
        let queue = self.queue.clone();
        let left = Duration::from_millis(at.saturating_sub(crate::time::now().mono));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(left).await;
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
        // One that cannot be told in words gets the signal.
        if spec.by_message && self.starter.channels.send(run, &"shutdown".into()).is_ok() {
            return;
        }
        let number = signal::parse(&spec.signal).unwrap_or(libc::SIGINT);
        let members = if spec.whole_tree { tree::tree_members(process_ref(process)) } else { Vec::new() };
        self.keeper.send(
            KeeperRequest::Signal { run: run.to_u64(), signal: number, group: spec.whole_tree },
            Vec::new(),
        );
        // Those that left the process group are not reached by the keeper's signal.
        for member in members.into_iter().filter(|member| member.group != process.pid) {
            let _ = member.process.signal(number);
        }
    }

    fn kill(&mut self, run: RunId, process: RunProcess) {
        let members = tree::tree_members(process_ref(process));
        self.keeper.send(
            KeeperRequest::Signal { run: run.to_u64(), signal: libc::SIGKILL, group: true },
            Vec::new(),
        );
        for member in members.into_iter().filter(|member| member.group != process.pid) {
            let _ = member.process.signal(libc::SIGKILL);
        }
    }

    fn clean_up_tree(&mut self, run: RunId, process: RunProcess, mode: CleanUp) {
        let request = self.cleanups.entry(run).or_insert((process, mode));
        request.1 = request.1.max(mode);
    }

    fn signal(&mut self, run: RunId, number: i32) {
        self.keeper
            .send(KeeperRequest::Signal { run: run.to_u64(), signal: number, group: false }, Vec::new());
    }

    fn release_run(&mut self, run: RunId) {
        self.foreign_runs.remove(&run);
        self.ports.borrow_mut().run_ended(run);
        self.probes.stop(run);
        self.starter.detach_control_socket(run);
        self.starter.limiter.release(run);
        self.finished_runs.push(run);
    }

    fn on_run_started(&mut self, instance: &Instance) {
        if let Some(process) = instance.status().state.process() {
            let run = RunId { instance: instance.id(), number: process.run };
            self.leaders.insert(run, process.pid);
            self.ports.borrow_mut().run_started(run, instance, None);
            self.probes.start(run, instance, self.starter.watchdog_pings(run));
        }
    }

    fn flush(&mut self) {
        self.run_cleanups();
    }
}

impl PortControl for SystemWorld {
    fn drain(&mut self, run: RunId) {
        let (drained, queue) = (self.ports.borrow().wait_drained(run), self.queue.clone());
        tokio::task::spawn_local(async move {
            let _ = drained.await; // an engine that has ended keeps nobody waiting
            let event = InstanceEvent::Drained { run: run.number };
            let _ = queue.send(Input::InstanceEvent { instance: run.instance, event });
        });
    }

    fn pause_traffic(&mut self, run: RunId) {
        self.ports.borrow().drain(run);
    }

    fn on_ready(&mut self, run: RunId) {
        self.ports.borrow().ready(run);
    }

    fn missing_ports(&self, old: RunId, new: RunId) -> Vec<String> {
        self.ports.borrow().registry().missing(old, new)
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
            if !std::mem::replace(&mut self.save_pending, true) {
                let queue = self.queue.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep_until(at.into()).await;
                    let _ = queue.send(Input::SaveDue);
                });
            }
            return false;
        }
        self.save_pending = false;
        let state = state();
        // The keeper's copy is there at once, whatever the disk does.
        match memfd::with_contents(c"rsm-state", &state) {
            Ok(copy) => self.keeper.send(
                KeeperRequest::StoreFd { name: recovery::STATE_NAME.to_owned() },
                vec![(FdRole::Stored, copy.into())],
            ),
            Err(errno) => tracing::warn!("cannot store the state with the keeper: {errno}"),
        }
        self.saver.state(self.home.state(), state);
        for run in std::mem::take(&mut self.finished_runs) {
            self.release_run_resources(run);
        }
        self.next_save = Some(Instant::now() + begin.elapsed() * SAVE_INTERVAL_FACTOR);
        true
    }

    fn write_pid_file(&mut self, instance: &Instance, pid: Option<i32>) {
        self.saver.pid(self.pid_file(instance), pid);
    }
}

impl EventSink for SystemWorld {
    fn publish(&mut self, event: EventView) {
        if event.event == EventKind::StartFailed {
            let run = RunId { instance: event.id, number: event.run };
            self.starter.detach_control_socket(run);
            self.starter.limiter.release(run);
            self.ports.borrow_mut().run_ended(run);
        }
        tracing::info!(app = %event.name, id = event.id, "{}", event_text(&event));
        let _ = self.events.send(event); // nobody may be listening
    }

    fn on_apps_changed(&mut self, instances: &BTreeMap<u32, Instance>) {
        self.triggers.update(instances, &self.home);
        self.ports.borrow_mut().follow(instances);
    }
}

fn event_text(event: &EventView) -> String {
    let status = event.status.as_str();
    let detail = event.detail.iter().map(|detail| format!(": {detail}"));
    let exit = event.exit.iter().map(|exit| format!(": {exit}"));
    format!("{:?} (run {}, {status}){}", event.event, event.run, exit.chain(detail).collect::<String>())
}
