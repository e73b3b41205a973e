//! The daemon's end of the channel to the keeper.
//!
//! Requests are sent in order and never block. Everything sent and received is also recorded in the
//! [`KeeperMirror`], so that the daemon can become the keeper if the keeper dies.

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

/// The name of the state in the keeper's fd store.
pub const STATE_FD_NAME: &str = "state";

/// A run that a previous daemon started.
#[derive(Debug)]
pub struct AttachedRun {
    pub run: RunId,
    pub process: ProcessRef,
    /// The daemon's ends of its output pipes, control sockets and notifier.
    pub fds: Vec<RoleFd>,
    /// Whether the keeper is the parent of the leader, and so of its orphans.
    pub is_child: bool,
}

/// The state of the keeper when the daemon attached.
#[derive(Debug, Default)]
pub struct KeeperState {
    pub keeper_pid: i32,
    /// Whether this keeper replaced one that died: it may not know all running apps.
    pub is_successor: bool,
    /// The result of the upgrade that started this daemon.
    pub upgrade: UpgradeResult,
    pub runs: Vec<AttachedRun>,
    /// The stored descriptors by name.
    pub fd_store: Vec<(String, OwnedFd)>,
}

/// The connection to the keeper. All clones share one channel.
#[derive(Clone, Debug)]
pub struct KeeperLink(Rc<LinkState>);

#[derive(Debug)]
struct LinkState {
    channel: AsyncFd<OwnedFd>,
    /// Requests that did not fit into the socket's buffer, in order.
    send_queue: RefCell<VecDeque<(KeeperRequest, Vec<RoleFd>)>>,
    queue_changed: Notify,
    /// The version of the keeper's last packet: during an upgrade from version 1 the keeper changes.
    version: Arc<AtomicU64>,
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
    /// Attaches to the keeper at the other end of `channel` and receives its state.
    ///
    /// # Errors
    /// The keeper is dead, or has another protocol.
    pub async fn attach(channel: OwnedFd) -> io::Result<(Self, KeeperState)> {
        let channel = fd_channel::async_fd(channel)?;
        let link = Self(Rc::new(LinkState {
            channel,
            send_queue: RefCell::default(),
            queue_changed: Notify::new(),
            version: Arc::new(AtomicU64::new(VERSION)),
            mirror: RefCell::default(),
        }));
        let mut state = KeeperState::default();
        loop {
            match link.receive().await? {
                (KeeperNotice::Hello { protocol, keeper, is_successor, upgrade }, _) => {
                    if !(MIN_VERSION..=VERSION).contains(&protocol) {
                        let message =
                            format!("keeper protocol {protocol} is not supported (expected {VERSION})");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                    }
                    (state.keeper_pid, state.is_successor, state.upgrade) = (keeper, is_successor, upgrade);
                }
                (KeeperNotice::Run { run, pid, start_time, is_child }, fds) => {
                    let (run, process) = (RunId::from_u64(run), ProcessRef { pid, start_time });
                    state.runs.push(AttachedRun { run, process, fds, is_child });
                }
                (KeeperNotice::StoredFd { name }, fds) => {
                    state.fd_store.extend(take_fd(fds, FdRole::Stored).map(|fd| (name, fd)));
                }
                (KeeperNotice::SyncDone, _) => return Ok((link, state)),
                _ => {} // sent again after `SyncDone`
            }
        }
    }

    /// The next notice and its descriptors.
    ///
    /// # Errors
    /// The keeper is dead.
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

    /// Sends a request, or queues it if the channel is full.
    pub fn send(&self, request: KeeperRequest, fds: Vec<RoleFd>) {
        self.0.mirror.borrow_mut().on_request(&request, &fds);
        let mut queue = self.0.send_queue.borrow_mut();
        if !queue.is_empty() || !self.try_send(&request, &fds) {
            queue.push_back((request, fds));
            self.0.queue_changed.notify_one();
        }
    }

    /// Waits until the queue is empty. [`send_queued`](Self::send_queued) must be running.
    pub async fn flush(&self) {
        while !self.0.send_queue.borrow().is_empty() && self.0.channel.writable().await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Becomes the keeper, after the keeper died. `nofile` is the open file limit of apps. Returns only on
    /// failure.
    pub fn exec_keeper(&self, listener: BorrowedFd<'_>, nofile: Option<(u64, u64)>) -> io::Error {
        self.0
            .mirror
            .borrow()
            .handover(listener, nofile)
            .exec_keeper(Path::new("/proc/self/exe"), false)
            .into()
    }

    /// A second sender, for requests that cannot wait for this thread. Each request that it sends must be
    /// passed to [`record_sent`](Self::record_sent).
    pub fn duplicate(&self) -> Option<DirectChannel> {
        let fd = self.0.channel.get_ref().try_clone().ok()?;
        Some(DirectChannel { fd, version: self.0.version.clone() })
    }

    /// Records a request that a [`DirectChannel`] sent.
    pub fn record_sent(&self, request: &KeeperRequest, fds: &[RoleFd]) {
        self.0.mirror.borrow_mut().on_request(request, fds);
    }

    /// Sends queued requests when the channel has space again; runs until the keeper is dead.
    pub async fn send_queued(self) {
        loop {
            self.0.queue_changed.notified().await;
            while !self.0.send_queue.borrow().is_empty() {
                let Ok(mut ready) = self.0.channel.writable().await else { return };
                let mut queue = self.0.send_queue.borrow_mut();
                while let Some((request, fds)) = queue.front() {
                    if !self.try_send(request, fds) {
                        ready.clear_ready();
                        break;
                    }
                    queue.pop_front();
                }
            }
        }
    }

    /// False if the channel is full. Other errors mean that the keeper is dead, which `receive` reports.
    fn try_send(&self, request: &KeeperRequest, fds: &[RoleFd]) -> bool {
        let mut packet = [0; MAX_PACKET];
        let fds: Vec<RoleBorrowedFd<'_>> = fds.iter().map(|(role, fd)| (*role, fd.as_fd())).collect();
        let packet = request.encode(self.0.version.load(Ordering::Relaxed), &fds, &mut packet);
        send_packet(self.0.channel.as_fd(), packet, &fds) != Err(Errno::EAGAIN)
    }
}
