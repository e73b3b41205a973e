//! Processes that try to leave their run: other sessions, cleared environments, lost parents.

use std::time::{Duration, Instant};

use crate::harness::{Rsm, alive, free_port, read, wait_until};

/// A process in another session, with an empty environment and without its parent. It writes its pid to `escaped`.
const ESCAPE: &str = "import os\n\
    def escape():\n\
    \x20   if os.fork() == 0:\n\
    \x20       os.setsid()\n\
    \x20       if os.fork() == 0:\n\
    \x20           open('escaped.new', 'w').write(str(os.getpid()))\n\
    \x20           os.rename('escaped.new', 'escaped')\n\
    \x20           os.execve('/bin/sleep', ['sleep', '1000'], {})\n\
    \x20       os._exit(0)\n\
    \x20   os.wait()\n";

fn escaped(rsm: &Rsm) -> i32 {
    wait_until("a process that leaves", || read(rsm.dir().join("escaped")).parse().ok())
}

#[test]
fn process_in_other_session_without_environment_and_parent_is_stopped() {
    let rsm = Rsm::new().file("app.py", &format!("{ESCAPE}import time\nescape()\ntime.sleep(1000)\n"));
    rsm.ok(&["start", "app.py"]);
    for operation in ["restart", "stop"] {
        let pid = escaped(&rsm);
        assert!(alive(pid));
        std::fs::remove_file(rsm.dir().join("escaped")).unwrap();
        rsm.ok(&[operation, "app"]);
        assert!(!alive(pid), "it is left after {operation}");
    }
}

/// The parent of the process ends by the stop signal itself.
#[test]
fn process_whose_parent_ends_by_the_stop_signal_is_stopped() {
    let script = format!(
        "{ESCAPE}import time\nif os.fork() == 0:\n    if os.fork() == 0:\n        os.setsid()\n        \
         open('escaped', 'w').write(str(os.getpid()))\n        os.execve('/bin/sleep', ['sleep', '1000'], {{}})\n    \
         time.sleep(1000)\ntime.sleep(1000)\n"
    );
    let rsm = Rsm::new().file("app.py", &script);
    for mode in ["topmost", "all"] {
        rsm.ok(&["start", "app.py", "--kill-mode", mode]);
        let pid = escaped(&rsm);
        std::fs::remove_file(rsm.dir().join("escaped")).unwrap();
        rsm.ok(&["delete", "app"]);
        assert!(!alive(pid), "it is left with {mode}");
    }
}

#[test]
fn program_in_background_is_stopped_and_reported() {
    let rsm = Rsm::new().file("app.py", &format!("{ESCAPE}escape()\n"));
    rsm.run(&["start", "app.py"]);
    rsm.wait_status("app", "errored");
    rsm.ok(&["describe", "app"])
        .shows("sleep put itself into the background")
        .shows("start it in the foreground");
    assert!(!alive(escaped(&rsm)));
    assert_eq!(rsm.list()[0]["restarts"], 0);
}

/// nginx overwrites its environment and creates its own session.
#[test]
fn nginx_in_background_is_stopped_and_reported() {
    let port = free_port();
    let conf = format!(
        "worker_processes 1;\nerror_log stderr;\npid nginx.pid;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;\n  \
         server {{ listen 127.0.0.1:{port}; }}\n}}\n"
    );
    let rsm = Rsm::new().file("nginx.conf", &conf);
    rsm.run(&["start", "nginx -p . -c nginx.conf", "--name", "web"]);
    rsm.wait_status("web", "errored");
    rsm.ok(&["describe", "web"]).shows("nginx put itself into the background").shows("-g 'daemon off;'");
    std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
}

/// Its main thread has exited, so the kernel does not show where it comes from, but another thread runs.
#[test]
fn exiting_process_of_unknown_origin_blocks_no_other_app() {
    let script = "import ctypes, os, resource, threading, time\n\
        hard = resource.getrlimit(10)[1]\n\
        if os.fork() == 0:\n\
        \x20   os.setsid()\n\
        \x20   resource.setrlimit(10, (hard, hard))\n\
        \x20   if os.fork() == 0:\n\
        \x20       open('pid.new', 'w').write(str(os.getpid()))\n\
        \x20       threading.Thread(target=time.sleep, args=(1000,)).start()\n\
        \x20       os.rename('pid.new', 'pid')\n\
        \x20       ctypes.CDLL(None).pthread_exit(None)\n\
        \x20   os._exit(0)\n\
        time.sleep(1000)\n";
    let rsm = Rsm::new().file("app.py", script).var("RSM_RUN", "");
    rsm.ok(&["start", "app.py"]);
    let pid: i32 = wait_until("the process", || read(rsm.dir().join("pid")).parse().ok());
    wait_until("its main thread has exited", || {
        read(format!("/proc/{pid}/stat")).contains(") Z ").then_some(())
    });
    rsm.ok(&["start", "sleep 1000", "--name", "other"]);
    let begin = Instant::now();
    rsm.ok(&["restart", "other"]);
    rsm.ok(&["stop", "other"]);
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(read(format!("/proc/{pid}/task/{pid}/stat")).contains("Z"), "another app's process was killed");
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}
