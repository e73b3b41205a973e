//! Health of instances: results of probes, resource usage, and the memory limit `max_memory_restart`.
//!
//! At most one instance of an app is replaced or restarted for its health at a time.

use std::collections::HashMap;
use std::time::Duration;

use super::input::ProbeReport;
use super::registry::Registry;
use crate::instance::Instance;
use crate::instance::state::State;
use crate::instance::status::RunId;
use crate::metrics::Usage;
use crate::time::Moment;

/// Number of consecutive processes that are replaced as soon as they exceed the memory limit.
const IMMEDIATE_RESTARTS: u32 = 3;

/// A process of this age is always replaced when it exceeds the memory limit (PM2 checks at this interval).
const MAX_REQUIRED_UPTIME: Duration = Duration::from_secs(30);

/// Resource usage of the current processes, and which instances exceeded their memory limit.
#[derive(Debug, Default)]
pub(super) struct Health {
    usage: HashMap<u32, Usage>,
    /// Number of consecutive processes of an instance that exceeded the memory limit soon after their start.
    memory_offenders: HashMap<u32, u32>,
}

/// A change of the health of a current process.
pub(super) enum HealthChange {
    /// It was unhealthy and is healthy again.
    Recovered,
    /// It was healthy and is unhealthy.
    Failed(String),
    /// It is still unhealthy.
    StillUnhealthy(String),
}

/// Records the result of a probe. None if nothing follows from it, as for a former run.
pub(super) fn record_probe(registry: &mut Registry, run: RunId, report: ProbeReport) -> Option<HealthChange> {
    let id = run.instance;
    let current = registry.get_mut(id).filter(|it| it.current_run() == Some(run));
    let Some(instance) = current else {
        let replacement =
            registry.replacement_mut(id).filter(|it| it.instance().current_run() == Some(run))?;
        if let ProbeReport::NotReady(problem) = report {
            replacement.record_not_ready(problem);
        }
        return None;
    };
    match report {
        ProbeReport::NotReady(problem) => {
            instance.record_not_ready(problem);
            None
        }
        // A process that is starting or being stopped has no health.
        ProbeReport::Healthy | ProbeReport::Unhealthy(_) if !instance.is_online() => None,
        ProbeReport::Healthy => instance.mark_healthy().then_some(HealthChange::Recovered),
        ProbeReport::Unhealthy(problem) => Some(match instance.mark_unhealthy(problem.clone()) {
            true => HealthChange::Failed(problem),
            false => HealthChange::StillUnhealthy(problem),
        }),
    }
}

/// Whether an unhealthy instance may be replaced now: not while another one of its app is down or being replaced.
pub(super) fn can_replace_now(registry: &Registry, id: u32) -> bool {
    let Some(instance) = registry.get(id) else { return false };
    let mut wanted = registry.wanted_instances(&instance.spec().name);
    registry.is_stable(instance) && wanted.all(|other| registry.is_stable(other))
}

impl Health {
    /// The latest resource usage of an instance.
    pub(super) fn usage(&self, id: u32) -> Usage {
        self.usage.get(&id).cloned().unwrap_or_default()
    }

    /// The process of an instance has changed.
    pub(super) fn forget_usage(&mut self, id: u32) {
        self.usage.remove(&id);
    }

    /// An instance was deleted.
    pub(super) fn forget(&mut self, id: u32) {
        self.usage.remove(&id);
        self.memory_offenders.remove(&id);
    }

    /// Records the resource usage of a run. Returns the reason if the process must be replaced for its memory.
    pub(super) fn record_usage(
        &mut self,
        registry: &Registry,
        run: RunId,
        usage: Usage,
        now: Moment,
    ) -> Option<String> {
        let id = run.instance;
        let instance = registry.get(id)?;
        instance.status().state.process().filter(|process| process.run == run.number)?;
        let reason = self.memory_excess(registry, instance, &usage, now);
        self.usage.insert(id, usage);
        if reason.is_some() {
            self.record_memory_restart(id, uptime(instance, now));
        }
        reason
    }

