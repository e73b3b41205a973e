//! Twenty apps under load while daemon, keeper, both, and apps are killed in random order and commands
//! run: afterwards everything is as it was wanted, and nothing was lost, doubled or left behind.
//!
//! `RSM_FAULT_ROUNDS=300 RSM_FAULT_SEED=7 cargo test --test it faults:: -- --nocapture` for a long run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::load_client::{Client, Load, Pace, Tally};
use crate::harness::{Rsm, alive, environ, free_port, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Writes numbered lines, some thousand a second, and notes beside them how far it got.
const WRITER: &str = r#"#!/usr/bin/env python3
import os, struct, sys, time
pid = os.getpid()
done = os.open(f"{sys.argv[1]}.{pid}.done", os.O_WRONLY | os.O_CREAT)
n = 0
while True:
    for _ in range(10):
        os.write(1, b"%d %d\n" % (pid, n))
        n += 1
    os.pwrite(done, struct.pack("<Q", n), 0)
    time.sleep(0.01)
"#;

const SERVER: &str = r#"#!/usr/bin/env python3
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *args):
        pass
ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// Told to go, it answers what it has accepted first.
const GRACEFUL: &str = r#"
import signal, threading
server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
server.daemon_threads = False
signal.signal(signal.SIGINT, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
"#;

const DEAF: &str = "#!/bin/sh\ntrap '' INT TERM\nwhile :; do sleep 1; done\n";

const WRITERS: usize = 8;
const SLEEPERS: usize = 9;

/// As many as share a port.
const PAIR: usize = 2;

/// Instances whose ids are below this are alone.
const ALONE: usize = 3 + WRITERS + SLEEPERS;

fn ecosystem(port: u16, shared_port: u16) -> String {
    let mut text = format!(
        "[[apps]]\nname = \"server\"\nscript = \"./server.py\"\nenv = {{ PORT = \"{port}\" }}\n\
         [[apps]]\nname = \"loop\"\nscript = \"sleep 0.05; exit 1\"\nrestart_delay = 100\nmax_restarts = 1000000\n\
         [[apps]]\nname = \"deaf\"\nscript = \"./deaf.sh\"\nkill_timeout = 300\n"
    );
    for number in 0..WRITERS {
        text += &format!(
            "[[apps]]\nname = \"writer-{number}\"\nscript = \"./writer.py\"\nargs = [\"w{number}\"]\n\
             max_restarts = 1000000\nout_file = \"writer-{number}.log\"\n"
        );
    }
    for number in 0..SLEEPERS {
        text +=
            &format!("[[apps]]\nname = \"nap-{number}\"\nscript = \"sleep 1000\"\nmax_restarts = 1000000\n");
    }
    text += &format!(
        "[[apps]]\nname = \"pair\"\nscript = \"./pair.py\"\nenv = {{ PORT = \"{shared_port}\" }}\n\
         exec_mode = \"cluster\"\ninstances = {PAIR}\nlisten_timeout = 10000\nkill_timeout = 20000\n"
    );
    text
}

fn number_from(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Clients of the server on this port, of whose requests none may fail.
fn load(port: u16) -> Load {
    let client = Client::local(port).timeout(Duration::from_secs(20)).expect("\r\n\r\nok");
    client.load(1, Pace::Pause(Duration::from_millis(2)))
}

/// Lets other threads end, also if this one fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Round<'a> {
    rsm: &'a Rsm,
    random: fastrand::Rng,
    server: i32,
    /// Held while the last lines of a writer that ends are to be read: what is still in its pipe when daemon
    /// and keeper are both dead is gone with it.
    unread: &'a Mutex<()>,
}

impl Round<'_> {
    fn managers(&self) -> Vec<i32> {
        let pid = |comm: &str| {
            let home = self.rsm.home().display().to_string();
            all_pids().into_iter().find(|pid| {
                crate::harness::read(format!("/proc/{pid}/comm")).trim() == comm
                    && environ(*pid).get("RSM_HOME") == Some(&home)
            })
        };
        [pid("rsm-daemon"), pid("rsm-keeper")].into_iter().flatten().collect()
    }

    fn strike(&mut self) -> String {
        let managers = self.managers();
        let end = |pid: i32| {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            wait_until("it is dead", || (!alive(pid)).then_some(()));
        };
        // One alone may be on its way to become the other, or the other may have no name yet; and a daemon
        // that has yet to attach dies with its keeper.
        let alone = || (managers.len() < 2).then(|| self.unread.lock().unwrap());
        match self.random.u32(..8) {
            0..2 => {
                let _kept = alone();
                managers.first().map(|pid| end(*pid)).map_or("none", |()| "daemon").into()
            }
            2..4 => {
                let _kept = self.unread.lock().unwrap();
                managers.last().map(|pid| end(*pid)).map_or("none", |()| "keeper").into()
            }
            4 => {
                let _kept = self.unread.lock().unwrap();
                managers.into_iter().for_each(end);
                "both".into()
            }
            _ => {
                let apps = leaders(self.rsm);
                let apps = apps.into_iter().filter(|(id, _)| *id < ALONE as u64).flat_map(|(_, pids)| pids);
                let apps: Vec<i32> = apps.filter(|pid| *pid != self.server).collect();
                let struck = self.random.choice(apps);
                struck.map(end);
                struck.into_iter().for_each(|pid| self.read_all_of(pid));
                "an app".into()
            }
        }
    }

    /// Waits until all that a process wrote is in its log, if it was a writer.
    fn read_all_of(&self, pid: i32) {
        for number in 0..WRITERS {
            let done = self.rsm.dir().join(format!("w{number}.{pid}.done"));
            let Ok(Ok(written)) = fs::read(done).map(|written| written.try_into().map(u64::from_le_bytes))
            else {
                continue;
            };
            let last = format!("{pid} {}\n", written.saturating_sub(1));
            let log = self.rsm.dir().join(format!("writer-{number}.log"));
            self.rsm.run(&["ping"]); // should there be no daemon
            wait_until("its last line", || crate::harness::read(&log).contains(&last).then_some(()));
        }
    }

    /// To another version or back; it may be killed in the middle of it, and says so then.
    fn upgrade(&mut self) {
        let binary = if self.random.bool() { "./rsm-other" } else { env!("CARGO_BIN_EXE_rsm") };
        let ran = self.rsm.run(&["upgrade", "--binary", binary]);
        let told = ran.code == Some(0) || ran.stderr.starts_with("error: ");
        assert!(told, "{ran:?}");
    }

    /// A command at any moment succeeds, or says that it does not know.
    fn command(&mut self) {
        let nap = format!("nap-{}", self.random.usize(..SLEEPERS));
        let writer = format!("writer-{}", self.random.usize(..WRITERS));
        if self.random.u32(..12) == 0 {
            return self.upgrade();
        }
        let args: &[&str] = match self.random.u32(..10) {
            0 => &["restart", &nap],
            1 => &["stop", &nap],
            2 => &["start", &nap],
            3 => &["restart", &writer],
            4 => &["restart", "deaf"],
            5 => &["describe", &nap],
            6 => &["save"],
            7..9 => &["reload", "pair"],
            _ => &["list"],
        };
        let ends = if args == ["restart", &writer] { self.rsm.pids(&writer) } else { Vec::new() };
        let kept = (!ends.is_empty()).then(|| self.unread.lock().unwrap());
        let ran = self.rsm.run(args);
        ends.into_iter().for_each(|pid| self.read_all_of(pid));
        drop(kept);
        // A new process that asks for its port while daemon and keeper are dead fails, and is not needed.
        let known =
            ["connection to the daemon lost", "restart", "the replacement exited", "already being reloaded"];
        let told = ran.code == Some(0) || known.iter().any(|words| ran.stderr.contains(words));
        assert!(told, "{args:?}: {ran:?}");
    }
}

fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The first processes of all runs of this home, by the instance's id.
fn leaders(rsm: &Rsm) -> BTreeMap<u64, Vec<i32>> {
    let mut found: BTreeMap<u64, Vec<i32>> = BTreeMap::new();
    for pid in all_pids() {
        let Some(mark) = environ(pid).remove("RSM_RUN") else { continue };
        let Some((run, home)) = mark.split_once('@') else { continue };
        let leads = nix::unistd::getsid(Some(Pid::from_raw(pid))).is_ok_and(|sid| sid.as_raw() == pid);
        if Path::new(home) == rsm.home() && leads && alive(pid) {
            found.entry(run.parse::<u64>().unwrap() >> 32).or_default().push(pid);
        }
    }
    found
}

/// Each line of each run of a writer, exactly once and in order, as far as it says it wrote.
fn check_lines(rsm: &Rsm, number: usize) -> u64 {
    let text = fs::read_to_string(rsm.dir().join(format!("writer-{number}.log"))).unwrap();
    let mut next: BTreeMap<i32, u64> = BTreeMap::new();
    for line in text.lines() {
        let (pid, n) = line.split_once(' ').unwrap_or_else(|| panic!("torn: {line:?}"));
        let (pid, n): (i32, u64) = (pid.parse().unwrap(), n.parse().unwrap());
        let expected = next.entry(pid).or_default();
        assert_eq!(n, *expected, "writer-{number}, run of pid {pid}: line {n} where {expected} was due");
        *expected += 1;
    }
    for entry in fs::read_dir(rsm.dir()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let Some(pid) = name.strip_prefix(&format!("w{number}.")).and_then(|rest| rest.strip_suffix(".done"))
        else {
            continue;
        };
        let written = fs::read(entry.path()).unwrap();
        let written = written.try_into().map_or(0, u64::from_le_bytes);
        let kept = next.get(&pid.parse().unwrap()).copied().unwrap_or(0);
        assert!(kept >= written, "writer-{number}, pid {pid}: it wrote {written} lines, {kept} are there");
    }
    next.values().sum()
}

