//! `rsm runtime` as the first process of a PID namespace, as in a container.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::harness::{Rsm, need_root, read, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A container: everything in it ends with its first process.
struct Container {
    unshare: Child,
    out: BufReader<std::process::ChildStdout>,
}

/// How one ended and what it said.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn container(rsm: &Rsm, args: &[&str]) -> Command {
    need_root(); // for a PID namespace
    let flags = ["-p", "-f", "--mount-proc", "--kill-child", env!("CARGO_BIN_EXE_rsm"), "runtime"];
    let mut command = rsm.command_of("unshare", &[&flags, args].concat());
    command.stdout(Stdio::piped()).stderr(fs::File::create(rsm.dir().join("stderr")).unwrap());
    command
}

/// Runs one to its end.
fn run(rsm: &Rsm, args: &[&str]) -> Ended {
    Container::start(rsm, args).end(rsm)
}

impl Container {
    fn start(rsm: &Rsm, args: &[&str]) -> Self {
        let mut unshare = container(rsm, args).spawn().unwrap();
        let out = BufReader::new(unshare.stdout.take().unwrap());
        Self { unshare, out }
    }

    /// The pid, out here, of the first process in it.
    fn first(&self) -> i32 {
        let children = format!("/proc/{0}/task/{0}/children", self.unshare.id());
        wait_until("a first process", || read(&children).split_whitespace().next()?.parse().ok())
    }

    /// Waits for a line of standard output.
    fn says(&mut self, what: &str) {
        loop {
            let mut line = String::new();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "it ended before it said {what:?}");
            if line.trim_end() == what {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.first()), signal).unwrap();
    }

    fn end(mut self, rsm: &Rsm) -> Ended {
        let mut out = String::new();
        self.out.read_to_string(&mut out).unwrap();
        let code = self.unshare.wait().unwrap().code();
        Ended { code, out, err: read(rsm.dir().join("stderr")) }
    }
}

/// Says so when it is up, when it is told to go, and on SIGUSR2.
const POLITE: &str = "#!/bin/sh
trap 'echo bye; exit 0' INT
trap 'echo usr2' USR2
echo up
while :; do sleep 0.05; done
";

#[test]
fn sigterm_stops_gracefully_with_exit_0() {
    let rsm = Rsm::new().file("app.sh", POLITE);
    let mut container = Container::start(&rsm, &["app.sh"]);
    container.says("up");
    // A process may speak before the daemon knows of it, and gets no signal until then.
    rsm.wait_status("app", "online");
    container.signal(Signal::SIGUSR2);
    container.says("usr2");
    container.signal(Signal::SIGTERM);
    let ended = container.end(&rsm);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(0), "bye\n", ""));
}

#[test]
fn force_killed_app_fails_the_stop() {
    let rsm = Rsm::new().file("plain.sh", "#!/bin/sh\necho up\nexec sleep 1000\n");
    let mut container = Container::start(&rsm, &["plain.sh"]);
    container.says("up");
    container.signal(Signal::SIGTERM);
    assert_eq!(container.end(&rsm).code, Some(0));

    let rsm = Rsm::new().file("deaf.sh", "#!/bin/sh\ntrap '' INT\necho up\nwhile :; do sleep 0.05; done\n");
    let mut container = Container::start(&rsm, &["deaf.sh", "--kill-timeout", "100"]);
    container.says("up");
    container.signal(Signal::SIGTERM);
    let ended = container.end(&rsm);
    assert_eq!(ended.code, Some(137), "{}", ended.err);

    let rsm =
        Rsm::new().file("own.sh", "#!/bin/sh\ntrap 'exit 7' INT\necho up\nwhile :; do sleep 0.05; done\n");
    let mut container = Container::start(&rsm, &["own.sh"]);
    container.says("up");
    container.signal(Signal::SIGTERM);
    assert_eq!(container.end(&rsm).code, Some(7));
}

#[test]
fn second_ctrl_c_skips_grace_period() {
    let rsm =
        Rsm::new().file("deaf.sh", "#!/bin/sh\ntrap 'echo no' INT\necho up\nwhile :; do sleep 0.05; done\n");
    let mut container = Container::start(&rsm, &["deaf.sh", "--kill-timeout", "1000000"]);
    container.says("up");
    container.signal(Signal::SIGINT);
    container.says("no");
    let first = container.first();
    wait_until("the end", || {
        let _ = kill(Pid::from_raw(first), Signal::SIGINT);
        (!crate::harness::alive(first)).then_some(())
    });
    let ended = container.end(&rsm);
    assert_eq!(ended.code, Some(137), "{}", ended.err);
    assert!(ended.err.contains("killing remaining processes"), "{}", ended.err);
}

