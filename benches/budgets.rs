//! Measures rsm's budgets beside a bare loop in C, in one run: `cargo bench`.
//!
//! Prints a table and judges nothing: machines differ and are noisy. What each row means is in
//! `benches/README.md`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds of what changes the list, and of what only reads it.
const ROUNDS: usize = 5;
const READS: usize = 40;

fn main() {
    let bench = Bench::new();
    println!(
        "{:<46} {:>22}  {:>10}  {:>6}  {:>10}",
        "benchmark", "median (min-max)", "bare", "ratio", "goal"
    );
    bench.first_command();
    bench.reads(0);
    for count in [100, 500] {
        bench.start_and_stop(count);
    }
    bench.crash();
    bench.restart();
    bench.timed(&["kill"]);
}

struct Bench {
    dir: tempfile::TempDir,
    bare: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rsm-bench-").tempdir().unwrap();
        let bare = dir.path().join("bare");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bare.c");
        let compiled = Command::new("cc").args(["-O2", "-o"]).arg(&bare).arg(source).status();
        assert!(compiled.is_ok_and(|status| status.success()), "the bare loop needs a C compiler (cc)");
        for count in [100, 500] {
            let app = |index| {
                format!("[[apps]]\nname = \"nap-{index}\"\nscript = \"/bin/sleep\"\nargs = \"1000\"\n")
            };
            fs::write(dir.path().join(format!("{count}.toml")), (0..count).map(app).collect::<String>())
                .unwrap();
        }
        Self { dir, bare }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rsm"));
        command.args(args).current_dir(self.dir.path()).env("RSM_HOME", self.dir.path().join("home"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Milliseconds of a whole command.
    fn timed(&self, args: &[&str]) -> f64 {
        let began = Instant::now();
        let status = self.command(args).status().unwrap();
        let passed = milliseconds(began.elapsed());
        assert!(status.success(), "rsm {args:?} failed");
        passed
    }

    /// Milliseconds of the bare loop, by its own clock.
    fn bare(&self, what: &str, count: usize) -> f64 {
        let one = || {
            let output = Command::new(&self.bare).args([what, &count.to_string()]).output().unwrap();
            let _ = Command::new("pkill").args(["-x", "-f", "sleep 1000"]).status();
            String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().unwrap() / 1000.0
        };
        median(&(0..ROUNDS).map(|_| one()).collect::<Vec<_>>())
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.command(args).stdout(Stdio::piped()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn managers(&self) -> [i64; 2] {
        let info = self.json(&["info", "--json"]);
        ["daemon", "keeper"].map(|who| info[who]["pid"].as_i64().unwrap())
    }

    fn first_command(&self) {
        let times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                // The lightest command that starts the daemon.
                let time = self.timed(&["cleardump"]);
                self.timed(&["kill"]);
                time
            })
            .collect();
        row("first command, with start of the daemon", &times, "ms", None, "15 ms");
        self.timed(&["cleardump"]);
    }

    fn reads(&self, count: usize) {
        let goal = ["1.5 ms", "2 ms", "4 ms"][usize::from(count >= 100) + usize::from(count >= 500)];
        let spawn: Vec<f64> = (0..READS)
            .map(|_| {
                let began = Instant::now();
                Command::new("/bin/true").status().unwrap();
                milliseconds(began.elapsed())
            })
            .collect();
        for args in [&["jlist"][..], &["list", "--json"]] {
            let times: Vec<f64> = (0..READS).map(|_| self.timed(args)).collect();
            let what = format!("{} with {count} (bare: /bin/true)", args.join(" "));
            row(&what, &times, "ms", Some(median(&spawn)), goal);
        }
        let sizes = self.managers().map(|pid| smaps(pid, "Pss:"));
        let goal = ["4.4 MB", "5.5 MB", "9 MB"][usize::from(count >= 100) + usize::from(count >= 500)];
        let what = format!("memory (PSS) of daemon and keeper, {count}");
        row(&what, &[sizes.iter().sum::<f64>() / 1024.0], "MB", None, goal);
    }

    fn start_and_stop(&self, count: usize) {
        let file = format!("{count}.toml");
        let (mut starts, mut stops) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            starts.push(self.timed(&["-s", "start", "--no-wait", &file]));
            stops.push(self.timed(&["-s", "stop", "all"]));
            self.timed(&["-s", "delete", "all"]);
        }
        row(&format!("start {count} from one file"), &starts, "ms", Some(self.bare("start", count)), "1.5 x");
        row(&format!("stop all {count}"), &stops, "ms", Some(self.bare("stop", count)), "3 x");
        self.timed(&["-s", "start", "--no-wait", &file]);
        self.reads(count);
        if count == 100 {
            self.succession(count);
            self.processor(count);
        }
        self.timed(&["-s", "delete", "all"]);
    }

    /// From the death of our own processes until a command has its list again.
    fn succession(&self, count: usize) {
        let kill = |pid: i64| {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        };
        for (what, chosen) in [("daemon", [true, false]), ("keeper", [false, true]), ("both", [true, true])] {
            let round = |_| {
                let managers = self.managers();
                // One that dies again and again is started with a pause.
                std::thread::sleep(Duration::from_millis(1100));
                let began = Instant::now();
                managers.iter().zip(chosen).filter(|(_, chosen)| *chosen).for_each(|(pid, _)| kill(*pid));
                self.timed(&["list", "--json"]);
                milliseconds(began.elapsed())
            };
            let times: Vec<f64> = (0..ROUNDS * 2).map(round).collect();
            row(&format!("{what} killed until list answers, {count}"), &times, "ms", None, "50 ms");
        }
    }

    /// From a kill to the next process running, as the app itself sees it.
    fn crash(&self) {
        let fifo = self.dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = self.dir.path().join("say.sh");
        fs::write(&script, "#!/bin/sh\necho $$ > fifo\nexec sleep 1000\n").unwrap();
        let path = script.to_str().unwrap();
        let mut start = self
            .command(&["-s", "start", path, "--interpreter", "/bin/sh", "--min-uptime", "0"])
            .spawn()
            .unwrap();
        let mut pid = read_pid(&fifo);
        start.wait().unwrap();
        let times: Vec<f64> = (0..READS)
            .map(|_| {
                let began = Instant::now();
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                    .unwrap();
                pid = read_pid(&fifo);
                milliseconds(began.elapsed())
            })
            .collect();
        row(
            "crash until the next process writes (sh)",
            &times,
            "ms",
            Some(self.bare("crash", READS)),
            "1.5 ms",
        );
        self.timed(&["-s", "delete", "all"]);
    }

    fn restart(&self) {
        self.timed(&["-s", "start", "/bin/sleep", "--name", "nap", "--", "1000"]);
        let times: Vec<f64> =
            (0..READS).map(|_| self.timed(&["-s", "restart", "--no-wait", "nap"])).collect();
        row(
            "restart of an app that exits immediately",
            &times,
            "ms",
            Some(self.bare("crash", READS)),
            "6 ms",
        );
        self.timed(&["-s", "delete", "all"]);
    }

    /// What the managers use of a core while nothing happens, sampling included.
    fn processor(&self, count: usize) {
        let pids = self.managers();
        std::thread::sleep(Duration::from_secs(3));
        let (before, began) = (pids.map(ticks), Instant::now());
        std::thread::sleep(Duration::from_secs(20));
        let used: f64 = pids.map(ticks).iter().zip(before).map(|(after, before)| after - before).sum();
        let percent = used / began.elapsed().as_secs_f64(); // 100 ticks a second: ticks are percent
        row(&format!("CPU of daemon and keeper, {count} idle"), &[percent], "%", None, "0.2 %");
    }
}

fn read_pid(fifo: &Path) -> i32 {
    fs::read_to_string(fifo).unwrap().trim().parse().unwrap()
}

/// Kilobytes of a line of `smaps_rollup`.
fn smaps(pid: i64, line: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn ticks(pid: i64) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn row(what: &str, values: &[f64], unit: &str, bare: Option<f64>, goal: &str) {
    let (least, most) =
        values.iter().fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(*value), high.max(*value)));
    let range = if values.len() > 1 { format!(" ({least:.2}-{most:.2})") } else { String::new() };
    let shown = format!("{:.2}{range} {unit}", median(values));
    let (beside, ratio) = match bare {
        Some(bare) => (format!("{bare:.2} {unit}"), format!("{:.2}", median(values) / bare)),
        None => (String::new(), String::new()),
    };
    println!("{what:<46} {shown:>22}  {beside:>10}  {ratio:>6}  {goal:>10}");
}
