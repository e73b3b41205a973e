//! Answering `bind`: a run gets the socket that waits for its slot, or a new one that may share.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use crate::cluster::address;
use crate::cluster::address::{Address, Protocol};
use crate::cluster::calls::inspect::{InspectedSocket, SocketOptions, first_free_port};
use crate::cluster::engine::{CallVerdict, Engine};
use crate::cluster::event::{ClusterEvent, PortWarning};
use crate::cluster::mechanism::Mechanism;
use crate::cluster::open_sockets::OpenSockets;
use crate::cluster::state::HeldSocket;
use crate::cluster::sys;
use crate::process::seccomp::{Caller, Notification, Notifier, SocketFd, read_memory};

/// `sockaddr_storage`: the kernel refuses longer ones.
const MAX_SOCKADDR: u32 = 128;

/// Options of more sockets than this are not remembered: they are needed between `setsockopt` and `bind`.
const MAX_OPTIONS: usize = 1024;

/// A `bind` that is ours to answer.
struct BindCall {
    run: u64,
    id: u64,
    fd: i32,
    app: String,
    slot: u32,
    caller: Caller,
    address: Address,
    notifier: Arc<Notifier>,
}

impl Engine {
    /// The answer to a `bind` of descriptor `number` to an address at (place, length) in its memory.
    pub(in crate::cluster) fn bind(
        &mut self,
        run: u64,
        call: &Notification,
        number: i32,
        at: (u64, u32),
    ) -> CallVerdict {
        if at.1 > MAX_SOCKADDR {
            return CallVerdict::Continue;
        }
        let bytes = match read_memory(call.tid, at.0, at.1 as usize) {
            Ok(bytes) => bytes,
            Err(Errno::EPERM) => return self.pass_uninspectable(run, Errno::EPERM),
            // Gone, or a wrong address: the kernel shall say so.
            Err(_) => return CallVerdict::Continue,
        };
        // A port of the kernel's choice is another one for each.
        let Some(wanted) = address::parse(&bytes).filter(|wanted| wanted.port() != 0) else {
            return CallVerdict::Continue;
        };
        let (Ok(caller), Some(live)) = (Caller::of_thread(call.tid), self.runs.get(&run)) else {
            return CallVerdict::Continue;
        };
        if !caller.same_netns {
            return CallVerdict::Continue;
        }
        let look = match InspectedSocket::inspect(live.mechanism, &caller, number, &live.options) {
            Ok(Some(look)) => look,
            Ok(None) => return CallVerdict::Continue,
            Err(errno) => return self.pass_uninspectable(run, errno),
        };
        let (Some(notifier), Some(entry)) = (live.notifier.clone(), self.state.runs.get(&run)) else {
            return CallVerdict::Continue;
        };
        let (app, place) = (entry.app.clone(), self.state.slot_key(entry));
        let shares_udp = self.state.apps.get(&app).is_some_and(|settings| settings.udp);
        // Only now is it certain that all this was seen of the caller and not of another in its place.
        if !notifier.is_valid(call.id) || !look.is_tcp() && !shares_udp {
            return CallVerdict::Continue;
        }
        let address = Address::new(look.kind.protocol, wanted, look.only_v6);
        let bind = BindCall { run, id: call.id, fd: number, app, slot: place, caller, address, notifier };
        CallVerdict::Return(self.bind_inspected(&bind, look))
    }

    fn bind_inspected(&mut self, bind: &BindCall, look: InspectedSocket) -> nix::Result<()> {
        // Asked again after a signal: it is done already.
        if self.state.by_inode(&bind.app, bind.slot, look.fd.inode).is_some() {
            return Ok(());
        }
        let low_ports = self.state.apps.get(&bind.app).is_some_and(|settings| settings.privileged);
        if bind.address.port() < first_free_port() && !bind.caller.can_bind_privileged && !low_ports {
            self.warn(bind.run, PortWarning::PrivilegedPort { address: bind.address });
            return Err(Errno::EACCES);
        }
        match self.find_reusable(bind, look.reuse_port)? {
            Some(id) => self.reuse_socket(bind, id, look.fd),
            None => self.bind_new_socket(bind, look),
        }
    }

