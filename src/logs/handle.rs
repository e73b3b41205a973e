//! The threads of the logs, and the handle that the daemon has of them.
//!
//! All apps whose logs lie in `$RSM_HOME/logs` have one thread. A directory of its own may be on a disk of
//! its own, which may be slow or not answer at all: it has a thread of its own, up to [`ROOMS`] of
//! them. Nobody ever has to ask a disk for that.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::logs::capture::assign::WorkerAssignment;
use crate::logs::capture::journal::Journal;
use crate::logs::capture::worker::{WorkerCommand, WorkerSetup, run};
use crate::logs::files::context::FileContext;
use crate::logs::files::paths::LogFiles;
use crate::logs::retention::worker::Retention;
use crate::logs::subscribe::{FollowFilter, Follower, LogNotify, Subscribers, subscribe};
use crate::spec::{LogFormat, Rotation};

/// So many threads at most.
pub const MAX_WORKERS: usize = 8;
/// A disk that does not answer for so long is not waited for any longer: an app is started all the same,
/// and its files are opened when its first line comes; until then that line waits in its pipe.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// So long the daemon's end waits for the last lines.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The output of one run, and where it goes.
#[derive(Debug)]
pub struct RunOutput {
    /// The instance's id.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// A number no other run has.
    pub run: u64,
    /// Read end of its standard output.
    pub out: OwnedFd,
    /// Read end of its standard error.
    pub err: OwnedFd,
    /// Where they are written.
    pub files: LogFiles,
    /// Shape of a line.
    pub format: LogFormat,
    /// Stamp of a line, in PM2's tokens.
    pub date_format: Option<String>,
    /// When the files make way for new ones.
    pub rotation: Arc<Rotation>,
}

/// What the threads work with.
#[derive(Debug)]
pub struct LogConfig {
    /// The directory whose files all count for the budget.
    pub logs: PathBuf,
    /// Where indexes lie.
    pub indexes: PathBuf,
    /// Bytes that all logs together may have.
    pub budget: u64,
}

/// Files that something could not be done to, and why.
pub type FileErrors = Vec<(PathBuf, io::Error)>;

/// The first file that cannot be written, and why.
pub type FileError = (PathBuf, io::Error);

/// Keeps a descriptor for the next daemon, under a name.
pub type StoreFdFn = Box<dyn Fn(String, OwnedFd)>;

/// The threads. Dropping it writes what the pipes hold, and waits for that as long as disks answer.
pub struct LogWorkers(LogHandle);

/// The handle of the threads. Once they have ended its methods do nothing.
#[derive(Clone)]
pub struct LogHandle(Rc<HandleState>);

struct HandleState {
    workers: RefCell<Vec<Option<WorkerHandle>>>,
    assignment: RefCell<WorkerAssignment>,
    journals: RefCell<Vec<Option<Journal>>>,
    store_fd: StoreFdFn,
    retention: Retention,
    notify: Arc<LogNotify>,
    subscribers: Arc<Mutex<Subscribers>>,
    context: FileContext,
    /// Most apps have the same: one copy serves all.
    rotation: RefCell<Arc<Rotation>>,
}

/// A thread, as seen from outside.
struct WorkerHandle {
    commands: mpsc::UnboundedSender<WorkerCommand>,
    /// Says when it has ended.
    exited: std::sync::mpsc::Receiver<()>,
}

