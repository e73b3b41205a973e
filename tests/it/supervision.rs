//! Supervision with real processes: crashes, stops, trees, failed starts.

use crate::harness::{Rsm, alive, read, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn killed_app_restarts_and_signal_is_shown() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let pid = rsm.pids("nap")[0];
    signal(pid, Signal::SIGKILL);
    let again =
        rsm.wait_until("a new process", |rsm| rsm.pids("nap").first().copied().filter(|new| *new != pid));
    assert!(alive(again) && !alive(pid));
    let nap = &rsm.json(&["describe", "nap", "--json"])[0];
    assert_eq!(nap["restarts"], 1);
    assert_eq!(nap["exits"][0]["exit"]["signal"]["number"], 9, "{nap}");
    rsm.ok(&["describe", "nap"]).shows("killed by SIGKILL");
}

#[test]
fn crash_loop_becomes_errored_with_reason() {
    let rsm = Rsm::new().file("crash.sh", "#!/bin/sh\necho about to fail >&2\nexit 7\n");
    rsm.run(&["start", "./crash.sh", "--max-restarts", "10", "--exp-backoff-restart-delay", "1"]);
    rsm.wait_status("crash", "errored");
    let crash = &rsm.json(&["describe", "crash", "--json"])[0];
    assert_eq!(crash["restarts"], 10);
    let reason = crash["reason"].as_str().unwrap();
    assert!(reason.contains("10 unstable restarts") && reason.contains("exit code 7"), "{reason}");
    rsm.ok(&["describe", "crash"]).shows(reason).shows("about to fail");
    rsm.ok(&["list"]).shows("errored");
}

#[test]
fn stop_ends_whole_process_tree() {
    let script = r#"#!/bin/sh
sleep 1001 &
setsid sleep 1002 &
(setsid sh -c 'trap "" TERM INT; setsid sleep 1003 & echo $! > third; wait; sleep 1004' &)
sh -c 'trap "" INT TERM; echo deaf > ready; while :; do sleep 1; done' &
echo $! > deaf
wait
"#;
    let rsm = Rsm::new().file("tree.sh", script);
    rsm.ok(&["start", "./tree.sh", "--kill-timeout", "300"]);
    wait_until("the tree stands", || (!read(rsm.dir().join("ready")).is_empty()).then_some(()));
    let third: i32 = wait_until("the third", || read(rsm.dir().join("third")).trim().parse().ok());
    let deaf: i32 = read(rsm.dir().join("deaf")).trim().parse().unwrap();
    assert!(alive(third) && alive(deaf));
    rsm.ok(&["stop", "tree"]);
    assert!(!alive(third), "the one that left is there");
    assert!(!alive(deaf), "the deaf one is there");
    let left = std::process::Command::new("pgrep").args(["-f", "^sleep 100[1-4]$"]).output().unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    let ours: Vec<&str> = left
        .lines()
        .filter(|pid| read(format!("/proc/{pid}/environ")).contains(&*rsm.home().to_string_lossy()))
        .collect();
    assert!(ours.is_empty(), "left: {ours:?}");
}

#[test]
fn crash_kills_processes_in_other_sessions() {
    let rsm = Rsm::new()
        .file("escape.sh", "#!/bin/sh\nsetsid sh -c 'echo $$ > child; exec sleep 1000' &\nexec sleep 1000\n");
    rsm.ok(&["start", "./escape.sh"]);
    let child: i32 = wait_until("the child", || read(rsm.dir().join("child")).trim().parse().ok());
    let leader = rsm.pids("escape")[0];
    signal(leader, Signal::SIGKILL);
    rsm.wait_until("a new process", |rsm| rsm.pids("escape").first().copied().filter(|pid| *pid != leader));
    assert!(!alive(child), "the new run came before the rest of the old was gone");
}

#[test]
fn self_daemonizing_apps_leave_no_process() {
    let script = "#!/usr/bin/env python3\nimport os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(1000)\n    os._exit(0)\nos._exit(0)\n";
    let rsm = Rsm::new().file("back.py", script);
    rsm.run(&["start", "./back.py", "-i", "8"]);
    rsm.wait_status("back", "errored");
    let home = rsm.home().to_string_lossy().into_owned();
    let found = std::process::Command::new("pgrep").args(["-f", "back.py"]).output().unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    let left: Vec<&str> =
        found.lines().filter(|pid| read(format!("/proc/{pid}/environ")).contains(&home)).collect();
    assert!(left.is_empty(), "left of 8 runs: {left:?}");
}

