//! A simulated outside: processes that crash, hang, ignore signals or leave children, a keeper
//! that remembers, a disk that is late, and a clock that only moves when nothing is left to do.

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
use rsm::time::Moment;

/// What comes due.
#[derive(Debug)]
pub enum Due {
    /// Reaches the daemon whatever happens to it meanwhile: the keeper says it again.
    Keeper(Input),
    /// Dies with the daemon.
    Daemon(Input),
    /// A process comes to its end.
    End(RunId, Exit),
    /// A process without parent comes to its end.
    Orphan(RunId),
}

/// A run as the simulated keeper and kernel have it.
#[derive(Debug)]
pub struct Run {
    pub pid: i32,
    pub started: bool,
    pub end: Option<Exit>,
    pub left: u32,
    deaf: bool,
}

pub struct SimWorld {
    pub random: fastrand::Rng,
    pub clock: u64,
    pub runs: BTreeMap<RunId, Run>,
    /// What was saved last, as the keeper has it: it survives the daemon.
    pub saved: Vec<u8>,
    /// The same on the disk, which may be late: it survives all.
    pub disk: Vec<u8>,
    /// What the rules were broken by.
    pub broken: Vec<String>,
    due: BinaryHeap<Reverse<(u64, u64)>>,
    what: BTreeMap<u64, Due>,
    count: u64,
    clean_ups: Vec<(RunId, CleanUp)>,
    last_save: u64,
    save_asked: bool,
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
            broken: Vec::new(),
            due: BinaryHeap::new(),
            what: BTreeMap::new(),
            count: 0,
            clean_ups: Vec::new(),
            last_save: 0,
            save_asked: false,
            unreleased: BTreeSet::new(),
        }
    }

    pub fn schedule(&mut self, after: u64, due: Due) {
        self.count += 1;
        self.due.push(Reverse((self.clock + after, self.count)));
        self.what.insert(self.count, due);
    }

    /// When the next thing is due.
    pub fn next_at(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// The next thing; the clock moves to it.
    pub fn next(&mut self) -> Option<Due> {
        loop {
            let Reverse((at, count)) = self.due.pop()?;
            self.clock = self.clock.max(at);
            if let Some(due) = self.what.remove(&count) {
                return Some(due);
            }
        }
    }

    /// A process ends; what it leaves behind lives on.
    pub fn end(&mut self, id: RunId, exit: Exit) {
        let leaves = if self.random.u32(..10) == 0 { self.random.u32(1..4) } else { 0 };
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.end.is_none()) else { return };
        run.end = Some(exit.clone());
        run.left = leaves;
        let event = InstanceEvent::Exited { run: id.number, exit };
        self.schedule(0, Due::Keeper(Input::InstanceEvent { instance: id.instance, event }));
    }

    pub fn orphan_ended(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id).filter(|run| run.left > 0) {
            run.left -= 1;
            self.schedule(0, Due::Keeper(Input::OrphanExited));
        }
    }

    /// The daemon is dead: what only it knew is gone. The keeper tells the next one again.
    pub fn daemon_died(&mut self) {
        self.what.retain(|_, due| matches!(due, Due::End(..) | Due::Orphan(_)));
        self.clean_ups.clear();
        self.save_asked = false;
        let told: Vec<(RunId, InstanceEvent)> = self
            .runs
            .iter()
            .filter_map(|(id, run)| match &run.end {
                Some(exit) => Some((*id, InstanceEvent::Exited { run: id.number, exit: exit.clone() })),
                None if run.started => {
                    Some((*id, InstanceEvent::Spawned { run: id.number, pid: run.pid, start_time: 1 }))
                }
                None => None,
            })
            .collect();
        for (id, event) in told {
            self.schedule(1, Due::Keeper(Input::InstanceEvent { instance: id.instance, event }));
        }
        // A start under way comes to its end without the daemon.
        let starting: Vec<RunId> = self
            .runs
            .iter()
            .filter(|(_, run)| !run.started && run.end.is_none())
            .map(|(id, _)| *id)
            .collect();
        starting.into_iter().for_each(|id| self.come_up(id, 2));
    }

    /// Daemon and keeper are dead. What is alive runs on; how other runs ended nobody knows any more,
    /// and starts under way die with the keeper.
    pub fn managers_died(&mut self) {
        self.what.retain(|_, due| matches!(due, Due::End(..) | Due::Orphan(_)));
        self.clean_ups.clear();
        self.save_asked = false;
        self.runs.retain(|_, run| run.started && (run.end.is_none() || run.left > 0));
        self.unreleased.retain(|run| self.runs.contains_key(run));
        let found: Vec<(RunId, InstanceEvent)> = self
            .runs
            .iter()
            .map(|(id, run)| match run.end {
                None => (*id, InstanceEvent::Spawned { run: id.number, pid: run.pid, start_time: 1 }),
                Some(_) => (*id, InstanceEvent::Exited { run: id.number, exit: Exit::Unknown }),
            })
            .collect();
        for (id, event) in found {
            self.schedule(1, Due::Keeper(Input::InstanceEvent { instance: id.instance, event }));
        }
    }

    /// Nobody is left who knows of the runs: they are left alone. The highest number among them.
    pub fn forget_all(&mut self) -> u32 {
        let last = self.runs.keys().map(|run| run.number).max().unwrap_or(0);
        self.what.clear();
        self.runs.clear();
        self.unreleased.clear();
        last
    }

    fn come_up(&mut self, id: RunId, after: u64) {
        let pid = match self.runs.get_mut(&id) {
            Some(run) => {
                run.started = true;
                run.pid
            }
            None => return,
        };
        let event = InstanceEvent::Spawned { run: id.number, pid, start_time: 1 };
        self.schedule(after, Due::Keeper(Input::InstanceEvent { instance: id.instance, event }));
        // Most come to listen or say that they are ready, some late, some never.
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
        // Some stop working some time, and some of these come back.
        if self.random.u32(..6) == 0 {
            let at = after + self.random.u64(..30_000);
            for more in 0..self.random.u64(1..5) {
                let finding = if self.random.u32(..4) == 0 {
                    ProbeReport::Healthy
                } else {
                    ProbeReport::Unhealthy("sick".into())
                };
                self.schedule(at + more * 700, Due::Daemon(Input::ProbeResult(id, finding)));
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
        self.schedule(after + life, Due::End(id, exit));
    }

    fn soon(&mut self) -> u64 {
        self.random.u64(0..8)
    }

    /// Runs of an instance of which something is alive.
    pub fn alive(&self, instance: u32) -> Vec<RunId> {
        let of_it = RunId { instance, number: 0 }..=RunId { instance, number: u32::MAX };
        let live = self.runs.range(of_it).filter(|(_, run)| run.end.is_none() || run.left > 0);
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
            return; // as the keeper: asked twice
        }
        let alive = self.alive(instance.id());
        if alive.len() > 1 {
            self.broken.push(format!("{run:?} is spawned while {alive:?} of the same instance are alive"));
        }
        let after = self.soon();
        if self.random.u32(..50) == 0 {
            let failure = StartFailure { step: StartStep::Exec, errno: 2, subject: String::new() };
            let event = InstanceEvent::SpawnFailed { run: run.number, failure };
            self.schedule(after, Due::Keeper(Input::InstanceEvent { instance: run.instance, event }));
            return;
        }
        let deaf = self.random.u32(..8) == 0;
        let pid = 100 + self.random.i32(0..1_000_000);
        self.runs.insert(run, Run { pid, started: false, end: None, left: 0, deaf });
        self.unreleased.insert(run);
        self.come_up(run, after);
    }

    fn stop(&mut self, run: RunId, _process: RunProcess, _instance: &Instance) {
        let after =
            if self.random.u32(..10) == 0 { self.random.u64(0..15_000) } else { self.random.u64(0..50) };
        if self.runs.get(&run).is_some_and(|run| !run.deaf) {
            self.schedule(after, Due::End(run, Exit::Code(0)));
        }
    }

    fn kill(&mut self, run: RunId, _process: RunProcess) {
        let after = if self.random.u32(..50) == 0 { self.random.u64(0..12_000) } else { self.soon() };
        self.schedule(after, Due::End(run, Exit::Signal { number: 9, core: false, oom: false }));
    }

    fn clean_up_tree(&mut self, run: RunId, _process: RunProcess, mode: CleanUp) {
        self.clean_ups.push((run, mode));
    }

    fn signal(&mut self, _run: RunId, _number: i32) {}

    fn release_run(&mut self, run: RunId) {
        match self.runs.get(&run) {
            Some(known) if known.end.is_none() || known.left > 0 => {
                self.broken.push(format!("{run:?} is released while alive: {known:?}"));
            }
            _ => {}
        }
        self.runs.remove(&run);
        self.unreleased.remove(&run);
    }

    fn on_run_started(&mut self, _instance: &Instance) {}

    fn flush(&mut self) {
        for (id, mode) in std::mem::take(&mut self.clean_ups) {
            let left = self.runs.get(&id).map_or(0, |run| run.left);
            for _ in 0..left {
                let obeys = self.random.bool();
                if mode == CleanUp::Kill || obeys {
                    let after = self.soon();
                    self.schedule(after, Due::Orphan(id));
                }
            }
            let pids = (0..left).map(|index| 900 + index.cast_signed()).collect();
            let event = InstanceEvent::TreeChecked { run: id.number, remaining: pids };
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

    fn port_warnings(&self, _: RunId) -> Vec<String> {
        Vec::new()
    }

    fn on_slot_idle(&mut self, _instance: &Instance) {}
}

impl Persistence for SimWorld {
    fn save(&mut self, urgent: bool, state: &dyn Fn() -> Vec<u8>) -> bool {
        if !urgent && self.clock < self.last_save + 100 {
            if !std::mem::replace(&mut self.save_asked, true) {
                self.schedule(100, Due::Daemon(Input::SaveDue));
            }
            return false;
        }
        self.save_asked = false;
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
