//! Log worker: a thread with a runtime that captures the output of a group of apps.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;

use crate::logs::capture::attached::AttachedOutputs;
use crate::logs::capture::format::{LineFormat, LineSource};
use crate::logs::capture::journal::Journal;
use crate::logs::capture::pulse::{NO_RUN, Pulse};
use crate::logs::capture::pump::{PIPE_RETRY_DELAY, Pump};
use crate::logs::capture::shared::WorkerShared;
use crate::logs::capture::stream::StreamCapture;
use crate::logs::capture::{FileError, FileErrors, RunOutput, WorkerCommand};
use crate::logs::files::context::FileContext;
use crate::logs::files::log_file::LogFile;
use crate::logs::files::open_files::OpenFiles;
use crate::logs::item::OutputStream;
use crate::logs::subscribe::{LogNotify, Subscribers};
use crate::spec::WhenFull;

/// One stream of one run.
type PumpId = u64;

/// How long to wait at the end of the thread for named pipes that are full.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time between two checks for scheduled rotations, because the clock may be set.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Minimum time between them: a rotation that fails stays due.
const MIN_SLEEP: Duration = Duration::from_millis(20);

pub(crate) struct WorkerSetup {
    /// Not recovered yet if a previous daemon left it.
    pub(crate) journal: Journal,
    pub(crate) notify: Arc<LogNotify>,
    pub(crate) subscribers: Arc<Mutex<Subscribers>>,
    pub(crate) context: FileContext,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) attached: AttachedOutputs,
}

/// Runs a worker until it receives [`WorkerCommand::Stop`] or the last sender is gone.
///
/// # Errors
/// Out of file descriptors.
pub(crate) fn run(
    commands: mpsc::UnboundedReceiver<WorkerCommand>,
    mut setup: WorkerSetup,
) -> io::Result<()> {
    // Before any pipe is read, because its first bytes may be in the files already.
    let pulse = Arc::clone(&setup.pulse);
    pulse.call(NO_RUN, || setup.journal.recover())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = Rc::new(Worker::new(setup)?);
    let tasks = LocalSet::new();
    tasks.spawn_local(Rc::clone(&worker).run_scheduled_rotation());
    tasks.block_on(&runtime, worker.handle_commands(commands));
    // Cancel the pumps first, so that nothing else uses the streams.
    drop(tasks);
    if pulse.is_abandoned() {
        return Ok(());
    }
    worker.drain(Instant::now() + DRAIN_TIMEOUT);
    Ok(())
}

struct Worker {
    shared: WorkerShared,
    attached: AttachedOutputs,
    open_files: RefCell<OpenFiles>,
    pumps: RefCell<BTreeMap<PumpId, Rc<Pump>>>,
    runs: RefCell<HashMap<u64, RunPipes>>,
    last_pump_id: Cell<PumpId>,
    /// A file was opened, which may be the next one to rotate.
    pump_started: Notify,
}

/// The files of a stream, and whether the first is its own, not the combined one.
struct StreamFiles {
    all: Vec<Rc<LogFile>>,
    has_own: bool,
}

/// A run with open pipes.
#[derive(Default)]
struct RunPipes {
    open: usize,
    /// Notified when all pipes are closed.
    waiters: Vec<oneshot::Sender<()>>,
}

impl Worker {
    fn new(setup: WorkerSetup) -> io::Result<Self> {
        let WorkerSetup { journal, notify, subscribers, context, pulse, attached } = setup;
        Ok(Self {
            shared: WorkerShared::new(journal, notify, subscribers, pulse)?,
            attached,
            open_files: RefCell::new(OpenFiles::new(context)),
            pumps: RefCell::default(),
            runs: RefCell::default(),
            last_pump_id: Cell::new(0),
            pump_started: Notify::new(),
        })
    }

    async fn handle_commands(self: &Rc<Self>, mut commands: mpsc::UnboundedReceiver<WorkerCommand>) {
        while let Some(command) = commands.recv().await {
            match command {
                WorkerCommand::Attach(output, reply) => self.attach(&output, reply),
                WorkerCommand::Reopen(reply) => {
                    send_errors(reply, "reopen", self.open_files.borrow().reopen())
                }
                WorkerCommand::Truncate(files, reply) => {
                    send_errors(reply, "truncate", self.open_files.borrow().truncate(files))
                }
                WorkerCommand::WaitClosed(run, reply) => self.notify_when_closed(run, reply),
                WorkerCommand::Stop => return,
            }
        }
    }

    fn attach(self: &Rc<Self>, output: &RunOutput, reply: Option<oneshot::Sender<Result<(), FileError>>>) {
        // Keeps the files open until the pumps have them.
        let files = self.open_files(output);
        if let Some(reply) = reply {
            let result = files
                .iter()
                .try_for_each(|file| file.try_open().map_err(|error| (file.path().to_owned(), error)));
            let is_error = result.is_err();
            // The caller stops waiting after a timeout, and starts the app anyway: then its output must be
            // captured.
            if reply.send(result).is_ok() && is_error {
                self.attached.remove(output.run);
                return;
            }
        }
        let stream_files = self.stream_files(output);
        let RunOutput { id, name, run, out, err, format, date_format, rotation, .. } = output.clone();
        let format = LineFormat::new(format, date_format.as_deref());
        let source = Rc::new(LineSource { id, name, run, format });
        let [out_files, err_files] = stream_files;
        let when_full = rotation.when_full;
        self.attach_pipe(&source, OutputStream::Out, out, out_files, when_full);
        self.attach_pipe(&source, OutputStream::Err, err, err_files, when_full);
        if !self.runs.borrow().contains_key(&output.run) {
            self.attached.remove(output.run); // neither pipe can be read
        }
        self.pump_started.notify_one();
        self.shared.notify.notify_attached();
    }