#[test]
fn exits_with_code_of_failed_app() {
    let rsm = Rsm::new().file("fails.sh", "#!/bin/sh\necho said\necho why >&2\nexit 7\n");
    let ended = run(&rsm, &["fails.sh", "--max-restarts", "2"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(7), "said\nsaid\nsaid\n"));
    assert!(ended.err.starts_with("why\nwhy\nwhy\n") && ended.err.contains("exit code 7"), "{}", ended.err);
    assert_eq!(run(&rsm, &["fails.sh", "--no-autorestart"]).code, Some(7));

    rsm.write("killed.sh", "#!/bin/sh\nkill -9 $$\n");
    assert_eq!(run(&rsm, &["killed.sh", "--no-autorestart"]).code, Some(137));
    rsm.write("loops.sh", "#!/bin/sh\nexit 0\n");
    assert_eq!(run(&rsm, &["loops.sh", "--max-restarts", "1"]).code, Some(1), "given up is a failure");
    assert_eq!(run(&rsm, &["loops.sh", "--stop-exit-codes", "0"]).code, Some(0), "a job that is done");
    rsm.write("lost.sh", "#!/no/such/interpreter\n");
    assert_eq!(run(&rsm, &["lost.sh", "--interpreter", "none"]).code, Some(127));
    let ended = run(&rsm, &["not-there.sh"]);
    assert!(ended.code == Some(1) && ended.err.contains("not-there.sh"), "{}", ended.err);
    assert_eq!(run(&rsm, &["fails.sh", "killed.sh"]).code, Some(2));
}

#[test]
fn runs_while_any_app_runs() {
    let rsm = Rsm::new().file("app.sh", POLITE).file("job.sh", "#!/bin/sh\necho done\nexit 3\n");
    rsm.write(
        "ecosystem.toml",
        "[[apps]]\nname = \"job\"\nscript = \"./job.sh\"\nautorestart = false\n\n\
         [[apps]]\nname = \"app\"\nscript = \"./app.sh\"\n",
    );
    let mut container = Container::start(&rsm, &["start", "ecosystem.toml", "--prefix"]);
    container.says("1|app | up");
    // Commands work from inside the container, or from anywhere that sees its socket.
    rsm.wait_status("job", "failed");
    assert_eq!(rsm.statuses("app"), ["online"]);
    rsm.ok(&["stop", "app"]);
    let ended = container.end(&rsm);
    assert_eq!(ended.code, Some(3), "{}", ended.err);
}

#[test]
fn orphans_are_reaped() {
    let orphans = "#!/bin/sh
for i in 1 2 3 4 5 6 7 8; do (setsid sh -c 'sleep 0.01' &) ; done
sleep 0.3
trap 'exit 0' INT
echo up
while :; do sleep 0.05; done
";
    let rsm = Rsm::new().file("app.sh", orphans);
    let mut container = Container::start(&rsm, &["app.sh"]);
    container.says("up");
    let first = container.first();
    // As by `docker exec`: the first process gets it, not the keeper.
    let inside = ["-p", "-t", &first.to_string(), "sh", "-c", "(sleep 0.05 &)"].map(str::to_owned);
    assert!(Command::new("nsenter").args(inside).status().unwrap().success());
    wait_until("no zombies", || zombies(first).is_empty().then_some(()));
    container.signal(Signal::SIGTERM);
    assert_eq!(container.end(&rsm).code, Some(0));
}

