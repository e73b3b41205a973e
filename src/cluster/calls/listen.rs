//! Answers to `listen`: the socket joins its group and is held, and the run is reported as listening.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::cluster::address::{Address, Protocol};
use crate::cluster::calls::call::{CallVerdict, ListenArgs};
use crate::cluster::engine::Engine;
use crate::cluster::event::{ClusterEvent, PortWarning};
use crate::cluster::mechanism::Mechanism;
use crate::cluster::sys;
use crate::process::process_ref::pidfd_open;
use crate::process::seccomp::{Caller, Notification, SocketFd, pidfd_getfd};

impl Engine {
    /// Answers `listen`.
    pub(crate) fn listen(&mut self, run: u64, call: &Notification, args: &ListenArgs) -> CallVerdict {
        let Ok(caller) = Caller::of_thread(call.tid) else { return CallVerdict::Continue };
        let inode = match SocketFd::of(caller.pid, args.fd) {
            Ok(socket) => socket.inode,
            Err(Errno::EPERM | Errno::EACCES) => return self.pass_uninspectable(run, Errno::EACCES),
            Err(_) => return CallVerdict::Continue,
        };
        let Some(entry) = self.state.run(run) else { return CallVerdict::Continue };
        let slot = self.state.slot_key(entry);
        // Unknown if the kernel bound it: port 0, or a Unix socket.
        let Some(id) = self.state.by_inode(&entry.app, slot, inode) else {
            if let Some(path) = self.state.listen_on_unix_socket(run, inode) {
                self.save();
                self.host.publish(ClusterEvent::ListeningOnUnixSocket { run, path });
            }
            return CallVerdict::Continue;
        };
        self.watch.record_listen(id, run, caller.pid, args.fd);
        CallVerdict::Return(self.listen_for(run, id, args.backlog, || {
            let process = pidfd_open(caller.pid)?;
            let duplicate = pidfd_getfd(process.as_fd(), args.fd)?;
            // The program may have replaced the descriptor in the meantime.
            if sys::inode(duplicate.as_fd())? == inode { Ok(duplicate) } else { Err(Errno::EBADF) }
        }))
    }

    /// Listens for the program: so the order of the group is known.
    fn listen_for(
        &mut self,
        run: u64,
        id: u64,
        backlog: i32,
        duplicate: impl Fn() -> nix::Result<OwnedFd>,
    ) -> nix::Result<()> {
        if self.sockets.fd(id).is_none()
            && self.runs.get(run).is_some_and(|live| live.mechanism() == Mechanism::Duplicate)
        {
            self.sockets.hold(id, duplicate()?, &mut *self.host);
        }
        let (Some(fd), Some(socket)) = (self.sockets.fd(id), self.state.socket(id)) else {
            return Err(Errno::EINVAL);
        };
        // A socket that was shut down has left the group and joins at its end. A socket that listens although the
        // state says otherwise: the previous daemon died before it saved that.
        let joins = !socket.listening || !sys::is_listening(fd);
        let address = socket.address;
        if joins && let Some(other) = self.state.superseded_address(address, Some(id)) {
            if !self.sockets.can_hide() {
                self.warn(run, PortWarning::Superseded { address, other });
                return Err(Errno::EADDRINUSE);
            }
            sys::set_hidden(fd, true)?;
        }
        if let Err(errno) = sys::listen(fd, backlog) {
            if errno == Errno::EADDRINUSE {
                self.warn(run, PortWarning::AddressInUse { address });
            }
            return Err(errno);
        }
        if joins {
            self.state.join_group(id);
        }
        self.state.set_backlog(id, backlog);
        self.state.claim(id, run);
        self.save();
        self.on_listening(run, id);
        Ok(())
    }

    /// Restarts listening on sockets that a draining run has shut down while other runs still use them: some programs
    /// call `shutdown` instead of `close`. True if there are such sockets to check.
    pub(crate) fn relisten_shared(&mut self) -> bool {
        let shared = self.state.shared_with_draining();
        shared.iter().for_each(|id| self.relisten(*id));
        !shared.is_empty()
    }

    /// Restarts listening on a socket that was shut down.
    pub(crate) fn relisten(&mut self, id: u64) {
        let (Some(fd), Some(socket)) = (self.sockets.fd(id), self.state.socket(id)) else { return };
        let (address, backlog) = (socket.address, socket.backlog);
        if address.protocol == Protocol::Udp || !socket.listening || sys::is_listening(fd) {
            return;
        }
        if sys::listen(fd, backlog).is_ok() {
            self.state.join_group(id);
            self.steer(address);
            self.save();
        }
    }

    /// A socket has joined its group: connections may arrive.
    pub(super) fn on_listening(&mut self, run: u64, id: u64) {
        let Some(socket) = self.state.socket(id) else { return };
        let (address, app) = (socket.address, socket.app.clone());
        self.steer(address);
        if let Some(live) = self.runs.get_mut(run) {
            live.record_listen();
        }
        self.warn_if_shared(run, address, &app);
        if self.state.has_one_queue(&app) {
            self.sockets.watch_shutdown(id);
        }
        if self.runs.get(run).is_none_or(|live| !live.is_inspector(address.port())) {
            self.host.publish(ClusterEvent::Listening { run, address });
        }
        self.unused.schedule(run);
    }

    /// Publishes again what the previous daemon published of a run. Not for socket activation: it is unknown whether
    /// the run listens on the sockets that were passed.
    pub(crate) fn republish(&mut self, run: u64) {
        if self.runs.get(run).is_none_or(|live| live.mechanism().supervised_calls().is_none()) {
            return;
        }
        let own = self.state.sockets_of_run(run).filter(|(_, socket)| socket.listening);
        let own: Vec<(Address, String)> =
            own.map(|(_, socket)| (socket.address, socket.app.clone())).collect();
        for (address, app) in &own {
            self.warn_if_shared(run, *address, app);
            if self.runs.get(run).is_none_or(|live| !live.is_inspector(address.port())) {
                self.host.publish(ClusterEvent::Listening { run, address: *address });
            }
        }
        for path in self.state.unix_listeners(run) {
            self.host.publish(ClusterEvent::ListeningOnUnixSocket { run, path });
        }
        if !own.is_empty() {
            self.publish_mechanism(run, None);
        }
    }

    fn warn_if_shared(&mut self, run: u64, address: Address, app: &str) {
        if let Some(other) = self.state.other_app_at(address, app).map(str::to_owned) {
            self.warn(run, PortWarning::SharedWithApp { address, app: other });
        }
    }
}
