//! What a person wants of the outside.

use crate::ipc::message::{Action, ScaleTo, Selectors};

/// What the model wants of the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UiCommand {
    /// Something is to be done to instances.
    Run(InstanceAction, Selectors),
    /// The end.
    Quit,
    /// To the background, as Ctrl-Z does.
    Suspend,
    /// Draw everything again: something else wrote to the terminal.
    Redraw,
}

/// What can be done to the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstanceAction {
    /// Start, stop, restart, delete.
    Basic(Action),
    /// New processes without a gap.
    Reload,
    /// More or fewer instances.
    Scale(ScaleTo),
}

impl InstanceAction {
    /// Its name, as the command line has it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Basic(action) => action.as_str(),
            Self::Reload => "reload",
            Self::Scale(_) => "scale",
        }
    }
}
