//! An engine in a process of its own, killed again and again while a program binds and listens.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rsm::cluster::{
    ClusterEvent, ClusterHost, ClusterThread, FdStoreOp, Mechanism, PortSettings, RunStarted, TreeContext,
};
use rsm::process::fd_channel;
use rsm::process::process_ref::ProcessRef;
use rsm::process::spawn::report::StartMessage;
use rsm::process::spawn::{self, LaunchSource, LaunchSpec};
use rsm::process::tree::{OrphanScope, RunMarker};

use crate::ports::free_port;
use crate::programs::STORM;
use crate::supervisor::APP;

const FD: i32 = 9;
const RUN: u64 = 77;

/// The engine's side: everything goes through one channel, at once, as with the keeper.
struct Line(OwnedFd);

impl ClusterHost for Line {
    fn publish(&mut self, event: ClusterEvent) {
        if let ClusterEvent::Listening { .. } = event {
            say(self.0.as_fd(), "L", &[]);
        }
    }

    fn store_fd(&mut self, order: FdStoreOp) {
        match order {
            FdStoreOp::Store(name, fd) => say(self.0.as_fd(), &format!("S{name}"), &[fd.as_fd()]),
            FdStoreOp::Remove(name) => say(self.0.as_fd(), &format!("D{name}"), &[]),
        }
    }
}

fn say(to: BorrowedFd<'_>, text: &str, fds: &[BorrowedFd<'_>]) {
    while fd_channel::send_with_fds(to, text.as_bytes(), fds) == Err(Errno::EAGAIN) {
        let _ = poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], PollTimeout::NONE);
    }
}

/// The next thing said; `None` at the end.
fn hear(from: BorrowedFd<'_>) -> Option<(String, Option<OwnedFd>)> {
    let mut packet = [0; 256];
    loop {
        match fd_channel::receive_with_fds(from, &mut packet) {
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(from, PollFlags::POLLIN)], PollTimeout::NONE);
            }
            Ok((0, _)) | Err(_) => return None,
            Ok((length, mut fds)) => {
                return Some((String::from_utf8(packet[..length].to_vec()).unwrap(), fds.pop()));
            }
        }
    }
}

#[test]
#[ignore = "a process that another test starts and kills"]
fn engine_process() {
    let line = fd_channel::take_inherited_fd(FD).unwrap();
    let (mut stored, mut notifier) = (Vec::new(), None);
    let facts = loop {
        match hear(line.as_fd()).unwrap() {
            (text, Some(fd)) if text == "notifier" => notifier = Some(fd),
            (name, Some(fd)) => stored.push((name, fd)),
            (facts, None) => break facts,
        }
    };
    let facts: Vec<u64> = facts.split(' ').map(|word| word.parse().unwrap()).collect();
    let path = if facts[0] == 0 { Mechanism::Duplicate } else { Mechanism::Inject };
    let family = TreeContext {
        keeper: 0,
        orphans: OrphanScope::KeeperChildren,
        marker: RunMarker { name: "RSM_RUN", owner: "/cluster-test".into() },
    };
    let engine = ClusterThread::start(Box::new(Line(line.try_clone().unwrap())), family, stored).unwrap();
    engine.handle().set_app(APP, PortSettings { slots: vec![0], ..PortSettings::default() });
    let leader = ProcessRef { pid: i32::try_from(facts[1]).unwrap(), start_time: facts[2] };
    let why = String::new();
    engine.handle().run_started(RunStarted {
        run: RUN,
        app: APP.into(),
        slot: 0,
        leader,
        mechanism: path,
        reason: why,
        notifier,
    });
    assert!(hear(line.as_fd()).is_none());
}

struct Keeper {
    stored: BTreeMap<String, OwnedFd>,
    notifier: OwnedFd,
    facts: String,
    listened: u32,
}

