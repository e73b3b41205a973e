//! One supervised slot: what is wanted, what is so, and what follows from what happens.
//!
//! [`Instance::on`] is the whole of supervision as a pure function of (state, event, time): it
//! performs nothing and returns the [`Effect`]s to perform. Whatever an effect leads to comes
//! back as another event that names its run; news of a former run is dropped in one place.

pub mod event;
pub mod launch;
mod reason;
pub mod replacement;
pub mod restart_policy;
mod resume;
pub mod snapshot;
pub mod state;
pub mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use self::event::{Effect, InstanceEvent, Notice};
use self::state::{RunProcess, State, StopPhase, Want};
use crate::exit::{Exit, StartFailure};
use crate::instance::restart_policy::{FailureHistory, RestartDecision};
use crate::instance::status::{InstanceStatus, RunRecord};
use crate::spec::{AppSpec, EnvVars, ReadySignal};
use crate::time::Moment;

/// How long SIGKILL may take before it is reported that it does not help.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

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
    pub status: InstanceStatus,
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
        Self { id, number, spec, inherited, status: InstanceStatus::new(last_run, now) }
    }

    /// What follows from `event`. The only way an instance changes.
    pub fn handle(&mut self, event: InstanceEvent, now: Moment) -> Vec<Effect> {
        if event.run().is_some_and(|run| self.status.state.run() != Some(run)) {
            return Vec::new(); // news of a former run
        }
        let mut out = Vec::new();
        match event {
            InstanceEvent::Start => self.start(now, &mut out),
            InstanceEvent::Restart(why) => self.restart(why, now, &mut out),
            InstanceEvent::Stop => self.stop(Want::Down, now, &mut out),
            InstanceEvent::Delete => self.stop(Want::Gone, now, &mut out),
            InstanceEvent::DrainAndDelete => self.drain_and_delete(now, &mut out),
            InstanceEvent::Drained { .. } => self.on_drained(now, &mut out),
            InstanceEvent::Spawned { run, pid, start_time } => {
                self.on_spawned(RunProcess { run, pid, start_time, since: now }, now, &mut out);
            }
            // Which is more than to listen.
            InstanceEvent::Listening { .. }
                if matches!(self.spec.ready_signal(), ReadySignal::Notified | ReadySignal::ProbePassed) => {}
            InstanceEvent::Listening { .. } | InstanceEvent::Ready { .. } => self.on_ready(&mut out),
            InstanceEvent::SpawnFailed { run, failure } => self.on_spawn_failed(run, failure, now, &mut out),
            InstanceEvent::Exited { run, exit } => self.on_exited(run, exit, now, &mut out),
            InstanceEvent::TreeChecked { remaining: left, .. } => self.on_tree_checked(&left, now, &mut out),
            InstanceEvent::OrphanExited => self.on_orphan_exited(&mut out),
            InstanceEvent::TimerFired { at } if self.status.timer == Some(at) => self.on_timer(now, &mut out),
            InstanceEvent::TimerFired { .. } => {}
        }
        out
    }

    /// Counters to zero, as `rsm reset`.
    pub fn reset(&mut self, now: Moment) {
        self.status.restarts = 0;
        self.status.failure_history = FailureHistory::default();
        self.status.created = now;
    }

    fn start(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.status.want == Want::Gone {
            return; // a delete is not taken back
        }
        self.status.want = Want::Up;
        match &mut self.status.state {
            State::Stopped | State::Waiting { .. } | State::Errored { .. } => {
                self.status.failure_history = FailureHistory::default();
                self.spawn(true, now, out);
            }
            // Once it is cleared the want is found to be up; asked means without delay.
            State::CleaningUp { requested: asked, .. } => *asked = true,
            State::Spawning { .. }
            | State::Starting { .. }
            | State::Online { .. }
            | State::Draining { .. }
            | State::Stopping { .. } => {}
        }
    }

    fn restart(&mut self, why: Option<String>, now: Moment, out: &mut Vec<Effect>) {
        if self.status.want == Want::Gone {
            return;
        }
        let was_wanted = self.status.want == Want::Up;
        self.status.failure_history = FailureHistory::default();
        match &mut self.status.state {
            State::Spawning { stale, .. } => {
                *stale |= was_wanted;
                self.status.want = Want::Up;
            }
            State::Starting { process, .. } | State::Online { process } => {
                let process = *process;
                self.status.restarts += 1;
                self.status.want = Want::Up;
                self.begin_stop(process, why, now, out);
            }
            State::Stopped
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::CleaningUp { .. }
            | State::Waiting { .. }
            | State::Errored { .. } => self.start(now, out),
        }
    }

    fn stop(&mut self, want: Want, now: Moment, out: &mut Vec<Effect>) {
        // A delete cannot be taken back by a stop.
        self.status.want = if self.status.want == Want::Gone { Want::Gone } else { want };
        match &self.status.state {
            State::Stopped | State::Waiting { .. } | State::Errored { .. } => self.finish_stop(out),
            State::Starting { process, .. } | State::Online { process } | State::Draining { process } => {
                let process = *process;
                self.begin_stop(process, None, now, out);
            }
            State::Spawning { .. } | State::Stopping { .. } | State::CleaningUp { .. } => {}
        }
    }

    fn on_spawned(&mut self, process: RunProcess, now: Moment, out: &mut Vec<Effect>) {
        match &self.status.state {
            State::Spawning { stale, .. } => {
                if self.status.want == Want::Up && !stale {
                    self.enter_starting(process, now, out);
                } else {
                    self.begin_stop(process, None, now, out);
                }
            }
            // Told again to a new daemon.
            State::Starting { .. }
            | State::Online { .. }
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::CleaningUp { .. } => {}
            State::Stopped | State::Waiting { .. } | State::Errored { .. } => {}
        }
    }

    fn enter_starting(&mut self, process: RunProcess, now: Moment, out: &mut Vec<Effect>) {
        match self.spec.ready_signal() {
            ReadySignal::Running => self.become_online(process, out),
            ReadySignal::Listening | ReadySignal::Notified | ReadySignal::ProbePassed => {
                self.status.state = State::Starting { process, overdue: false };
                self.set_timer(self.spec.readiness.timeout, now, out);
            }
        }
    }

    fn on_ready(&mut self, out: &mut Vec<Effect>) {
        self.status.ready = true;
        if let State::Starting { process, .. } = self.status.state {
            self.become_online(process, out);
        }
    }

    fn become_online(&mut self, process: RunProcess, out: &mut Vec<Effect>) {
        self.status.timer = None;
        self.status.health_problem = None;
        self.status.state = State::Online { process };
        out.push(Effect::Publish(Notice::Online));
    }

    /// It has not become ready in time. What it does need not be wrong, so it goes on.
    fn on_ready_timeout(&mut self, process: RunProcess, out: &mut Vec<Effect>) {
        match self.spec.ready_signal() {
            ReadySignal::Running | ReadySignal::Listening => self.become_online(process, out),
            ReadySignal::Notified | ReadySignal::ProbePassed => {
                self.status.state = State::Starting { process, overdue: true };
                out.push(Effect::Publish(Notice::ReadyTimeout));
            }
        }
    }

    fn on_spawn_failed(&mut self, run: u32, failure: StartFailure, now: Moment, out: &mut Vec<Effect>) {
        let State::Spawning { requested: asked, .. } = self.status.state else { return };
        let failure = self.with_subject(failure);
        out.push(Effect::Publish(Notice::StartFailed(failure.clone())));
        let why = failure.to_string();
        let exit = Exit::NotStarted(failure);
        let process = RunProcess { run, pid: 0, start_time: 0, since: now };
        self.record_run(process, exit.clone(), false, now);
        match self.status.want {
            Want::Up if asked => self.mark_errored(why, out),
            Want::Up => self.apply_restart_policy(&exit, Duration::ZERO, now, out),
            Want::Down | Want::Gone => self.finish_stop(out),
        }
    }

    fn on_exited(&mut self, run: u32, exit: Exit, now: Moment, out: &mut Vec<Effect>) {
        let (process, asked, phase) = match self.status.state {
            State::Starting { process, .. } | State::Online { process } | State::Draining { process } => {
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
            State::CleaningUp { .. } | State::Stopped | State::Waiting { .. } | State::Errored { .. } => {
                return;
            }
        };
        out.push(Effect::Publish(Notice::Exited(exit.clone())));
        self.record_run(process, exit, asked, now);
        self.record_kill(asked && phase == StopPhase::Killed);
        self.status.state = State::CleaningUp { process, requested: asked, phase };
        out.push(Effect::CleanUpTree { process, force: phase != StopPhase::Grace });
        match phase {
            StopPhase::Grace => {} // the grace of the first process holds for all
            StopPhase::Killed | StopPhase::Stuck => self.set_timer(KILL_TIMEOUT, now, out),
        }
    }

    fn on_tree_checked(&mut self, left: &[i32], now: Moment, out: &mut Vec<Effect>) {
        let State::CleaningUp { process, requested: asked, .. } = self.status.state else { return };
        if !left.is_empty() {
            return; // an orphan's end or the timer brings it on
        }
        self.status.timer = None;
        out.push(Effect::ReleaseRun { run: process.run });
        match self.status.want {
            Want::Up if asked => self.spawn(true, now, out),
            Want::Up => {
                let last = self.status.history.back();
                let (exit, uptime) =
                    last.map_or((Exit::Unknown, 0), |ended| (ended.exit.clone(), ended.uptime));
                self.apply_restart_policy(&exit, Duration::from_millis(uptime), now, out);
            }
            Want::Down | Want::Gone => self.finish_stop(out),
        }
    }

    fn on_orphan_exited(&mut self, out: &mut Vec<Effect>) {
        match self.status.state {
            State::CleaningUp { process, phase, .. } => {
                out.push(Effect::CleanUpTree { process, force: phase != StopPhase::Grace });
            }
            State::Stopped
            | State::Spawning { .. }
            | State::Starting { .. }
            | State::Online { .. }
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::Waiting { .. }
            | State::Errored { .. } => {}
        }
    }

    fn on_timer(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.status.timer = None;
        match &mut self.status.state {
            State::Waiting { .. } => {
                self.status.restarts += 1;
                self.spawn(false, now, out);
            }
            State::Starting { process, .. } => {
                let process = *process;
                self.on_ready_timeout(process, out);
            }
            State::Draining { process } => {
                let process = *process;
                let why = self.status.stop_reason.take();
                self.begin_stop(process, why, now, out);
            }
            State::Stopping { process, phase } => {
                let process = *process;
                *phase = if *phase == StopPhase::Grace { StopPhase::Killed } else { StopPhase::Stuck };
                out.push(Effect::Kill { process });
                self.set_timer(KILL_TIMEOUT, now, out);
            }
            State::CleaningUp { process, phase, .. } => {
                let process = *process;
                *phase = if *phase == StopPhase::Grace { StopPhase::Killed } else { StopPhase::Stuck };
                out.push(Effect::CleanUpTree { process, force: true });
                self.record_kill(true);
                self.set_timer(KILL_TIMEOUT, now, out);
            }
            State::Stopped | State::Spawning { .. } | State::Online { .. } | State::Errored { .. } => {}
        }
    }

    fn spawn(&mut self, asked: bool, now: Moment, out: &mut Vec<Effect>) {
        self.status.timer = None;
        self.status.health_problem = None;
        self.status.ready = false;
        self.status.last_run += 1;
        let run = self.status.last_run;
        self.status.state = State::Spawning { run, since: now, requested: asked, stale: false };
        out.push(Effect::Publish(Notice::Launching));
        out.push(Effect::Spawn { run });
    }

    fn begin_stop(&mut self, process: RunProcess, why: Option<String>, now: Moment, out: &mut Vec<Effect>) {
        self.status.state = State::Stopping { process, phase: StopPhase::Grace };
        // One that leaves may have its reason from before.
        self.status.stop_reason = why.clone().or(self.status.stop_reason.take());
        out.push(Effect::Publish(Notice::Stopping(why)));
        out.push(Effect::SendStopSignal { process });
        self.set_timer(self.spec.stop.timeout, now, out);
    }

    fn finish_stop(&mut self, out: &mut Vec<Effect>) {
        self.status.timer = None;
        let was = std::mem::replace(&mut self.status.state, State::Stopped);
        if was != State::Stopped {
            out.push(Effect::Publish(Notice::Stopped));
        }
        if self.status.want == Want::Gone {
            out.push(Effect::Remove);
        }
    }

    fn apply_restart_policy(&mut self, exit: &Exit, uptime: Duration, now: Moment, out: &mut Vec<Effect>) {
        match restart_policy::decide(&self.spec.restart, &mut self.status.failure_history, exit, uptime, now)
        {
            RestartDecision::RestartAfter(delay) if delay.is_zero() => {
                self.status.restarts += 1;
                self.spawn(false, now, out);
            }
            RestartDecision::RestartAfter(delay) => {
                let until = now.plus(delay);
                self.status.state = State::Waiting { until };
                self.status.timer = Some(until);
                out.push(Effect::SetTimer { at: until });
                out.push(Effect::Publish(Notice::RestartScheduled(until - now.mono)));
            }
            RestartDecision::Stop => self.finish_stop(out),
            RestartDecision::MarkErrored { restarts, window } => {
                let seconds = window.as_secs();
                let s = if restarts == 1 { "" } else { "s" };
                self.mark_errored(
                    format!("{restarts} unstable restart{s} within {seconds} s, last exit: {exit}"),
                    out,
                );
            }
        }
    }

    fn mark_errored(&mut self, why: String, out: &mut Vec<Effect>) {
        self.status.timer = None;
        self.status.state = State::Errored { reason: why.clone() };
        out.push(Effect::Publish(Notice::Errored(why)));
    }

    fn record_run(&mut self, process: RunProcess, exit: Exit, asked: bool, now: Moment) {
        let RunProcess { run, pid, since, .. } = process;
        let uptime = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
        let why = self.status.stop_reason.take();
        self.status.push_run(RunRecord {
            at: now,
            run,
            pid,
            uptime,
            exit,
            requested: asked,
            killed: false,
            reason: why,
        });
    }

    fn record_kill(&mut self, killed: bool) {
        if let Some(last) = self.status.history.back_mut() {
            last.killed |= killed;
        }
    }

    fn set_timer(&mut self, after: Duration, now: Moment, out: &mut Vec<Effect>) {
        let at = now.plus(after);
        self.status.timer = Some(at);
        out.push(Effect::SetTimer { at });
    }
}
