//! What a new process has to show before it takes the place of another: that it lives on for a while,
//! listens wherever the other does, and that those which were replaced before it are well.

use std::time::Duration;

use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::world::World;
use crate::instance::Instance;
use crate::instance::replacement::{Replacement, ReplacementRole};
use crate::instance::state::State;
use crate::instance::status::RunId;

/// A new process is watched for at least this long after it is ready: what fails at once, fails now.
const MIN_PROBATION: Duration = Duration::from_millis(250);

/// It is watched for `min_uptime`, but for no longer than this.
const MAX_PROBATION: Duration = Duration::from_secs(3);

impl<W: World> Supervisor<W> {
    /// The new process of an instance is ready, or listens somewhere else, too: its watch begins.
    pub(in crate::daemon) fn start_probation(&mut self, id: u32) {
        let now = self.world.now();
        let Some(Replacement {
            instance,
            role: ReplacementRole::Incoming { probation_ends: proven_at, forced_reason: forced, .. },
        }) = self.replacements.get_mut(&id)
        else {
            return;
        };
        // What had to go in any case is not kept waiting for long.
        let longest = if forced.is_some() { MIN_PROBATION } else { MAX_PROBATION };
        let watched = instance.spec.restart.min_uptime.min(longest);
        let at = now.plus(if forced.is_some() { watched } else { watched.max(MIN_PROBATION) });
        self.world.set_timer(id, *proven_at.insert(at));
    }

    /// Whether the watch of a new process has begun.
    pub(in crate::daemon) fn is_on_probation(&self, id: u32) -> bool {
        let role = self.replacements.get(&id).map(|beside| &beside.role);
        matches!(role, Some(ReplacementRole::Incoming { probation_ends: Some(_), .. }))
    }

    /// The watch of a new process is over.
    pub(in crate::daemon) fn end_probation(&mut self, id: u32) {
        if let Some(why) = self.earlier_failure(id) {
            return self.abort_replacement(id, &why);
        }
        let missing = self.missing_ports(id);
        let Some(missing) = missing.first() else { return self.promote(id) };
        let now = self.world.now();
        let Some(Replacement { instance, role: ReplacementRole::Incoming { probation_ends: proven_at, .. } }) =
            self.replacements.get_mut(&id)
        else {
            return;
        };
        let until = listen_deadline(instance);
        if now.mono < until {
            return self.world.set_timer(id, *proven_at.insert(until));
        }
        let seconds = instance.spec.readiness.timeout.as_secs_f64();
        let why = format!(
            "the replacement does not listen on {missing} after {seconds} s (listen_timeout), unlike the \
            current process; `rsm restart` skips this check"
        );
        self.abort_replacement(id, &why);
    }

    /// Where the old process listens and the new one does not. New settings may mean another port.
    fn missing_ports(&self, id: u32) -> Vec<String> {
        let (Some(old), Some(new)) = (self.instances.get(&id), self.replacements.get(&id)) else {
            return Vec::new();
        };
        let new = &new.instance;
        if old.spec != new.spec || old.inherited != new.inherited {
            return Vec::new();
        }
        let run = |instance: &Instance| Some(RunId { instance: id, number: instance.status.state.run()? });
        run(old).zip(run(new)).map_or_else(Vec::new, |(old, new)| self.world.missing_ports(old, new))
    }

    /// Why an instance that was replaced before this one is not well, if that is so.
    fn earlier_failure(&self, id: u32) -> Option<String> {
        let ReplacementRole::Incoming { earlier_runs: after, .. } = &self.replacements.get(&id)?.role else {
            return None;
        };
        after.iter().find_map(|run| {
            let why = exit_after(self.instances.get(&run.instance)?, *run)?;
            Some(format!("{why} (id {}, replaced earlier)", run.instance))
        })
    }
}

/// How a later run of an instance than this one ended, if one did and nobody had asked for that.
pub(in crate::daemon) fn exit_after(instance: &Instance, run: RunId) -> Option<String> {
    let ended = instance.status.history.iter().find(|ended| ended.run > run.number && !ended.requested)?;
    Some(format!("the replacement exited: {}", ended.exit))
}

/// Until when a process has to listen.
fn listen_deadline(instance: &Instance) -> u64 {
    let timeout = u64::try_from(instance.spec.readiness.timeout.as_millis()).unwrap_or(u64::MAX);
    match &instance.status.state {
        State::Online { process } => process.since.mono.saturating_add(timeout),
        _ => 0,
    }
}
