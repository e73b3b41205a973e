//! Answering `bind`: a run gets the socket that waits for its slot, or a new one that may share.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::address::{self, Address, Protocol};
use super::book::HeldSocket;
use super::engine::{CallVerdict, Engine};
use super::event::{ClusterEvent, PortWarning};
use super::look::{InspectedSocket, SocketOptions, first_free_port};
use super::open::OpenSockets;
use super::path::Mechanism;
use super::socket;
use crate::process::seccomp::{Caller, Notification, Notifier, SocketFd, read_memory};

/// `sockaddr_storage`: the kernel refuses longer ones.
const LONGEST_ADDRESS: u32 = 128;

/// Options of more sockets than this are not remembered: they are needed between `setsockopt` and `bind`.
const MOST_OPTIONS: usize = 1024;

/// A `bind` that is ours to answer.
struct BindCall {
    run: u64,
    id: u64,
    number: i32,
    app: String,
    place: u32,
    caller: Caller,
    address: Address,
    notifier: Arc<Notifier>,
}

impl Engine {
    /// The answer to a `bind` of descriptor `number` to an address at (place, length) in its memory.
    pub(super) fn bind(&mut self, run: u64, call: &Notification, number: i32, at: (u64, u32)) -> CallVerdict {
        if at.1 > LONGEST_ADDRESS {
            return CallVerdict::Pass;
        }
        let bytes = match read_memory(call.tid, at.0, at.1 as usize) {
            Ok(bytes) => bytes,
            Err(Errno::EPERM) => return self.unseen(run, Errno::EPERM),
            // Gone, or a wrong address: the kernel shall say so.
            Err(_) => return CallVerdict::Pass,
        };
        // A port of the kernel's choice is another one for each.
        let Some(wanted) = address::parse(&bytes).filter(|wanted| wanted.port() != 0) else {
            return CallVerdict::Pass;
        };
        let (Ok(caller), Some(live)) = (Caller::of_thread(call.tid), self.live.get(&run)) else {
            return CallVerdict::Pass;
        };
        if !caller.same_netns {
            return CallVerdict::Pass;
        }
        let look = match InspectedSocket::at(live.path, &caller, number, &live.options) {
            Ok(Some(look)) => look,
            Ok(None) => return CallVerdict::Pass,
            Err(errno) => return self.unseen(run, errno),
        };
        let (Some(notifier), Some(entry)) = (live.notifier.clone(), self.book.runs.get(&run)) else {
            return CallVerdict::Pass;
        };
        let (app, place) = (entry.app.clone(), self.book.place(entry));
        let shares_udp = self.book.apps.get(&app).is_some_and(|settings| settings.udp);
        // Only now is it certain that all this was seen of the caller and not of another in its place.
        if !notifier.is_valid(call.id) || !look.is_tcp() && !shares_udp {
            return CallVerdict::Pass;
        }
        let address = Address::new(look.kind.protocol, wanted, look.only_v6);
        let bind = BindCall { run, id: call.id, number, app, place, caller, address, notifier };
        CallVerdict::Result(self.bind_seen(&bind, look))
    }

    fn bind_seen(&mut self, bind: &BindCall, look: InspectedSocket) -> nix::Result<()> {
        // Asked again after a signal: it is done already.
        if self.book.by_inode(&bind.app, bind.place, look.file.inode).is_some() {
            return Ok(());
        }
        let low_ports = self.book.apps.get(&bind.app).is_some_and(|settings| settings.low_ports);
        if bind.address.port() < first_free_port() && !bind.caller.can_bind_privileged && !low_ports {
            self.warn(bind.run, PortWarning::LowPort { address: bind.address });
            return Err(Errno::EACCES);
        }
        match self.waiting_socket(bind, look.reuse_port)? {
            Some(id) => self.take_up(bind, id, look.file),
            None => self.bind_new(bind, look),
        }
    }

