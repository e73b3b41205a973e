//! Completions with the apps that are there, examples of `--help`, and the manual.

use std::process::Stdio;

use super::tmux::Terminal;
use crate::harness::Rsm;

fn apps() -> Rsm {
    let rsm = Rsm::new();
    rsm.ok(&["start", "exec sleep 1000", "--name", "payments", "-i", "2"]);
    rsm.ok(&["start", "exec sleep 1000", "--name", "mailer"]);
    rsm
}

#[test]
fn bash_completes_commands_and_app_names() {
    let rsm = apps();
    let terminal = Terminal::new(&rsm, (100, 30));
    terminal.line("source <(rsm completion bash); echo sourced $?");
    terminal.until("sourced 0");
    terminal.types("rsm rest");
    terminal.press(&["Tab"]);
    terminal.until("rsm restart");
    terminal.types("pay");
    terminal.press(&["Tab"]);
    terminal.until("rsm restart payments");
    terminal.press(&["C-u"]);
    terminal.types("rsm logs ");
    terminal.press(&["Tab", "Tab"]);
    terminal.until_so("all names", |screen| {
        ["payments", "mailer", "all"].iter().all(|name| screen.contains(name))
    });
}

#[test]
fn zsh_and_fish_complete_commands_and_names() {
    let rsm = apps();
    rsm.write("_rsm", &rsm.ok(&["completion", "zsh"]).stdout);
    rsm.write("rsm.fish", &rsm.ok(&["completion", "fish"]).stdout);
    let shells = [
        ("zsh -f", "fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; clear; echo ready $((6 * 7))"),
        ("fish --no-config --private", "source rsm.fish; clear; echo ready (math 6 x 7)"),
    ];
    for (shell, prepare) in shells {
        let terminal = Terminal::new(&rsm, (100, 30));
        terminal.line(shell);
        terminal.line(prepare);
        terminal.until("ready 42");
        terminal.types("rsm rest");
        terminal.press(&["Tab"]);
        terminal.until("rsm restart");
        terminal.types(" pay");
        terminal.press(&["Tab"]);
        terminal.until_so(shell, |screen| {
            let words: Vec<&str> = screen.split_whitespace().collect();
            words.windows(3).any(|words| words == ["rsm", "restart", "payments"])
        });
    }
}

/// What a shell is told, asked as its script does.
fn asked(rsm: &Rsm, shell: &str, words: &[&str]) -> String {
    let mut command = rsm.command(&[&["--"], words].concat());
    command.env("RSM_COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn completions_describe_names_in_every_shell() {
    let rsm = apps();
    for shell in ["zsh", "fish"] {
        let told = asked(&rsm, shell, &["rsm", "describe", "pay"]);
        assert!(told.contains("payments") && told.contains("2 instances, online"), "{shell}: {told}");
        assert!(!told.contains("mailer"), "{shell}: {told}");
    }
    for (shell, sign) in [("bash", "complete "), ("zsh", "#compdef rsm"), ("fish", "complete ")] {
        rsm.ok(&["completion", shell]).shows(sign);
    }
    rsm.run(&["completion", "tcsh"]).code(2).says("bash");
}

#[test]
fn completion_offers_what_fits() {
    let rsm = apps();
    rsm.write("ecosystem.toml", "[[apps]]\nname = 'api'\nscript = 'x'\n[apps.env_production]\nA = 1\n");
    rsm.write("notes.txt", "");
    rsm.write("app.js", "");
    let offered = |words: &[&str]| -> Vec<String> {
        asked(&rsm, "bash", words).lines().map(|line| line.trim().to_owned()).collect()
    };
    let commands = offered(&["rsm", ""]);
    for alias in ["l", "ls", "del", "dash", "desc", "dump", "config", "update"] {
        assert!(!commands.iter().any(|command| command == alias), "{alias}: {commands:?}");
    }
    assert!(commands.contains(&"list".to_owned()) && commands.contains(&"monit".to_owned()), "{commands:?}");
    assert_eq!(
        offered(&["rsm", "stop", ""])[..4],
        ["payments", "mailer", "all", "ecosystem.toml"],
        "no other files"
    );
    assert!(offered(&["rsm", "start", ""]).contains(&"app.js".to_owned()));
    for (words, expected) in [
        (&["rsm", "list", "--sort", "m"][..], "memory:desc"),
        (&["rsm", "sendSignal", "SIGU"], "SIGUSR2"),
        (&["rsm", "set", "auto"], "autosave"),
        (&["rsm", "conf", "logs."], "logs.budget"),
        (&["rsm", "start", "ecosystem.toml", "--env", ""], "production"),
        (&["rsm", "restart", "ecosystem.toml", "--only", ""], "api"),
        (&["rsm", "ls", "--s"], "--sort"),
    ] {
        let found = offered(words);
        assert!(found.iter().any(|candidate| candidate == expected), "{words:?}: {found:?}");
    }
}

#[test]
fn completion_does_not_start_daemon() {
    let rsm = Rsm::new();
    assert!(!asked(&rsm, "bash", &["rsm", "stop", ""]).contains("all"));
    assert!(!rsm.home().exists());
}

#[test]
fn manual_has_page_for_each_command() {
    let rsm = Rsm::new();
    rsm.ok(&["man", "man1"]);
    for (page, says) in [("rsm.1", "rsm"), ("rsm-start.1", "Examples"), ("rsm-monit.1", "full\\-screen")] {
        let text = std::fs::read_to_string(rsm.dir().join("man1").join(page)).unwrap();
        assert!(text.starts_with(".ie") && text.contains(says), "{page}: {text}");
    }
    let page = std::fs::read_to_string(rsm.dir().join("man1/rsm.1")).unwrap();
    for section in ["ENVIRONMENT", "FILES", "EXIT STATUS"] {
        assert!(page.contains(&format!(".SH \"{section}\"")), "{section}: {page}");
    }
    assert!(page.contains("RSM_HOME") && page.contains("dump.json"), "{page}");
    let pages = std::fs::read_dir(rsm.dir().join("man1")).unwrap();
    let names: Vec<String> = pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.contains("help") && !name.contains("keeper")), "{names:?}");
    rsm.write("file", "");
    rsm.run(&["man", "file/below"]).code(1).says("file/below");
}

