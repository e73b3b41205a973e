//! Who gets the stop signal: requests and jobs in progress are finished by real wrappers and servers, and no process
//! is left.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::harness::{Rsm, free_port, read, wait_until};
use crate::programs::{celery, npm_program, python, tsx};

/// Responses begin at once and end after 1.5 s. A second signal ends the server at once.
const JS: &str = "const server = require('http').createServer((_, response) => {\n\
    response.write('begin')\n\
    setTimeout(() => response.end(' end'), 1500)\n\
  }).listen(Number(process.env.PORT), '127.0.0.1')\n\
  let told = 0\n\
  const stop = () => told++ ? process.exit(1) : server.close(() => process.exit(0))\n\
  process.on('SIGINT', stop)\n\
  process.on('SIGTERM', stop)\n";

const PY: &str = "import asyncio, time\n\
async def app(scope, receive, send):\n\
\x20   if scope['type'] != 'http': return\n\
\x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
\x20   await send({'type': 'http.response.body', 'body': b'begin', 'more_body': True})\n\
\x20   await asyncio.sleep(1.5)\n\
\x20   await send({'type': 'http.response.body', 'body': b' end'})\n\
def wsgi(environ, start):\n\
\x20   start('200 OK', [])\n\
\x20   def body():\n\
\x20       yield b'begin'\n\
\x20       time.sleep(1.5)\n\
\x20       yield b' end'\n\
\x20   return body()\n";

const PACKAGE: &str =
    r#"{ "name": "web", "version": "1.0.0", "license": "MIT", "scripts": { "start": "node server.js" } }"#;

/// The processes that have this working directory, without zombies.
fn processes_in(dir: &Path) -> Vec<i32> {
    let is_in = |pid: &i32| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)
            && !read(format!("/proc/{pid}/stat")).contains(") Z ")
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_in).collect()
}

/// An app on a free port with a file of each kind of server.
fn app(script: &str, more: &str) -> (Rsm, u16) {
    let port = free_port();
    let script = script.replace("PORT", &port.to_string());
    let toml = format!(
        "[[apps]]\nname = 'web'\nscript = '''{script}'''\nkill_timeout = '60s'\n{more}\n\
         env = {{ PORT = {port}, PYTHONPATH = '{}' }}\n",
        if script.contains("python3") { python() } else { String::new() }
    );
    let rsm = Rsm::new().file("server.js", JS).file("app.py", PY).file("package.json", PACKAGE);
    let rsm = SCRIPTS.into_iter().fold(rsm, |rsm, (name, script)| rsm.file(name, script));
    let ts = JS
        .replace("const server = require('http')", "import * as http from 'node:http'\nconst server = http");
    (rsm.file("server.ts", &ts).file("ecosystem.toml", &toml), port)
}

/// Connections whose responses have begun.
fn requests(port: u16, count: usize) -> Vec<TcpStream> {
    let begin = move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut response = Vec::new();
        while !response.windows(5).any(|part| part == b"begin") {
            let mut part = [0; 512];
            let length = stream.read(&mut part).ok().filter(|length| *length > 0)?;
            response.extend_from_slice(&part[..length]);
        }
        Some(stream)
    };
    // All at once: each takes longer than a second.
    let starters: Vec<_> =
        (0..count).map(|_| std::thread::spawn(move || wait_until("a response", begin))).collect();
    starters.into_iter().map(|starter| starter.join().unwrap()).collect()
}

fn is_finished(mut stream: TcpStream) -> bool {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).is_ok() && rest.contains("end")
}

/// Requests in flight are answered over these operations, and no process of the run is left.
fn check(script: &str, more: &str, operations: &[&str]) {
    let (rsm, port) = app(script, more);
    rsm.ok(&["start", "ecosystem.toml"]);
    for operation in operations {
        let first = requests(port, 1); // the server is up
        let streams = requests(port, 3);
        let before = processes_in(&rsm.dir());
        assert!(!before.is_empty());
        rsm.ok(&[operation, "web"]);
        let finished = first.into_iter().chain(streams).map(is_finished).filter(|finished| *finished).count();
        assert_eq!(finished, 4, "{script}: {operation}: {}", rsm.ok(&["describe", "web"]).stdout);
        let left: Vec<i32> =
            processes_in(&rsm.dir()).into_iter().filter(|pid| before.contains(pid)).collect();
        assert!(left.is_empty(), "{script}: {operation}: {left:?} of {before:?} are left");
    }
}

