//! Rebalancing of a group that is served in turns: members with long queues skip some of their turns.
//!
//! Round-robin gives each slot the same number of connections, but not all slots are equally fast. Where clients wait
//! for responses, more and more of them end up in the queue of the slowest slot while the others are idle. So the
//! queues are polled, and a slot that has fallen behind skips turns until it has caught up. A queue that does not get
//! shorter at all is that of a hung process: it is reported, so that others serve it, and the slot gets almost no turns for
//! a while. Nothing is done per connection.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::cluster::sockets::SocketStore;
use crate::cluster::steering::round_robin::RoundRobin;

/// Interval of polling while slots have fallen behind.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Interval of polling while there are connections.
const ACTIVE_INTERVAL: Duration = Duration::from_millis(50);
/// Interval of polling otherwise.
const MAX_INTERVAL: Duration = Duration::from_millis(200);
/// Skip probabilities expire after this time unless they are renewed.
const SKIP_DURATION: Duration = Duration::from_millis(200);
/// A slot hangs if its queue has not become shorter for `HANG_TIME` and in `HANG_POLLS` polls.
const HANG_TIME: Duration = Duration::from_millis(300);
const HANG_POLLS: u32 = 5;
/// A slot that hung gets almost no turns for this time; doubled each time that it still hangs.
const MIN_SUSPICION: Duration = Duration::from_secs(1);
const MAX_SUSPICION: Duration = Duration::from_secs(16);
/// A slot has fallen behind when its queue is longer than twice the shortest one plus this. With shorter queues
/// there is no overload, and equal counts matter more.
const MIN_QUEUE_LEAD: u32 = 16;
/// Probability 1 as the program has it.
const PROBABILITY_ONE: f64 = (1u64 << 32) as f64;

/// What the queue of a slot says about its process.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    queued: u32,
    /// Since when the queue has not got shorter, and at how many polls.
    stalled: Option<(Instant, u32)>,
    suspicion: Duration,
    suspected_until: Option<Instant>,
}

impl Progress {
    fn new() -> Self {
        Self { queued: 0, stalled: None, suspicion: MIN_SUSPICION, suspected_until: None }
    }

    /// Records the length of the queue; whether the process hangs.
    fn poll(&mut self, queued: u32, now: Instant) -> bool {
        let is_shorter = queued < std::mem::replace(&mut self.queued, queued);
        if is_shorter {
            self.suspicion = MIN_SUSPICION;
            self.suspected_until = None;
        }
        if is_shorter || queued == 0 {
            self.stalled = None;
            return false;
        }
        let (since, polls) = self.stalled.get_or_insert((now, 0));
        *polls += 1;
        *polls >= HANG_POLLS && now.duration_since(*since) >= HANG_TIME
    }

    /// Its queue was handed over.
    fn suspect(&mut self, now: Instant) {
        self.suspected_until = Some(now + self.suspicion);
        let suspicion = (self.suspicion * 2).min(MAX_SUSPICION);
        *self = Self { suspicion, suspected_until: self.suspected_until, ..Self::new() };
    }

    fn is_suspected(&self, now: Instant) -> bool {
        self.suspected_until.is_some_and(|until| until > now)
    }
}

/// Sockets whose queues a hung process does not serve, and those that can take over the connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HungQueues {
    pub sockets: Vec<u64>,
    pub targets: Vec<u64>,
}

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

    /// The socket ids of all slots.
    pub fn sockets(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().flatten().copied()
    }

    /// Sets skip probabilities by the length of the queues; the time until the next call, and the queues that must be
    /// handed over. `progress`: of each slot, by its first socket.
    pub fn rebalance(
        &mut self,
        sockets: &SocketStore,
        progress: &mut HashMap<u64, Progress>,
    ) -> (Duration, Option<HungQueues>) {
        let (new_turns, elapsed) = (self.poll_dispatched(), self.polled_at.elapsed());
        self.polled_at = Instant::now();
        let queued =
            |slot: &Vec<u64>| -> u32 { slot.iter().filter_map(|id| sockets.accept_queue_length(*id)).sum() };
        let queues: Vec<u32> = self.slots.iter().map(queued).collect();
        let now = self.polled_at;
        let mut hung = HungQueues { sockets: Vec::new(), targets: Vec::new() };
        let mut suspected = vec![false; queues.len()];
        for (number, (slot, queued)) in self.slots.iter().zip(&queues).enumerate() {
            let Some(first) = slot.first() else { continue };
            let progress = progress.entry(*first).or_insert_with(Progress::new);
            let hangs = progress.poll(*queued, now);
            suspected[number] = hangs || progress.is_suspected(now);
            if hangs { &mut hung.sockets } else { &mut hung.targets }.extend(slot);
        }
        let hung = Some(hung).filter(|hung| !hung.sockets.is_empty() && !hung.targets.is_empty());
        if let Some(hung) = &hung {
            let slots = self.slots.iter().filter_map(|slot| slot.first());
            for first in slots.filter(|first| hung.sockets.contains(first)) {
                progress.entry(*first).or_insert_with(Progress::new).suspect(now);
            }
        }
        if new_turns == 0 && queues.iter().all(|queue| *queue == 0) {
            return (MAX_INTERVAL, None);
        }
        let is_behind = queues.iter().any(|queue| *queue > MIN_QUEUE_LEAD);
        if !is_behind && !suspected.contains(&true) {
            return (ACTIVE_INTERVAL, hung);
        }
        let turns_per_second = new_turns as f64 / elapsed.as_secs_f64().max(1e-4);
        let expected_turns = turns_per_second * MIN_INTERVAL.as_secs_f64() / queues.len() as f64;
        let mut probabilities = skip_probabilities(&queues, expected_turns);
        // If all are suspected, none is worse than the others.
        if suspected.contains(&false) {
            let of_suspected = probabilities.iter_mut().zip(&suspected).filter(|(_, suspected)| **suspected);
            of_suspected.for_each(|(probability, _)| *probability = PROBABILITY_ONE as u64);
        }
        // Without new ones, the previous probabilities expire.
        if probabilities.iter().any(|probability| *probability > 0)
            && let Err(errno) = self.program.set_skip_probabilities(&probabilities, SKIP_DURATION)
        {
            tracing::debug!("rebalancing failed: {errno}");
        }
        (if is_behind { MIN_INTERVAL } else { ACTIVE_INTERVAL }, hung)
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
    fn queue_that_never_gets_shorter_hangs() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut progress = Progress::new();
        let polls = |progress: &mut Progress, from: u64, queues: &[u32]| -> Vec<bool> {
            (0..)
                .zip(queues)
                .map(|(number, queued)| progress.poll(*queued, at(from + number * 100)))
                .collect()
        };
        assert_eq!(polls(&mut progress, 0, &[0, 5, 5, 6, 6, 6]), [false, false, false, false, false, true]);
        progress.suspect(at(500));
        assert!(progress.is_suspected(at(1400)) && !progress.is_suspected(at(1600)));
        // It still hangs: it is suspected for longer.
        assert_eq!(polls(&mut progress, 2000, &[1; 5]), [false, false, false, false, true]);
        progress.suspect(at(2500));
        assert!(progress.is_suspected(at(4400)) && !progress.is_suspected(at(4600)));
        // It accepts connections again.
        assert_eq!(polls(&mut progress, 3000, &[2, 2, 1, 1, 1, 1, 0]), [false; 7]);
        assert!(!progress.is_suspected(at(3600)));
        assert_eq!(progress.suspicion, MIN_SUSPICION);
    }

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
