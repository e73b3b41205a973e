//! Commands of the dashboard.

use crate::ipc::message::{Action, ScaleTo, Selectors};

/// A command that affects more than the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UiCommand {
    /// Run an action on instances.
    Run(InstanceAction, Selectors),
    Quit,
    /// Suspend the process, as Ctrl-Z does.
    Suspend,
    /// Draw the whole screen again: another program may have written to the terminal.
    Redraw,
}

/// An action on the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstanceAction {
    /// Start, stop, restart or delete.
    Basic(Action),
    Reload,
    Scale(ScaleTo),
}

impl InstanceAction {
    /// The name of the action on the command line.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Basic(action) => action.as_str(),
            Self::Reload => "reload",
            Self::Scale(_) => "scale",
        }
    }
}