#[test]
fn signal_ignoring_app_is_force_killed() {
    let rsm =
        Rsm::new().file("deaf.sh", "#!/bin/sh\ntrap '' INT TERM\n: > ready\nwhile :; do sleep 1; done\n");
    rsm.ok(&["start", "./deaf.sh", "--kill-timeout", "200"]);
    wait_until("it is deaf", || rsm.dir().join("ready").exists().then_some(()));
    rsm.ok(&["stop", "deaf"]);
    let deaf = &rsm.json(&["describe", "deaf", "--json"])[0];
    assert_eq!(deaf["exits"][0]["killed"], true, "{deaf}");
    assert_eq!(rsm.statuses("deaf"), ["stopped"]);
}

#[test]
fn stop_uses_configured_signal() {
    let rsm = Rsm::new().file(
        "own.sh",
        "#!/bin/sh\ntrap 'echo got it > got; exit 0' USR1\n: > ready\nwhile :; do sleep 0.05; done\n",
    );
    rsm.ok(&["start", "./own.sh", "--kill-signal", "SIGUSR1"]);
    wait_until("it is ready", || rsm.dir().join("ready").exists().then_some(()));
    rsm.ok(&["stop", "own"]);
    assert_eq!(read(rsm.dir().join("got")).trim(), "got it");
}

#[test]
fn failed_start_reports_its_step() {
    let rsm = Rsm::new().file("bad.sh", "#!/no/such/interpreter\n");
    rsm.run(&["start", "./bad.sh", "--interpreter", "none"])
        .code(1)
        .says("cannot execute")
        .says("No such file");
    assert_eq!(rsm.statuses("bad"), ["errored"]);
    rsm.write("good.sh", "#!/bin/sh\nexec sleep 1000\n");
    rsm.ok(&["start", "./good.sh"]);
    std::fs::create_dir(rsm.dir().join("gone")).unwrap();
    rsm.ok(&["start", "sleep 1000", "--name", "moved", "--cwd", "gone"]);
    std::fs::remove_dir(rsm.dir().join("gone")).unwrap();
    rsm.run(&["restart", "moved"]).code(1).says("cannot change to directory").says("gone");
    assert_eq!(rsm.statuses("moved"), ["errored"]);
    assert_eq!(rsm.statuses("good"), ["online"]);
}

#[test]
fn stop_exit_codes_end_the_app() {
    let rsm = Rsm::new();
    rsm.run(&["start", "exit 3", "--name", "done", "--stop-exit-codes", "3"]); // it may have ended before the answer
    rsm.wait_status("done", "completed");
    rsm.run(&["start", "exit 4", "--name", "once", "--no-autorestart"]);
    rsm.wait_status("once", "failed");
    assert_eq!(rsm.json(&["describe", "once", "--json"])[0]["exits"][0]["exit"]["code"], 4);
}

#[test]
fn restart_delay_shows_waiting_status() {
    let rsm = Rsm::new();
    rsm.run(&["start", "exit 1", "--name", "late", "--restart-delay", "60000"]);
    rsm.wait_status("late", "waiting restart");
    rsm.ok(&["stop", "late"]);
    assert_eq!(rsm.statuses("late"), ["stopped"]);
}

#[test]
fn memory_limit_restarts_app_with_reason() {
    let grow = "#!/usr/bin/env python3\nimport time\nheld = bytearray(80 << 20)\ntime.sleep(1000)\n";
    let rsm = Rsm::new().file("grow.py", grow);
    rsm.ok(&["start", "./grow.py", "--max-memory-restart", "60M"]);
    rsm.wait_until("a restart", |rsm| rsm.list()[0]["restarts"].as_u64().filter(|count| *count > 0));
    rsm.ok(&["stop", "grow"]);
    let why = rsm.json(&["describe", "grow", "--json"])[0]["exits"][0]["reason"].to_string();
    assert!(why.contains("max_memory_restart"), "{why}");
}

#[test]
fn five_hundred_apps_start_and_stop() {
    let mut file = String::new();
    for index in 0..500 {
        file.push_str(&format!(
            "[[apps]]\nname = \"nap-{index}\"\nscript = \"/bin/sleep\"\nargs = \"1000\"\n"
        ));
    }
    let rsm = Rsm::new().file("ecosystem.toml", &file);
    rsm.ok(&["start", "ecosystem.toml"]);
    let list = rsm.list();
    assert_eq!(list.len(), 500);
    assert!(list.iter().all(|instance| instance["status"] == "online"));
    let pids: Vec<i32> = list.iter().map(|instance| instance["pid"].as_i64().unwrap() as i32).collect();
    assert!(pids.iter().all(|pid| alive(*pid)));
    rsm.ok(&["stop", "all"]);
    assert!(rsm.list().iter().all(|instance| instance["status"] == "stopped"));
    assert!(!pids.iter().any(|pid| alive(*pid)));
    rsm.ok(&["delete", "all"]);
    assert!(rsm.list().is_empty());
}

