//! The help of `rsm` and of its commands: groups of commands, examples, and global options, which are listed once.

use std::fmt::Write;

use clap::Command;

/// A group of commands under a heading.
type Group = (&'static str, &'static [&'static str]);

/// A command, and examples with their descriptions.
type Examples = (&'static str, &'static [(&'static str, &'static str)]);

/// The commands in the order of `rsm --help`.
const GROUPS: &[Group] = &[
    ("Manage apps", &["start", "stop", "restart", "reload", "scale", "delete", "plan", "apply"]),
    ("Inspect", &["list", "describe", "logs", "monit", "env", "pid", "id", "jlist", "prettylist"]),
    ("Interact", &["send", "attach", "trigger", "sendSignal", "reset"]),
    ("Log files", &["flush", "reloadLogs"]),
    (
        "Saved list, boot and containers",
        &["save", "resurrect", "cleardump", "startup", "unstartup", "runtime"],
    ),
    ("Files and settings", &["init", "convert", "export", "schema", "conf", "set", "get", "unset", "serve"]),
    ("Manage rsm", &["ping", "info", "doctor", "report", "upgrade", "kill", "completion", "man", "help"]),
];

/// clap adds this command only while parsing, with a description of its own.
const HELP: (&str, &str) = ("help", "Print help for rsm or a command");

/// Examples by command, shown by `--help`. A test parses each of them.
pub(super) const EXAMPLES: &[Examples] = &[
    (
        "start",
        &[
            ("rsm start", "start all apps of ./ecosystem.toml"),
            ("rsm start app.js --name web -i 2", "start two instances of a script"),
            ("rsm start \"while date; do sleep 5; done\" --name clock", "run a shell command"),
            ("rsm start ecosystem.toml --only api", "start one app from a file"),
        ],
    ),
    ("stop", &[("rsm stop api", "stop one app"), ("rsm stop all", "stop all apps")]),
    (
        "restart",
        &[
            ("rsm restart api", "restart one app"),
            ("rsm restart api --max-memory-restart 300M", "restart with a changed setting"),
        ],
    ),
    (
        "reload",
        &[
            ("rsm reload api", "replace all instances without downtime"),
            ("rsm reload ecosystem.toml", "apply the file without downtime"),
        ],
    ),
    (
        "delete",
        &[
            ("rsm delete api", "delete one app"),
            ("rsm delete /^tmp-/", "delete all apps whose name starts with \"tmp-\""),
        ],
    ),
    ("scale", &[("rsm scale api 4", "run four instances"), ("rsm scale api +1", "add one instance")]),
    ("reset", &[("rsm reset all", "reset all restart counters")]),
    ("plan", &[("rsm plan ecosystem.toml", "show pending changes")]),
    ("apply", &[("rsm apply ecosystem.toml", "make the changes that `plan` shows")]),
    ("sendSignal", &[("rsm sendSignal SIGUSR2 api", "send SIGUSR2")]),
    ("send", &[("rsm send api \"reload config\"", "write a line to its stdin")]),
    ("attach", &[("rsm attach api", "show output and forward input; Ctrl-C detaches")]),
    ("trigger", &[("rsm trigger api flush-cache", "run the action \"flush-cache\"")]),
    (
        "list",
        &[
            ("rsm list --sort memory:desc", "largest memory users first"),
            ("rsm list --watch", "refresh every second"),
            ("rsm list --json", "machine-readable output"),
        ],
    ),
    ("monit", &[("rsm monit", "press ? for help"), ("rsm monit --sort cpu", "largest CPU users first")]),
    ("jlist", &[("rsm jlist", "print JSON as PM2 does")]),
    ("prettylist", &[("rsm prettylist", "print indented JSON")]),
    (
        "describe",
        &[("rsm describe api", "select by name"), ("rsm describe 0 --json", "select by id, print JSON")],
    ),
    ("env", &[("rsm env 0", "print the configured variables of instance 0")]),
    ("pid", &[("rsm pid api", "print one pid per line")]),
    ("id", &[("rsm id api", "print the ids, such as [ 0, 1 ]")]),
    (
        "logs",
        &[
            ("rsm logs api", "recent lines, then follow"),
            ("rsm logs --lines 100 --nostream", "recent lines only"),
            ("rsm logs --since 10m --grep error --nostream", "matching lines of the last 10 minutes"),
        ],
    ),
    ("flush", &[("rsm flush api", "truncate the log files of one app")]),
    ("reloadLogs", &[("rsm reloadLogs", "use this after logrotate has moved the files")]),
    (
        "conf",
        &[
            ("rsm conf", "show all settings"),
            ("rsm conf logs.budget 500M", "limit the total size of all logs"),
        ],
    ),
    ("save", &[("rsm save", "save the current list")]),
    ("resurrect", &[("rsm resurrect", "restore the saved list")]),
    ("cleardump", &[("rsm cleardump", "clear the saved list")]),
    ("ping", &[("rsm ping", "exit with 3 if the daemon is not running")]),
    ("kill", &[("rsm kill", "stop everything")]),
    ("upgrade", &[("rsm upgrade", "upgrade to the version of this binary")]),
    ("doctor", &[("rsm doctor", "check rsm and the system"), ("rsm doctor --boot", "check the saved apps")]),
    (
        "startup",
        &[
            ("rsm startup", "install and start the service"),
            ("rsm startup systemd --print", "preview the unit and commands"),
            ("rsm startup systemd --service-name mine --print", "use another service name"),
        ],
    ),
    (
        "unstartup",
        &[
            ("rsm unstartup", "remove the service; the saved list is kept"),
            ("rsm unstartup systemd --print", "preview the commands"),
        ],
    ),
    (
        "runtime",
        &[
            ("rsm runtime ecosystem.toml", "exit when no app can run any more"),
            ("rsm runtime app.js --json", "print logs as JSON"),
        ],
    ),
    ("info", &[("rsm info", "show pids, memory and paths of rsm")]),
    ("schema", &[("rsm schema > ecosystem.schema.json", "write the schema for your editor")]),
    ("convert", &[("rsm convert app.json", "print the file as TOML")]),
    (
        "export",
        &[
            ("rsm export systemd ecosystem.toml -o units", "write units"),
            ("rsm export kubernetes ecosystem.toml --image example.com/app:1", "print manifests"),
        ],
    ),
    ("report", &[("rsm report > report.txt", "save it; it contains no values of variables")]),
    ("set", &[("rsm set logs.lines 100", "show 100 lines by default")]),
    ("get", &[("rsm get logs.lines", "print one value"), ("rsm get", "print all values")]),
    ("unset", &[("rsm unset logs.lines", "restore the default")]),
    ("init", &[("rsm init", "add the scripts in this directory")]),
    ("serve", &[("rsm serve ./dist 8081 --spa --name site", "serve ./dist on port 8081")]),
    ("completion", &[("rsm completion bash", "print the script; see docs/screens.md")]),
    ("man", &[("rsm man ./man1", "write man pages to ./man1")]),
];

/// Adds groups of commands and examples to the help, and hides global options in the help of commands.
pub(super) fn documented(command: Command) -> Command {
    let template = template(&command);
    let global: Vec<clap::Arg> =
        command.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.clone().hide(true)).collect();
    let command = command.mut_subcommands(|subcommand| {
        let examples = EXAMPLES.iter().find(|(name, _)| *name == subcommand.get_name());
        let after = examples.map(|(_, lines)| examples_text(lines)).unwrap_or_default();
        // clap does not propagate a global argument that the subcommand has: the hidden copy replaces it.
        subcommand.args(&global).after_help(format!("{after}See `rsm --help` for global options."))
    });
    command.help_template(template)
}

/// The template of `rsm --help`: clap has no headings for subcommands.
fn template(command: &Command) -> String {
    let header = command.get_styles().get_header();
    format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}{header}Options:{header:#}\n{{options}}\n\n\
         See `rsm help COMMAND` for the options and examples of a command.\n",
        groups(command)
    )
}

