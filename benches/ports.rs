//! Measures how fast connections come to the instances of an app, beside what else there is, in one run:
//! `cargo bench --bench ports`.
//!
//! Prints a table and judges nothing. Needs `ab` (apache2-utils), Node, npm and pip; what else it needs
//! it installs below `target`. What each row means is in `benches/README.md`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/it/harness/ports.rs"]
#[allow(dead_code)]
mod reserved;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds of all contestants, one after the other, so that what else the machine does hits all.
const ROUNDS: usize = 3;

/// Another number of rounds, for those in a hurry.
const HURRY: &str = "RSM_BENCH_ROUNDS";

/// Requests of a round: with a handler that does nothing, with one that computes.
const REQUESTS: [u32; 2] = [20_000, 4_000];

/// A server; `1` as its second argument has each request cost about a millisecond of CPU: a count of steps, as
/// clocks go on while others run. The first argument is where it listens: a port, or `fd:` and a number.
const SERVER: &str = r"
const [where, work] = process.argv.slice(2)
const answer = (_, response) => {
  if (work === '1') for (let step = 0, sum = 1; step < 1e6; step++) sum = (Math.imul(sum, 31) + step) | 0
  response.setHeader('Content-Length', 5) // without it Node closes the connection of a client as old as ab
  response.end('hello')
}
const serve = () => require('http').createServer(answer)
  .listen(where.startsWith('fd:') ? { fd: Number(where.slice(3)) } : { port: Number(where), host: '127.0.0.1' })
const cluster = require('cluster')
if (process.env.WORKERS && cluster.isPrimary) for (let i = 0; i < process.env.WORKERS; i++) cluster.fork()
else serve()
";

fn main() {
    let bench = Bench::new();
    let rounds = std::env::var(HURRY).ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let contestants: [(&str, Start); 7] = [
        ("node, one process", Bench::node),
        ("node's cluster, 2", |bench, port, work| bench.node_cluster(port, work)),
        ("PM2 -i 2", Bench::pm2),
        ("circus, shared descriptor, 2", Bench::circus),
        ("supervisord, shared descriptor, 2", Bench::supervisord),
        ("rsm, 2", |bench, port, work| bench.rsm(port, work, 2)),
        ("rsm, 4", |bench, port, work| bench.rsm(port, work, 4)),
    ];
    for (work, handler) in ["nothing to do", "1 ms of CPU"].into_iter().enumerate() {
        for (flags, what) in [(&[][..], "connection each"), (&["-k"][..], "keep-alive")] {
            println!("\n{handler}, {what}, ab -n {} -c 100", REQUESTS[work]);
            println!(
                "{:<36} {:>28} {:>12} {:>8} {:>16}",
                "", "requests/s, median (min-max)", "p99", "failed", "manager CPU"
            );
            let mut rows: Vec<Vec<Measured>> = contestants.iter().map(|_| Vec::new()).collect();
            for _ in 0..rounds {
                for ((_, start), row) in contestants.iter().zip(&mut rows) {
                    row.push(bench.measure(*start, work, flags));
                }
            }
            for ((name, _), row) in contestants.iter().zip(&rows) {
                print_row(name, row);
            }
        }
    }
}

/// Starts a contestant on a port; the last number says whether its handler computes.
type Start = fn(&Bench, u16, usize) -> Running;

struct Measured {
    rate: f64,
    p99: f64,
    failed: u64,
    /// Milliseconds of CPU that whoever manages the processes used.
    manager: f64,
}

fn print_row(name: &str, row: &[Measured]) {
    let mut rates: Vec<f64> = row.iter().map(|one| one.rate).collect();
    rates.sort_by(f64::total_cmp);
    let mut p99: Vec<f64> = row.iter().map(|one| one.p99).collect();
    p99.sort_by(f64::total_cmp);
    let (first, middle, last) = (rates[0], rates[rates.len() / 2], rates[rates.len() - 1]);
    let manager = row.iter().map(|one| one.manager).sum::<f64>() / row.len() as f64;
    let failed: u64 = row.iter().map(|one| one.failed).sum();
    let rate = format!("{middle:.0} ({first:.0}-{last:.0})");
    println!("{name:<36} {rate:>28} {:>9.0} ms {failed:>8} {manager:>13.0} ms", p99[p99.len() / 2]);
}

/// A contestant that serves; ended when dropped.
struct Running {
    /// Ended by a signal.
    children: Vec<Child>,
    /// Ended by this command.
    end: Option<Command>,
    /// Whose CPU counts.
    managers: Vec<u32>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(end) = &mut self.end {
            assert!(end.status().unwrap().success(), "{end:?}");
        }
        for child in &mut self.children {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            child.wait().unwrap();
        }
    }
}

