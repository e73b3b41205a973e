//! Port sharing of unmodified programs, and readiness.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::load_client::{Client, Pace};
use crate::harness::{DEADLINE, Rsm, alive, free_port, get, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NODE: &str = "require('http').createServer((_, answer) => answer.end(`pid ${process.pid} `)).listen(process.env.AT, '127.0.0.1')\n\
                    process.on('SIGINT', () => process.exit(0))\n";

const PYTHON: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"pid %d " % os.getpid())
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["AT"])), Handler).serve_forever()
"#;

/// Sends requests; the number of responses by process.
fn responses(port: u16, count: u32) -> BTreeMap<i32, u32> {
    let tally = Client::local(port).timeout(DEADLINE).word_after("pid").requests(count);
    tally.assert_clean();
    tally.answered.into_iter().map(|(pid, count)| (pid.parse().unwrap(), count)).collect()
}

#[test]
fn unmodified_instances_share_port() {
    for (file, text) in [("app.js", NODE), ("app.py", PYTHON)] {
        let port = free_port();
        let rsm = Rsm::new().file(file, text).var("AT", &port.to_string()).file(
            "ecosystem.toml",
            &format!(
                "[[apps]]\nname = \"web\"\nscript = \"./{file}\"\nexec_mode = \"cluster\"\ninstances = 2\n"
            ),
        );
        rsm.ok(&["start", "ecosystem.toml"]);
        let counts = responses(port, 100);
        let pids = rsm.pids("web");
        assert_eq!(counts.keys().copied().collect::<Vec<_>>().len(), 2, "{counts:?}");
        assert!(pids.iter().all(|pid| counts[pid] >= 20), "{counts:?}");
        // Connections to a killed instance wait for the next run.
        kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
        wait_until("the instance is dead", || (!alive(pids[0])).then_some(())); // connections that it had accepted are lost
        assert!(!responses(port, 100).contains_key(&pids[0]));
        // Apps serve without daemon and keeper.
        let (daemon, keeper) = rsm.managers();
        kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
        kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
        responses(port, 20);
        rsm.ok(&["restart", "web"]);
        assert_eq!(responses(port, 100).len(), 2);
        rsm.ok(&["scale", "web", "3"]);
        assert_eq!(responses(port, 100).len(), 3);
        rsm.ok(&["describe", "web"]).shows(&format!("127.0.0.1:{port}"));
        rsm.ok(&["stop", "web"]);
        assert!(get(port, "/").is_none(), "refused, because no run follows");
    }
}

#[test]
fn stalled_instance_gets_fewer_connections() {
    crate::harness::need_root(); // for an eBPF program
    let port = free_port();
    let rsm = Rsm::new().file("app.js", NODE).var("AT", &port.to_string());
    rsm.ok(&["start", "app.js", "--name", "web", "-i", "2"]);
    kill(Pid::from_raw(rsm.pids("web")[0]), Signal::SIGSTOP).unwrap();
    let (mut clients, mut answered) = (Vec::new(), 0);
    wait_until("the stopped instance gets fewer connections", || {
        for _ in 0..10 {
            let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            client.set_nonblocking(true).unwrap();
            clients.push(client);
        }
        answered += clients.extract_if(.., |client| client.read(&mut [0; 1024]).is_ok()).count();
        // With strict round-robin at most half of the requests would be answered.
        (answered * 10 > (answered + clients.len()) * 6).then_some(())
    });
    kill(Pid::from_raw(rsm.pids("web")[0]), Signal::SIGCONT).unwrap();
}

#[test]
fn held_port_queues_connections_during_restart() {
    let port = free_port();
    let rsm = Rsm::new()
        .file("app.py", PYTHON)
        .var("AT", &port.to_string())
        .file("ecosystem.toml", "[[apps]]\nname = \"web\"\nscript = \"./app.py\"\nhold_port = true\n");
    rsm.ok(&["start", "ecosystem.toml"]);
    wait_until("the app listens", || get(port, "/")); // a slow machine takes longer than `listen_timeout`
    let before = rsm.pids("web");
    let mut restart = rsm.command(&["restart", "web"]).spawn().unwrap();
    while restart.try_wait().unwrap().is_none() {
        // Connections that the app has accepted when it exits are lost.
        std::net::TcpStream::connect(("127.0.0.1", port)).expect("refused");
    }
    assert_ne!(rsm.pids("web"), before);
}