    /// The socket of this address that the slot has and this run does not use.
    fn find_reusable(&mut self, bind: &BindCall, shares: bool) -> nix::Result<Option<u64>> {
        let same =
            self.state.sockets_at(&bind.app, bind.slot).filter(|(_, socket)| socket.address == bind.address);
        let same: Vec<(u64, HeldSocket)> = same.map(|(id, socket)| (id, socket.clone())).collect();
        if same.is_empty() {
            return Ok(None);
        }
        let open = self.open_sockets_in(bind);
        let (used, free): (Vec<_>, Vec<_>) =
            same.iter().partition(|(_, socket)| open.inodes.contains(&socket.inode));
        let others = |socket: &HeldSocket| {
            socket.claims.iter().any(|run| *run != bind.run && self.state.runs.contains_key(run))
        };
        let waits = |(id, socket): &&&(u64, HeldSocket)| {
            let used = self.state.is_used_by_others(socket, bind.run);
            socket.listening && self.held.contains_key(id) && !used
        };
        if let Some((id, _)) = free.iter().find(waits) {
            return Ok(Some(*id));
        }
        // Bound once, never listened, and closed since: nobody waits there.
        let closed: Vec<u64> = free
            .iter()
            .filter(|(_, socket)| !socket.listening && !others(socket))
            .map(|(id, _)| *id)
            .collect();
        closed.into_iter().for_each(|id| self.release(id));
        // As on its own: a program that has the port cannot have it again, unless it means to.
        if used.is_empty() || shares { Ok(None) } else { Err(Errno::EADDRINUSE) }
    }

    fn open_sockets_in(&self, bind: &BindCall) -> OpenSockets {
        match self.runs.get(&bind.run) {
            Some(live) if live.leader.is_running() => OpenSockets::of_tree(live.leader, bind.caller.pid),
            // What is left of a run whose first process ended is found otherwise.
            Some(_) => self.open_sockets_of(&BTreeSet::from([bind.run])),
            None => OpenSockets::default(),
        }
    }

    /// Gives the run a socket that it has, or whose connections wait for it.
    fn reuse_socket(&mut self, bind: &BindCall, id: u64, file: SocketFd) -> nix::Result<()> {
        let Some(fd) = self.held.get(&id) else { return Err(Errno::EADDRINUSE) };
        sys::set_non_blocking(fd.as_fd(), file.non_blocking)?;
        if let Some(socket) = self.state.sockets.get_mut(&id) {
            socket.claims.insert(bind.run);
        }
        self.save();
        self.inject(bind, id, file)?;
        self.publish_mechanism(bind.run, None);
        if bind.address.protocol == Protocol::Udp {
            self.on_listening(bind.run, id); // no `listen` follows
        }
        self.schedule_gc(bind.run);
        Ok(())
    }

    fn inject(&self, bind: &BindCall, id: u64, file: SocketFd) -> nix::Result<()> {
        let fd = self.held.get(&id).ok_or(Errno::EBADF)?;
        bind.notifier.add_fd(bind.id, fd.as_fd(), bind.fd, file.close_on_exec)
    }

