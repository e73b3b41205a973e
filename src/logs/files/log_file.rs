//! A log file that streams write to: opened, rotated and reopened as needed.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::logs::files::access::LogAccess;
use crate::logs::files::context::FileContext;
use crate::logs::files::diversion::Diversion;
use crate::logs::files::index::{FileId, StreamId};
use crate::logs::files::rotation::RotationPolicy;
use crate::logs::files::segment::Segment;
use crate::secure_fs::is_refused;

/// How long the fallback of a refused file is written before the file is tried again.
const REFUSAL_RETRY_DELAY: Duration = Duration::from_secs(10);

/// A file about to grow, as the journal records it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PendingWrite<'a> {
    pub(crate) path: &'a Path,
    pub(crate) id: FileId,
    pub(crate) size_before: u64,
}

/// A log file, open as long as a stream writes to it. Streams of one worker share it.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    /// Written instead of a file that another user could have prepared.
    fallback: Option<PathBuf>,
    policy: RefCell<Rc<RotationPolicy>>,
    access: RefCell<LogAccess>,
    context: Rc<FileContext>,
    /// `None` while the file cannot be opened.
    segment: RefCell<Option<Segment>>,
    /// An error is logged once, until a write succeeds.
    failing: Cell<bool>,
    /// When the fallback was opened, if it is in use.
    diverted_at: Cell<Option<Instant>>,
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.end_diversion();
    }
}

impl LogFile {
    /// If the file cannot be opened now, it is opened at the first write. `fallback` is used if the path is
    /// refused.
    pub(crate) fn open(
        path: &Path,
        fallback: Option<&Path>,
        policy: &Rc<RotationPolicy>,
        access: LogAccess,
        context: &Rc<FileContext>,
    ) -> Self {
        let file = Self {
            path: path.to_owned(),
            fallback: fallback.map(Path::to_owned).filter(|fallback| fallback != path),
            policy: RefCell::new(Rc::clone(policy)),
            access: RefCell::new(access),
            context: Rc::clone(context),
            segment: RefCell::default(),
            failing: Cell::new(false),
            diverted_at: Cell::new(None),
        };
        let opened = file.open_segment().ok();
        file.segment.replace(opened);
        file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Applies the settings of another app that writes to the file.
    pub(crate) fn add_app(&self, policy: &Rc<RotationPolicy>, access: &LogAccess) {
        self.policy.replace(Rc::clone(policy));
        self.access.borrow_mut().add(access);
    }

    pub(crate) fn access(&self) -> LogAccess {
        self.access.borrow().clone()
    }

    /// The path that is written: the fallback if the path of the file is refused.
    pub(crate) fn used_path(&self) -> &Path {
        match (&self.fallback, self.diverted_at.get()) {
            (Some(fallback), Some(_)) => fallback,
            _ => &self.path,
        }
    }

    fn open_segment(&self) -> io::Result<Segment> {
        let (policy, access) = (self.policy.borrow(), self.access.borrow());
        let result = Segment::open(&self.path, &policy, &access);
        match (&result, &self.fallback) {
            (Err(error), Some(fallback)) if is_refused(error) => {
                let segment = Segment::open(fallback, &policy, &access)?;
                self.divert(error, fallback);
                Ok(segment)
            }
            _ => {
                self.end_diversion();
                result
            }
        }
    }

    fn divert(&self, error: &io::Error, fallback: &Path) {
        if self.diverted_at.replace(Some(Instant::now())).is_none() {
            let (path, used) = (self.path.display(), fallback.display());
            tracing::warn!("log file {path} is not used: {error}; writing to {used}");
            let diversion = Diversion { reason: error.to_string(), used: fallback.to_owned() };
            self.context.diversions.set(&self.path, diversion);
        }
    }

    fn end_diversion(&self) {
        if self.diverted_at.take().is_some() {
            self.context.diversions.clear(&self.path);
        }
    }

    fn is_retry_due(&self) -> bool {
        self.diverted_at.get().is_some_and(|since| since.elapsed() > REFUSAL_RETRY_DELAY)
    }

    /// Opens the path again. If the file ends in a partial line, it is reopened after that line.
    ///
    /// # Errors
    /// The path cannot be opened; writes go to the previous file.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let mut slot = self.segment.borrow_mut();
        match slot.as_mut().filter(|segment| segment.open_line().is_some()) {
            Some(segment) => segment.reopen_after_line(),
            None => *slot = Some(self.open_segment()?),
        }
        Ok(())
    }

    /// The file was truncated to zero.
    pub(crate) fn on_truncated(&self) {
        if let Some(segment) = &mut *self.segment.borrow_mut() {
            segment.on_truncated();
        }
    }

