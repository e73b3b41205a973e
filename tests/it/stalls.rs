//! Apps and disks that block calls of the kernel: the daemon and other apps continue.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::stall::StalledDisk;
use crate::harness::{Rsm, alive, free_port, read, wait_until};

/// Far above what a command takes on a loaded machine, and far below "for ever".
const PROMPT: Duration = Duration::from_secs(30);

/// The daemon answers, and restarts an app that is killed.
fn works(rsm: &Rsm) {
    let begin = Instant::now();
    rsm.ok(&["ping"]);
    if rsm.pids("other").is_empty() {
        rsm.ok(&["start", "while :; do echo tick; sleep 0.1; done", "--name", "other"]);
    }
    let before = rsm.pids("other")[0];
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    rsm.wait_until("a restart", |rsm| rsm.pids("other").first().copied().filter(|pid| *pid != before));
    assert!(begin.elapsed() < PROMPT, "{:?}", begin.elapsed());
}

/// Waits until `rsm info` lists a call about this subject.
fn is_reported(rsm: &Rsm, subject: &str) {
    wait_until(&format!("a report about {subject}"), || {
        let info = rsm.ok(&["info"]);
        info.stdout.lines().any(|line| line.starts_with("blocked") && line.contains(subject)).then_some(())
    });
}

/// A Python program whose name `page` is memory of the dead disk. `act` uses it in a system call.
fn app(rsm: &Rsm, disk: &StalledDisk, act: &str) {
    let program = format!(
        "import ctypes, mmap, os, sys, time\n\
         file = os.open({:?}, os.O_RDWR)\n\
         page = mmap.mmap(file, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)\n\
         print('before', flush=True)\n\
         {act}\n\
         print('after', flush=True)\n\
         time.sleep(1000)\n",
        disk.page().display()
    );
    rsm.write("app.py", &program);
}

/// Waits until the process waits for the dead disk.
fn wait_blocked(pid: i32) {
    let is_blocked = || (read(format!("/proc/{pid}/wchan")) == "request_wait_answer").then_some(());
    wait_until("the app is blocked", is_blocked);
}

fn log(rsm: &Rsm, name: &str) -> String {
    read(rsm.home().join(format!("logs/{name}")))
}

fn wait_log(rsm: &Rsm, name: &str, text: &str) {
    wait_until(&format!("{text} in {name}"), || log(rsm, name).contains(text).then_some(()));
}

/// New lines of the other app arrive.
fn logs_flow(rsm: &Rsm) {
    let before = log(rsm, "other-out.log").len();
    wait_until("new lines", || (log(rsm, "other-out.log").len() > before + 20).then_some(()));
}

/// Makes `link` in the directory of the app point to another directory.
fn point_link(rsm: &Rsm, to: &Path) {
    let (link, new) = (rsm.dir().join("link"), rsm.dir().join("new-link"));
    std::os::unix::fs::symlink(to, &new).unwrap();
    std::fs::rename(&new, &link).unwrap();
}

#[test]
fn exec_check_in_dead_directory_blocks_nobody() {
    let disk = StalledDisk::mount();
    let rsm = Rsm::new();
    point_link(&rsm, Path::new("/tmp"));
    let file = format!(
        "[[apps]]\nname = \"app\"\nscript = \"sleep 1000\"\ncwd = {:?}\n\
         health = {{ exec = \"true\", interval = \"200ms\", timeout = \"500ms\", retries = 1000 }}\n",
        rsm.dir().join("link")
    );
    rsm.write("ecosystem.toml", &file);
    rsm.ok(&["start"]);
    point_link(&rsm, &disk.dead_directory().join("inner"));
    is_reported(&rsm, "exec check of app app (directory ");
    works(&rsm);
    drop(disk);
}

#[test]
fn dead_directory_in_path_blocks_only_the_start_of_its_app() {
    let disk = StalledDisk::mount();
    let rsm = Rsm::new();
    point_link(&rsm, Path::new("/tmp"));
    let file = format!(
        "[[apps]]\nname = \"app\"\nscript = \"sleep\"\ninterpreter = \"none\"\nargs = [\"1000\"]\n\
         env = {{ PATH = \"{}:/usr/bin:/bin\" }}\n",
        rsm.dir().join("link").display()
    );
    rsm.write("ecosystem.toml", &file);
    rsm.ok(&["start"]);
    point_link(&rsm, &disk.dead_directory());
    kill(Pid::from_raw(rsm.pids("app")[0]), Signal::SIGKILL).unwrap();
    works(&rsm);
    is_reported(&rsm, "looking up the program of app app");
    drop(disk);
    rsm.wait_status("app", "online");
}

#[test]
fn app_that_blocks_its_input_blocks_nobody() {
    let disk = StalledDisk::mount();
    let rsm = Rsm::new();
    app(&rsm, &disk, "os.readv(0, [page])");
    rsm.ok(&["start", "app.py", "--name", "app"]);
    wait_log(&rsm, "app-out.log", "before");
    rsm.ok(&["send", "app", "hello"]);
    wait_blocked(rsm.pids("app")[0]);
    rsm.run(&["send", "app", "more"]).code(1).says("stdin of app app");
    works(&rsm);
    is_reported(&rsm, "stdin of app app");
    rsm.run(&["send", "app", "more"]).code(1).says("blocked in a system call");
    drop(disk);
}

