//! Keeps the queues of a group about as long as each other.
//!
//! Rounds give each slot as many connections, but not all slots are equally fast: where clients wait for their
//! answers, more and more of them end up with the slowest, and the others have nothing to do. So the queues are
//! looked at, and a slot that has fallen behind passes some of its turns on until it has caught up. Nothing is done
//! for a connection, and nothing at all where none comes.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::cluster::address::{Address, Protocol};
use crate::cluster::engine::Engine;
use crate::cluster::steering::round_robin::RoundRobin;
use crate::cluster::sys;

/// How often queues are looked at where somebody waits.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The same where nobody does.
const MAX_INTERVAL: Duration = Duration::from_millis(200);
/// What was decided holds for so long if nobody looks again.
const SKIP_DURATION: Duration = Duration::from_millis(50);
/// A slot has fallen behind when its queue is longer than twice the shortest one and this: few that wait
/// are no load, and counts that are even are worth more then.
const MIN_QUEUE_LEAD: u32 = 16;
/// The chance of what is sure.
const PROBABILITY_ONE: f64 = (1u64 << 32) as f64;

/// A group that is served in turns.
#[derive(Debug)]
pub(in crate::cluster) struct RoundRobinGroup {
    program: RoundRobin,
    /// The sockets of each slot, as the program has them.
    slots: Vec<Vec<u64>>,
    /// Turns there were at the last look.
    dispatched: u64,
    polled_at: Instant,
}

impl RoundRobinGroup {
    pub(in crate::cluster) fn new(turns: RoundRobin, slots: Vec<Vec<u64>>) -> Self {
        Self { program: turns, slots, dispatched: 0, polled_at: Instant::now() }
    }

    /// Turns since the last look.
    fn poll_dispatched(&mut self) -> u64 {
        let taken = self.program.dispatched().unwrap_or(self.dispatched);
        taken.saturating_sub(std::mem::replace(&mut self.dispatched, taken))
    }
}

impl Engine {
    /// Forgets a group, or has it looked at.
    pub(in crate::cluster) fn set_round_robin(&mut self, address: Address, rounds: Option<RoundRobinGroup>) {
        self.round_robin.remove(&address);
        if let Some(rounds) =
            rounds.filter(|rounds| rounds.slots.len() > 1 && address.protocol == Protocol::Tcp)
        {
            self.round_robin.insert(address, rounds);
        }
    }

    /// Looks at all groups; how long until the next look, if there is to be one.
    pub(in crate::cluster) fn rebalance(&mut self) -> Option<Duration> {
        let mut next = None;
        for rounds in self.round_robin.values_mut() {
            let (news, time) = (rounds.poll_dispatched(), rounds.polled_at.elapsed());
            rounds.polled_at = Instant::now();
            next = next.or(Some(MAX_INTERVAL));
            if news == 0 {
                continue;
            }
            let waiting =
                |id: &u64| self.held.get(id).and_then(|fd| sys::accept_queue_length(fd.as_fd()).ok());
            let queues: Vec<u32> =
                rounds.slots.iter().map(|slot| slot.iter().filter_map(waiting).sum()).collect();
            if queues.iter().all(|queue| *queue <= MIN_QUEUE_LEAD) {
                continue;
            }
            next = Some(MIN_INTERVAL);
            let each =
                news as f64 * MIN_INTERVAL.as_secs_f64() / time.as_secs_f64().max(1e-4) / queues.len() as f64;
            let chances = skip_probabilities(&queues, each);
            // The former ones hold for a moment and are not renewed.
            if chances.iter().any(|chance| *chance > 0)
                && let Err(errno) = rounds.program.set_skip_probabilities(&chances, SKIP_DURATION)
            {
                tracing::debug!("rebalancing failed: {errno}");
            }
        }
        next
    }
}

/// How often each slot is to pass a turn on until the next look. `each`: so many turns a slot is expected to
/// have until then.
fn skip_probabilities(queues: &[u32], each: f64) -> Vec<u64> {
    let least = queues.iter().copied().min().unwrap_or(0);
    let mean = f64::from(queues.iter().sum::<u32>()) / queues.len().max(1) as f64;
    let chance = |queue: &u32| {
        if *queue <= least.saturating_mul(2).saturating_add(MIN_QUEUE_LEAD) {
            return 0;
        }
        // As many fewer as it has more than the others.
        let share = (f64::from(*queue) - mean) / each.max(1.0);
        (share.clamp(0.0, 1.0) * PROBABILITY_ONE) as u64
    };
    queues.iter().map(chance).collect()
}

#[cfg(test)]
mod tests {
    use crate::cluster::steering::rebalance::*;

    #[test]
    fn who_has_fallen_behind_passes_on_what_is_too_much() {
        let shares = |queues: &[u32], each| -> Vec<f64> {
            skip_probabilities(queues, each).iter().map(|chance| *chance as f64 / PROBABILITY_ONE).collect()
        };
        assert_eq!(shares(&[50, 50], 30.0), [0.0, 0.0]);
        assert_eq!(shares(&[60, 40], 30.0), [0.0, 0.0]);
        assert_eq!(shares(&[80, 20], 60.0), [0.5, 0.0]);
        assert_eq!(shares(&[90, 10], 10.0), [1.0, 0.0]);
        assert_eq!(shares(&[16, 0, 0, 0], 10.0), [0.0; 4]);
        assert_eq!(shares(&[100, 0, 0, 0], 150.0), [0.5, 0.0, 0.0, 0.0]);
        assert_eq!(shares(&[], 1.0), [0.0; 0]);
    }
}
