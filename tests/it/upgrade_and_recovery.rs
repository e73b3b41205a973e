//! Daemon, keeper and both are replaced, by death or by upgrade, and no app notices.

use std::fs;

use crate::harness::{Rsm, alive, read, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_until("it has ended", || (!alive(pid)).then_some(()));
}

/// Repeats what it is told through a FIFO, and its own pid.
const ECHO: &str = "#!/bin/sh\nwhile :; do read line < fifo && echo \"$$ $line\"; done\n";

fn echo() -> Rsm {
    let rsm = Rsm::new().file("echo.sh", ECHO);
    nix::unistd::mkfifo(&rsm.dir().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    rsm.ok(&["start", "./echo.sh", "--output", "echo.log"]);
    rsm
}

fn say(rsm: &Rsm, text: &str) {
    fs::write(rsm.dir().join("fifo"), format!("{text}\n")).unwrap();
}

fn until_logged(rsm: &Rsm, text: &str) {
    wait_until(text, || {
        read(rsm.dir().join("echo.log")).lines().any(|line| line.ends_with(text)).then_some(())
    });
}

#[test]
fn apps_survive_killing_keeper() {
    let rsm = echo();
    let app = rsm.pids("echo")[0];
    let (daemon, keeper) = rsm.managers();
    end(keeper);
    let (after, new_keeper) = rsm.next_managers(daemon);
    assert_eq!(new_keeper, daemon, "the daemon has become the keeper");
    assert!(after != daemon);
    say(&rsm, "still heard");
    until_logged(&rsm, "still heard");
    assert_eq!(rsm.pids("echo"), [app]);
    // It is supervised though it is nobody's child here.
    end(app);
    rsm.wait_until("another process", |rsm| rsm.pids("echo").first().copied().filter(|pid| *pid != app));
    let exit = &rsm.json(&["describe", "echo", "--json"])[0]["exits"][0]["exit"];
    assert!(exit["signal"]["number"] == 9 || exit == "unknown", "never invented: {exit}");
    rsm.ok(&["stop", "echo"]);
    assert_eq!(rsm.statuses("echo"), ["stopped"]);
}

#[test]
fn apps_survive_killing_keeper_and_daemon() {
    let rsm = echo();
    rsm.ok(&["start", "sleep 1000", "--name", "nap", "-i", "2"]);
    let (app, naps) = (rsm.pids("echo")[0], rsm.pids("nap"));
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap(); // it would start another daemon
    end(daemon);
    end(keeper);
    say(&rsm, "while nobody listened");
    end(naps[0]);
    // Any command brings them back.
    let list = rsm.list();
    assert_eq!(list.len(), 3);
    assert_eq!(rsm.pids("echo"), [app]);
    until_logged(&rsm, "while nobody listened");
    rsm.wait_until("a new nap", |rsm| {
        let pids = rsm.pids("nap");
        (pids.len() == 2 && !pids.contains(&naps[0]) && pids.contains(&naps[1])).then_some(())
    });
    let (daemon, keeper) = rsm.managers();
    rsm.ok(&["delete", "all"]);
    assert!(!alive(app) && !alive(naps[1]));
    assert!(alive(daemon) && alive(keeper));
}

#[test]
fn reused_pid_is_never_signaled() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let app = rsm.pids("nap")[0];
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
    end(daemon);
    end(keeper);
    end(app);
    // The state says that a process of another start time had the pid of this stranger.
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for name in ["state.json", "state.json.prev"] {
        let path = rsm.home().join(name);
        let state = read(&path).replace(&format!("\"pid\":{app}"), &format!("\"pid\":{}", stranger.id()));
        fs::write(path, state).unwrap();
    }
    wait_until("another process", || rsm.pids("nap").first().copied());
    assert_ne!(rsm.pids("nap"), [stranger.id() as i32]);
    rsm.ok(&["delete", "nap"]);
    assert!(alive(stranger.id() as i32), "a stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn unusable_state_falls_back_to_previous() {
    for damage in ["", "{\"version\":1", "{\"version\":99}", "\0\0\0"] {
        let rsm = Rsm::new();
        rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
        rsm.ok(&["restart", "nap"]); // so that there is one before
        let app = rsm.pids("nap")[0];
        let (daemon, keeper) = rsm.managers();
        kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
        end(daemon);
        end(keeper);
        fs::write(rsm.home().join("state.json"), damage).unwrap();
        wait_until("it is back", || (rsm.statuses("nap") == ["online"]).then_some(()));
        let pids = rsm.pids("nap");
        assert_eq!(pids, [app], "it was adopted, {damage:?}");
        assert_eq!(read(rsm.home().join("state.json.unusable")), damage, "and kept");
        assert!(read(rsm.home().join("rsm.log")).contains("state.json"), "and said");
    }
}

#[test]
fn missing_state_restores_saved_list() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "saved"]);
    rsm.ok(&["save"]);
    rsm.ok(&["start", "sleep 1000", "--name", "unsaved"]);
    let (saved, unsaved) = (rsm.pids("saved")[0], rsm.pids("unsaved")[0]);
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
    end(daemon);
    end(keeper);
    for name in ["state.json", "state.json.prev"] {
        fs::write(rsm.home().join(name), "damaged").unwrap();
    }
    assert_eq!(rsm.pids("saved"), [saved]);
    assert!(rsm.pids("unsaved").is_empty());
    assert!(alive(unsaved), "it may be all that somebody has");
    assert!(read(rsm.home().join("rsm.log")).contains(&format!("ignoring it pid={unsaved}")));
    end(unsaved);
}

