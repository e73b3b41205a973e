//! Help for unknown commands: the replacement of a PM2 command that rsm does not have, or the most similar command.

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::text::closest_match;

/// Commands of PM2 that rsm does not have, and what to use instead.
const PM2_COMMANDS: &[(&[&str], &str)] = &[
    (&["slist", "sysinfos"], "use `rsm info` or `rsm info --json`"),
    (&["imonit"], "use `rsm list --sort memory:desc`"),
    (
        &["deploy"],
        "rsm does not deploy; copy the files with your own tool, then run `rsm reload ecosystem.toml`",
    ),
    (&["pull", "forward", "backward"], "run `git pull`, then `rsm reload APP`"),
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
        "rsm has no modules; log rotation is built in (docs/logs.md)",
    ),
    (
        &["link", "unlink", "plus", "register", "login", "logout", "open", "monitor", "unmonitor"],
        "rsm does not connect to PM2 Plus; use `rsm list --json`, `rsm jlist` or the API (docs/api.md)",
    ),
    (&["install-otel", "uninstall-otel", "inspect"], "rsm does not inject code; load it in the app"),
    (&["profile:mem", "profile:cpu"], "use `interpreter_args`, for example --cpu-prof, to profile an app"),
    (&["logrotate"], "log rotation is built in: docs/logs.md"),
    (&["create", "examples"], "use `rsm init`"),
    (&["autoinstall", "web"], "the API is available on a Unix socket: docs/api.md"),
    (&["multiset"], "use `rsm set KEY VALUE` for each key"),
];

/// Adds help to the error of an unknown or missing command. Other errors are returned unchanged.
pub(super) fn with_suggestion(error: clap::Error, command: &Command) -> clap::Error {
    if error.kind() == ErrorKind::MissingSubcommand {
        return clap::Error::raw(error.kind(), "no command specified\n\nhelp: see `rsm --help`\n");
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    let help = pm2_replacement(word).map_or_else(|| closest_command(word, command), str::to_owned);
    let message = format!("unrecognized command '{word}'\n\nhelp: {help}\n");
    clap::Error::raw(ErrorKind::InvalidSubcommand, message)
}

fn closest_command(word: &str, command: &Command) -> String {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    let names: Vec<&str> = shown.flat_map(|command| command.get_name_and_visible_aliases()).collect();
    match closest_match(word, names.into_iter()) {
        Some(name) => format!("did you mean `rsm {name}`? See `rsm --help`"),
        None => "see `rsm --help`".into(),
    }
}

fn pm2_replacement(word: &str) -> Option<&'static str> {
    PM2_COMMANDS.iter().find(|(words, _)| words.contains(&word)).map(|(_, replacement)| *replacement)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::CliArgs;

    fn error_of(args: &[&str]) -> clap::Error {
        with_suggestion(CliArgs::try_parse_from(args).unwrap_err(), &CliArgs::command())
    }

    #[test]
    fn pm2_commands_suggest_replacement() {
        let error = error_of(&["rsm", "slist"]);
        assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
        assert!(error.use_stderr() && error.to_string().contains("rsm info"), "{error}");
    }

    #[test]
    fn reports_missing_command() {
        let error = error_of(&["rsm", "--no-color"]);
        assert_eq!(error.to_string(), "error: no command specified\n\nhelp: see `rsm --help`\n");
    }

    #[test]
    fn typos_suggest_command() {
        for (typo, meant) in
            [("restrat", "restart"), ("lst", "list"), ("strat", "start"), ("desribe", "describe")]
        {
            let error = error_of(&["rsm", typo]);
            let text = error.to_string();
            assert!(text.contains(&format!("did you mean `rsm {meant}`?")), "{text}");
        }
        let error = error_of(&["rsm", "xyzzy"]);
        assert!(error.to_string().ends_with("help: see `rsm --help`\n"), "{error}");
    }

    #[test]
    fn pm2_commands_are_unknown_to_rsm() {
        for word in PM2_COMMANDS.iter().flat_map(|(words, _)| *words) {
            assert!(CliArgs::command().find_subcommand(word).is_none(), "{word}");
        }
    }
}
