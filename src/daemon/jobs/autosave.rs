//! Saving the list by itself after it has changed, for who has set `autosave`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};

use crate::daemon::jobs::dump;
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::world::state_writer::StateWriter;
use crate::instance::state::Want;
use crate::ipc::message::{EventKind, EventView};
use crate::paths::Home;
use crate::settings::RsmSettings;
use crate::spec::{AppSpec, EnvVars};

/// What changes within this time is saved in one go.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// What a saved list is about; counters and the like change all the time.
type ListSignature = Vec<(u32, Arc<AppSpec>, Arc<EnvVars>, Want)>;

/// Saves the list when it has changed. All clones are one.
#[derive(Clone, Debug)]
pub struct Autosave(Rc<AutosaveState>);

#[derive(Debug)]
struct AutosaveState {
    home: Home,
    handle: SupervisorHandle,
    saver: StateWriter,
    /// Something happened since the last save.
    due: Cell<bool>,
    /// So many are bringing back what was saved: the list is not whole while they do.
    pauses: Cell<u32>,
    last_saved: RefCell<Option<ListSignature>>,
}

/// While this lives nothing is saved.
#[derive(Debug)]
pub struct AutosavePause(Autosave);

impl Drop for AutosavePause {
    fn drop(&mut self) {
        self.0.0.pauses.set(self.0.0.pauses.get() - 1);
    }
}

impl Autosave {
    /// For a list and its home.
    pub fn new(home: Home, handle: SupervisorHandle, saver: StateWriter) -> Self {
        let (due, held, last) = (Cell::default(), Cell::default(), RefCell::default());
        Self(Rc::new(AutosaveState { home, handle, saver, due, pauses: held, last_saved: last }))
    }

    /// Keeps the saved list as it is until the hold is dropped.
    pub fn pause(&self) -> AutosavePause {
        self.0.pauses.set(self.0.pauses.get() + 1);
        AutosavePause(self.clone())
    }

    /// Saves after each change, for as long as the daemon lives.
    pub async fn run(self, mut events: broadcast::Receiver<EventView>) {
        loop {
            match events.recv().await {
                Ok(event) if !changes_list(event.event) => continue,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
            // More than once: what comes while it is saved is seen by the next event in the queue.
            if !self.0.due.replace(true) {
                let later = self.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(DEBOUNCE).await;
                    while later.0.pauses.get() > 0 {
                        tokio::time::sleep(DEBOUNCE).await;
                    }
                    later.save_now().await;
                });
            }
        }
    }

    /// Saves what is not saved yet. A shutdown calls this first: the list it leaves behind is one of stopped
    /// apps, and never saved.
    pub async fn save_now(&self) {
        tokio::task::yield_now().await; // what has just happened is heard of first
        if self.0.pauses.get() > 0 || self.0.handle.is_closing() || !self.0.due.replace(false) {
            return;
        }
        if !RsmSettings::load(&self.0.home).is_ok_and(|settings| settings.autosave()) {
            return;
        }
        let Ok(list) = self.0.handle.get(None).await else { return };
        let essence = list
            .into_iter()
            .map(|(it, _)| (it.id(), it.spec().clone(), it.inherited().clone(), it.status().want));
        let essence: ListSignature = essence.collect();
        if self.0.last_saved.borrow().as_ref() == Some(&essence) {
            return;
        }
        // An empty list is one that somebody has emptied: those of a new daemon have no events.
        match dump::save(&self.0.handle, &self.0.saver, &self.0.home, true).await {
            Ok(_) => drop(self.0.last_saved.replace(Some(essence))),
            Err(error) => {
                tracing::error!("cannot save the list, retrying at the next change: {error}");
            }
        }
    }
}

/// Whether the list may be another one after it, or what is wanted of it.
fn changes_list(event: EventKind) -> bool {
    matches!(
        event,
        EventKind::Added
            | EventKind::Deleted
            | EventKind::Launching
            | EventKind::Online
            | EventKind::Stopping
            | EventKind::Stopped
    )
}
