//! Answering `listen`: the socket joins its group, is held from now on, and the run is told of.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;

use crate::cluster::address::{Address, Protocol};
use crate::cluster::engine::{CallVerdict, Engine};
use crate::cluster::event::{ClusterEvent, PortWarning};
use crate::cluster::mechanism::Mechanism;
use crate::cluster::state::RunPhase;
use crate::cluster::sys;
use crate::process::process_ref::pidfd_open;
use crate::process::seccomp::{Caller, Notification, SocketFd, pidfd_getfd};

impl Engine {
    /// The answer to a `listen` on descriptor `number`.
    pub(in crate::cluster) fn listen(
        &mut self,
        run: u64,
        call: &Notification,
        number: i32,
        backlog: i32,
    ) -> CallVerdict {
        let Ok(caller) = Caller::of_thread(call.tid) else { return CallVerdict::Continue };
        let inode = match SocketFd::of(caller.pid, number) {
            Ok(file) => file.inode,
            Err(Errno::EPERM | Errno::EACCES) => return self.pass_uninspectable(run, Errno::EACCES),
            Err(_) => return CallVerdict::Continue,
        };
        let Some(entry) = self.state.runs.get(&run) else { return CallVerdict::Continue };
        let place = self.state.slot_key(entry);
        // Not bound before our eyes: a port of the kernel's choice, a local socket.
        let Some(id) = self.state.by_inode(&entry.app, place, inode) else { return CallVerdict::Continue };
        CallVerdict::Return(self.listen_for(run, id, backlog, || {
            let process = pidfd_open(caller.pid)?;
            let taken = pidfd_getfd(process.as_fd(), number)?;
            // Between two looks the program may have put another one there.
            if sys::inode(taken.as_fd())? == inode { Ok(taken) } else { Err(Errno::EBADF) }
        }))
    }

    /// We listen in its stead: only so is the order of the group known.
    fn listen_for(
        &mut self,
        run: u64,
        id: u64,
        backlog: i32,
        take: impl Fn() -> nix::Result<OwnedFd>,
    ) -> nix::Result<()> {
        if !self.held.contains_key(&id)
            && self.runs.get(&run).is_some_and(|live| live.mechanism == Mechanism::Duplicate)
        {
            let taken = take()?;
            self.hold(id, taken);
        }
        let (Some(fd), Some(socket)) = (self.held.get(&id), self.state.sockets.get(&id)) else {
            return Err(Errno::EINVAL);
        };
        // One that was shut down meanwhile has left the group and comes back at its end. One that listens
        // although the book does not say so: a daemon died before it could write that down.
        let joins = !socket.listening || !sys::is_listening(fd.as_fd());
        if let Err(errno) = sys::listen(fd.as_fd(), backlog) {
            if let (Errno::EADDRINUSE, Some(socket)) = (errno, self.state.sockets.get(&id)) {
                let address = socket.address;
                self.warn(run, PortWarning::AddressInUse { address });
            }
            return Err(errno);
        }
        if joins {
            self.state.join_group(id);
        }
        if let Some(socket) = self.state.sockets.get_mut(&id) {
            socket.backlog = backlog;
            socket.claims.insert(run);
        }
        self.save();
        self.on_listening(run, id);
        Ok(())
    }

    /// Has sockets listen again that a run which is about to go has shut down while others have them, too:
    /// not all programs know the difference between `shutdown` and `close`. True if there may be more.
    pub(in crate::cluster) fn relisten_shared(&mut self) -> bool {
        let goes = |run: &u64| self.state.runs.get(run).is_some_and(|run| run.phase == RunPhase::Draining);
        let shared = self.state.sockets.iter().filter(|(_, socket)| {
            let mut live = socket.claims.iter().filter(|run| self.state.runs.contains_key(run));
            socket.listening && socket.claims.iter().any(goes) && !live.all(goes)
        });
        let shared: Vec<u64> = shared.map(|(id, _)| *id).collect();
        shared.iter().for_each(|id| self.relisten(*id));
        !shared.is_empty()
    }

    /// Has a socket listen again if somebody has shut it down.
    pub(in crate::cluster) fn relisten(&mut self, id: u64) {
        let (Some(fd), Some(socket)) = (self.held.get(&id), self.state.sockets.get(&id)) else { return };
        let (address, backlog) = (socket.address, socket.backlog);
        if address.protocol == Protocol::Udp || !socket.listening || sys::is_listening(fd.as_fd()) {
            return;
        }
        if sys::listen(fd.as_fd(), backlog).is_ok() {
            self.state.join_group(id);
            self.steer(address);
            self.save();
        }
    }

    /// A socket is in its group: connections may come.
    pub(in crate::cluster) fn on_listening(&mut self, run: u64, id: u64) {
        let Some(socket) = self.state.sockets.get(&id) else { return };
        let (address, app) = (socket.address, socket.app.clone());
        self.steer(address);
        if let Some(live) = self.runs.get_mut(&run) {
            live.first_listen.get_or_insert_with(Instant::now);
        }
        self.warn_if_shared(run, address, &app);
        self.host.publish(ClusterEvent::Listening { run, address });
        self.schedule_gc(run);
    }

    /// Tells of what a run has already: another daemon was told. Whether one listens that was passed its
    /// sockets nobody knows.
    pub(in crate::cluster) fn republish(&mut self, run: u64) {
        if self.runs.get(&run).is_none_or(|live| live.mechanism.supervised_calls().is_none()) {
            return;
        }
        let own = self.state.sockets.values().filter(|socket| socket.claims.contains(&run));
        let own: Vec<(Address, String)> =
            own.filter(|socket| socket.listening).map(|it| (it.address, it.app.clone())).collect();
        for (address, app) in &own {
            self.warn_if_shared(run, *address, app);
            self.host.publish(ClusterEvent::Listening { run, address: *address });
        }
        if !own.is_empty() {
            self.publish_mechanism(run, None);
        }
    }

    /// Warns if another app listens at this address, too.
    pub(in crate::cluster) fn warn_if_shared(&mut self, run: u64, address: Address, app: &str) {
        if let Some(other) = self.state.other_app_at(address, app).map(str::to_owned) {
            self.warn(run, PortWarning::SharedWithApp { address, app: other });
        }
    }
}
