//! Errors of the command line, in the style of all other errors: what is wrong, and the command that was probably
//! meant.

use std::error::Error as _;
use std::ffi::OsString;
use std::path::Path;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::error::Error;
use super::foreign_words;
use crate::text::closest_match;

/// Commands that act on apps and take `all`.
const ON_APPS: [&str; 6] = ["stop", "restart", "reload", "delete", "describe", "reset"];

/// What the standard library says about numbers, in the words of rsm.
const NUMBER_ERRORS: [(&str, &str); 5] = [
    ("invalid digit found in string", "expected a number"),
    ("cannot parse integer from empty string", "expected a number"),
    ("invalid float literal", "expected a number"),
    ("number too large to fit in target type", "the number is too large"),
    ("number too small to fit in target type", "the number is too small"),
];

/// Converts an error of clap. Help and version, for which clap uses this type, are returned unchanged.
pub(super) fn convert(error: clap::Error, args: &[OsString], command: &Command) -> Error {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || is_help {
        return Error::Usage(error);
    }
    let words: Vec<&str> = args.iter().skip(1).filter_map(|arg| arg.to_str()).collect();
    let given = GivenCommand::new(&words, command);
    let (message, help) = match error.kind() {
        ErrorKind::MissingSubcommand => ("no command specified".into(), "see `rsm --help`".into()),
        ErrorKind::InvalidSubcommand => unknown_command(&error, &words, command),
        ErrorKind::UnknownArgument => given.unknown_argument(&error),
        ErrorKind::MissingRequiredArgument => given.missing_argument(&error),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => given.invalid_value(&error),
        ErrorKind::ArgumentConflict => given.conflict(&error),
        _ => (first_line(&error), given.see_help()),
    };
    Error::WrongUsage { message, help }
}

/// The command whose arguments are wrong, and its arguments.
struct GivenCommand<'a> {
    command: Option<&'a Command>,
    name: &'a str,
    args: Vec<&'a str>,
}

