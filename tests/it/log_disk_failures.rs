//! Disks that do not respond or are full: apps whose logs are on them block or lose counted lines; others
//! continue.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Rsm, need_root, read, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Delays each write of a process to one file until it is dropped.
struct SlowWrites(Child);

impl SlowWrites {
    fn start(pid: i32, file: &Path) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-o", "/dev/null", "-P", file.to_str().unwrap(), "-e", "trace=write"]);
        command.args(["-e", "inject=write:delay_enter=600000000", "-p", &pid.to_string()]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        wait_until("the tracer to attach to all threads", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let is_traced = |task: &Path| !read(task.join("status")).contains("TracerPid:\t0\n");
            tasks.map(|task| task.unwrap().path()).all(|task| is_traced(&task)).then_some(())
        });
        Self(child)
    }
}

impl Drop for SlowWrites {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn hanging_disk_blocks_only_its_apps() {
    need_root();
    let echo = "#!/bin/sh\nwhile :; do while read line; do echo \"$line\"; done < input-$name; done\n";
    let rsm = Rsm::new().file("echo.sh", echo).file(
        "e.toml",
        "[[apps]]\nname = 'slow'\nscript = './echo.sh'\nout_file = 'disk/slow.log'\n\
         [[apps]]\nname = 'fine'\nscript = './echo.sh'\n",
    );
    for name in ["input-slow", "input-fine"] {
        nix::unistd::mkfifo(&rsm.dir().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    rsm.ok(&["start", "e.toml"]);
    let send = |name: &str, text: &str| fs::write(rsm.dir().join(format!("input-{name}")), text).unwrap();
    let (slow, fine) = (rsm.dir().join("disk/slow.log"), rsm.home().join("logs/fine-out.log"));
    send("slow", "one\n");
    wait_until("a line", || (read(&slow) == "one\n").then_some(()));
    let tracer = SlowWrites::start(rsm.managers().0, &slow);
    send("slow", "two\n");
    let mut following = rsm.follow(&["logs", "fine", "--raw"]);
    for round in 0..5 {
        send("fine", &format!("round {round}\n"));
        following.until(&format!("round {round}"));
    }
    assert!(read(&fine).ends_with("round 4\n"));
    rsm.ok(&["list"]);
    rsm.ok(&["restart", "fine"]);
    rsm.ok(&["reloadLogs"]);
    assert_eq!(read(&slow), "one\n");
    drop(tracer);
    wait_until("the delayed line", || read(&slow).ends_with("two\n").then_some(()));
}

#[test]
fn full_disk_blocks_apps_without_losing_lines() {
    need_root();
    let rsm = Rsm::new().file(
        "e.toml",
        "[[apps]]\nname = 'waits'\nscript = 'seq 1 400000; exec sleep 1000'\nout_file = 'disk/waits.log'\n\
         logs = { max_size = 'none' }\n\
         [[apps]]\nname = 'drops'\nscript = 'seq 1 400000; exec sleep 1000'\nout_file = 'disk/drops.log'\n\
         logs = { max_size = 'none', when_full = 'drop' }\n",
    );
    let script = "set -e\nmkdir disk\nmount -t tmpfs -o size=1m none disk\n\"$RSM\" start e.toml >&2\n\
        until \"$RSM\" info >&2 && grep -q 'cannot write log file' \"$RSM_HOME/rsm.log\"; do sleep 0.05; done\n\
        \"$RSM\" list >&2\nmount -o remount,size=64m disk\n\
        until tail -n1 disk/waits*.log | grep -qx 400000; do sleep 0.05; done\n\
        until grep -q 'bytes) dropped: ' disk/drops*.log; do sleep 0.05; done\n\
        seq 1 400000 | cmp - disk/waits*.log && echo same\n\"$RSM\" kill >&2\n";
    let mut command = rsm.command_of("timeout", &["120", "unshare", "-m", "sh", "-c", script]);
    let output = command.env("RSM", env!("CARGO_BIN_EXE_rsm")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"same\n", "{stderr}");
}
