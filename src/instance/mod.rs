//! One supervised slot: what is wanted, what is so, and what follows from what happens.
//!
//! [`Instance::on`] is the whole of supervision as a pure function of (state, event, time): it
//! performs nothing and returns the [`Effect`]s to perform. Whatever an effect leads to comes
//! back as another event that names its run; news of a former run is dropped in one place.

pub mod event;
pub mod life;
mod reason;
pub mod replacement;
pub mod restart;
pub mod state;
mod succession;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use self::event::{Effect, InstanceEvent, Notice};
use self::life::{InstanceStatus, RunRecord};
use self::restart::{FailureHistory, RestartDecision};
use self::state::{RunProcess, State, StopPhase, Want};
use crate::exit::{Exit, StartFailure};
use crate::spec::{AppSpec, EnvVars, ReadySignal};
use crate::time::Moment;

/// How long SIGKILL may take before it is reported that it does not help.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// One supervised slot of an app, `api:0`. It outlives its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id among all instances (PM2's `pm_id`).
    pub id: u32,
    /// Its number among the instances of the app.
    pub number: u32,
    /// The app.
    pub spec: Arc<AppSpec>,
    /// The environment of the shell it was started from.
    pub inherited: Arc<EnvVars>,
    /// All that changes by itself.
    pub life: InstanceStatus,
}

impl Instance {
    /// A new instance that does not run. `first_run` follows the highest number ever used.
    pub fn new(
        id: u32,
        number: u32,
        spec: Arc<AppSpec>,
        inherited: Arc<EnvVars>,
        last_run: u32,
        now: Moment,
    ) -> Self {
        Self { id, number, spec, inherited, life: InstanceStatus::new(last_run, now) }
    }

    /// What follows from `event`. The only way an instance changes.
    pub fn on(&mut self, event: InstanceEvent, now: Moment) -> Vec<Effect> {
        if event.run().is_some_and(|run| self.life.state.run() != Some(run)) {
            return Vec::new(); // news of a former run
        }
        let mut out = Vec::new();
        match event {
            InstanceEvent::Start => self.start(now, &mut out),
            InstanceEvent::Restart(why) => self.restart(why, now, &mut out),
            InstanceEvent::Stop => self.stop(Want::Down, now, &mut out),
            InstanceEvent::Delete => self.stop(Want::Gone, now, &mut out),
            InstanceEvent::Retire => self.retire(now, &mut out),
            InstanceEvent::Drained { .. } => self.drained(now, &mut out),
            InstanceEvent::Spawned { run, pid, start_time } => {
                self.spawned(RunProcess { run, pid, start_time, since: now }, now, &mut out);
            }
            // Which is more than to listen.
            InstanceEvent::Listens { .. }
                if matches!(self.spec.sign(), ReadySignal::Said | ReadySignal::Probed) => {}
            InstanceEvent::Listens { .. } | InstanceEvent::Ready { .. } => self.ready(&mut out),
            InstanceEvent::SpawnFailed { run, failure } => self.spawn_failed(run, failure, now, &mut out),
            InstanceEvent::Exited { run, exit } => self.exited(run, exit, now, &mut out),
            InstanceEvent::Swept { left, .. } => self.swept(&left, now, &mut out),
            InstanceEvent::OrphanEnded => self.orphan_ended(&mut out),
            InstanceEvent::Due { at } if self.life.timer == Some(at) => self.due(now, &mut out),
            InstanceEvent::Due { .. } => {}
        }
        out
    }

    /// Counters to zero, as `rsm reset`.
    pub fn reset(&mut self, now: Moment) {
        self.life.restarts = 0;
        self.life.failures = FailureHistory::default();
        self.life.created = now;
    }

    fn start(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.life.want == Want::Gone {
            return; // a delete is not taken back
        }
        self.life.want = Want::Up;
        match &mut self.life.state {
            State::Stopped | State::Waiting { .. } | State::Errored { .. } => {
                self.life.failures = FailureHistory::default();
                self.launch(true, now, out);
            }
            // Once it is cleared the want is found to be up; asked means without delay.
            State::Clearing { asked, .. } => *asked = true,
            State::Spawning { .. }
            | State::Starting { .. }
            | State::Online { .. }
            | State::Leaving { .. }
            | State::Stopping { .. } => {}
        }
    }

    fn restart(&mut self, why: Option<String>, now: Moment, out: &mut Vec<Effect>) {
        if self.life.want == Want::Gone {
            return;
        }
        let was_wanted = self.life.want == Want::Up;
        self.life.failures = FailureHistory::default();
        match &mut self.life.state {
            State::Spawning { stale, .. } => {
                *stale |= was_wanted;
                self.life.want = Want::Up;
            }
            State::Starting { process, .. } | State::Online { process } => {
                let process = *process;
                self.life.restarts += 1;
                self.life.want = Want::Up;
                self.tell_to_go(process, why, now, out);
            }
            State::Stopped
            | State::Leaving { .. }
            | State::Stopping { .. }
            | State::Clearing { .. }
            | State::Waiting { .. }
            | State::Errored { .. } => self.start(now, out),
        }
    }

