//! The log workers, and the handle through which the daemon sends them commands.
//!
//! Worker 0 serves all apps whose logs are in the default directory. Any other directory may be on another
//! disk, which may be slow or not respond: it gets a worker of its own, up to [`MAX_WORKERS`].

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::logs::capture::assign::WorkerAssignment;
use crate::logs::capture::attached::AttachedOutputs;
use crate::logs::capture::journal::Journal;
use crate::logs::capture::pulse::{PipeCall, Pulse};
use crate::logs::capture::worker::{WorkerSetup, run};
use crate::logs::capture::{FileError, FileErrors, RunOutput, WorkerCommand};
use crate::logs::files::access::{LogAccess, LogHome};
use crate::logs::files::context::FileContext;
use crate::logs::files::diversion::Diversion;
use crate::logs::retention::worker::Retention;
use crate::logs::stalls::StallWatch;
use crate::logs::subscribe::{FollowFilter, Follower, LogNotify, Subscribers, subscribe};
use crate::process::detached;
use crate::secure_fs::FileUser;
use crate::spec::Rotation;

const MAX_WORKERS: usize = 8;
/// How long to wait for a disk. Then an app is started anyway; its files are opened at its first line, which
/// waits in its pipe until then.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the end of the daemon waits for the last lines.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Configuration of the log workers.
#[derive(Debug)]
pub struct LogConfig {
    /// Default directory of logs. All files in it count for the budget.
    pub logs: PathBuf,
    /// Directory of the indexes.
    pub indexes: PathBuf,
    /// Maximum size of all logs together, in bytes.
    pub budget: u64,
}

/// Stores a descriptor for the next daemon, under a name.
pub type StoreFdFn = Box<dyn Fn(String, OwnedFd)>;

/// Owner of the worker threads. Dropping it writes the content of all pipes, and waits for that as long as
/// disks respond.
pub struct LogWorkers(LogHandle);

/// Handle of the workers. After they have ended, its methods do nothing.
#[derive(Clone)]
pub struct LogHandle(Rc<HandleState>);

struct HandleState {
    workers: RefCell<Vec<Option<WorkerHandle>>>,
    assignment: RefCell<WorkerAssignment>,
    /// Journals of a previous daemon, for workers that are not started yet.
    journals: RefCell<Vec<Option<Journal>>>,
    store_fd: StoreFdFn,
    retention: Retention,
    notify: Arc<LogNotify>,
    subscribers: Arc<Mutex<Subscribers>>,
    context: FileContext,
    attached: AttachedOutputs,
    stalls: StallWatch,
    /// Settings of the last app. Most apps have the same: they share one copy.
    rotation: RefCell<Arc<Rotation>>,
}

struct WorkerHandle {
    commands: mpsc::UnboundedSender<WorkerCommand>,
    /// Disconnected when the thread ends.
    exited: std::sync::mpsc::Receiver<()>,
    pulse: Arc<Pulse>,
}

impl LogWorkers {
    /// Starts worker 0, and each worker whose journal contains an unfinished write of a previous daemon.
    /// `stored` are the descriptors that the previous daemon stored.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        config: LogConfig,
        stored: &mut Vec<(String, OwnedFd)>,
        store_fd: StoreFdFn,
    ) -> io::Result<Self> {
        let LogConfig { logs, indexes, budget } = config;
        let mut assignment = WorkerAssignment::new(logs.clone(), MAX_WORKERS);
        let log_home = Arc::new(LogHome { logs, indexes });
        let retention = Retention::start(Arc::clone(&log_home), budget)?;
        let notify: Arc<LogNotify> = Arc::default();
        let journals: Vec<_> = (0..MAX_WORKERS).map(|worker| Journal::restore(worker, stored)).collect();
        let mut unfinished = Vec::new();
        for (worker, journal) in journals.iter().enumerate() {
            let files = journal.as_ref().map(Journal::pending_files).unwrap_or_default();
            if !files.is_empty() {
                unfinished.push(worker);
                assignment.assign_stored(worker, files);
            }
        }
        let handle = LogHandle(Rc::new(HandleState {
            workers: RefCell::new((0..MAX_WORKERS).map(|_| None).collect()),
            assignment: RefCell::new(assignment),
            journals: RefCell::new(journals),
            store_fd,
            context: FileContext::new(log_home, retention.clone(), Arc::clone(&notify)),
            retention,
            notify,
            subscribers: Arc::default(),
            rotation: RefCell::default(),
            attached: AttachedOutputs::default(),
            stalls: StallWatch::default(),
        }));
        for worker in unfinished.into_iter().chain([0]) {
            handle.start_worker(worker)?;
        }
        Ok(Self(handle))
    }

    /// A handle of the workers.
    pub fn handle(&self) -> LogHandle {
        self.0.clone()
    }
}

