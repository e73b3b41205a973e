//! A reload fails no request, and one that cannot succeed changes nothing.

use crate::harness::load_client::{Client, Pace};
use crate::harness::{DEADLINE, Rsm, free_port, get, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A server that answers with its version, and what it has begun before it ends.
fn server(version: &str) -> String {
    format!(
        "const server = require('http').createServer((_, answer) => answer.end('version {version} of ' + (process.env.WHO || '') + ' '))\n\
         server.listen(process.env.AT, '127.0.0.1')\n\
         process.on('SIGINT', () => server.close(() => process.exit(0)))\n"
    )
}

fn ecosystem(settings: &str) -> String {
    format!("[[apps]]\nname = \"web\"\nscript = \"./app.js\"\n{settings}\n")
}

fn web(port: u16, settings: &str) -> Rsm {
    let rsm = Rsm::new()
        .var("AT", &port.to_string())
        .file("app.js", &server("one"))
        .file("ecosystem.toml", &ecosystem(settings));
    rsm.ok(&["start", "ecosystem.toml"]);
    rsm
}

const CLUSTER: &str = "exec_mode = \"cluster\"\ninstances = 2";

fn all_answer(port: u16, version: &str) {
    for _ in 0..20 {
        let answer = get(port, "/").expect("refused");
        assert!(answer.contains(version), "{answer}");
    }
}

#[test]
fn reload_fails_no_request_and_counts() {
    for settings in
        [CLUSTER, "hold_port = true", "exec_mode = \"cluster\"\ninstances = 2\nbalance = \"shared\""]
    {
        let port = free_port();
        let rsm = web(port, settings);
        let before = rsm.pids("web");
        let load = Client::local(port).timeout(DEADLINE).expect("version").load(3, Pace::Unlimited);
        rsm.write("app.js", &server("two"));
        rsm.ok(&["reload", "web"]).says("replaced, draining the old process");
        load.finish().assert_clean();
        all_answer(port, "version two");
        let after = rsm.pids("web");
        assert_eq!(after.len(), before.len());
        assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
        assert!(rsm.list().iter().all(|instance| instance["restarts"] == 1), "{:?}", rsm.list());
        let exits = &rsm.json(&["describe", "web", "--json"])[0]["exits"];
        assert_eq!((exits.as_array().unwrap().len(), &exits[0]["requested"]), (1, &true.into()), "{exits}");
    }
}

#[test]
fn failed_reload_keeps_old_process() {
    let port = free_port();
    let rsm = web(port, &format!("{CLUSTER}\nlisten_timeout = 1000"));
    let before = rsm.pids("web");
    let load = Client::local(port).timeout(DEADLINE).expect("version").load(3, Pace::Unlimited);
    let (other, elsewhere) = (free_port(), format!("does not listen on 127.0.0.1:{port} after"));
    for (bad, why) in [
        ("throw new Error('it is broken')", "exit code 1"),
        ("setInterval(() => {}, 1000)", "(listen_timeout)"),
        ("for (;;) {}", "(listen_timeout)"),
        // It listens, and dies soon after.
        (&(server("bad") + "setTimeout(() => process.exit(7), 200)"), "exit code 7"),
        ("process.kill(process.pid, 'SIGSEGV')", "killed by SIGSEGV"),
        // It listens, but somewhere else.
        (&server("bad").replace("process.env.AT", "0"), "(listen_timeout)"),
        (&server("bad").replace("process.env.AT", &other.to_string()), &elsewhere),
    ] {
        rsm.write("app.js", bad);
        rsm.run(&["reload", "web"]).code(1).says("id 0").says(why).says("1 not attempted");
        assert_eq!(rsm.pids("web"), before, "{why}");
        assert!(rsm.list().iter().all(|instance| instance["restarts"] == 0), "{:?}", rsm.list());
    }
    load.finish().assert_clean();
    all_answer(port, "version one");
    rsm.write("app.js", "throw new Error('it is broken')");
    rsm.run(&["reload", "web"]).code(1).says("it is broken");
}

#[test]
fn reload_waits_for_ready_message() {
    let port = free_port();
    let ready = |version| server(version) + "setTimeout(() => process.send('ready'), 300)";
    let rsm = Rsm::new().var("AT", &port.to_string()).file("app.js", &ready("one"));
    rsm.write("ecosystem.toml", &ecosystem(&format!("{CLUSTER}\nwait_ready = true\nlisten_timeout = 2000")));
    rsm.ok(&["start", "ecosystem.toml"]);
    rsm.write("app.js", &server("deaf"));
    rsm.run(&["reload", "web"]).code(1).says("no readiness notification within 2 s");
    all_answer(port, "version one");
    rsm.write("app.js", &ready("two"));
    rsm.ok(&["reload", "web"]);
    all_answer(port, "version two");
}

#[test]
fn changed_file_reloads_without_gap() {
    let port = free_port();
    let rsm = web(port, CLUSTER);
    let load = Client::local(port).timeout(DEADLINE).expect("version").load(3, Pace::Unlimited);
    rsm.write("new.js", &server("two"));
    let file = "[[apps]]\nname = \"web\"\nscript = \"./new.js\"\nexec_mode = \"cluster\"\ninstances = 3\nenv = { WHO = \"me\" }\n\
                [[apps]]\nname = \"other\"\nscript = \"sleep 1000\"\n";
    rsm.write("ecosystem.toml", file);
    rsm.ok(&["reload", "ecosystem.toml"]);
    assert_eq!((rsm.pids("web").len(), rsm.statuses("other")), (3, vec!["online".to_owned()]));
    all_answer(port, "version two of me");
    rsm.write("ecosystem.toml", &file.replace("= 3", "= 1"));
    rsm.ok(&["startOrReload", "ecosystem.toml"]);
    assert_eq!(rsm.pids("web").len(), 1);
    load.finish().assert_clean();
    all_answer(port, "version two of me");
}

#[test]
fn scale_down_fails_no_request() {
    let port = free_port();
    let rsm = web(port, "exec_mode = \"cluster\"\ninstances = 4");
    let load = Client::local(port).timeout(DEADLINE).expect("version").load(3, Pace::Unlimited);
    rsm.ok(&["scale", "web", "1"]);
    rsm.ok(&["scale", "web", "3"]);
    load.finish().assert_clean();
    assert_eq!(rsm.statuses("web"), ["online"; 3]);
}

#[test]
fn unshared_port_restarts_with_note() {
    let rsm = web(free_port(), "");
    let before = rsm.pids("web");
    rsm.ok(&["reload", "web"]).says("web was restarted").says("hold_port = true");
    assert_ne!(rsm.pids("web"), before);
    rsm.ok(&["stop", "web"]);
    rsm.ok(&["gracefulReload", "web"]);
    assert_eq!(rsm.statuses("web"), ["online"]);
    rsm.run(&["reload", "wbe"]).code(1).says("did you mean \"web\"");
}

#[test]
fn rejects_second_reload_and_stop_cancels() {
    let port = free_port();
    let rsm = web(port, &format!("{CLUSTER}\nlisten_timeout = 60000"));
    let before = rsm.pids("web");
    rsm.write("app.js", "setInterval(() => {}, 1000)");
    let reload = rsm.command(&["reload", "web"]).spawn().unwrap();
    rsm.wait_until("a second process", |_| {
        let all = nodes(&rsm);
        (all.len() == 3).then_some(())
    });
    rsm.run(&["reload", "web"]).code(1).says("already being reloaded");
    assert_eq!(rsm.pids("web"), before);
    rsm.ok(&["stop", "web"]);
    wait_until("all are gone", || nodes(&rsm).is_empty().then_some(()));
    assert_eq!(reload.wait_with_output().unwrap().status.code(), Some(1));
    assert_eq!(rsm.statuses("web"), ["stopped"; 2]);
}

/// Pids of all that runs the app's script.
fn nodes(rsm: &Rsm) -> Vec<i32> {
    let script = rsm.dir().join("app.js").display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        crate::harness::cmdline(pid).contains(&script).then_some(pid)
    });
    all.collect()
}