    fn stop(&mut self, want: Want, now: Moment, out: &mut Vec<Effect>) {
        // A delete cannot be taken back by a stop.
        self.life.want = if self.life.want == Want::Gone { Want::Gone } else { want };
        match &self.life.state {
            State::Stopped | State::Waiting { .. } | State::Errored { .. } => self.settle_down(out),
            State::Starting { process, .. } | State::Online { process } | State::Leaving { process } => {
                let process = *process;
                self.tell_to_go(process, None, now, out);
            }
            State::Spawning { .. } | State::Stopping { .. } | State::Clearing { .. } => {}
        }
    }

    fn spawned(&mut self, process: RunProcess, now: Moment, out: &mut Vec<Effect>) {
        match &self.life.state {
            State::Spawning { stale, .. } => {
                if self.life.want == Want::Up && !stale {
                    self.runs(process, now, out);
                } else {
                    self.tell_to_go(process, None, now, out);
                }
            }
            // Told again to a new daemon.
            State::Starting { .. }
            | State::Online { .. }
            | State::Leaving { .. }
            | State::Stopping { .. }
            | State::Clearing { .. } => {}
            State::Stopped | State::Waiting { .. } | State::Errored { .. } => {}
        }
    }

    fn runs(&mut self, process: RunProcess, now: Moment, out: &mut Vec<Effect>) {
        match self.spec.sign() {
            ReadySignal::Running => self.online(process, out),
            ReadySignal::Listening | ReadySignal::Said | ReadySignal::Probed => {
                self.life.state = State::Starting { process, late: false };
                self.set_timer(self.spec.readiness.timeout, now, out);
            }
        }
    }

    fn ready(&mut self, out: &mut Vec<Effect>) {
        self.life.ready = true;
        if let State::Starting { process, .. } = self.life.state {
            self.online(process, out);
        }
    }

    fn online(&mut self, process: RunProcess, out: &mut Vec<Effect>) {
        self.life.timer = None;
        self.life.problem = None;
        self.life.state = State::Online { process };
        out.push(Effect::Tell(Notice::Online));
    }

    /// It has not become ready in time. What it does need not be wrong, so it goes on.
    fn overdue(&mut self, process: RunProcess, out: &mut Vec<Effect>) {
        match self.spec.sign() {
            ReadySignal::Running | ReadySignal::Listening => self.online(process, out),
            ReadySignal::Said | ReadySignal::Probed => {
                self.life.state = State::Starting { process, late: true };
                out.push(Effect::Tell(Notice::Late));
            }
        }
    }

    fn spawn_failed(&mut self, run: u32, failure: StartFailure, now: Moment, out: &mut Vec<Effect>) {
        let State::Spawning { asked, .. } = self.life.state else { return };
        let failure = self.named(failure);
        out.push(Effect::Tell(Notice::StartFailed(failure.clone())));
        let why = failure.to_string();
        let exit = Exit::NotStarted(failure);
        let process = RunProcess { run, pid: 0, start_time: 0, since: now };
        self.record(process, exit.clone(), false, now);
        match self.life.want {
            Want::Up if asked => self.give_up(why, out),
            Want::Up => self.follow(&exit, Duration::ZERO, now, out),
            Want::Down | Want::Gone => self.settle_down(out),
        }
    }

    fn exited(&mut self, run: u32, exit: Exit, now: Moment, out: &mut Vec<Effect>) {
        let (process, asked, phase) = match self.life.state {
            State::Starting { process, .. } | State::Online { process } | State::Leaving { process } => {
                (process, false, StopPhase::Killed)
            }
            State::Stopping { process, phase: StopPhase::Grace } => (process, true, StopPhase::Grace),
            State::Stopping { process, phase: StopPhase::Killed | StopPhase::Stuck } => {
                (process, true, StopPhase::Killed)
            }
            // It came and went while no daemon was there to hear of it.
            State::Spawning { since, .. } => {
                (RunProcess { run, pid: 0, start_time: 0, since }, false, StopPhase::Killed)
            }
            State::Clearing { .. } | State::Stopped | State::Waiting { .. } | State::Errored { .. } => return,
        };
        out.push(Effect::Tell(Notice::Exited(exit.clone())));
        self.record(process, exit, asked, now);
        self.note_kill(asked && phase == StopPhase::Killed);
        self.life.state = State::Clearing { process, asked, phase };
        out.push(Effect::Sweep { process, kill: phase != StopPhase::Grace });
        match phase {
            StopPhase::Grace => {} // the grace of the first process holds for all
            StopPhase::Killed | StopPhase::Stuck => self.set_timer(KILL_PATIENCE, now, out),
        }
    }

    fn swept(&mut self, left: &[i32], now: Moment, out: &mut Vec<Effect>) {
        let State::Clearing { process, asked, .. } = self.life.state else { return };
        if !left.is_empty() {
            return; // an orphan's end or the timer brings it on
        }
        self.life.timer = None;
        out.push(Effect::Release { run: process.run });
        match self.life.want {
            Want::Up if asked => self.launch(true, now, out),
            Want::Up => {
                let last = self.life.exits.back();
                let (exit, uptime) =
                    last.map_or((Exit::Unknown, 0), |ended| (ended.exit.clone(), ended.uptime));
                self.follow(&exit, Duration::from_millis(uptime), now, out);
            }
            Want::Down | Want::Gone => self.settle_down(out),
        }
    }

