//! `monit`, driven by keys as a person would.

use super::tmux::Terminal;
use crate::harness::{Rsm, alive, wait_until};

/// Two apps, one of them with two instances and a Chinese name.
fn apps() -> Rsm {
    let rsm = Rsm::new();
    rsm.ok(&["start", "while :; do echo 处理; sleep 1; done", "--name", "队列", "-i", "2"]);
    rsm.ok(&["start", "echo listening; exec sleep 1000", "--name", "web"]);
    rsm
}

fn monit(rsm: &Rsm, size: (u16, u16)) -> Terminal {
    let terminal = Terminal::new(rsm, size);
    terminal.line("rsm monit");
    terminal.until("all (3)");
    terminal
}

#[test]
fn monit_shows_and_controls_apps() {
    let rsm = apps();
    let terminal = Terminal::new(&rsm, (120, 40));
    let before = terminal.settings(&rsm, "before");
    terminal.line("rsm monit");
    let screen = terminal.until("3/3 online");
    assert!(
        ["web", "▾ 队列 (2)", "1 Logs", "quit", "cpu"].iter().all(|part| screen.contains(part)),
        "{screen}"
    );

    // The first app is selected: its log is shown.
    terminal.until("listening");
    // Filter, and drop the filter.
    terminal.types("/队");
    terminal.until_so("only the one", |screen| screen.contains("all (2)") && !screen.contains(" web "));
    terminal.press(&["Enter", "Escape"]);
    terminal.until("all (3)");

    // Restart, after a question.
    let pid = rsm.pids("web");
    terminal.press(&["g", "Down", "r"]);
    terminal.until("restart web?");
    terminal.press(&["n", "r"]);
    terminal.until("restart web?");
    assert_eq!(rsm.pids("web"), pid, "nothing is done before a yes");
    terminal.press(&["y"]);
    terminal.until("web (2): online");
    assert_ne!(rsm.pids("web"), pid);

    // The daemon dies.
    let (daemon, _) = rsm.managers();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), nix::sys::signal::Signal::SIGKILL).unwrap();
    terminal.until("the daemon was restarted");
    terminal.until("3/3 online");
    // It is upgraded.
    let other = rsm.another_version("9.8.7");
    rsm.ok(&["upgrade", "--binary", other.to_str().unwrap()]);
    terminal.until("rsm 9.8.7");

    // Any size, and the details.
    terminal.resize(60, 15);
    terminal.until_so("narrow", |screen| screen.lines().count() <= 15 && screen.contains("3/3"));
    terminal.press(&["2"]);
    terminal.until("Identity");
    terminal.resize(200, 60);
    terminal.until("memory");
    terminal.press(&["q"]);
    wait_until("the shell's screen", || (!terminal.is_taken()).then_some(()));
    assert_eq!(terminal.settings(&rsm, "after"), before);
}

#[test]
fn scales_and_deletes_instances() {
    let rsm = apps();
    let terminal = monit(&rsm, (100, 30));
    terminal.types("/队");
    terminal.press(&["Enter"]);
    terminal.until("队列 (2 instances)");
    terminal.types("i+1");
    terminal.press(&["Enter"]);
    terminal.until("scale 队列 up by 1?");
    terminal.press(&["y"]);
    terminal.until("▾ 队列 (3)");
    terminal.press(&["Down", "d"]);
    terminal.until("delete 队列 (id 0)?");
    terminal.press(&["y"]);
    terminal.until("▾ 队列 (2)");
    assert_eq!(rsm.statuses("队列").len(), 2);
}

#[test]
fn every_exit_restores_terminal() {
    let rsm = apps();
    let terminal = Terminal::new(&rsm, (80, 24));
    let before = terminal.settings(&rsm, "before");
    let ways: [(&str, &dyn Fn()); 4] = [
        ("ctrl-c", &|| terminal.press(&["C-c"])),
        ("q", &|| terminal.press(&["q"])),
        ("term", &|| kill(&rsm, "TERM")),
        ("hup", &|| kill(&rsm, "HUP")),
    ];
    for (name, leave) in ways {
        terminal.line("sh -c 'echo $$ > pid; exec rsm monit'");
        terminal.until("all (3)");
        leave();
        wait_until(name, || (!terminal.is_taken()).then_some(()));
        assert_eq!(terminal.settings(&rsm, name), before, "{name}");
    }
    terminal.line("rsm monit");
    terminal.until("all (3)");
    terminal.press(&["C-z"]);
    terminal.until("Stopped");
    assert_eq!(terminal.settings(&rsm, "stopped"), before);
    terminal.line("fg");
    terminal.until("all (3)");
    terminal.press(&["q"]);
    wait_until("the shell's screen", || (!terminal.is_taken()).then_some(()));
    assert_eq!(terminal.settings(&rsm, "continued"), before);
}

#[test]
fn exits_if_terminal_closes() {
    // No daemon: nothing is drawn, which would fail. No signal either: the terminal is not its own.
    let rsm = Rsm::new();
    let terminal = Terminal::new(&rsm, (80, 24));
    terminal.line("setsid -f sh -c 'echo $$ > pid; exec rsm monit'");
    terminal.until("the daemon is not running");
    let pid = pid(&rsm);
    drop(terminal);
    wait_until("its end", || (!alive(pid)).then_some(()));
}

fn pid(rsm: &Rsm) -> i32 {
    std::fs::read_to_string(rsm.dir().join("pid")).unwrap().trim().parse().unwrap()
}

fn kill(rsm: &Rsm, signal: &str) {
    let killed = rsm.command_of("kill", &[&format!("-{signal}"), &pid(rsm).to_string()]).status().unwrap();
    assert!(killed.success());
}

#[test]
fn keys_work_during_log_flood() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "exec yes a line of the flood", "--name", "flood"]);
    rsm.ok(&["start", "exec sleep 1000", "--name", "quiet"]);
    let terminal = Terminal::new(&rsm, (100, 30));
    terminal.line("rsm monit");
    terminal.until("a line of the flood");
    terminal.press(&["?"]);
    terminal.until("Lower pane");
    terminal.press(&["?", "p"]);
    terminal.until("[paused]");
    terminal.press(&["p", "q"]);
    wait_until("the shell's screen", || (!terminal.is_taken()).then_some(()));
    rsm.ok(&["stop", "flood"]);
}

#[test]
fn waits_for_daemon() {
    let rsm = Rsm::new();
    let terminal = Terminal::new(&rsm, (80, 24));
    terminal.line("rsm monit");
    terminal.until("the daemon is not running");
    rsm.ok(&["start", "exec sleep 1000", "--name", "late"]);
    terminal.until("late");
    rsm.ok(&["kill"]);
    terminal.until("the daemon is not running");
    terminal.press(&["q"]);
}

#[test]
fn refuses_to_run_in_pipe() {
    Rsm::new().run(&["monit"]).code(2).says("monit requires a terminal").says("rsm list");
}
