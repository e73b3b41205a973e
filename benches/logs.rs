//! Measures how fast logs are written, beside a writer that has the file to itself: `cargo bench
//! --bench logs`. What each row means is in `benches/README.md`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What each row writes in all, unless `RSM_BENCH_MIB` says otherwise.
const MIB: u64 = 1024;
/// Bytes of a line, and of what the writer hands over at once: most languages buffer so much.
const LINE: usize = 100;
const BLOCK: usize = 8 * 1024;
const FLOODS: usize = 50;
const READS: usize = 40;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "write") {
        return write(&args[2..]);
    }
    let total = std::env::var("RSM_BENCH_MIB").map_or(MIB, |mib| mib.parse().unwrap()) << 20;
    println!("{:<40} {:>10} {:>8} {:>14} {:>10}", "what", "MB/s", "ratio", "CPU s per GiB", "PSS MB");
    let bench = Bench::new(total);
    let direct = bench.direct();
    for (what, rules) in [
        ("raw", "logs = { interval = 'none', max_size = 'none' }"),
        ("raw, rotated every 10 MB", "logs = { retain = 5 }"),
        ("raw, rotated and compressed", "logs = { retain = 5, compress = true }"),
        ("stamped", "log_date_format = 'YYYY-MM-DD HH:mm:ss.SSS'\nlogs = { max_size = 'none' }"),
        ("json", "log_type = 'json'\nlogs = { max_size = 'none' }"),
    ] {
        bench.under_rsm(what, rules, 1, direct);
    }
    bench.under_rsm("50 writers, raw", "logs = { retain = 1 }", FLOODS, direct);
}

/// The writer: `write TOTAL RESULT [FILE]`. Notes when it began and when it was done.
fn write(args: &[String]) {
    let total: usize = args[0].parse().unwrap();
    let block: Vec<u8> = (0..BLOCK).map(|at| if at % LINE == LINE - 1 { b'\n' } else { b'a' }).collect();
    let block = &block[..BLOCK / LINE * LINE];
    let mut out: Box<dyn Write> = match args.get(2) {
        Some(path) => Box::new(OpenOptions::new().create(true).append(true).open(path).unwrap()),
        None => Box::new(File::from(nix::unistd::dup(std::io::stdout()).unwrap())),
    };
    let began = now();
    for _ in 0..total / block.len() {
        out.write_all(block).unwrap();
    }
    let part = format!("{}.part", args[1]);
    fs::write(&part, format!("{began} {}", now())).unwrap();
    fs::rename(part, &args[1]).unwrap();
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

struct Bench {
    dir: tempfile::TempDir,
    total: u64,
    writer: PathBuf,
}

impl Bench {
    fn new(total: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("rsm-bench-").tempdir().unwrap();
        Self { dir, total, writer: std::env::current_exe().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rsm(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rsm"));
        command.args(args).current_dir(self.dir.path()).env("RSM_HOME", self.path("home"));
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "rsm {args:?} failed");
        String::from_utf8(output.stdout).unwrap()
    }

    fn direct(&self) -> f64 {
        let (file, result) = (self.path("direct.log"), self.path("direct"));
        let total = self.total.to_string();
        let args = ["write", &total, result.to_str().unwrap(), file.to_str().unwrap()];
        assert!(Command::new(&self.writer).args(args).status().unwrap().success());
        fs::remove_file(file).unwrap();
        let speed = speed(self.total, &[result]);
        println!("{:<40} {speed:>10.0}", "straight to a file");
        speed
    }

    fn under_rsm(&self, what: &str, settings: &str, writers: usize, direct: f64) {
        let each = self.total / writers as u64;
        let results: Vec<PathBuf> = (0..writers).map(|writer| self.path(&format!("done-{writer}"))).collect();
        let app = |(number, result): (usize, &PathBuf)| {
            let (program, result) = (self.writer.display(), result.display());
            format!(
                "[[apps]]\nname = 'w{number}'\nscript = '{program}'\nargs = ['write', '{each}', '{result}']\n\
                 autorestart = false\nautostart = true\n{settings}\n"
            )
        };
        fs::write(self.path("bench.toml"), results.iter().enumerate().map(app).collect::<String>()).unwrap();
        self.rsm(&["-s", "cleardump"]);
        let info: serde_json::Value = serde_json::from_str(&self.rsm(&["info", "--json"])).unwrap();
        let daemon = info["daemon"]["pid"].as_i64().unwrap();
        let before = ticks(daemon);
        self.rsm(&["-s", "start", "bench.toml"]);
        let latency = (writers > 1).then(|| self.latency());
        let deadline = Instant::now() + Duration::from_secs(600);
        while !results.iter().all(|result| result.exists()) {
            assert!(Instant::now() < deadline, "{what}: not done");
            std::thread::sleep(Duration::from_millis(20));
        }
        let memory = pss(daemon);
        self.rsm(&["-s", "delete", "all"]);
        let processor = (ticks(daemon) - before) / 100.0 / (self.total as f64 / f64::from(1 << 30));
        let speed = speed(self.total, &results);
        println!("{what:<40} {speed:>10.0} {:>8.2} {processor:>14.2} {memory:>10.1}", speed / direct);
        if let Some(latency) = latency {
            println!("{:<40} {latency:>10.1} ms, median", "rsm list meanwhile");
        }
        self.rsm(&["-s", "kill"]);
        results.iter().for_each(|result| fs::remove_file(result).unwrap());
        fs::remove_dir_all(self.path("home")).unwrap();
    }

    fn latency(&self) -> f64 {
        let mut times: Vec<f64> = (0..READS)
            .map(|_| {
                let began = Instant::now();
                self.rsm(&["list"]);
                began.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[READS / 2]
    }
}

/// Millions of bytes a second, from the first beginning to the last end.
fn speed(total: u64, results: &[PathBuf]) -> f64 {
    let times = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let (began, ended) = text.split_once(' ').unwrap();
        (began.parse::<u128>().unwrap(), ended.parse::<u128>().unwrap())
    };
    let times: Vec<_> = results.iter().map(times).collect();
    let began = times.iter().map(|(began, _)| began).min().unwrap();
    let ended = times.iter().map(|(_, ended)| ended).max().unwrap();
    total as f64 / (ended - began) as f64
}

fn pss(pid: i64) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
}

fn ticks(pid: i64) -> f64 {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
}
