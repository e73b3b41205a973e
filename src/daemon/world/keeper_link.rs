//! The daemon's side of the channel to the keeper.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::daemon::world::keeper_mirror::KeeperMirror;
use crate::instance::status::RunId;
use crate::keeper::protocol::{
    FdRole, KeeperNotice, KeeperRequest, MAX_PACKET, MIN_VERSION, Packet, RoleBorrowedFd, RoleFd,
    UpgradeResult, VERSION, send_packet, take_fd,
};
use crate::process::fd_channel;
use crate::process::process_ref::ProcessRef;

/// A run that a former daemon began.
#[derive(Debug)]
pub struct AttachedRun {
    /// Which one.
    pub run: RunId,
    /// Its first process.
    pub process: ProcessRef,
    /// What was kept with it: its output pipes.
    pub fds: Vec<RoleFd>,
    /// The keeper is the parent of it, and of what it leaves behind.
    pub is_child: bool,
}

/// All that the keeper had when we attached.
#[derive(Debug, Default)]
pub struct KeeperState {
    /// Its pid.
    pub keeper: i32,
    /// It is not the keeper that began the apps: some may run that it does not know.
    pub is_successor: bool,
    /// What came of the upgrade that led here.
    pub upgrade: UpgradeResult,
    /// The runs.
    pub runs: Vec<AttachedRun>,
    /// The stored descriptors by name.
    pub fd_store: Vec<(String, OwnedFd)>,
}

/// Asks the keeper and hears from it. Cheap to clone; all clones are one link.
#[derive(Clone, Debug)]
pub struct KeeperLink(Rc<LinkState>);

#[derive(Debug)]
struct LinkState {
    channel: AsyncFd<OwnedFd>,
    /// What the socket had no room for, in order.
    send_queue: RefCell<VecDeque<(KeeperRequest, Vec<RoleFd>)>>,
    queue_changed: Notify,
    /// The version of the keeper's last packet: during an upgrade from version 1 the keeper changes.
    version: Arc<AtomicU64>,
    /// All that the keeper has, should it die.
    mirror: RefCell<KeeperMirror>,
}

/// Sends requests to the keeper from another thread.
#[derive(Debug)]
pub struct DirectChannel {
    fd: OwnedFd,
    version: Arc<AtomicU64>,
}