    /// Why an instance must be replaced for its memory, if it must. Waits while another instance of the app is being
    /// started or stopped.
    fn memory_excess(
        &self,
        registry: &Registry,
        instance: &Instance,
        usage: &Usage,
        now: Moment,
    ) -> Option<String> {
        let limit = instance.spec().max_memory_restart.filter(|limit| usage.memory > *limit)?;
        let mut wanted = registry.wanted_instances(&instance.spec().name);
        let allowed = instance.is_online()
            && !wanted.any(|other| is_in_transition(other) || registry.replacement(other.id()).is_some());
        let restarts = self.memory_offenders.get(&instance.id()).copied().unwrap_or(0);
        let due = uptime(instance, now) >= required_uptime(restarts);
        (allowed && due).then(|| memory_reason(usage, limit))
    }

    fn record_memory_restart(&mut self, id: u32, uptime: Duration) {
        match uptime < MAX_REQUIRED_UPTIME {
            true => *self.memory_offenders.entry(id).or_default() += 1,
            false => drop(self.memory_offenders.insert(id, 1)),
        }
    }
}

fn uptime(instance: &Instance, now: Moment) -> Duration {
    instance.status().state.process().map_or(Duration::ZERO, |process| now.since(process.since))
}

/// The time that a process may exceed the limit, after this number of consecutive restarts for memory: an app that
/// needs more than its limit can still serve in between.
fn required_uptime(restarts: u32) -> Duration {
    let seconds = restarts
        .checked_sub(IMMEDIATE_RESTARTS)
        .map_or(0, |excess| 2u64.saturating_pow(excess.saturating_add(1)));
    Duration::from_secs(seconds).min(MAX_REQUIRED_UPTIME)
}

/// Whether the state is left soon. An instance that is errored or overdue does not count: otherwise the memory of the
/// others would grow without limit.
fn is_in_transition(instance: &Instance) -> bool {
    match instance.status().state {
        State::Spawning { .. }
        | State::Starting { overdue: false, .. }
        | State::Stopping { .. }
        | State::Draining { .. }
        | State::CleaningUp { .. }
        | State::Waiting { .. } => true,
        State::Online { .. }
        | State::Starting { overdue: true, .. }
        | State::Stopped
        | State::Errored { .. } => false,
    }
}

fn memory_reason(usage: &Usage, limit: u64) -> String {
    let used = format!(
        "memory usage {} ({} bytes) exceeds max_memory_restart = {} ({limit} bytes)",
        mebibytes(usage.memory),
        usage.memory,
        mebibytes(limit)
    );
    match &usage.largest {
        Some(largest) => {
            let (name, pid, bytes) = (&largest.name, largest.pid, mebibytes(largest.memory));
            format!("{used}; largest process: {name} (pid {pid}), {bytes}")
        }
        None => used,
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::LargestProcess;

    #[test]
    fn required_uptime_grows_with_consecutive_memory_restarts() {
        let seconds: Vec<u64> = (0..9).map(|restarts| required_uptime(restarts).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 0, 2, 4, 8, 16, 30, 30]);
        assert_eq!(required_uptime(u32::MAX), MAX_REQUIRED_UPTIME);
    }

    #[test]
    fn memory_reason_names_usage_limit_and_largest_process() {
        let largest = Some(LargestProcess { pid: 7, name: "python3".into(), memory: 60 << 20 });
        let usage = Usage { memory: 63 << 20, largest, ..Usage::default() };
        assert_eq!(
            memory_reason(&usage, 50 << 20),
            "memory usage 63.0 MiB (66060288 bytes) exceeds max_memory_restart = 50.0 MiB \
             (52428800 bytes); largest process: python3 (pid 7), 60.0 MiB"
        );
    }
}
