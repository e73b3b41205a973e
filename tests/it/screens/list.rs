//! The list's foot, and the list that is watched.

use super::tmux::Terminal;
use crate::harness::{Rsm, wait_until};

#[test]
fn warnings_name_command_to_run() {
    let rsm = Rsm::new();
    rsm.ok(&["conf", "autosave", "false"]);
    rsm.write("ecosystem.toml", "[[apps]]\nname = \"api\"\nscript = \"exec sleep 1000\"\n");
    rsm.ok(&["start"])
        .shows("1 app: 1 online")
        .shows("host: load")
        .shows("the list is not saved")
        .shows("rsm save");
    rsm.ok(&["save"]);
    let calm = rsm.ok(&["list"]);
    assert!(!calm.stdout.contains("rsm save") && !calm.stdout.contains("rsm plan"), "{}", calm.stdout);

    rsm.write("ecosystem.toml", "[[apps]]\nname = \"api\"\nscript = \"exec sleep 1001\"\n");
    rsm.ok(&["list"]).shows("ecosystem.toml was modified").shows("rsm plan");
    rsm.ok(&["apply", "ecosystem.toml"]);
    let applied = rsm.ok(&["list"]);
    assert!(
        !applied.stdout.contains("rsm plan") && applied.stdout.contains("rsm save"),
        "{}",
        applied.stdout
    );
    rsm.ok(&["save"]);
    rsm.ok(&["stop", "api"]).shows("rsm save");

    let other = rsm.another_version("9.8.7");
    rsm.ok(&["upgrade", "--binary", other.to_str().unwrap()]);
    rsm.ok(&["list"]).shows("the daemon runs rsm 9.8.7").shows("rsm upgrade");
}

#[test]
fn watched_list_updates_in_place() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "exec sleep 1000", "--name", "api"]);
    let terminal = Terminal::new(&rsm, (100, 20));
    terminal.line("rsm list --watch");
    terminal.until("api");
    rsm.ok(&["start", "exec sleep 1000", "--name", "web"]);
    terminal.until_so("both, once", |screen| screen.contains("web") && screen.matches("api").count() == 1);
    rsm.ok(&["kill"]);
    terminal.until("daemon");
    terminal.press(&["C-c"]);
    wait_until("the shell's screen", || (!terminal.is_taken()).then_some(()));
    terminal.line("echo still $((6 * 7))");
    terminal.until("still 42");
}

#[test]
fn table_fits_terminal_width() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "exec sleep 1000", "--name", "a-name-that-is-rather-long-for-a-narrow-terminal"]);
    let terminal = Terminal::new(&rsm, (60, 20));
    terminal.line("clear; rsm list; echo end $((6 * 7))");
    let screen = terminal.until("end 42");
    let table = screen.lines().filter(|line| line.starts_with(['╭', '│', '├', '╰'])).count();
    assert_eq!(table, 5, "no line is wrapped\n{screen}");
}
