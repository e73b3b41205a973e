//! The log thread, and the handle that the daemon has of it.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;

use super::check::{Checker, Refused};
use super::desk::Desk;
use super::files::Files;
use super::follow::{Feed, Filter, Follower, News, following};
use super::item;
use super::journal::Journal;
use super::pump::Pump;
use super::shape::{Origin, Shape};
use super::stream::Stream;
use super::tidy::Tidy;
use super::writer::Writer;
use crate::spec::{LogFormat, Rotation};

/// Names one stream of one run.
type Key = u64;

/// When the thread ends, named pipes that are full are waited for this long: their reader is but slower.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// At a turn of the clock, or so often at most, it is looked which files are to be rotated.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The output of one run, and where it goes.
#[derive(Debug)]
pub struct Source {
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
    pub files: Files,
    /// Shape of a line.
    pub format: LogFormat,
    /// Stamp of a line, in PM2's tokens.
    pub date_format: Option<String>,
    /// When the files make way for new ones.
    pub rotation: Arc<Rotation>,
}

/// What the thread works with.
#[derive(Debug)]
pub struct Place {
    /// The directory whose files all count for the budget.
    pub logs: PathBuf,
    /// Where indexes lie.
    pub indexes: PathBuf,
    /// Bytes that all logs together may have.
    pub budget: u64,
}

/// Files that something could not be done to, and why.
pub type Failures = Vec<(PathBuf, io::Error)>;

/// Resolves when the thread has done what was asked, with the files it could not be done to. Need not
/// be awaited.
pub type Done = oneshot::Receiver<Failures>;

#[derive(Debug)]
enum Command {
    Attach(Box<Source>),
    Reopen(oneshot::Sender<Failures>),
    Flush(Vec<PathBuf>, oneshot::Sender<Failures>),
    Follow(Feed),
    Closed(u64, oneshot::Sender<()>),
    Stop,
}

/// The thread. Dropping it writes what the pipes hold, and waits for that.
#[derive(Debug)]
pub struct LogThread {
    logs: Logs,
    thread: Option<JoinHandle<()>>,
}

/// The handle: its methods send a command and return; they are carried out in the order sent. Once
/// the thread has ended they do nothing.
#[derive(Clone, Debug)]
pub struct Logs {
    commands: mpsc::UnboundedSender<Command>,
    tidy: Tidy,
    news: Arc<News>,
    indexes: Arc<Path>,
    checker: Checker,
}

impl LogThread {
    /// Starts the thread. `journal` is a former daemon's, if there was one.
    ///
    /// # Errors
    /// The system gives no thread or no epoll.
    pub fn start(place: Place, journal: Journal) -> io::Result<Self> {
        let tidy = Tidy::start(place.logs, place.indexes.clone(), place.budget)?;
        let news = Arc::new(News::default());
        let tools =
            Tools { journal, news: Arc::clone(&news), indexes: place.indexes.clone(), tidy: tidy.clone() };
        let (sender, commands) = mpsc::unbounded_channel();
        let (started, ready) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("rsm-logs".into())
            .spawn(move || serve(commands, tools, &started))?;
        ready.recv().unwrap_or_else(|_| Err(io::Error::other("the log thread ended")))?;
        let (indexes, checker) = (place.indexes.into(), Checker::start()?);
        let logs = Logs { commands: sender, tidy, news, indexes, checker };
        Ok(Self { logs, thread: Some(thread) })
    }

    /// A handle of it.
    pub fn logs(&self) -> Logs {
        self.logs.clone()
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.logs.send(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log thread had panicked");
        }
    }
}

impl Logs {
    /// Tells when there is more to read in the files.
    pub fn news(&self) -> Arc<News> {
        Arc::clone(&self.news)
    }

    /// Makes files and the directories they lie in, however long the disk takes.
    ///
    /// # Errors
    /// The first file that cannot be written. A disk that does not answer is no error.
    pub async fn check(&self, files: Files) -> Result<(), Refused> {
        self.checker.check(files).await
    }

