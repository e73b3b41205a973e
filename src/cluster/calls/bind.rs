//! Answers to `bind` and `setsockopt`: a run gets the held socket of its slot, or a new one that can share its port.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use crate::cluster::address::{self, Address, Protocol};
use crate::cluster::calls::call::{BindArgs, CallVerdict, LandlockArgs, SetSockOptArgs};
use crate::cluster::calls::inspect::{InspectedSocket, SocketToBind, first_unprivileged_port};
use crate::cluster::engine::Engine;
use crate::cluster::event::{ClusterEvent, PortWarning};
use crate::cluster::mechanism::Mechanism;
use crate::cluster::runs::OpenSockets;
use crate::cluster::state::{HeldSocket, PortOwner};
use crate::cluster::sys::{self, PortUse};
use crate::process::seccomp::{Caller, Notification, Notifier, SocketFd};

/// Size of `sockaddr_storage`: the kernel rejects longer addresses.
const MAX_SOCKADDR: u32 = 128;

/// Why the mechanism is `Inject` for a multipath socket.
const MULTIPATH_REASON: &str = "a multipath TCP socket does not support a steering program";

/// A `bind` that rsm answers.
struct BindCall {
    run: u64,
    notification: u64,
    fd: i32,
    app: String,
    slot: u32,
    caller: Caller,
    address: Address,
    notifier: Arc<Notifier>,
}

impl BindCall {
    fn port_owner(&self) -> PortOwner {
        PortOwner { protocol: self.address.protocol, port: self.address.port(), uid: self.caller.uid }
    }
}

impl Engine {
    /// Answers `bind`.
    pub(crate) fn bind(&mut self, run: u64, call: &Notification, args: &BindArgs) -> CallVerdict {
        if args.length > MAX_SOCKADDR {
            return CallVerdict::Continue;
        }
        let bytes = match self.read_caller_memory(run, call, args.address, args.length as usize) {
            Ok(bytes) => bytes,
            Err(errno @ (Errno::EPERM | Errno::ETIMEDOUT)) => return self.pass_uninspectable(run, errno),
            // The caller has exited, or the pointer is invalid: the kernel reports the error.
            Err(_) => return CallVerdict::Continue,
        };
        if let Some(path) = address::parse_unix(&bytes) {
            return self.bind_unix_socket(run, call, args.fd, path);
        }
        // With port 0 the kernel chooses another port for each instance: nothing to share.
        let Some(requested) = address::parse(&bytes).filter(|requested| requested.port() != 0) else {
            return CallVerdict::Continue;
        };
        let caller = match Caller::of_thread(call.tid) {
            Ok(caller) if caller.same_netns => caller,
            Err(errno @ (Errno::EPERM | Errno::EACCES)) => return self.pass_uninspectable(run, errno),
            Ok(_) | Err(_) => return CallVerdict::Continue,
        };
        let Some(live) = self.runs.get(run) else { return CallVerdict::Continue };
        let socket = match InspectedSocket::inspect(live.mechanism(), &caller, args.fd, live.options()) {
            Ok(Some(socket)) => socket,
            Ok(None) => return CallVerdict::Continue,
            Err(errno) => return self.pass_uninspectable(run, errno),
        };
        let (Some(notifier), Some(entry)) = (live.notifier(), self.state.run(run)) else {
            return CallVerdict::Continue;
        };
        let (app, slot, restricts_ports) =
            (entry.app.clone(), self.state.slot_key(entry), entry.restricts_ports);
        let shares_udp = self.state.app(&app).is_some_and(|settings| settings.udp);
        // Thread ids are reused: only if the call is still valid now, all of the above was read from its caller.
        if !notifier.is_valid(call.id) || !socket.is_tcp() && !shares_udp {
            return CallVerdict::Continue;
        }
        let address = Address::new(socket.kind.protocol, requested, socket.v6_only);
        // A call that is repeated after a signal is done already.
        if self.state.by_inode(&app, slot, socket.fd.inode).is_some() {
            return CallVerdict::Return(Ok(()));
        }
        if restricts_ports {
            self.warn(run, PortWarning::Landlock { address });
            return CallVerdict::Continue;
        }
        let bind = BindCall { run, notification: call.id, fd: args.fd, app, slot, caller, address, notifier };
        self.bind_inspected(&bind, socket)
    }

