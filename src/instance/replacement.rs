//! How one process of an instance takes the place of another without a gap: a second [`Instance`] is
//! started beside the first, and both go on under the same id until the first is gone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Instance;
use super::event::{Effect, InstanceEvent, Notice};
use super::state::{State, Want};
use crate::instance::status::{InstanceStatus, RunId};
use crate::spec::{AppSpec, EnvVars};
use crate::time::Moment;

/// The second process of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Under the same id as the one in the list.
    pub instance: Instance,
    /// What it is there for.
    pub role: ReplacementRole,
}

/// What a second process is there for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplacementRole {
    /// It is to take the place of the one in the list.
    #[serde(alias = "coming")]
    Incoming {
        /// When it has, on the monotonic clock in milliseconds, once it is ready.
        #[serde(alias = "proven_at")]
        probation_ends: Option<u64>,
        /// Why, where no user wants it: then the other has to go also if this one fails.
        #[serde(alias = "forced")]
        forced_reason: Option<String>,
        /// Instances that were replaced before, and their last runs until then: it is no good if a later one
        /// has ended.
        #[serde(default)]
        #[serde(alias = "after")]
        earlier_runs: Vec<RunId>,
    },
    /// Its place is taken.
    #[serde(alias = "going")]
    Outgoing,
}

impl Instance {
    /// One that is to take this one's place, with these settings. It counts the runs from here on.
    pub fn new_replacement(&self, spec: Arc<AppSpec>, inherited: Arc<EnvVars>, now: Moment) -> Self {
        let life = InstanceStatus::new(self.status.last_run, now);
        Self { id: self.id, number: self.number, spec, inherited, status: life }
    }

    /// Takes the place of `former`: its counts and its history are this one's from now on.
    pub fn take_over_from(&mut self, former: &mut Self) {
        let (new, old) = (&mut self.status, &mut former.status);
        new.want = old.want;
        new.created = old.created;
        new.restarts = old.restarts + 1;
        new.history = std::mem::take(&mut old.history);
        new.last_run = new.last_run.max(old.last_run);
    }

    /// What is to go while others stand in for it: first it gets no new connections, then, once nobody
    /// waits for it any more or `kill_timeout` is over, it is told to go.
    pub(super) fn drain_and_delete(&mut self, now: Moment, out: &mut Vec<Effect>) {
        match self.status.state {
            State::Starting { process, .. } | State::Online { process }
                if self.spec.shares_ports() && self.status.want != Want::Gone =>
            {
                self.status.want = Want::Gone;
                self.status.state = State::Draining { process };
                out.push(Effect::Publish(Notice::Draining));
                out.push(Effect::Drain { run: process.run });
                self.set_timer(self.spec.stop.timeout, now, out);
            }
            _ => out.extend(self.handle(InstanceEvent::Delete, now)),
        }
    }

    pub(super) fn on_drained(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if let State::Draining { process } = self.status.state {
            let why = self.status.stop_reason.take();
            self.begin_stop(process, why, now, out);
        }
    }
}
