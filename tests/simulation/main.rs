//! The supervision loop, its commands and its saved state against a simulated world.
//!
//! Seeded random apps crash, hang, ignore signals and leave children; commands come at any
//! moment; the daemon dies at any event and another takes up what was saved. After every event
//! the rules of `checks` hold. A failure prints the seed and the event that replay it:
//! `RSM_SIM_SEED=7 cargo test --test simulation`.

mod checks;
mod world;

use rsm::daemon::supervisor::world::Clock;
use rsm::daemon::supervisor::{Input, NewSettings, Operation, Supervisor, SupervisorCommand};
use rsm::instance::Instance;
use rsm::instance::snapshot;
use rsm::instance::state::{RunProcess, State};
use rsm::ipc::message::{ActOn, Action, ApiError, Existing, Inherited, Report, ScaleTo, StartApps};
use rsm::spec::{AppSpec, RestartDelay};
use std::time::Duration;
use tokio::sync::oneshot;

use self::checks::Checks;
use self::world::{Due, SimWorld};

const NAMES: [&str; 6] = ["api", "web", "worker", "cron", "mail", "7"];

type Answer = oneshot::Receiver<Result<Report, ApiError>>;

/// A command that has no answer yet, and asks the next daemon when this one dies.
struct Asked {
    at: u64,
    change: Operation,
    key: String,
    answer: Answer,
}

struct Simulation {
    seed: u64,
    supervisor: Supervisor<SimWorld>,
    checks: Checks,
    asked: Vec<Asked>,
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
            asked: Vec::new(),
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

    /// Lets the next thing happen and checks the rules.
    fn step(&mut self) {
        self.events += 1;
        // The loop takes what is there in one heap, and never sleeps on an unfinished one.
        if self.supervisor.world.next_at().is_none_or(|at| at > self.supervisor.world.clock) {
            self.supervisor.finish_batch();
        }
        match self.supervisor.world.next() {
            Some(Due::Keeper(input) | Due::Daemon(input)) => self.input(input),
            Some(Due::End(run, exit)) => self.supervisor.world.end(run, exit),
            Some(Due::Orphan(run)) => self.supervisor.world.orphan_ended(run),
            None => self.supervisor.world.clock += 1,
        }
        self.check();
    }

    fn input(&mut self, input: Input) {
        self.checks.note(&input);
        self.supervisor.handle(input);
        if self.random().u32(..4) != 0 {
            self.supervisor.finish_batch();
        }
    }

    fn check(&mut self) {
        let mut broken = std::mem::take(&mut self.supervisor.world.broken);
        broken.extend(self.checks.broken(&self.supervisor));
        let now = self.supervisor.world.clock;
        self.asked.retain_mut(|asked| match asked.answer.try_recv() {
            Ok(_) | Err(oneshot::error::TryRecvError::Closed) => false,
            Err(oneshot::error::TryRecvError::Empty) => {
                if now > asked.at + checks::LONGEST_COMMAND {
                    broken.push(format!("{:?}, asked at {}, has no answer at {now}", asked.change, asked.at));
                }
                true
            }
        });
        assert!(
            broken.is_empty(),
            "seed {}, event {}, clock {now}: {broken:#?}\nreplay: RSM_SIM_SEED={} cargo test --test simulation",
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
        let change = self.any_change();
        self.commands += 1;
        self.ask(change, self.commands.to_string());
        self.check();
    }

    fn ask(&mut self, change: Operation, key: String) {
        let (reply, answer) = oneshot::channel();
        let at = self.supervisor.world.clock;
        self.asked.push(Asked { at, change: change.clone(), key: key.clone(), answer });
        self.input(Input::Command(SupervisorCommand::Apply { change, key: Some(key), reply }));
    }

    fn any_change(&mut self) -> Operation {
        let random = self.random();
        let name = random.choice(NAMES).unwrap_or("api").to_owned();
        let selector = match random.u32(..10) {
            0 => "all".into(),
            1 => random.u32(..20).to_string(),
            2 => "/a/".into(),
            _ => name.clone(),
        };
        let on = ActOn { select: vec![selector], ..ActOn::default() };
        match random.u32(..40) {
            0..8 => {
                let existing =
                    random.choice([Existing::Restart, Existing::Refuse, Existing::Duplicate, Existing::Keep]);
                let apps = vec![any_app(random, name)];
                let existing = existing.unwrap_or_default();
                let existing =
                    if self.supervisor.instances().len() > 40 { Existing::Restart } else { existing };
                Operation::Start(StartApps { apps, inherited: Inherited::default(), existing })
            }
            8..12 => Operation::Act(Action::Stop, on),
            12..15 => Operation::Act(Action::Restart, on),
            15..17 => Operation::Act(Action::Start, on),
            17..19 => Operation::Act(Action::Delete, on),
            19 => Operation::Act(Action::Reset, on),
            20 => Operation::Signal(on.select, 10),
            24..40 => {
                let with = random.bool().then(|| {
                    Box::new(NewSettings { spec: any_app(random, name), inherited: Inherited::default() })
                });
                let online = |instance: &&Instance| matches!(instance.status().state, State::Online { .. });
                let ids = self.supervisor.instances().values().filter(online).map(|it| it.id());
                let ids: Vec<u32> = ids.collect();
                let id = self.random().choice(ids).unwrap_or(0);
                // A new spec is one of the same app, as a file has it.
                let named = |with: &mut Box<NewSettings>| {
                    let there = self.supervisor.instances().get(&id);
                    there.into_iter().for_each(|instance| with.spec.name.clone_from(&instance.spec().name));
                };
                let with = with.map(|mut with| {
                    named(&mut with);
                    with
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
                Operation::Scale(name, random.choice(to).unwrap_or(ScaleTo::Add(1)))
            }
        }
    }

    /// The daemon dies in the middle of it all; the next one has what was saved and the keeper. Or the
    /// keeper dies too: it has what was on the disk, and what runs. Or the state is lost as well.
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
        let kept = world
            .runs
            .iter()
            .map(|(id, run)| (*id, RunProcess { run: id.number, pid: run.pid, start_time: 1, since }));
        let kept = kept.collect();
        self.supervisor = Supervisor::new(world);
        self.supervisor.restore_snapshot(saved, &kept);
        self.supervisor.finish_batch();
        self.checks.daemon_died(&self.supervisor);
        self.check();
        for asked in std::mem::take(&mut self.asked) {
            self.ask(asked.change, asked.key);
        }
        self.check();
    }

    /// Everything is deleted: nothing may be left, anywhere.
    fn wind_down(&mut self) {
        let on = ActOn { select: vec!["all".into()], ..ActOn::default() };
        self.ask(Operation::Act(Action::Delete, on), "the last".into());
        let limit = self.events + 1_000_000;
        while !(self.supervisor.instances().is_empty() && self.supervisor.world.runs.is_empty()) {
            self.step();
            let (instances, runs) = (self.supervisor.instances(), &self.supervisor.world.runs);
            assert!(self.events < limit, "seed {}: never came to an end: {instances:#?} {runs:?}", self.seed);
        }
        self.supervisor.finish_batch();
        self.check();
        assert!(self.supervisor.world.unreleased.is_empty(), "seed {}: runs never released", self.seed);
    }
}

fn any_app(random: &mut fastrand::Rng, name: String) -> AppSpec {
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
