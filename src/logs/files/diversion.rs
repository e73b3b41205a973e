//! Log files that are not used because other users could have prepared them, and where the lines go instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::logs::subscribe::LogNotify;

/// Why a log file is not used, and which file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diversion {
    pub reason: String,
    pub used: PathBuf,
}

/// The diverted log files, shared by all workers and the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Diversions {
    diverted: Arc<Mutex<BTreeMap<PathBuf, Diversion>>>,
    notify: Arc<LogNotify>,
}

impl Diversions {
    pub(crate) fn new(notify: Arc<LogNotify>) -> Self {
        Self { diverted: Arc::default(), notify }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Diversion>> {
        self.diverted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, path: &Path) -> Option<Diversion> {
        self.lock().get(path).cloned()
    }

    pub(crate) fn set(&self, path: &Path, diversion: Diversion) {
        self.lock().insert(path.to_owned(), diversion);
        self.notify.notify_attached(); // readers add the other file
    }

    pub(crate) fn clear(&self, path: &Path) {
        self.lock().remove(path);
    }
}