    /// The kernel binds a Unix socket: its file is created with the rights and in the directory of the caller.
    fn bind_unix_socket(&mut self, run: u64, call: &Notification, fd: i32, path: String) -> CallVerdict {
        let Ok(caller) = Caller::of_thread(call.tid) else { return CallVerdict::Continue };
        let Ok(socket) = SocketFd::of(caller.pid, fd) else { return CallVerdict::Continue };
        let path = match std::fs::read_link(format!("/proc/{}/cwd", call.tid)) {
            Ok(cwd) if !path.starts_with(['/', '@']) => cwd.join(path).display().to_string(),
            _ => path,
        };
        if self.state.bind_unix_socket(run, socket.inode, &path) {
            self.warn(run, PortWarning::UnixSocketInUse { path });
        }
        CallVerdict::Continue
    }

    fn bind_inspected(&mut self, bind: &BindCall, socket: InspectedSocket) -> CallVerdict {
        if let Err(errno) = self.check_rights(bind).and_then(|()| self.check_overlap(bind, socket.reuse_port))
        {
            return CallVerdict::Return(Err(errno));
        }
        match self.find_reusable(bind, socket.reuse_port) {
            Ok(Some(id)) => CallVerdict::Return(self.reuse_socket(bind, id, socket.fd)),
            Ok(None) => match self.sockets.limit_reached(&self.state, &bind.app) {
                Some(limit) => {
                    self.warn(bind.run, PortWarning::TooManySockets { limit });
                    CallVerdict::Continue
                }
                None => CallVerdict::Return(self.bind_new_socket(bind, socket)),
            },
            Err(errno) => CallVerdict::Return(Err(errno)),
        }
    }

