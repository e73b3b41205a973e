//! Writes state, dump and pid files on a thread of its own, so that a slow or full disk never
//! delays supervision. A file is written anew beside the old one and renamed over it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::atomic_file::{self, Durability, previous, with_suffix};
use crate::instance::snapshot;

/// A state that nobody waits for is written at most this often.
const STATE_INTERVAL: Duration = Duration::from_millis(100);

/// Asks the thread.
#[derive(Clone, Debug)]
pub struct StateWriter(mpsc::Sender<WriteJob>);

enum WriteJob {
    /// The daemon's state. The one before stays as `.prev`.
    State(PathBuf, Vec<u8>),
    /// A pid file to write or remove.
    Pid(PathBuf, Option<i32>),
    /// A list that must survive a power cut; the one before stays as `.prev`.
    Dump(PathBuf, Vec<u8>, oneshot::Sender<io::Result<()>>),
    /// Tells when all before it is done.
    Barrier(oneshot::Sender<Option<String>>),
    /// The state is of no use any more.
    Remove(PathBuf, oneshot::Sender<()>),
}

impl StateWriter {
    /// Starts the thread; it ends with the last handle.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let builder = std::thread::Builder::new().name("rsm-save".into()).stack_size(256 * 1024);
        builder.spawn(move || WriterThread::default().run(&queue))?;
        Ok(Self(jobs))
    }

    /// Writes the state soon; one that a newer one overtakes is not written.
    pub fn state(&self, path: PathBuf, bytes: Vec<u8>) {
        let _ = self.0.send(WriteJob::State(path, bytes));
    }

    /// Writes or removes a pid file.
    pub fn pid(&self, path: PathBuf, pid: Option<i32>) {
        let _ = self.0.send(WriteJob::Pid(path, pid));
    }

    /// Writes a dump, on the disk when this returns.
    ///
    /// # Errors
    /// It could not be written; the old one is untouched.
    pub async fn dump(&self, path: PathBuf, bytes: Vec<u8>) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.send(WriteJob::Dump(path, bytes, reply));
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the saver thread exited")))
    }

    /// Resolves once all that was handed over until now is written; to why the state is not, if so.
    pub async fn flush(&self) -> Option<String> {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.send(WriteJob::Barrier(reply));
        answer.await.ok().flatten()
    }

    /// Removes the state; none is written after that.
    pub async fn remove(&self, path: PathBuf) {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.send(WriteJob::Remove(path, reply));
        let _ = answer.await;
    }
}

/// What the thread has before it.
#[derive(Default)]
struct WriterThread {
    /// The newest state, not written yet.
    state: Option<(PathBuf, Vec<u8>)>,
    last: Option<Instant>,
    last_error: Option<String>,
    state_removed: bool,
}

impl WriterThread {
    fn run(mut self, queue: &mpsc::Receiver<WriteJob>) {
        loop {
            let job = match self.state_delay() {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(pause) => queue.recv_timeout(pause),
            };
            match job {
                Ok(job) => self.execute(job),
                Err(RecvTimeoutError::Timeout) => self.write_state(),
                Err(RecvTimeoutError::Disconnected) => return self.write_state(),
            }
        }
    }

    /// How long the state that waits may wait for a newer one.
    fn state_delay(&self) -> Option<Duration> {
        self.state.as_ref()?;
        Some(self.last.map_or(Duration::ZERO, |last| STATE_INTERVAL.saturating_sub(last.elapsed())))
    }

    fn execute(&mut self, job: WriteJob) {
        match job {
            WriteJob::State(path, bytes) => self.state = Some((path, bytes)).filter(|_| !self.state_removed),
            WriteJob::Pid(path, pid) => write_pid(&path, pid),
            WriteJob::Dump(path, bytes, reply) => drop(reply.send(write_dump(&path, &bytes))),
            WriteJob::Barrier(reply) => {
                self.write_state();
                let _ = reply.send(self.last_error.clone()); // who asked may have gone
            }
            WriteJob::Remove(path, reply) => {
                (self.state_removed, self.state) = (true, None);
                let _ = std::fs::remove_file(previous(&path));
                let _ = std::fs::remove_file(path);
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
        self.last = Some(Instant::now());
    }
}

fn write_pid(path: &Path, pid: Option<i32>) {
    let result = match pid {
        Some(pid) => path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(path, pid.to_string())),
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        },
    };
    if let Err(error) = result {
        tracing::warn!("cannot write pid file {}: {error}", path.display());
    }
}

fn write_dump(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match std::fs::read(path) {
        Ok(old) if snapshot::decode(&old).is_ok() => {
            let kept = with_suffix(path, "keep");
            // A hard link first: at no moment is there no dump at all.
            let _ = std::fs::remove_file(&kept);
            std::fs::hard_link(path, &kept).or_else(|_| std::fs::copy(path, &kept).map(drop))?;
            std::fs::rename(&kept, previous(path))?;
        }
        // It must not take the place of a good one before it.
        Ok(_) => drop(atomic_file::quarantine(path)),
        Err(_) => {}
    }
    atomic_file::replace(path, bytes, Durability::Disk)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use crate::daemon::world::state_writer::*;

    #[test]
    fn a_dump_keeps_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        let list =
            |next_id| snapshot::encode(&BTreeMap::new(), &BTreeMap::new(), (next_id, 0), &VecDeque::new());
        for next_id in 1..=3 {
            write_dump(&path, &list(next_id)).unwrap();
        }
        let next_id = |path: &Path| snapshot::decode(&std::fs::read(path).unwrap()).unwrap().next_id;
        assert_eq!((next_id(&path), next_id(&previous(&path))), (3, 2));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
        std::fs::write(&path, "damaged").unwrap();
        write_dump(&path, &list(4)).unwrap();
        assert_eq!(
            (next_id(&path), next_id(&previous(&path))),
            (4, 2),
            "a good one is not replaced by a bad one"
        );
        assert_eq!(std::fs::read_to_string(with_suffix(&path, "unusable")).unwrap(), "damaged");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_newest_state_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let saver = StateWriter::start().unwrap();
        for count in 1..=100 {
            saver.state(path.clone(), count.to_string().into_bytes());
        }
        assert_eq!(saver.flush().await, None);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "100");
        saver.state(path.clone(), b"101".to_vec());
        assert_eq!(saver.flush().await, None);
        assert_eq!(std::fs::read_to_string(previous(&path)).unwrap(), "100");
        saver.remove(path.clone()).await;
        saver.state(path.clone(), b"102".to_vec());
        assert_eq!(saver.flush().await, None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
