//! The examples under each command's `--help`. A test runs every one of them.

use clap::Command;

/// A command, and lines with what each does.
type Of = (&'static str, &'static [(&'static str, &'static str)]);

/// By command, as `--help` shows them.
pub(super) const EXAMPLES: &[Of] = &[
    (
        "start",
        &[
            ("rsm start", "ecosystem.toml in this directory"),
            ("rsm start app.js --name web -i 2", "two instances of a script"),
            ("rsm start \"while date; do sleep 5; done\" --name clock", "a line for the shell"),
            ("rsm start ecosystem.toml --only api", "one app of a file"),
        ],
    ),
    ("stop", &[("rsm stop api", "stop it, keep it in the list"), ("rsm stop all", "stop every app")]),
    (
        "restart",
        &[
            ("rsm restart api", "with a gap; `rsm reload` has none"),
            ("rsm restart api --max-memory-restart 300M", "with another setting"),
        ],
    ),
    (
        "reload",
        &[
            ("rsm reload api", "new processes, each ready before the old one goes"),
            ("rsm reload ecosystem.toml", "with the settings of the file"),
        ],
    ),
    ("delete", &[("rsm delete api", "by name"), ("rsm delete /^tmp-/", "all whose name begins so")]),
    ("scale", &[("rsm scale api 4", "exactly four instances"), ("rsm scale api +1", "one more")]),
    ("reset", &[("rsm reset all", "counters of restarts to zero")]),
    ("plan", &[("rsm plan ecosystem.toml", "what differs between the file and what runs")]),
    ("apply", &[("rsm apply ecosystem.toml", "do what `plan` shows, and nothing else")]),
    ("sendSignal", &[("rsm sendSignal SIGUSR2 api", "by the signal's name")]),
    ("send", &[("rsm send api \"reload config\"", "a line for its standard input")]),
    ("attach", &[("rsm attach api", "its output, and what you type as its input; Ctrl-C leaves")]),
    ("trigger", &[("rsm trigger api flush-cache", "an action that the app offers")]),
    (
        "list",
        &[
            ("rsm list --sort memory:desc", "who uses most comes first"),
            ("rsm list --watch", "again every second, in its place"),
            ("rsm list --json", "for programs"),
        ],
    ),
    ("monit", &[("rsm monit", "? shows the keys"), ("rsm monit --sort cpu", "who works most comes first")]),
    ("jlist", &[("rsm jlist", "PM2's shape, for programs that know it")]),
    ("prettylist", &[("rsm prettylist", "the same, indented")]),
    ("describe", &[("rsm describe api", "by name"), ("rsm describe 0 --json", "by id, for programs")]),
    ("env", &[("rsm env 0", "of the instance with the id 0")]),
    ("pid", &[("rsm pid api", "a line for each instance")]),
    ("id", &[("rsm id api", "[ 0, 1 ]")]),
    (
        "logs",
        &[
            ("rsm logs api", "the last lines, then what comes"),
            ("rsm logs --lines 100 --nostream", "the last lines only"),
            ("rsm logs --since 10m --grep error --nostream", "of the last ten minutes, those that match"),
        ],
    ),
    ("flush", &[("rsm flush api", "empty its log files")]),
    ("reloadLogs", &[("rsm reloadLogs", "after logrotate or the like has moved them")]),
    (
        "conf",
        &[("rsm conf", "all that is set"), ("rsm conf logs.budget 500M", "at most so much for all logs")],
    ),
    ("save", &[("rsm save", "what `resurrect` and the next boot bring back")]),
    ("resurrect", &[("rsm resurrect", "start what was saved and is not there")]),
    ("cleardump", &[("rsm cleardump", "the saved list is empty then")]),
    ("ping", &[("rsm ping", "exit code 3 if no daemon answers")]),
    ("kill", &[("rsm kill", "stop all apps, then rsm itself")]),
    ("upgrade", &[("rsm upgrade", "to the version that this command is")]),
    (
        "doctor",
        &[("rsm doctor", "of rsm itself"), ("rsm doctor --boot", "of the apps that boot would start")],
    ),
    (
        "startup",
        &[
            ("rsm startup", "for this user; see docs/boot.md"),
            ("rsm startup --print", "only show what it would do"),
        ],
    ),
    ("unstartup", &[("rsm unstartup", "the saved list stays")]),
    ("runtime", &[("rsm runtime ecosystem.toml", "the last line of a Dockerfile")]),
    ("info", &[("rsm info", "processes, files, the machine")]),
    ("schema", &[("rsm schema > ecosystem.schema.json", "for editors")]),
    ("convert", &[("rsm convert app.json", "as ecosystem.toml, on standard output")]),
    ("report", &[("rsm report > report.txt", "no variable's value is in it")]),
    ("set", &[("rsm set logs.lines 100", "how many lines `rsm logs` begins with")]),
    ("get", &[("rsm get logs.lines", "one setting"), ("rsm get", "all of them")]),
    ("unset", &[("rsm unset logs.lines", "its default holds again")]),
    ("init", &[("rsm init", "for what lies in this directory")]),
    ("serve", &[("rsm serve ./dist 8081 --spa --name site", "a directory over HTTP")]),
    ("completion", &[("rsm completion bash", "to standard output; docs/screens.md says where it belongs")]),
    (
        "doctor",
        &[
            ("rsm doctor", "the machine, and rsm itself"),
            ("rsm doctor --boot", "would the saved apps start?"),
        ],
    ),
    (
        "startup",
        &[
            ("rsm startup systemd --print", "only show what would be written and run"),
            ("rsm startup systemd --service-name mine --print", "under another name"),
        ],
    ),
    ("unstartup", &[("rsm unstartup systemd --print", "only show what would be run")]),
    (
        "runtime",
        &[
            ("rsm runtime ecosystem.toml", "until nothing can run any more"),
            ("rsm runtime app.js --json", "with one object a line"),
        ],
    ),
    ("man", &[("rsm man ./man1", "a page for each command")]),
];

/// The command with its examples, and all that their subcommands have.
pub(super) fn with_examples(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (name, lines)| {
        let known = command.get_subcommands().any(|of| of.get_name() == *name);
        if known { command.mut_subcommand(name, |of| of.after_help(text(lines))) } else { command }
    })
}

fn text(lines: &[(&str, &str)]) -> String {
    let widest = lines.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    let rows: Vec<String> = lines.iter().map(|(line, does)| format!("  {line:widest$}    {does}")).collect();
    format!("Examples:\n{}", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_has_examples_and_every_example_parses() {
        let command = Cli::command();
        for of in command.get_subcommands().filter(|of| !of.is_hide_set()) {
            assert!(EXAMPLES.iter().any(|(name, _)| *name == of.get_name()), "{}", of.get_name());
        }
        for (name, lines) in EXAMPLES {
            assert!(command.get_subcommands().any(|of| of.get_name() == *name), "{name}");
            for (line, _) in *lines {
                let line = line.split(" > ").next().unwrap();
                Cli::try_parse_from(shlex::split(line).unwrap())
                    .unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }

    #[test]
    fn help_shows_them() {
        let error =
            with_examples(Cli::command()).try_get_matches_from(["rsm", "scale", "--help"]).unwrap_err();
        let help = error.to_string();
        assert!(help.contains("Examples:\n  rsm scale api 4     exactly four instances\n"), "{help}");
        assert!(help.contains("How many instances") || help.contains("N more"), "{help}");
    }
}
