//! Commands that are none: what PM2's users type that rsm has under another name, or has not, each word with
//! the way here; and slips.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::text::closest_match;

/// PM2's commands that are none of rsm's.
const PM2_COMMANDS: &[(&[&str], &str)] = &[
    (
        &["update", "updatePM2", "deepUpdate"],
        "install the new version, then run `rsm upgrade`; apps keep running",
    ),
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

/// The error of a command that is none, with what helps; any other error as it is.
pub(super) fn with_suggestion(error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::MissingSubcommand {
        return clap::Error::raw(error.kind(), "no command specified\n\nhelp: see `rsm --help`\n");
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    let help = pm2_replacement(word).map_or_else(|| closest_command(word), str::to_owned);
    let message = format!("unrecognized command '{word}'\n\nhelp: {help}\n");
    clap::Error::raw(ErrorKind::InvalidSubcommand, message)
}

fn closest_command(word: &str) -> String {
    let commands = crate::cli::CliArgs::command();
    let shown = commands.get_subcommands().filter(|command| !command.is_hide_set());
    let names: Vec<&str> = shown.flat_map(|command| command.get_name_and_visible_aliases()).collect();
    match closest_match(word, names.into_iter()) {
        Some(name) => format!("did you mean `rsm {name}`? See `rsm --help`"),
        None => "see `rsm --help`".into(),
    }
}

fn pm2_replacement(word: &str) -> Option<&'static str> {
    PM2_COMMANDS.iter().find(|(words, _)| words.contains(&word)).map(|(_, way)| *way)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::cli::CliArgs;
    use crate::cli::suggestions::*;

    #[test]
    fn words_of_pm2_get_the_way_here() {
        let error = with_suggestion(CliArgs::try_parse_from(["rsm", "updatePM2"]).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
        assert!(error.use_stderr() && error.to_string().contains("rsm upgrade"), "{error}");
    }

    #[test]
    fn a_missing_command_is_named_as_such() {
        let error = with_suggestion(CliArgs::try_parse_from(["rsm", "--no-color"]).unwrap_err());
        assert_eq!(error.to_string(), "error: no command specified\n\nhelp: see `rsm --help`\n");
    }

    #[test]
    fn slips_get_what_was_meant() {
        for (slip, meant) in
            [("restrat", "restart"), ("lst", "list"), ("strat", "start"), ("desribe", "describe")]
        {
            let error = with_suggestion(CliArgs::try_parse_from(["rsm", slip]).unwrap_err());
            let text = error.to_string();
            assert!(text.contains(&format!("did you mean `rsm {meant}`?")), "{text}");
        }
        let error = with_suggestion(CliArgs::try_parse_from(["rsm", "xyzzy"]).unwrap_err());
        assert!(error.to_string().ends_with("help: see `rsm --help`\n"), "{error}");
    }

    #[test]
    fn no_word_is_a_command_as_well() {
        for word in PM2_COMMANDS.iter().flat_map(|(words, _)| *words) {
            assert!(CliArgs::command().find_subcommand(word).is_none(), "{word}");
        }
    }
}