/// The dead that nobody has collected, below a process.
fn zombies(of: i32) -> Vec<i32> {
    let children = read(format!("/proc/{of}/task/{of}/children"));
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    children
        .flat_map(|pid: i32| {
            let stat = read(format!("/proc/{pid}/stat"));
            let dead = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
            dead.then_some(pid).into_iter().chain(zombies(pid)).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn slow_reader_loses_no_lines() {
    const LINES: usize = 50_000;
    let rsm = Rsm::new()
        .file("flood.sh", &format!("#!/bin/sh\nseq -f 'line-%.0f-of-many-that-come-fast' {LINES}\n"));
    for shape in ["--raw", "--json", "--prefix"] {
        let ended = run(&rsm, &["flood.sh", "--no-autorestart", shape]);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let lines: Vec<&str> = ended.out.lines().collect();
        assert_eq!(lines.len(), LINES, "{shape}");
        let wrong =
            lines.iter().enumerate().find(|(at, line)| !line.contains(&format!("line-{}-of", at + 1)));
        assert_eq!(wrong, None, "{shape}");
    }
}

#[test]
fn json_lines_are_objects_on_stdout() {
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\necho 'an \"odd\" line'\necho trouble >&2\n");
    let ended = run(&rsm, &["app.sh", "--no-autorestart", "--json"]);
    let mut lines: Vec<serde_json::Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["type"].to_string());
    assert_eq!((&lines[0]["message"], &lines[0]["type"]), (&"trouble".into(), &"err".into()));
    assert_eq!((&lines[1]["message"], &lines[1]["app_name"]), (&"an \"odd\" line".into(), &"app".into()));
}

#[test]
fn killed_container_starts_afresh() {
    let rsm = Rsm::new().file("app.sh", POLITE);
    let mut container = Container::start(&rsm, &["app.sh", "--name", "former"]);
    container.says("up");
    container.signal(Signal::SIGKILL);
    container.end(&rsm);
    let mut container = Container::start(&rsm, &["app.sh", "--name", "now"]);
    container.says("up");
    let list = rsm.list();
    assert_eq!((list.len(), &list[0]["name"]), (1, &"now".into()));
    container.signal(Signal::SIGINT);
    assert_eq!(container.end(&rsm).code, Some(0));
}

#[test]
fn container_survives_killing_daemon_or_keeper() {
    let rsm = Rsm::new().file("app.sh", POLITE);
    let mut container = Container::start(&rsm, &["app.sh"]);
    container.says("up");
    // Pids of inside; out here they are others.
    let first = container.first();
    let daemon = wait_until("a daemon", || named(first, "rsm-daemon"));
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    wait_until("another daemon", || named(first, "rsm-daemon").filter(|pid| *pid != daemon));
    rsm.wait_status("app", "online");
    container.signal(Signal::SIGUSR2);
    container.says("usr2");
    container.signal(Signal::SIGTERM);
    let ended = container.end(&rsm);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "bye\n"), "{}", ended.err);
}

/// The process of this name below another.
fn named(of: i32, name: &str) -> Option<i32> {
    let children = read(format!("/proc/{of}/task/{of}/children"));
    let children: Vec<i32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    let found = children.iter().find(|pid| read(format!("/proc/{pid}/comm")).trim() == name).copied();
    found.or_else(|| children.iter().find_map(|pid| named(*pid, name)))
}

#[test]
fn pm2_runtime_link_behaves_the_same() {
    let rsm = Rsm::new().file("job.sh", "#!/bin/sh\necho done\nexit 4\n");
    let link = rsm.dir().join("pm2-runtime");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_rsm"), &link).unwrap();
    let link = link.display().to_string();
    for args in
        [&["job.sh", "--no-autorestart"][..], &["start", "job.sh", "--no-autorestart", "--secret", "x"]]
    {
        let output = rsm.command_of(&link, args).output().unwrap();
        crate::harness::Ran::new(args, &output).code(4).shows("done");
    }
    let output = rsm.command_of(&link, &["--version"]).output().unwrap();
    crate::harness::Ran::new(&["--version"], &output).code(0).shows("rsm");
}

#[test]
fn refuses_home_with_running_daemon() {
    let rsm = Rsm::new().file("app.sh", POLITE);
    rsm.ok(&["start", "app.sh"]);
    rsm.run(&["runtime", "app.sh"]).code(1).says("is already running").says("rsm start");
    assert_eq!(rsm.statuses("app"), ["online"]);
}

#[test]
fn each_line_is_shown_once_whatever_files_are_configured() {
    let own = "out_file = './o.log'\nerror_file = './e.log'";
    for (settings, is_kept) in [
        ("", false),
        ("out_file = '/dev/null'\nerror_file = '/dev/null'", false),
        ("out_file = '/dev/stdout'\nerror_file = '/dev/stderr'", false),
        ("out_file = '/proc/1/fd/1'\nerror_file = '/proc/1/fd/2'", false),
        ("out_file = '/proc/self/fd/1'\nlog_file = '/dev/stdout'", false),
        ("logs = false", false),
        (own, true),
        ("out_file = './o.log'\nlog_file = './all.log'", true),
    ] {
        let rsm = Rsm::new().file(
            "e.toml",
            &format!(
                "[[apps]]\nname = 'a'\nscript = 'echo to out; echo to err >&2'\nautorestart = false\n{settings}\n"
            ),
        );
        let ended = run(&rsm, &["e.toml"]);
        assert_eq!((ended.out.as_str(), ended.err.as_str()), ("to out\n", "to err\n"), "{settings}");
        let kept = fs::read_to_string(rsm.dir().join("o.log")).unwrap_or_default();
        assert_eq!(kept == "to out\n", is_kept, "{settings}: {kept}");
    }
}

#[test]
fn json_of_the_file_is_shown() {
    let rsm = Rsm::new().file(
        "e.toml",
        "[[apps]]\nname = 'a'\nscript = 'echo to out'\nautorestart = false\nlog_type = 'json'\n",
    );
    let ended = run(&rsm, &["e.toml"]);
    let line: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&line["message"], &line["type"]), (&"to out".into(), &"out".into()), "{line}");
}
