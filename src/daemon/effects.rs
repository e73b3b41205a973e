//! Performs for real what the supervisor decides.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{broadcast, mpsc};

use super::keeper_link::{KeeperLink, KeptRun};
use super::launch;
use super::limits::Limiter;
use super::node::Channels;
use super::ports::Ports;
use super::probe::Checks;
use super::restore;
use super::saver::Saver;
use super::start::Starter;
use super::supervisor::Input;
use super::triggers::Triggers;
use super::world::World;
use crate::instance::Instance;
use crate::instance::event::Event;
use crate::instance::life::RunId;
use crate::instance::state::Process;
use crate::ipc::message::{EventKind, EventView};
use crate::keeper::protocol::{FdRole, KeeperRequest};
use crate::logs::Logs;
use crate::paths::{self, Home};
use crate::process::memfd;
use crate::process::process_ref::ProcessRef;
use crate::process::signal;
use crate::process::tree::{self, EndedRun, OrphanScope};
use crate::time::Moment;

/// State that nobody waits for is saved after a pause of this many times what the last save took,
/// so that saving takes no more than a twentieth of the time.
const SAVE_PAUSE: u32 = 20;

/// How long the last lines of a run may take before the keeper lets go of its pipes.
const LAST_LINES: Duration = Duration::from_secs(5);

/// The real world.
pub struct Effects {
    home: Home,
    keeper: KeeperLink,
    keeper_pid: i32,
    logs: Logs,
    starter: Starter,
    saver: Saver,
    queue: mpsc::UnboundedSender<Input>,
    events: broadcast::Sender<EventView>,
    triggers: Triggers,
    ports: Rc<RefCell<Ports>>,
    checks: Checks,
    /// Leaders that live, by run.
    leaders: HashMap<RunId, i32>,
    /// What to look for, and whether to kill it. A run asked for twice is looked for once: its
    /// second answer would find the first one's gone.
    sweeps: BTreeMap<RunId, (Process, bool)>,
    /// How the orphans of runs are found that the keeper is not the parent of.
    foreign: HashMap<RunId, OrphanScope>,
    /// Runs that are over, to be let go of once that is saved.
    over: Vec<RunId>,
    next_save: Option<Instant>,
    save_asked: bool,
}

/// The ways out of the supervisor's loop.
pub struct Ways {
    /// Where files lie.
    pub home: Home,
    /// The keeper.
    pub keeper: KeeperLink,
    /// Its pid.
    pub keeper_pid: i32,
    /// The log thread.
    pub logs: Logs,
    /// Writes files.
    pub saver: Saver,
    /// Back into the loop.
    pub queue: mpsc::UnboundedSender<Input>,
    /// Who wants to know what happens.
    pub events: broadcast::Sender<EventView>,
    /// Shared ports.
    pub ports: Ports,
    /// Node's channels.
    pub channels: Channels,
    /// Hard limits.
    pub limiter: Limiter,
}