impl<'a> GivenCommand<'a> {
    fn new(words: &[&'a str], command: &'a Command) -> Self {
        let position = words.iter().position(|word| command.find_subcommand(word).is_some());
        let args = position.map_or(&[][..], |position| &words[position + 1..]).to_vec();
        let command = position.and_then(|position| command.find_subcommand(words[position]));
        Self { command, name: command.map_or("", Command::get_name), args }
    }

    fn see_help(&self) -> String {
        if self.name.is_empty() {
            "see `rsm --help`".into()
        } else {
            format!("see `rsm {} --help`", self.name)
        }
    }

    fn usage(&self) -> String {
        let Some(command) = self.command else { return self.see_help() };
        let mut command = command.clone().bin_name(format!("rsm {}", self.name));
        let usage = command.render_usage().to_string();
        format!("{}; {}", usage.replacen("Usage: ", "usage: ", 1).trim(), self.see_help())
    }

    fn unknown_argument(&self, error: &clap::Error) -> (String, String) {
        let arg = text(error, ContextKind::InvalidArg).unwrap_or_default();
        let message = match arg.starts_with('-') {
            true if self.name.is_empty() => format!("unknown option {arg:?}"),
            true => format!("unknown option {arg:?} of `rsm {}`", self.name),
            false => format!("unexpected argument {arg:?}"),
        };
        let help = match (self.name, arg.as_str()) {
            (name, "--all" | "-a") if ON_APPS.contains(&name) => format!("for all apps: rsm {name} all"),
            ("kill", app) => {
                format!("`rsm kill` stops all apps and rsm itself; to stop one app: rsm stop {app}")
            }
            _ if !self.args.iter().any(|word| word.starts_with(&arg)) => {
                format!("write options after the command; {}", self.see_help())
            }
            ("start" | "runtime", _) => {
                let (before, after) = self.split_at(&arg);
                format!("write the arguments of the app after `--`: rsm {} {before} -- {after}", self.name)
            }
            _ => match text(error, ContextKind::SuggestedArg) {
                Some(similar) => format!("did you mean {similar}? See `rsm {} --help`", self.name),
                None => self.usage(),
            },
        };
        (message, help)
    }

    /// The arguments before the first one that starts so, and from it on.
    fn split_at(&self, arg: &str) -> (String, String) {
        let position = self.args.iter().position(|word| word.starts_with(arg)).unwrap_or(self.args.len());
        let (before, after) = self.args.split_at(position);
        (before.join(" "), after.join(" "))
    }

    fn missing_argument(&self, error: &clap::Error) -> (String, String) {
        let missing = texts(error, ContextKind::InvalidArg);
        if missing.first().is_some_and(|name| name.contains("<APP>")) {
            let help = match ON_APPS.contains(&self.name) {
                true => format!("name the apps, or `all`: rsm {} all", self.name),
                false => self.usage(),
            };
            return ("no app specified".into(), help);
        }
        (format!("missing {}", missing.join(" ")), self.usage())
    }

    fn invalid_value(&self, error: &clap::Error) -> (String, String) {
        let arg = text(error, ContextKind::InvalidArg).unwrap_or_default();
        let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
        if value.is_empty() && error.kind() == ErrorKind::InvalidValue {
            return (format!("{arg} requires a value"), self.see_help());
        }
        let known = texts(error, ContextKind::ValidValue);
        let expected = match known.is_empty() {
            true => error.source().map_or_else(String::new, |source| reason(&source.to_string())),
            false => format!("expected one of {}", known.join(", ")),
        };
        (format!("invalid value {value:?} for {arg}: {expected}"), self.see_help())
    }

    fn conflict(&self, error: &clap::Error) -> (String, String) {
        let arg = text(error, ContextKind::InvalidArg).unwrap_or_default();
        let others = texts(error, ContextKind::PriorArg);
        match others.is_empty() {
            true => (first_line(error), self.see_help()),
            false if others.iter().all(|other| *other == arg) => {
                (format!("{arg} can only be given once"), self.see_help())
            }
            false => (format!("{arg} cannot be combined with {}", others.join(" ")), self.see_help()),
        }
    }
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    texts(error, kind).into_iter().next()
}

fn texts(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The reason why a value is invalid.
fn reason(text: &str) -> String {
    // clap: `0 is not in 1..=4294967295`
    if let Some((_, range)) = text.split_once(" is not in ") {
        let (first, last) = range.split_once("..").unwrap_or((range, ""));
        let last = last.trim_start_matches('=');
        let is_limit = last.is_empty() || last == u32::MAX.to_string();
        return match is_limit {
            true => format!("expected a number of at least {first}"),
            false => format!("expected a number from {first} to {last}"),
        };
    }
    match NUMBER_ERRORS.iter().find(|(theirs, _)| text.contains(theirs)) {
        Some((_, ours)) => (*ours).to_owned(),
        None => text.to_owned(),
    }
}

fn unknown_command(error: &clap::Error, words: &[&str], command: &Command) -> (String, String) {
    let word = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
    let message = format!("unknown command {word:?}");
    let after = words.iter().skip_while(|other| **other != word).nth(1).copied().unwrap_or_default();
    let help = if let Some(replacement) = foreign_words::replacement(&word) {
        replacement.to_owned()
    } else if Path::new(&word).is_file() {
        format!("to start it: rsm start {word}")
    } else if command.find_subcommand(after).is_some() {
        format!("the command comes first: rsm {after} {word}")
    } else {
        closest_command(&word, command)
    };
    (message, help)
}

fn closest_command(word: &str, command: &Command) -> String {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    let names: Vec<&str> = shown.flat_map(|command| command.get_name_and_visible_aliases()).collect();
    match closest_match(word, names.into_iter()) {
        Some(name) => format!("did you mean `rsm {name}`? See `rsm --help`"),
        None => "see `rsm --help`".into(),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::CliArgs;

    fn error_of(line: &str) -> String {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = CliArgs::try_parse_from(&args).unwrap_err();
        match convert(error, &args, &CliArgs::command()) {
            Error::WrongUsage { message, help } => format!("{message}\n{help}"),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn typos_suggest_command() {
        for (typo, meant) in
            [("restrat", "restart"), ("lst", "list"), ("strat", "start"), ("desribe", "describe")]
        {
            let text = error_of(&format!("rsm {typo}"));
            assert!(text.contains(&format!("did you mean `rsm {meant}`?")), "{text}");
        }
        assert_eq!(error_of("rsm xyzzy"), "unknown command \"xyzzy\"\nsee `rsm --help`");
        assert_eq!(error_of("rsm --no-color"), "no command specified\nsee `rsm --help`");
    }

    #[test]
    fn errors_have_the_words_of_rsm() {
        for (line, want) in [
            ("rsm logs --lines x", "invalid value \"x\" for --lines <N>: expected a number\n"),
            (
                "rsm list --sort size",
                "invalid value \"size\" for --sort <FIELD[:desc]>: unknown field: expected",
            ),
            ("rsm list --watch 0", "for --watch [<SECONDS>]: expected a number of at least 1"),
            ("rsm list --json -m", "cannot be combined with"),
            ("rsm stop", "no app specified\nname the apps, or `all`: rsm stop all"),
            ("rsm scale api", "missing <N>\nusage: rsm scale "),
            ("rsm completion tcsh", "invalid value \"tcsh\" for <SHELL>: expected one of bash, zsh, fish\n"),
            ("rsm start a.js --max-memory-restart", "--max-memory-restart <SIZE> requires a value\n"),
            ("rsm restart --all", "unknown option \"--all\" of `rsm restart`\nfor all apps: rsm restart all"),
            ("rsm kill api", "rsm stop api"),
            ("rsm -e A=1 start a.js", "unknown option \"-e\""),
            ("rsm api restart", "the command comes first: rsm restart api"),
        ] {
            assert!(error_of(line).contains(want), "{line}: {}", error_of(line));
        }
    }
}
