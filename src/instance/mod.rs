//! One supervised instance of an app: the requested goal, the current state, and the transitions between states.
//!
//! [`Instance::handle`] is a pure function of (state, event, time): it performs no I/O and returns the [`Effect`]s
//! to perform. The outcome of an effect comes back as another event that names its run; events of a former run
//! are dropped in one place. An instance changes by `handle` and by the other transitions defined in this module;
//! its fields are private.

mod background;
mod completed;
mod condition;
pub mod event;
pub mod inspector;
pub mod launch;
pub mod program_lookup;
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

pub use self::completed::{CompletedCommand, Goal};
pub use self::condition::JobEnd;
use self::event::{Effect, InstanceEvent, Notice};
use self::restart_policy::{FailureHistory, RestartDecision, RunEnd};
use self::state::{CleanUp, RunProcess, State, StopPhase, Want};
use self::status::{InstanceStatus, Listens, RunId, RunRecord};
use crate::exit::{Exit, StartFailure};
use crate::paths::{is_same_file_name, sanitize_file_name, unique_file_name};
use crate::spec::{AppSpec, EnvVars, ReadySignal};
use crate::time::Moment;

/// Delays before another start while the system is short of resources.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(200);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// A run of an app that has listened before gets this many times the time that it took then.
const LISTEN_TIME_FACTOR: u32 = 3;

/// The time SIGKILL gets before the process is reported as one that cannot be killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// One instance of an app, `api:0`. It outlives its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    id: u32,
    number: u32,
    spec: Arc<AppSpec>,
    inherited: Arc<EnvVars>,
    status: InstanceStatus,
    /// The file name of its app is that of another app already.
    has_unique_file_name: bool,
}

impl Instance {
    /// A new instance that does not run. `last_run` is the highest run number in use.
    pub fn new(
        id: u32,
        number: u32,
        spec: Arc<AppSpec>,
        inherited: Arc<EnvVars>,
        last_run: u32,
        now: Moment,
    ) -> Self {
        let status = InstanceStatus::new(last_run, now);
        Self { id, number, spec, inherited, status, has_unique_file_name: false }
    }

    /// The id among all instances (PM2's `pm_id`).
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The number among the instances of the app, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The settings of the app. A running process may still have former ones.
    pub fn spec(&self) -> &Arc<AppSpec> {
        &self.spec
    }

    /// The name of its app in the names of default log files: that of PM2, unless another app has it.
    pub fn file_name(&self) -> String {
        match self.has_unique_file_name {
            true => unique_file_name(&self.spec.name),
            false => sanitize_file_name(&self.spec.name),
        }
    }

