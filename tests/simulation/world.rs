//! A simulated world: processes that crash, hang, ignore signals or leave children, a keeper that stores the state, a
//! delayed disk, and a clock that moves only when no event is due.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use rsm::daemon::supervisor::world::{Clock, EventSink, Persistence, PortControl, ProcessControl};
use rsm::daemon::supervisor::{Input, ProbeReport};
use rsm::exit::{Exit, StartFailure, StartStep};
use rsm::instance::Instance;
use rsm::instance::event::InstanceEvent;
use rsm::instance::state::{CleanUp, RunProcess};
use rsm::instance::status::RunId;
use rsm::ipc::message::EventView;
use rsm::process::tree::Activity;
use rsm::spec::StopPolicy;
use rsm::time::Moment;

/// A scheduled event.
#[derive(Debug)]
pub enum Due {
    /// An event of the keeper, which repeats it to the next daemon.
    Keeper(Input),
    /// An event that is lost when the daemon dies.
    Daemon(Input),
    /// A process exits.
    Exit(RunId, Exit),
    /// An orphan exits.
    Orphan(RunId),
}

/// A run of the simulated keeper and kernel.
#[derive(Debug)]
pub struct Run {
    pub pid: i32,
    pub started: bool,
    pub exit: Option<Exit>,
    pub orphans: u32,
    ignores_stop: bool,
}

pub struct SimWorld {
    pub random: fastrand::Rng,
    pub clock: u64,
    pub runs: BTreeMap<RunId, Run>,
    /// The saved state with the keeper: it survives the daemon.
    pub saved: Vec<u8>,
    /// The saved state on the disk, which may be older: it survives the keeper as well.
    pub disk: Vec<u8>,
    /// Violated invariants.
    pub violations: Vec<String>,
    due: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Due>,
    count: u64,
    clean_ups: Vec<(RunId, CleanUp)>,
    last_save: u64,
    save_scheduled: bool,
    pub unreleased: BTreeSet<RunId>,
}

