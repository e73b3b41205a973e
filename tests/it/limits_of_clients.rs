//! Requests and apps that could use up the daemon: each has a limit, and others are served.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Rsm, environ, install, need_root, read, wait_until};

/// Far above what a request takes on a loaded machine.
const PROMPT: Duration = Duration::from_secs(30);

#[test]
fn costly_selectors_do_not_delay_others() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "app"]);
    let request = |count: usize| {
        let select: Vec<String> = (0..count).map(|n| format!("/a|\\w{{90}}{n}/")).collect();
        let body = serde_json::json!({ "select": select, "signal": "CONT" }).to_string();
        let head = "POST /v1/instances/signal HTTP/1.1\r\nHost: rsm\r\nConnection: close";
        format!("{head}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let begin = Instant::now();
    let answer = rsm.http(request(1500).as_bytes());
    assert!(answer.contains("too many regular expressions"), "{answer}");
    let mut pending = rsm.socket();
    pending.write_all(request(30).as_bytes()).unwrap();
    rsm.ok(&["ping"]);
    assert!(begin.elapsed() < PROMPT, "{:?}", begin.elapsed());
    let mut answer = String::new();
    pending.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    rsm.ok(&["sendSignal", "CONT", "/^a/"]);
    rsm.run(&["restart", "/nothing/"]).code(1).says("matches \"/nothing/\"");
}

#[test]
fn held_streams_do_not_lock_out_commands() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "app"]);
    // One process with more streams than it may have, and others.
    let script = "import socket, sys\n\
                  held = []\n\
                  for _ in range(int(sys.argv[2])):\n\
                  \x20   s = socket.socket(socket.AF_UNIX)\n\
                  \x20   s.connect(sys.argv[1])\n\
                  \x20   s.sendall(b'GET /v1/events HTTP/1.1\\r\\nHost: r\\r\\n\\r\\n')\n\
                  \x20   held.append(s)\n\
                  print('held', flush=True)\n\
                  sys.stdin.read()\n";
    let socket = rsm.home().join("rsm.sock");
    let hold = |count: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", script, socket.to_str().unwrap(), count]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        child
    };
    let mut holders: Vec<_> = ["520", "120", "120", "120", "120"].into_iter().map(hold).collect();
    rsm.ok(&["list"]);
    rsm.ok(&["restart", "app"]);
    rsm.ok(&["kill"]);
    for holder in &mut holders {
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
}

#[test]
fn head_beyond_the_limit_is_rejected() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000"]);
    let head = |size: usize| {
        let value = "x".repeat(size);
        format!("GET /v1/ping HTTP/1.1\r\nHost: r\r\nConnection: close\r\nX-Long: {value}\r\n\r\n")
    };
    assert!(rsm.http(head(60 << 10).as_bytes()).starts_with("HTTP/1.1 200"));
    for size in [65 << 10, 100 << 10, 1 << 20] {
        let answer = rsm.http(head(size).as_bytes());
        assert!(!answer.starts_with("HTTP/1.1 200"), "{size}: {answer}");
    }
    rsm.ok(&["ping"]);
}

#[test]
fn upgrade_to_odd_binaries_fails_promptly() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "app"]);
    let (daemon, _) = rsm.managers();
    let fifo = rsm.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    install(b"#!/bin/sh\nexec cat /dev/zero\n", &rsm.dir().join("endless"));
    let upgrade = |name: &str| {
        let path = rsm.dir().join(name);
        rsm.run(&["upgrade", "--binary", path.to_str().unwrap()]).code(1)
    };
    upgrade("fifo").says("not a regular file");
    upgrade("endless").says("exceeds 16 KiB");
    assert_eq!(rsm.managers().0, daemon);
}

#[test]
fn notify_socket_accepts_only_messages_of_its_user() {
    need_root();
    let rsm = Rsm::new();
    // Says that it is ready when it is told to.
    let script = "import os, socket, time\n\
                  name = os.environ['NOTIFY_SOCKET'].replace('@', '\\0')\n\
                  while not os.path.exists('go'): time.sleep(0.05)\n\
                  socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', name)\n\
                  time.sleep(1000)\n";
    rsm.write("app.py", script);
    rsm.ok(&["start", "sleep 1000", "--name", "first"]);
    let mut start =
        rsm.command(&["start", "app.py", "--wait-ready", "--listen-timeout", "100000"]).spawn().unwrap();
    let pid = rsm.wait_until("the app", |rsm| rsm.pids("app").first().copied());
    let name = wait_until("its environment", || environ(pid).remove("NOTIFY_SOCKET"));
    assert!(name.len() > 30, "{name} can be guessed");
    let send = "import os, socket, sys\n\
                os.setuid(65534)\n\
                s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                s.sendto(b'READY=1', sys.argv[1].replace('@', '\\0'))";
    assert!(Command::new("python3").args(["-c", send, &name]).status().unwrap().success());
    assert_eq!(rsm.statuses("app"), ["launching"]);
    rsm.write("go", "");
    rsm.wait_status("app", "online");
    start.wait().unwrap();
}

#[test]
fn values_of_variables_in_probe_urls_are_shown_nowhere() {
    let rsm = Rsm::new();
    let file = "[[apps]]\nname = \"app\"\nscript = \"sleep 1000\"\nenv = { TOKEN = \"s3cret\" }\n\
                health = { http = \"http://127.0.0.1:9/up?token=$TOKEN\", interval = \"4s\", retries = 1 }\n";
    rsm.write("ecosystem.toml", file);
    rsm.ok(&["start"]);
    let unhealthy = |rsm: &Rsm| read(rsm.home().join("rsm.log")).contains("Unhealthy").then_some(());
    rsm.wait_until("a failed probe", unhealthy);
    assert!(read(rsm.home().join("rsm.log")).contains("token=$TOKEN"));
    for shown in [&["describe", "app"][..], &["report"], &["list", "--json"], &["describe", "app", "--json"]]
    {
        assert!(!rsm.ok(shown).stdout.contains("s3cret"), "{shown:?}");
    }
    assert!(!read(rsm.home().join("rsm.log")).contains("s3cret"));
}

#[test]
fn removed_home_is_created_again() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "app"]);
    let pids = rsm.pids("app");
    let socket = rsm.home().join("rsm.sock");
    for _ in 0..2 {
        std::fs::remove_dir_all(rsm.home()).unwrap();
        wait_until("the socket", || socket.exists().then_some(()));
        assert_eq!(rsm.pids("app"), pids, "the app was started twice or lost");
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // The next daemon serves the new socket, too.
        let (daemon, _) = rsm.managers();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        rsm.next_managers(daemon);
    }
    rsm.ok(&["kill"]);
    assert!(!crate::harness::alive(pids[0]));
}

#[test]
fn shortage_of_descriptors_at_restart_passes() {
    let rsm = Rsm::new();
    let apps: String = (0..60)
        .map(|n| format!("[[apps]]\nname = \"app{n}\"\nscript = \"/bin/sleep\"\ninterpreter = \"none\"\nargs = [\"1000\"]\n"))
        .collect();
    rsm.write("ecosystem.toml", &apps);
    let rsm_command = format!("ulimit -n 700; exec {} start", env!("CARGO_BIN_EXE_rsm"));
    assert!(rsm.command_of("bash", &["-c", &rsm_command]).status().unwrap().success());
    let _ = rsm.run(&["restart", "all"]);
    rsm.wait_until("all apps run", |rsm| {
        let list = rsm.list();
        (list.len() == 60 && list.iter().all(|app| app["status"] == "online")).then_some(())
    });
}