impl Drop for LogWorkers {
    fn drop(&mut self) {
        let workers: Vec<WorkerHandle> =
            self.0.0.workers.borrow_mut().iter_mut().filter_map(Option::take).collect();
        for worker in &workers {
            let _ = worker.commands.send(WorkerCommand::Stop); // it may have ended
        }
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        for worker in workers {
            let left = deadline.saturating_duration_since(Instant::now());
            if worker.exited.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::error!("log disk not responding at shutdown; unwritten output stays in the pipes");
            }
        }
        self.0.0.subscribers.lock().unwrap_or_else(PoisonError::into_inner).close();
    }
}

impl LogHandle {
    /// Wakes readers when there is more to read in the files.
    pub fn notify_handle(&self) -> Arc<LogNotify> {
        Arc::clone(&self.0.notify)
    }

    /// The directories of logs.
    pub fn home(&self) -> Arc<LogHome> {
        Arc::clone(&self.0.context.home)
    }

    /// Why a log file is not used, and which one is; `None` if it is used.
    pub fn diversion(&self, path: &Path) -> Option<Diversion> {
        self.0.context.diversions.get(path)
    }

    /// Sets the maximum size of all logs together, in bytes.
    pub fn set_budget(&self, bytes: u64) {
        self.0.retention.set_budget(bytes);
    }

    /// Captures the output of a run, even if its files cannot be written.
    pub fn attach(&self, output: RunOutput) {
        self.submit(output, None);
    }