impl Keeper {
    /// An engine that knows all that the former ones left.
    fn start_engine(&self) -> (Child, OwnedFd) {
        let (ours, theirs) = fd_channel::socketpair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "killed::engine_process", "--ignored", "--nocapture"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let number = theirs.as_raw_fd();
        // SAFETY: both calls are async-signal-safe. `dup2` clears close-on-exec, but not where the number
        // is the wanted one already.
        unsafe {
            command.pre_exec(move || {
                let placed = match number {
                    FD => libc::fcntl(FD, libc::F_SETFD, 0),
                    number => libc::dup2(number, FD),
                };
                Errno::result(placed).map(drop).map_err(std::io::Error::from)
            })
        };
        let child = command.spawn().unwrap();
        for (name, fd) in &self.stored {
            say(ours.as_fd(), name, &[fd.as_fd()]);
        }
        say(ours.as_fd(), "notifier", &[self.notifier.as_fd()]);
        say(ours.as_fd(), &self.facts, &[]);
        (child, ours)
    }

    /// Does what the engine said, until it is silent for so long or dead.
    fn obey(&mut self, line: &OwnedFd, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now()).as_micros();
            let wait = PollTimeout::try_from(left.div_ceil(1000)).unwrap();
            if poll(&mut [PollFd::new(line.as_fd(), PollFlags::POLLIN)], wait).unwrap() == 0 {
                return;
            }
            let Some((text, fd)) = hear(line.as_fd()) else { return };
            match (text.split_at(1), fd) {
                (("S", name), Some(fd)) => drop(self.stored.insert(name.to_owned(), fd)),
                (("D", name), _) => drop(self.stored.remove(name)),
                _ => self.listened += 1,
            }
        }
    }
}

#[test]
fn calls_survive_killing_the_engine() {
    for path in [Mechanism::Duplicate, Mechanism::Inject] {
        let (read, write) = std::io::pipe().unwrap();
        let launch = LaunchSpec {
            program: "/usr/bin/env".into(),
            argv: ["env", "python3", "-c", STORM, &free_port().to_string()].map(str::to_owned).into(),
            env: vec![format!("PATH={}", std::env::var("PATH").unwrap())],
            cwd: "/".into(),
            account: None,
            fds: vec![1, 2],
            supervised_calls: path.supervised_calls(),
            limits: None,
            listen_pid: false,
        };
        let fds = vec![write.try_clone().unwrap().into(), write.into()];
        let forked = spawn::fork_launch(LaunchSource::Inline(Box::new(launch)), fds, None).unwrap();
        let notifier = loop {
            match forked.report.receive() {
                StartMessage::Notifier(fd) => break fd,
                StartMessage::Pending => {
                    let mut wait = [PollFd::new(forked.report.as_fd(), PollFlags::POLLIN)];
                    poll(&mut wait, PollTimeout::NONE).unwrap();
                }
                other => panic!("{other:?}"),
            }
        };
        let program = ProcessRef::of(forked.pid).unwrap();
        let number = u8::from(path == Mechanism::Inject);
        let facts = format!("{number} {} {}", program.pid, program.start_time);
        let mut keeper = Keeper { stored: BTreeMap::new(), notifier, facts, listened: 0 };
        for _ in 0..40 {
            let (mut engine, line) = keeper.start_engine();
            // From its first word on it lives for some milliseconds.
            let before = keeper.listened;
            while keeper.listened == before && program.is_running() {
                keeper.obey(&line, Duration::from_millis(1));
                let ended = engine.try_wait().unwrap();
                assert!(ended.is_none() || keeper.listened > before, "the engine ended: {ended:?}");
            }
            keeper.obey(&line, Duration::from_millis(fastrand::u64(0..4)));
            // Not a wait for anything: the moment of the kill is random.
            std::thread::sleep(Duration::from_micros(fastrand::u64(0..800)));
            engine.kill().unwrap();
            engine.wait().unwrap();
            keeper.obey(&line, Duration::from_secs(1));
        }
        let (mut engine, line) = keeper.start_engine();
        program.signal(libc::SIGTERM).unwrap();
        keeper.obey(&line, Duration::from_millis(100));
        let mut said = String::new();
        BufReader::new(read).read_line(&mut said).unwrap();
        assert!(said.starts_with("all "), "{path:?}: {said}");
        engine.kill().unwrap();
        engine.wait().unwrap();
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(forked.pid), None);
    }
}