impl DirectChannel {
    /// Sends a request now; false if the channel is full or closed.
    pub fn send(&self, request: &KeeperRequest, fds: &[RoleBorrowedFd<'_>]) -> bool {
        let mut packet = [0; MAX_PACKET];
        let packet = request.encode(self.version.load(Ordering::Relaxed), fds, &mut packet);
        send_packet(self.fd.as_fd(), packet, fds).is_ok()
    }
}

impl KeeperLink {
    /// Attaches to the keeper at the other end of `channel` and hears all it has.
    ///
    /// # Errors
    /// The keeper is gone, or speaks another protocol.
    pub async fn attach(channel: OwnedFd) -> io::Result<(Self, KeeperState)> {
        let channel = fd_channel::async_fd(channel)?;
        let (waiting, mirror) = (RefCell::default(), RefCell::default());
        let (more, version) = (Notify::new(), Arc::new(AtomicU64::new(VERSION)));
        let link =
            Self(Rc::new(LinkState { channel, send_queue: waiting, queue_changed: more, version, mirror }));
        let mut kept = KeeperState::default();
        loop {
            match link.receive().await? {
                (KeeperNotice::Hello { protocol, keeper, is_successor, upgrade }, _) => {
                    if !(MIN_VERSION..=VERSION).contains(&protocol) {
                        let what =
                            format!("keeper protocol {protocol} is not supported (expected {VERSION})");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                    (kept.keeper, kept.is_successor, kept.upgrade) = (keeper, is_successor, upgrade);
                }
                (KeeperNotice::Run { run, pid, start_time, is_child: child }, fds) => {
                    let (run, process) = (RunId::from_u64(run), ProcessRef { pid, start_time });
                    kept.runs.push(AttachedRun { run, process, fds, is_child: child });
                }
                (KeeperNotice::StoredFd { name }, fds) => {
                    kept.fd_store.extend(take_fd(fds, FdRole::Stored).map(|fd| (name, fd)))
                }
                (KeeperNotice::SyncDone, _) => return Ok((link, kept)),
                _ => {} // told again after `Attached`
            }
        }
    }

    /// The next thing the keeper has to tell.
    ///
    /// # Errors
    /// The keeper is gone.
    pub async fn receive(&self) -> io::Result<(KeeperNotice, Vec<RoleFd>)> {
        let mut packet = [0; MAX_PACKET];
        loop {
            let mut ready = self.0.channel.readable().await?;
            match fd_channel::receive_with_fds(self.0.channel.as_fd(), &mut packet) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((length, fds)) => {
                    if let Some(Packet { version, message, fds }) =
                        KeeperNotice::decode(&packet[..length], fds)
                    {
                        self.0.version.store(version.min(VERSION), Ordering::Relaxed);
                        self.0.mirror.borrow_mut().on_notice(&message, &fds);
                        return Ok((message, fds));
                    }
                    tracing::warn!("unknown message from the keeper");
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Asks for something; never waits. Orders arrive in the order they were given.
    pub fn send(&self, order: KeeperRequest, fds: Vec<RoleFd>) {
        self.0.mirror.borrow_mut().on_request(&order, &fds);
        let mut waiting = self.0.send_queue.borrow_mut();
        if !waiting.is_empty() || !self.try_send(&order, &fds) {
            waiting.push_back((order, fds));
            self.0.queue_changed.notify_one();
        }
    }

    /// Resolves once nothing waits any more. `send_waiting` must run.
    pub async fn flush(&self) {
        while !self.0.send_queue.borrow().is_empty() && self.0.channel.writable().await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Becomes the keeper in place of one that has died. `nofile` is the limit of open files that apps
    /// are given. Only returns if that fails.
    pub fn exec_keeper(&self, listener: BorrowedFd<'_>, nofile: Option<(u64, u64)>) -> io::Error {
        self.0
            .mirror
            .borrow()
            .handover(listener, nofile)
            .exec_keeper(Path::new("/proc/self/exe"), false)
            .into()
    }

    /// Another way to the keeper, for orders that cannot wait for this thread; [`sent`](Self::sent) is
    /// told of them.
    pub fn duplicate(&self) -> Option<DirectChannel> {
        let fd = self.0.channel.get_ref().try_clone().ok()?;
        Some(DirectChannel { fd, version: self.0.version.clone() })
    }

    /// The keeper was asked for something by another way.
    pub fn record_sent(&self, order: &KeeperRequest, fds: &[RoleFd]) {
        self.0.mirror.borrow_mut().on_request(order, fds);
    }

    /// Sends what had to wait; runs for as long as the daemon does.
    pub async fn send_queued(self) {
        loop {
            self.0.queue_changed.notified().await;
            while !self.0.send_queue.borrow().is_empty() {
                let Ok(mut ready) = self.0.channel.writable().await else { return };
                let mut waiting = self.0.send_queue.borrow_mut();
                while let Some((order, fds)) = waiting.front() {
                    if !self.try_send(order, fds) {
                        ready.clear_ready();
                        break;
                    }
                    waiting.pop_front();
                }
            }
        }
    }

    /// True when there is nothing left to do for this order; a keeper that is gone is seen by
    /// whoever receives.
    fn try_send(&self, order: &KeeperRequest, fds: &[RoleFd]) -> bool {
        let mut packet = [0; MAX_PACKET];
        let fds: Vec<RoleBorrowedFd<'_>> = fds.iter().map(|(role, fd)| (*role, fd.as_fd())).collect();
        let packet = order.encode(self.0.version.load(Ordering::Relaxed), &fds, &mut packet);
        send_packet(self.0.channel.as_fd(), packet, &fds) != Err(Errno::EAGAIN)
    }
}
