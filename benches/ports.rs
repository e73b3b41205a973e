//! Measures the request rate of an app with several instances under rsm and other process managers:
//! `cargo bench --bench ports`.
//!
//! Prints a table and checks nothing. Needs `ab` (apache2-utils), Node.js, npm and pip; installs the other managers
//! below `target`. `benches/README.md` describes the rows.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/it/harness/ports.rs"]
#[allow(dead_code)]
mod reserved;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds over all contestants, so that other load on the machine affects all of them.
const ROUNDS: usize = 3;

/// Environment variable with another number of rounds.
const ROUNDS_VARIABLE: &str = "RSM_BENCH_ROUNDS";

/// Requests of a round: with an empty handler, and with one that computes.
const REQUESTS: [u32; 2] = [20_000, 4_000];

/// The server. First argument: a port, or `fd:` and a descriptor number. Second argument `1`: each request costs about a
/// millisecond of CPU, by a number of steps, because a clock would also count the time of other processes.
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
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
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
        for (flags, connections) in [(&[][..], "connection each"), (&["-k"][..], "keep-alive")] {
            println!("\n{handler}, {connections}, ab -n {} -c 100", REQUESTS[work]);
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

/// Starts a contestant on a port; the last argument is 1 if the handler computes.
type Start = fn(&Bench, u16, usize) -> Running;

struct Measured {
    rate: f64,
    p99: f64,
    failed: u64,
    /// Milliseconds of CPU of the manager processes.
    manager: f64,
}

fn print_row(name: &str, row: &[Measured]) {
    let mut rates: Vec<f64> = row.iter().map(|measured| measured.rate).collect();
    rates.sort_by(f64::total_cmp);
    let mut p99: Vec<f64> = row.iter().map(|measured| measured.p99).collect();
    p99.sort_by(f64::total_cmp);
    let (lowest, median, highest) = (rates[0], rates[rates.len() / 2], rates[rates.len() - 1]);
    let manager = row.iter().map(|measured| measured.manager).sum::<f64>() / row.len() as f64;
    let failed: u64 = row.iter().map(|measured| measured.failed).sum();
    let rate = format!("{median:.0} ({lowest:.0}-{highest:.0})");
    println!("{name:<36} {rate:>28} {:>9.0} ms {failed:>8} {manager:>13.0} ms", p99[p99.len() / 2]);
}

/// A running contestant, stopped when dropped.
struct Running {
    /// Stopped by a signal.
    children: Vec<Child>,
    /// Command that stops it.
    stop_command: Option<Command>,
    /// Processes whose CPU time is measured.
    managers: Vec<u32>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(command) = &mut self.stop_command {
            assert!(command.status().unwrap().success(), "{command:?}");
        }
        for child in &mut self.children {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            child.wait().unwrap();
        }
    }
}

struct Bench {
    dir: tempfile::TempDir,
    /// Program of PM2; directory of circus and supervisord.
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
        let pm2 = install_once("bench-pm2", &npm).join("node_modules/.bin/pm2");
        Self { dir, pm2, python: install_once("bench-python", &pip) }
    }

    fn measure(&self, start: Start, work: usize, flags: &[&str]) -> Measured {
        let port = reserved::free_port();
        let running = start(self, port, work);
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "no listener on port {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Time for all workers to start, then warm up.
        std::thread::sleep(Duration::from_millis(500));
        self.ab(port, 500, flags);
        let before = cpu_ms(&running.managers);
        let mut measured = self.ab(port, REQUESTS[work], flags);
        measured.manager = cpu_ms(&running.managers) - before;
        measured
    }

    fn ab(&self, port: u16, requests: u32, flags: &[&str]) -> Measured {
        let mut command = Command::new("ab");
        command.args(["-q", "-c", "100", "-n", &requests.to_string()]).args(flags);
        let output =
            command.arg(format!("http://127.0.0.1:{port}/")).output().expect("ab is in apache2-utils");
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |label: &str| -> f64 {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
            let line = line
                .unwrap_or_else(|| panic!("no {label}: {text} {}", String::from_utf8_lossy(&output.stderr)));
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
        Running { children: vec![child], stop_command: None, managers: Vec::new() }
    }

    fn node_cluster(&self, port: u16, work: usize) -> Running {
        let words = ["node", "server.js", &port.to_string(), &work.to_string()];
        let child = self.spawn(&words, &[("WORKERS", "2")]);
        let managers = vec![child.id()];
        Running { children: vec![child], stop_command: None, managers }
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
            stop_command: Some(command(&["kill"])),
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
        Running { children: vec![child], stop_command: None, managers }
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
        let managers =
            ["daemon", "keeper"].map(|process| info[process]["pid"].as_u64().unwrap() as u32).to_vec();
        Running { children: Vec::new(), stop_command: Some(command(&["kill"])), managers }
    }
}

/// The directory that a command installs into, once.
fn install_once(name: &str, command: &[&str]) -> PathBuf {
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
fn cpu_ms(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| -> f64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
    };
    pids.iter().map(ticks).sum::<f64>() * 10.0 // the kernel reports ticks of 10 ms on all machines
}