    fn orphan_ended(&mut self, out: &mut Vec<Effect>) {
        match self.life.state {
            State::Clearing { process, phase, .. } => {
                out.push(Effect::Sweep { process, kill: phase != StopPhase::Grace });
            }
            State::Stopped
            | State::Spawning { .. }
            | State::Starting { .. }
            | State::Online { .. }
            | State::Leaving { .. }
            | State::Stopping { .. }
            | State::Waiting { .. }
            | State::Errored { .. } => {}
        }
    }

    fn due(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.life.timer = None;
        match &mut self.life.state {
            State::Waiting { .. } => {
                self.life.restarts += 1;
                self.launch(false, now, out);
            }
            State::Starting { process, .. } => {
                let process = *process;
                self.overdue(process, out);
            }
            State::Leaving { process } => {
                let process = *process;
                let why = self.life.why.take();
                self.tell_to_go(process, why, now, out);
            }
            State::Stopping { process, phase } => {
                let process = *process;
                *phase = if *phase == StopPhase::Grace { StopPhase::Killed } else { StopPhase::Stuck };
                out.push(Effect::Kill { process });
                self.set_timer(KILL_PATIENCE, now, out);
            }
            State::Clearing { process, phase, .. } => {
                let process = *process;
                *phase = if *phase == StopPhase::Grace { StopPhase::Killed } else { StopPhase::Stuck };
                out.push(Effect::Sweep { process, kill: true });
                self.note_kill(true);
                self.set_timer(KILL_PATIENCE, now, out);
            }
            State::Stopped | State::Spawning { .. } | State::Online { .. } | State::Errored { .. } => {}
        }
    }

    fn launch(&mut self, asked: bool, now: Moment, out: &mut Vec<Effect>) {
        self.life.timer = None;
        self.life.problem = None;
        self.life.ready = false;
        self.life.last_run += 1;
        let run = self.life.last_run;
        self.life.state = State::Spawning { run, since: now, asked, stale: false };
        out.push(Effect::Tell(Notice::Launching));
        out.push(Effect::Spawn { run });
    }

    fn tell_to_go(&mut self, process: RunProcess, why: Option<String>, now: Moment, out: &mut Vec<Effect>) {
        self.life.state = State::Stopping { process, phase: StopPhase::Grace };
        // One that leaves may have its reason from before.
        self.life.why = why.clone().or(self.life.why.take());
        out.push(Effect::Tell(Notice::Stopping(why)));
        out.push(Effect::Signal { process });
        self.set_timer(self.spec.stop.timeout, now, out);
    }

    fn settle_down(&mut self, out: &mut Vec<Effect>) {
        self.life.timer = None;
        let was = std::mem::replace(&mut self.life.state, State::Stopped);
        if was != State::Stopped {
            out.push(Effect::Tell(Notice::Stopped));
        }
        if self.life.want == Want::Gone {
            out.push(Effect::Forget);
        }
    }

    fn follow(&mut self, exit: &Exit, uptime: Duration, now: Moment, out: &mut Vec<Effect>) {
        match restart::decide(&self.spec.restart, &mut self.life.failures, exit, uptime, now) {
            RestartDecision::RestartAfter(delay) if delay.is_zero() => {
                self.life.restarts += 1;
                self.launch(false, now, out);
            }
            RestartDecision::RestartAfter(delay) => {
                let until = now.plus(delay);
                self.life.state = State::Waiting { until };
                self.life.timer = Some(until);
                out.push(Effect::Timer { at: until });
                out.push(Effect::Tell(Notice::Waiting(until - now.mono)));
            }
            RestartDecision::Finish => self.settle_down(out),
            RestartDecision::GiveUp { restarts, window } => {
                let seconds = window.as_secs();
                let s = if restarts == 1 { "" } else { "s" };
                self.give_up(
                    format!("{restarts} unstable restart{s} within {seconds} s, last exit: {exit}"),
                    out,
                );
            }
        }
    }

    fn give_up(&mut self, why: String, out: &mut Vec<Effect>) {
        self.life.timer = None;
        self.life.state = State::Errored { why: why.clone() };
        out.push(Effect::Tell(Notice::Errored(why)));
    }

    fn record(&mut self, process: RunProcess, exit: Exit, asked: bool, now: Moment) {
        let RunProcess { run, pid, since, .. } = process;
        let uptime = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
        let why = self.life.why.take();
        self.life.remember(RunRecord { at: now, run, pid, uptime, exit, asked, killed: false, why });
    }

    fn note_kill(&mut self, killed: bool) {
        if let Some(last) = self.life.exits.back_mut() {
            last.killed |= killed;
        }
    }

    fn set_timer(&mut self, after: Duration, now: Moment, out: &mut Vec<Effect>) {
        let at = now.plus(after);
        self.life.timer = Some(at);
        out.push(Effect::Timer { at });
    }
}