/// The examples of every command's help.
fn examples(rsm: &Rsm) -> Vec<String> {
    let help = rsm.ok(&["--help"]).stdout;
    let groups =
        help.lines().skip_while(|line| *line != "Manage apps:").take_while(|line| *line != "Options:");
    let commands = groups.filter(|line| line.starts_with("  "));
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 30, "{commands:?}");
    let mut examples = Vec::new();
    for command in commands.into_iter().filter(|command| *command != "help") {
        let help = rsm.ok(&[command, "--help"]).stdout;
        let below = help.lines().skip_while(|line| *line != "Examples:").skip(1);
        let lines = below.take_while(|line| line.starts_with("  ")).map(|line| line.trim());
        let lines: Vec<String> = lines.map(|line| line.split("    ").next().unwrap().to_owned()).collect();
        assert!(!lines.is_empty(), "{command} has no examples");
        examples.extend(lines);
    }
    examples
}

/// These change the machine, or want an app or a terminal of their own: other tests run them.
const APART: [&str; 8] = [
    "rsm monit",
    "rsm send ",
    "rsm attach",
    "rsm trigger",
    "rsm doctor",
    "rsm startup",
    "rsm unstartup",
    "rsm runtime",
];

#[test]
fn every_help_example_parses() {
    let rsm = Rsm::new();
    rsm.write("ecosystem.toml", "[[apps]]\nname = \"api\"\nscript = \"./api.sh\"\n");
    rsm.write(
        "api.sh",
        "#!/bin/sh\ntrap : USR2\ntrap 'exit 0' INT\nwhile :; do echo at work; sleep 0.1; done\n",
    );
    rsm.write("app.js", "setInterval(() => {}, 1000)\n");
    rsm.write("app.json", "{ \"apps\": [{ \"name\": \"from-json\", \"script\": \"./api.sh\" }] }\n");
    rsm.write("dist/index.html", "<h1>Hello</h1>\n");
    let path = format!(
        "{}:{}",
        std::path::Path::new(env!("CARGO_BIN_EXE_rsm")).parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    for example in examples(&rsm) {
        // What goes on until Ctrl-C is looked at for a moment, or has tests of its own.
        let line = match example.as_str() {
            "rsm list --watch" | "rsm logs api" => format!("{example} | head -n 1"),
            line if APART.iter().any(|apart| line.starts_with(apart)) => continue,
            "rsm init" => "mkdir -p empty && cd empty && rsm init".to_owned(),
            // What an example needs and one before it took away.
            "rsm delete /^tmp-/" => format!("rsm start ./api.sh --name tmp-1 && {example}"),
            "rsm restart api" | "rsm describe api" => {
                format!("rsm start ecosystem.toml && {example}")
            }
            _ => example.clone(),
        };
        let needs_api = [" api", " all", " 0", "upgrade", "save"].iter().any(|word| example.contains(word));
        if needs_api {
            rsm.ok(&["start", "ecosystem.toml", "-s"]);
        }
        let line = match example.contains(" 0") {
            true => line.replace(" 0", &format!(" {}", rsm.list()[0]["id"])),
            false => line,
        };
        let mut shell = rsm.command_of("bash", &["-c", &line]);
        let output = shell.env("PATH", &path).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
}