    /// Opens the file if it is not open.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn try_open(&self) -> io::Result<()> {
        let mut slot = self.segment.borrow_mut();
        if slot.is_none() {
            *slot = Some(self.open_segment()?);
        }
        Ok(())
    }

    /// Prepares a write of at least `line` bytes: opens the file, notices what other programs did to it, and
    /// rotates it if needed. Returns the maximum number of bytes to write.
    ///
    /// # Errors
    /// The file cannot be written now.
    pub(crate) fn prepare_write(&self, line: usize) -> io::Result<u64> {
        let result = self.try_prepare_write(line);
        if let Err(error) = &result {
            self.report_error(error);
        }
        result
    }

    fn try_prepare_write(&self, line: usize) -> io::Result<u64> {
        let mut slot = self.segment.borrow_mut();
        let policy = self.policy.borrow();
        if let Some(segment) = &mut *slot
            && (!segment.is_current(self.used_path())?
                || (segment.open_line().is_none() && self.is_retry_due()))
        {
            *slot = None;
        }
        let segment = match &mut *slot {
            Some(segment) => segment,
            empty => empty.insert(self.open_segment()?),
        };
        if segment.needs_rotation(line as u64, &policy) {
            self.rotate(segment, &policy);
        }
        let retention = &self.context.retention;
        if retention.is_over_budget() && !retention.free_space() {
            // No rotated file is left to remove: rotate large files early, so that they can be removed.
            let fair_share = retention.fair_share();
            if segment.size().is_some_and(|size| size > fair_share) && segment.open_line().is_none() {
                self.rotate(segment, &policy);
                retention.free_space();
            }
        }
        segment.flush()?;
        Ok(segment.remaining(&policy))
    }

    fn rotate(&self, segment: &mut Segment, policy: &RotationPolicy) {
        segment.rotate(self.used_path(), policy, &self.access.borrow(), &self.context.retention);
    }

    /// Rotates the file if its schedule requires it, without a write.
    pub(crate) fn rotate_if_due(&self) {
        let policy = Rc::clone(&self.policy.borrow());
        if let Some(segment) = &mut *self.segment.borrow_mut()
            && segment.is_current(self.used_path()).unwrap_or(false)
            && segment.needs_rotation(0, &policy)
        {
            self.rotate(segment, &policy);
        }
    }

    /// Time of the next scheduled rotation, in milliseconds since the epoch.
    pub(crate) fn next_rotation(&self) -> Option<i64> {
        self.segment.borrow().as_ref().and_then(Segment::next_rotation)
    }

    /// The state to restore if a write is undone; `None` for a file that cannot be truncated, such as a named
    /// pipe.
    pub(crate) fn pending_write(&self) -> Option<PendingWrite<'_>> {
        let (id, size_before) = self.segment.borrow().as_ref().and_then(Segment::pending_write)?;
        Some(PendingWrite { path: self.used_path(), id, size_before })
    }

    /// Appends text of a stream.
    ///
    /// # Errors
    /// The text was not written completely; undo it with [`roll_back`](Self::roll_back).
    pub(crate) fn append(&self, stream: StreamId, text: &[u8]) -> io::Result<()> {
        let mut slot = self.segment.borrow_mut();
        let Some(segment) = &mut *slot else { return Err(io::ErrorKind::NotFound.into()) };
        let (time, alone) = (self.context.next_timestamp(), self.context.mark_last_written(segment.id()));
        let result = segment.append(stream, text, time, alone);
        if segment.size().is_some() {
            self.context.retention.record_growth(text.len());
        }
        match &result {
            Ok(()) if self.failing.replace(false) => {
                tracing::info!("log file {} is writable again", self.used_path().display());
            }
            Ok(()) => {}
            Err(error) => self.report_error(error),
        }
        result
    }

    /// Undoes the last [`append`](Self::append).
    pub(crate) fn roll_back(&self) {
        if let Some(segment) = &mut *self.segment.borrow_mut() {
            segment.roll_back();
        }
    }

    fn report_error(&self, error: &io::Error) {
        // A full named pipe is no failure: its reader is slower than the app.
        if error.kind() != io::ErrorKind::WouldBlock && !self.failing.replace(true) {
            tracing::warn!(
                "cannot write log file {}: {error}; retrying, output is blocked or dropped (when_full)",
                self.path.display()
            );
        }
    }

    #[cfg(test)]
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.get()
    }

    /// Whether the file ends in a partial line of this stream.
    pub(crate) fn has_open_line_of(&self, stream: StreamId) -> bool {
        self.segment.borrow().as_ref().is_some_and(|segment| segment.open_line() == Some(stream))
    }

    /// Whether the file is a named pipe that has not accepted all output yet.
    pub(crate) fn has_backlog(&self) -> bool {
        self.prepare_write(0).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether lines can be read back from the file. Assumed of a file that is not open.
    pub(crate) fn is_regular(&self) -> bool {
        self.segment.borrow().as_ref().is_none_or(|segment| segment.pending_write().is_some())
    }
}
