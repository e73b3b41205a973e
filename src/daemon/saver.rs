//! Writes state, dump and pid files on a thread of its own, so that a slow or full disk never
//! delays supervision. A file is written anew beside the old one and renamed over it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use tokio::sync::{oneshot, watch};

/// Asks the thread.
#[derive(Clone, Debug)]
pub struct Saver {
    jobs: mpsc::Sender<Job>,
    done: watch::Receiver<u64>,
}

enum Job {
    /// The daemon's state; the number counts them.
    State(u64, PathBuf, Vec<u8>),
    /// A pid file to write or remove.
    Pid(PathBuf, Option<i32>),
    /// A list that must survive a power cut; the old one stays as `.prev`.
    Dump(PathBuf, Vec<u8>, oneshot::Sender<io::Result<()>>),
    /// Tells when all before it is done.
    Barrier(oneshot::Sender<Option<String>>),
    /// The state is of no use any more.
    Forget(PathBuf, oneshot::Sender<()>),
}

impl Saver {
    /// Starts the thread; it ends with the last handle.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (told, done) = watch::channel(0);
        let builder = std::thread::Builder::new().name("rsm-save".into()).stack_size(256 * 1024);
        builder.spawn(move || work(&queue, &told))?;
        Ok(Self { jobs, done })
    }

    /// Writes the state number `count` soon; one that a newer one overtakes is not written.
    pub fn state(&self, count: u64, path: PathBuf, bytes: Vec<u8>) {
        let _ = self.jobs.send(Job::State(count, path, bytes));
    }

    /// Writes or removes a pid file.
    pub fn pid(&self, path: PathBuf, pid: Option<i32>) {
        let _ = self.jobs.send(Job::Pid(path, pid));
    }

    /// Writes a dump, on the disk when this returns.
    ///
    /// # Errors
    /// It could not be written; the old one is untouched.
    pub async fn dump(&self, path: PathBuf, bytes: Vec<u8>) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        let _ = self.jobs.send(Job::Dump(path, bytes, reply));
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the saving thread is gone")))
    }

    /// Resolves once all that was handed over until now is written; to why the state is not, if so.
    pub async fn written(&self) -> Option<String> {
        let (reply, answer) = oneshot::channel();
        let _ = self.jobs.send(Job::Barrier(reply));
        answer.await.ok().flatten()
    }

    /// Removes the state; none is written after that.
    pub async fn forget(&self, path: PathBuf) {
        let (reply, answer) = oneshot::channel();
        let _ = self.jobs.send(Job::Forget(path, reply));
        let _ = answer.await;
    }

    /// Resolves once state number `count` was written, or its writing has failed.
    pub async fn reached(&self, count: u64) {
        let _ = self.done.clone().wait_for(|done| *done >= count).await;
    }
}

fn work(queue: &mpsc::Receiver<Job>, told: &watch::Sender<u64>) {
    let (mut failing, mut forgotten) = (None::<String>, false);
    while let Ok(first) = queue.recv() {
        let (mut newest, mut waiting) = (None, Vec::new());
        for job in [first].into_iter().chain(queue.try_iter()) {
            match job {
                Job::State(count, path, bytes) => newest = Some((count, path, bytes)),
                Job::Pid(path, pid) => write_pid(&path, pid),
                Job::Dump(path, bytes, reply) => drop(reply.send(write_dump(&path, &bytes))),
                Job::Barrier(reply) => waiting.push(reply),
                Job::Forget(path, reply) => {
                    forgotten = true;
                    let _ = std::fs::remove_file(path);
                    let _ = reply.send(());
                }
            }
        }
        if let Some((count, path, bytes)) = newest {
            let result = if forgotten { Ok(()) } else { replace(&path, &bytes, false) };
            if let (Err(error), None) = (&result, &failing) {
                tracing::error!(
                    "cannot save {}: {error}; it will be tried at the next change",
                    path.display()
                );
            }
            failing = result.err().map(|error| format!("{}: {error}", path.display()));
            told.send_replace(count);
        }
        for reply in waiting {
            let _ = reply.send(failing.clone()); // who asked may have gone
        }
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
        tracing::warn!("pid file {}: {error}", path.display());
    }
}

fn write_dump(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let previous = path.with_extension("json.prev");
    if path.exists() {
        let kept = beside(path, "keep");
        // A hard link first: at no moment is there no dump at all.
        let _ = std::fs::remove_file(&kept);
        std::fs::hard_link(path, &kept).or_else(|_| std::fs::copy(path, &kept).map(drop))?;
        std::fs::rename(&kept, previous)?;
    }
    replace(path, bytes, true)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Replaces a file as a whole, private to the user. `durable`: also against power loss.
///
/// # Errors
/// Nothing is changed then.
pub fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let new = beside(path, "new");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    } else if let (true, Some(dir)) = (durable, path.parent()) {
        File::open(dir)?.sync_all()?;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_keeps_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        for content in ["one", "two", "three"] {
            write_dump(&path, content.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three");
        assert_eq!(std::fs::read_to_string(dir.path().join("dump.json.prev")).unwrap(), "two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        replace(&path, b"good", true).unwrap();
        std::fs::create_dir(dir.path().join("dump.json.new")).unwrap(); // the new file cannot be made
        assert!(replace(&path, b"bad", true).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "good");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_newest_state_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let saver = Saver::start().unwrap();
        for count in 1..=100 {
            saver.state(count, path.clone(), count.to_string().into_bytes());
        }
        saver.reached(100).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "100");
    }
}