    /// Where indexes lie.
    pub fn indexes(&self) -> Arc<Path> {
        Arc::clone(&self.indexes)
    }

    /// All logs together may have so many bytes from now on.
    pub fn set_budget(&self, bytes: u64) {
        self.tidy.set_budget(bytes);
    }

    /// Reads a run's output from now on.
    pub fn attach(&self, source: Source) {
        for path in source.files.distinct() {
            self.tidy.keep(path, &source.name, &source.rotation);
        }
        self.send(Command::Attach(Box::new(source)));
    }

    /// Opens all log files anew: they were renamed by someone.
    pub fn reopen(&self) -> Done {
        self.ask(Command::Reopen)
    }

    /// Empties these files.
    pub fn flush(&self, files: Vec<PathBuf>) -> Done {
        self.ask(|done| Command::Flush(files, done))
    }

    /// Hands out the lines that a filter lets pass, from now on.
    pub fn follow(&self, filter: Filter) -> Follower {
        let (feed, follower) = following(filter);
        self.send(Command::Follow(feed));
        follower
    }

    /// Resolves once every writer of the run's pipes is gone and all they wrote is in the files; at once
    /// for a run that was never attached.
    pub async fn closed(&self, run: u64) {
        // A thread that has ended reads nothing any more: that is closed, too.
        let _ = self.ask(|done| Command::Closed(run, done)).await;
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> oneshot::Receiver<T> {
        let (done, answer) = oneshot::channel();
        self.send(command(done));
        answer
    }

    fn send(&self, command: Command) {
        // Fails only when the thread is gone; dropping the command is the answer then.
        let _ = self.commands.send(command);
    }
}

fn serve(
    commands: mpsc::UnboundedReceiver<Command>,
    tools: Tools,
    started: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (runtime, room) = match runtime.and_then(|runtime| Ok((runtime, Rc::new(Room::new(tools)?)))) {
        Ok(ready) => ready,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(()));
    let tasks = LocalSet::new();
    tasks.spawn_local(Rc::clone(&room).rotate_by_the_clock());
    tasks.block_on(&runtime, room.obey(commands));
    // The tasks go first: from here on nobody else touches the streams.
    drop(tasks);
    let until = Instant::now() + LAST_WAIT;
    for pump in room.pumps.borrow().values() {
        pump.drain(&room.desk, until);
    }
    room.writer.borrow().settle(until);
}

/// What the thread is given.
struct Tools {
    journal: Journal,
    news: Arc<News>,
    indexes: PathBuf,
    tidy: Tidy,
}

/// All that the thread owns.
struct Room {
    desk: Desk,
    writer: RefCell<Writer>,
    pumps: RefCell<BTreeMap<Key, Rc<Pump>>>,
    runs: RefCell<HashMap<u64, Run>>,
    last_key: Cell<Key>,
    /// A file was opened: it may be the next to be rotated.
    opened: Notify,
}

/// A run with an open pipe.
#[derive(Default)]
struct Run {
    pipes: usize,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Room {
    fn new(tools: Tools) -> io::Result<Self> {
        let Tools { journal, news, indexes, tidy } = tools;
        Ok(Self {
            desk: Desk::new(journal, news)?,
            writer: RefCell::new(Writer::new(indexes, tidy)),
            opened: Notify::new(),
            pumps: RefCell::default(),
            runs: RefCell::default(),
            last_key: Cell::new(0),
        })
    }

    /// Carries out commands until the last handle is gone or the thread is to stop.
    async fn obey(self: &Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Attach(source) => self.attach(*source),
                Command::Reopen(done) => answer(done, "reopen", self.writer.borrow().reopen()),
                Command::Flush(files, done) => answer(done, "empty", self.writer.borrow().truncate(files)),
                Command::Follow(feed) => self.desk.hub.borrow_mut().add(feed),
                Command::Closed(run, done) => self.tell_when_closed(run, done),
                Command::Stop => return,
            }
        }
    }

