//! Compresses rotated files, on a thread that yields to all others.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use crate::logs::files::rotation::list_rotated;
use crate::logs::retention::budget::Budget;
use crate::logs::retention::compress;
use crate::logs::retention::compress::CompressionOutcome;
use crate::process::priority;

/// The rotated files of this log file are to be compressed.
#[derive(Debug)]
pub(in crate::logs) struct CompressJob {
    /// The log file.
    pub(in crate::logs) path: PathBuf,
    /// All but the newest.
    pub(in crate::logs) keep_newest: bool,
}

/// The handle: only sends. The thread ends with it.
#[derive(Debug)]
pub(in crate::logs) struct Compressor(Sender<CompressJob>);

impl Compressor {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(in crate::logs) fn start(indexes: PathBuf, budget: Arc<Budget>) -> io::Result<Self> {
        let (asks, asked) = channel();
        let room = CompressWorker { indexes, budget, jobs: asked, pending: BTreeMap::new() };
        std::thread::Builder::new().name("rsm-pack".into()).spawn(move || room.run())?;
        Ok(Self(asks))
    }

    /// Compresses what is there to be compressed.
    pub(in crate::logs) fn submit(&self, path: &Path, delay: bool) {
        let _ = self.0.send(CompressJob { path: path.to_owned(), keep_newest: delay }); // a thread that is gone packs nothing
    }
}

/// What the thread owns.
struct CompressWorker {
    indexes: PathBuf,
    budget: Arc<Budget>,
    jobs: Receiver<CompressJob>,
    pending: BTreeMap<PathBuf, bool>,
}

impl CompressWorker {
    fn run(mut self) {
        if let Err(error) = priority::set_idle_priority() {
            tracing::debug!("cannot lower the priority of log compression: {error}");
        }
        while let Ok(CompressJob { path, keep_newest: delay }) = self.jobs.recv() {
            self.pending.insert(path, delay);
            while let Some((path, delay)) = self.pending.pop_first() {
                for file in uncompressed_files(&path, delay) {
                    let result = compress::compress(&file, &self.indexes.clone(), |grew| {
                        self.budget.record_growth(grew);
                        self.poll_jobs()
                    });
                    match result {
                        Ok(CompressionOutcome::Done | CompressionOutcome::Cancelled) => {}
                        Err(error) => {
                            tracing::warn!("cannot compress {}: {error}", file.display());
                        }
                    }
                }
            }
        }
    }

    /// Takes what was asked meanwhile; false once nobody asks any more.
    fn poll_jobs(&mut self) -> bool {
        loop {
            match self.jobs.try_recv() {
                Ok(CompressJob { path, keep_newest: delay }) => drop(self.pending.insert(path, delay)),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
}

/// What is to be compressed of a log file's rotated ones, oldest first.
fn uncompressed_files(path: &Path, delay: bool) -> Vec<PathBuf> {
    let mut files = list_rotated(path).unwrap_or_default();
    if delay {
        files.pop();
    }
    files.retain(|file| !file.is_compressed());
    files.into_iter().map(|file| file.path).collect()
}

#[cfg(test)]
mod tests {
    use crate::logs::retention::compress_worker::*;

    #[test]
    fn the_newest_may_stay_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for (age, name) in ["a__2.log", "a__1.log", "a__0.log.gz"].into_iter().enumerate() {
            std::fs::write(file(name), "").unwrap();
            let written = std::time::SystemTime::now() - std::time::Duration::from_secs(age as u64 * 10);
            std::fs::File::open(file(name)).unwrap().set_modified(written).unwrap();
        }
        assert_eq!(uncompressed_files(&file("a.log"), true), [file("a__1.log")]);
        assert_eq!(uncompressed_files(&file("a.log"), false), [file("a__1.log"), file("a__2.log")]);
    }
}
