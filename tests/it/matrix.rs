//! Real servers, unmodified, as a user would run them: 4 and 2 instances on one port, killed, reloaded, and the
//! daemon killed, under load.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::harness::load_client::{Client, Pace, Tally};
use crate::harness::{Rsm, alive, free_port, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A server, and how it is run. `PORT`, `PYTHON` and `GO` in its lines stand for what a test has of these.
struct Server {
    files: &'static [(&'static str, &'static str)],
    /// Lines of its entry in the ecosystem file.
    app: &'static str,
    /// It says its slot; else the pid of whoever answers.
    says_slot: bool,
    /// It answers what it has begun before it ends.
    graceful: bool,
}

const JS: &str = "const server = require('http').createServer((_, answer) => answer.end('slot ' + process.env.NODE_APP_INSTANCE))\n\
    server.listen(Number(process.argv[2]), '127.0.0.1')\n\
    process.on('SIGINT', () => server.close(() => process.exit(0)))\n";

const NODE: Server = Server {
    files: &[("server.js", JS)],
    app: "script = 'server.js'\nargs = 'PORT'",
    says_slot: true,
    graceful: true,
};

const NPM: Server = Server {
    files: &[("server.js", JS), ("package.json", r#"{ "scripts": { "start": "node server.js" } }"#)],
    app: "script = 'npm start -- PORT'",
    says_slot: true,
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
    says_slot: true,
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
    says_slot: true,
    graceful: true,
};

const GUNICORN: Server = Server {
    files: &[(
        "app.py",
        "import os\ndef app(environ, start):\n    start('200 OK', [])\n    return [b'slot ' + os.environ['NODE_APP_INSTANCE'].encode()]\n",
    )],
    app: "script = 'exec python3 -m gunicorn -b 127.0.0.1:PORT -w 1 app:app'\nenv = { PYTHONPATH = 'PYTHON' }\n\
          kill_signal = 'SIGTERM'\ntreekill = false",
    says_slot: true,
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
    says_slot: true,
    graceful: false, // by its own nature
};

const GO: Server = Server {
    files: &[],
    app: "script = 'GO'\nargs = '127.0.0.1:PORT'\nkill_signal = 'SIGTERM'",
    says_slot: true,
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
    says_slot: true,
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
    says_slot: false,
    graceful: true,
};

/// In place of further lines of an entry: all of rsm is run by nobody, not only the app.
const BY_NOBODY: &str = "by nobody";

/// Something that is made once and kept for later runs.
fn kept(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !kept.exists() {
        let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        make(new.path());
        // Another process may have been faster; either is as good.
        let _ = fs::rename(new.path(), &kept);
    }
    kept
}

fn run(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program).args(args).current_dir(dir).env("CGO_ENABLED", "0").output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn python() -> String {
    let args = ["-m", "pip", "install", "-q", "--target", ".", "uvicorn==0.35.0", "gunicorn==23.0.0"];
    kept("python", |dir| run("python3", &args, dir)).display().to_string()
}

fn tsx() -> String {
    let args = ["install", "--no-audit", "--no-fund", "--no-save", "tsx@4"];
    kept("tsx-matrix", |dir| run("npm", &args, dir)).join("node_modules/.bin/tsx").display().to_string()
}

fn go() -> PathBuf {
    kept("go-matrix", |dir| {
        fs::write(dir.join("server.go"), GO_TEXT).unwrap();
        run("go", &["build", "-o", "server", "server.go"], dir);
    })
    .join("server")
}

/// The server with 4 instances, and where it listens.
fn project(server: &Server, more: &str) -> (Rsm, SocketAddr) {
    let port = free_port();
    let mut rsm = if more == BY_NOBODY { Rsm::new().by_user(65534) } else { Rsm::new() };
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
    let more = if more == BY_NOBODY { "" } else { more };
    let rsm = rsm.file("ecosystem.toml", &format!("{entry}{app}\n{more}\n"));
    (rsm, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Each of so many instances answers as often as any other, give or take 10 %; 20 where it is by chance, as only
/// root has turns.
fn assert_even(tally: &Tally, instances: u32, by_chance: bool) {
    assert!(tally.refused.is_empty() && tally.lost.is_empty(), "{tally:?}");
    assert_eq!(tally.answered.len(), instances as usize, "{tally:?}");
    let (even, times) = (tally.total() / instances, if by_chance { 5 } else { 10 });
    assert!(tally.answered.values().all(|count| count.abs_diff(even) * times <= even), "{tally:?}");
}

/// Kills what answers for an instance, not only a shell that waits for it.
fn kill_instance(rsm: &Rsm, at: usize) {
    let before = rsm.pids("web");
    kill(Pid::from_raw(before[at]), Signal::SIGKILL).unwrap();
    wait_until("it is dead", || (!alive(before[at])).then_some(()));
    rsm.wait_until("another is online", |rsm| {
        let now = rsm.pids("web");
        (now.len() == before.len() && !now.contains(&before[at])).then_some(())
    });
    rsm.wait_status("web", "online");
}

fn serves(server: &Server, more: &str) {
    static ONE: Mutex<()> = Mutex::new(());
    let (rsm, to) = project(server, more);
    // One at a time: each keeps the machine busy.
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    rsm.ok(&["start", "ecosystem.toml"]);
    assert_even(&Client::new(to).requests(2000), 4, more == BY_NOBODY);
    rsm.ok(&["scale", "web", "2"]);
    assert_even(&Client::new(to).requests(2000), 2, more == BY_NOBODY);

    let load = Client::new(to).load(4, Pace::PerSecond(1000));
    for at in 0..2 {
        kill_instance(&rsm, at);
    }
    let killed = load.finish();
    assert!(killed.refused.is_empty(), "{killed:?}");
    // What a killed process had accepted dies with it: no more than one for each client and kill.
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
    assert!(tally.answered.len() >= 2 && (!server.says_slot || tally.answered.len() == 2), "{tally:?}");
    rsm.ok(&["stop", "web"]);
    assert!(Client::new(to).requests(1).refused.len() == 1, "nobody comes, so nobody waits");
}

#[test]
fn node_shares_port() {
    serves(&NODE, "");
}

#[test]
fn node_under_npm_shares_port() {
    serves(&NPM, "");
}

#[test]
fn node_under_tsx_shares_port() {
    serves(&TSX, "");
}

#[test]
fn node_shares_port_as_other_user() {
    crate::harness::need_root();
    serves(&NODE, "user = 'nobody'");
}

#[test]
fn uvicorn_shares_port() {
    serves(&UVICORN, "");
}

#[test]
fn gunicorn_shares_port() {
    serves(&GUNICORN, "");
}

#[test]
fn python_http_server_shares_port() {
    serves(&HTTP_SERVER, "");
}

#[test]
fn static_go_binary_shares_port() {
    serves(&GO, "");
}

#[test]
fn go_shares_port_as_other_user() {
    crate::harness::need_root();
    serves(&GO, "user = 'nobody'");
}

#[test]
fn puma_shares_port() {
    serves(&PUMA, "");
}

#[test]
fn nginx_shares_port() {
    serves(&NGINX, "");
}

#[test]
fn node_shares_port_under_unprivileged_rsm() {
    serves(&NODE, BY_NOBODY);
}

#[test]
fn python_http_server_shares_port_under_unprivileged_rsm() {
    serves(&HTTP_SERVER, BY_NOBODY);
}

#[test]
fn go_shares_port_under_unprivileged_rsm() {
    serves(&GO, BY_NOBODY);
}

#[test]
fn nginx_shares_port_under_unprivileged_rsm() {
    serves(&NGINX, BY_NOBODY);
}
