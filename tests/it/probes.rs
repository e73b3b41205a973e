//! Readiness and liveness probes (HTTP, TCP, exec), and the watchdog of `NOTIFY_SOCKET`.

use std::fs;

use crate::harness::{Rsm, free_port, get, read, wait_until};

/// Answers 200, or 503 if a file `sick-<number>` or `sick-<pid>` exists. Does not answer if `hangs-<number>` exists.
const SERVER: &str = r"
const fs = require('fs'), me = process.env.NODE_APP_INSTANCE
const server = require('http').createServer((request, answer) => {
  if (request.url === '/health') {
    if (fs.existsSync(`hangs-${me}`)) return
    if (fs.existsSync(`sick-${me}`) || fs.existsSync(`sick-${process.pid}`)) answer.statusCode = 503
    fs.appendFileSync(`asked-${me}`, '.')
  }
  answer.end(`me ${me} pid ${process.pid} `)
})
server.listen(process.env.AT, '127.0.0.1')
process.on('SIGINT', () => server.close(() => process.exit(0)))
";

fn file(rules: &str) -> String {
    format!("[[apps]]\nname = \"web\"\nscript = \"./app.js\"\n{rules}\n")
}

fn server(rules: &str) -> (Rsm, u16) {
    let port = free_port();
    let rsm =
        Rsm::new().file("app.js", SERVER).var("AT", &port.to_string()).file("ecosystem.toml", &file(rules));
    (rsm, port)
}

/// The numbers of the instances that answer.
fn responding_instances(port: u16, count: usize) -> Vec<String> {
    let mut numbers = std::collections::BTreeSet::new();
    for _ in 0..count {
        let answer = get(port, "/").expect("refused");
        numbers.insert(answer.split_whitespace().skip_while(|word| *word != "me").nth(1).unwrap().to_owned());
    }
    numbers.into_iter().collect()
}

#[test]
fn ready_check_delays_online() {
    let (rsm, _) = server(
        "listen_timeout = \"1s\"\nready = { http = \"http://127.0.0.1:$AT/health\", interval = \"50ms\" }",
    );
    rsm.write("sick-0", "");
    rsm.run(&["start", "ecosystem.toml"]).code(1).says("status 503").says("listen_timeout");
    assert_eq!(rsm.statuses("web"), ["launching"]);
    rsm.ok(&["describe", "web"]).shows("status 503").shows("/health");
    fs::remove_file(rsm.dir().join("sick-0")).unwrap();
    rsm.wait_status("web", "online");
    rsm.ok(&["restart", "web"]);
    assert_eq!(rsm.statuses("web"), ["online"]);
}

#[test]
fn cluster_probes_reach_their_own_instance() {
    let (rsm, port) = server(
        "exec_mode = \"cluster\"\ninstances = 3\nlisten_timeout = \"1s\"\n\
         ready = { http = \"http://127.0.0.1:$AT/health\", interval = \"50ms\", timeout = \"500ms\" }\n\
         health = { http = \"http://127.0.0.1:$AT/health\", interval = \"50ms\", retries = 100000 }",
    );
    rsm.write("sick-1", "");
    rsm.run(&["start", "ecosystem.toml"]).code(1).says("status 503");
    let statuses = rsm.statuses("web");
    assert_eq!(statuses, ["online", "launching", "online"]);
    assert_eq!(
        responding_instances(port, 60),
        ["0", "2"],
        "an instance that is not ready gets no connections"
    );
    fs::remove_file(rsm.dir().join("sick-1")).unwrap();
    rsm.wait_status("web", "online");
    assert_eq!(responding_instances(port, 60), ["0", "1", "2"]);
}

#[test]
fn unhealthy_instances_are_replaced_one_by_one() {
    let (rsm, port) = server(
        "exec_mode = \"cluster\"\ninstances = 2\nmin_uptime = 0\n\
         health = { http = \"http://127.0.0.1:$AT/health\", interval = \"50ms\", timeout = \"1s\", retries = 2 }",
    );
    rsm.ok(&["start", "ecosystem.toml"]);
    let before = rsm.pids("web");
    for pid in &before {
        rsm.write(&format!("sick-{pid}"), "");
    }
    rsm.wait_until("both instances are replaced, and no request fails", |rsm| {
        assert!(get(port, "/").is_some());
        let now = rsm.pids("web");
        (now.len() == 2 && now.iter().all(|pid| !before.contains(pid))).then_some(())
    });
    rsm.wait_status("web", "online");
    rsm.wait_until("the reason is shown", |rsm| {
        let text = rsm.ok(&["describe", "0"]).stdout;
        (text.contains("unhealthy: GET http://") && text.contains("status 503")).then_some(())
    });
    // An instance that was slow to accept gets fewer connections for a while.
    wait_until("both instances respond", || (responding_instances(port, 60) == ["0", "1"]).then_some(()));
}