impl Effects {
    /// A world with these ways out of it.
    pub fn new(ways: Ways) -> Self {
        let Ways { home, keeper, keeper_pid, logs, saver, queue, events, ports, channels, limiter } = ways;
        let ports = Rc::new(RefCell::new(ports));
        let starter = Starter {
            home: home.clone(),
            keeper: keeper.clone(),
            logs: logs.clone(),
            queue: queue.clone(),
            ports: ports.clone(),
            notified: Rc::default(),
            channels: channels.clone(),
            limiter,
        };
        let checks = Checks::new(home.clone(), queue.clone(), ports.clone());
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
            checks,
            leaders: HashMap::new(),
            sweeps: BTreeMap::new(),
            foreign: HashMap::new(),
            over: Vec::new(),
            next_save: None,
            save_asked: false,
        }
    }

    /// Notes that a run of this number may have left orphans that are not the keeper's children.
    pub fn foreign(&mut self, run: RunId, orphans: OrphanScope) {
        self.foreign.insert(run, orphans);
    }

    /// Takes up the output pipes of a run that a former daemon began.
    pub fn adopt(&mut self, instance: &Instance, kept: KeptRun) {
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
        self.ports.borrow_mut().began(kept.run, instance, notifier);
        voices.into_iter().for_each(|(role, voice)| self.starter.hear(kept.run, instance, role, voice));
        self.checks.began(kept.run, instance, self.starter.beats(kept.run));
    }

    /// Makes the apps known whose ports are shared, before their runs are.
    pub fn apps(&mut self, instances: &BTreeMap<u32, Instance>) {
        self.ports.borrow_mut().follow(instances);
    }

    /// All runs that were there before this daemon are adopted.
    pub fn all_began(&self) {
        self.ports.borrow().all_began();
    }

    fn fact(&self, run: RunId, event: Event) {
        let _ = self.queue.send(Input::Fact { instance: run.instance, event });
    }

    /// One look at the processes serves all that were asked for.
    fn sweep_all(&mut self) {
        let asked = std::mem::take(&mut self.sweeps);
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
                leader: reference(*process),
                orphans: self.foreign.get(run).copied().unwrap_or(OrphanScope::KeeperChildren),
            })
            .collect();
        let mut found = tree::find_remaining(self.keeper_pid, &runs, &launch::mark(&self.home), &leaders);
        for (run, (_, kill)) in asked {
            let left = found.remove(&run.to_u64()).unwrap_or_default();
            let signal = if kill { Signal::SIGKILL } else { Signal::SIGTERM };
            for process in &left {
                let _ = process.signal(signal as i32);
            }
            if let Some(first) = left.first().copied() {
                self.tell_when_ended(first);
            }
            let left = left.into_iter().map(|process| process.pid).collect();
            self.fact(run, Event::Swept { run: run.number, left });
        }
    }

    /// One of those that are left is enough: when it has ended the rest is looked for again.
    fn tell_when_ended(&self, process: ProcessRef) {
        let queue = self.queue.clone();
        tokio::task::spawn_local(async move {
            process.wait_exit().await;
            let _ = queue.send(Input::OrphanEnded);
        });
    }

    /// Only once its end is on record and its last line written: until then the keeper's copy is
    /// what another daemon would need.
    fn let_go(&self, run: RunId) {
        let (keeper, logs) = (self.keeper.clone(), self.logs.clone());
        tokio::task::spawn_local(async move {
            // A process that nobody found may hold the pipe for ever; it is read all the same.
            let _ = tokio::time::timeout(LAST_LINES, logs.closed(run.to_u64())).await;
            keeper.send(KeeperRequest::Release { run: run.to_u64() }, Vec::new());
        });
    }

    fn pid_file(&self, instance: &Instance) -> std::path::PathBuf {
        pid_file(instance, &self.home)
    }
}

fn reference(process: Process) -> ProcessRef {
    ProcessRef { pid: process.pid, start_time: process.start_time }
}

/// Where the pid of an instance is written.
pub fn pid_file(instance: &Instance, home: &Home) -> std::path::PathBuf {
    let name = || home.pids().join(format!("{}.pid", paths::safe_name(&instance.spec.name)));
    let base = instance.spec.pid_file.clone().unwrap_or_else(name);
    paths::with_id(&base, instance.id)
}

impl World for Effects {
    fn now(&self) -> Moment {
        crate::time::now()
    }

    fn spawn(&mut self, run: RunId, instance: &Instance) {
        let (starter, instance, queue) = (self.starter.clone(), instance.clone(), self.queue.clone());
        tokio::task::spawn_local(async move {
            if let Err(failure) = starter.start(run, &instance).await {
                let event = Event::SpawnFailed { run: run.number, failure };
                let _ = queue.send(Input::Fact { instance: run.instance, event });
            }
        });
    }

    fn stop(&mut self, run: RunId, process: Process, instance: &Instance) {
        self.ports.borrow().quiet(run);
        let spec = &instance.spec.stop;
        // One that cannot be told in words gets the signal.
        if spec.message && self.starter.channels.say(run, &"shutdown".into()).is_ok() {
            return;
        }
        let number = signal::parse(&spec.signal).unwrap_or(libc::SIGINT);
        let members = if spec.tree { tree::tree_members(reference(process)) } else { Vec::new() };
        self.keeper
            .send(KeeperRequest::Signal { run: run.to_u64(), signal: number, group: spec.tree }, Vec::new());
        // Those that left the process group are not reached by the keeper's signal.
        for member in members.into_iter().filter(|member| member.group != process.pid) {
            let _ = member.process.signal(number);
        }
    }

    fn quiet(&mut self, run: RunId) {
        let (drained, queue) = (self.ports.borrow().drained(run), self.queue.clone());
        tokio::task::spawn_local(async move {
            let _ = drained.await; // an engine that has ended keeps nobody waiting
            let event = Event::Drained { run: run.number };
            let _ = queue.send(Input::Fact { instance: run.instance, event });
        });
    }

    fn aside(&mut self, run: RunId) {
        self.ports.borrow().quiet(run);
    }

