//! Commands of PM2 and of other programs that rsm does not have, and what to use instead.

/// Commands of PM2.
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
    (&["install-otel", "uninstall-otel"], "rsm does not inject code; load it in the app"),
    (&["profile:mem", "profile:cpu"], "use `interpreter_args`, for example --cpu-prof, to profile an app"),
    (&["logrotate"], "log rotation is built in: docs/logs.md"),
    (&["create", "examples", "sample"], "use `rsm init`"),
    (&["autoinstall", "web"], "the API is available on a Unix socket: docs/api.md"),
    (&["multiset"], "use `rsm set KEY VALUE` for each key"),
];

/// Commands of other programs, such as docker, systemctl, supervisorctl and git.
const OTHER_COMMANDS: &[(&[&str], &str)] = &[
    (&["top", "htop", "stats", "usage"], "use `rsm monit`"),
    (&["tail", "follow", "journal", "output", "cat"], "use `rsm logs APP`"),
    (&["rm", "remove", "destroy", "drop"], "to stop an app and remove it from the list: rsm delete APP"),
    (&["exec", "shell", "ssh", "enter"], "to run a command as an app: rsm start -- COMMAND"),
    (&["run", "launch", "add", "new", "fork", "spawn"], "to start an app: rsm start app.js"),
    (&["resume", "unpause", "continue"], "to start a stopped app: rsm start APP"),
    (&["halt", "pause", "suspend", "end", "term", "terminate"], "to stop an app: rsm stop APP"),
    (
        &["up", "deploy:up", "sync", "converge"],
        "to start the apps of a file: rsm start ecosystem.toml, or rsm apply ecosystem.toml",
    ),
    (&["down"], "to stop and remove the apps of a file: rsm delete ecosystem.toml"),
    (&["check", "validate", "lint", "test", "verify", "diff"], "to check a file: rsm plan ecosystem.toml"),
    (
        &["shutdown", "quit", "exit", "stop-all", "killall"],
        "to stop all apps: rsm stop all; to stop rsm itself, too: rsm kill",
    ),
    (&["restart-all", "reboot"], "to restart all apps: rsm restart all"),
    (&["signal"], "use `rsm sendSignal SIGNAL APP`"),
    (&["restore", "load", "undump"], "to restore the saved list: rsm resurrect"),
    (&["store", "persist", "snapshot"], "to save the list: rsm save"),
    (
        &["enable", "service", "systemd", "boot", "autostart"],
        "to start rsm and the saved apps at boot: rsm startup",
    ),
    (&["disable"], "to remove the boot service: rsm unstartup"),
    (
        &["clear", "clean", "truncate", "clearlogs"],
        "to empty log files: rsm flush APP; to reset counters: rsm reset APP",
    ),
    (&["inspect", "details", "detail", "cat-config"], "use `rsm describe APP`"),
    (&["settings", "configure"], "use `rsm conf`"),
    (
        &["watch"],
        "to restart an app when its files change: rsm restart APP --watch; to refresh the list: rsm list --watch",
    ),
    (
        &["daemon-reload", "reread"],
        "nothing to do: files are read by `rsm start`, `rsm reload` and `rsm apply`",
    ),
    (&["images", "pods", "apps", "processes", "procs", "jobs"], "use `rsm list`"),
    (&["build", "compile"], "rsm starts programs; build them with your own tool"),
    (&["rename"], "rsm restart APP --name NEW"),
    (&["cron", "schedule"], "to restart on a schedule: rsm restart APP --cron-restart \"0 3 * * *\""),
    (&["health", "debug", "troubleshoot"], "use `rsm doctor`"),
];

/// What to use instead of a word.
pub(super) fn replacement(word: &str) -> Option<&'static str> {
    let tables = PM2_COMMANDS.iter().chain(OTHER_COMMANDS);
    tables.into_iter().find(|(words, _)| words.contains(&word)).map(|(_, replacement)| *replacement)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::CliArgs;

    #[test]
    fn words_are_unknown_to_rsm_and_listed_once() {
        let mut seen = HashSet::new();
        let command = CliArgs::command();
        for word in PM2_COMMANDS.iter().chain(OTHER_COMMANDS).flat_map(|(words, _)| *words) {
            assert!(command.find_subcommand(word).is_none(), "{word}");
            assert!(seen.insert(word), "{word} is listed twice");
        }
    }

    #[test]
    fn commands_in_replacements_exist() {
        for (_, text) in PM2_COMMANDS.iter().chain(OTHER_COMMANDS) {
            for (at, _) in text.match_indices("rsm ") {
                let line = text[at..].split([';', '`', ',', '(']).next().unwrap_or_default();
                let words: Vec<&str> = line.split_whitespace().collect();
                let is_sentence = words
                    .get(1)
                    .is_some_and(|word| ["does", "has", "itself", "and", "starts"].contains(word));
                if !is_sentence {
                    let name = words.get(1).copied().unwrap_or_default();
                    assert!(CliArgs::command().find_subcommand(name).is_some(), "{text}");
                }
            }
        }
        assert!(CliArgs::try_parse_from(["rsm", "stop", "all"]).is_ok());
    }
}
