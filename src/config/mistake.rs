//! What is wrong with a configuration: where, what, and what to do about it.

use crate::text::sanitize_lines;
use std::fmt;
use std::path::PathBuf;

/// Every mistake found in one file or command line, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it is.
    pub place: Place,
    /// What is wrong, without the place.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File(PathBuf),
    /// A stretch of a file.
    Span {
        /// The file, as the user named it.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// The line itself and the width of the stretch in characters; absent where quoting it
        /// could show a secret.
        quote: Option<(String, usize)>,
    },
    /// A value of a file that is evaluated: its places are not those of the text.
    Path {
        /// The file, as the user named it.
        file: PathBuf,
        /// As JavaScript writes it: `apps[2].instances`.
        path: String,
    },
    /// A flag or argument of the command.
    Flag(&'static str),
}

impl fmt::Display for Mistakes {
    /// One block a mistake, a blank line between them.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(out)?;
            }
            mistake.fmt(out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistake {
    /// Ends with a newline.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = sanitize_lines(&self.message);
        match &self.place {
            Place::File(file) => writeln!(out, "{}: {message}", file.display())?,
            Place::Flag(flag) => writeln!(out, "{flag}: {message}")?,
            Place::Path { file, path } => {
                writeln!(out, "{}: {}: {message}", file.display(), sanitize_lines(path))?
            }
            Place::Span { file, line, column, quote } => {
                writeln!(out, "{}:{line}:{column}: {message}", file.display())?;
                if let Some((text, width)) = quote {
                    underline(out, *line, *column, &sanitize_lines(text), *width)?;
                }
            }
        }
        match &self.help {
            Some(help) => writeln!(out, "help: {}", sanitize_lines(help)),
            None => Ok(()),
        }
    }
}

/// The line, with carets under the stretch. Tabs are kept in the margin so that both align.
fn underline(
    out: &mut fmt::Formatter<'_>,
    line: usize,
    column: usize,
    text: &str,
    width: usize,
) -> fmt::Result {
    let number = line.to_string();
    let before: String = text.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
    let room = text.chars().count().saturating_sub(column - 1).max(1);
    writeln!(out, "  {number} | {text}")?;
    writeln!(out, "  {:>1$} | {before}{2}", "", number.len(), "^".repeat(width.clamp(1, room)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(column: usize, text: &str, width: usize) -> Place {
        Place::Span { file: "e.toml".into(), line: 12, column, quote: Some((text.into(), width)) }
    }

    #[test]
    fn a_mistake_shows_its_place_its_line_and_the_way_out() {
        let mistake = Mistake {
            place: span(8, "\tport = \"x\"", 3),
            message: "invalid value for `port`".into(),
            help: Some("write 8080".into()),
        };
        let shown = "e.toml:12:8: invalid value for `port`\n  12 | \tport = \"x\"\n     | \t      ^^^\nhelp: write 8080\n";
        assert_eq!(mistake.to_string(), shown);
    }

    #[test]
    fn blocks_are_parted_by_a_blank_line() {
        let flag = Mistake { place: Place::Flag("--name"), message: "is empty".into(), help: None };
        let file =
            Mistake { place: Place::File("e.toml".into()), message: "is a directory".into(), help: None };
        assert_eq!(Mistakes(vec![flag, file]).to_string(), "--name: is empty\n\ne.toml: is a directory\n");
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        let mistake = Mistake { place: span(1, "a = [", 3), message: "\u{1b}[2Jx".into(), help: None };
        assert!(!mistake.to_string().contains('\u{1b}'));
    }

    #[test]
    fn carets_stay_on_the_line() {
        let long = Mistake { place: span(4, "a = [", 90), message: "m".into(), help: None };
        assert!(long.to_string().contains("|    ^^\n"), "{long}");
    }
}