    /// The socket of this address that the slot has and this run does not use.
    fn waiting_socket(&mut self, bind: &BindCall, shares: bool) -> nix::Result<Option<u64>> {
        let same =
            self.book.sockets_at(&bind.app, bind.place).filter(|(_, socket)| socket.address == bind.address);
        let same: Vec<(u64, HeldSocket)> = same.map(|(id, socket)| (id, socket.clone())).collect();
        if same.is_empty() {
            return Ok(None);
        }
        let open = self.open_in(bind);
        let (used, free): (Vec<_>, Vec<_>) =
            same.iter().partition(|(_, socket)| open.inodes.contains(&socket.inode));
        let others = |socket: &HeldSocket| {
            socket.claims.iter().any(|run| *run != bind.run && self.book.runs.contains_key(run))
        };
        let waits = |(id, socket): &&&(u64, HeldSocket)| {
            let used = self.book.is_used_by_others(socket, bind.run);
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
        closed.into_iter().for_each(|id| self.let_go(id));
        // As on its own: a program that has the port cannot have it again, unless it means to.
        if used.is_empty() || shares { Ok(None) } else { Err(Errno::EADDRINUSE) }
    }

    fn open_in(&self, bind: &BindCall) -> OpenSockets {
        match self.live.get(&bind.run) {
            Some(live) if live.leader.is_running() => OpenSockets::below(live.leader, bind.caller.pid),
            // What is left of a run whose first process ended is found otherwise.
            Some(_) => self.open_in_runs(&BTreeSet::from([bind.run])),
            None => OpenSockets::default(),
        }
    }

    /// Gives the run a socket that it has, or whose connections wait for it.
    fn take_up(&mut self, bind: &BindCall, id: u64, file: SocketFd) -> nix::Result<()> {
        let Some(fd) = self.held.get(&id) else { return Err(Errno::EADDRINUSE) };
        socket::set_non_blocking(fd.as_fd(), file.non_blocking)?;
        if let Some(socket) = self.book.sockets.get_mut(&id) {
            socket.claims.insert(bind.run);
        }
        self.save();
        self.put_in_place(bind, id, file)?;
        self.tell_path(bind.run, None);
        if bind.address.protocol == Protocol::Udp {
            self.has_joined(bind.run, id); // no `listen` follows
        }
        self.sweep_soon(bind.run);
        Ok(())
    }

    fn put_in_place(&self, bind: &BindCall, id: u64, file: SocketFd) -> nix::Result<()> {
        let fd = self.held.get(&id).ok_or(Errno::EBADF)?;
        bind.notifier.add_fd(bind.id, fd.as_fd(), bind.number, file.close_on_exec)
    }

    fn bind_new(&mut self, bind: &BindCall, mut look: InspectedSocket) -> nix::Result<()> {
        let (fd, replaces) = look.socket()?;
        let whose = (bind.address, bind.caller.uid);
        if let Err(errno) = self.bind_sharing(fd.as_fd(), whose, look.reuse_port, || look.another()) {
            if errno == Errno::EADDRINUSE {
                self.warn(bind.run, PortWarning::Taken { address: bind.address });
            }
            return Err(errno);
        }
        let id = self.book.add(HeldSocket {
            app: bind.app.clone(),
            slot: bind.place,
            address: bind.address,
            inode: socket::inode(fd.as_fd())?,
            uid: bind.caller.uid,
            listening: false,
            backlog: 0,
            claims: BTreeSet::from([bind.run]),
        });
        if !look.is_tcp() {
            self.book.join(id);
        }
        if replaces {
            socket::set_non_blocking(fd.as_fd(), look.file.non_blocking)?;
        }
        // In this order: killed at any point, the next daemon either finds nothing of it, or all.
        self.save();
        // A TCP socket that we could take is taken when it listens: until then it may turn out to be a
        // probe, or a client's.
        if replaces || !look.is_tcp() {
            self.hold(id, fd);
        }
        if replaces && let Err(errno) = self.put_in_place(bind, id, look.file) {
            self.let_go(id);
            self.save();
            return Err(errno);
        }
        self.tell_path(
            bind.run,
            (replaces && look.kind.multipath).then_some(
                "a multipath TCP socket does not support a steering \
                program",
            ),
        );
        if !look.is_tcp() {
            self.has_joined(bind.run, id);
        }
        self.sweep_soon(bind.run);
        Ok(())
    }

    /// Binds so that other slots can, and only if nobody but us has the address. `shares`: what the
    /// program wants if that fails. `another` makes a socket like this one.
    pub(super) fn bind_sharing(
        &self,
        fd: BorrowedFd<'_>,
        (address, uid): (Address, u32),
        shares: bool,
        another: impl Fn() -> nix::Result<OwnedFd>,
    ) -> nix::Result<()> {
        socket::set_reuse_address(fd)?;
        let ours = self.is_ours(address, uid);
        if address.protocol == Protocol::Udp {
            // A UDP socket joins its group when it is bound, so it must share before; whether somebody
            // else has the port another one finds out.
            if !ours {
                socket::bind(another()?.as_fd(), address.socket)?;
            }
            socket::set_reuse_port(fd, true)?;
            return socket::bind(fd, address.socket);
        }
        socket::set_reuse_port(fd, false)?;
        let mut bound = socket::bind(fd, address.socket);
        if bound == Err(Errno::EADDRINUSE) && ours {
            socket::set_reuse_port(fd, true)?;
            bound = socket::bind(fd, address.socket);
        }
        // Done by a daemon that died before it could say so.
        if bound == Err(Errno::EINVAL) && socket::bound_to(fd) == Some(address.socket) {
            bound = Ok(());
        }
        socket::set_reuse_port(fd, bound.is_ok() || shares)?;
        bound
    }

    pub(super) fn tell_path(&mut self, run: u64, instead: Option<&str>) {
        let Some(live) = self.live.get_mut(&run).filter(|live| !live.path_told) else { return };
        live.path_told = true;
        let (path, why) = match instead {
            Some(why) => (Mechanism::Replace, why.to_owned()),
            None => (live.path, live.why.clone()),
        };
        self.outside.tell(ClusterEvent::Path { run, path, why });
    }

    /// Remembers an option of a socket that we cannot look into. The kernel sets it.
    pub(super) fn note_option(
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
        if let (Ok((inode, on)), Some(live)) = (noted(), self.live.get_mut(&run)) {
            note(&mut live.options, inode, option, on);
        }
        CallVerdict::Pass
    }
}

fn note(options: &mut HashMap<u64, SocketOptions>, inode: u64, option: (i32, i32), on: bool) {
    if options.len() >= MOST_OPTIONS {
        options.clear();
    }
    let noted = options.entry(inode).or_default();
    match option {
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => noted.only_v6 = Some(on),
        (libc::SOL_SOCKET, libc::SO_REUSEPORT) => noted.reuse_port = on,
        _ => {}
    }
}
