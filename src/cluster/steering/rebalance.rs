//! Rebalancing of a group that is served in turns: members with long queues skip some of their turns.
//!
//! Round-robin gives each slot the same number of connections, but not all slots are equally fast. Where clients wait
//! for responses, more and more of them end up in the queue of the slowest slot while the others are idle. So the
//! queues are polled, and a slot that has fallen behind skips turns until it has caught up. Nothing is done per
//! connection, and nothing at all without new connections.

use std::time::{Duration, Instant};

use crate::cluster::sockets::SocketStore;
use crate::cluster::steering::round_robin::RoundRobin;

/// Interval of polling while connections are queued.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Interval of polling otherwise.
const MAX_INTERVAL: Duration = Duration::from_millis(200);
/// Skip probabilities expire after this time unless they are renewed.
const SKIP_DURATION: Duration = Duration::from_millis(50);
/// A slot has fallen behind when its queue is longer than twice the shortest one plus this. With shorter queues
/// there is no overload, and equal counts matter more.
const MIN_QUEUE_LEAD: u32 = 16;
/// Probability 1 as the program has it.
const PROBABILITY_ONE: f64 = (1u64 << 32) as f64;

/// A group that is served in turns.
#[derive(Debug)]
pub(super) struct RoundRobinGroup {
    program: RoundRobin,
    /// Socket ids of each slot, in the order of the program.
    slots: Vec<Vec<u64>>,
    /// Turns until the last poll.
    dispatched: u64,
    polled_at: Instant,
}

impl RoundRobinGroup {
    pub fn new(program: RoundRobin, slots: Vec<Vec<u64>>) -> Self {
        Self { program, slots, dispatched: 0, polled_at: Instant::now() }
    }

    /// Sets skip probabilities by the length of the queues; the time until the next call.
    pub fn rebalance(&mut self, sockets: &SocketStore) -> Duration {
        let (new_turns, elapsed) = (self.poll_dispatched(), self.polled_at.elapsed());
        self.polled_at = Instant::now();
        if new_turns == 0 {
            return MAX_INTERVAL;
        }
        let queued =
            |slot: &Vec<u64>| -> u32 { slot.iter().filter_map(|id| sockets.accept_queue_length(*id)).sum() };
        let queues: Vec<u32> = self.slots.iter().map(queued).collect();
        if queues.iter().all(|queue| *queue <= MIN_QUEUE_LEAD) {
            return MAX_INTERVAL;
        }
        let turns_per_second = new_turns as f64 / elapsed.as_secs_f64().max(1e-4);
        let expected_turns = turns_per_second * MIN_INTERVAL.as_secs_f64() / queues.len() as f64;
        let probabilities = skip_probabilities(&queues, expected_turns);
        // Without new ones, the previous probabilities expire.
        if probabilities.iter().any(|probability| *probability > 0)
            && let Err(errno) = self.program.set_skip_probabilities(&probabilities, SKIP_DURATION)
        {
            tracing::debug!("rebalancing failed: {errno}");
        }
        MIN_INTERVAL
    }

    /// Turns since the last poll.
    fn poll_dispatched(&mut self) -> u64 {
        let dispatched = self.program.dispatched().unwrap_or(self.dispatched);
        dispatched.saturating_sub(std::mem::replace(&mut self.dispatched, dispatched))
    }
}

/// Skip probability of each slot until the next poll. `expected_turns`: turns of a slot until then.
fn skip_probabilities(queues: &[u32], expected_turns: f64) -> Vec<u64> {
    let shortest = queues.iter().copied().min().unwrap_or(0);
    let mean = f64::from(queues.iter().sum::<u32>()) / queues.len().max(1) as f64;
    let probability = |queue: &u32| {
        if *queue <= shortest.saturating_mul(2).saturating_add(MIN_QUEUE_LEAD) {
            return 0;
        }
        // Skip as many turns as the queue is longer than the mean.
        let share = (f64::from(*queue) - mean) / expected_turns.max(1.0);
        (share.clamp(0.0, 1.0) * PROBABILITY_ONE) as u64
    };
    queues.iter().map(probability).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overloaded_member_skips_turns() {
        let shares = |queues: &[u32], expected_turns| -> Vec<f64> {
            let probabilities = skip_probabilities(queues, expected_turns);
            probabilities.iter().map(|probability| *probability as f64 / PROBABILITY_ONE).collect()
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
