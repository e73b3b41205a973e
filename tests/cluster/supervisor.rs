//! A small daemon and keeper in one: starts programs under the seccomp filter, sends commands to the engine, stores its
//! descriptors, and can drop the engine as if the daemon had been killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rsm::cluster::{
    Address, Cluster, ClusterEvent, ClusterHost, ClusterThread, FdStoreOp, Mechanism, OpenRequest,
    PassedSockets, PortSettings, RunStarted, SocketInfo, TreeContext, activation,
};
use rsm::process::process_ref::ProcessRef;
use rsm::process::spawn::report::StartMessage;
use rsm::process::spawn::{self, LaunchSource, LaunchSpec};
use rsm::process::tree::{OrphanScope, RunMarker};
use rsm::spec::Account;

use crate::wait::wait_or_none;

pub const APP: &str = "api";
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

type FdStore = Arc<Mutex<BTreeMap<String, OwnedFd>>>;

struct Host {
    events: Sender<ClusterEvent>,
    fd_store: FdStore,
}

impl ClusterHost for Host {
    fn publish(&mut self, event: ClusterEvent) {
        let _ = self.events.send(event);
    }

    fn store_fd(&mut self, operation: FdStoreOp) {
        let mut fd_store = self.fd_store.lock().unwrap();
        match operation {
            FdStoreOp::Store(name, fd) => drop(fd_store.insert(name, fd)),
            FdStoreOp::Remove(name) => drop(fd_store.remove(&name)),
        }
    }
}

/// A program under the seccomp filter.
pub struct Run {
    pub number: u64,
    pub slot: u32,
    pub pid: i32,
    notifier: Option<OwnedFd>,
    output: PathBuf,
    reaped: bool,
}

pub struct Supervisor {
    engine: Option<ClusterThread>,
    events: Receiver<ClusterEvent>,
    sender: Sender<ClusterEvent>,
    /// Events that arrived while another was awaited.
    unmatched: Vec<ClusterEvent>,
    fd_store: FdStore,
    mechanism: Mechanism,
    account: Option<Account>,
    /// Configured addresses, for socket activation.
    pub listen: Vec<Address>,
    runs: Vec<Run>,
    next: u64,
    dir: tempfile::TempDir,
}