#[test]
fn survives_killing_any_process() {
    let (rounds, seed) = (number_from("RSM_FAULT_ROUNDS", 40), number_from("RSM_FAULT_SEED", 1));
    let (port, shared_port) = (free_port(), free_port());
    let rsm = Rsm::new().file("writer.py", WRITER).file("server.py", SERVER).file("deaf.sh", DEAF);
    let serving = SERVER.find("ThreadingHTTPServer.request_queue_size").unwrap();
    let rsm = rsm.file("pair.py", &(SERVER[..serving].to_owned() + GRACEFUL));
    let rsm = rsm.file("ecosystem.toml", &ecosystem(port, shared_port));
    rsm.another_version("0.9.9");
    // The loop may be between two of its runs just then.
    rsm.run(&["start", "ecosystem.toml"]);
    let server = rsm.pids("server")[0];
    wait_until("the server answers", || crate::harness::get(port, "/"));

    let unread = Mutex::new(());
    let stop = AtomicBool::new(false);
    let loads = [port, shared_port].map(load);
    let mut struck: BTreeMap<String, u32> = BTreeMap::new();
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        let commands = scope.spawn(|| {
            let random = fastrand::Rng::with_seed(seed + 1);
            let mut round = Round { rsm: &rsm, random, server, unread: &unread };
            while !stop.load(Ordering::Relaxed) {
                round.command();
            }
        });
        let random = fastrand::Rng::with_seed(seed);
        let mut round = Round { rsm: &rsm, random, server, unread: &unread };
        for _ in 0..rounds {
            *struck.entry(round.strike()).or_default() += 1;
            // What an app wrote that ends while nobody holds its pipes is gone with it.
            if round.managers().is_empty() {
                round.rsm.run(&["list"]);
            }
            // Not a wait for anything: the moment of the next kill is random.
            std::thread::sleep(Duration::from_millis(round.random.u64(..300)));
        }
        stop.store(true, Ordering::Relaxed);
        commands.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let tallies = loads.map(Load::finish);
    println!(
        "seed {seed}, {rounds} rounds: {struck:?}, {} answers",
        tallies.each_ref().map(Tally::total).iter().sum::<u32>()
    );

    assert_eq!(rsm.pids("server"), [server], "the server was never told to go");
    tallies.iter().for_each(Tally::assert_clean);
    rsm.run(&["start", "all"]);
    check_processes(&rsm);
    check_managers(&rsm);
    rsm.ok(&["stop", "all"]);
    let lines: u64 = (0..WRITERS).map(|number| check_lines(&rsm, number)).sum();
    println!("{lines} lines, each once and in order");
    assert!(leaders(&rsm).is_empty(), "{:?}", leaders(&rsm));
}

/// Every app has its one process; the loop may be between two.
fn check_processes(rsm: &Rsm) {
    rsm.wait_until("all is up", |rsm| {
        let up = |instance: &serde_json::Value| instance["status"] == "online" || instance["name"] == "loop";
        rsm.list().iter().all(up).then_some(())
    });
    let list = rsm.list();
    assert_eq!(list.len(), ALONE + PAIR);
    let names: BTreeSet<&str> = list.iter().map(|instance| instance["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), list.len() - PAIR + 1);
    let leaders = leaders(rsm);
    for instance in list.iter().filter(|instance| instance["name"] != "loop") {
        let of_it = leaders.get(&instance["id"].as_u64().unwrap()).cloned().unwrap_or_default();
        assert_eq!(of_it, [instance["pid"].as_i64().unwrap() as i32], "{instance}");
    }
}

/// No zombies, no piled up descriptors, no files half written.
fn check_managers(rsm: &Rsm) {
    let (daemon, keeper) = rsm.managers();
    wait_until("no zombies", || {
        let parent = |pid: i32| {
            let stat = crate::harness::read(format!("/proc/{pid}/stat"));
            stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<i32>().ok()
        };
        let zombies: Vec<i32> =
            all_pids().into_iter().filter(|pid| parent(*pid) == Some(keeper) && !alive(*pid)).collect();
        zombies.is_empty().then_some(())
    });
    let open = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let runs = ALONE + PAIR;
    // Two pipes a run, a descriptor of a foreign process, and what every keeper has.
    wait_until("the keeper lets go", || (open(keeper) <= 12 + 3 * runs).then_some(()));
    // Four ends of two pipes a run, two log files and their indexes, a look at its process; and shared ports.
    wait_until("the daemon lets go", || (open(daemon) <= 64 + 9 * runs).then_some(()));
    let files: Vec<String> = fs::read_dir(rsm.home())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let half: Vec<&String> =
        files.iter().filter(|name| name.ends_with(".new") || name.ends_with(".keep")).collect();
    assert!(half.len() <= 1, "{half:?}"); // one may be being written
}
