//! Real servers, unmodified: 4 and 2 instances on one port, killed and reloaded under load, also with the daemon
//! killed.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::harness::load_client::{Client, Pace, Tally};
use crate::harness::{Rsm, alive, free_port, wait_until};
use crate::programs::{cached, python, run, tsx};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A server and its app entry. Tests replace `PORT`, `PYTHON`, `TSX` and `GO` in the entry.
struct Server {
    files: &'static [(&'static str, &'static str)],
    /// Lines of the app entry in the ecosystem file.
    app: &'static str,
    /// Whether it responds with its slot; else with the pid of the process.
    responds_slot: bool,
    /// Whether it finishes accepted requests before it exits.
    graceful: bool,
}

const JS: &str = "const server = require('http').createServer((_, answer) => answer.end('slot ' + process.env.NODE_APP_INSTANCE))\n\
    server.listen(Number(process.argv[2]), '127.0.0.1')\n\
    process.on('SIGINT', () => server.close(() => process.exit(0)))\n";

const NODE: Server = Server {
    files: &[("server.js", JS)],
    app: "script = 'server.js'\nargs = 'PORT'",
    responds_slot: true,
    graceful: true,
};

const NPM: Server = Server {
    files: &[("server.js", JS), ("package.json", r#"{ "scripts": { "start": "node server.js" } }"#)],
    app: "script = 'npm start -- PORT'",
    responds_slot: true,
    graceful: true,
};

const TSX: Server = Server {
    files: &[(
        "server.ts",
        "import { createServer, Server } from 'node:http'\n\
         const server: Server = createServer((_, answer) => { answer.end('slot ' + process.env.NODE_APP_INSTANCE) })\n\
         server.listen(Number(process.argv[2]), '127.0.0.1')\n\
         process.on('SIGINT', () => server.close(() => process.exit(0)))\n",
    )],
    app: "script = 'server.ts'\nargs = 'PORT'\ninterpreter = 'TSX'",
    responds_slot: true,
    graceful: true,
};

const UVICORN: Server = Server {
    files: &[(
        "app.py",
        "import os\nasync def app(scope, receive, send):\n    if scope['type'] != 'http': return\n    \
         await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n    \
         await send({'type': 'http.response.body', 'body': b'slot ' + os.environ['NODE_APP_INSTANCE'].encode()})\n",
    )],
    app: "script = 'python3 -m uvicorn app:app --port PORT --no-access-log --lifespan off'\nenv = { PYTHONPATH = 'PYTHON' }",
    responds_slot: true,
    graceful: true,
};

const GUNICORN: Server = Server {
    files: &[(
        "app.py",
        "import os\ndef app(environ, start):\n    start('200 OK', [])\n    return [b'slot ' + os.environ['NODE_APP_INSTANCE'].encode()]\n",
    )],
    app: "script = 'exec python3 -m gunicorn -b 127.0.0.1:PORT -w 1 app:app'\nenv = { PYTHONPATH = 'PYTHON' }\n\
          kill_signal = 'SIGTERM'\ntreekill = false",
    responds_slot: true,
    graceful: true,
};

const HTTP_SERVER: Server = Server {
    files: &[(
        "app.py",
        "import os, http.server, sys\nclass Handler(http.server.SimpleHTTPRequestHandler):\n    def do_GET(self):\n        \
         self.send_response(200)\n        self.end_headers()\n        self.wfile.write(b'slot ' + os.environ['NODE_APP_INSTANCE'].encode())\n    \
         def log_message(self, *args): pass\nhttp.server.test(Handler, http.server.ThreadingHTTPServer, port=int(sys.argv[1]), bind='127.0.0.1')\n",
    )],
    app: "script = 'app.py'\nargs = 'PORT'",
    responds_slot: true,
    graceful: false, // it has no graceful stop
};

const GO: Server = Server {
    files: &[],
    app: "script = 'GO'\nargs = '127.0.0.1:PORT'\nkill_signal = 'SIGTERM'",
    responds_slot: true,
    graceful: true,
};

const GO_TEXT: &str = r#"package main
import ("context"; "net/http"; "os"; "os/signal"; "syscall")
func main() {
    server := &http.Server{Addr: os.Args[1], Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
        w.Write([]byte("slot " + os.Getenv("NODE_APP_INSTANCE")))
    })}
    done := make(chan bool)
    go func() {
        signals := make(chan os.Signal, 1)
        signal.Notify(signals, syscall.SIGTERM)
        <-signals
        server.Shutdown(context.Background())
        close(done)
    }()
    if err := server.ListenAndServe(); err != http.ErrServerClosed { panic(err) }
    <-done
}
"#;

