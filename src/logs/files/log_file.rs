//! An open log file: what its policy and others do to it, and what is written.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::logs::capture::journal::PendingWrite;
use crate::logs::files::context::FileContext;
use crate::logs::files::index::StreamId;
use crate::logs::files::segment::Segment;
use crate::spec::Rotation;

/// A log file, open as long as a stream writes to it.
#[derive(Debug)]
pub(in crate::logs) struct LogFile {
    path: PathBuf,
    policy: RefCell<Arc<Rotation>>,
    context: Rc<FileContext>,
    /// Absent until it could be opened.
    segment: RefCell<Option<Segment>>,
    /// Trouble is reported once, until it is over.
    failing: Cell<bool>,
}

impl LogFile {
    /// The file at a path, opened at the first write if it cannot be now.
    pub(in crate::logs) fn open(path: &Path, policy: &Arc<Rotation>, ground: &Rc<FileContext>) -> Self {
        Self {
            path: path.to_owned(),
            policy: RefCell::new(Arc::clone(policy)),
            context: Rc::clone(ground),
            segment: RefCell::new(Segment::open(path, policy, &ground.indexes).ok()),
            failing: Cell::new(false),
        }
    }

    /// Where it is.
    pub(in crate::logs) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it is kept so.
    pub(in crate::logs) fn set_policy(&self, policy: &Arc<Rotation>) {
        self.policy.replace(Arc::clone(policy));
    }

    /// Opens it anew by its path; one that ends within a line after that line.
    ///
    /// # Errors
    /// It cannot be opened, and is written where it was.
    pub(in crate::logs) fn reopen(&self) -> io::Result<()> {
        let mut slot = self.segment.borrow_mut();
        match slot.as_mut().filter(|segment| segment.open_line().is_some()) {
            Some(segment) => segment.reopen_after_line(),
            None => *slot = Some(Segment::open(&self.path, &self.policy.borrow(), &self.context.indexes)?),
        }
        Ok(())
    }

    /// Someone cut it to nothing.
    pub(in crate::logs) fn was_emptied(&self) {
        if let Some(segment) = &mut *self.segment.borrow_mut() {
            segment.on_truncated();
        }
    }

    /// Why it cannot be opened, if it is not open.
    pub(in crate::logs) fn try_open(&self) -> Option<io::Error> {
        let mut slot = self.segment.borrow_mut();
        if slot.is_none() {
            match Segment::open(&self.path, &self.policy.borrow(), &self.context.indexes) {
                Ok(segment) => *slot = Some(segment),
                Err(error) => return Some(error),
            }
        }
        None
    }

    /// Sees that at least `line` bytes can come: opens what is not open, follows what others did
    /// to the file, rotates it if it is time. Returns how many bytes it shall take at most.
    ///
    /// # Errors
    /// It cannot be written now.
    pub(in crate::logs) fn prepare_write(&self, line: usize) -> io::Result<u64> {
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
            && !segment.is_current(&self.path)?
        {
            *slot = None;
        }
        let segment = match &mut *slot {
            Some(segment) => segment,
            empty => empty.insert(Segment::open(&self.path, &policy, &self.context.indexes)?),
        };
        if segment.needs_rotation(line as u64, &policy) {
            segment.rotate(&self.path, &policy, &self.context);
        }
        if self.context.retention.is_over_budget() && !self.context.retention.free_space() {
            // Nothing else is left to be removed: the largest make way before their time.
            let fair = self.context.retention.fair_share();
            if segment.size().is_some_and(|size| size > fair) && segment.open_line().is_none() {
                segment.rotate(&self.path, &policy, &self.context);
                self.context.retention.free_space();
            }
        }
        segment.flush()?;
        Ok(segment.remaining(&policy))
    }

    /// Rotates the file if its time has come, though nobody writes.
    pub(in crate::logs) fn rotate_if_due(&self) {
        let policy = Arc::clone(&self.policy.borrow());
        if let Some(segment) = &mut *self.segment.borrow_mut()
            && segment.is_current(&self.path).unwrap_or(false)
            && segment.needs_rotation(0, &policy)
        {
            segment.rotate(&self.path, &policy, &self.context);
        }
    }

    /// When it is to be rotated by the clock; milliseconds since the epoch.
    pub(in crate::logs) fn next_rotation(&self) -> Option<i64> {
        self.segment.borrow().as_ref().and_then(Segment::next_rotation)
    }

    /// What is about to grow; `None` for what cannot shrink again, as a named pipe.
    pub(in crate::logs) fn pending_write(&self) -> Option<PendingWrite<'_>> {
        let (id, from) = self.segment.borrow().as_ref().and_then(Segment::pending_write)?;
        Some(PendingWrite { path: &self.path, id, size_before: from })
    }

    /// Writes text, all of it or (after [`undo`](Self::undo)) nothing.
    ///
    /// # Errors
    /// It could not be written whole.
    pub(in crate::logs) fn append(&self, owner: StreamId, text: &[u8]) -> io::Result<()> {
        let mut slot = self.segment.borrow_mut();
        let Some(segment) = &mut *slot else { return Err(io::ErrorKind::NotFound.into()) };
        let (at, alone) = (self.context.next_timestamp(), self.context.mark_last_written(segment.id()));
        let result = segment.append(owner, text, at, alone);
        if segment.size().is_some() {
            self.context.retention.record_growth(text.len());
        }
        match &result {
            Ok(()) if self.failing.replace(false) => {
                tracing::info!("log file {} is writable again", self.path.display());
            }
            Ok(()) => {}
            Err(error) => self.report_error(error),
        }
        result
    }

    /// Takes back what was written last.
    pub(in crate::logs) fn roll_back(&self) {
        if let Some(segment) = &mut *self.segment.borrow_mut() {
            segment.roll_back();
        }
    }

    fn report_error(&self, error: &io::Error) {
        // A named pipe whose reader is slower is no trouble.
        if error.kind() != io::ErrorKind::WouldBlock && !self.failing.replace(true) {
            tracing::warn!(
                "cannot write log file {}: {error}; retrying, output is blocked or dropped (when_full)",
                self.path.display()
            );
        }
    }

    /// Whether writing failed the last time.
    #[cfg(test)]
    pub(in crate::logs) fn is_failing(&self) -> bool {
        self.failing.get()
    }

    /// Whether the file ends in an unfinished line of this stream.
    pub(in crate::logs) fn has_open_line_of(&self, owner: StreamId) -> bool {
        self.segment.borrow().as_ref().is_some_and(|segment| segment.open_line() == Some(owner))
    }

    /// Whether it is a named pipe that has not taken all that it was given.
    pub(in crate::logs) fn has_backlog(&self) -> bool {
        self.prepare_write(0).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether lines are kept in it: it is a plain file.
    pub(in crate::logs) fn is_regular(&self) -> bool {
        self.segment.borrow().as_ref().is_none_or(|segment| segment.pending_write().is_some())
    }
}