impl SimWorld {
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            clock: 1_000_000,
            runs: BTreeMap::new(),
            saved: Vec::new(),
            disk: Vec::new(),
            violations: Vec::new(),
            due: BinaryHeap::new(),
            events: BTreeMap::new(),
            count: 0,
            clean_ups: Vec::new(),
            last_save: 0,
            save_scheduled: false,
            unreleased: BTreeSet::new(),
        }
    }

    pub fn schedule(&mut self, after: u64, due: Due) {
        self.count += 1;
        self.due.push(Reverse((self.clock + after, self.count)));
        self.events.insert(self.count, due);
    }

    /// The time of the next event.
    pub fn next_at(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// The next event; the clock moves to its time.
    pub fn next(&mut self) -> Option<Due> {
        loop {
            let Reverse((at, count)) = self.due.pop()?;
            self.clock = self.clock.max(at);
            if let Some(due) = self.events.remove(&count) {
                return Some(due);
            }
        }
    }

    /// A process exits and may leave orphans.
    pub fn exit(&mut self, id: RunId, exit: Exit) {
        let orphans = if self.random.u32(..10) == 0 { self.random.u32(1..4) } else { 0 };
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.exit.is_none()) else { return };
        run.exit = Some(exit.clone());
        run.orphans = orphans;
        let event = InstanceEvent::Exited { run: id.number, exit };
        self.schedule(0, Due::Keeper(Input::InstanceEvent { instance: id.instance, event }));
    }

    pub fn orphan_exited(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id).filter(|run| run.orphans > 0) {
            run.orphans -= 1;
            self.schedule(0, Due::Keeper(Input::OrphanExited));
        }
    }

    /// The daemon dies: what only it knew is lost. The keeper repeats its events to the next one.
    pub fn daemon_died(&mut self) {
        self.events.retain(|_, due| matches!(due, Due::Exit(..) | Due::Orphan(_)));
        self.clean_ups.clear();
        self.save_scheduled = false;
        let repeated: Vec<(RunId, InstanceEvent)> = self
            .runs
            .iter()
            .filter_map(|(id, run)| match &run.exit {
                Some(exit) => Some((*id, InstanceEvent::Exited { run: id.number, exit: exit.clone() })),
                None if run.started => {
                    Some((*id, InstanceEvent::Spawned { run: id.number, pid: run.pid, start_time: 1 }))
                }
                None => None,
            })
            .collect();
        for (id, event) in repeated {
            self.schedule(1, Due::Keeper(Input::InstanceEvent { instance: id.instance, event }));
        }
        // A process that is being started starts without the daemon.
        let starting: Vec<RunId> = self
            .runs
            .iter()
            .filter(|(_, run)| !run.started && run.exit.is_none())
            .map(|(id, _)| *id)
            .collect();
        starting.into_iter().for_each(|id| self.start_process(id, 2));
    }

    /// Daemon and keeper die. Processes keep running; the exits of others are lost, and so are processes that are being
    /// started.
    pub fn managers_died(&mut self) {
        self.events.retain(|_, due| matches!(due, Due::Exit(..) | Due::Orphan(_)));
        self.clean_ups.clear();
        self.save_scheduled = false;
        self.runs.retain(|_, run| run.started && (run.exit.is_none() || run.orphans > 0));
        self.unreleased.retain(|run| self.runs.contains_key(run));
        let found: Vec<(RunId, InstanceEvent)> = self
            .runs
            .iter()
            .map(|(id, run)| match run.exit {
                None => (*id, InstanceEvent::Spawned { run: id.number, pid: run.pid, start_time: 1 }),
                Some(_) => (*id, InstanceEvent::Exited { run: id.number, exit: Exit::Unknown }),
            })
            .collect();
        for (id, event) in found {
            self.schedule(1, Due::Keeper(Input::InstanceEvent { instance: id.instance, event }));
        }
    }

    /// The state is lost, and with it all runs. Returns the highest run number.
    pub fn forget_all(&mut self) -> u32 {
        let last = self.runs.keys().map(|run| run.number).max().unwrap_or(0);
        self.events.clear();
        self.runs.clear();
        self.unreleased.clear();
        last
    }

    fn start_process(&mut self, id: RunId, after: u64) {
        let pid = match self.runs.get_mut(&id) {
            Some(run) => {
                run.started = true;
                run.pid
            }
            None => return,
        };
        let event = InstanceEvent::Spawned { run: id.number, pid, start_time: 1 };
        self.schedule(after, Due::Keeper(Input::InstanceEvent { instance: id.instance, event }));
        // Most become ready, some late, some never.
        if self.random.u32(..8) != 0 {
            let ready = match self.random.bool() {
                true => InstanceEvent::Ready { run: id.number },
                false => InstanceEvent::Listening { run: id.number },
            };
            let later = self.random.u64(..5_000);
            self.schedule(
                after + later,
                Due::Daemon(Input::InstanceEvent { instance: id.instance, event: ready }),
            );
        }
        // Some become unhealthy, and some of these recover.
        if self.random.u32(..6) == 0 {
            let at = after + self.random.u64(..30_000);
            for more in 0..self.random.u64(1..5) {
                let report = if self.random.u32(..4) == 0 {
                    ProbeReport::Healthy
                } else {
                    ProbeReport::Unhealthy("sick".into())
                };
                self.schedule(at + more * 700, Due::Daemon(Input::ProbeResult(id, report)));
            }
        }
        let life = match self.random.u32(..10) {
            0..4 => self.random.u64(1..900),
            4..6 => self.random.u64(1000..20_000),
            _ => self.random.u64(60_000..10_000_000),
        };
        let exit = match self.random.u32(..6) {
            0 => Exit::Code(0),
            1 => Exit::Signal { number: 11, core: true, oom: false },
            2 => Exit::Code(3),
            _ => Exit::Code(1),
        };
        self.schedule(after + life, Due::Exit(id, exit));
    }

    fn short_delay(&mut self) -> u64 {
        self.random.u64(0..8)
    }

    /// Runs of an instance with live processes.
    pub fn alive(&self, instance: u32) -> Vec<RunId> {
        let range = RunId { instance, number: 0 }..=RunId { instance, number: u32::MAX };
        let live = self.runs.range(range).filter(|(_, run)| run.exit.is_none() || run.orphans > 0);
        live.map(|(id, _)| *id).collect()
    }
}

impl Clock for SimWorld {
    fn now(&self) -> Moment {
        Moment { mono: self.clock, wall: self.clock + 1_700_000_000_000 }
    }

    fn set_timer(&mut self, instance: u32, at: u64) {
        let after = at.saturating_sub(self.clock);
        self.schedule(
            after,
            Due::Daemon(Input::InstanceEvent { instance, event: InstanceEvent::TimerFired { at } }),
        );
    }
}