impl Supervisor {
    pub fn new(mechanism: Mechanism, settings: PortSettings) -> Self {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let (sender, events) = channel();
        let fd_store = FdStore::default();
        let engine = start_engine(&sender, &fd_store, Vec::new());
        engine.handle().set_app(APP, settings);
        let dir = tempfile::tempdir().unwrap();
        // Run keys are in the run marker that processes are found by, and tests run in parallel.
        let next = u64::from(fastrand::u32(..)) << 16;
        let (unmatched, runs, listen) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            engine: Some(engine),
            events,
            sender,
            unmatched,
            fd_store,
            mechanism,
            account: None,
            listen,
            runs,
            next,
            dir,
        }
    }

    /// Starts programs as another user from now on.
    pub fn become_user(&mut self, uid: u32) {
        let (user, home) = (uid.to_string(), PathBuf::from("/"));
        self.account = Some(Account { user, uid, gid: uid, groups: Vec::new(), home });
    }

    pub fn cluster(&self) -> Cluster {
        self.engine.as_ref().unwrap().handle()
    }

    /// Starts a program in a slot; the key of its run.
    pub fn start(&mut self, slot: u32, argv: &[impl AsRef<str>]) -> u64 {
        self.start_in(APP, slot, argv)
    }

    pub fn start_in(&mut self, app: &str, slot: u32, argv: &[impl AsRef<str>]) -> u64 {
        self.next += 1;
        let number = self.next;
        let output = self.dir.path().join(format!("{number}.log"));
        let log = OwnedFd::from(File::create(&output).unwrap());
        let mut env: Vec<String> = ["PATH", "HOME", "GOCACHE", "PYENV_ROOT"]
            .into_iter()
            .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)))
            .collect();
        env.extend([format!("RSM_RUN={}", run_marker().value(number)), format!("SLOT={slot}")]);
        let mut fds = vec![log.try_clone().unwrap(), log];
        let mut numbers = vec![1, 2];
        if self.mechanism.supervised_calls().is_none() {
            let (run, app, addresses) = (number, app.to_owned(), self.listen.clone());
            let request = OpenRequest { run, app, slot, uid: 0, addresses };
            fds.extend(self.cluster().open_sockets(request).blocking_recv().unwrap().unwrap());
            let script = activation::write_script(self.dir.path()).unwrap();
            let passed = PassedSockets::new(self.mechanism, &self.listen, &script, "");
            numbers.extend(passed.fds);
            env.extend(passed.env.into_iter().map(|(name, value)| format!("{name}={value}")));
        }
        let mut arguments = vec!["env".to_owned()];
        arguments.extend(argv.iter().map(|word| word.as_ref().to_owned()));
        let launch = LaunchSpec {
            nofile: None,
            tag: None,
            program: "/usr/bin/env".into(),
            argv: arguments,
            env,
            cwd: "/".into(),
            account: self.account.clone(),
            fds: numbers,
            supervised_calls: self.mechanism.supervised_calls(),
            limits: None,
            listen_pid: self.mechanism == Mechanism::SocketActivation,
        };
        let forked = spawn::fork_launch(LaunchSource::Inline(Box::new(launch)), fds, None).unwrap();
        let mut notifier = None;
        loop {
            let mut wait = [PollFd::new(forked.report.as_fd(), PollFlags::POLLIN)];
            assert!(poll(&mut wait, PollTimeout::from(30_000u16)).unwrap() > 0, "no report");
            match forked.report.receive() {
                StartMessage::Notifier(fd) => notifier = Some(fd),
                StartMessage::Execed => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(notifier.is_some(), self.mechanism.supervised_calls().is_some());
        self.runs.push(Run { number, slot, pid: forked.pid, notifier, output, reaped: false });
        if self.engine.is_some() {
            self.report_started(app, self.runs.len() - 1);
        }
        number
    }

    fn report_started(&self, app: &str, index: usize) {
        let run = &self.runs[index];
        self.cluster().run_started(RunStarted {
            run: run.number,
            app: app.to_owned(),
            slot: run.slot,
            leader: ProcessRef::of(run.pid).unwrap_or(ProcessRef { pid: run.pid, start_time: 0 }),
            mechanism: self.mechanism,
            reason: String::new(),
            notifier: run.notifier.as_ref().map(|fd| fd.try_clone().unwrap()),
            inspector_port: None,
        });
    }

    /// Waits for an event.
    pub fn wait_for(&mut self, mut matches: impl FnMut(&ClusterEvent) -> bool) -> ClusterEvent {
        if let Some(index) = self.unmatched.iter().position(&mut matches) {
            return self.unmatched.remove(index);
        }
        let until = Instant::now() + EVENT_TIMEOUT;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) if matches(&event) => return event,
                Ok(event) => self.unmatched.push(event),
                Err(_) => panic!(
                    "expected event missing; events: {:?}; outputs:\n{}",
                    self.unmatched,
                    self.outputs()
                ),
            }
        }
    }

    /// Waits until a run listens, and marks it ready.
    pub fn wait_ready(&mut self, number: u64) {
        self.wait_for(|event| matches!(event, ClusterEvent::Listening { run, .. } if *run == number));
        self.cluster().set_ready(number);
    }

    /// Starts a program in a slot and waits until it is ready.
    pub fn start_ready(&mut self, slot: u32, argv: &[impl AsRef<str>]) -> u64 {
        let run = self.start(slot, argv);
        self.wait_ready(run);
        run
    }

    fn run(&mut self, number: u64) -> &mut Run {
        self.runs.iter_mut().find(|run| run.number == number).unwrap()
    }

    /// Kills the process group of a run, as the daemon does after a crash.
    pub fn kill(&mut self, number: u64) {
        self.signal(number, Signal::SIGKILL);
        self.wait_gone(number);
    }

    /// Kills a run without reporting its end to the engine.
    pub fn kill_unseen(&mut self, number: u64) {
        self.signal(number, Signal::SIGKILL);
        let run = self.run(number);
        waitpid(Pid::from_raw(run.pid), None).unwrap();
        run.reaped = true;
    }

    pub fn signal(&mut self, number: u64, signal: Signal) {
        killpg(Pid::from_raw(self.run(number).pid), signal).unwrap();
    }

    /// Waits for the end of a run and reports it to the engine.
    pub fn wait_gone(&mut self, number: u64) {
        let run = self.run(number);
        waitpid(Pid::from_raw(run.pid), None).unwrap();
        run.reaped = true;
        self.cluster().run_ended(number);
    }

    /// Replaces a run: starts a new one in its slot, then drains and stops the old one.
    pub fn reload(&mut self, old: u64, argv: &[impl AsRef<str>]) -> u64 {
        let slot = self.run(old).slot;
        let new = self.start_ready(slot, argv);
        self.cluster().drain(old);
        self.cluster().wait_drained(old).blocking_recv().unwrap();
        self.signal(old, Signal::SIGTERM);
        self.wait_gone(old);
        new
    }

    /// Drops the engine, as if the daemon had been killed.
    pub fn lose_engine(&mut self) {
        drop(self.engine.take());
    }

    /// Starts another engine with the stored descriptors.
    pub fn restore(&mut self) {
        let stored = self
            .fd_store
            .lock()
            .unwrap()
            .iter()
            .map(|(name, fd)| (name.clone(), fd.try_clone().unwrap()))
            .collect();
        self.engine = Some(start_engine(&self.sender, &self.fd_store, stored));
        for index in 0..self.runs.len() {
            if !self.runs[index].reaped {
                self.report_started(APP, index);
            }
        }
    }

    /// Names of the stored descriptors.
    pub fn stored_names(&self) -> Vec<String> {
        self.fd_store.lock().unwrap().keys().cloned().collect()
    }

    pub fn ports(&self) -> Vec<SocketInfo> {
        self.cluster().ports(APP).blocking_recv().unwrap()
    }

    /// Waits for a condition of the app's ports: unused sockets are released with a delay.
    pub fn wait_ports(&self, condition: impl Fn(&[SocketInfo]) -> bool) {
        let done = wait_or_none(|| condition(&self.ports()).then_some(()));
        assert!(done.is_some(), "still {:?}", self.ports());
    }

    pub fn output(&mut self, number: u64) -> String {
        std::fs::read_to_string(&self.run(number).output).unwrap()
    }

    /// Waits until a run has written a line.
    pub fn wait_line(&mut self, number: u64, line: &str) {
        let done = wait_or_none(|| self.output(number).lines().any(|output| output == line).then_some(()));
        assert!(done.is_some(), "no {line:?} in:\n{}", self.output(number));
    }

    fn outputs(&self) -> String {
        let mut all = String::new();
        for run in &self.runs {
            all.push_str(&format!("--- run {} in slot {}\n", run.number, run.slot));
            let _ = File::open(&run.output).and_then(|mut file| file.read_to_string(&mut all));
        }
        all
    }
}

fn run_marker() -> RunMarker {
    RunMarker { name: "RSM_RUN", owner: "/cluster-test".into() }
}

fn start_engine(
    sender: &Sender<ClusterEvent>,
    fd_store: &FdStore,
    stored: Vec<(String, OwnedFd)>,
) -> ClusterThread {
    let host = Host { events: sender.clone(), fd_store: Arc::clone(fd_store) };
    let (keeper, orphans) = (std::process::id().cast_signed(), OrphanScope::KeeperChildren);
    let context = TreeContext { keeper, orphans, marker: run_marker() };
    ClusterThread::start(Box::new(host), context, stored).unwrap()
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for run in self.runs.iter().filter(|run| !run.reaped) {
            let _ = killpg(Pid::from_raw(run.pid), Signal::SIGKILL);
            let _ = kill(Pid::from_raw(run.pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(run.pid), None);
        }
    }
}