    /// Makes the file name unique if another app has the usual one, and the same as that of another instance of the
    /// app.
    pub fn choose_file_name<'a>(&mut self, all: impl Iterator<Item = &'a Self> + Clone) {
        let name = &self.spec.name;
        let is_taken = |other: &Self| {
            !other.has_unique_file_name
                && is_same_file_name(&other.spec.name, name)
                && other.spec.name != *name
        };
        self.has_unique_file_name = match all.clone().find(|other| other.spec.name == *name) {
            Some(other) => other.has_unique_file_name,
            None => self.has_unique_file_name || all.clone().any(is_taken),
        };
    }

    /// The environment of the shell that started the app.
    pub fn inherited(&self) -> &Arc<EnvVars> {
        &self.inherited
    }

    /// Goal, state, counters and history.
    pub fn status(&self) -> &InstanceStatus {
        &self.status
    }

    /// The run that the state is about.
    pub fn current_run(&self) -> Option<RunId> {
        self.status.state.run().map(|number| RunId { instance: self.id, number })
    }

    /// Whether a process runs and is ready.
    pub fn is_online(&self) -> bool {
        matches!(self.status.state, State::Online { .. })
    }

    /// Unexpected exits since the last healthy run; 0 if the current run is healthy.
    pub fn failed_runs(&self, now: Moment) -> u32 {
        match self.status.state {
            State::Online { process } | State::Draining { process }
                if now.since(process.since) >= restart_policy::healthy_uptime(&self.spec.restart) =>
            {
                0
            }
            _ => self.status.failure_history.consecutive,
        }
    }

    /// Changes the state by an event, and returns what has to be done.
    pub fn handle(&mut self, event: InstanceEvent, now: Moment) -> Vec<Effect> {
        if event.run().is_some_and(|run| self.status.state.run() != Some(run)) {
            return Vec::new(); // an event of a former run
        }
        let mut out = Vec::new();
        match event {
            InstanceEvent::Start => self.start(now, &mut out),
            InstanceEvent::Restart(reason) => self.restart(reason, now, &mut out),
            InstanceEvent::Enqueue => self.enqueue(now, &mut out),
            InstanceEvent::Stop => self.stop(Want::Down, now, &mut out),
            InstanceEvent::Delete => self.stop(Want::Gone, now, &mut out),
            InstanceEvent::DrainAndDelete => self.drain_and_delete(now, &mut out),
            InstanceEvent::Drained { .. } => self.on_drained(now, &mut out),
            InstanceEvent::Spawned { run, pid, start_time } => {
                self.on_spawned(RunProcess { run, pid, start_time, since: now }, now, &mut out);
            }
            // Such an app is ready only when it says so, or its probe does.
            InstanceEvent::Listening { .. }
                if matches!(self.spec.ready_signal(), ReadySignal::Notified | ReadySignal::ProbePassed) => {}
            InstanceEvent::Listening { .. } => self.on_listening(now, &mut out),
            InstanceEvent::Ready { .. } => self.on_ready(&mut out),
            InstanceEvent::SpawnFailed { run, failure } => self.on_spawn_failed(run, failure, now, &mut out),
            InstanceEvent::Exited { run, exit } => self.on_exited(run, exit, now, &mut out),
            InstanceEvent::TreeChecked { remaining, background, .. } => {
                self.on_tree_checked(&remaining, background, now, &mut out);
            }
            InstanceEvent::OrphanExited => self.on_orphan_exited(&mut out),
            InstanceEvent::TimerFired { at } if self.status.timer == Some(at) => self.on_timer(now, &mut out),
            InstanceEvent::TimerFired { .. } => {}
        }
        out
    }

    /// Resets the counters to zero, as `rsm reset`.
    pub fn reset(&mut self, now: Moment) {
        self.status.restarts = 0;
        self.status.crashes = 0;
        self.status.runs = 0;
        self.status.failure_history = FailureHistory::default();
        self.status.created = now;
    }

    /// Changes the settings, from the next start on.
    pub fn update_spec(&mut self, spec: Arc<AppSpec>) {
        // With other settings, the app may listen.
        if self.status.listens == Listens::Never && self.spec != spec {
            self.status.listens = Listens::Unknown;
        }
        self.spec = spec;
    }

    /// Changes the inherited environment, from the next start on.
    pub fn update_inherited(&mut self, inherited: Arc<EnvVars>) {
        self.inherited = inherited;
    }

    /// Lets a schedule or a file change start the instance, without starting it now.
    pub fn enable(&mut self) {
        self.status.want = Want::Up;
    }

    /// Makes the next run get a number above `last_run`.
    pub fn reserve_run_numbers(&mut self, last_run: u32) {
        self.status.last_run = self.status.last_run.max(last_run);
    }

    /// Prepares a saved instance for its first start after a boot. `last_run` is the highest run number in use.
    pub fn reset_for_boot(&mut self, id: u32, last_run: u32) {
        self.id = id;
        self.status.reset_for_boot(last_run);
    }

    /// Records why the readiness probe of a starting process failed last.
    pub fn record_not_ready(&mut self, problem: String) {
        if matches!(self.status.state, State::Starting { .. }) {
            self.status.health_problem = Some(problem);
        }
    }

    /// Records that the liveness probe succeeded. True if the process was unhealthy.
    pub fn mark_healthy(&mut self) -> bool {
        self.status.health_problem.take().is_some()
    }

    /// Records that the liveness probe failed. True if the process was healthy.
    pub fn mark_unhealthy(&mut self, problem: String) -> bool {
        self.status.health_problem.replace(problem).is_none()
    }

    /// Records why the last attempt to replace the process failed.
    pub fn record_replace_error(&mut self, error: String) {
        self.status.replace_error = Some(error);
    }

    fn start(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.status.want == Want::Gone {
            return; // a deletion cannot be canceled
        }
        self.status.want = Want::Up;
        match &mut self.status.state {
            State::Stopped | State::Waiting { .. } | State::Errored { .. } => {
                self.status.failure_history = FailureHistory::default();
                self.spawn(true, now, out);
            }
            // Starts when the tree has ended; `requested` means without the delay of the restart policy.
            State::CleaningUp { requested, .. } => *requested = true,
            State::Spawning { .. }
            | State::Starting { .. }
            | State::Online { .. }
            | State::Draining { .. }
            | State::Stopping { .. } => {}
        }
    }

    /// Starts another run now, or once the current one has ended.
    fn enqueue(&mut self, now: Moment, out: &mut Vec<Effect>) {
        match self.status.state {
            State::Stopped | State::Errored { .. } => self.start(now, out),
            State::Spawning { .. }
            | State::Starting { .. }
            | State::Online { .. }
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::CleaningUp { .. }
            | State::Waiting { .. } => self.status.queued = self.status.want == Want::Up,
        }
    }

    fn restart(&mut self, reason: Option<String>, now: Moment, out: &mut Vec<Effect>) {
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
                self.begin_stop(process, reason, now, out);
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
        // A stop does not cancel a deletion.
        self.status.want = if self.status.want == Want::Gone { Want::Gone } else { want };
        self.status.queued = false;
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
            // A restarted daemon receives this event again.
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
            ReadySignal::Listening if self.status.listens == Listens::Never => {
                self.become_online(process, out);
            }
            ReadySignal::Listening | ReadySignal::Notified | ReadySignal::ProbePassed => {
                self.status.state = State::Starting { process, overdue: false };
                self.set_timer(self.ready_timeout(), now, out);
            }
        }
    }

    /// How long a run may take to become ready: `listen_timeout`, or longer if the app is known to need more time
    /// until it listens.
    pub fn ready_timeout(&self) -> Duration {
        let timeout = self.spec.readiness.timeout;
        match (self.spec.ready_signal(), self.status.listens) {
            (ReadySignal::Listening, Listens::After(millis)) => {
                timeout.max(Duration::from_millis(millis).saturating_mul(LISTEN_TIME_FACTOR))
            }
            _ => timeout,
        }
    }

    fn on_listening(&mut self, now: Moment, out: &mut Vec<Effect>) {
        // A process that listens on several ports is measured at the first.
        if let (Some(process), false) = (self.status.state.process(), self.status.ready) {
            let millis = u64::try_from(now.since(process.since).as_millis()).unwrap_or(u64::MAX);
            self.status.listens = Listens::After(millis);
        }
        self.on_ready(out);
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

    /// The process has not become ready within `listen_timeout`. It may still work, so it keeps running.
    fn on_ready_timeout(&mut self, process: RunProcess, out: &mut Vec<Effect>) {
        match self.spec.ready_signal() {
            ReadySignal::Running | ReadySignal::Listening => {
                if self.status.listens == Listens::Unknown {
                    self.status.listens = Listens::Never;
                }
                self.become_online(process, out);
            }
            ReadySignal::Notified | ReadySignal::ProbePassed => {
                self.status.state = State::Starting { process, overdue: true };
                out.push(Effect::Publish(Notice::ReadyTimeout));
            }
        }
    }

    fn on_spawn_failed(&mut self, run: u32, failure: StartFailure, now: Moment, out: &mut Vec<Effect>) {
        let State::Spawning { requested, .. } = self.status.state else { return };
        let failure = self.with_subject(failure);
        out.push(Effect::Publish(Notice::StartFailed(failure.clone())));
        let (reason, is_transient) = (failure.to_string(), failure.is_transient());
        let exit = Exit::NotStarted(failure);
        let process = RunProcess { run, pid: 0, start_time: 0, since: now };
        let run = self.record_run(process, exit, (false, false), now);
        match self.status.want {
            Want::Up if is_transient => self.retry_start(now, out),
            Want::Up if requested => self.mark_errored(reason, out),
            Want::Up => self.apply_restart_policy(&run, now, out),
            Want::Down | Want::Gone => self.finish_stop(out),
        }
    }

    fn on_exited(&mut self, run: u32, exit: Exit, now: Moment, out: &mut Vec<Effect>) {
        // How long a run that ended while no daemon was running took to become ready is unknown.
        let ready = !matches!(self.status.state, State::Starting { .. });
        let (process, requested, phase) = match self.status.state {
            State::Starting { process, .. } | State::Online { process } | State::Draining { process } => {
                (process, false, StopPhase::Killed)
            }
            State::Stopping { process, phase: StopPhase::Grace } => (process, true, StopPhase::Grace),
            State::Stopping { process, phase: StopPhase::Killed | StopPhase::Stuck } => {
                (process, true, StopPhase::Killed)
            }
            // The process started and ended while no daemon ran.
            State::Spawning { since, .. } => {
                (RunProcess { run, pid: 0, start_time: 0, since }, false, StopPhase::Killed)
            }
            State::CleaningUp { .. } | State::Stopped | State::Waiting { .. } | State::Errored { .. } => {
                return;
            }
        };
        out.push(Effect::Publish(Notice::Exited(exit.clone())));
        if !requested && !self.status.ready {
            self.status.listens = Listens::Unknown; // it may have exited before it would have listened
        }
        self.record_run(process, exit, (requested, ready), now);
        self.record_kill(requested && phase == StopPhase::Killed);
        self.status.state = State::CleaningUp { process, requested, phase };
        out.push(Effect::CleanUpTree { process, mode: phase.clean_up() });
        match phase {
            StopPhase::Grace => {} // the kill timeout of the first process holds for the whole tree
            StopPhase::Killed | StopPhase::Stuck => self.set_timer(KILL_TIMEOUT, now, out),
        }
    }

    fn on_tree_checked(
        &mut self,
        remaining: &[i32],
        background: Option<String>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let State::CleaningUp { process, requested, .. } = self.status.state else { return };
        let last = self.status.history.back();
        let (exit, uptime) = last.map_or((Exit::Unknown, 0), |run| (run.exit.clone(), run.uptime));
        let uptime = Duration::from_millis(uptime);
        if !remaining.is_empty() {
            if background::is_background_start(&exit, uptime) {
                self.status.background = self.status.background.take().or(background);
            }
            return; // checked again when an orphan exits, or when the timer fires
        }
        let background = self.status.background.take();
        self.status.timer = None;
        out.push(Effect::ReleaseRun { run: process.run });
        match self.status.want {
            Want::Up if requested => self.spawn(true, now, out),
            Want::Up => {
                if let Some(program) = background {
                    return self.mark_errored(background::reason(&program), out);
                }
                // The exit was recorded when the state was entered.
                let Some(run) = self.status.history.back().cloned() else {
                    return self.spawn(false, now, out);
                };
                self.apply_restart_policy(&run, now, out);
            }
            Want::Down | Want::Gone => self.finish_stop(out),
        }
    }

    fn on_orphan_exited(&mut self, out: &mut Vec<Effect>) {
        match self.status.state {
            State::CleaningUp { process, phase, .. } => {
                out.push(Effect::CleanUpTree { process, mode: phase.clean_up() });
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
                let reason = self.status.stop_reason.take();
                self.begin_stop(process, reason, now, out);
            }
            State::Stopping { process, phase } => {
                let process = *process;
                *phase = phase.next();
                out.push(Effect::Kill { process });
                self.set_timer(KILL_TIMEOUT, now, out);
            }
            State::CleaningUp { process, phase, .. } => {
                let process = *process;
                *phase = phase.next();
                out.push(Effect::CleanUpTree { process, mode: CleanUp::Kill });
                self.record_kill(true);
                self.set_timer(KILL_TIMEOUT, now, out);
            }
            State::Stopped | State::Spawning { .. } | State::Online { .. } | State::Errored { .. } => {}
        }
    }

    fn spawn(&mut self, requested: bool, now: Moment, out: &mut Vec<Effect>) {
        self.status.timer = None;
        self.status.health_problem = None;
        self.status.ready = false;
        self.status.queued = false;
        self.status.last_run += 1;
        self.status.runs = self.status.runs.saturating_add(1);
        let run = self.status.last_run;
        self.status.state = State::Spawning { run, since: now, requested, stale: false };
        out.push(Effect::Publish(Notice::Launching));
        out.push(Effect::Spawn { run });
    }

    fn begin_stop(
        &mut self,
        process: RunProcess,
        reason: Option<String>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        self.status.state = State::Stopping { process, phase: StopPhase::Grace };
        // A process that was being drained has its reason already.
        self.status.stop_reason = reason.clone().or(self.status.stop_reason.take());
        out.push(Effect::Publish(Notice::Stopping(reason)));
        out.push(Effect::SendStopSignal { process });
        self.set_timer(self.spec.stop.timeout, now, out);
    }

    fn finish_stop(&mut self, out: &mut Vec<Effect>) {
        self.status.timer = None;
        let former = std::mem::replace(&mut self.status.state, State::Stopped);
        if former != State::Stopped {
            out.push(Effect::Publish(Notice::Stopped));
        }
        if self.status.want == Want::Gone {
            out.push(Effect::Remove);
        }
    }

    fn apply_restart_policy(&mut self, run: &RunRecord, now: Moment, out: &mut Vec<Effect>) {
        let end = RunEnd { exit: &run.exit, uptime: Duration::from_millis(run.uptime), ready: run.ready };
        match restart_policy::decide(&self.spec.restart, &mut self.status.failure_history, end, now) {
            RestartDecision::RestartAfter(delay) if delay.is_zero() => {
                self.status.restarts += 1;
                self.spawn(false, now, out);
            }
            RestartDecision::RestartAfter(delay) => {
                self.wait(delay, now, out);
            }
            RestartDecision::Stop if self.status.queued => self.spawn(false, now, out),
            RestartDecision::Stop => self.finish_stop(out),
            RestartDecision::MarkErrored { restarts, window } => {
                let seconds = window.as_secs();
                let s = if restarts == 1 { "" } else { "s" };
                self.mark_errored(
                    format!("{restarts} unstable restart{s} within {seconds} s, last exit: {}", run.exit),
                    out,
                );
            }
        }
    }

    /// Starts again later, as long as the system is short of resources: that is no fault of the app.
    fn retry_start(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let attempts = self.status.failure_history.consecutive;
        self.status.failure_history.consecutive = attempts.saturating_add(1);
        // Spread by id: many instances fail at the same time.
        let spread = MIN_RETRY_DELAY / 8 * (self.id % 8);
        let delay = (MIN_RETRY_DELAY * (1 << attempts.min(6))).min(MAX_RETRY_DELAY) + spread;
        self.wait(delay, now, out);
    }

    fn wait(&mut self, delay: Duration, now: Moment, out: &mut Vec<Effect>) {
        let until = now.plus(delay);
        self.status.state = State::Waiting { until };
        self.status.timer = Some(until);
        out.push(Effect::SetTimer { at: until });
        out.push(Effect::Publish(Notice::RestartScheduled(until - now.mono)));
    }

    fn mark_errored(&mut self, reason: String, out: &mut Vec<Effect>) {
        self.status.timer = None;
        self.status.state = State::Errored { reason: reason.clone() };
        out.push(Effect::Publish(Notice::Errored(reason)));
    }

    fn record_run(
        &mut self,
        process: RunProcess,
        exit: Exit,
        (requested, ready): (bool, bool),
        now: Moment,
    ) -> RunRecord {
        let RunProcess { run, pid, since, .. } = process;
        let uptime = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
        let reason = self.status.stop_reason.take();
        let run = RunRecord { at: now, run, pid, uptime, exit, requested, ready, killed: false, reason };
        self.status.crashes += u32::from(!requested && self.run_end(&run) == JobEnd::Failed);
        self.status.push_run(run.clone());
        run
    }

    fn record_kill(&mut self, killed: bool) {
        if let Some(last) = self.status.history.back_mut() {
            last.killed |= killed;
        }
    }

    /// The instance is replaced by others: it gets no new connections, and is stopped when its connections are
    /// closed or `kill_timeout` is over.
    fn drain_and_delete(&mut self, now: Moment, out: &mut Vec<Effect>) {
        match self.status.state {
            State::Starting { process, .. } | State::Online { process }
                // An unhealthy process may never close its connections.
                if self.spec.shares_ports()
                    && self.status.want != Want::Gone
                    && self.status.health_problem.is_none() =>
            {
                self.status.want = Want::Gone;
                self.status.state = State::Draining { process };
                out.push(Effect::Publish(Notice::Draining));
                out.push(Effect::Drain { run: process.run });
                self.set_timer(self.spec.stop.timeout, now, out);
            }
            _ => self.stop(Want::Gone, now, out),
        }
    }

    fn on_drained(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if let State::Draining { process } = self.status.state {
            let reason = self.status.stop_reason.take();
            self.begin_stop(process, reason, now, out);
        }
    }

    fn set_timer(&mut self, after: Duration, now: Moment, out: &mut Vec<Effect>) {
        let at = now.plus(after);
        self.status.timer = Some(at);
        out.push(Effect::SetTimer { at });
    }
}