    /// Rejects a port that the caller could not bind itself, unless the settings of the app allow it.
    fn check_rights(&mut self, bind: &BindCall) -> nix::Result<()> {
        let privileged = self.state.app(&bind.app).is_some_and(|settings| settings.privileged);
        let is_privileged_port = bind.address.port() < first_unprivileged_port();
        if is_privileged_port && !bind.caller.can_bind_privileged && !privileged {
            self.warn(bind.run, PortWarning::PrivilegedPort { address: bind.address });
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// Rejects an address whose clients reach a socket of another app, or another one of the run, as without rsm. Other
    /// runs of the app may have such a socket: the address may change in a reload.
    fn check_overlap(&mut self, bind: &BindCall, reuse_port: bool) -> nix::Result<()> {
        let overlapping: Vec<HeldSocket> =
            self.state.overlapping(bind.address).map(|(_, socket)| socket.clone()).collect();
        let (own, foreign): (Vec<_>, Vec<_>) =
            overlapping.into_iter().partition(|socket| socket.app == bind.app);
        // A socket that is not listening may be closed already: it was a test of the port.
        let in_use = |socket: &HeldSocket| {
            socket.listening || {
                let open = self.runs.open_sockets_of(&socket.claims);
                open.is_incomplete() || open.contains(socket.inode)
            }
        };
        if let Some(HeldSocket { app, address: other, .. }) = foreign.into_iter().find(in_use) {
            self.warn(bind.run, PortWarning::UsedByApp { address: bind.address, app, other });
            return Err(Errno::EADDRINUSE);
        }
        let own_listening = |socket: &HeldSocket| socket.listening && socket.claims.contains(&bind.run);
        if reuse_port || !own.iter().any(own_listening) {
            return Ok(());
        }
        let open = self.open_sockets_in(bind);
        match own.iter().any(|socket| own_listening(socket) && open.contains(socket.inode)) {
            true => Err(Errno::EADDRINUSE),
            false => Ok(()),
        }
    }

    /// The socket of the slot for this address that the run does not use yet.
    fn find_reusable(&mut self, bind: &BindCall, reuse_port: bool) -> nix::Result<Option<u64>> {
        let same_address: Vec<(u64, HeldSocket)> = self
            .state
            .sockets_at(&bind.app, bind.slot)
            .filter(|(_, socket)| socket.address == bind.address)
            .map(|(id, socket)| (id, socket.clone()))
            .collect();
        if same_address.is_empty() {
            return Ok(None);
        }
        let open = self.open_sockets_in(bind);
        let (used, unused): (Vec<_>, Vec<_>) =
            same_address.iter().partition(|(_, socket)| open.contains(socket.inode));
        let is_reusable = |(id, socket): &&&(u64, HeldSocket)| {
            let used_by_others = self.state.is_used_by_others(socket, bind.run);
            socket.listening && self.sockets.fd(*id).is_some() && !used_by_others
        };
        if let Some((id, _)) = unused.iter().find(is_reusable) {
            return Ok(Some(*id));
        }
        // Bound by the run, never listening, and closed since: no connection waits there.
        let is_closed =
            |socket: &HeldSocket| !socket.listening && !self.state.is_claimed_by_others(socket, bind.run);
        let closed: Vec<u64> =
            unused.iter().filter(|(_, socket)| is_closed(socket)).map(|(id, _)| *id).collect();
        closed.into_iter().for_each(|id| self.release(id));
        // As without rsm: a program cannot bind a port twice, except with SO_REUSEPORT.
        if used.is_empty() || reuse_port { Ok(None) } else { Err(Errno::EADDRINUSE) }
    }

    fn open_sockets_in(&self, bind: &BindCall) -> OpenSockets {
        match self.runs.get(bind.run) {
            Some(live) if live.leader().is_running() => OpenSockets::of_tree(live.leader(), bind.caller.pid),
            // The leader has exited: its orphans are found in another way.
            Some(_) => self.runs.open_sockets_of(&BTreeSet::from([bind.run])),
            None => OpenSockets::default(),
        }
    }

    /// Gives the run a held socket.
    fn reuse_socket(&mut self, bind: &BindCall, id: u64, replaced: SocketFd) -> nix::Result<()> {
        let Some(socket) = self.sockets.fd(id) else { return Err(Errno::EADDRINUSE) };
        sys::set_non_blocking(socket, replaced.non_blocking)?;
        self.state.claim(id, bind.run);
        self.save();
        self.inject(bind, id, replaced)?;
        self.publish_mechanism(bind.run, None);
        if bind.address.protocol == Protocol::Udp {
            // No `listen` follows.
            self.watch.record_listen(id, bind.run, bind.caller.pid, bind.fd);
            self.on_listening(bind.run, id);
        }
        self.unused.schedule(bind.run);
        Ok(())
    }

    fn bind_new_socket(&mut self, bind: &BindCall, mut socket: InspectedSocket) -> nix::Result<()> {
        let (fd, replaces) = match socket.socket_to_bind()? {
            SocketToBind::Own(fd) => (fd, false),
            SocketToBind::Replacement(fd) => (fd, true),
        };
        self.bind_fd(bind, &fd, &socket)?;
        let id = self.state.add(HeldSocket {
            app: bind.app.clone(),
            slot: bind.slot,
            address: bind.address,
            inode: sys::inode(fd.as_fd())?,
            uid: bind.caller.uid,
            listening: false,
            backlog: 0,
            claims: BTreeSet::from([bind.run]),
        });
        if !socket.is_tcp() {
            self.state.join_group(id);
        }
        if replaces {
            sys::set_non_blocking(fd.as_fd(), socket.fd.non_blocking)?;
        }
        // In this order: if the daemon is killed at any point, the next one finds either nothing or everything.
        self.save();
        // A TCP socket that can be duplicated is held when it listens: before that it may be a test of the port, or
        // the socket of a client.
        if replaces || !socket.is_tcp() {
            self.sockets.hold(id, fd, &mut *self.host);
        }
        if replaces && let Err(errno) = self.inject(bind, id, socket.fd) {
            self.release(id);
            self.save();
            return Err(errno);
        }
        let is_multipath = replaces && socket.kind.is_multipath;
        self.publish_mechanism(bind.run, is_multipath.then_some(MULTIPATH_REASON));
        if !socket.is_tcp() {
            self.watch.record_listen(id, bind.run, bind.caller.pid, bind.fd);
            self.on_listening(bind.run, id);
        }
        self.unused.schedule(bind.run);
        Ok(())
    }

    fn bind_fd(&mut self, bind: &BindCall, fd: &OwnedFd, socket: &InspectedSocket) -> nix::Result<()> {
        let is_own = self.sockets.owns_port(&self.state, bind.port_owner());
        let port = PortUse { is_own, reuse_port: socket.reuse_port };
        let bound = sys::bind_reuseport(fd.as_fd(), bind.address, port, || socket.new_like());
        if bound == Err(Errno::EADDRINUSE) {
            self.warn(bind.run, PortWarning::AddressInUse { address: bind.address });
        }
        bound
    }

    /// Puts a held socket in the place of the program's own.
    fn inject(&self, bind: &BindCall, id: u64, replaced: SocketFd) -> nix::Result<()> {
        let socket = self.sockets.fd(id).ok_or(Errno::EBADF)?;
        bind.notifier.add_fd(bind.notification, socket, bind.fd, replaced.close_on_exec)
    }

    /// Publishes how the first port of a run is shared. `inject_reason`: why its socket was replaced although
    /// sockets of this run are duplicated.
    pub(super) fn publish_mechanism(&mut self, run: u64, inject_reason: Option<&str>) {
        let Some(live) = self.runs.get_mut(run) else { return };
        let Some((mechanism, reason)) = live.take_unpublished_mechanism() else { return };
        let (mechanism, reason) = match inject_reason {
            Some(inject_reason) => (Mechanism::Inject, inject_reason.to_owned()),
            None => (mechanism, reason),
        };
        self.host.publish(ClusterEvent::Mechanism { run, mechanism, reason });
    }

    /// Records an option of a socket that cannot be duplicated. The kernel sets it.
    pub(crate) fn record_option(
        &mut self,
        run: u64,
        call: &Notification,
        args: &SetSockOptArgs,
    ) -> CallVerdict {
        let read_option = || -> nix::Result<(u64, bool)> {
            let bytes = self.read_caller_memory(run, call, args.value, args.length.min(4) as usize)?;
            let process = Caller::of_thread(call.tid)?.pid;
            Ok((SocketFd::of(process, args.fd)?.inode, bytes.iter().any(|byte| *byte != 0)))
        };
        let option = read_option();
        if let (Ok((inode, value)), Some(live)) = (option, self.runs.get_mut(run)) {
            live.options_mut().record(inode, args, value);
        }
        CallVerdict::Continue
    }

    /// Records that a run may forbid itself to bind ports. The kernel creates the rules.
    pub(crate) fn record_landlock(
        &mut self,
        run: u64,
        call: &Notification,
        args: &LandlockArgs,
    ) -> CallVerdict {
        /// `LANDLOCK_ACCESS_NET_BIND_TCP` in `handled_access_net`, the second field of `struct landlock_ruleset_attr`.
        const BIND_TCP: u64 = 1;
        let handled_access_net = || -> Option<u64> {
            let bytes = self.read_caller_memory(run, call, args.attributes.checked_add(8)?, 8).ok()?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        if args.size >= 16 && handled_access_net().is_some_and(|access| access & BIND_TCP != 0) {
            self.state.restrict_ports(run);
            self.save();
        }
        CallVerdict::Continue
    }
}