const PUMA: Server = Server {
    files: &[("config.ru", "run ->(env) { [200, {}, ['slot ' + ENV['NODE_APP_INSTANCE']]] }\n")],
    app: "script = 'exec puma -b tcp://127.0.0.1:PORT -e production config.ru'\nkill_signal = 'SIGTERM'",
    responds_slot: true,
    graceful: true,
};

const NGINX: Server = Server {
    files: &[(
        "nginx.conf",
        "worker_processes 1;\nerror_log stderr;\nevents {}\nhttp {\n  access_log off;\n  \
         client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;\n  \
         server { listen 127.0.0.1:PORT; location / { return 200 'slot $pid'; } }\n}\n",
    )],
    app: "script = '''exec nginx -p . -c nginx.conf -g \"daemon off; pid nginx-$NODE_APP_INSTANCE.pid;\"'''\n\
          kill_signal = 'SIGQUIT'\ntreekill = false",
    responds_slot: false,
    graceful: true,
};

/// Instead of further lines of an entry: rsm itself is run by the user `nobody`.
const RSM_BY_NOBODY: &str = "by nobody";

fn go() -> PathBuf {
    cached("go-matrix", |dir| {
        fs::write(dir.join("server.go"), GO_TEXT).unwrap();
        run("go", &["build", "-o", "server", "server.go"], dir);
    })
    .join("server")
}