    fn kill(&mut self, run: RunId, process: Process) {
        let members = tree::tree_members(reference(process));
        self.keeper.send(
            KeeperRequest::Signal { run: run.to_u64(), signal: libc::SIGKILL, group: true },
            Vec::new(),
        );
        for member in members.into_iter().filter(|member| member.group != process.pid) {
            let _ = member.process.signal(libc::SIGKILL);
        }
    }

    fn sweep(&mut self, run: RunId, process: Process, kill: bool) {
        let asked = self.sweeps.entry(run).or_insert((process, kill));
        asked.1 |= kill;
    }

    fn signal(&mut self, run: RunId, number: i32) {
        self.keeper
            .send(KeeperRequest::Signal { run: run.to_u64(), signal: number, group: false }, Vec::new());
    }

    fn release(&mut self, run: RunId) {
        self.foreign.remove(&run);
        self.ports.borrow_mut().ended(run);
        self.checks.ended(run);
        self.starter.deaf(run);
        self.starter.limiter.ended(run);
        self.over.push(run);
    }

    fn timer(&mut self, instance: u32, at: u64) {
        let queue = self.queue.clone();
        let left = Duration::from_millis(at.saturating_sub(crate::time::now().mono));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(left).await;
            let _ = queue.send(Input::Fact { instance, event: Event::Due { at } });
        });
    }

    fn ready(&mut self, run: RunId) {
        self.ports.borrow().ready(run);
    }

    fn missing_ports(&self, old: RunId, new: RunId) -> Vec<String> {
        self.ports.borrow().record().missing(old, new)
    }

    fn port_warnings(&self, last: RunId) -> Vec<String> {
        self.ports.borrow().record().warnings(last.instance, last.number.saturating_add(1))
    }

    fn idle(&mut self, instance: &Instance) {
        self.ports.borrow().idle(instance);
    }

    fn began(&mut self, instance: &Instance) {
        if let Some(process) = instance.life.state.process() {
            let run = RunId { instance: instance.id, number: process.run };
            self.leaders.insert(run, process.pid);
            self.ports.borrow_mut().began(run, instance, None);
            self.checks.began(run, instance, self.starter.beats(run));
        }
    }

    fn pid_changed(&mut self, instance: &Instance, pid: Option<i32>) {
        self.saver.pid(self.pid_file(instance), pid);
    }

    fn tell(&mut self, event: EventView) {
        if event.event == EventKind::StartFailed {
            let run = RunId { instance: event.id, number: event.run };
            self.starter.deaf(run);
            self.starter.limiter.ended(run);
            self.ports.borrow_mut().ended(run);
        }
        tracing::info!(app = %event.name, id = event.id, "{}", sentence(&event));
        let _ = self.events.send(event); // nobody may be listening
    }

    fn apps_changed(&mut self, instances: &BTreeMap<u32, Instance>) {
        self.triggers.follow(instances, &self.home);
        self.ports.borrow_mut().follow(instances);
    }

    fn save(&mut self, urgent: bool, state: &dyn Fn() -> Vec<u8>) -> bool {
        let begin = Instant::now();
        if let (Some(at), false) = (self.next_save.filter(|at| *at > begin), urgent) {
            if !std::mem::replace(&mut self.save_asked, true) {
                let queue = self.queue.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep_until(at.into()).await;
                    let _ = queue.send(Input::SaveDue);
                });
            }
            return false;
        }
        self.save_asked = false;
        let state = state();
        // The keeper's copy is there at once, whatever the disk does.
        match memfd::with_contents(c"rsm-state", &state) {
            Ok(copy) => self.keeper.send(
                KeeperRequest::StoreFd { name: restore::STATE.to_owned() },
                vec![(FdRole::Stored, copy.into())],
            ),
            Err(errno) => tracing::warn!("cannot store the state with the keeper: {errno}"),
        }
        self.saver.state(self.home.state(), state);
        for run in std::mem::take(&mut self.over) {
            self.let_go(run);
        }
        self.next_save = Some(Instant::now() + begin.elapsed() * SAVE_PAUSE);
        true
    }

    fn flush(&mut self) {
        self.sweep_all();
    }
}

fn sentence(event: &EventView) -> String {
    let status = event.status.as_str();
    let detail = event.detail.iter().map(|detail| format!(": {detail}"));
    let exit = event.exit.iter().map(|exit| format!(": {exit}"));
    format!("{:?} (run {}, {status}){}", event.event, event.run, exit.chain(detail).collect::<String>())
}
