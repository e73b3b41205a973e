//! One thread of the logs: a runtime with the pipes and files of a group of apps.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;

use crate::logs::capture::format::{LineFormat, LineSource};
use crate::logs::capture::journal::Journal;
use crate::logs::capture::pump::{PIPE_RETRY_DELAY, Pump};
use crate::logs::capture::shared::WorkerShared;
use crate::logs::capture::stream::StreamCapture;
use crate::logs::files::context::FileContext;
use crate::logs::files::log_file::LogFile;
use crate::logs::files::open_files::OpenFiles;
use crate::logs::files::paths::LogFiles;
use crate::logs::handle::{FileError, FileErrors, RunOutput};
use crate::logs::item;
use crate::logs::subscribe::{LogNotify, Subscribers};
use crate::spec::Rotation;

/// Names one stream of one run.
type PumpId = u64;

/// When the thread ends, named pipes that are full are waited for this long: their reader is but slower.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// At a turn of the clock, or so often at most, it is looked which files are to be rotated.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// What may be asked of the thread; it is carried out in the order sent.
#[derive(Debug)]
pub(in crate::logs) enum WorkerCommand {
    /// Reads a run's output from now on. With an answer: only if its files can be written.
    Attach(Box<RunOutput>, Option<oneshot::Sender<Result<(), FileError>>>),
    /// Opens all files anew.
    Reopen(oneshot::Sender<FileErrors>),
    /// Empties these.
    Truncate(Vec<PathBuf>, oneshot::Sender<FileErrors>),
    /// Tells when all that the run wrote is in the files.
    WaitClosed(u64, oneshot::Sender<()>),
    /// Writes what the pipes hold, and ends.
    Stop,
}

/// What the thread is given.
pub(in crate::logs) struct WorkerSetup {
    /// Not yet set right, if a former daemon left it.
    pub(in crate::logs) journal: Journal,
    pub(in crate::logs) news: Arc<LogNotify>,
    pub(in crate::logs) hub: Arc<Mutex<Subscribers>>,
    pub(in crate::logs) ground: FileContext,
}

/// The thread's work: carries out commands until it is to stop or the last handle is gone.
///
/// # Errors
/// The system gives no epoll or no descriptors.
pub(in crate::logs) fn run(
    commands: mpsc::UnboundedReceiver<WorkerCommand>,
    mut tools: WorkerSetup,
) -> io::Result<()> {
    // Before any pipe is read: its first bytes may be in the files already.
    tools.journal.recover();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let room = Rc::new(Worker::new(tools)?);
    let tasks = LocalSet::new();
    tasks.spawn_local(Rc::clone(&room).run_scheduled_rotation());
    tasks.block_on(&runtime, room.handle_commands(commands));
    // The tasks go first: from here on nobody else touches the streams.
    drop(tasks);
    let until = Instant::now() + DRAIN_TIMEOUT;
    for pump in room.pumps.borrow().values() {
        pump.drain(&room.shared, until);
    }
    for file in room.open_files.borrow().files() {
        while file.has_backlog() && Instant::now() < until {
            std::thread::sleep(PIPE_RETRY_DELAY);
        }
    }
    Ok(())
}

/// All that the thread owns.
struct Worker {
    shared: WorkerShared,
    open_files: RefCell<OpenFiles>,
    pumps: RefCell<BTreeMap<PumpId, Rc<Pump>>>,
    runs: RefCell<HashMap<u64, RunPipes>>,
    last_key: Cell<PumpId>,
    /// A file was opened: it may be the next to be rotated.
    pump_started: Notify,
}

/// A run with an open pipe.
#[derive(Default)]
struct RunPipes {
    pipes: usize,
    waiters: Vec<oneshot::Sender<()>>,
}

impl Worker {
    fn new(tools: WorkerSetup) -> io::Result<Self> {
        let WorkerSetup { journal, news, hub, ground } = tools;
        Ok(Self {
            shared: WorkerShared::new(journal, news, hub)?,
            open_files: RefCell::new(OpenFiles::new(ground)),
            pump_started: Notify::new(),
            pumps: RefCell::default(),
            runs: RefCell::default(),
            last_key: Cell::new(0),
        })
    }

    /// Carries out commands until the last handle is gone or the thread is to stop.
    async fn handle_commands(self: &Rc<Self>, mut commands: mpsc::UnboundedReceiver<WorkerCommand>) {
        while let Some(command) = commands.recv().await {
            match command {
                WorkerCommand::Attach(source, asked) => self.attach(*source, asked),
                WorkerCommand::Reopen(done) => reply(done, "reopen", self.open_files.borrow().reopen()),
                WorkerCommand::Truncate(files, done) => {
                    reply(done, "truncate", self.open_files.borrow().truncate(files))
                }
                WorkerCommand::WaitClosed(run, done) => self.notify_when_closed(run, done),
                WorkerCommand::Stop => return,
            }
        }
    }

