//! The supervisor, its commands and its saved state in a simulated world.
//!
//! Random apps crash, hang, ignore signals and leave children; commands come at any time; the daemon dies at any event
//! and another restores the saved state. The invariants of `checks` are checked after every event. A failure prints the
//! seed that repeats it: `RSM_SIM_SEED=7 cargo test --test simulation`.

mod checks;
mod world;

use rsm::daemon::supervisor::world::Clock;
use rsm::daemon::supervisor::{Input, NewSettings, Operation, Supervisor, SupervisorCommand};
use rsm::instance::Instance;
use rsm::instance::snapshot;
use rsm::instance::state::RunProcess;
use rsm::ipc::message::{
    Action, ActionReport, ActionRequest, ApiError, Existing, InheritedEnv, ScaleTo, StartRequest,
};
use rsm::spec::{AppSpec, RestartDelay};
use std::time::Duration;
use tokio::sync::oneshot;

use self::checks::Checks;
use self::world::{Due, SimWorld};

const NAMES: [&str; 6] = ["api", "web", "worker", "cron", "mail", "7"];

type Answer = oneshot::Receiver<Result<ActionReport, ApiError>>;

/// A command without an answer. It is repeated to the next daemon.
struct PendingCommand {
    sent_at: u64,
    change: Operation,
    key: String,
    answer: Answer,
}

struct Simulation {
    seed: u64,
    supervisor: Supervisor<SimWorld>,
    checks: Checks,
    pending: Vec<PendingCommand>,
    commands: u64,
    events: u64,
    deaths: bool,
}

impl Simulation {
    fn new(seed: u64, deaths: bool) -> Self {
        let supervisor = Supervisor::new(SimWorld::new(seed));
        Self {
            seed,
            supervisor,
            checks: Checks::default(),
            pending: Vec::new(),
            commands: 0,
            events: 0,
            deaths,
        }
    }

    fn run(mut self, events: u64) -> Self {
        while self.events < events {
            self.maybe_command();
            self.step();
            if self.deaths && self.random().u32(..2000) == 0 {
                self.daemon_dies();
            }
        }
        self.wind_down();
        self
    }

    fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.supervisor.world.random
    }

    /// Handles the next event and checks the invariants.
    fn step(&mut self) {
        self.events += 1;
        // As the daemon, which finishes a batch before it waits.
        if self.supervisor.world.next_at().is_none_or(|at| at > self.supervisor.world.clock) {
            self.supervisor.finish_batch();
        }
        match self.supervisor.world.next() {
            Some(Due::Keeper(input) | Due::Daemon(input)) => self.input(input),
            Some(Due::Exit(run, exit)) => self.supervisor.world.exit(run, exit),
            Some(Due::Orphan(run)) => self.supervisor.world.orphan_exited(run),
            None => self.supervisor.world.clock += 1,
        }
        self.check();
    }

    fn input(&mut self, input: Input) {
        self.checks.record(&input);
        self.supervisor.handle(input);
        if self.random().u32(..4) != 0 {
            self.supervisor.finish_batch();
        }
    }

    fn check(&mut self) {
        let mut violations = std::mem::take(&mut self.supervisor.world.violations);
        violations.extend(self.checks.violations(&self.supervisor));
        let now = self.supervisor.world.clock;
        self.pending.retain_mut(|command| match command.answer.try_recv() {
            Ok(_) | Err(oneshot::error::TryRecvError::Closed) => false,
            Err(oneshot::error::TryRecvError::Empty) => {
                if now > command.sent_at + checks::MAX_COMMAND {
                    violations.push(format!(
                        "{:?}, sent at {}, has no answer at {now}",
                        command.change, command.sent_at
                    ));
                }
                true
            }
        });
        assert!(
            violations.is_empty(),
            "seed {}, event {}, clock {now}: {violations:#?}\nreplay: RSM_SIM_SEED={} cargo test --test simulation",
            self.seed,
            self.events,
            self.seed
        );
    }

    fn maybe_command(&mut self) {
        let busy = self.supervisor.world.next_at().is_some_and(|at| at <= self.supervisor.world.clock);
        if busy && self.random().u32(..20) != 0 || self.random().u32(..6) != 0 {
            return;
        }
        let change = self.random_operation();
        self.commands += 1;
        self.send_command(change, self.commands.to_string());
        self.check();
    }

    fn send_command(&mut self, change: Operation, key: String) {
        let (reply, answer) = oneshot::channel();
        let sent_at = self.supervisor.world.clock;
        self.pending.push(PendingCommand { sent_at, change: change.clone(), key: key.clone(), answer });
        self.input(Input::Command(SupervisorCommand::Apply { change, key: Some(key), reply }));
    }

    fn random_operation(&mut self) -> Operation {
        let random = self.random();
        let name = random.choice(NAMES).unwrap_or("api").to_owned();
        let selector = match random.u32(..10) {
            0 => "all".into(),
            1 => random.u32(..20).to_string(),
            2 => "/a/".into(),
            _ => name.clone(),
        };
        let on = ActionRequest { select: vec![selector], ..ActionRequest::default() };
        match random.u32(..40) {
            0..8 => {
                let existing =
                    random.choice([Existing::Restart, Existing::Refuse, Existing::Duplicate, Existing::Keep]);
                let apps = vec![random_app(random, name)];
                let existing = existing.unwrap_or_default();
                let existing =
                    if self.supervisor.instances().len() > 40 { Existing::Restart } else { existing };
                Operation::Start(StartRequest {
                    apps,
                    inherited: InheritedEnv::default(),
                    existing,
                    no_wait: false,
                })
            }
            8..12 => Operation::Act(Action::Stop, on),
            12..15 => Operation::Act(Action::Restart, on),
            15..17 => Operation::Act(Action::Start, on),
            17..19 => Operation::Act(Action::Delete, on),
            19 => Operation::Act(Action::Reset, on),
            20 => Operation::Signal(on.select, 10),
            24..40 => {
                let spec = random.bool().then(|| random_app(random, name));
                let online = self.supervisor.instances().values().filter(|instance| instance.is_online());
                let ids: Vec<u32> = online.map(Instance::id).collect();
                let id = self.random().choice(ids).unwrap_or(0);
                // New settings have the name of the app.
                let with = spec.map(|mut spec| {
                    let current = self.supervisor.instances().get(&id);
                    current.into_iter().for_each(|instance| spec.name.clone_from(&instance.spec().name));
                    Box::new(NewSettings { spec, inherited: InheritedEnv::default() })
                });
                Operation::Replace { id, with, earlier_runs: Vec::new() }
            }
            21 => {
                let saved = snapshot::decode(&self.supervisor.world.saved).unwrap_or_default();
                let saved = if self.supervisor.instances().len() > 40 {
                    snapshot::Snapshot::default()
                } else {
                    saved
                };
                Operation::Resurrect(saved)
            }
            _ => {
                let to =
                    [ScaleTo::Exactly(random.u32(..5)), ScaleTo::Add(1), ScaleTo::Remove(random.u32(..3))];
                Operation::Scale(name, random.choice(to).unwrap_or(ScaleTo::Add(1)).into())
            }
        }
    }

    /// The daemon dies; the next one has the state saved with the keeper. Or the keeper dies as well: then the next
    /// daemon has the state on the disk and the running processes. Or the state is lost, too.
    fn daemon_dies(&mut self) {
        let mut world = std::mem::replace(&mut self.supervisor, Supervisor::new(SimWorld::new(0))).world;
        let saved = match world.random.u32(..10) {
            0..6 => {
                world.daemon_died();
                snapshot::decode(&world.saved).unwrap_or_default()
            }
            6..9 => {
                world.managers_died();
                snapshot::decode(&world.disk).unwrap_or_default()
            }
            _ => {
                let last_run = world.forget_all();
                let mut lost = snapshot::Snapshot::default();
                lost.last_run = last_run;
                lost
            }
        };
        let since = world.now();
        let runs = world
            .runs
            .iter()
            .map(|(id, run)| (*id, RunProcess { run: id.number, pid: run.pid, start_time: 1, since }));
        let runs = runs.collect();
        self.supervisor = Supervisor::new(world);
        self.supervisor.restore_snapshot(saved, &runs);
        self.supervisor.finish_batch();
        self.checks.daemon_died(&self.supervisor);
        self.check();
        for command in std::mem::take(&mut self.pending) {
            self.send_command(command.change, command.key);
        }
        self.check();
    }

    /// Deletes everything: no process and no run may remain.
    fn wind_down(&mut self) {
        let on = ActionRequest { select: vec!["all".into()], ..ActionRequest::default() };
        self.send_command(Operation::Act(Action::Delete, on), "the last".into());
        let limit = self.events + 1_000_000;
        while !(self.supervisor.instances().is_empty() && self.supervisor.world.runs.is_empty()) {
            self.step();
            let (instances, runs) = (self.supervisor.instances(), &self.supervisor.world.runs);
            assert!(self.events < limit, "seed {}: never ended: {instances:#?} {runs:?}", self.seed);
        }
        self.supervisor.finish_batch();
        self.check();
        assert!(self.supervisor.world.unreleased.is_empty(), "seed {}: runs never released", self.seed);
    }
}

fn random_app(random: &mut fastrand::Rng, name: String) -> AppSpec {
    let mut app = AppSpec::new(name, "/bin/app", "/");
    app.instances = random.u32(1..4);
    app.autostart = random.u32(..10) != 0;
    app.restart.autorestart = random.u32(..6) != 0;
    app.restart.max_restarts = random.u32(..20);
    app.restart.min_uptime = Duration::from_millis(random.u64(..12_000));
    app.stop.timeout = Duration::from_millis(random.u64(..12_000));
    app.readiness.wait_ready = random.u32(..4) == 0;
    app.hold_port = random.u32(..3) != 0;
    if random.u32(..5) == 0 {
        app.restart.delay = RestartDelay::Fixed(Duration::from_millis(random.u64(..5_000)));
    }
    if random.u32(..5) == 0 {
        app.restart.stop_exit_codes = vec![3];
    }
    app
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("RSM_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}

#[test]
fn rules_hold_for_random_apps_and_commands() {
    for seed in seeds(15) {
        Simulation::new(seed, false).run(5_000);
    }
}

#[test]
fn rules_hold_when_daemon_dies_anytime() {
    for seed in seeds(15) {
        Simulation::new(seed, true).run(5_000);
    }
}

/// `cargo test --release --test simulation -- --ignored --nocapture`
#[test]
#[ignore = "ten million events take minutes"]
fn rules_hold_for_ten_million_events() {
    let (mut events, mut seed) = (0, 1_000_000);
    while events < 10_000_000 {
        seed += 1;
        events += Simulation::new(seed, seed % 2 == 0).run(100_000).events;
    }
    println!("{events} events, seeds 1000001 to {seed}: every rule held after each");
}
