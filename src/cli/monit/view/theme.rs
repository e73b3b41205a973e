//! Colors: only the 16 colors of the terminal, which are readable on light and dark backgrounds. No information is
//! conveyed by color alone.

use ratatui::style::{Color, Modifier, Style};

use crate::cli::render::style::name_color;
use crate::ipc::message::DisplayStatus;

/// How things theme.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    /// Whether to use colors (`NO_COLOR`).
    pub(crate) color: bool,
}

impl Theme {
    fn tinted(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    pub(super) fn success(self) -> Style {
        self.tinted(Color::Green)
    }

    pub(super) fn error(self) -> Style {
        self.tinted(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Not yellow, which is unreadable on white.
    pub(super) fn warning(self) -> Style {
        self.tinted(Color::Magenta)
    }

    /// Headings and keys. Not blue, which is unreadable on black, nor cyan, which is on white.
    pub(super) fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The color of an app.
    pub(super) fn app(self, name: &str) -> Style {
        const COLORS: [Color; 3] = [Color::Green, Color::Magenta, Color::Cyan];
        self.tinted(COLORS[usize::from(name_color(name)) % COLORS.len()])
    }

    /// Less important text.
    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// The selected row; dim if its pane has no focus.
    pub(super) fn selected(self, focused: bool) -> Style {
        let style = Style::new().add_modifier(Modifier::REVERSED);
        if focused { style } else { style.add_modifier(Modifier::DIM) }
    }

    /// Matches of the search.
    pub(super) fn match_highlight(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
    }

    pub(super) fn chart(self) -> Style {
        self.tinted(Color::Cyan)
    }

    pub(super) fn status(self, status: DisplayStatus) -> Style {
        match status {
            DisplayStatus::Online => self.success(),
            DisplayStatus::Stopped | DisplayStatus::Completed | DisplayStatus::Scheduled => self.dim(),
            DisplayStatus::Errored | DisplayStatus::Failed => self.error(),
            DisplayStatus::Launching | DisplayStatus::Stopping | DisplayStatus::Waiting => self.warning(),
        }
    }
}
