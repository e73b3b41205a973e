//! Colors: only those that the terminal's own theme defines, so that they can be read on light and dark
//! ground; and none of them says anything that is not also said otherwise.

use ratatui::style::{Color, Modifier, Style};

use crate::ipc::message::Status;

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    /// Whether colors are wanted (`NO_COLOR`).
    pub(crate) color: bool,
}

impl Theme {
    fn tinted(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    /// As it should be.
    pub(super) fn success(self) -> Style {
        self.tinted(Color::Green)
    }

    /// Wrong.
    pub(super) fn error(self) -> Style {
        self.tinted(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// In between. Not yellow, which nobody can read on white.
    pub(super) fn warning(self) -> Style {
        self.tinted(Color::Magenta)
    }

    /// Headings, keys.
    pub(super) fn heading(self) -> Style {
        self.tinted(Color::Blue).add_modifier(Modifier::BOLD)
    }

    /// What is less important.
    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// The selected row; weaker where the arrows go elsewhere.
    pub(super) fn selected(self, focused: bool) -> Style {
        let style = Style::new().add_modifier(Modifier::REVERSED);
        if focused { style } else { style.add_modifier(Modifier::DIM) }
    }

    /// What was searched for.
    pub(super) fn match_highlight(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
    }

    /// Charts.
    pub(super) fn chart(self) -> Style {
        self.tinted(Color::Cyan)
    }

    /// A state.
    pub(super) fn status(self, status: Status) -> Style {
        match status {
            Status::Online => self.success(),
            Status::Stopped => self.dim(),
            Status::Errored => self.error(),
            Status::Launching | Status::Stopping | Status::Waiting => self.warning(),
        }
    }
}