#[test]
fn wait_ready_delays_online() {
    let node = "setTimeout(() => process.send('ready'), 200); setInterval(() => {}, 1000)\n";
    let shell = "#!/bin/sh\nread _ < go\npython3 -c 'import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(\"\\0\" + os.environ[\"NOTIFY_SOCKET\"][1:]); s.send(b\"READY=1\\n\")'\nexec sleep 1000\n";
    let rsm = Rsm::new().file("app.js", node).file("app.sh", shell).file(
        "ecosystem.toml",
        "[[apps]]\nname = \"node\"\nscript = \"./app.js\"\nwait_ready = true\nlisten_timeout = \"30s\"\n\
         [[apps]]\nname = \"shell\"\nscript = \"./app.sh\"\nwait_ready = true\nlisten_timeout = \"200\"\n",
    );
    nix::unistd::mkfifo(&rsm.dir().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    rsm.ok(&["start", "ecosystem.toml", "--only", "node"]);
    assert_eq!(rsm.statuses("node"), ["online"]);
    rsm.run(&["start", "ecosystem.toml", "--only", "shell"]).code(1).says("listen_timeout");
    assert_eq!(rsm.statuses("shell"), ["launching"]);
    // The next daemon receives messages that were sent without a daemon.
    let (daemon, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    std::fs::write(rsm.dir().join("go"), "now\n").unwrap();
    kill(Pid::from_raw(keeper), Signal::SIGCONT).unwrap();
    wait_until("the app is online", || (rsm.statuses("shell") == ["online"]).then_some(()));
}

#[test]
fn autoscale_follows_load() {
    // Each request costs a millisecond of CPU. On a busy machine that may be a small share of a core: the limit is low.
    let node = NODE
        .replace(
            "answer.end",
            "{ for (const begin = process.cpuUsage(); process.cpuUsage(begin).user < 1000;); answer.end",
        )
        .replace("`pid ${process.pid} `)", "`slot ${process.pid} `) }");
    let port = free_port();
    let rsm = Rsm::new().file("app.js", &node).var("AT", &port.to_string()).file(
        "ecosystem.toml",
        "[[apps]]\nname = \"web\"\nscript = \"./app.js\"\nexec_mode = \"cluster\"\n\
         autoscale = { min = 1, max = 3, cpu = 5, up_after = \"1s\", down_after = \"1s\" }\n",
    );
    rsm.ok(&["start", "ecosystem.toml"]);
    assert_eq!(rsm.pids("web").len(), 1);
    let load = Client::local(port).load(4, Pace::PerSecond(1000));
    rsm.wait_until("the app is scaled up", |rsm| (rsm.pids("web").len() > 1).then_some(()));
    rsm.wait_until("the app has three instances", |rsm| (rsm.statuses("web").len() == 3).then_some(()));
    let tally = load.finish();
    assert!(tally.refused.is_empty() && tally.lost.is_empty(), "{tally:?}");
    assert!(tally.answered.len() >= 2, "{tally:?}");
    rsm.wait_until("one instance remains", |rsm| (rsm.statuses("web").len() == 1).then_some(()));
    rsm.ok(&["describe", "web"]).shows("1 to 3 instances");
    let log = crate::harness::read(rsm.home().join("rsm.log"));
    assert!(log.contains("1 to 2 instances") && log.contains("2 to 1 instances"), "{log}");
}

#[test]
fn udp_is_shared_if_enabled() {
    let app = "import os, socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        s.bind((\"127.0.0.1\", int(os.environ[\"AT\"])))\n\
        while True:\n    _, who = s.recvfrom(100)\n    s.sendto(str(os.getpid()).encode(), who)\n";
    let port = free_port();
    let rsm = Rsm::new().file("app.py", app).var("AT", &port.to_string()).file(
        "ecosystem.toml",
        "[[apps]]\nname = \"dns\"\nscript = \"./app.py\"\nexec_mode = \"cluster\"\ninstances = 2\nports = { udp = true }\n",
    );
    rsm.ok(&["start", "ecosystem.toml"]);
    let mut answered = BTreeSet::new();
    for _ in 0..64 {
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
        client.send_to(b"who", ("127.0.0.1", port)).unwrap();
        let mut response = [0; 32];
        let length = client.recv(&mut response).unwrap();
        answered.insert(String::from_utf8_lossy(&response[..length]).parse::<i32>().unwrap());
    }
    assert_eq!(answered, BTreeSet::from_iter(rsm.pids("dns")));
}

#[test]
fn start_prints_port_warnings() {
    let port = free_port();
    let app = |name: &str| {
        format!(
            "[[apps]]\nname = \"{name}\"\nscript = \"./app.js\"\nexec_mode = \"cluster\"\ninstances = 2\n"
        )
    };
    let rsm = Rsm::new()
        .file("app.js", NODE)
        .var("AT", &port.to_string())
        .file("ecosystem.toml", &app("one"))
        .file("two.config.toml", &app("two"));
    rsm.ok(&["start", "ecosystem.toml"]);
    let shared = format!("listens on 127.0.0.1:{port}, which app one also uses; connections go to both");
    let ran = rsm.ok(&["start", "two.config.toml"]).says(&format!("warning: two: {shared}"));
    assert_eq!(ran.stderr.matches(&shared).count(), 1, "once for all instances: {}", ran.stderr);
    assert_eq!(responses(port, 200).len(), 4);
    // The next daemon publishes the warnings again.
    kill(Pid::from_raw(rsm.managers().0), Signal::SIGKILL).unwrap();
    rsm.wait_until("a daemon has the warning", |rsm| {
        let described = rsm.ok(&["describe", "two"]).stdout;
        (described.contains(&shared) && described.contains("port sharing")).then_some(())
    });
}

#[test]
fn start_reports_port_in_use() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let rsm = Rsm::new().file("app.js", NODE).var("AT", &port.to_string()).file(
        "ecosystem.toml",
        "[[apps]]\nname = \"web\"\nscript = \"./app.js\"\nexec_mode = \"cluster\"\ninstances = 2\nautorestart = false\n",
    );
    rsm.run(&["start", "ecosystem.toml"])
        .says(&format!("cannot listen on 127.0.0.1:{port}: in use by another program"));
}

#[test]
fn privileged_port_needs_permission() {
    crate::harness::need_root();
    let app = NODE.replace("process.env.AT, '127.0.0.1'", "80, process.env.HOST");
    let host = format!("127.3.{}.{}", std::process::id() % 250, std::process::id() / 250 % 250);
    let entry = "[[apps]]\nname = \"web\"\nscript = \"./app.js\"\nexec_mode = \"cluster\"\ninstances = 2\nuser = \"nobody\"\nautorestart = false\n";
    let rsm = Rsm::new().var("HOST", &host).file("app.js", &app).file("ecosystem.toml", entry);
    rsm.open_to_all();
    rsm.run(&["start", "ecosystem.toml"]).says("cannot listen on").says("ports = { privileged = true }");
    rsm.ok(&["delete", "web"]);
    rsm.write("ecosystem.toml", &format!("{entry}ports = {{ privileged = true }}\n"));
    rsm.ok(&["start", "ecosystem.toml"]);
    assert_eq!(rsm.statuses("web"), ["online"; 2]);
    std::net::TcpStream::connect((host.as_str(), 80)).unwrap();
}

#[test]
fn unix_socket_of_several_instances_is_refused() {
    let app = "const server = require('http').createServer((_, answer) => answer.end()).listen(process.env.SOCK)\n\
               process.on('SIGINT', () => server.close(() => process.exit(0)))\n";
    let rsm = Rsm::new().file("app.js", app);
    let socket = rsm.dir().join("web.sock").display().to_string();
    let rsm = rsm.var("SOCK", &socket);
    let says = format!("cannot share the Unix socket {socket}");
    rsm.run(&["start", "app.js", "--name", "web", "-i", "2", "--listen-timeout", "6000"])
        .says(&says)
        .says("instances = 1");
    rsm.ok(&["delete", "web"]);
    // One instance cannot be reloaded without a gap.
    rsm.ok(&["start", "app.js", "--name", "web", "-i", "1"]);
    rsm.ok(&["describe", "web"]).shows(&format!("unix:{socket}"));
    // The next daemon knows it, too.
    let (daemon, _) = rsm.managers();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    rsm.next_managers(daemon);
    rsm.wait_until("the socket is known", |rsm| {
        rsm.ok(&["describe", "web"]).stdout.contains(&format!("unix:{socket}")).then_some(())
    });
    rsm.ok(&["reload", "web"]).says("it listens on a Unix socket");
    wait_until("it listens again", || std::os::unix::net::UnixStream::connect(&socket).ok());
}

#[test]
fn each_instance_has_its_own_inspector() {
    let app = "const fs = require('fs'); const wait = setInterval(() => { if (!fs.existsSync('go')) return; \
               clearInterval(wait); require('http').createServer((_, answer) => answer.end(`pid ${process.pid} `))\
               .listen(process.env.AT, '127.0.0.1') }, 20)\n";
    let inspector = crate::harness::ports::free_ports(3);
    let port = free_port();
    let rsm = Rsm::new().file("app.js", app).var("AT", &port.to_string()).file(
        "ecosystem.toml",
        &format!(
            "[[apps]]\nname = \"web\"\nscript = \"./app.js\"\nexec_mode = \"cluster\"\ninstances = 3\n\
             node_args = [\"--inspect={inspector}\"]\nlisten_timeout = \"100s\"\n"
        ),
    );
    let mut start = rsm.command(&["start", "ecosystem.toml"]).spawn().unwrap();
    for number in 0..3 {
        wait_until("the inspector answers", || inspector_id(inspector + number));
    }
    // Listening on the port of the inspector is no sign of readiness.
    assert_eq!(rsm.statuses("web"), ["launching"; 3]);
    rsm.write("go", "");
    assert!(start.wait().unwrap().success());
    assert_eq!(rsm.statuses("web"), ["online"; 3]);
    assert_eq!(responses(port, 60).len(), 3);
    rsm.ok(&["reload", "web"]);
    let ids =
        [0, 1, 2].map(|number| wait_until("the inspector answers", || inspector_id(inspector + number)));
    assert_eq!(BTreeSet::from(ids).len(), 3);
}

/// The identifier of the process that Node's inspector at a port belongs to.
fn inspector_id(port: u16) -> Option<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).ok()?;
    socket.write_all(b"GET /json/list HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer); // it does not close the connection
    let text = String::from_utf8_lossy(&answer);
    Some(text.split_once("\"id\": \"")?.1.split_once('"')?.0.to_owned())
}
