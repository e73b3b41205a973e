//! Upgrade and recovery: apps keep running when the daemon, the keeper or both are killed or upgraded.

use std::fs;

use crate::harness::{Rsm, alive, read, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn kill_process(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_until("the process has exited", || (!alive(pid)).then_some(()));
}

/// Prints its pid and each line that it reads from a FIFO.
const ECHO: &str = "#!/bin/sh\nwhile :; do read line < fifo && echo \"$$ $line\"; done\n";

fn echo() -> Rsm {
    let rsm = Rsm::new().file("echo.sh", ECHO);
    nix::unistd::mkfifo(&rsm.dir().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    rsm.ok(&["start", "./echo.sh", "--output", "echo.log"]);
    rsm
}

fn send_line(rsm: &Rsm, text: &str) {
    fs::write(rsm.dir().join("fifo"), format!("{text}\n")).unwrap();
}

fn wait_logged(rsm: &Rsm, text: &str) {
    wait_until(text, || {
        read(rsm.dir().join("echo.log")).lines().any(|line| line.ends_with(text)).then_some(())
    });
}

#[test]
fn apps_survive_killing_keeper() {
    let rsm = echo();
    let app = rsm.pids("echo")[0];
    let (daemon, keeper) = rsm.managers();
    kill_process(keeper);
    let (new_daemon, new_keeper) = rsm.next_managers(daemon);
    assert_eq!(new_keeper, daemon, "the daemon has become the keeper");
    assert!(new_daemon != daemon);
    send_line(&rsm, "after the crash");
    wait_logged(&rsm, "after the crash");
    assert_eq!(rsm.pids("echo"), [app]);
    // The app is supervised although it is not a child of the new keeper.
    kill_process(app);
    rsm.wait_until("another process", |rsm| rsm.pids("echo").first().copied().filter(|pid| *pid != app));
    let exit = &rsm.json(&["describe", "echo", "--json"])[0]["exits"][0]["exit"];
    assert!(exit["signal"]["number"] == 9 || exit == "unknown", "an unknown exit is not guessed: {exit}");
    rsm.ok(&["stop", "echo"]);
    assert_eq!(rsm.statuses("echo"), ["stopped"]);
}

#[test]
fn apps_survive_killing_keeper_and_daemon() {
    let rsm = echo();
    rsm.ok(&["start", "sleep 1000", "--name", "nap", "-i", "2"]);
    let (app, naps) = (rsm.pids("echo")[0], rsm.pids("nap"));
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap(); // or it would start another daemon
    kill_process(daemon);
    kill_process(keeper);
    send_line(&rsm, "without a daemon");
    kill_process(naps[0]);
    // Any command starts them again.
    let list = rsm.list();
    assert_eq!(list.len(), 3);
    assert_eq!(rsm.pids("echo"), [app]);
    wait_logged(&rsm, "without a daemon");
    rsm.wait_until("a new process of nap", |rsm| {
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
    kill_process(daemon);
    kill_process(keeper);
    kill_process(app);
    // In the state, the pid of this process belongs to a process with another start time.
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for name in ["state.json", "state.json.prev"] {
        let path = rsm.home().join(name);
        let state = read(&path).replace(&format!("\"pid\":{app}"), &format!("\"pid\":{}", other.id()));
        fs::write(path, state).unwrap();
    }
    wait_until("another process", || rsm.pids("nap").first().copied());
    assert_ne!(rsm.pids("nap"), [other.id() as i32]);
    rsm.ok(&["delete", "nap"]);
    assert!(alive(other.id() as i32), "an unrelated process was killed");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn unusable_state_falls_back_to_previous() {
    for damage in ["", "{\"version\":1", "{\"version\":99}", "\0\0\0"] {
        let rsm = Rsm::new();
        rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
        rsm.ok(&["restart", "nap"]); // writes a second state
        let app = rsm.pids("nap")[0];
        let (daemon, keeper) = rsm.managers();
        kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
        kill_process(daemon);
        kill_process(keeper);
        fs::write(rsm.home().join("state.json"), damage).unwrap();
        wait_until("the app is supervised again", || (rsm.statuses("nap") == ["online"]).then_some(()));
        let pids = rsm.pids("nap");
        assert_eq!(pids, [app], "the app was adopted, {damage:?}");
        assert_eq!(read(rsm.home().join("state.json.unusable")), damage, "the damaged file is kept");
        assert!(read(rsm.home().join("rsm.log")).contains("state.json"), "the damage is logged");
    }
}

#[test]
fn missing_state_restores_saved_list() {
    let rsm = Rsm::new();
    rsm.ok(&["conf", "autosave", "false"]);
    rsm.ok(&["start", "sleep 1000", "--name", "saved"]);
    rsm.ok(&["save"]);
    rsm.ok(&["start", "sleep 1000", "--name", "unsaved"]);
    let (saved, unsaved) = (rsm.pids("saved")[0], rsm.pids("unsaved")[0]);
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
    kill_process(daemon);
    kill_process(keeper);
    for name in ["state.json", "state.json.prev"] {
        fs::write(rsm.home().join(name), "damaged").unwrap();
    }
    assert_eq!(rsm.pids("saved"), [saved]);
    assert!(rsm.pids("unsaved").is_empty());
    assert!(alive(unsaved), "an app without an instance is not stopped");
    assert!(read(rsm.home().join("rsm.log")).contains(&format!("ignoring it pid={unsaved}")));
    kill_process(unsaved);
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
    assert_eq!(read(rsm.home().join("dump.json.unusable")), "{\"version\":99}", "the damaged file is kept");
}

#[test]
fn idempotency_key_prevents_repeated_change() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let scale = || {
        let body = r#"{"add":2}"#;
        rsm.http(
            format!(
                "POST /v1/apps/nap/scale HTTP/1.1\r\nHost: rsm\r\nIdempotency-Key: one\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
    };
    let first = scale();
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    let (daemon, _) = rsm.managers();
    kill_process(daemon);
    let second = wait_until("a response", || Some(scale()).filter(|response| !response.is_empty()));
    assert!(second.starts_with("HTTP/1.1 200"), "{second}");
    assert_eq!(rsm.pids("nap").len(), 3, "the next daemon knows the key");
}

#[test]
fn next_daemon_answers_pending_command() {
    let rsm =
        Rsm::new().file("deaf.sh", "#!/bin/sh\ntrap '' INT TERM\n: > ready\nwhile :; do sleep 1; done\n");
    rsm.ok(&["start", "./deaf.sh", "--kill-timeout", "1000"]);
    wait_until("the app ignores signals", || rsm.dir().join("ready").exists().then_some(()));
    let restarting = rsm.command(&["restart", "deaf"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    rsm.wait_status("deaf", "stopping");
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
    kill_process(daemon);
    kill_process(keeper);
    let output = restarting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
    let (new_daemon, same_keeper) = rsm.managers();
    assert!(new_daemon != daemon && same_keeper == keeper, "the keeper keeps its pid");
    for pid in [new_daemon, same_keeper] {
        assert_eq!(fs::read_link(format!("/proc/{pid}/exe")).unwrap(), other.canonicalize().unwrap());
    }
    assert_eq!([rsm.pids("echo"), rsm.pids("nap")].concat(), pids);
    assert!(rsm.list().iter().all(|view| view["restarts"] == 0 && view["status"] == "online"));
    send_line(&rsm, "after the upgrade");
    wait_logged(&rsm, "after the upgrade");
    // A command of the previous version reports it, with the same exit code.
    rsm.ok(&["list"]).says("the daemon runs rsm 0.9.9").says("rsm upgrade");
    // The keeper is still the parent: exit codes are known.
    kill_process(pids[1]);
    rsm.wait_until("a new process of nap", |rsm| {
        (rsm.pids("nap").len() == 3 && !rsm.pids("nap").contains(&pids[1])).then_some(())
    });
    let exits = &rsm.json(&["describe", "nap", "--json"])[0]["exits"];
    assert_eq!(exits[0]["exit"]["signal"]["number"], 9, "{exits}");
    // Back to the first version.
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
    // These binaries pass the check and fail when they run as daemon.
    let good = env!("CARGO_BIN_EXE_rsm");
    let script = |command: &str| {
        format!("#!/bin/sh\n[ \"$1\" = can-take-over ] && exec '{good}' can-take-over\n{command}\n")
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

#[test]
fn update_upgrades_only_to_a_newer_version() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let (pids, managers) = (rsm.pids("nap"), rsm.managers());
    for command in ["update", "updatePM2"] {
        rsm.ok(&[command]).says("nothing to upgrade: the daemon runs rsm");
    }
    assert_eq!(rsm.managers(), managers);
    let newer = rsm.another_version("9.8.7");
    let output = rsm.command_of(newer.to_str().unwrap(), &["update"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("to 9.8.7"), "{output:?}");
    rsm.ok(&["update"]).says("nothing to upgrade: the daemon runs rsm 9.8.7");
    assert_eq!(rsm.pids("nap"), pids, "apps keep running");
}

/// Other users can start processes with any run marker.
#[test]
fn processes_of_strangers_are_not_adopted() {
    crate::harness::need_root();
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "app"]);
    rsm.ok(&["start", "sleep 1000", "--name", "stopped"]);
    rsm.ok(&["stop", "stopped"]);
    let pids = rsm.pids("app");
    let stranger = |run: u64| {
        let mut command = std::process::Command::new("setsid");
        let marker = format!("{run}@{}", rsm.home().display());
        command.args(["sleep", "1000"]).env_clear().env("PATH", "/usr/bin:/bin").env("RSM_RUN", marker);
        // Large, so that reading all of them would take long.
        command.envs((0..10).map(|number| (format!("V{number}"), "x".repeat(100_000))));
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        command.spawn().unwrap()
    };
    // Later runs of both instances, and the highest number.
    let runs = [2, 1 << 32 | 2, 1 << 32 | 3, u64::from(u32::MAX), 1 << 32 | u64::from(u32::MAX), 7 << 32 | 1];
    let mut strangers: Vec<_> = runs.into_iter().map(stranger).collect();
    let (daemon, keeper) = rsm.managers();
    kill_process(keeper);
    kill_process(daemon);
    assert_eq!(rsm.statuses("stopped"), ["stopped"]);
    assert_eq!(rsm.pids("app"), pids);
    rsm.ok(&["start", "stopped"]);
    rsm.ok(&["restart", "app"]);
    rsm.ok(&["start", "sleep 1000", "--name", "third"]);
    assert_eq!(rsm.list()[2]["pm_id"].as_u64().or(rsm.list()[2]["id"].as_u64()), Some(2));
    rsm.ok(&["kill"]);
    for stranger in &mut strangers {
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger was stopped");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
