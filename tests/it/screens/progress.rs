//! What is told while a command waits.

use super::tmux::Terminal;
use crate::harness::Rsm;

/// Does not end by its signal.
fn stubborn() -> Rsm {
    let rsm = Rsm::new();
    rsm.ok(&["start", "trap '' INT TERM; while :; do sleep 0.1; done", "--name", "slow", "-k", "3000"]);
    rsm.ok(&["start", "exec sleep 1000", "--name", "quick"]);
    rsm
}

#[test]
fn pipe_gets_plain_lines() {
    let rsm = stubborn();
    let ran = rsm.ok(&["stop", "all"]).says("stopping all…: stopping slow (0)\n");
    assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
    let quiet = stubborn();
    assert_eq!(quiet.ok(&["stop", "slow", "--silent"]).stderr, "");
}

#[test]
fn terminal_updates_in_place() {
    let rsm = stubborn();
    let terminal = Terminal::new(&rsm, (100, 30));
    terminal.line("rsm stop slow");
    terminal.until("stopping slow… ");
    terminal.until("stopping slow (0)");
    terminal.until_so("wiped away", |screen| {
        screen.contains("slow (0): stopped") && !screen.contains("stopping slow")
    });
}

#[test]
fn fast_steps_print_nothing() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "exec sleep 1000", "--name", "quick"]);
    let ran = rsm.ok(&["describe", "quick"]);
    assert_eq!(ran.stderr, "");
}