/// A project with 4 instances of the server, and the address of the server.
fn project(server: &Server, more: &str) -> (Rsm, SocketAddr) {
    let port = free_port();
    let mut rsm = if more == RSM_BY_NOBODY { Rsm::new().by_user(65534) } else { Rsm::new() };
    rsm.open_to_all();
    let mut app = server.app.replace("PORT", &port.to_string());
    for (word, path) in [("PYTHON'", python as fn() -> String), ("TSX'", tsx)] {
        if app.contains(word) {
            app = app.replace(word, &format!("{}'", path()));
        }
    }
    if app.contains("'GO'") {
        crate::harness::install(&fs::read(go()).unwrap(), &rsm.dir().join("server"));
        app = app.replace("'GO'", "'./server'");
    }
    for (name, text) in server.files {
        rsm = rsm.file(name, &text.replace("PORT", &port.to_string()));
    }
    let entry = "[[apps]]\nname = 'web'\nexec_mode = 'cluster'\ninstances = 4\nmin_uptime = 0\nlisten_timeout = '60s'\n";
    let more = if more == RSM_BY_NOBODY { "" } else { more };
    let rsm = rsm.file("ecosystem.toml", &format!("{entry}{app}\n{more}\n"));
    (rsm, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Checks that all instances respond equally often, within 10 %; within 20 % with random balance: only root gets
/// round-robin.
fn assert_even(tally: &Tally, instances: u32, is_random: bool) {
    assert!(tally.refused.is_empty() && tally.lost.is_empty(), "{tally:?}");
    assert_eq!(tally.answered.len(), instances as usize, "{tally:?}");
    let (even, times) = (tally.total() / instances, if is_random { 5 } else { 10 });
    assert!(tally.answered.values().all(|count| count.abs_diff(even) * times <= even), "{tally:?}");
}

/// Kills the process that responds for an instance, not only a shell that waits for it.
fn kill_instance(rsm: &Rsm, index: usize) {
    let before = rsm.pids("web");
    kill(Pid::from_raw(before[index]), Signal::SIGKILL).unwrap();
    wait_until("the instance is dead", || (!alive(before[index])).then_some(()));
    rsm.wait_until("another is online", |rsm| {
        let now = rsm.pids("web");
        (now.len() == before.len() && !now.contains(&before[index])).then_some(())
    });
    rsm.wait_status("web", "online");
}

fn check_server(server: &Server, more: &str) {
    static ONE: Mutex<()> = Mutex::new(());
    let (rsm, to) = project(server, more);
    // One at a time: each test keeps the machine busy.
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    rsm.ok(&["start", "ecosystem.toml"]);
    assert_even(&Client::new(to).requests(2000), 4, more == RSM_BY_NOBODY);
    rsm.ok(&["scale", "web", "2"]);
    assert_even(&Client::new(to).requests(2000), 2, more == RSM_BY_NOBODY);

    let load = Client::new(to).load(4, Pace::PerSecond(1000));
    for index in 0..2 {
        kill_instance(&rsm, index);
    }
    let killed = load.finish();
    assert!(killed.refused.is_empty(), "{killed:?}");
    // Connections that a killed process had accepted are lost: at most one per client and kill.
    assert!(killed.lost.len() <= 8, "{killed:?}");

    let load = Client::new(to).load(4, Pace::PerSecond(1000));
    let (daemon, _) = rsm.managers();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    rsm.wait_status("web", "online");
    if server.graceful {
        for _ in 0..3 {
            let before = rsm.pids("web");
            rsm.ok(&["reload", "web"]);
            assert!(rsm.pids("web").iter().all(|pid| !before.contains(pid)));
        }
    }
    let tally = load.finish();
    assert!(tally.refused.is_empty() && tally.lost.is_empty(), "{tally:?}");
    assert!(tally.answered.len() >= 2 && (!server.responds_slot || tally.answered.len() == 2), "{tally:?}");
    rsm.ok(&["stop", "web"]);
    assert!(Client::new(to).requests(1).refused.len() == 1, "refused, because no run follows");
}

#[test]
fn node_shares_port() {
    check_server(&NODE, "");
}

#[test]
fn node_under_npm_shares_port() {
    check_server(&NPM, "");
}

#[test]
fn node_under_tsx_shares_port() {
    check_server(&TSX, "");
}

#[test]
fn node_shares_port_as_other_user() {
    crate::harness::need_root();
    check_server(&NODE, "user = 'nobody'");
}

#[test]
fn uvicorn_shares_port() {
    check_server(&UVICORN, "");
}

#[test]
fn gunicorn_shares_port() {
    check_server(&GUNICORN, "");
}

#[test]
fn python_http_server_shares_port() {
    check_server(&HTTP_SERVER, "");
}

#[test]
fn static_go_binary_shares_port() {
    check_server(&GO, "");
}

#[test]
fn go_shares_port_as_other_user() {
    crate::harness::need_root();
    check_server(&GO, "user = 'nobody'");
}

#[test]
fn puma_shares_port() {
    check_server(&PUMA, "");
}

#[test]
fn nginx_shares_port() {
    check_server(&NGINX, "");
}

#[test]
fn node_shares_port_under_unprivileged_rsm() {
    check_server(&NODE, RSM_BY_NOBODY);
}

#[test]
fn python_http_server_shares_port_under_unprivileged_rsm() {
    check_server(&HTTP_SERVER, RSM_BY_NOBODY);
}

#[test]
fn go_shares_port_under_unprivileged_rsm() {
    check_server(&GO, RSM_BY_NOBODY);
}

#[test]
fn nginx_shares_port_under_unprivileged_rsm() {
    check_server(&NGINX, RSM_BY_NOBODY);
}
