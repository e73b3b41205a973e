//! Commands that are none: what PM2's users type that rsm has under another name, or has not, each word with
//! the way here; and slips.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::text::closest_match;

/// PM2's commands that are none of rsm's.
const WORDS: &[(&[&str], &str)] = &[
    (
        &["update", "updatePM2", "deepUpdate"],
        "install the new version, then `rsm upgrade` puts it in the place of the one that runs; the apps go on",
    ),
    (
        &["slist", "sysinfos"],
        "`rsm info` shows rsm's processes and the machine, `rsm info --json` for programs",
    ),
    (&["imonit"], "`rsm list --sort memory:desc` shows who uses most"),
    (
        &["deploy"],
        "rsm does not deploy: have your own tool bring the files, then `rsm restart ecosystem.toml` there",
    ),
    (&["pull", "forward", "backward"], "rsm does not move code: `git pull` there, then `rsm restart APP`"),
    (
        &[
            "install",
            "uninstall",
            "module:install",
            "module:uninstall",
            "module:update",
            "module:generate",
            "package",
            "publish",
        ],
        "there are no modules: what they are used for is built in (logs: docs/logs.md), all else can be an app",
    ),
    (
        &["link", "unlink", "plus", "register", "login", "logout", "open", "monitor", "unmonitor"],
        "rsm talks to no vendor's service: `rsm list --json`, `rsm jlist` and the API (docs/api.md) feed any monitor",
    ),
    (
        &["install-otel", "uninstall-otel", "inspect"],
        "rsm puts nothing into apps: have the app load it itself",
    ),
    (
        &["profile:mem", "profile:cpu"],
        "`rsm info` shows what rsm itself uses; profile apps by their interpreter_args",
    ),
    (&["logrotate"], "no root is needed: docs/logs.md says how the logs are kept"),
    (&["create", "examples"], "`rsm init` writes a first ecosystem.toml"),
    (&["autoinstall", "web"], "rsm opens no port by itself: its API is a private socket (docs/api.md)"),
    (&["multiset"], "`rsm set KEY VALUE` sets one; `rsm conf` lists them"),
];

/// The error of a command that is none, with what helps; any other error as it is.
pub(super) fn explained(error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    let help = way(word).map_or_else(|| meant(word), str::to_owned);
    let message = format!("rsm has no command '{word}'\n\nhelp: {help}\n");
    clap::Error::raw(ErrorKind::InvalidSubcommand, message)
}

fn meant(word: &str) -> String {
    let commands = super::Cli::command();
    let shown = commands.get_subcommands().filter(|command| !command.is_hide_set());
    let names: Vec<&str> = shown.flat_map(|command| command.get_name_and_visible_aliases()).collect();
    match closest_match(word, names.into_iter()) {
        Some(name) => format!("did you mean `rsm {name}`? `rsm --help` lists all commands"),
        None => "`rsm --help` lists all commands".into(),
    }
}

fn way(word: &str) -> Option<&'static str> {
    WORDS.iter().find(|(words, _)| words.contains(&word)).map(|(_, way)| *way)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn words_of_pm2_get_the_way_here() {
        let error = explained(Cli::try_parse_from(["rsm", "updatePM2"]).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
        assert!(error.use_stderr() && error.to_string().contains("rsm upgrade"), "{error}");
    }

    #[test]
    fn slips_get_what_was_meant() {
        for (slip, meant) in
            [("restrat", "restart"), ("lst", "list"), ("strat", "start"), ("desribe", "describe")]
        {
            let error = explained(Cli::try_parse_from(["rsm", slip]).unwrap_err());
            let text = error.to_string();
            assert!(text.contains(&format!("did you mean `rsm {meant}`?")), "{text}");
        }
        let error = explained(Cli::try_parse_from(["rsm", "xyzzy"]).unwrap_err());
        assert!(error.to_string().ends_with("help: `rsm --help` lists all commands\n"), "{error}");
    }

    #[test]
    fn no_word_is_a_command_as_well() {
        for word in WORDS.iter().flat_map(|(words, _)| *words) {
            assert!(Cli::command().find_subcommand(word).is_none(), "{word}");
        }
    }
}