#[test]
fn hanging_app_is_restarted_after_start_period() {
    let (rsm, _) = server(
        "kill_timeout = 100\n\
         [apps.health]\nhttp = \"http://127.0.0.1:$AT/health\"\ninterval = \"50ms\"\ntimeout = \"300ms\"\nretries = 2\nstart_period = \"60s\"",
    );
    rsm.ok(&["start", "ecosystem.toml"]);
    let before = rsm.pids("web");
    wait_until("the first probe", || rsm.dir().join("asked-0").exists().then_some(()));
    rsm.write("hangs-0", "");
    rsm.wait_until("another process", |rsm| rsm.pids("web").first().copied().filter(|pid| *pid != before[0]));
    fs::remove_file(rsm.dir().join("hangs-0")).unwrap();
    rsm.wait_until("the reason is shown", |rsm| {
        rsm.ok(&["describe", "web"]).stdout.contains("no response within 0.3 s").then_some(())
    });
    // All probes of this test fail within the start period.
    rsm.write("ecosystem.toml", &file("health = { exec = \"echo x >> tried; false\", interval = 20, start_period = \"1h\", retries = 1 }"));
    rsm.ok(&["delete", "web"]);
    rsm.ok(&["start", "ecosystem.toml"]);
    let pid = rsm.pids("web");
    wait_until("some probes", || (read(rsm.dir().join("tried")).len() > 10).then_some(()));
    assert_eq!((rsm.pids("web"), rsm.statuses("web")), (pid, vec!["online".to_owned()]));
}

#[test]
fn exec_and_tcp_checks_work() {
    let port = free_port();
    let rsm = Rsm::new()
        .file("app.js", SERVER)
        .var("AT", &port.to_string())
        .file("ecosystem.toml", &format!(
            "[[apps]]\nname = \"command\"\nscript = \"./app.js\"\nlisten_timeout = \"60s\"\nenv = {{ WORD = \"w\" }}\n\
             ready = {{ exec = \"test $WORD = w && test -e ready\", interval = 50 }}\n\
             [[apps]]\nname = \"tcp\"\nscript = \"sleep 1000\"\nlisten_timeout = 300\nready = {{ tcp = {}, interval = 50 }}\n", free_port()));
    let mut start = rsm.command(&["start", "ecosystem.toml", "--only", "command"]).spawn().unwrap();
    wait_until("the app is launching", || (rsm.statuses("command") == ["launching"]).then_some(()));
    rsm.write("ready", "");
    assert!(start.wait().unwrap().success());
    rsm.run(&["start", "ecosystem.toml", "--only", "tcp"]).code(1).says("refused");
}

#[test]
fn missed_watchdog_restarts_app() {
    let app = "#!/usr/bin/env python3\nimport os, socket, time\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])\n\
        assert os.environ['WATCHDOG_USEC'] == '1000000'\n\
        while not os.path.exists('stuck-%d' % os.getpid()):\n    s.send(b'WATCHDOG=1')\n    time.sleep(0.1)\n\
        time.sleep(1000)\n";
    let rsm = Rsm::new()
        .file("app.py", app)
        .file("ecosystem.toml", "[[apps]]\nname = \"web\"\nscript = \"./app.py\"\nwatchdog = \"1s\"\n");
    rsm.ok(&["start", "ecosystem.toml"]);
    let pid = rsm.pids("web")[0];
    rsm.write(&format!("stuck-{pid}"), "");
    rsm.wait_until("another process", |rsm| rsm.pids("web").first().copied().filter(|other| *other != pid));
    rsm.wait_until("the reason is shown", |rsm| {
        rsm.ok(&["describe", "web"]).stdout.contains("no WATCHDOG=1 within 1 s").then_some(())
    });
}

#[test]
fn failed_check_rolls_back_reload() {
    let (rsm, port) = server(
        "exec_mode = \"cluster\"\ninstances = 2\nlisten_timeout = \"1s\"\n\
         ready = { http = \"http://127.0.0.1:$AT/health\", interval = \"50ms\" }",
    );
    rsm.ok(&["start", "ecosystem.toml"]);
    let before = rsm.pids("web");
    rsm.write("sick-0", "");
    rsm.run(&["reload", "web"]).code(1).says("status 503").says("listen_timeout");
    assert_eq!(rsm.pids("web"), before);
    assert_eq!(responding_instances(port, 60), ["0", "1"]);
    fs::remove_file(rsm.dir().join("sick-0")).unwrap();
    rsm.ok(&["reload", "web"]);
    assert!(rsm.pids("web").iter().all(|pid| !before.contains(pid)));
}