    /// Captures the output of a run if its files can be written. Creates missing files and directories.
    ///
    /// # Errors
    /// The first file that cannot be written; nothing is captured then. A disk that does not respond is not an
    /// error.
    pub async fn attach_checked(&self, output: RunOutput) -> Result<(), FileError> {
        let (sender, reply) = oneshot::channel();
        self.submit(output, Some(sender));
        match tokio::time::timeout(REPLY_TIMEOUT, reply).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Ok(()),
            Err(_) => {
                tracing::warn!("log disk not responding; starting apps anyway");
                Ok(())
            }
        }
    }

    fn submit(&self, mut output: RunOutput, reply: Option<oneshot::Sender<Result<(), FileError>>>) {
        output.rotation = self.intern_rotation(output.rotation);
        let access = LogAccess::new(self.home(), output.user, Arc::clone(&output.rotation));
        let paths = output.files.distinct();
        for path in &paths {
            self.0.retention.track(path, &output.name, &access);
        }
        let worker = self.0.assignment.borrow_mut().worker_for_run(output.run, &paths);
        let output = Arc::new(output);
        self.0.attached.add(worker, &output);
        self.send(worker, WorkerCommand::Attach(output, reply));
    }

    fn intern_rotation(&self, rotation: Arc<Rotation>) -> Arc<Rotation> {
        let mut last = self.0.rotation.borrow_mut();
        if **last != *rotation {
            *last = rotation;
        }
        Arc::clone(&last)
    }

    /// Reopens all log files, after another program renamed them. Returns those that could not be opened.
    pub async fn reopen(&self) -> FileErrors {
        let workers = (0..MAX_WORKERS).filter(|worker| self.0.workers.borrow()[*worker].is_some());
        let targets = workers.map(|worker| (worker, Vec::new())).collect();
        self.broadcast(targets, |_, reply| WorkerCommand::Reopen(reply)).await
    }

    /// Truncates files of apps that run as these users. Returns those that could not be truncated.
    pub async fn flush(&self, files: Vec<(PathBuf, FileUser)>) -> FileErrors {
        let mut targets: Vec<(usize, Vec<(PathBuf, FileUser)>)> = Vec::new();
        for (path, user) in files {
            let worker = self.0.assignment.borrow_mut().worker_for(&[&path]);
            match targets.iter_mut().find(|(target, _)| *target == worker) {
                Some((_, files)) => files.push((path, user)),
                None => targets.push((worker, vec![(path, user)])),
            }
        }
        self.broadcast(targets, WorkerCommand::Truncate).await
    }

    /// Sends a command to several workers, and collects their errors. A worker that does not reply in time
    /// counts as an error for each of its files.
    async fn broadcast(
        &self,
        targets: Vec<(usize, Vec<(PathBuf, FileUser)>)>,
        command: impl Fn(Vec<(PathBuf, FileUser)>, oneshot::Sender<FileErrors>) -> WorkerCommand,
    ) -> FileErrors {
        let send = |(worker, files): (usize, Vec<(PathBuf, FileUser)>)| {
            let (sender, reply) = oneshot::channel();
            self.send(worker, command(files.clone(), sender));
            (files, reply)
        };
        let replies: Vec<_> = targets.into_iter().map(send).collect();
        let (deadline, mut errors) = (tokio::time::Instant::now() + REPLY_TIMEOUT, FileErrors::new());
        for (files, reply) in replies {
            match tokio::time::timeout_at(deadline, reply).await {
                Ok(reply) => errors.extend(reply.unwrap_or_default()),
                Err(_) => errors.extend(files.into_iter().map(|(path, _)| (path, timeout_error()))),
            }
        }
        errors
    }

    /// Subscribes to the lines that match a filter, from now on.
    pub fn follow(&self, filter: FollowFilter) -> Follower {
        let (subscription, follower) = subscribe(filter);
        self.0.subscribers.lock().unwrap_or_else(PoisonError::into_inner).add(subscription);
        follower
    }

    /// Resolves when all writers have closed the pipes of the run and all output is in the files; at once for
    /// a run that was never attached.
    pub async fn wait_closed(&self, run: u64) {
        let Some(worker) = self.0.assignment.borrow_mut().remove_run(run) else { return };
        let (sender, reply) = oneshot::channel();
        self.send(worker, WorkerCommand::WaitClosed(run, sender));
        let _ = reply.await; // an error means that the worker has ended, which closes the pipes
    }

    /// Replaces workers that a pipe blocks, and continues the output whose pipe is usable again. To be called about
    /// once a second.
    pub fn check_stalls(&self) {
        for run in self.0.stalls.take_returned() {
            if let Some((worker, output)) = self.0.attached.get(run) {
                self.send(worker, WorkerCommand::Attach(output, None));
            }
        }
        for number in 0..MAX_WORKERS {
            let call = self.0.workers.borrow()[number].as_ref().and_then(|worker| worker.pulse.current());
            if self.0.stalls.is_blocked(number, call)
                && let Some(call) = call
            {
                self.replace_worker(number, call);
            }
        }
    }

    /// Leaves a blocked worker behind. Another one captures all its streams but those of the run that blocks it.
    fn replace_worker(&self, number: usize, call: PipeCall) {
        let Some(blocked) = self.0.workers.borrow_mut()[number].take() else { return };
        blocked.pulse.abandon();
        let subject = match self.0.attached.get(call.run) {
            Some((_, output)) => format!("the output pipe of app {} (id {})", output.name, output.id),
            None => "a log worker".to_owned(),
        };
        let report = detached::report_stall(&subject);
        self.0.stalls.add(call, blocked.exited, report);
        for output in self.0.attached.of_worker(number) {
            if !self.0.stalls.is_waiting(output.run) {
                self.send(number, WorkerCommand::Attach(output, None));
            }
        }
    }

    fn send(&self, worker: usize, command: WorkerCommand) {
        if let Err(error) = self.start_worker(worker) {
            tracing::error!("cannot start a log worker: {error}; using another");
        }
        let workers = self.0.workers.borrow();
        if let Some(worker) = workers[worker].as_ref().or(workers[0].as_ref()) {
            // If the worker has ended, dropping the command drops its reply sender, which is the reply.
            let _ = worker.commands.send(command);
        }
    }

    /// Starts a worker unless it runs.
    fn start_worker(&self, number: usize) -> io::Result<()> {
        if self.0.workers.borrow()[number].is_some() {
            return Ok(());
        }
        let pulse: Arc<Pulse> = Arc::default();
        let setup = WorkerSetup {
            journal: self.take_journal(number)?,
            notify: Arc::clone(&self.0.notify),
            subscribers: Arc::clone(&self.0.subscribers),
            context: self.0.context.clone(),
            pulse: Arc::clone(&pulse),
            attached: self.0.attached.clone(),
        };
        let (sender, commands) = mpsc::unbounded_channel();
        let (exit, exited) = std::sync::mpsc::channel();
        std::thread::Builder::new().name(format!("rsm-logs-{number}")).spawn(move || {
            let _exit: std::sync::mpsc::Sender<()> = exit; // dropped when the thread ends
            if let Err(error) = run(commands, setup) {
                tracing::error!("log worker failed: {error}");
            }
        })?;
        self.0.workers.borrow_mut()[number] = Some(WorkerHandle { commands: sender, exited, pulse });
        Ok(())
    }

    /// The journal of a previous daemon, or a new one whose descriptors are stored for the next daemon.
    fn take_journal(&self, number: usize) -> io::Result<Journal> {
        if let Some(journal) = self.0.journals.borrow_mut()[number].take() {
            return Ok(journal);
        }
        let journal = Journal::new()?;
        for (name, fd) in Journal::names(number).into_iter().zip(journal.fds()?) {
            (self.0.store_fd)(name, fd);
        }
        Ok(journal)
    }
}

fn timeout_error() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "disk not responding; will be completed later")
}
