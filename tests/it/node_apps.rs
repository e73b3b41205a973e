//! Node apps as PM2 users write them: the IPC channel, standard input, ES and CommonJS modules.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::harness::{Rsm, read, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Waits for a text in the app's output.
fn wait_output(rsm: &Rsm, name: &str, text: &str) {
    let file = rsm.home().join(format!("logs/{name}-out.log"));
    wait_until(&format!("{text:?} in the output of {name}"), || read(&file).contains(text).then_some(()));
}

const TALKER: &str = "
process.on('message', (message) => {
  console.log('heard ' + JSON.stringify(message));
  if (message === 'shutdown') process.exit(0);
  const [action, param] = message.msg ? [message.msg, message.opts] : [message];
  if (action === 'gc') process.send({ type: 'axm:reply', data: { action_name: 'gc', return: { freed: param ?? 3 } } });
});
process.on('disconnect', () => console.log('disconnected'));
process.on('SIGINT', () => { console.log('interrupted'); process.exit(1); });
process.send({ type: 'axm:action', data: { action_name: 'gc', arity: 1 } });
process.send({ type: 'axm:monitor', data: { Heap: { value: 7 } } });
console.log('connected ' + process.connected + ' ' + process.env.NODE_CHANNEL_FD);
";

#[test]
fn actions_are_triggered_in_both_modes() {
    let rsm = Rsm::new().file("talker.js", TALKER);
    let file = "apps:\n- {name: one, script: talker.js}\n- {name: two, script: talker.js, exec_mode: cluster, instances: 2}\n";
    rsm.write("apps.yaml", file);
    rsm.ok(&["start", "apps.yaml"]);
    wait_output(&rsm, "one", "connected true undefined");
    rsm.ok(&["trigger", "one", "gc"]).shows("[one:0:default]={\"freed\":3}");
    let output = rsm.ok(&["trigger", "two", "gc", "all of it"]);
    assert_eq!(output.stdout.lines().count(), 2);
    output.shows("[two:1:default]={\"freed\":\"all of it\"}");
    let jlist = rsm.json(&["jlist"]);
    assert_eq!(jlist[0]["pm2_env"]["axm_actions"][0]["action_name"], "gc");
    assert_eq!(jlist[0]["pm2_env"]["axm_monitor"]["Heap"]["value"], 7);
    rsm.run(&["trigger", "one", "dump"]).code(1).says("unknown action \"dump\"; available: gc");
    rsm.run(&["trigger", "nobody", "gc"]).code(1).says("nobody");
}

#[test]
fn reports_app_without_channel() {
    let rsm = Rsm::new().file("app.py", "import time\ntime.sleep(1000)\n");
    rsm.ok(&["start", "app.py"]);
    rsm.run(&["trigger", "app", "gc"]).code(1).says("no IPC channel");
    rsm.ok(&["stop", "app"]);
    rsm.run(&["trigger", "app", "gc"]).code(1).says("no selected instance is running");
    rsm.run(&["send", "app", "hello"]).code(1).says("no selected instance is running");
}

#[test]
fn shutdown_message_replaces_signal() {
    let rsm = Rsm::new().file("talker.js", TALKER);
    rsm.ok(&["start", "talker.js", "--shutdown-with-message"]);
    wait_output(&rsm, "talker", "connected");
    rsm.ok(&["restart", "talker"]);
    wait_output(&rsm, "talker", "heard \"shutdown\"");
    rsm.ok(&["stop", "talker"]);
    assert!(!read(rsm.home().join("logs/talker-out.log")).contains("interrupted"));
    let detail = rsm.json(&["describe", "talker", "--json"]);
    assert!(detail[0]["exits"].as_array().unwrap().iter().all(|exit| exit["killed"] == false), "{detail}");
}

#[test]
fn closed_channel_gets_stop_signal() {
    let rsm = Rsm::new().file(
        "quiet.js",
        "process.disconnect(); setInterval(() => {}, 1000);\n\
         process.on('SIGINT', () => { console.log('interrupted'); process.exit(0); }); console.log('up');",
    );
    rsm.ok(&["start", "quiet.js", "--shutdown-with-message"]);
    wait_output(&rsm, "quiet", "up");
    rsm.ok(&["stop", "quiet"]);
    wait_output(&rsm, "quiet", "interrupted");
}

#[test]
fn channel_survives_killing_daemon_and_keeper() {
    let rsm = Rsm::new().file("talker.js", TALKER);
    rsm.ok(&["start", "talker.js"]);
    wait_output(&rsm, "talker", "connected");
    for round in 0..3 {
        let (daemon, keeper) = rsm.managers();
        let pids = [vec![daemon], vec![keeper], vec![keeper, daemon]];
        pids[round].iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap());
        // An action is sent once: a daemon that is killed would lose it.
        rsm.next_managers(daemon);
        rsm.ok(&["trigger", "talker", "gc"]).shows("={\"freed\":3}");
    }
    assert!(!read(rsm.home().join("logs/talker-out.log")).contains("disconnected"));
    assert_eq!(rsm.list()[0]["restarts"], 0);
}

#[test]
fn channel_does_not_keep_app_alive() {
    let rsm = Rsm::new().file("short.js", "process.send({ hello: 1 }); console.log('done');");
    rsm.ok(&["start", "short.js", "--no-autorestart"]);
    rsm.wait_status("short", "completed");
    assert_eq!(rsm.json(&["describe", "short", "--json"])[0]["exits"][0]["exit"]["code"], 0);
}

