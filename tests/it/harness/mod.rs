//! A builder for tests that use the real binary as a user does: each test has its own `RSM_HOME` and
//! directory, and leaves nothing behind.
//!
//! Tests wait here and nowhere else: for a condition that is checked after each event, with a deadline.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod following;
#[allow(dead_code)] // tests/cluster uses the rest
pub mod load_client;
#[allow(dead_code)]
pub mod ports;
pub mod stall;
pub mod wait;

pub use ports::free_port;
pub use wait::{DEADLINE, wait_until};

/// One rsm of its own.
pub struct Rsm {
    dir: tempfile::TempDir,
    vars: Vec<(String, String)>,
    user: Option<u32>,
    home: &'static str,
}

impl Rsm {
    /// An empty home and an empty directory for the app's files.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rsm-test-").tempdir().unwrap();
        fs::create_dir(dir.path().join("app")).unwrap();
        Self { dir, vars: Vec::new(), user: None, home: "home" }
    }

    /// A variable of the shell that commands are typed in.
    pub fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.into(), value.into()));
        self
    }

    /// Has `RSM_HOME` at this path in the test's directory.
    #[allow(dead_code)]
    pub fn home_in_app(mut self, path: &'static str) -> Self {
        self.home = path;
        self
    }

    /// Writes a file of the app.
    pub fn file(self, name: &str, content: &str) -> Self {
        self.write(name, content);
        self
    }

    /// Writes a file of the app; executable if it starts with `#!`.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.starts_with("#!") {
            true => install(content.as_bytes(), &path),
            false => fs::write(&path, content).unwrap(),
        }
        path
    }

    /// The directory of the app's files, where commands are typed.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("app")
    }

    /// Has everything done by this user, to whom the directory then belongs.
    pub fn by_user(mut self, uid: u32) -> Self {
        need_root();
        self.open_to_all();
        // Cargo's own may lie where nobody else may look.
        install(&fs::read(env!("CARGO_BIN_EXE_rsm")).unwrap(), &self.dir.path().join("rsm"));
        for dir in [self.dir.path(), &self.dir()] {
            std::os::unix::fs::chown(dir, Some(uid), Some(uid)).unwrap();
        }
        self.user = Some(uid);
        self
    }

    /// Lets other users in: a test's directory is private otherwise.
    pub fn open_to_all(&self) {
        use std::os::unix::fs::PermissionsExt;
        for dir in [self.dir.path(), &self.dir()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// `RSM_HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join(self.home)
    }

    /// A command, ready to be run.
    pub fn command(&self, args: &[&str]) -> Command {
        let Some(uid) = self.user else { return self.command_of(env!("CARGO_BIN_EXE_rsm"), args) };
        let mut command = self.command_of(self.dir.path().join("rsm").to_str().unwrap(), args);
        std::os::unix::process::CommandExt::gid(&mut command, uid);
        std::os::unix::process::CommandExt::uid(&mut command, uid);
        command
    }

    /// The same of another program.
    pub fn command_of(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir()).stdin(Stdio::null());
        command.env("RSM_HOME", self.home()).env("HOME", self.dir.path()).env_remove("PM2_HOME");
        for (name, value) in &self.vars {
            command.env(name, value);
        }
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output().unwrap();
        Ran::new(args, &output)
    }

    /// Runs a command that must succeed.
    pub fn ok(&self, args: &[&str]) -> Ran {
        self.run(args).code(0)
    }

    /// What a reading command says with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let ran = self.ok(args);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ran.stdout))
    }

    /// All instances.
    pub fn list(&self) -> Vec<Value> {
        self.json(&["list", "--json"]).as_array().unwrap().clone()
    }

    /// The status of each instance of an app.
    pub fn statuses(&self, name: &str) -> Vec<String> {
        let list = self.list();
        let of_name = list.iter().filter(|instance| instance["name"] == name);
        of_name.map(|instance| instance["status"].as_str().unwrap().to_owned()).collect()
    }

    /// The pids of an app's instances that run.
    pub fn pids(&self, name: &str) -> Vec<i32> {
        let list = self.list();
        let of_name = list.iter().filter(|instance| instance["name"] == name);
        of_name.filter_map(|instance| instance["pid"].as_i64()).map(|pid| pid as i32).collect()
    }

    /// A connection to the daemon.
    pub fn socket(&self) -> UnixStream {
        let socket = UnixStream::connect(self.home().join("rsm.sock")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    /// Sends a raw request and returns all that is said until the daemon hangs up: ask it to
    /// (`Connection: close`) where the request makes sense.
    pub fn http(&self, request: &[u8]) -> String {
        let mut socket = self.socket();
        let _ = socket.write_all(request);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Waits until `found` finds something, looking again after each event.
    pub fn wait_until<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let mut events = self.events();
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < end, "never so: {what}; list: {:#?}", self.list());
            events.wait(Duration::from_millis(200));
        }
    }

    /// Waits until all instances of an app have this status.
    pub fn wait_status(&self, name: &str, status: &str) {
        self.wait_until(&format!("{name} is {status}"), |rsm| {
            let statuses = rsm.statuses(name);
            (!statuses.is_empty() && statuses.iter().all(|is| is == status)).then_some(())
        });
    }

    /// The event stream, from now on.
    pub fn events(&self) -> Events {
        let mut socket = self.socket();
        socket.write_all(b"GET /v1/events HTTP/1.1\r\nHost: rsm\r\n\r\n").unwrap();
        Events { lines: BufReader::new(socket), rest: Vec::new() }
    }

    /// A copy of the binary that says to be of another version.
    pub fn another_version(&self, version: &str) -> PathBuf {
        let stamp = |version: &str| format!("rsm-version={version}").into_bytes();
        let (ours, other) = (stamp(env!("CARGO_PKG_VERSION")), stamp(version));
        assert_eq!(ours.len(), other.len());
        let mut binary = fs::read(env!("CARGO_BIN_EXE_rsm")).unwrap();
        let at = memchr::memmem::find(&binary, &ours).unwrap();
        binary[at..at + other.len()].copy_from_slice(&other);
        let path = self.dir().join("rsm-other");
        install(&binary, &path);
        path
    }

    /// Kills what a failed test, or something outside of rsm's control, has left running.
    fn kill_leftovers(&self) {
        let home = self.home().display().to_string();
        let pids =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        for pid in pids.filter(|pid| environ(*pid).get("RSM_HOME") == Some(&home)) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// The pids of daemon and keeper.
    pub fn managers(&self) -> (i32, i32) {
        let info = self.json(&["info", "--json"]);
        let pid = |who: &str| info[who]["pid"].as_i64().unwrap() as i32;
        (pid("daemon"), pid("keeper"))
    }

    /// The pids of daemon and keeper, once another daemon than this one answers.
    pub fn next_managers(&self, daemon: i32) -> (i32, i32) {
        wait_until("another daemon", || {
            let info = self.run(&["info", "--json"]);
            let info: Value = serde_json::from_str(&info.stdout).ok()?;
            let pid = |who: &str| info[who]["pid"].as_i64().map(|pid| pid as i32);
            pid("daemon").filter(|pid| *pid != daemon).zip(pid("keeper"))
        })
    }
}

