//! Colour and width of the output, and what must never reach a terminal.

use std::borrow::Cow;

pub(in crate::cli) use crate::text::sanitize as tame;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::ipc::message::Status;

/// Columns assumed where nobody looks: enough for the full layouts, as in PM2.
const UNSEEN: usize = 300;

/// How output is dressed.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Style {
    /// Whether colours are wanted.
    pub(in crate::cli) colour: bool,
    /// Columns there are.
    pub(in crate::cli) width: usize,
}

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Tone {
    /// Nothing special.
    Plain,
    /// A heading, a key.
    Head,
    /// As it should be.
    Good,
    /// Down.
    Bad,
    /// In between.
    Change,
}

impl Tone {
    /// The sequence that begins this tone.
    pub(in crate::cli) fn begin(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Head => "\u{1b}[1;36m",
            Self::Good => "\u{1b}[32m",
            Self::Bad => "\u{1b}[31m",
            Self::Change => "\u{1b}[33m",
        }
    }

    /// The tone of a state.
    pub(in crate::cli) fn of(status: Status) -> Self {
        match status {
            Status::Online => Self::Good,
            Status::Stopped | Status::Errored => Self::Bad,
            Status::Launching | Status::Stopping | Status::Waiting => Self::Change,
        }
    }
}

/// Ends any tone.
pub(in crate::cli) const END: &str = "\u{1b}[0m";

impl Style {
    /// For files and pipes.
    pub(in crate::cli) fn plain() -> Self {
        Self { colour: false, width: UNSEEN }
    }

    /// `text` in the colour that belongs to a name, today and tomorrow. Red is for errors.
    pub(in crate::cli) fn colour_of(self, name: &str, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        // FNV-1a: short names differ in it.
        let hash = name
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let colours = [32, 33, 34, 35, 36, 92, 93, 94, 95, 96];
        let colour = colours[hash as usize % colours.len()];
        format!("\u{1b}[{colour}m{text}{END}")
    }

    /// `text` in a tone.
    pub(in crate::cli) fn paint(self, tone: Tone, text: &str) -> String {
        match self.colour && tone != Tone::Plain {
            true => format!("{}{text}{END}", tone.begin()),
            false => text.to_owned(),
        }
    }
}

/// Columns that `text` takes on a terminal. Several characters may be one sign there: an emoji with what
/// makes it one, a letter with its accent.
pub(in crate::cli) fn width(text: &str) -> usize {
    text.width()
}

/// `text` in at most `columns`, its end replaced by `…` where it is longer.
pub(in crate::cli) fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    let (mut taken, mut fits) = (0, 0);
    for (at, sign) in text.grapheme_indices(true) {
        taken += width(sign);
        if taken > columns {
            return if columns == 0 { "".into() } else { format!("{}…", &text[..fits]).into() };
        }
        if taken < columns {
            fits = at + sign.len();
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
        assert_eq!(cut("队列服务", 5), "队列…");
        assert_eq!(cut("队列服务", 8), "队列服务");
        assert_eq!(cut("worker", 4), "wor…");
        assert_eq!((cut("abc", 0).as_ref(), cut("", 3).as_ref()), ("", ""));
    }

    #[test]
    fn a_sign_of_several_characters_is_not_broken() {
        assert_eq!((width("⚠️"), width("👩‍💻"), width("e\u{301}")), (2, 2, 1));
        assert_eq!((cut("👩‍💻👩‍💻", 4), cut("👩‍💻👩‍💻", 3)), ("👩‍💻👩‍💻".into(), "👩‍💻…".into()));
    }

    #[test]
    fn control_characters_do_not_pass() {
        assert_eq!(tame("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn colour_only_where_wanted() {
        assert_eq!(Style::plain().paint(Tone::Good, "online"), "online");
        assert_eq!(Style { colour: true, width: 80 }.paint(Tone::Good, "x"), "\u{1b}[32mx\u{1b}[0m");
    }
}