#[test]
fn reload_survives_killing_daemon_and_keeper() {
    let port = free_port();
    let rsm = web(port, "exec_mode = \"cluster\"\ninstances = 3");
    let load = Client::local(port).timeout(DEADLINE).expect("version").load(3, Pace::Unlimited);
    rsm.write("app.js", &server("two"));
    for both in [false, true] {
        let mut reload = rsm.command(&["reload", "web"]).spawn().unwrap();
        rsm.wait_until("it is under way", |rsm| (nodes(rsm).len() > 3).then_some(()));
        let (daemon, keeper) = rsm.managers();
        if both {
            kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
        }
        kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
        // A process that asks for its port while both are dead gets no answer, and fails.
        assert!(reload.wait().unwrap().success() || both);
        rsm.wait_until("no second process", |rsm| (nodes(rsm).len() == 3).then_some(()));
        all_answer(port, "version two");
        assert_eq!((nodes(&rsm).len(), rsm.pids("web").len()), (3, 3));
    }
    load.finish().assert_clean();
}

#[test]
fn verify_counts_requests_during_reload() {
    let port = free_port();
    let rsm = web(port, CLUSTER);
    let url = format!("http://127.0.0.1:{port}/");
    rsm.ok(&["reload", "web", "--parallel", "2", "--verify", &url])
        .says("requests sent during the reload, 0 failed");
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    let before = rsm.pids("web");
    rsm.run(&["reload", "web", "--verify", &nobody]).code(1).says("reload not started");
    assert_eq!(rsm.pids("web"), before);
    rsm.run(&["reload", "web", "--verify", "https://127.0.0.1/"]).code(2).says("http://");
    rsm.run(&["reload", "web", "--parallel", "0"]).code(2);
}