impl LogWorkers {
    /// Starts a thread, and one for each journal that a former daemon was killed with. `stored` are the
    /// descriptors it had kept.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(place: LogConfig, stored: &mut Vec<(String, OwnedFd)>, keep: StoreFdFn) -> io::Result<Self> {
        let LogConfig { logs, indexes, budget } = place;
        let tidy = Retention::start(logs.clone(), indexes.clone(), budget)?;
        let mut places = WorkerAssignment::new(logs);
        let mut journals: Vec<_> = (0..MAX_WORKERS).map(|room| Journal::restore(room, stored)).collect();
        let mut left = Vec::new();
        for (room, journal) in journals.iter().enumerate() {
            let files = journal.as_ref().map(Journal::pending_files).unwrap_or_default();
            if !files.is_empty() {
                left.push(room);
                places.assign_stored(room, files);
            }
        }
        journals.truncate(MAX_WORKERS);
        let shared = HandleState {
            workers: RefCell::new((0..MAX_WORKERS).map(|_| None).collect()),
            assignment: RefCell::new(places),
            journals: RefCell::new(journals),
            store_fd: keep,
            context: FileContext::new(indexes, tidy.clone()),
            retention: tidy,
            notify: Arc::default(),
            subscribers: Arc::default(),
            rotation: RefCell::default(),
        };
        let logs = LogHandle(Rc::new(shared));
        for room in left.into_iter().chain([0]) {
            logs.start_worker(room)?;
        }
        Ok(Self(logs))
    }

    /// A handle of it.
    pub fn handle(&self) -> LogHandle {
        self.0.clone()
    }
}

impl Drop for LogWorkers {
    fn drop(&mut self) {
        let rooms: Vec<WorkerHandle> =
            self.0.0.workers.borrow_mut().iter_mut().filter_map(Option::take).collect();
        for room in &rooms {
            let _ = room.commands.send(WorkerCommand::Stop); // one that has ended needs no word
        }
        let until = Instant::now() + DRAIN_TIMEOUT;
        for room in rooms {
            // It says nothing: it only ends, and its sender with it.
            let left = until.saturating_duration_since(Instant::now());
            if room.exited.recv_timeout(left) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                tracing::error!("log disk not responding at shutdown; unwritten output stays in the pipes");
            }
        }
        self.0.0.subscribers.lock().unwrap_or_else(PoisonError::into_inner).close();
    }
}

impl LogHandle {
    /// Tells when there is more to read in the files.
    pub fn notify_handle(&self) -> Arc<LogNotify> {
        Arc::clone(&self.0.notify)
    }

    /// Where indexes lie.
    pub fn indexes(&self) -> Arc<Path> {
        Arc::clone(&self.0.context.indexes)
    }

    /// All logs together may have so many bytes from now on.
    pub fn set_budget(&self, bytes: u64) {
        self.0.retention.set_budget(bytes);
    }

    /// Reads a run's output from now on, whether its files can be written or not.
    pub fn attach(&self, source: RunOutput) {
        self.submit(source, None);
    }

    /// Makes a run's files and the directories they lie in, and reads its output from now on.
    ///
    /// # Errors
    /// The first file that cannot be written; nothing is read then. A disk that does not answer is no error.
    pub async fn attach_checked(&self, source: RunOutput) -> Result<(), FileError> {
        let (answer, answered) = oneshot::channel();
        self.submit(source, Some(answer));
        match tokio::time::timeout(REPLY_TIMEOUT, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Ok(()),
            Err(_) => {
                tracing::warn!("log disk not responding; starting apps anyway");
                Ok(())
            }
        }
    }

    fn submit(&self, mut source: RunOutput, asked: Option<oneshot::Sender<Result<(), FileError>>>) {
        source.rotation = self.intern_rotation(source.rotation);
        for path in source.files.distinct() {
            self.0.retention.track(path, &source.name, &source.rotation);
        }
        let room = self.0.assignment.borrow_mut().worker_for_run(source.run, &source.files.distinct());
        self.send(room, WorkerCommand::Attach(Box::new(source), asked));
    }

    fn intern_rotation(&self, rotation: Arc<Rotation>) -> Arc<Rotation> {
        let mut last = self.0.rotation.borrow_mut();
        if **last != *rotation {
            *last = rotation;
        }
        Arc::clone(&last)
    }

    /// Opens all log files anew: they were renamed by someone. Returns those that could not be.
    pub async fn reopen(&self) -> FileErrors {
        let rooms = (0..MAX_WORKERS).filter(|room| self.0.workers.borrow()[*room].is_some());
        self.broadcast(rooms.map(|room| (room, Vec::new())).collect(), |_, done| WorkerCommand::Reopen(done))
            .await
    }

