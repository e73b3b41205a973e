//! Starts that fail: the command waits until a program is ready, or long enough to see that it exits at once.

use std::time::{Duration, Instant};

use crate::harness::{Rsm, free_port};

const BOOM: &str = "console.log('here we go');\nthrow new Error('no such table');\n";

#[test]
fn program_that_exits_at_once_fails_the_command() {
    let rsm = Rsm::new().file("boom.js", BOOM);
    let start = |args: &[&str]| rsm.run(&[&["start", "boom.js"], args].concat());
    start(&[]).code(1).says("boom").says("after its start: exit code 1").says("Error: no such table");
    rsm.run(&["-s", "restart", "boom"]).code(1).says("no such table");
    rsm.ok(&["restart", "boom", "--no-wait"]);
    rsm.ok(&["delete", "boom"]);
    start(&["--no-wait"]).code(0);
    rsm.ok(&["delete", "boom"]);
    start(&["--no-autorestart"]).code(1).says("exit code 1");
    assert_eq!(rsm.pids("boom"), [0i32; 0]);
}

#[test]
fn every_command_that_starts_processes_reports_early_exits() {
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\nexec sleep 1000\n");
    rsm.write("ecosystem.toml", "[[apps]]\nname = \"app\"\nscript = \"./app.sh\"\n");
    rsm.ok(&["start", "ecosystem.toml"]);
    rsm.write("app.sh", "#!/bin/sh\necho broken pipe dreams >&2\nexit 3\n");
    let failed = |args: &[&str]| {
        rsm.run(args).code(1).says("exit code 3").says("broken pipe dreams");
    };
    failed(&["scale", "app", "2"]);
    failed(&["restart", "ecosystem.toml"]);
    rsm.ok(&["scale", "app", "+1", "--no-wait"]);
    rsm.ok(&["delete", "app"]);
    failed(&["apply", "ecosystem.toml"]);
    rsm.ok(&["delete", "app"]);
    rsm.ok(&["apply", "ecosystem.toml", "--no-wait"]);
    rsm.ok(&["stop", "app"]);
    failed(&["start", "app"]);
    failed(&["reload", "app"]);
}

#[test]
fn start_of_several_apps_names_the_failed_one() {
    let rsm = Rsm::new().file("boom.js", BOOM);
    let apps = ["nap", "boom"].map(|name| {
        let script = if name == "boom" { "./boom.js" } else { "sleep 1000" };
        format!("[[apps]]\nname = \"{name}\"\nscript = \"{script}\"\n")
    });
    rsm.write("ecosystem.toml", &apps.concat());
    rsm.run(&["start", "ecosystem.toml"]).code(1).says("app \"boom\"").says("nap (0): started, online");
}

#[test]
fn exit_before_readiness_ends_the_start() {
    let rsm =
        Rsm::new().file("late.js", "setTimeout(() => { console.error('gone'); process.exit(4) }, 1300)");
    for flags in [["-i", "1"], ["--wait-ready", "--time"]] {
        rsm.run(&[&["start", "late.js", "--listen-timeout", "600s"][..], &flags].concat())
            .code(1)
            .says("exit code 4")
            .says("gone");
        rsm.ok(&["delete", "late"]);
    }
}

#[test]
fn taken_port_fails_the_command() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let rsm =
        Rsm::new().file("web.js", "require('http').createServer().listen(+process.env.AT)").var("AT", &port);
    let holder = format!("port {port} is used by");
    rsm.run(&["-s", "start", "web.js"])
        .code(1)
        .says("EADDRINUSE")
        .says(&holder)
        .says(&format!("(pid {})", std::process::id()));
    rsm.ok(&["delete", "web"]);
    rsm.run(&["start", "web.js", "-i", "1"]).code(1).says("EADDRINUSE");
}

#[test]
fn apps_of_one_list_on_one_port_are_both_named() {
    let port = free_port().to_string();
    let web = "require('http').createServer().listen(+process.env.AT)";
    let rsm = Rsm::new().file("web.js", web).var("AT", &port);
    let file = |mode: &str| {
        ["one", "two"]
            .map(|name| {
                format!("[[apps]]\nname = \"{name}\"\nscript = \"./web.js\"\nexec_mode = \"{mode}\"\n")
            })
            .concat()
    };
    rsm.write("ecosystem.toml", &file("cluster"));
    let ran = rsm.ok(&["-s", "start", "ecosystem.toml"]);
    assert!(
        ran.stderr.contains("warning: ") && ran.stderr.contains("connections go to both"),
        "{}",
        ran.stderr
    );
    rsm.ok(&["delete", "all"]);
    rsm.write("ecosystem.toml", &file("fork"));
    rsm.run(&["-s", "start", "ecosystem.toml"]).code(1).says(&format!("port {port} is used by app"));
}

#[test]
fn jobs_that_succeed_do_not_fail_the_command() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "true", "--name", "job", "--no-autorestart"]);
    rsm.ok(&["start", "exit 3", "--name", "three", "--stop-exit-codes", "3"]);
    rsm.run(&["start", "exit 4", "--name", "four", "--no-autorestart"]).code(1).says("exit code 4");
    // A program that is restarted each time it has ended does not stay up.
    rsm.run(&["start", "true", "--name", "loop"]).code(1).says("--no-autorestart");
}

#[test]
fn worker_that_listens_nowhere_is_waited_for_once() {
    let rsm = Rsm::new().file("worker.js", "setInterval(() => {}, 1000)");
    rsm.ok(&["start", "worker.js", "-i", "1", "--listen-timeout", "6s"])
        .says("does not listen on a port yet");
    for command in ["restart", "reload"] {
        let begin = Instant::now();
        rsm.ok(&[command, "worker"]);
        assert!(begin.elapsed() < Duration::from_secs(6), "{command} took {:?}", begin.elapsed());
    }
    assert_eq!(rsm.statuses("worker"), ["online"]);
}

#[test]
fn slow_listener_is_waited_for_after_the_first_start() {
    let port = free_port();
    let app = "setTimeout(() => require('http').createServer().listen(process.env.AT), 1500)";
    let rsm = Rsm::new().file("slow.js", app).var("AT", &port.to_string());
    rsm.ok(&["start", "slow.js", "-i", "1", "--listen-timeout", "1s"]).says("set `listen_timeout`");
    let listens = |rsm: &Rsm| {
        let slow = &rsm.json(&["describe", "slow", "--json"])[0];
        slow["ports"]["addresses"].as_array().is_some_and(|addresses| !addresses.is_empty()).then_some(())
    };
    rsm.wait_until("it listens", listens);
    rsm.ok(&["reload", "slow"]);
    assert!(listens(&rsm).is_some());
    rsm.ok(&["restart", "slow"]);
    assert!(listens(&rsm).is_some());
}

#[test]
fn crash_loop_is_shown_below_the_list() {
    let rsm = Rsm::new();
    rsm.run(&["start", "exit 7", "--name", "loop", "--max-restarts", "1000"]).code(1);
    rsm.wait_until("it is crash-looping", |rsm| {
        let list = rsm.ok(&["list"]).stdout;
        (list.contains("loop (id 0) is crash-looping") && list.contains("exit code 7")).then_some(())
    });
}
