//! `max_memory_restart`: when an instance has to go for what its processes hold.

use std::time::Duration;

use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::world::World;
use crate::instance::Instance;
use crate::instance::state::{State, Want};
use crate::metrics::Usage;

/// So many processes in a row are replaced as soon as they are over the limit.
const IMMEDIATE_RESTARTS: u32 = 3;

/// PM2 looks only so often; and who has lived for so long has been of use.
const MAX_REQUIRED_UPTIME: Duration = Duration::from_secs(30);

impl<W: World> Supervisor<W> {
    /// Why an instance must be replaced for its memory, if it must. Never takes a second instance of an
    /// app while another is on its way up or down.
    pub(in crate::daemon) fn memory_excess(&self, id: u32, usage: &Usage) -> Option<String> {
        let instance = self.instances.get(&id)?;
        let limit = instance.spec.max_memory_restart.filter(|limit| usage.memory > *limit)?;
        let online = matches!(instance.status.state, State::Online { .. });
        let of_app = self.instances.values().filter(|other| other.spec.name == instance.spec.name);
        let mut of_app = of_app.filter(|other| other.status.want == Want::Up);
        let free = online
            && !of_app.any(|other| is_in_transition(other) || self.replacements.contains_key(&other.id));
        let patience = required_uptime(self.memory_offenders.get(&id).copied().unwrap_or(0));
        (free && self.uptime(instance) >= patience).then(|| memory_reason(usage, limit))
    }

    /// Remembers that the process of an instance is replaced for its memory.
    pub(in crate::daemon) fn record_memory_restart(&mut self, id: u32) {
        let soon =
            self.instances.get(&id).is_some_and(|instance| self.uptime(instance) < MAX_REQUIRED_UPTIME);
        match soon {
            true => *self.memory_offenders.entry(id).or_default() += 1,
            false => drop(self.memory_offenders.insert(id, 1)),
        }
    }

    fn uptime(&self, instance: &Instance) -> Duration {
        let process = instance.status.state.process();
        process.map_or(Duration::ZERO, |process| self.world.now().since(process.since))
    }
}

/// How long a process may go on all the same, after so many in a row that soon held too much: an app
/// which needs more than its limit is to serve in between.
fn required_uptime(greedy: u32) -> Duration {
    let seconds =
        greedy.checked_sub(IMMEDIATE_RESTARTS).map_or(0, |more| 2u64.saturating_pow(more.saturating_add(1)));
    Duration::from_secs(seconds).min(MAX_REQUIRED_UPTIME)
}

/// In a state that is over soon. One that was given up, or never becomes ready, would have the others
/// grow for good if they waited for it.
fn is_in_transition(instance: &Instance) -> bool {
    match instance.status.state {
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
    use crate::daemon::supervisor::memory_limit::*;
    use crate::metrics::LargestProcess;

    #[test]
    fn patience_grows_with_an_app_that_needs_more_than_its_limit() {
        let seconds: Vec<u64> = (0..9).map(|greedy| required_uptime(greedy).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 0, 2, 4, 8, 16, 30, 30]);
        assert_eq!(required_uptime(u32::MAX), MAX_REQUIRED_UPTIME);
    }

    #[test]
    fn the_reason_names_limit_value_and_the_largest_process() {
        let largest = Some(LargestProcess { pid: 7, name: "python3".into(), memory: 60 << 20 });
        let usage = Usage { memory: 63 << 20, largest, ..Usage::default() };
        assert_eq!(
            memory_reason(&usage, 50 << 20),
            "memory usage 63.0 MiB (66060288 bytes) exceeds max_memory_restart = 50.0 MiB \
             (52428800 bytes); largest process: python3 (pid 7), 60.0 MiB"
        );
    }
}