    /// Empties these files. Returns those that could not be.
    pub async fn flush(&self, files: Vec<PathBuf>) -> FileErrors {
        let mut of_rooms: Vec<(usize, Vec<PathBuf>)> = Vec::new();
        for path in files {
            let room = self.0.assignment.borrow_mut().worker_for(&[&path]);
            match of_rooms.iter_mut().find(|(known, _)| *known == room) {
                Some((_, files)) => files.push(path),
                None => of_rooms.push((room, vec![path])),
            }
        }
        self.broadcast(of_rooms, WorkerCommand::Truncate).await
    }

    /// Asks several threads, and joins what they answer in time.
    async fn broadcast(
        &self,
        asked: Vec<(usize, Vec<PathBuf>)>,
        command: impl Fn(Vec<PathBuf>, oneshot::Sender<FileErrors>) -> WorkerCommand,
    ) -> FileErrors {
        let ask = |(room, files): (usize, Vec<PathBuf>)| {
            let (done, answer) = oneshot::channel();
            self.send(room, command(files.clone(), done));
            (files, answer)
        };
        let answers: Vec<_> = asked.into_iter().map(ask).collect();
        let (until, mut failures) = (tokio::time::Instant::now() + REPLY_TIMEOUT, FileErrors::new());
        for (files, answer) in answers {
            match tokio::time::timeout_at(until, answer).await {
                Ok(answer) => failures.extend(answer.unwrap_or_default()),
                Err(_) => {
                    let silent = || {
                        io::Error::new(
                            io::ErrorKind::TimedOut,
                            "disk not responding; will be completed later",
                        )
                    };
                    failures.extend(files.into_iter().map(|path| (path, silent())));
                }
            }
        }
        failures
    }

    /// Hands out the lines that a filter lets pass, from now on.
    pub fn follow(&self, filter: FollowFilter) -> Follower {
        let (feed, follower) = subscribe(filter);
        self.0.subscribers.lock().unwrap_or_else(PoisonError::into_inner).add(feed);
        follower
    }

    /// Resolves once every writer of the run's pipes is gone and all they wrote is in the files; at once
    /// for a run that was never attached.
    pub async fn wait_closed(&self, run: u64) {
        let Some(room) = self.0.assignment.borrow_mut().remove_run(run) else { return };
        let (done, answer) = oneshot::channel();
        self.send(room, WorkerCommand::WaitClosed(run, done));
        // A thread that has ended reads nothing any more: that is closed, too.
        let _ = answer.await;
    }

    fn send(&self, room: usize, command: WorkerCommand) {
        let mut opened = Ok(());
        if self.0.workers.borrow()[room].is_none() {
            opened = self.start_worker(room);
        }
        if let Err(error) = opened {
            tracing::error!("cannot start a log worker: {error}; using another");
        }
        let rooms = self.0.workers.borrow();
        // Fails only when the thread is gone; dropping the command is the answer then.
        if let Some(room) = rooms[room].as_ref().or(rooms[0].as_ref()) {
            let _ = room.commands.send(command);
        }
    }

    fn start_worker(&self, number: usize) -> io::Result<()> {
        if self.0.workers.borrow()[number].is_some() {
            return Ok(());
        }
        let journal = match self.0.journals.borrow_mut()[number].take() {
            Some(journal) => journal,
            None => {
                let journal = Journal::new()?;
                for (name, fd) in Journal::names(number).into_iter().zip(journal.fds()?) {
                    (self.0.store_fd)(name, fd);
                }
                journal
            }
        };
        let (news, hub, ground) =
            (Arc::clone(&self.0.notify), Arc::clone(&self.0.subscribers), self.0.context.clone());
        let tools = WorkerSetup { journal, news, hub, ground };
        let (sender, commands) = mpsc::unbounded_channel();
        let (ends, ended) = std::sync::mpsc::channel();
        std::thread::Builder::new().name(format!("rsm-logs-{number}")).spawn(move || {
            let _ends: std::sync::mpsc::Sender<()> = ends; // dropped with the thread
            if let Err(error) = run(commands, tools) {
                tracing::error!("log worker failed: {error}");
            }
        })?;
        self.0.workers.borrow_mut()[number] = Some(WorkerHandle { commands: sender, exited: ended });
        Ok(())
    }
}
