//! The second process of an instance during a reload: a [`Replacement`] has the id of the current [`Instance`] and
//! runs until one of the two has ended.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Instance;
use super::event::{Effect, InstanceEvent};
use super::state::{State, Want};
use super::status::{InstanceStatus, Listens, RunId};
use crate::spec::{AppSpec, EnvVars};
use crate::time::Moment;

/// The shortest probation: a process that exits immediately does so within this time.
const MIN_PROBATION: Duration = Duration::from_millis(250);

/// The longest probation. In between, it lasts `min_uptime`.
const MAX_PROBATION: Duration = Duration::from_secs(3);

/// The second process of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    pub(super) instance: Instance,
    pub(super) role: ReplacementRole,
}

/// Whether a second process comes or goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplacementRole {
    /// A new process that will replace the current one.
    #[serde(alias = "coming")]
    Incoming {
        /// The end of its probation, in milliseconds of the monotonic clock. Set once the process is ready.
        #[serde(alias = "proven_at")]
        probation_ends: Option<u64>,
        /// Why the current process must end, also if the new one fails. None if a user requested the replacement.
        #[serde(alias = "forced")]
        forced_reason: Option<String>,
        /// Instances that were replaced before, and their last runs until then: if a later run of one has exited,
        /// this replacement is aborted.
        #[serde(default)]
        #[serde(alias = "after")]
        earlier_runs: Vec<RunId>,
    },
    /// The former process, which is being drained and stopped.
    #[serde(alias = "going")]
    Outgoing,
}

impl Replacement {
    /// A new process for `current`, with these settings. It continues the run numbers.
    pub fn new(
        current: &mut Instance,
        (spec, inherited): (Arc<AppSpec>, Arc<EnvVars>),
        forced_reason: Option<String>,
        earlier_runs: Vec<RunId>,
        now: Moment,
    ) -> Self {
        current.status.replace_error = None;
        let mut status = InstanceStatus::new(current.status.last_run, now);
        // A process with other settings may listen where the current one does not.
        let is_same = current.spec == spec && current.inherited == inherited;
        if is_same || current.status.listens != Listens::Never {
            status.listens = current.status.listens;
        }
        let has_unique_file_name = current.has_unique_file_name;
        let (id, number) = (current.id, current.number);
        let instance = Instance { id, number, spec, inherited, status, has_unique_file_name };
        let role = ReplacementRole::Incoming { probation_ends: None, forced_reason, earlier_runs };
        Self { instance, role }
    }

    /// The instance with the second process.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Whether the second process comes or goes.
    pub fn role(&self) -> &ReplacementRole {
        &self.role
    }

    /// Whether the second process will replace the current one, unless it fails.
    pub fn is_incoming(&self) -> bool {
        matches!(self.role, ReplacementRole::Incoming { .. })
    }

    /// When the probation ends, if it has begun.
    pub fn probation_ends(&self) -> Option<u64> {
        match self.role {
            ReplacementRole::Incoming { probation_ends, .. } => probation_ends,
            ReplacementRole::Outgoing => None,
        }
    }

    /// Changes the state by an event, and returns what has to be done.
    pub fn handle(&mut self, event: InstanceEvent, now: Moment) -> Vec<Effect> {
        self.instance.handle(event, now)
    }

    /// Makes the next run get a number above `last_run`.
    pub fn reserve_run_numbers(&mut self, last_run: u32) {
        self.instance.reserve_run_numbers(last_run);
    }

    /// Records why the readiness probe failed last.
    pub fn record_not_ready(&mut self, problem: String) {
        self.instance.record_not_ready(problem);
    }

    /// The process is ready: restarts its probation, and returns when it ends.
    pub fn begin_probation(&mut self, now: Moment) -> Option<u64> {
        let ReplacementRole::Incoming { probation_ends, forced_reason, .. } = &mut self.role else {
            return None;
        };
        let min_uptime = self.instance.spec.restart.min_uptime;
        // A process that must end in any case is replaced soon.
        let probation = match forced_reason {
            Some(_) => min_uptime.min(MIN_PROBATION),
            None => min_uptime.clamp(MIN_PROBATION, MAX_PROBATION),
        };
        Some(*probation_ends.insert(now.plus(probation)))
    }

    /// Extends the probation until the process must listen. None if that time is over.
    pub fn extend_probation(&mut self, now: Moment) -> Option<u64> {
        let timeout = self.instance.ready_timeout();
        let ReplacementRole::Incoming { probation_ends, .. } = &mut self.role else { return None };
        let State::Online { process } = &self.instance.status.state else { return None };
        let deadline = process.since.plus(timeout);
        (now.mono < deadline).then(|| *probation_ends.insert(deadline))
    }

    /// The new process has failed and is not started again. Returns why the current process must end nevertheless.
    pub fn fail(&mut self) -> Option<String> {
        self.instance.status.want = Want::Gone;
        match &mut self.role {
            ReplacementRole::Incoming { probation_ends, forced_reason, .. } => {
                *probation_ends = None;
                forced_reason.take()
            }
            ReplacementRole::Outgoing => None,
        }
    }

    /// Exchanges the new process and the current one, which is outgoing then. Goal, counters and history stay with
    /// the current instance. False if the new process is not online.
    pub fn promote(&mut self, current: &mut Instance) -> bool {
        if !self.instance.is_online() {
            return false;
        }
        let forced_reason = match std::mem::replace(&mut self.role, ReplacementRole::Outgoing) {
            ReplacementRole::Incoming { forced_reason, .. } => forced_reason,
            ReplacementRole::Outgoing => None,
        };
        let (new, former) = (&mut self.instance.status, &mut current.status);
        new.want = former.want;
        new.created = former.created;
        new.restarts = former.restarts + 1;
        new.history = std::mem::take(&mut former.history);
        new.last_run = new.last_run.max(former.last_run);
        std::mem::swap(current, &mut self.instance);
        self.instance.status.stop_reason = forced_reason;
        true
    }

    /// The second process has ended: adds its runs to the history of `current`.
    pub fn merge_history_into(self, current: &mut Instance) {
        self.instance.status.history.into_iter().for_each(|run| current.status.push_run(run));
    }

    /// Resumes a saved replacement of `current`, and returns the effects to repeat. `alive`: the keeper still has the
    /// run.
    pub fn resume(&mut self, current: Option<&mut Instance>, alive: bool, now: Moment) -> Vec<Effect> {
        if self.is_incoming() && !alive && !matches!(self.instance.status.state, State::Spawning { .. }) {
            self.instance.status.want = Want::Gone;
            current.into_iter().for_each(|it| it.record_replace_error("the replacement exited".into()));
        }
        let mut effects: Vec<Effect> =
            self.probation_ends().into_iter().map(|at| Effect::SetTimer { at }).collect();
        effects.extend(self.instance.resume(alive, now));
        effects
    }
}
