//! What instances used, second by second: kept here, as long as the screen is open.

use std::collections::{BTreeMap, VecDeque};

use crate::ipc::message::InstanceView;

/// Samples kept of an instance: ten minutes at one a second.
const MAX_SAMPLES: usize = 600;

/// What an instance, or several together, used at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Percent of one core.
    pub(super) cpu: f32,
    /// Bytes.
    pub(super) memory: u64,
}

/// Samples by instance, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: BTreeMap<u32, VecDeque<Sample>>,
    connections: BTreeMap<u32, ConnectionHistory>,
}

/// Of one instance.
#[derive(Debug, Default)]
struct ConnectionHistory {
    /// As was told last.
    current: u64,
    /// One for each sample since they were told first, oldest first.
    samples: VecDeque<u64>,
}

impl History {
    /// Adds a sample of each instance, its connections included, and forgets those that are gone.
    pub(super) fn add(&mut self, instances: &[InstanceView]) {
        let there: std::collections::BTreeSet<u32> = instances.iter().map(|view| view.id).collect();
        self.samples.retain(|id, _| there.contains(id));
        self.connections.retain(|id, _| there.contains(id));
        for view in instances {
            push(self.samples.entry(view.id).or_default(), Sample { cpu: view.cpu, memory: view.memory });
        }
        self.connections.values_mut().for_each(|of| push(&mut of.samples, of.current));
    }

    /// Takes note of how many connections an instance has. They are told at other times than the list.
    pub(super) fn record_connections(&mut self, id: u32, connections: u64) {
        self.connections.entry(id).or_default().current = connections;
    }

    /// The last `most` samples of these instances together, oldest first.
    pub(super) fn sum(&self, ids: &[u32], most: usize) -> Vec<Sample> {
        let of: Vec<&VecDeque<Sample>> = ids.iter().filter_map(|id| self.samples.get(id)).collect();
        let length = of.iter().map(|samples| samples.len()).max().unwrap_or(0).min(most);
        let mut sums = vec![Sample::default(); length];
        for samples in of {
            // The newest belong together.
            for (sum, sample) in sums.iter_mut().rev().zip(samples.iter().rev()) {
                sum.cpu += sample.cpu;
                sum.memory += sample.memory;
            }
        }
        sums
    }

    /// The last `most` counts of an instance's connections, oldest first.
    pub(super) fn connections(&self, id: u32, most: usize) -> Vec<u64> {
        let Some(ConnectionHistory { samples, .. }) = self.connections.get(&id) else { return Vec::new() };
        samples.iter().skip(samples.len().saturating_sub(most)).copied().collect()
    }
}

fn push<T>(samples: &mut VecDeque<T>, sample: T) {
    if samples.len() == MAX_SAMPLES {
        samples.pop_front();
    }
    samples.push_back(sample);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::Status;

    fn used(id: u32, cpu: f32) -> InstanceView {
        InstanceView { cpu, memory: 10, ..view(id, "api", Status::Online) }
    }

    #[test]
    fn the_newest_samples_are_added_up() {
        let mut history = History::default();
        history.add(&[used(0, 1.0)]);
        history.add(&[used(0, 2.0), used(1, 5.0)]);
        let cpu = |ids: &[u32], most| -> Vec<f32> {
            history.sum(ids, most).iter().map(|sample| sample.cpu).collect()
        };
        assert_eq!((cpu(&[0, 1], 9), cpu(&[0, 1], 1), cpu(&[7], 9)), (vec![1.0, 7.0], vec![7.0], vec![]));
    }

    #[test]
    fn what_is_gone_is_forgotten_and_the_rest_bounded() {
        let mut history = History::default();
        history.add(&[used(0, 1.0)]);
        history.record_connections(0, 2);
        history.record_connections(0, 3);
        history.add(&[used(0, 1.0)]);
        history.add(&[used(0, 1.0)]);
        assert_eq!(history.connections(0, 5), [3, 3], "one a sample, as of cpu and memory");
        (0..MAX_SAMPLES + 5).for_each(|_| history.add(&[used(1, 1.0)]));
        assert!(history.sum(&[0], 5).is_empty() && history.connections(0, 5).is_empty());
        assert_eq!(history.sum(&[1], usize::MAX).len(), MAX_SAMPLES);
    }
}