    fn attach(self: &Rc<Self>, source: Source) {
        let Source { id, name, run, out, err, files, format, date_format, rotation } = source;
        let shape = Shape::new(format, date_format.as_deref());
        let origin = Rc::new(Origin { id, name, run, shape });
        let Files { out: out_file, err: err_file, combined } = files;
        self.attach_pipe(&origin, item::Stream::Out, out, [&out_file, &combined], &rotation);
        self.attach_pipe(&origin, item::Stream::Err, err, [&err_file, &combined], &rotation);
        self.opened.notify_one();
        self.desk.news.tell_attached();
    }

    fn attach_pipe(
        self: &Rc<Self>,
        origin: &Rc<Origin>,
        which: item::Stream,
        pipe: OwnedFd,
        files: [&Option<PathBuf>; 2],
        rotation: &Arc<Rotation>,
    ) {
        let key = self.last_key.get() + 1;
        self.last_key.set(key);
        let mut paths: Vec<&PathBuf> = files.into_iter().flatten().collect();
        paths.dedup();
        let kept = files[0].is_some();
        let files = paths.into_iter().map(|path| self.writer.borrow_mut().open(path, rotation)).collect();
        let stream = Stream::new(Rc::clone(origin), which, files, kept, rotation.when_full);
        match Pump::new(pipe, stream) {
            Ok(pump) => self.start(pump, key, origin.run),
            Err(error) => {
                let name = &origin.name;
                tracing::error!("cannot read the output of {name}: {error}; restart it when this is mended");
            }
        }
    }

    fn start(self: &Rc<Self>, pump: Pump, key: Key, run: u64) {
        let pump = Rc::new(pump);
        self.pumps.borrow_mut().insert(key, Rc::clone(&pump));
        self.runs.borrow_mut().entry(run).or_default().pipes += 1;
        let room = Rc::clone(self);
        tokio::task::spawn_local(async move {
            pump.run(&room.desk).await;
            pump.stream.borrow_mut().close(&mut room.writer.borrow_mut());
            room.pumps.borrow_mut().remove(&key);
            room.pipe_closed(run);
        });
    }

    async fn rotate_by_the_clock(self: Rc<Self>) {
        loop {
            let due = self.writer.borrow().files().filter_map(|file| file.due()).min();
            let left = due.map_or(LONGEST_SLEEP, |due| {
                let left = due.saturating_sub(jiff::Timestamp::now().as_millisecond());
                Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(LONGEST_SLEEP)
            });
            // A time that has come and could not be kept must not be tried without a pause.
            let pause = left.max(Duration::from_millis(20));
            let _ = tokio::time::timeout(pause, self.opened.notified()).await;
            self.writer.borrow().files().for_each(|file| file.rotate_if_due());
        }
    }

    fn pipe_closed(&self, run: u64) {
        let mut runs = self.runs.borrow_mut();
        if let Entry::Occupied(mut entry) = runs.entry(run) {
            entry.get_mut().pipes -= 1;
            if entry.get().pipes == 0 {
                for waiting in entry.remove().waiting {
                    // Whoever asked may have stopped waiting.
                    let _ = waiting.send(());
                }
            }
        }
    }

    fn tell_when_closed(&self, run: u64, done: oneshot::Sender<()>) {
        match self.runs.borrow_mut().get_mut(&run) {
            Some(run) => run.waiting.push(done),
            None => drop(done.send(())),
        }
    }
}

fn answer(done: oneshot::Sender<Failures>, verb: &str, failed: Failures) {
    for (path, error) in &failed {
        tracing::warn!("cannot {verb} log file {}: {error}", path.display());
    }
    // Whoever asked need not wait.
    let _ = done.send(failed);
}
