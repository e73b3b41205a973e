//! Answering `listen`: the socket joins its group, is held from now on, and the run is told of.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;

use super::address::{Address, Protocol};
use super::book::RunPhase;
use super::engine::{CallVerdict, Engine};
use super::event::{ClusterEvent, PortWarning};
use super::path::Mechanism;
use super::socket;
use crate::process::process_ref::pidfd_open;
use crate::process::seccomp::{Caller, Notification, SocketFd, pidfd_getfd};

impl Engine {
    /// The answer to a `listen` on descriptor `number`.
    pub(super) fn listen(&mut self, run: u64, call: &Notification, number: i32, backlog: i32) -> CallVerdict {
        let Ok(caller) = Caller::of_thread(call.tid) else { return CallVerdict::Pass };
        let inode = match SocketFd::of(caller.pid, number) {
            Ok(file) => file.inode,
            Err(Errno::EPERM | Errno::EACCES) => return self.unseen(run, Errno::EACCES),
            Err(_) => return CallVerdict::Pass,
        };
        let Some(entry) = self.book.runs.get(&run) else { return CallVerdict::Pass };
        let place = self.book.place(entry);
        // Not bound before our eyes: a port of the kernel's choice, a local socket.
        let Some(id) = self.book.by_inode(&entry.app, place, inode) else { return CallVerdict::Pass };
        CallVerdict::Result(self.listen_on(run, id, backlog, || {
            let process = pidfd_open(caller.pid)?;
            let taken = pidfd_getfd(process.as_fd(), number)?;
            // Between two looks the program may have put another one there.
            if socket::inode(taken.as_fd())? == inode { Ok(taken) } else { Err(Errno::EBADF) }
        }))
    }

    /// We listen in its stead: only so is the order of the group known.
    fn listen_on(
        &mut self,
        run: u64,
        id: u64,
        backlog: i32,
        take: impl Fn() -> nix::Result<OwnedFd>,
    ) -> nix::Result<()> {
        if !self.held.contains_key(&id)
            && self.live.get(&run).is_some_and(|live| live.path == Mechanism::Take)
        {
            let taken = take()?;
            self.hold(id, taken);
        }
        let (Some(fd), Some(socket)) = (self.held.get(&id), self.book.sockets.get(&id)) else {
            return Err(Errno::EINVAL);
        };
        // One that was shut down meanwhile has left the group and comes back at its end. One that listens
        // although the book does not say so: a daemon died before it could write that down.
        let joins = !socket.listening || !socket::is_listening(fd.as_fd());
        if let Err(errno) = socket::listen(fd.as_fd(), backlog) {
            if let (Errno::EADDRINUSE, Some(socket)) = (errno, self.book.sockets.get(&id)) {
                let address = socket.address;
                self.warn(run, PortWarning::Taken { address });
            }
            return Err(errno);
        }
        if joins {
            self.book.join(id);
        }
        if let Some(socket) = self.book.sockets.get_mut(&id) {
            socket.backlog = backlog;
            socket.claims.insert(run);
        }
        self.save();
        self.has_joined(run, id);
        Ok(())
    }

    /// Has sockets listen again that a run which is about to go has shut down while others have them, too:
    /// not all programs know the difference between `shutdown` and `close`. True if there may be more.
    pub(super) fn revive(&mut self) -> bool {
        let goes = |run: &u64| self.book.runs.get(run).is_some_and(|run| run.phase == RunPhase::Quiet);
        let shared = self.book.sockets.iter().filter(|(_, socket)| {
            let mut live = socket.claims.iter().filter(|run| self.book.runs.contains_key(run));
            socket.listening && socket.claims.iter().any(goes) && !live.all(goes)
        });
        let shared: Vec<u64> = shared.map(|(id, _)| *id).collect();
        shared.iter().for_each(|id| self.revive_one(*id));
        !shared.is_empty()
    }

    /// Has a socket listen again if somebody has shut it down.
    pub(super) fn revive_one(&mut self, id: u64) {
        let (Some(fd), Some(socket)) = (self.held.get(&id), self.book.sockets.get(&id)) else { return };
        let (address, backlog) = (socket.address, socket.backlog);
        if address.protocol == Protocol::Udp || !socket.listening || socket::is_listening(fd.as_fd()) {
            return;
        }
        if socket::listen(fd.as_fd(), backlog).is_ok() {
            self.book.join(id);
            self.steer(address);
            self.save();
        }
    }

    /// A socket is in its group: connections may come.
    pub(super) fn has_joined(&mut self, run: u64, id: u64) {
        let Some(socket) = self.book.sockets.get(&id) else { return };
        let (address, app) = (socket.address, socket.app.clone());
        self.steer(address);
        if let Some(live) = self.live.get_mut(&run) {
            live.listened.get_or_insert_with(Instant::now);
        }
        self.warn_of_others(run, address, &app);
        self.outside.tell(ClusterEvent::Listening { run, address });
        self.sweep_soon(run);
    }

    /// Tells of what a run has already: another daemon was told. Whether one listens that was passed its
    /// sockets nobody knows.
    pub(super) fn tell_again(&mut self, run: u64) {
        if self.live.get(&run).is_none_or(|live| live.path.calls().is_none()) {
            return;
        }
        let own = self.book.sockets.values().filter(|socket| socket.claims.contains(&run));
        let own: Vec<(Address, String)> =
            own.filter(|socket| socket.listening).map(|it| (it.address, it.app.clone())).collect();
        for (address, app) in &own {
            self.warn_of_others(run, *address, app);
            self.outside.tell(ClusterEvent::Listening { run, address: *address });
        }
        if !own.is_empty() {
            self.tell_path(run, None);
        }
    }

    /// Warns if another app listens at this address, too.
    pub(super) fn warn_of_others(&mut self, run: u64, address: Address, app: &str) {
        if let Some(other) = self.book.others_at(address, app).map(str::to_owned) {
            self.warn(run, PortWarning::SharedWith { address, app: other });
        }
    }
}
