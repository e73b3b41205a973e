//! Speed of log capture, compared with a program that appends to a file without rsm: `cargo bench --bench
//! logs`. `benches/README.md` explains each row.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// MiB written in each row, unless `RSM_BENCH_MIB` is set.
const DEFAULT_MIB: u64 = 1024;
const LINE: usize = 100;
/// Bytes written at once. Most languages use a buffer of this size.
const BLOCK: usize = 8 * 1024;
const WRITERS: usize = 50;
const LISTS: usize = 40;
/// Size of the flood, relative to the other rows.
const FLOOD_FACTOR: u64 = 4;
/// Number of followers that do not read their output.
const STALLED: usize = 99;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "write") {
        return write(&args[2..]);
    }
    let total = std::env::var("RSM_BENCH_MIB").map_or(DEFAULT_MIB, |mib| mib.parse().unwrap()) << 20;
    println!("{:<40} {:>10} {:>8} {:>14} {:>10}", "benchmark", "MB/s", "ratio", "CPU s per GiB", "PSS MB");
    let bench = Bench::new(total);
    let direct = bench.direct();
    for (row, settings) in [
        ("raw", "logs = { interval = 'none', max_size = 'none' }"),
        ("raw, rotated every 10 MB", "logs = { retain = 5 }"),
        ("raw, rotated and compressed", "logs = { retain = 5, compress = true }"),
        ("timestamped", "log_date_format = 'YYYY-MM-DD HH:mm:ss.SSS'\nlogs = { max_size = 'none' }"),
        ("json", "log_type = 'json'\nlogs = { max_size = 'none' }"),
    ] {
        bench.under_rsm(row, settings, 1, direct);
    }
    bench.under_rsm("50 writers, raw", "logs = { retain = 1 }", WRITERS, direct);
    bench.flood();
    bench.readers(0);
    bench.readers(STALLED);
    bench.pm2(direct);
}

