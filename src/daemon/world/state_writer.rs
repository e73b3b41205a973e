//! Writer thread for state, dump and pid files: a slow or full disk never delays supervision.
//!
//! Files are replaced atomically. The previous state and the previous dump are kept.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::atomic_file::{self, Durability, previous, with_suffix};
use crate::daemon::world::pid_file::{remove_pid_file, write_pid_file};
use crate::instance::snapshot;
use crate::secure_fs::{FileUser, Location};

/// Minimum time between two writes of a state that nothing waits for.
const STATE_INTERVAL: Duration = Duration::from_millis(100);

/// The client of the thread. The thread ends with the last clone.
#[derive(Clone, Debug)]
pub struct StateWriter(mpsc::Sender<WriteJob>);

enum WriteJob {
    State(PathBuf, Vec<u8>),
    /// A pid file to write, or to remove.
    Pid(PathBuf, Option<i32>, FileUser),
    Dump(PathBuf, Vec<u8>, oneshot::Sender<io::Result<()>>),
    /// Replies after all earlier jobs, with the error of the last state.
    Flush(oneshot::Sender<Option<String>>),
    RemoveState(PathBuf, oneshot::Sender<()>),
}

impl StateWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let builder = std::thread::Builder::new().name("rsm-save".into()).stack_size(256 * 1024);
        builder.spawn(move || WriterThread::default().run(&queue))?;
        Ok(Self(jobs))
    }

    /// Writes the state soon. A state that is replaced by a newer one before that is not written.
    pub fn write_state(&self, path: PathBuf, bytes: Vec<u8>) {
        let _ = self.0.send(WriteJob::State(path, bytes));
    }

    /// Writes a pid file of an app that runs as `user`, or removes it.
    pub fn write_pid_file(&self, path: PathBuf, pid: Option<i32>, user: FileUser) {
        let _ = self.0.send(WriteJob::Pid(path, pid, user));
    }

    /// Writes a dump; it is synced to disk when this returns.
    ///
    /// # Errors
    /// It cannot be written; the old dump is unchanged.
    pub async fn write_dump(&self, path: PathBuf, bytes: Vec<u8>) -> io::Result<()> {
        let (reply, response) = oneshot::channel();
        let _ = self.0.send(WriteJob::Dump(path, bytes, reply));
        response.await.unwrap_or_else(|_| Err(io::Error::other("the writer thread exited")))
    }

    /// Waits until everything is written. Returns why the state could not be, if so.
    pub async fn flush(&self) -> Option<String> {
        let (reply, response) = oneshot::channel();
        let _ = self.0.send(WriteJob::Flush(reply));
        response.await.ok().flatten()
    }

    /// Removes the state. Later states are not written.
    pub async fn remove_state(&self, path: PathBuf) {
        let (reply, response) = oneshot::channel();
        let _ = self.0.send(WriteJob::RemoveState(path, reply));
        let _ = response.await;
    }
}

#[derive(Default)]
struct WriterThread {
    /// The latest state, if it is not written yet.
    state: Option<(PathBuf, Vec<u8>)>,
    last_write: Option<Instant>,
    last_error: Option<String>,
    state_removed: bool,
}

impl WriterThread {
    fn run(mut self, queue: &mpsc::Receiver<WriteJob>) {
        loop {
            let job = match self.state_delay() {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(delay) => queue.recv_timeout(delay),
            };
            match job {
                Ok(job) => self.execute(job),
                Err(RecvTimeoutError::Timeout) => self.write_state(),
                Err(RecvTimeoutError::Disconnected) => return self.write_state(),
            }
        }
    }

    /// The time until the state must be written; `None` if it is written.
    fn state_delay(&self) -> Option<Duration> {
        self.state.as_ref()?;
        Some(self.last_write.map_or(Duration::ZERO, |last| STATE_INTERVAL.saturating_sub(last.elapsed())))
    }

    fn execute(&mut self, job: WriteJob) {
        match job {
            WriteJob::State(path, bytes) => self.state = Some((path, bytes)).filter(|_| !self.state_removed),
            WriteJob::Pid(path, pid, user) => update_pid_file(&path, pid, user),
            WriteJob::Dump(path, bytes, reply) => drop(reply.send(write_dump(&path, &bytes))),
            WriteJob::Flush(reply) => {
                self.write_state();
                let _ = reply.send(self.last_error.clone());
            }
            WriteJob::RemoveState(path, reply) => {
                (self.state_removed, self.state) = (true, None);
                let _ = atomic_file::remove(&previous(&path));
                let _ = atomic_file::remove(&path);
                let _ = reply.send(());
            }
        }
    }

    fn write_state(&mut self) {
        let Some((path, bytes)) = self.state.take() else { return };
        let result = atomic_file::replace_keeping_previous(&path, &bytes);
        if let (Err(error), None) = (&result, &self.last_error) {
            tracing::error!("cannot save {}, retrying at the next change: {error}", path.display());
        }
        self.last_error = result.err().map(|error| format!("cannot save {}: {error}", path.display()));
        self.last_write = Some(Instant::now());
    }
}

fn update_pid_file(path: &Path, pid: Option<i32>, user: FileUser) {
    let result = match pid {
        Some(pid) => write_pid_file(path, pid, user),
        None => remove_pid_file(path, user),
    };
    if let Err(error) = result {
        tracing::warn!("cannot write pid file {}: {error}", path.display());
    }
}

fn write_dump(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Location::find(path)?.check_private()?;
    match std::fs::read(path) {
        Ok(old) if snapshot::decode(&old).is_ok() => keep_previous(path)?,
        // It must not replace a usable previous dump.
        Ok(_) => drop(atomic_file::quarantine(path)),
        Err(_) => {}
    }
    atomic_file::replace(path, bytes, Durability::Disk)
}

/// Keeps a file as its previous version. A hard link comes first, so that the file exists at any moment.
fn keep_previous(path: &Path) -> io::Result<()> {
    let link = with_suffix(path, "keep");
    let _ = std::fs::remove_file(&link);
    std::fs::hard_link(path, &link).or_else(|_| std::fs::copy(path, &link).map(drop))?;
    std::fs::rename(&link, previous(path))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use super::*;

    #[test]
    fn dump_keeps_previous_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        let list =
            |next_id| snapshot::encode(&BTreeMap::new(), &BTreeMap::new(), (next_id, 0), &VecDeque::new());
        for next_id in 1..=3 {
            write_dump(&path, &list(next_id)).unwrap();
        }
        let next_id = |path: &Path| snapshot::decode(&std::fs::read(path).unwrap()).unwrap().next_id;
        assert_eq!((next_id(&path), next_id(&previous(&path))), (3, 2));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no other file remains");
        std::fs::write(&path, "damaged").unwrap();
        write_dump(&path, &list(4)).unwrap();
        assert_eq!(
            (next_id(&path), next_id(&previous(&path))),
            (4, 2),
            "a usable previous dump is not replaced by a damaged one"
        );
        assert_eq!(std::fs::read_to_string(with_suffix(&path, "unusable")).unwrap(), "damaged");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn writes_latest_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let writer = StateWriter::start().unwrap();
        for count in 1..=100 {
            writer.write_state(path.clone(), count.to_string().into_bytes());
        }
        assert_eq!(writer.flush().await, None);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "100");
        writer.write_state(path.clone(), b"101".to_vec());
        assert_eq!(writer.flush().await, None);
        assert_eq!(std::fs::read_to_string(previous(&path)).unwrap(), "100");
        writer.remove_state(path.clone()).await;
        writer.write_state(path.clone(), b"102".to_vec());
        assert_eq!(writer.flush().await, None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