#[test]
fn crash_after_takeover_leaves_one_process() {
    let port = free_port();
    let rsm = web(port, "exec_mode = \"cluster\"\ninstances = 3\nmin_uptime = 300");
    let before = rsm.pids("web");
    // It ends once the next one listens, which only then shows that it can stay.
    let bad = server("bad")
        + "const fs = require('fs'), first = process.env.NODE_APP_INSTANCE === '0'\n\
           if (first) setInterval(() => fs.existsSync('next') && process.exit(9), 10)\n\
           else server.on('listening', () => fs.writeFileSync('next', ''))\n";
    rsm.write("app.js", &bad);
    rsm.run(&["reload", "web"])
        .code(1)
        .says("(id 0): the replacement exited: exit code 9")
        .says("1 not attempted");
    assert!(rsm.pids("web").ends_with(&before[1..]), "{before:?} {:?}", rsm.pids("web"));
}

#[test]
fn interrupted_reload_resumes_and_delete_fails_it() {
    let port = free_port();
    let rsm = web(port, CLUSTER);
    let before = rsm.pids("web");
    let following = rsm.follow(&["reload", "web"]);
    rsm.wait_until("it is under way", |rsm| (nodes(rsm).len() > 2).then_some(()));
    let (code, _, said) = following.interrupt();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("the reload continues"), "{said}");
    rsm.wait_until("all are new", |rsm| {
        let now = rsm.pids("web");
        (now.len() == 2 && now.iter().all(|pid| !before.contains(pid))).then_some(())
    });
    rsm.wait_until("it is over", |rsm| (nodes(rsm).len() == 2).then_some(()));
    let following = rsm.follow(&["reload", "web"]);
    rsm.wait_until("it is under way", |rsm| (nodes(rsm).len() > 2).then_some(()));
    rsm.ok(&["delete", "web"]);
    let (code, _, said) = following.ended();
    assert!(code == Some(1) && said.contains("deleted during the operation"), "{code:?} {said}");
}

#[test]
fn ports_recover_after_all_holders_die() {
    let port = free_port();
    let rsm = web(port, "exec_mode = \"cluster\"\ninstances = 3");
    let (daemon, keeper) = rsm.managers();
    // None of them sees the other die.
    kill(Pid::from_raw(daemon), Signal::SIGSTOP).unwrap();
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    all_answer(port, "version one");
    let before = rsm.pids("web");
    rsm.ok(&["describe", "web"]).shows(&format!("127.0.0.1:{port}"));
    rsm.write("app.js", &server("two"));
    kill(Pid::from_raw(before[0]), Signal::SIGKILL).unwrap();
    rsm.wait_until("another is online", |rsm| {
        let now = rsm.pids("web");
        (now.len() == 3 && !now.contains(&before[0])).then_some(())
    });
    rsm.wait_status("web", "online");
    rsm.ok(&["reload", "web"]);
    assert!(rsm.pids("web").iter().all(|pid| !before.contains(pid)));
    all_answer(port, "version two");
    rsm.ok(&["restart", "web"]);
    all_answer(port, "version two");
}
