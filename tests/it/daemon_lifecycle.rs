//! The lifecycle of the daemon: automatic start, shutdown, save and resurrect, crashes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Rsm, alive, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn queries_do_not_start_daemon() {
    let rsm = Rsm::new();
    rsm.ok(&["list"]);
    assert_eq!(rsm.ok(&["jlist"]).stdout.trim(), "[]");
    rsm.run(&["ping"]).code(3);
    assert!(!rsm.home().join("rsm.sock").exists());
    rsm.ok(&["kill"]);
}

#[test]
fn kill_removes_processes_and_socket() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "-i", "3", "--name", "nap"]);
    let (daemon, keeper) = rsm.managers();
    let apps = rsm.pids("nap");
    assert_eq!(apps.len(), 3);
    assert!(alive(daemon) && alive(keeper));
    rsm.ok(&["kill"]);
    assert!(!alive(daemon) && !alive(keeper) && !apps.iter().any(|pid| alive(*pid)));
    assert!(!rsm.home().join("rsm.sock").exists());
    rsm.ok(&["list"]);
    assert!(rsm.list().is_empty());
}

#[test]
fn home_is_private() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000"]);
    rsm.ok(&["save"]);
    let mode = |name: &str| fs::metadata(rsm.home().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    assert_eq!((mode("rsm.sock"), mode("dump.json"), mode("rsm.log")), (0o600, 0o600, 0o600));
}

#[test]
fn resurrect_restores_names_ids_and_counts() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "first"]);
    rsm.ok(&["start", "sleep 1000", "--name", "nap", "-i", "2"]);
    rsm.ok(&["start", "sleep 1000", "--name", "idle"]);
    rsm.ok(&["delete", "first"]);
    rsm.ok(&["restart", "nap"]);
    rsm.ok(&["stop", "idle"]);
    let rows = |rsm: &Rsm| -> Vec<String> {
        let keys = ["id", "name", "number", "restarts", "status"];
        let row = |view: &serde_json::Value| keys.map(|key| view[key].to_string()).join(" ");
        rsm.list().iter().map(row).collect()
    };
    let before = rows(&rsm);
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    assert!(rsm.list().is_empty());
    rsm.ok(&["resurrect"]);
    assert_eq!(rows(&rsm), before);
    let pids = rsm.pids("nap");
    rsm.ok(&["resurrect"]);
    assert_eq!((rows(&rsm), rsm.pids("nap")), (before, pids), "a second resurrection changes nothing");
}

#[test]
fn save_keeps_dump_if_list_is_empty() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    rsm.ok(&["save"]);
    rsm.ok(&["delete", "all"]);
    rsm.run(&["save"]).code(1).says("empty");
    rsm.ok(&["resurrect"]);
    assert_eq!(rsm.statuses("nap"), ["online"]);
    rsm.ok(&["cleardump"]);
    rsm.ok(&["delete", "all"]);
    rsm.ok(&["resurrect"]);
    assert!(rsm.list().is_empty());
}

#[test]
fn resurrect_rejects_unusable_dump() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    rsm.run(&["resurrect"]).code(1).says("no saved list");
    for (content, says) in [("", "corrupt"), ("{\"version\":1", "corrupt"), ("{\"version\":99}", "newer rsm")]
    {
        fs::write(rsm.home().join("dump.json"), content).unwrap();
        rsm.run(&["resurrect"]).code(1).says(says);
    }
    assert_eq!(rsm.statuses("nap"), ["online"]);
}

#[test]
fn apps_survive_killing_daemon() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap", "-i", "5"]);
    rsm.ok(&["start", "sleep 1000", "--name", "down"]);
    rsm.ok(&["stop", "down"]);
    let pids = rsm.pids("nap");
    for _ in 0..5 {
        let (daemon, keeper) = rsm.managers();
        kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
        let (new_daemon, same_keeper) = wait_until("another daemon", || {
            let info = rsm.run(&["info", "--json"]);
            let info: serde_json::Value = serde_json::from_str(&info.stdout).ok()?;
            let pid = |process: &str| info[process]["pid"].as_i64().map(|pid| pid as i32);
            pid("daemon").filter(|pid| *pid != daemon).zip(pid("keeper"))
        });
        assert!(new_daemon != daemon && same_keeper == keeper);
    }
    assert_eq!(rsm.pids("nap"), pids);
    assert_eq!(
        (rsm.statuses("nap"), rsm.statuses("down")),
        (vec!["online".into(); 5], vec!["stopped".into()])
    );
    // The new daemon supervises them.
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
    rsm.wait_until("a new process", |rsm| {
        (!rsm.pids("nap").contains(&pids[0]) && rsm.pids("nap").len() == 5).then_some(())
    });
}

