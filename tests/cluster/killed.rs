//! An engine in its own process that is killed repeatedly while a program binds and listens.

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

/// Host of the engine: sends everything at once through one channel, as to the keeper.
struct ChannelHost(OwnedFd);

impl ClusterHost for ChannelHost {
    fn publish(&mut self, event: ClusterEvent) {
        if let ClusterEvent::Listening { .. } = event {
            send(self.0.as_fd(), "L", &[]);
        }
    }

    fn store_fd(&mut self, operation: FdStoreOp) {
        match operation {
            FdStoreOp::Store(name, fd) => send(self.0.as_fd(), &format!("S{name}"), &[fd.as_fd()]),
            FdStoreOp::Remove(name) => send(self.0.as_fd(), &format!("D{name}"), &[]),
        }
    }
}

fn send(to: BorrowedFd<'_>, text: &str, fds: &[BorrowedFd<'_>]) {
    while fd_channel::send_with_fds(to, text.as_bytes(), fds) == Err(Errno::EAGAIN) {
        let _ = poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], PollTimeout::NONE);
    }
}

/// Receives the next packet; `None` at the end.
fn receive(from: BorrowedFd<'_>) -> Option<(String, Option<OwnedFd>)> {
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
#[ignore = "process that another test starts and kills"]
fn engine_process() {
    let channel = fd_channel::take_inherited_fd(FD).unwrap();
    let (mut stored, mut notifier) = (Vec::new(), None);
    let arguments = loop {
        match receive(channel.as_fd()).unwrap() {
            (text, Some(fd)) if text == "notifier" => notifier = Some(fd),
            (name, Some(fd)) => stored.push((name, fd)),
            (arguments, None) => break arguments,
        }
    };
    let arguments: Vec<u64> = arguments.split(' ').map(|word| word.parse().unwrap()).collect();
    let mechanism = if arguments[0] == 0 { Mechanism::Duplicate } else { Mechanism::Inject };
    let context = TreeContext {
        keeper: 0,
        orphans: OrphanScope::KeeperChildren,
        marker: RunMarker { name: "RSM_RUN", owner: "/cluster-test".into() },
    };
    let engine =
        ClusterThread::start(Box::new(ChannelHost(channel.try_clone().unwrap())), context, stored).unwrap();
    engine.handle().set_app(APP, PortSettings { slots: vec![0], ..PortSettings::default() });
    let leader = ProcessRef { pid: i32::try_from(arguments[1]).unwrap(), start_time: arguments[2] };
    engine.handle().run_started(RunStarted {
        run: RUN,
        app: APP.into(),
        slot: 0,
        leader,
        mechanism,
        reason: String::new(),
        notifier,
        inspector_port: None,
    });
    assert!(receive(channel.as_fd()).is_none());
}

struct Keeper {
    stored: BTreeMap<String, OwnedFd>,
    notifier: OwnedFd,
    arguments: String,
    listened: u32,
}

impl Keeper {
    /// Starts an engine with everything that the previous ones stored.
    fn start_engine(&self) -> (Child, OwnedFd) {
        let (ours, theirs) = fd_channel::socketpair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "killed::engine_process", "--ignored", "--nocapture"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let number = theirs.as_raw_fd();
        // SAFETY: both calls are async-signal-safe. `dup2` clears close-on-exec, but not if the number is already the
        // right one.
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
            send(ours.as_fd(), name, &[fd.as_fd()]);
        }
        send(ours.as_fd(), "notifier", &[self.notifier.as_fd()]);
        send(ours.as_fd(), &self.arguments, &[]);
        (child, ours)
    }

    /// Handles packets of the engine for a while, or until it is dead.
    fn handle_packets(&mut self, channel: &OwnedFd, duration: Duration) {
        let deadline = Instant::now() + duration;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).as_micros();
            let wait = PollTimeout::try_from(left.div_ceil(1000)).unwrap();
            if poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], wait).unwrap() == 0 {
                return;
            }
            let Some((text, fd)) = receive(channel.as_fd()) else { return };
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
    for mechanism in [Mechanism::Duplicate, Mechanism::Inject] {
        let (read, write) = std::io::pipe().unwrap();
        let launch = LaunchSpec {
            program: "/usr/bin/env".into(),
            argv: ["env", "python3", "-c", STORM, &free_port().to_string()].map(str::to_owned).into(),
            env: vec![format!("PATH={}", std::env::var("PATH").unwrap())],
            cwd: "/".into(),
            account: None,
            fds: vec![1, 2],
            supervised_calls: mechanism.supervised_calls(),
            limits: None,
            nofile: None,
            tag: None,
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
        let number = u8::from(mechanism == Mechanism::Inject);
        let arguments = format!("{number} {} {}", program.pid, program.start_time);
        let mut keeper = Keeper { stored: BTreeMap::new(), notifier, arguments, listened: 0 };
        for _ in 0..40 {
            let (mut engine, channel) = keeper.start_engine();
            // After its first event it lives for some milliseconds.
            let before = keeper.listened;
            while keeper.listened == before && program.is_running() {
                keeper.handle_packets(&channel, Duration::from_millis(1));
                let ended = engine.try_wait().unwrap();
                assert!(ended.is_none() || keeper.listened > before, "the engine ended: {ended:?}");
            }
            keeper.handle_packets(&channel, Duration::from_millis(fastrand::u64(0..4)));
            // The moment of the kill is random.
            std::thread::sleep(Duration::from_micros(fastrand::u64(0..800)));
            engine.kill().unwrap();
            engine.wait().unwrap();
            keeper.handle_packets(&channel, Duration::from_secs(1));
        }
        let (mut engine, channel) = keeper.start_engine();
        program.signal(libc::SIGTERM).unwrap();
        keeper.handle_packets(&channel, Duration::from_millis(100));
        let mut output = String::new();
        BufReader::new(read).read_line(&mut output).unwrap();
        assert!(output.starts_with("all "), "{mechanism:?}: {output}");
        engine.kill().unwrap();
        engine.wait().unwrap();
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(forked.pid), None);
    }
}