struct Bench {
    dir: tempfile::TempDir,
    /// PM2, and circus and supervisord.
    pm2: PathBuf,
    python: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rsm-bench-").tempdir().unwrap();
        fs::write(dir.path().join("server.js"), SERVER).unwrap();
        let npm = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "pm2@7"];
        let pip = [
            "python3",
            "-m",
            "pip",
            "install",
            "-q",
            "--target",
            ".",
            "circus",
            "supervisor",
            "setuptools<81",
        ];
        let pm2 = installed("bench-pm2", &npm).join("node_modules/.bin/pm2");
        Self { dir, pm2, python: installed("bench-python", &pip) }
    }

    fn measure(&self, start: Start, work: usize, flags: &[&str]) -> Measured {
        let port = reserved::free_port();
        let running = start(self, port, work);
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "nobody listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        // All workers are to be up, and warm.
        std::thread::sleep(Duration::from_millis(500));
        self.ab(port, 500, flags);
        let before = cpu(&running.managers);
        let mut measured = self.ab(port, REQUESTS[work], flags);
        measured.manager = cpu(&running.managers) - before;
        measured
    }

    fn ab(&self, port: u16, requests: u32, flags: &[&str]) -> Measured {
        let mut command = Command::new("ab");
        command.args(["-q", "-c", "100", "-n", &requests.to_string()]).args(flags);
        let output =
            command.arg(format!("http://127.0.0.1:{port}/")).output().expect("ab is in apache2-utils");
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |before: &str| -> f64 {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(before));
            let line = line
                .unwrap_or_else(|| panic!("no {before}: {text} {}", String::from_utf8_lossy(&output.stderr)));
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let failed = number("Failed requests:") as u64;
        Measured { rate: number("Requests per second:"), p99: number("99%"), failed, manager: 0.0 }
    }

    fn spawn(&self, words: &[&str], vars: &[(&str, &str)]) -> Child {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.envs(vars.iter().copied());
        command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn node(&self, port: u16, work: usize) -> Running {
        let child = self.spawn(&["node", "server.js", &port.to_string(), &work.to_string()], &[]);
        Running { children: vec![child], end: None, managers: Vec::new() }
    }

    fn node_cluster(&self, port: u16, work: usize) -> Running {
        let words = ["node", "server.js", &port.to_string(), &work.to_string()];
        let child = self.spawn(&words, &[("WORKERS", "2")]);
        let managers = vec![child.id()];
        Running { children: vec![child], end: None, managers }
    }

    fn pm2(&self, port: u16, work: usize) -> Running {
        let home = self.dir.path().join("pm2");
        let command = |words: &[&str]| {
            let mut command = Command::new(&self.pm2);
            command.args(words).current_dir(self.dir.path()).env("PM2_HOME", &home);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let (port, work) = (port.to_string(), work.to_string());
        let words = ["start", "server.js", "-i", "2", "--", &port, &work];
        assert!(command(&words).status().unwrap().success());
        let pid = fs::read_to_string(home.join("pm2.pid")).unwrap();
        Running {
            children: Vec::new(),
            end: Some(command(&["kill"])),
            managers: vec![pid.trim().parse().unwrap()],
        }
    }

    fn circus(&self, port: u16, work: usize) -> Running {
        let ini = format!(
            "[circus]\nendpoint = ipc://{0}/circus\npubsub_endpoint = ipc://{0}/pubsub\n\
             [watcher:web]\ncmd = node server.js fd:$(circus.sockets.web) {work}\nnumprocesses = 2\n\
             use_sockets = True\ncopy_env = True\nworking_dir = {0}\n\
             [socket:web]\nhost = 127.0.0.1\nport = {port}\n",
            self.dir.path().display()
        );
        fs::write(self.dir.path().join("circus.ini"), ini).unwrap();
        self.python(&["-c", "from circus.circusd import main; main()", "circus.ini"])
    }

    fn supervisord(&self, port: u16, work: usize) -> Running {
        let conf = format!(
            "[supervisord]\nnodaemon = true\nlogfile = /dev/null\nlogfile_maxbytes = 0\npidfile = {0}/supervisord.pid\nuser = root\n\
             [fcgi-program:web]\nsocket = tcp://127.0.0.1:{port}\ncommand = node server.js fd:0 {work}\n\
             numprocs = 2\nprocess_name = web%(process_num)d\ndirectory = {0}\n",
            self.dir.path().display()
        );
        fs::write(self.dir.path().join("supervisord.conf"), conf).unwrap();
        self.python(&["-c", "from supervisor.supervisord import main; main()", "-c", "supervisord.conf"])
    }

    fn python(&self, words: &[&str]) -> Running {
        let words: Vec<&str> = ["python3"].iter().chain(words).copied().collect();
        let child = self.spawn(&words, &[("PYTHONPATH", self.python.to_str().unwrap())]);
        let managers = vec![child.id()];
        Running { children: vec![child], end: None, managers }
    }

    fn rsm(&self, port: u16, work: usize, instances: usize) -> Running {
        let file = format!(
            "[[apps]]\nscript = \"server.js\"\nargs = \"{port} {work}\"\nexec_mode = \"cluster\"\ninstances = {instances}\n"
        );
        fs::write(self.dir.path().join("ecosystem.toml"), file).unwrap();
        let command = |words: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rsm"));
            command.args(words).current_dir(self.dir.path()).env("RSM_HOME", self.dir.path().join("rsm"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        assert!(command(&["start", "ecosystem.toml"]).status().unwrap().success());
        let info = command(&["info", "--json"]).stdout(Stdio::piped()).output().unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        let managers = ["daemon", "keeper"].map(|who| info[who]["pid"].as_u64().unwrap() as u32).to_vec();
        Running { children: Vec::new(), end: Some(command(&["kill"])), managers }
    }
}

/// What this command installs, once.
fn installed(name: &str, command: &[&str]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !dir.join("done").exists() {
        fs::create_dir_all(&dir).unwrap();
        let status =
            Command::new(command[0]).args(&command[1..]).current_dir(&dir).stdout(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "{command:?}");
        fs::write(dir.join("done"), "").unwrap();
    }
    dir
}

/// Milliseconds of CPU that these processes have used.
fn cpu(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| -> f64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
    };
    pids.iter().map(ticks).sum::<f64>() * 10.0 // a tick is 10 ms for all programs
}