#[test]
fn children_do_not_inherit_channel() {
    let rsm = Rsm::new().file(
        "parent.js",
        "require('child_process').execSync('ls -l /proc/self/fd; env', { stdio: 'inherit' }); console.log('listed');",
    );
    rsm.ok(&["start", "parent.js", "--no-autorestart"]);
    wait_output(&rsm, "parent", "listed");
    let out = read(rsm.home().join("logs/parent-out.log"));
    assert!(!out.contains("socket:") && !out.contains("NODE_CHANNEL"), "{out}");
}

#[test]
fn message_flood_is_drained() {
    let rsm = Rsm::new().file(
        "flood.js",
        "const text = 'x'.repeat(1000); let left = 20000;\n\
         const more = () => { if (left--) process.send({ text }, more); else console.log('all sent'); };\n\
         more(); setInterval(() => {}, 1000);",
    );
    rsm.ok(&["start", "flood.js"]);
    wait_output(&rsm, "flood", "all sent");
    let (daemon, _) = rsm.managers();
    let status = read(format!("/proc/{daemon}/status"));
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 40 << 10, "{kilobytes} kB");
}

#[test]
fn send_writes_to_standard_input() {
    let rsm =
        Rsm::new().file("echo.sh", "#!/bin/sh\nwhile read -r line; do echo \"got $line\"; done\necho over\n");
    rsm.ok(&["start", "echo.sh"]);
    rsm.ok(&["send", "echo", "one line"]);
    wait_output(&rsm, "echo", "got one line");
    rsm.ok(&["send", "0", "--flag"]);
    wait_output(&rsm, "echo", "got --flag");
    let (daemon, keeper) = rsm.managers();
    [keeper, daemon].iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap());
    rsm.next_managers(daemon);
    rsm.ok(&["send", "echo", "later"]);
    wait_output(&rsm, "echo", "got later");
    assert!(!read(rsm.home().join("logs/echo-out.log")).contains("over"));
    rsm.run(&["send", "echoo", "x"]).code(1).says("echoo");
}

#[test]
fn reports_app_that_ignores_its_input() {
    let rsm = Rsm::new().file("deaf.sh", "#!/bin/sh\nexec sleep 1000\n");
    rsm.write("closed.sh", "#!/bin/sh\nexec sleep 1000 </dev/null\n");
    rsm.ok(&["start", "deaf.sh", "closed.sh"]);
    let long = "x".repeat(100_000);
    rsm.run(&["send", "deaf", &long]).code(1).says("stdin is full");
    wait_until("the script has replaced its stdin", || {
        let output = rsm.run(&["send", "closed", "x"]);
        output.stderr.contains("stdin is closed").then_some(())
    });
}

#[test]
fn attach_shows_output_and_sends_input() {
    let rsm =
        Rsm::new().file("echo.sh", "#!/bin/sh\necho up\nwhile read -r line; do echo \"got $line\"; done\n");
    rsm.ok(&["start", "echo.sh"]);
    let mut attached = rsm.command(&["attach", "echo"]);
    let mut attached = attached.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = attached.stdin.take().unwrap();
    let mut output = BufReader::new(attached.stdout.take().unwrap()).lines();
    assert!(output.any(|line| line.unwrap().contains("up")));
    writeln!(input, "hello").unwrap();
    assert!(output.any(|line| line.unwrap().contains("got hello")));
    drop(input);
    assert!(attached.wait().unwrap().success());
    assert_eq!(rsm.statuses("echo"), ["online"]);
}

#[test]
fn esm_cjs_and_node_args_work() {
    let report = "console.log('heap ' + (v8.getHeapStatistics().heap_size_limit >> 20 > 1390) + ' ' + process.env.NODE_APP_INSTANCE + ' ' + process.env.pm_id);\n";
    let rsm = Rsm::new()
        .file(
            "one.mjs",
            &format!("import v8 from 'node:v8';\nawait null;\n{report}setInterval(() => {{}}, 1000);"),
        )
        .file("dist/index.js", &format!("import v8 from 'node:v8';\n{report}setInterval(() => {{}}, 1000);"))
        .file("dist/package.json", r#"{"type":"module"}"#);
    rsm.ok(&["start", "one.mjs", "--node-args", "--max-old-space-size=1400"]);
    rsm.ok(&["start", "dist/index.js", "--name", "two", "--node-args=--max-old-space-size=1400", "-i", "1"]);
    wait_output(&rsm, "one", "heap true 0 0");
    wait_until("the output of two", || {
        let logs = std::fs::read_dir(rsm.home().join("logs")).unwrap().map(|entry| entry.unwrap().path());
        let mut logs = logs.filter(|path| path.to_string_lossy().contains("two-out"));
        logs.any(|path| read(path).contains("heap true 0 1")).then_some(())
    });
}

#[test]
fn unhandled_rejection_exits_and_is_logged() {
    let rsm = Rsm::new().file(
        "rejects.js",
        "setTimeout(() => Promise.reject(new Error('no database')), 10);\nsetInterval(() => {}, 1000);",
    );
    rsm.ok(&["start", "rejects.js", "--no-autorestart", "--no-wait"]);
    rsm.wait_until("the app has exited", |rsm| (rsm.statuses("rejects") != ["online"]).then_some(()));
    assert_eq!(rsm.json(&["describe", "rejects", "--json"])[0]["exits"][0]["exit"]["code"], 1);
    assert!(read(rsm.home().join("logs/rejects-error.log")).contains("no database"));
}