#[test]
fn app_that_blocks_its_output_blocks_no_other_logs() {
    let mut disk = StalledDisk::mount();
    let rsm = Rsm::new();
    app(&rsm, &disk, "os.write(1, b'text\\n'); os.write(1, page)");
    rsm.ok(&["start", "while :; do echo tick; sleep 0.1; done", "--name", "other"]);
    rsm.ok(&["start", "app.py", "--name", "app"]);
    let pid = rsm.pids("app")[0];
    wait_blocked(pid);
    works(&rsm);
    logs_flow(&rsm);
    // A daemon that cannot be killed is replaced by another, which meets the same pipe.
    let (daemon, _) = rsm.managers();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    let (daemon, _) = rsm.next_managers(daemon);
    works(&rsm);
    logs_flow(&rsm);
    assert_eq!(rsm.pids("app"), [pid], "the app was restarted");
    // The same while the keeper dies.
    let (_, keeper) = rsm.managers();
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    wait_until("another keeper", || Some(rsm.managers()).filter(|(_, other)| *other != keeper));
    works(&rsm);
    logs_flow(&rsm);
    let _ = daemon;
    disk.release();
    wait_log(&rsm, "app-out.log", "after");
    let text = log(&rsm, "app-out.log");
    assert_eq!(text.lines().filter(|line| line.starts_with('p')).count(), 64, "{text}");
}

#[test]
fn app_that_blocks_its_output_is_adopted() {
    let mut disk = StalledDisk::mount();
    let rsm = Rsm::new();
    app(&rsm, &disk, "os.write(1, page)");
    rsm.ok(&["start", "app.py", "--name", "app"]);
    rsm.ok(&["start", "while :; do echo tick; sleep 0.1; done", "--name", "other"]);
    let pid = rsm.pids("app")[0];
    wait_blocked(pid);
    let (daemon, keeper) = rsm.managers();
    for manager in [daemon, keeper] {
        kill(Pid::from_raw(manager), Signal::SIGSTOP).unwrap();
    }
    for manager in [keeper, daemon] {
        kill(Pid::from_raw(manager), Signal::SIGKILL).unwrap();
    }
    works(&rsm);
    assert_eq!(rsm.pids("app"), [pid]);
    disk.release();
    wait_log(&rsm, "app-out.log", "after");
}

#[test]
fn stalled_address_of_bind_blocks_no_other_app() {
    let disk = StalledDisk::mount();
    let rsm = Rsm::new();
    let port = free_port();
    app(
        &rsm,
        &disk,
        "import socket\n\
         s = socket.socket()\n\
         address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n\
         ctypes.CDLL(None).bind(s.fileno(), ctypes.c_void_p(address), 16)",
    );
    let server = format!(
        "import http.server\nhttp.server.ThreadingHTTPServer(('127.0.0.1', {port}), \
         http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    );
    rsm.write("server.py", &server);
    let entry = |name: &str| {
        format!(
            "[[apps]]\nname = '{name}'\nscript = '{name}.py'\nexec_mode = 'cluster'\ninstances = 2\nlisten_timeout = '60s'\n"
        )
    };
    rsm.write("ecosystem.toml", &(entry("app") + &entry("server")));
    rsm.ok(&["start", "sleep 1000", "--name", "first"]);
    // It never listens, so the command waits for it.
    let mut start = rsm.command(&["start", "ecosystem.toml", "--only", "app"]).spawn().unwrap();
    rsm.wait_until("the app", |rsm| (!rsm.pids("app").is_empty()).then_some(()));
    rsm.ok(&["start", "ecosystem.toml", "--only", "server"]);
    wait_until("a response of the server", || crate::harness::get(port, "/"));
    works(&rsm);
    is_reported(&rsm, "reading the memory of app app");
    let _ = start.kill();
    start.wait().unwrap();
    drop(disk);
}

#[test]
fn environment_on_dead_disk_does_not_block_recovery() {
    let disk = StalledDisk::mount();
    let rsm = Rsm::new();
    // Maps the page over the environment of the process.
    app(
        &rsm,
        &disk,
        "start = int(open('/proc/self/stat').read().rsplit(')')[1].split()[47]) & ~4095\n\
         libc = ctypes.CDLL(None)\n\
         libc.mmap.restype = ctypes.c_void_p\n\
         pages = 1 + (int(open('/proc/self/stat').read().rsplit(')')[1].split()[48]) - start) // 4096\n\
         os.environ['RSM_HOME']\n\
         print('mapped', flush=True)\n\
         libc.mmap(ctypes.c_void_p(start), 4096, 1, 0x12, file, 0)",
    );
    rsm.ok(&["start", "sleep 1000", "--name", "first"]);
    let mut start = rsm.command(&["start", "app.py", "--name", "app"]).spawn().unwrap();
    wait_log(&rsm, "app-out.log", "mapped");
    let (daemon, keeper) = rsm.managers();
    let first = rsm.pids("first");
    for manager in [keeper, daemon] {
        kill(Pid::from_raw(manager), Signal::SIGKILL).unwrap();
    }
    wait_until("the managers end", || (!alive(daemon) && !alive(keeper)).then_some(()));
    works(&rsm);
    assert_eq!(rsm.pids("first"), first);
    let _ = start.kill();
    start.wait().unwrap();
    drop(disk);
}
