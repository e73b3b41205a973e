//! CPU, memory and connections of instances over time, recorded while the dashboard is open.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ipc::message::InstanceView;

/// Maximum number of samples of an instance: ten minutes.
const MAX_SAMPLES: usize = 600;

/// The usage of one or more instances at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// In percent of one core.
    pub(super) cpu: f32,
    /// In bytes.
    pub(super) memory: u64,
}

/// Samples by instance, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: BTreeMap<u32, VecDeque<Sample>>,
    connections: BTreeMap<u32, ConnectionHistory>,
}

/// The connections of an instance.
#[derive(Debug, Default)]
struct ConnectionHistory {
    /// The last known number.
    current: u64,
    /// One number for each sample since the first report, oldest first.
    samples: VecDeque<u64>,
}

impl History {
    /// Adds a sample of each instance, and removes deleted instances.
    pub(super) fn add(&mut self, instances: &[InstanceView]) {
        let listed: BTreeSet<u32> = instances.iter().map(|view| view.id).collect();
        self.samples.retain(|id, _| listed.contains(id));
        self.connections.retain(|id, _| listed.contains(id));
        for view in instances {
            push(self.samples.entry(view.id).or_default(), Sample { cpu: view.cpu, memory: view.memory });
        }
        self.connections.values_mut().for_each(|history| push(&mut history.samples, history.current));
    }

    /// Records the number of connections, which is reported at other times than the list.
    pub(super) fn record_connections(&mut self, id: u32, connections: u64) {
        self.connections.entry(id).or_default().current = connections;
    }

    /// The sums of the last `count` samples of these instances, oldest first.
    pub(super) fn sum(&self, ids: &[u32], count: usize) -> Vec<Sample> {
        let histories: Vec<&VecDeque<Sample>> = ids.iter().filter_map(|id| self.samples.get(id)).collect();
        let length = histories.iter().map(|samples| samples.len()).max().unwrap_or(0).min(count);
        let mut sums = vec![Sample::default(); length];
        for samples in histories {
            // Aligned at the newest sample.
            for (sum, sample) in sums.iter_mut().rev().zip(samples.iter().rev()) {
                sum.cpu += sample.cpu;
                sum.memory += sample.memory;
            }
        }
        sums
    }

    /// The last `count` numbers of connections of an instance, oldest first.
    pub(super) fn connections(&self, id: u32, count: usize) -> Vec<u64> {
        let Some(ConnectionHistory { samples, .. }) = self.connections.get(&id) else { return Vec::new() };
        samples.iter().skip(samples.len().saturating_sub(count)).copied().collect()
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
    use crate::ipc::message::DisplayStatus;

    fn instance(id: u32, cpu: f32) -> InstanceView {
        InstanceView { cpu, memory: 10, ..view(id, "api", DisplayStatus::Online) }
    }

    #[test]
    fn sum_adds_newest_samples() {
        let mut history = History::default();
        history.add(&[instance(0, 1.0)]);
        history.add(&[instance(0, 2.0), instance(1, 5.0)]);
        let cpu = |ids: &[u32], most| -> Vec<f32> {
            history.sum(ids, most).iter().map(|sample| sample.cpu).collect()
        };
        assert_eq!((cpu(&[0, 1], 9), cpu(&[0, 1], 1), cpu(&[7], 9)), (vec![1.0, 7.0], vec![7.0], vec![]));
    }

    #[test]
    fn removes_deleted_instances_and_old_samples() {
        let mut history = History::default();
        history.add(&[instance(0, 1.0)]);
        history.record_connections(0, 2);
        history.record_connections(0, 3);
        history.add(&[instance(0, 1.0)]);
        history.add(&[instance(0, 1.0)]);
        assert_eq!(history.connections(0, 5), [3, 3], "one for each sample");
        (0..MAX_SAMPLES + 5).for_each(|_| history.add(&[instance(1, 1.0)]));
        assert!(history.sum(&[0], 5).is_empty() && history.connections(0, 5).is_empty());
        assert_eq!(history.sum(&[1], usize::MAX).len(), MAX_SAMPLES);
    }
}