    fn attach(self: &Rc<Self>, source: RunOutput, asked: Option<oneshot::Sender<Result<(), FileError>>>) {
        let opened = self.open_files(&source.files, &source.rotation);
        if let Some(asked) = asked {
            let refused = opened.iter().find_map(|file| Some((file.path().to_owned(), file.try_open()?)));
            let result = refused.map_or(Ok(()), Err);
            let fine = result.is_ok();
            // Whoever asked has given up after a while: the app was started all the same.
            if asked.send(result).is_ok() && !fine {
                return;
            }
        }
        let RunOutput { id, name, run, out, err, files, format, date_format, rotation } = source;
        let shape = LineFormat::new(format, date_format.as_deref());
        let origin = Rc::new(LineSource { id, name, run, format: shape });
        let LogFiles { out: out_file, err: err_file, combined } = files;
        self.attach_pipe(&origin, item::OutputStream::Out, out, [&out_file, &combined], &rotation);
        self.attach_pipe(&origin, item::OutputStream::Err, err, [&err_file, &combined], &rotation);
        self.pump_started.notify_one();
        self.shared.notify.notify_attached();
    }

    /// The files, open as long as these are held.
    fn open_files(&self, files: &LogFiles, rotation: &Arc<Rotation>) -> Vec<Rc<LogFile>> {
        let mut writer = self.open_files.borrow_mut();
        files.distinct().into_iter().map(|path| writer.open(path, rotation)).collect()
    }

    fn attach_pipe(
        self: &Rc<Self>,
        origin: &Rc<LineSource>,
        which: item::OutputStream,
        pipe: OwnedFd,
        files: [&Option<PathBuf>; 2],
        rotation: &Arc<Rotation>,
    ) {
        let key = self.last_key.get() + 1;
        self.last_key.set(key);
        let mut paths: Vec<&PathBuf> = files.into_iter().flatten().collect();
        paths.dedup();
        let kept = files[0].is_some();
        let files = paths.into_iter().map(|path| self.open_files.borrow_mut().open(path, rotation)).collect();
        let stream = StreamCapture::new(Rc::clone(origin), which, files, kept, rotation.when_full);
        match Pump::new(pipe, stream) {
            Ok(pump) => self.start_pump(pump, key, origin.run),
            Err(error) => {
                let name = &origin.name;
                tracing::error!(
                    "cannot read the output of {name}: {error}; restart the app after fixing this"
                );
            }
        }
    }

    fn start_pump(self: &Rc<Self>, pump: Pump, key: PumpId, run: u64) {
        let pump = Rc::new(pump);
        self.pumps.borrow_mut().insert(key, Rc::clone(&pump));
        self.runs.borrow_mut().entry(run).or_default().pipes += 1;
        let room = Rc::clone(self);
        tokio::task::spawn_local(async move {
            pump.run(&room.shared).await;
            pump.capture.borrow_mut().close(&mut room.open_files.borrow_mut(), &room.shared);
            room.pumps.borrow_mut().remove(&key);
            room.on_pipe_closed(run);
        });
    }

    async fn run_scheduled_rotation(self: Rc<Self>) {
        loop {
            let due = self.open_files.borrow().files().filter_map(|file| file.next_rotation()).min();
            let left = due.map_or(MAX_SLEEP, |due| {
                let left = due.saturating_sub(jiff::Timestamp::now().as_millisecond());
                Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(MAX_SLEEP)
            });
            // A time that has come and could not be kept must not be tried without a pause.
            let pause = left.max(Duration::from_millis(20));
            let _ = tokio::time::timeout(pause, self.pump_started.notified()).await;
            self.open_files.borrow().files().for_each(|file| file.rotate_if_due());
        }
    }

    fn on_pipe_closed(&self, run: u64) {
        let mut runs = self.runs.borrow_mut();
        if let Entry::Occupied(mut entry) = runs.entry(run) {
            entry.get_mut().pipes -= 1;
            if entry.get().pipes == 0 {
                for waiting in entry.remove().waiters {
                    // Whoever asked may have stopped waiting.
                    let _ = waiting.send(());
                }
            }
        }
    }

    fn notify_when_closed(&self, run: u64, done: oneshot::Sender<()>) {
        match self.runs.borrow_mut().get_mut(&run) {
            Some(run) => run.waiters.push(done),
            None => drop(done.send(())),
        }
    }
}

fn reply(done: oneshot::Sender<FileErrors>, verb: &str, failed: FileErrors) {
    for (path, error) in &failed {
        tracing::warn!("cannot {verb} log file {}: {error}", path.display());
    }
    // Whoever asked need not wait.
    let _ = done.send(failed);
}
