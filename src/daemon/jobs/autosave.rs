//! Autosave: saves the list after it has changed, if `autosave` is enabled.

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

/// Changes within this time are saved together.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// The part of the list that a save is for; counters change all the time.
type ListSignature = Vec<(u32, Arc<AppSpec>, Arc<EnvVars>, Want)>;

/// Saves the list when it has changed. All clones share one state.
#[derive(Clone, Debug)]
pub struct Autosave(Rc<AutosaveState>);

#[derive(Debug)]
struct AutosaveState {
    home: Home,
    handle: SupervisorHandle,
    state_writer: StateWriter,
    /// Whether the list may have changed since the last save.
    is_due: Cell<bool>,
    /// The number of resurrections in progress: the list is incomplete until they end.
    pauses: Cell<u32>,
    /// Whether apps are saved that this daemon has not restored. A save would lose them, so it needs a user who saves or
    /// restores the list.
    is_held: Cell<bool>,
    last_saved: RefCell<Option<ListSignature>>,
}

/// Prevents saves until it is dropped.
#[derive(Debug)]
pub struct AutosavePause(Autosave);

impl Drop for AutosavePause {
    fn drop(&mut self) {
        self.0.0.pauses.set(self.0.0.pauses.get() - 1);
    }
}

impl Autosave {
    /// `is_new_list`: this daemon has no apps of a previous one.
    pub fn new(home: Home, handle: SupervisorHandle, state_writer: StateWriter, is_new_list: bool) -> Self {
        let has_saved_apps = || dump::load(&home).is_ok_and(|(saved, _)| !saved.is_empty());
        let is_held = Cell::new(is_new_list && has_saved_apps());
        let (is_due, pauses, last_saved) = (Cell::default(), Cell::default(), RefCell::default());
        Self(Rc::new(AutosaveState { home, handle, state_writer, is_due, pauses, is_held, last_saved }))
    }

    /// The user has saved, cleared or restored the saved list.
    pub fn release(&self) {
        self.0.is_held.set(false);
    }

    /// Prevents saves until the result is dropped.
    pub fn pause(&self) -> AutosavePause {
        self.release();
        self.0.pauses.set(self.0.pauses.get() + 1);
        AutosavePause(self.clone())
    }

    /// Saves after each change, until the daemon exits.
    pub async fn run(self, mut events: broadcast::Receiver<EventView>) {
        loop {
            match events.recv().await {
                Ok(event) if !changes_list(event.event) => continue,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
            // Reset before a save: a change during the save starts another one.
            if !self.0.is_due.replace(true) {
                let autosave = self.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(DEBOUNCE).await;
                    while autosave.0.pauses.get() > 0 {
                        tokio::time::sleep(DEBOUNCE).await;
                    }
                    autosave.save_now().await;
                });
            }
        }
    }

    /// Saves unsaved changes. A shutdown calls this first, because it stops all apps and that is not saved.
    pub async fn save_now(&self) {
        tokio::task::yield_now().await; // lets `run` receive the latest events
        let is_prevented = self.0.pauses.get() > 0 || self.0.is_held.get();
        if is_prevented || self.0.handle.is_closing() || !self.0.is_due.replace(false) {
            return;
        }
        if !RsmSettings::load(&self.0.home).is_ok_and(|settings| settings.autosave()) {
            return;
        }
        let Ok(list) = self.0.handle.get(None).await else { return };
        let signature =
            list.iter().map(|(it, _)| (it.id(), it.spec().clone(), it.inherited().clone(), it.status().want));
        let signature: ListSignature = signature.collect();
        if self.0.last_saved.borrow().as_ref() == Some(&signature) {
            return;
        }
        // Forced: an empty list is saved too. It was emptied by a user, because a new daemon has no events.
        match dump::save(&self.0.handle, &self.0.state_writer, &self.0.home, true).await {
            Ok(_) => drop(self.0.last_saved.replace(Some(signature))),
            Err(error) => {
                tracing::error!("cannot save the list, retrying at the next change: {error}");
            }
        }
    }
}

/// Whether an event can mean that instances or their target states have changed.
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