    fn open_files(&self, output: &RunOutput) -> Vec<Rc<LogFile>> {
        self.stream_files(output).into_iter().flat_map(|files| files.all).collect()
    }

    /// The files of standard output and of standard error.
    fn stream_files(&self, output: &RunOutput) -> [StreamFiles; 2] {
        let (files, fallback) = (&output.files, &output.fallback);
        let combined = (&files.combined, &fallback.combined);
        let mirror = files.mirror.as_ref();
        let out = (&files.out, &fallback.out, mirror.map(|mirror| mirror.out.as_path()));
        let err = (&files.err, &fallback.err, mirror.map(|mirror| mirror.err.as_path()));
        [out, err].map(|(path, fallback, mirror)| {
            let own = (path, fallback);
            let mut paths: Vec<_> = [own, combined]
                .into_iter()
                .filter_map(|(path, fallback)| Some((path.as_deref()?, fallback.as_deref())))
                .chain(mirror.map(|mirror| (mirror, None)))
                .collect();
            paths.dedup_by_key(|(path, _)| *path);
            let mut open_files = self.open_files.borrow_mut();
            let open = |(path, fallback)| open_files.open(path, fallback, output.user, &output.rotation);
            StreamFiles { all: paths.into_iter().map(open).collect(), has_own: own.0.is_some() }
        })
    }

    fn attach_pipe(
        self: &Rc<Self>,
        source: &Rc<LineSource>,
        stream: OutputStream,
        pipe: Arc<OwnedFd>,
        files: StreamFiles,
        when_full: WhenFull,
    ) {
        let capture = StreamCapture::new(Rc::clone(source), stream, files.all, files.has_own, when_full);
        match Pump::new(pipe, capture) {
            Ok(pump) => self.start_pump(pump, source.run),
            Err(error) => {
                let name = &source.name;
                tracing::error!(
                    "cannot read the output of {name}: {error}; restart the app after fixing this"
                );
            }
        }
    }

    fn start_pump(self: &Rc<Self>, pump: Pump, run: u64) {
        let (pump, id) = (Rc::new(pump), self.last_pump_id.get() + 1);
        self.last_pump_id.set(id);
        self.pumps.borrow_mut().insert(id, Rc::clone(&pump));
        self.runs.borrow_mut().entry(run).or_default().open += 1;
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            pump.run(&worker.shared).await;
            if worker.shared.pulse.is_abandoned() {
                return;
            }
            pump.capture().borrow_mut().close(&mut worker.open_files.borrow_mut(), &worker.shared);
            worker.pumps.borrow_mut().remove(&id);
            drop(pump);
            worker.on_pipe_closed(run);
        });
    }

    async fn run_scheduled_rotation(self: Rc<Self>) {
        loop {
            let next = self.open_files.borrow().files().filter_map(|file| file.next_rotation()).min();
            let delay = next.map_or(MAX_SLEEP, |next| {
                let millis = next.saturating_sub(jiff::Timestamp::now().as_millisecond());
                Duration::from_millis(u64::try_from(millis).unwrap_or(0))
            });
            let delay = delay.clamp(MIN_SLEEP, MAX_SLEEP);
            let _ = tokio::time::timeout(delay, self.pump_started.notified()).await;
            if self.shared.pulse.is_abandoned() {
                return;
            }
            self.open_files.borrow().files().for_each(|file| file.rotate_if_due());
        }
    }

    fn on_pipe_closed(&self, run: u64) {
        let mut runs = self.runs.borrow_mut();
        if let Entry::Occupied(mut entry) = runs.entry(run) {
            entry.get_mut().open -= 1;
            if entry.get().open == 0 {
                self.attached.remove(run);
                for waiter in entry.remove().waiters {
                    let _ = waiter.send(()); // the caller may have stopped waiting
                }
            }
        }
    }

    fn notify_when_closed(&self, run: u64, waiter: oneshot::Sender<()>) {
        match self.runs.borrow_mut().get_mut(&run) {
            Some(pipes) => pipes.waiters.push(waiter),
            None => drop(waiter.send(())),
        }
    }

    /// Writes what the pipes contain before the thread ends.
    fn drain(&self, deadline: Instant) {
        for pump in self.pumps.borrow().values() {
            pump.drain(&self.shared, deadline);
        }
        for file in self.open_files.borrow().files() {
            while file.has_backlog() && Instant::now() < deadline {
                std::thread::sleep(PIPE_RETRY_DELAY);
            }
        }
    }
}

fn send_errors(reply: oneshot::Sender<FileErrors>, verb: &str, errors: FileErrors) {
    for (path, error) in &errors {
        tracing::warn!("cannot {verb} log file {}: {error}", path.display());
    }
    let _ = reply.send(errors); // the caller may have stopped waiting
}