fn check_signals(script: &str) {
    for signal in ["SIGINT", "SIGTERM"] {
        check(script, &format!("kill_signal = '{signal}'"), &["restart", "stop"]);
    }
    check(
        script,
        "exec_mode = 'cluster'\ninstances = 1\nmin_uptime = 0\nlisten_timeout = '60s'",
        &["reload"],
    );
}

#[test]
fn server_below_npm_gets_the_stop_signal_once() {
    check_signals("npm start");
}

#[test]
fn server_below_yarn_gets_the_stop_signal_once() {
    check_signals(&format!("{} -s start", npm_program("yarn@1")));
}

#[test]
fn server_below_tsx_gets_the_stop_signal_once() {
    check_signals(&format!("{} server.ts", tsx()));
}

#[test]
fn server_below_concurrently_gets_the_stop_signal_once() {
    check_signals(&format!("{} \"node server.js\"", npm_program("concurrently@9")));
}

#[test]
fn server_below_timeout_gets_the_stop_signal_once() {
    check_signals("exec timeout 1000 node server.js");
}

#[test]
fn server_in_shell_line_gets_the_stop_signal_once() {
    check_signals("node server.js; echo next");
    check_signals("node server.js | cat");
    check_signals("node server.js & wait");
}

/// Runs the server below a shell script: `exec` of it, so that the script is the first process.
const SCRIPTS: [(&str, &str); 4] = [
    ("ends-first.sh", "#!/bin/sh\ntrap 'exit 0' INT TERM\nnode server.js & wait\n"),
    (
        "passes-on.sh",
        "#!/bin/sh\ntrap 'kill -TERM $pid; wait $pid; exit 0' INT TERM\nnode server.js & pid=$!\nwait $pid\n",
    ),
    ("waits.sh", "#!/bin/sh\ntrap 'echo bye' INT TERM\nnode server.js\necho done\n"),
    ("cleans-up.sh", "#!/bin/bash\ntrap 'echo bye' EXIT\nnode server.js\n"),
];

#[test]
fn server_below_shell_script_with_trap_gets_the_stop_signal_once() {
    for (name, _) in SCRIPTS {
        check_signals(&format!("exec ./{name}"));
    }
}

#[test]
fn double_forked_server_gets_the_stop_signal_once() {
    check_signals("(setsid sh -c \"exec node server.js\" &); exec sleep 1000");
}

#[test]
fn gunicorn_and_uvicorn_finish_requests_by_default() {
    for server in [
        "exec python3 -m gunicorn -b 127.0.0.1:PORT -w 4 app:wsgi",
        "exec python3 -m uvicorn app:app --port PORT --lifespan off --workers 2",
        "exec python3 -m uvicorn app:app --port PORT --lifespan off",
    ] {
        check(server, "", &["restart", "stop"]);
    }
}

#[test]
fn nginx_finishes_requests_by_default() {
    let backend = app("node server.js", "");
    backend.0.ok(&["start", "ecosystem.toml"]);
    let conf = format!(
        "worker_processes 1;\nerror_log stderr;\ndaemon off;\npid nginx.pid;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;\n  \
         proxy_buffering off;\n  server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass http://127.0.0.1:{}; }} }}\n}}\n",
        backend.1
    );
    let (rsm, port) = app("exec nginx -p . -c nginx.conf", "");
    rsm.write("nginx.conf", &conf.replace("PORT", &port.to_string()));
    rsm.ok(&["start", "ecosystem.toml"]);
    for operation in ["restart", "stop"] {
        let streams = requests(port, 3);
        rsm.ok(&["describe", "web"]).shows("SIGQUIT (graceful stop of nginx)");
        rsm.ok(&[operation, "web"]);
        assert!(streams.into_iter().all(is_finished), "{operation}");
    }
    assert!(processes_in(&rsm.dir()).is_empty());
}