#[test]
fn damaged_dump_falls_back_to_previous() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    rsm.ok(&["save"]);
    rsm.ok(&["save"]);
    rsm.ok(&["delete", "nap"]);
    fs::write(rsm.home().join("dump.json"), "{\"version\":99}").unwrap();
    rsm.ok(&["resurrect"]).says("newer rsm").says("dump.json.prev");
    assert_eq!(rsm.statuses("nap"), ["online"]);
    rsm.ok(&["save"]);
    assert_eq!(read(rsm.home().join("dump.json.unusable")), "{\"version\":99}", "never overwritten");
}

#[test]
fn idempotency_key_prevents_repeated_change() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let ask = || {
        let body = r#"{"add":2}"#;
        rsm.http(
            format!(
                "POST /v1/apps/nap/scale HTTP/1.1\r\nHost: rsm\r\nIdempotency-Key: one\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
    };
    let first = ask();
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    let (daemon, _) = rsm.managers();
    end(daemon);
    let second = wait_until("an answer", || Some(ask()).filter(|answer| !answer.is_empty()));
    assert!(second.starts_with("HTTP/1.1 200"), "{second}");
    assert_eq!(rsm.pids("nap").len(), 3, "the next daemon knows of it");
}

#[test]
fn next_daemon_answers_pending_command() {
    let rsm =
        Rsm::new().file("deaf.sh", "#!/bin/sh\ntrap '' INT TERM\n: > ready\nwhile :; do sleep 1; done\n");
    rsm.ok(&["start", "./deaf.sh", "--kill-timeout", "1000"]);
    wait_until("it is deaf", || rsm.dir().join("ready").exists().then_some(()));
    let restarting = rsm.command(&["restart", "deaf"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    rsm.wait_status("deaf", "stopping");
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
    end(daemon);
    end(keeper);
    let done = restarting.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let view = &rsm.list()[0];
    assert_eq!((view["status"].as_str(), view["restarts"].as_i64()), (Some("online"), Some(1)), "{view}");
}

#[test]
fn upgrade_keeps_apps_running() {
    let rsm = echo();
    rsm.ok(&["start", "sleep 1000", "--name", "nap", "-i", "3"]);
    let pids = [rsm.pids("echo"), rsm.pids("nap")].concat();
    let other = rsm.another_version("0.9.9");
    let (daemon, keeper) = rsm.managers();
    rsm.ok(&["upgrade", "--binary", "./rsm-other"]).says("to 0.9.9");
    let (after, same) = rsm.managers();
    assert!(after != daemon && same == keeper, "the keeper goes on in its process");
    for pid in [after, same] {
        assert_eq!(fs::read_link(format!("/proc/{pid}/exe")).unwrap(), other.canonicalize().unwrap());
    }
    assert_eq!([rsm.pids("echo"), rsm.pids("nap")].concat(), pids);
    assert!(rsm.list().iter().all(|view| view["restarts"] == 0 && view["status"] == "online"));
    say(&rsm, "after the upgrade");
    until_logged(&rsm, "after the upgrade");
    // A command of the former version says so, and its exit code stays what it was.
    rsm.ok(&["list"]).says("the daemon runs rsm 0.9.9").says("rsm upgrade");
    // It is the parent still: exit codes are known.
    end(pids[1]);
    rsm.wait_until("a new nap", |rsm| {
        (rsm.pids("nap").len() == 3 && !rsm.pids("nap").contains(&pids[1])).then_some(())
    });
    let exits = &rsm.json(&["describe", "nap", "--json"])[0]["exits"];
    assert_eq!(exits[0]["exit"]["signal"]["number"], 9, "{exits}");
    // And back.
    rsm.ok(&["upgrade"]).says("upgraded from rsm 0.9.9");
    assert_eq!(rsm.pids("echo"), pids[..1]);
}

#[test]
fn upgrade_rejects_other_binary() {
    let rsm = Rsm::new()
        .file("fails.sh", "#!/bin/sh\necho out of order >&2\nexit 3\n")
        .file("says.sh", "#!/bin/sh\necho '{\"version\":\"9.9.9\",\"protocol\":99,\"handover\":1}'\n")
        .file("mute.sh", "#!/bin/sh\nexit 0\n")
        .file("plain.txt", "no program");
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let (pids, managers) = (rsm.pids("nap"), rsm.managers());
    for (binary, says) in [
        ("./fails.sh", "out of order"),
        ("./says.sh", "another keeper protocol"),
        ("./mute.sh", "not an rsm binary"),
        ("./plain.txt", "cannot run it"),
        ("./missing", "cannot open it"),
    ] {
        rsm.run(&["upgrade", "--binary", binary]).code(1).says(says).says("current version keeps running");
    }
    assert_eq!((rsm.pids("nap"), rsm.managers()), (pids, managers));
}

#[test]
fn failed_upgrade_rolls_back() {
    // It passes the test, as a binary would whose fault shows only at work.
    let good = env!("CARGO_BIN_EXE_rsm");
    let script = |then: &str| {
        format!("#!/bin/sh\n[ \"$1\" = can-take-over ] && exec '{good}' can-take-over\n{then}\n")
    };
    let rsm = Rsm::new().file("dies.sh", &script("exit 1")).file("hangs.sh", &script("exec sleep 1000"));
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let (pids, (_, keeper)) = (rsm.pids("nap"), rsm.managers());
    rsm.run(&["upgrade", "--binary", "./dies.sh"])
        .code(1)
        .says("exited before it was ready")
        .says("rolled back");
    rsm.run(&["upgrade", "--binary", "./hangs.sh"]).code(1).says("did not become ready").says("rolled back");
    assert_eq!((rsm.pids("nap"), rsm.managers().1), (pids, keeper));
    rsm.ok(&["restart", "nap"]);
}

#[test]
fn upgrade_without_daemon_does_nothing() {
    let rsm = Rsm::new();
    rsm.ok(&["upgrade"]).says("the daemon is not running");
    assert!(!rsm.home().join("rsm.sock").exists());
}