/// Tests that change users need root, and fail without: a test that cannot run never passes.
pub fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
}

impl Drop for Rsm {
    fn drop(&mut self) {
        let output = self.command(&["kill"]).output().unwrap();
        self.kill_leftovers();
        if !output.status.success() && !std::thread::panicking() {
            panic!("rsm kill failed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// The event stream of one rsm.
pub struct Events {
    lines: BufReader<UnixStream>,
    rest: Vec<u8>,
}

impl Events {
    /// Waits for the next event, at most so long.
    pub fn wait(&mut self, at_most: Duration) {
        self.lines.get_ref().set_read_timeout(Some(at_most)).unwrap();
        match self.lines.read_until(b'\n', &mut self.rest) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => std::thread::sleep(at_most.min(Duration::from_millis(20))), // the daemon is gone
            Ok(_) => self.rest.clear(),
        }
    }
}

/// Writes an executable by a process of its own. A process that another test has forked meanwhile would
/// keep a descriptor of ours open for writing for a moment, and nothing may execute the file until then.
pub fn install(content: &[u8], path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut source = tempfile::NamedTempFile::new().unwrap();
    source.write_all(content).unwrap();
    assert!(Command::new("cp").args([source.path(), path]).status().unwrap().success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What came of a command.
#[derive(Debug)]
pub struct Ran {
    args: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn new(args: &[&str], output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Self { args: args.join(" "), code: output.status.code(), stdout, stderr }
    }

    /// It must have ended with this code.
    pub fn code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "rsm {}\nstdout: {}\nstderr: {}",
            self.args,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Its standard error must say this.
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "rsm {}: no \"{text}\" in stderr: {}", self.args, self.stderr);
        self
    }

    /// Its standard output must show this.
    pub fn shows(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "rsm {}: no \"{text}\" in stdout: {}", self.args, self.stdout);
        self
    }
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| state != 'Z')
}

/// The environment a process was started with.
pub fn environ(pid: i32) -> BTreeMap<String, String> {
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    read(format!("/proc/{pid}/environ")).split('\0').filter_map(pair).collect()
}

/// The arguments a process was started with.
pub fn cmdline(pid: i32) -> Vec<String> {
    let line = read(format!("/proc/{pid}/cmdline"));
    line.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

/// Reads a file, empty if there is none.
pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The body of `GET /` on a local port, if it answers.
pub fn get(port: u16, path: &str) -> Option<String> {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(DEADLINE)).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    Some(answer)
}