impl ProcessControl for SimWorld {
    fn spawn(&mut self, run: RunId, instance: &Instance) {
        if self.runs.contains_key(&run) {
            return; // the keeper ignores a repeated request
        }
        let alive = self.alive(instance.id());
        if alive.len() > 1 {
            self.violations
                .push(format!("{run:?} is spawned while {alive:?} of the same instance are alive"));
        }
        let after = self.short_delay();
        if self.random.u32(..50) == 0 {
            let failure = StartFailure { step: StartStep::Exec, errno: 2, subject: String::new() };
            let event = InstanceEvent::SpawnFailed { run: run.number, failure };
            self.schedule(after, Due::Keeper(Input::InstanceEvent { instance: run.instance, event }));
            return;
        }
        let ignores_stop = self.random.u32(..8) == 0;
        let pid = 100 + self.random.i32(0..1_000_000);
        self.runs.insert(run, Run { pid, started: false, exit: None, orphans: 0, ignores_stop });
        self.unreleased.insert(run);
        self.start_process(run, after);
    }

    fn stop(&mut self, run: RunId, _process: RunProcess, _instance: &Instance) {
        let after =
            if self.random.u32(..10) == 0 { self.random.u64(0..15_000) } else { self.random.u64(0..50) };
        if self.runs.get(&run).is_some_and(|run| !run.ignores_stop) {
            self.schedule(after, Due::Exit(run, Exit::Code(0)));
        }
    }

    fn kill(&mut self, run: RunId, _process: RunProcess, _policy: &StopPolicy) {
        let after = if self.random.u32(..50) == 0 { self.random.u64(0..12_000) } else { self.short_delay() };
        self.schedule(after, Due::Exit(run, Exit::Signal { number: 9, core: false, oom: false }));
    }

    fn clean_up_tree(&mut self, run: RunId, _process: RunProcess, mode: CleanUp, _policy: &StopPolicy) {
        self.clean_ups.push((run, mode));
    }

    fn signal(&mut self, _run: RunId, _number: i32) {}

    fn activity(&self, process: RunProcess) -> Activity {
        // Some are busy at any time.
        Activity { cpu_ticks: self.clock, is_runnable: process.pid % 3 == 0 }
    }

    fn release_run(&mut self, run: RunId) {
        match self.runs.get(&run) {
            Some(known) if known.exit.is_none() || known.orphans > 0 => {
                self.violations.push(format!("{run:?} is released while alive: {known:?}"));
            }
            _ => {}
        }
        self.runs.remove(&run);
        self.unreleased.remove(&run);
    }

    fn on_run_started(&mut self, _instance: &Instance) {}

    fn flush(&mut self) {
        for (id, mode) in std::mem::take(&mut self.clean_ups) {
            let orphans = self.runs.get(&id).map_or(0, |run| run.orphans);
            for _ in 0..orphans {
                let obeys = self.random.bool();
                if mode == CleanUp::Kill || obeys {
                    let after = self.short_delay();
                    self.schedule(after, Due::Orphan(id));
                }
            }
            let pids = (0..orphans).map(|index| 900 + index.cast_signed()).collect();
            let event = InstanceEvent::TreeChecked { run: id.number, remaining: pids, background: None };
            self.schedule(0, Due::Daemon(Input::InstanceEvent { instance: id.instance, event }));
        }
    }
}

impl PortControl for SimWorld {
    fn drain(&mut self, run: RunId) {
        let after = self.random.u64(0..400);
        let event = InstanceEvent::Drained { run: run.number };
        self.schedule(after, Due::Daemon(Input::InstanceEvent { instance: run.instance, event }));
    }

    fn pause_traffic(&mut self, _run: RunId) {}

    fn on_ready(&mut self, _run: RunId) {}

    fn missing_ports(&self, _: RunId, _: RunId) -> Vec<String> {
        Vec::new()
    }

    fn has_only_unix_sockets(&self, _: RunId) -> bool {
        false
    }

    fn port_warnings(&self, _: RunId) -> Vec<String> {
        Vec::new()
    }

    fn on_slot_idle(&mut self, _instance: &Instance) {}
}

impl Persistence for SimWorld {
    fn save(&mut self, urgent: bool, state: &dyn Fn() -> Vec<u8>) -> bool {
        if !urgent && self.clock < self.last_save + 100 {
            if !std::mem::replace(&mut self.save_scheduled, true) {
                self.schedule(100, Due::Daemon(Input::SaveDue));
            }
            return false;
        }
        self.save_scheduled = false;
        self.last_save = self.clock;
        self.saved = state();
        if urgent || self.random.u32(..4) != 0 {
            self.disk.clone_from(&self.saved);
        }
        true
    }

    fn write_pid_file(&mut self, _instance: &Instance, _pid: Option<i32>) {}
}

impl EventSink for SimWorld {
    fn publish(&mut self, _event: EventView) {}

    fn on_apps_changed(&mut self, _instances: &BTreeMap<u32, Instance>) {}
}