    fn bind_new_socket(&mut self, bind: &BindCall, mut look: InspectedSocket) -> nix::Result<()> {
        let (fd, replaces) = look.socket_to_bind()?;
        let whose = (bind.address, bind.caller.uid);
        if let Err(errno) = self.bind_reuseport(fd.as_fd(), whose, look.reuse_port, || look.new_like()) {
            if errno == Errno::EADDRINUSE {
                self.warn(bind.run, PortWarning::AddressInUse { address: bind.address });
            }
            return Err(errno);
        }
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
        if !look.is_tcp() {
            self.state.join_group(id);
        }
        if replaces {
            sys::set_non_blocking(fd.as_fd(), look.fd.non_blocking)?;
        }
        // In this order: killed at any point, the next daemon either finds nothing of it, or all.
        self.save();
        // A TCP socket that we could take is taken when it listens: until then it may turn out to be a
        // probe, or a client's.
        if replaces || !look.is_tcp() {
            self.hold(id, fd);
        }
        if replaces && let Err(errno) = self.inject(bind, id, look.fd) {
            self.release(id);
            self.save();
            return Err(errno);
        }
        self.publish_mechanism(
            bind.run,
            (replaces && look.kind.is_multipath).then_some(
                "a multipath TCP socket does not support a steering \
                program",
            ),
        );
        if !look.is_tcp() {
            self.on_listening(bind.run, id);
        }
        self.schedule_gc(bind.run);
        Ok(())
    }

    /// Binds so that other slots can, and only if nobody but us has the address. `shares`: what the
    /// program wants if that fails. `another` makes a socket like this one.
    pub(in crate::cluster) fn bind_reuseport(
        &self,
        fd: BorrowedFd<'_>,
        (address, uid): (Address, u32),
        shares: bool,
        another: impl Fn() -> nix::Result<OwnedFd>,
    ) -> nix::Result<()> {
        sys::set_reuse_address(fd)?;
        let ours = self.owns_port(address, uid);
        if address.protocol == Protocol::Udp {
            // A UDP socket joins its group when it is bound, so it must share before; whether somebody
            // else has the port another one finds out.
            if !ours {
                sys::bind(another()?.as_fd(), address.socket)?;
            }
            sys::set_reuse_port(fd, true)?;
            return sys::bind(fd, address.socket);
        }
        sys::set_reuse_port(fd, false)?;
        let mut bound = sys::bind(fd, address.socket);
        if bound == Err(Errno::EADDRINUSE) && ours {
            sys::set_reuse_port(fd, true)?;
            bound = sys::bind(fd, address.socket);
        }
        // Done by a daemon that died before it could say so.
        if bound == Err(Errno::EINVAL) && sys::local_address(fd) == Some(address.socket) {
            bound = Ok(());
        }
        sys::set_reuse_port(fd, bound.is_ok() || shares)?;
        bound
    }

    pub(in crate::cluster) fn publish_mechanism(&mut self, run: u64, instead: Option<&str>) {
        let Some(live) = self.runs.get_mut(&run).filter(|live| !live.mechanism_reported) else { return };
        live.mechanism_reported = true;
        let (path, why) = match instead {
            Some(why) => (Mechanism::Inject, why.to_owned()),
            None => (live.mechanism, live.reason.clone()),
        };
        self.host.publish(ClusterEvent::Mechanism { run, mechanism: path, reason: why });
    }

    /// Remembers an option of a socket that we cannot look into. The kernel sets it.
    pub(in crate::cluster) fn record_option(
        &mut self,
        run: u64,
        call: &Notification,
        number: i32,
        option: (i32, i32),
        value: u64,
    ) -> CallVerdict {
        let noted = || -> nix::Result<(u64, bool)> {
            let bytes = read_memory(call.tid, value, 4)?;
            let process = Caller::of_thread(call.tid)?.pid;
            Ok((SocketFd::of(process, number)?.inode, bytes != [0; 4]))
        };
        if let (Ok((inode, on)), Some(live)) = (noted(), self.runs.get_mut(&run)) {
            store_option(&mut live.options, inode, option, on);
        }
        CallVerdict::Continue
    }
}

fn store_option(options: &mut HashMap<u64, SocketOptions>, inode: u64, option: (i32, i32), on: bool) {
    if options.len() >= MAX_OPTIONS {
        options.clear();
    }
    let noted = options.entry(inode).or_default();
    match option {
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => noted.v6_only = Some(on),
        (libc::SOL_SOCKET, libc::SO_REUSEPORT) => noted.reuse_port = on,
        _ => {}
    }
}
