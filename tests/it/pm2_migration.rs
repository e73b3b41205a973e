//! A team's file, moved over from PM2: TypeScript by tsx, one instance a core, each on a port of
//! its own, with log files in the project.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::ports::free_ports;
use crate::harness::{Rsm, alive, get, read, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// PORT is put in for each test.
const FILE: &str = r#"
[[apps]]
name = 'workbot'
script = './node_modules/.bin/tsx'
args = 'server.ts'
instances = 'max'
exec_mode = 'cluster'
increment_var = 'PORT'
max_memory_restart = '1G'
autorestart = true
watch = false
max_restarts = 10
min_uptime = '10s'
error_file = './logs/pm2-error.log'
out_file = './logs/pm2-out.log'
log_date_format = 'YYYY-MM-DD HH:mm:ss'

[apps.env]
NODE_ENV = 'production'
PORT = 5000
"#;

const SERVER: &str = r#"
import { createServer, type Server } from 'node:http';

const port: number = Number(process.env.PORT);
const about = { pid: process.pid, env: process.env.NODE_ENV, number: process.env.NODE_APP_INSTANCE };
const server: Server = createServer((_request, response) => {
  response.end(JSON.stringify(about));
});
server.listen(port, '127.0.0.1', () => {
  console.log(`listening on ${port}`);
  console.error('a warning');
});
process.on('SIGINT', () => server.close(() => process.exit(0)));
"#;

const CRASHING: &str = "const reason: string = 'no database';\nthrow new Error(reason);\n";

/// `node_modules` with tsx, installed once and kept for later runs.
fn modules() -> &'static Path {
    static MODULES: OnceLock<PathBuf> = OnceLock::new();
    MODULES.get_or_init(|| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tsx");
        if !kept.join("node_modules/.bin/tsx").exists() {
            let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let npm = ["install", "--no-audit", "--no-fund", "--no-save", "tsx@4"];
            let npm = Command::new("npm").args(npm).current_dir(new.path()).output().unwrap();
            assert!(npm.status.success(), "npm install: {}", String::from_utf8_lossy(&npm.stderr));
            // Another run may have been faster; either is as good.
            let _ = fs::rename(new.path(), &kept);
        }
        kept.join("node_modules")
    })
}

fn cores() -> u16 {
    u16::try_from(std::thread::available_parallelism().unwrap().get()).unwrap()
}

/// A project with that server and a file whose ports are free; the first of them.
fn project(server: &str) -> (Rsm, u16) {
    let first = free_ports(cores());
    let rsm = Rsm::new().file("ecosystem.toml", &FILE.replace("5000", &first.to_string()));
    rsm.write("server.ts", server);
    symlink(modules(), rsm.dir().join("node_modules")).unwrap();
    (rsm, first)
}

/// What the server on this port says of itself, once it does.
fn about(port: u16) -> serde_json::Value {
    wait_until(&format!("an answer on port {port}"), || {
        let answer = get(port, "/")?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    })
}

/// The contents of the files in `logs` whose name starts so.
fn logs(rsm: &Rsm, name: &str) -> Vec<String> {
    let files = fs::read_dir(rsm.dir().join("logs")).unwrap().map(|entry| entry.unwrap());
    let named = files.filter(|file| file.file_name().to_str().unwrap().starts_with(name));
    named.map(|file| read(file.path())).collect()
}

fn stamped(line: &str) -> bool {
    let shape: String = line.chars().take(21).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00 00:00:00: "
}

#[test]
fn instances_answer_on_own_ports_with_timestamps() {
    let (rsm, first) = project(SERVER);
    rsm.ok(&["start", "ecosystem.toml"]);
    assert_eq!(rsm.pids("workbot").len(), usize::from(cores()));
    for number in 0..cores() {
        let about = about(first + number);
        assert_eq!((&about["env"], &about["number"]), (&"production".into(), &number.to_string().into()));
    }
    assert!(rsm.statuses("workbot").iter().all(|status| status == "online"));
    let said = |name, text: &str| {
        wait_until(name, || {
            let files = logs(&rsm, name);
            let all = files.len() == usize::from(cores()) && files.iter().all(|file| file.contains(text));
            all.then_some(files)
        })
    };
    let lines = [said("pm2-out", "listening on"), said("pm2-error", "a warning")].concat().concat();
    assert!(lines.lines().all(stamped), "{lines}");
}

#[test]
fn killed_instance_is_replaced() {
    let (rsm, first) = project(SERVER);
    rsm.ok(&["start", "ecosystem.toml"]);
    let before = about(first)["pid"].clone();
    let others: Vec<_> = (1..cores()).map(|more| about(first + more)["pid"].clone()).collect();
    let leader = rsm.list().iter().find(|view| view["number"] == 0).unwrap()["pid"].as_i64().unwrap() as i32;
    kill(Pid::from_raw(leader), Signal::SIGKILL).unwrap();
    wait_until("another server", || (about(first)["pid"] != before).then_some(()));
    assert!(!alive(i32::try_from(before.as_i64().unwrap()).unwrap()), "what tsx had started is there still");
    let now: Vec<_> = (1..cores()).map(|more| about(first + more)["pid"].clone()).collect();
    assert_eq!(now, others, "the others were left alone");
    let list = rsm.list();
    let restarts: u64 = list.iter().map(|view| view["restarts"].as_u64().unwrap()).sum();
    assert_eq!(restarts, 1, "{list:?}");
}

#[test]
fn crash_loop_becomes_errored_with_reason() {
    let (rsm, _) = project(CRASHING);
    rsm.run(&["start", "ecosystem.toml"]);
    rsm.wait_status("workbot", "errored");
    for view in rsm.list() {
        let id = view["id"].to_string();
        let reason = view["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("10 unstable restarts") && reason.contains("exit code 1"), "{reason}");
        rsm.ok(&["describe", &id]).shows(&reason).shows("no database");
        assert_eq!(view["restarts"], 10);
    }
}

#[test]
fn resurrect_restores_same_list() {
    let (rsm, first) = project(SERVER);
    rsm.ok(&["start", "ecosystem.toml"]);
    about(first);
    rsm.ok(&["restart", "0"]);
    about(first);
    let known = |rsm: &Rsm| -> Vec<String> {
        let row = |view: &serde_json::Value| {
            ["name", "id", "number", "restarts", "status"].map(|key| view[key].to_string()).join(" ")
        };
        rsm.list().iter().map(row).collect()
    };
    let before = known(&rsm);
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    assert!(get(first, "/").is_none(), "it answers still");
    rsm.ok(&["resurrect"]);
    assert_eq!(known(&rsm), before);
    for number in 0..cores() {
        about(first + number);
    }
}