#[test]
fn celery_finishes_running_tasks_by_default() {
    let tasks = "import os, time\n\
        from celery import Celery\n\
        app = Celery('tasks', broker='filesystem://', broker_transport_options={\n\
        \x20   'data_folder_in': 'queue', 'data_folder_out': 'queue', 'control_folder': 'queue'})\n\
        @app.task\n\
        def work(name):\n\
        \x20   open(name + '.begin', 'w').close()\n\
        \x20   time.sleep(2)\n\
        \x20   open(name + '.end', 'w').close()\n";
    let toml = format!(
        "[[apps]]\nname = 'worker'\nscript = 'exec python3 -m celery -A tasks worker -c 2 -l info'\n\
         kill_timeout = '60s'\nenv = {{ PYTHONPATH = '{}', C_FORCE_ROOT = 1 }}\n",
        celery()
    );
    let rsm = Rsm::new().file("tasks.py", tasks).file("ecosystem.toml", &toml);
    std::fs::create_dir(rsm.dir().join("queue")).unwrap();
    rsm.ok(&["start", "ecosystem.toml"]);
    let mut python = rsm.command_of("python3", &["-c", "import tasks; [tasks.work.delay(n) for n in 'ab']"]);
    assert!(python.env("PYTHONPATH", celery()).status().unwrap().success());
    let exists = |name: &str| rsm.dir().join(name).exists();
    wait_until("both tasks run", || (exists("a.begin") && exists("b.begin")).then_some(()));
    rsm.ok(&["stop", "worker"]);
    assert!(exists("a.end") && exists("b.end"), "{}", rsm.ok(&["logs", "worker", "--nostream"]).stdout);
    assert!(processes_in(&rsm.dir()).is_empty());
}

#[test]
fn all_processes_get_the_signal_at_once_with_kill_mode_all() {
    let script = "#!/bin/sh\ntrap 'echo leader >> told; exit 0' USR1\n\
        sh -c 'trap \"echo child >> told\" USR1; echo > ready; sleep 1 & wait; sleep 1000 & wait' &\nwait\n";
    let rsm = Rsm::new().file("tree.sh", script).file(
        "ecosystem.toml",
        "[[apps]]\nname = 'tree'\nscript = './tree.sh'\nkill_signal = 'USR1'\nkill_mode = 'all'\nkill_timeout = '2s'\n",
    );
    rsm.ok(&["start", "ecosystem.toml"]);
    wait_until("the child", || rsm.dir().join("ready").exists().then_some(()));
    rsm.ok(&["stop", "tree"]);
    let told = read(rsm.dir().join("told"));
    assert_eq!((told.matches("leader").count(), told.matches("child").count()), (1, 1), "{told}");
}

#[test]
fn detached_child_is_kept_without_treekill() {
    let rsm = Rsm::new().file(
        "app.sh",
        "#!/bin/sh\nsleep 1000 & echo $! > attached\nsetsid sleep 1000 & echo $! > detached\nexec sleep 1000\n",
    );
    rsm.ok(&["start", "./app.sh", "--no-treekill"]);
    let pid = |name: &str| -> i32 { wait_until(name, || read(rsm.dir().join(name)).trim().parse().ok()) };
    let (attached, detached) = (pid("attached"), pid("detached"));
    wait_until("its own session", || {
        read(format!("/proc/{detached}/stat")).contains(&format!(" {detached} {detached} ")).then_some(())
    });
    rsm.ok(&["restart", "app"]);
    assert!(!crate::harness::alive(attached) && crate::harness::alive(detached));
    let second: i32 = wait_until("a second", || {
        read(rsm.dir().join("detached")).trim().parse().ok().filter(|pid| *pid != detached)
    });
    wait_until("its own session", || {
        read(format!("/proc/{second}/stat")).contains(&format!(" {second} {second} ")).then_some(())
    });
    rsm.ok(&["stop", "app"]);
    for pid in [detached, second] {
        assert!(crate::harness::alive(pid));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}
