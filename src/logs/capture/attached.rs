//! The outputs that log workers capture, so that another worker can take them over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::logs::capture::RunOutput;

/// All attached outputs, by run. A worker removes those whose pipes are closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct AttachedOutputs(Arc<Mutex<BTreeMap<u64, Attached>>>);

#[derive(Clone, Debug)]
struct Attached {
    worker: usize,
    output: Arc<RunOutput>,
}

impl AttachedOutputs {
    /// Records which worker captures an output.
    pub(crate) fn add(&self, worker: usize, output: &Arc<RunOutput>) {
        self.lock().insert(output.run, Attached { worker, output: Arc::clone(output) });
    }

    /// Removes an output that has ended.
    pub(crate) fn remove(&self, run: u64) {
        let removed = self.lock().remove(&run);
        drop(removed); // closes the pipes, after the lock is released
    }

    /// The outputs of a worker.
    pub(crate) fn of_worker(&self, worker: usize) -> Vec<Arc<RunOutput>> {
        let attached = self.lock();
        let own = attached.values().filter(|attached| attached.worker == worker);
        own.map(|attached| Arc::clone(&attached.output)).collect()
    }

    /// The output of a run and its worker.
    pub(crate) fn get(&self, run: u64) -> Option<(usize, Arc<RunOutput>)> {
        self.lock().get(&run).map(|attached| (attached.worker, Arc::clone(&attached.output)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Attached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