/// The program that is measured: `write TOTAL RESULT [FILE]`. Writes its start and end time to RESULT.
fn write(args: &[String]) {
    let total: usize = args[0].parse().unwrap();
    let block: Vec<u8> = (0..BLOCK).map(|at| if at % LINE == LINE - 1 { b'\n' } else { b'a' }).collect();
    let block = &block[..BLOCK / LINE * LINE];
    let mut out: Box<dyn Write> = match args.get(2) {
        Some(path) => Box::new(OpenOptions::new().create(true).append(true).open(path).unwrap()),
        None => Box::new(File::from(nix::unistd::dup(std::io::stdout()).unwrap())),
    };
    let start = now();
    for _ in 0..total / block.len() {
        out.write_all(block).unwrap();
    }
    let partial = format!("{}.part", args[1]);
    fs::write(&partial, format!("{start} {}", now())).unwrap();
    fs::rename(partial, &args[1]).unwrap();
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

    fn under_rsm(&self, row: &str, settings: &str, writers: usize, direct: f64) {
        let size = self.total / writers as u64;
        let results: Vec<PathBuf> = (0..writers).map(|writer| self.path(&format!("done-{writer}"))).collect();
        let app = |(number, result): (usize, &PathBuf)| {
            let (program, result) = (self.writer.display(), result.display());
            format!(
                "[[apps]]\nname = 'w{number}'\nscript = '{program}'\nargs = ['write', '{size}', '{result}']\n\
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
            assert!(Instant::now() < deadline, "{row}: timeout");
            std::thread::sleep(Duration::from_millis(20));
        }
        let memory = pss(daemon);
        self.rsm(&["-s", "delete", "all"]);
        let cpu_seconds = (ticks(daemon) - before) / 100.0 / (self.total as f64 / f64::from(1 << 30));
        let speed = speed(self.total, &results);
        println!("{row:<40} {speed:>10.0} {:>8.2} {cpu_seconds:>14.2} {memory:>10.1}", speed / direct);
        if let Some(latency) = latency {
            println!("{:<40} {latency:>10.1} ms, median", "rsm list during the run");
        }
        self.rsm(&["-s", "kill"]);
        results.iter().for_each(|result| fs::remove_file(result).unwrap());
        fs::remove_dir_all(self.path("home")).unwrap();
    }

    /// One app writes for a long time: maximum memory of the daemon, and duration of a list.
    fn flood(&self) {
        let (total, result) = (self.total * FLOOD_FACTOR, self.path("done-0"));
        let daemon = self.one_writer(total, &result, "logs = { retain = 5 }");
        let (initial, mut max, mut times) = (pss(daemon), 0.0_f64, Vec::new());
        while !result.exists() {
            max = max.max(pss(daemon));
            times.push(self.timed_list());
        }
        times.sort_by(f64::total_cmp);
        let speed = speed(total, &[result]);
        println!("{:<40} {speed:>10.0}", format!("flood of {} GiB", total >> 30));
        println!("{:<40} {initial:>10.1} MB, maximum {max:.1}", "PSS of the daemon");
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        println!("{:<40} {median:>10.1} ms, median of {}", "rsm list during the run", times.len());
        self.end();
    }

    /// One follower reads, and others do not read their output.
    fn readers(&self, stalled: usize) {
        let (total, result) = (self.total / 4, self.path("done-0"));
        let daemon = self.one_writer(total, &result, "autostart = false\nlogs = { retain = 'all' }");
        let follow = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rsm"));
            command.args(["logs", "w0", "--raw", "--lines", "0"]).env("RSM_HOME", self.path("home"));
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut stalled_readers: Vec<_> = (0..stalled).map(|_| follow()).collect();
        let mut reader = follow();
        std::thread::sleep(Duration::from_secs(1)); // they must follow before the app starts
        let start = Instant::now();
        self.rsm(&["-s", "start", "w0"]);
        let (mut read, mut max, mut block) = (0, 0.0_f64, vec![0; 1 << 20]);
        let total = total / (BLOCK / LINE * LINE) as u64 * (BLOCK / LINE * LINE) as u64;
        let mut sampled_at = Instant::now();
        while read < total {
            read += reader.stdout.as_mut().unwrap().read(&mut block).unwrap() as u64;
            if sampled_at.elapsed() > Duration::from_millis(200) {
                (max, sampled_at) = (max.max(pss(daemon)), Instant::now());
            }
        }
        let speed = total as f64 / start.elapsed().as_micros() as f64;
        let row = format!("one reader, {stalled} stalled");
        println!("{row:<40} {speed:>10.0} {:>8} {:>14} {max:>10.1}", "", "");
        for child in stalled_readers.iter_mut().chain([&mut reader]) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.end();
    }

    /// Starts one writer. Returns the pid of the daemon.
    fn one_writer(&self, total: u64, result: &Path, settings: &str) -> i64 {
        let (program, result) = (self.writer.display(), result.display());
        let app = format!(
            "[[apps]]\nname = 'w0'\nscript = '{program}'\nargs = ['write', '{total}', '{result}']\n\
             autorestart = false\n{settings}\n"
        );
        fs::write(self.path("bench.toml"), app).unwrap();
        self.rsm(&["-s", "start", "bench.toml"]);
        let info: serde_json::Value = serde_json::from_str(&self.rsm(&["info", "--json"])).unwrap();
        info["daemon"]["pid"].as_i64().unwrap()
    }

    fn end(&self) {
        self.rsm(&["-s", "kill"]);
        let _ = fs::remove_file(self.path("done-0"));
        fs::remove_dir_all(self.path("home")).unwrap();
    }

    /// The same under PM2, raw and with timestamps, if npm can install it.
    fn pm2(&self, direct: f64) {
        let dir = self.path("pm2");
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
        let installed = npm.arg(&dir).arg("pm2").stdout(Stdio::null()).status();
        if !installed.is_ok_and(|status| status.success()) {
            println!("PM2 is skipped: npm is missing or cannot install it");
            return;
        }
        for (row, date_format) in [("PM2, raw", None), ("PM2, timestamped", Some("YYYY-MM-DD HH:mm:ss.SSS"))]
        {
            let result = self.path("done-pm2");
            let (total, log) = (self.total.to_string(), self.path("pm2.log"));
            let run = |args: &[&str]| {
                let mut command = Command::new(dir.join("node_modules/.bin/pm2"));
                command.args(args).env("PM2_HOME", self.path("pm2-home")).stdin(Stdio::null());
                assert!(command.stdout(Stdio::null()).status().unwrap().success(), "pm2 {args:?} failed");
            };
            let paths = [&self.writer, &log, &result].map(|path| path.to_str().unwrap().to_owned());
            let [program, log_path, result_path] = paths.each_ref().map(String::as_str);
            let mut args = vec!["start", program, "--name", "w0", "--interpreter", "none"];
            args.extend(["--no-autorestart", "-o", log_path]);
            args.extend(date_format.iter().flat_map(|format| ["--log-date-format", format]));
            args.extend(["--", "write", &total, result_path]);
            run(&args);
            let deadline = Instant::now() + Duration::from_secs(600);
            while !result.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let lost =
                self.total / (BLOCK / LINE * LINE) as u64 * (BLOCK / LINE) as u64 - settled_lines(&log);
            let speed = speed(self.total, std::slice::from_ref(&result));
            println!("{row:<40} {speed:>10.0} {:>8.2} {:>14} lines lost: {lost}", speed / direct, "");
            run(&["kill"]);
            [log, result].iter().for_each(|file| fs::remove_file(file).unwrap());
        }
    }

    fn timed_list(&self) -> f64 {
        let start = Instant::now();
        self.rsm(&["list"]);
        start.elapsed().as_secs_f64() * 1000.0
    }

    fn latency(&self) -> f64 {
        let mut times: Vec<f64> = (0..LISTS).map(|_| self.timed_list()).collect();
        times.sort_by(f64::total_cmp);
        times[LISTS / 2]
    }
}

/// Megabytes per second, from the first start to the last end.
fn speed(total: u64, results: &[PathBuf]) -> f64 {
    let times = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let (start, end) = text.split_once(' ').unwrap();
        (start.parse::<u128>().unwrap(), end.parse::<u128>().unwrap())
    };
    let times: Vec<_> = results.iter().map(times).collect();
    let start = times.iter().map(|(start, _)| start).min().unwrap();
    let end = times.iter().map(|(_, end)| end).max().unwrap();
    total as f64 / (end - start) as f64
}

/// Number of lines of a file once it has not grown for two seconds.
fn settled_lines(path: &Path) -> u64 {
    let length = || fs::metadata(path).map_or(0, |meta| meta.len());
    let (mut before, mut since) = (length(), Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(100));
        let now = length();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    let (mut file, mut block, mut lines) = (File::open(path).unwrap(), vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut block).unwrap() {
            0 => return lines,
            count => lines += block[..count].iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }
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
