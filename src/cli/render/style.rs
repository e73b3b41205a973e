//! Colors and widths of text on a terminal.

use std::borrow::Cow;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::ipc::message::DisplayStatus;
pub(crate) use crate::text::sanitize as tame;

/// The width of output to files and pipes, enough for all columns, as in PM2.
const DEFAULT_WIDTH: usize = 300;

/// The style of output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) color: bool,
    /// Width of the terminal in columns.
    pub(crate) width: usize,
}

/// The meaning of a color.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    /// Headings and keys.
    Heading,
    Success,
    /// Errored.
    Error,
    /// In transition, or needs attention.
    Warning,
    /// Less important.
    Dim,
}

impl Tone {
    /// The escape sequence that starts this tone.
    pub(crate) fn begin(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Heading => "\u{1b}[1;36m",
            Self::Success => "\u{1b}[32m",
            Self::Error => "\u{1b}[31m",
            Self::Warning => "\u{1b}[33m",
            Self::Dim => "\u{1b}[2m",
        }
    }

    pub(crate) fn of(status: DisplayStatus) -> Self {
        match status {
            DisplayStatus::Online | DisplayStatus::Completed | DisplayStatus::Scheduled => Self::Success,
            // Somebody wanted it so.
            DisplayStatus::Stopped => Self::Plain,
            DisplayStatus::Errored | DisplayStatus::Failed => Self::Error,
            DisplayStatus::Launching | DisplayStatus::Stopping | DisplayStatus::Waiting => Self::Warning,
        }
    }
}

/// The escape sequence that ends a tone.
pub(crate) const RESET: &str = "\u{1b}[0m";

impl Style {
    /// The style for files and pipes.
    pub(crate) fn plain() -> Self {
        Self { color: false, width: DEFAULT_WIDTH }
    }

    /// `text` in the color of a name.
    pub(crate) fn paint_name(self, name: &str, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        match name_color(name) {
            color @ 0..8 => format!("\u{1b}[{}m{text}{RESET}", 30 + color),
            color => format!("\u{1b}[{}m{text}{RESET}", 82 + color),
        }
    }

    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        match self.color && tone != Tone::Plain {
            true => format!("{}{text}{RESET}", tone.begin()),
            false => text.to_owned(),
        }
    }
}

/// The color of a name, one of the 16 of the terminal. Red is reserved for errors; blue is unreadable on black.
pub(crate) fn name_color(name: &str) -> u8 {
    // FNV-1a distributes short names well.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let colors = [2, 3, 5, 6, 10, 11, 12, 13, 14];
    colors[hash as usize % colors.len()]
}

/// The width of `text` on a terminal in columns. Several characters may form one grapheme: an emoji with its
/// modifiers, a letter with its accent.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// `text` truncated to `columns`, with `…` at the end if it is longer.
pub(crate) fn truncate(text: &str, columns: usize) -> Cow<'_, str> {
    let (mut taken, mut fits) = (0, 0);
    for (at, grapheme) in text.grapheme_indices(true) {
        taken += width(grapheme);
        if taken > columns {
            return if columns == 0 { "".into() } else { format!("{}…", &text[..fits]).into() };
        }
        if taken < columns {
            fits = at + grapheme.len();
        }
    }
    Cow::Borrowed(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_count_double() {
        assert_eq!(width("队列"), 4);
        assert_eq!(truncate("队列服务", 5), "队列…");
        assert_eq!(truncate("队列服务", 8), "队列服务");
        assert_eq!(truncate("worker", 4), "wor…");
        assert_eq!((truncate("abc", 0).as_ref(), truncate("", 3).as_ref()), ("", ""));
    }

    #[test]
    fn graphemes_are_not_split() {
        assert_eq!((width("⚠️"), width("👩‍💻"), width("e\u{301}")), (2, 2, 1));
        assert_eq!((truncate("👩‍💻👩‍💻", 4), truncate("👩‍💻👩‍💻", 3)), ("👩‍💻👩‍💻".into(), "👩‍💻…".into()));
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(tame("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn plain_style_has_no_colors() {
        assert_eq!(Style::plain().paint(Tone::Success, "online"), "online");
        assert_eq!(Style { color: true, width: 80 }.paint(Tone::Success, "x"), "\u{1b}[32mx\u{1b}[0m");
    }
}