/// Notes when each app comes and goes; the first takes a moment for both.
const NOTES: &str = "#!/bin/sh\ntrap 'sleep 0.2; echo \"- $1\" >> notes; exit 0' INT\necho \"+ $1\" >> notes\nwhile :; do sleep 0.02; done\n";

fn depending() -> Rsm {
    let app = |name: &str, on: &str| {
        format!(
            "[[apps]]\nname = \"{name}\"\nscript = \"./notes.sh\"\nargs = [\"{name}\"]\ndepends_on = [{on}]\n"
        )
    };
    let file =
        [app("web", "\"api\""), app("api", "\"db\", \"queue\""), app("db", ""), app("queue", "")].concat();
    Rsm::new().file("notes.sh", NOTES).file("ecosystem.toml", &file)
}

#[test]
fn dependencies_start_first_and_stop_last() {
    let rsm = depending();
    let order = |sign: &str| -> Vec<String> {
        let notes = wait_until("four notes", || {
            let notes = read(rsm.dir().join("notes"));
            (notes.matches(sign).count() == 4).then_some(notes)
        });
        notes.lines().filter_map(|line| line.strip_prefix(sign)).map(|name| name.trim().to_owned()).collect()
    };
    rsm.ok(&["start", "ecosystem.toml"]);
    order("+");
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    let gone = order("-");
    assert_eq!(gone[..2], ["web", "api"], "{gone:?}");
    std::fs::remove_file(rsm.dir().join("notes")).unwrap();
    rsm.ok(&["resurrect"]);
    order("+");
    rsm.ok(&["stop", "all"]);
    let gone = order("-");
    assert_eq!(gone[..2], ["web", "api"], "{gone:?}");
}

#[test]
fn failed_dependency_prevents_start() {
    let rsm = depending();
    rsm.run(&["start", "ecosystem.toml", "--only", "web"])
        .code(1)
        .says("depends on \"api\"")
        .says("does not exist");
    assert!(rsm.list().is_empty());
    let file = read(rsm.dir().join("ecosystem.toml")).replace(
        "name = \"db\"\nscript = \"./notes.sh\"",
        "name = \"db\"\nscript = \"/missing/db\"\ninterpreter = \"none\"",
    );
    rsm.write("notes.sh", NOTES);
    rsm.write("broken.toml", &file.replace("/missing/db", "./gone.sh"));
    rsm.write("gone.sh", "#!/missing/interpreter\n");
    rsm.run(&["start", "broken.toml"]).code(1).says("dependency \"db\" is not online");
    assert_eq!(
        (rsm.statuses("queue"), rsm.statuses("api"), rsm.statuses("web")),
        (vec!["online".into()], vec!["stopped".into()], vec!["stopped".into()])
    );
}

#[test]
fn open_files_are_limited_by_hard_limit_or_key() {
    let rsm = Rsm::new().file(
        "ecosystem.toml",
        "[[apps]]\nname = 'default'\nscript = 'ulimit -Sn; ulimit -Hn; exec sleep 1000'\n\
         [[apps]]\nname = 'set'\nscript = 'ulimit -Sn; exec sleep 1000'\nlimits = { nofile = 512 }\n",
    );
    let line =
        format!("ulimit -Sn 256; ulimit -Hn 2048; exec {} start ecosystem.toml", env!("CARGO_BIN_EXE_rsm"));
    assert!(rsm.command_of("bash", &["-c", &line]).output().unwrap().status.success());
    let logged = |app: &str| {
        let file = rsm.home().join(format!("logs/{app}-out.log"));
        wait_until("its limit", || Some(read(&file)).filter(|text| text.contains('\n')))
    };
    wait_until("both limits", || logged("default").contains("2048\n2048\n").then_some(()));
    assert_eq!(logged("set"), "512\n");
}

#[test]
fn crashes_are_counted_beside_restarts() {
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\n[ -e crash ] && rm crash && exit 1\nexec sleep 1000\n");
    rsm.ok(&["start", "./app.sh"]);
    rsm.ok(&["restart", "app"]);
    rsm.write("crash", "");
    rsm.run(&["restart", "app"]); // fails, because the app crashes at once
    rsm.wait_until("one crash", |rsm| (rsm.list()[0]["crashes"] == 1).then_some(()));
    rsm.wait_status("app", "online");
    assert_eq!(rsm.list()[0]["restarts"], 3);
    rsm.ok(&["reset", "app"]);
    assert_eq!(rsm.list()[0]["crashes"], 0);
}