#[test]
fn new_daemon_notices_exit_it_missed() {
    let rsm = Rsm::new().file("wait.sh", "#!/bin/sh\nread code < fifo\nexit $code\n");
    nix::unistd::mkfifo(&rsm.dir().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    rsm.ok(&["start", "./wait.sh", "--no-autorestart"]);
    let (daemon, keeper) = rsm.managers();
    // A stopped keeper cannot start another daemon.
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    fs::write(rsm.dir().join("fifo"), "42\n").unwrap();
    kill(Pid::from_raw(keeper), Signal::SIGCONT).unwrap();
    rsm.wait_status("wait", "failed");
    assert_eq!(rsm.json(&["describe", "wait", "--json"])[0]["exits"][0]["exit"]["code"], 42);
}

#[test]
fn concurrent_commands_start_one_daemon() {
    let rsm = Rsm::new();
    let names = ["a", "b", "c", "d"];
    let commands: Vec<_> =
        names.map(|name| rsm.command(&["start", "sleep 1000", "--name", name]).spawn().unwrap()).into();
    for mut child in commands {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(rsm.list().len(), 4);
}

#[test]
fn sigterm_shuts_down_like_kill() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let app = rsm.pids("nap")[0];
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGTERM).unwrap();
    wait_until("all processes have exited", || {
        (!alive(daemon) && !alive(keeper) && !alive(app)).then_some(())
    });
    wait_until("the socket is removed", || (!rsm.home().join("rsm.sock").exists()).then_some(()));
}

#[test]
fn keeper_sees_shutdown_despite_daemon_exit() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    rsm.ok(&["delete", "nap"]);
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
    let mut command = rsm.command(&["kill"]).spawn().unwrap();
    wait_until("the daemon has exited", || (!alive(daemon)).then_some(()));
    kill(Pid::from_raw(keeper), Signal::SIGCONT).unwrap();
    assert!(wait_until("the command has exited", || command.try_wait().unwrap()).success());
    assert!(!alive(keeper) && !rsm.home().join("rsm.sock").exists());
}

#[test]
fn daemon_closes_inherited_descriptors() {
    let rsm = Rsm::new();
    let binary = env!("CARGO_BIN_EXE_rsm");
    let line = format!("exec 9> held; flock 9; '{binary}' start 'sleep 1000' --name nap");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &line]).current_dir(rsm.dir()).env("RSM_HOME", rsm.home());
    assert!(shell.output().unwrap().status.success());
    let held = rsm.dir().join("held").canonicalize().unwrap();
    let (daemon, keeper) = rsm.managers();
    for pid in [daemon, keeper, rsm.pids("nap")[0]] {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let files: Vec<_> = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).collect();
        assert!(!files.is_empty() && !files.contains(&held), "{pid}: {files:?}");
    }
    let again = std::process::Command::new("flock").arg("-n").arg(&held).arg("true").status().unwrap();
    assert!(again.success(), "the lock is still held");
}

#[test]
fn shutdown_resumes_after_daemon_death() {
    let rsm =
        Rsm::new().file("deaf.sh", "#!/bin/sh\ntrap '' INT TERM\n: > ready\nwhile :; do sleep 1; done\n");
    rsm.ok(&["start", "./deaf.sh", "--kill-timeout", "3000"]);
    wait_until("the app ignores signals", || rsm.dir().join("ready").exists().then_some(()));
    let (daemon, keeper) = rsm.managers();
    let mut command = rsm.command(&["kill"]).spawn().unwrap();
    rsm.wait_status("deaf", "stopping");
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    wait_until("the keeper has exited", || (!alive(keeper)).then_some(()));
    command.wait().unwrap();
    assert!(!rsm.home().join("rsm.sock").exists());
}

#[test]
fn kill_reports_only_force_killed_apps() {
    let rsm =
        Rsm::new().file("deaf.sh", "#!/bin/sh\ntrap '' INT TERM\n: > ready\nwhile :; do sleep 1; done\n");
    rsm.ok(&["start", "./deaf.sh", "--name", "before", "--kill-timeout", "100"]);
    wait_until("the app ignores signals", || rsm.dir().join("ready").exists().then_some(()));
    rsm.ok(&["stop", "before"]).says("killed after the grace period");
    fs::remove_file(rsm.dir().join("ready")).unwrap();
    rsm.ok(&["start", "./deaf.sh", "--name", "deaf", "--kill-timeout", "100"]);
    wait_until("the app ignores signals", || rsm.dir().join("ready").exists().then_some(()));
    let report = rsm.ok(&["kill"]).stderr;
    let was_killed = |name: &str| {
        let line = report.lines().find(|line| line.starts_with(name)).unwrap();
        line.contains("killed after the grace period")
    };
    assert!(was_killed("deaf") && !was_killed("before"), "{report}");
}