fn groups(command: &Command) -> String {
    let (header, literal) = (command.get_styles().get_header(), command.get_styles().get_literal());
    let widest = GROUPS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (heading, names) in GROUPS {
        let _ = writeln!(text, "{header}{heading}:{header:#}");
        for name in *names {
            let _ = writeln!(text, "  {literal}{name:widest$}{literal:#}  {}", about(command, name));
        }
        text.push('\n');
    }
    text
}

/// The description of a command and its aliases.
fn about(command: &Command, name: &str) -> String {
    let Some(subcommand) = command.find_subcommand(name) else { return HELP.1.into() };
    let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
    let aliases: Vec<&str> = subcommand.get_visible_aliases().collect();
    if aliases.is_empty() { about } else { format!("{about} [aliases: {}]", aliases.join(", ")) }
}

fn examples_text(lines: &[(&str, &str)]) -> String {
    let widest = lines.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    let rows: Vec<String> =
        lines.iter().map(|(line, effect)| format!("  {line:widest$}    {effect}\n")).collect();
    format!("Examples:\n{}\n", rows.concat())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::CliArgs;

    fn shown() -> Vec<Command> {
        let command = CliArgs::command();
        command.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect()
    }

    fn help(args: &[&str]) -> String {
        documented(CliArgs::command()).try_get_matches_from(args).unwrap_err().to_string()
    }

    #[test]
    fn every_visible_command_is_in_exactly_one_group() {
        let mut names: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let shown = shown();
        let mut expected: Vec<&str> = shown.iter().map(Command::get_name).chain([HELP.0]).collect();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn every_command_has_examples_and_every_example_parses() {
        let names: BTreeSet<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), EXAMPLES.len(), "each command is listed once");
        let shown = shown();
        assert_eq!(names, shown.iter().map(Command::get_name).collect());
        for (line, _) in EXAMPLES.iter().flat_map(|(_, lines)| *lines) {
            let line = line.split(" > ").next().unwrap();
            CliArgs::try_parse_from(shlex::split(line).unwrap())
                .unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn help_lists_commands_in_groups_and_global_options_once() {
        let text = help(&["rsm", "--help"]);
        for line in [
            "Manage apps:\n  start       Start apps from",
            "  list        List apps and instances [aliases: ls, l, ps, status]\n",
            "\nOptions:\n  -s, --silent",
            "  help        Print help",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let text = help(&["rsm", "stop", "--help"]);
        assert!(text.starts_with("Stop apps but keep them in the list\n"), "{text}");
        for global in ["--silent", "--no-color", "--sort"] {
            assert!(!text.contains(global), "{text}");
        }
    }

    #[test]
    fn help_of_a_command_shows_its_examples() {
        for args in [["rsm", "scale", "--help"], ["rsm", "help", "scale"]] {
            let text = help(&args);
            assert!(text.contains("Examples:\n  rsm scale api 4     run four instances\n"), "{text}");
            assert!(text.contains("Number of instances: N"), "{text}");
        }
    }

    #[test]
    fn global_options_work_where_help_does_not_list_them() {
        let matches = documented(CliArgs::command())
            .try_get_matches_from(["rsm", "send", "api", "help", "-s"])
            .unwrap();
        assert!(matches.get_flag("silent"));
    }
}
