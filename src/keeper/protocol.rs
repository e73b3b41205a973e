//! Protocol between daemon and keeper: one packet per message, with descriptors attached to it.
//!
//! A packet is six words, one role byte per descriptor, and a name. The first word holds kind and version:
//! each end decodes packets of both versions, and answers in the version that the other end uses. Version 1
//! has no roles; its descriptors are identified by their position ([`super::positions`]).
//!
//! Encoding allocates nothing. Decoding allocates a name, if there is one, and the list of descriptors.

use std::os::fd::{BorrowedFd, OwnedFd};

pub use super::fd_role::{FdRole, RoleBorrowedFd, RoleFd, take_fd};
use super::positions;
use super::words::{FixedWriter, WordReader, WordSink, i32_to_word, word_to_i32};
use crate::process::fd_channel::{self, MAX_FDS};
use crate::process::wait::WaitStatus;

/// The daemon finds its end of the channel at this descriptor.
pub const CHANNEL_FD: i32 = 3;
/// The daemon finds the listening API socket at this descriptor.
pub const LISTENER_FD: i32 = 4;

/// Version of this protocol.
pub const VERSION: u64 = 2;

/// The oldest version that this one understands.
pub const MIN_VERSION: u64 = 1;

/// Maximum size of a packet, in bytes.
pub const MAX_PACKET: usize = MAX_WORDS * 8 + MAX_FDS + MAX_NAME;

/// Maximum length of the name of a stored descriptor, in bytes.
pub const MAX_NAME: usize = 200;

const MAX_WORDS: usize = 6;

/// Sends an encoded packet with its descriptors.
///
/// # Errors
/// As [`fd_channel::send_with_fds`].
pub fn send_packet(to: BorrowedFd<'_>, packet: &[u8], fds: &[RoleBorrowedFd<'_>]) -> nix::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|(_, fd)| *fd).collect();
    fd_channel::send_with_fds(to, packet, &fds)
}

/// A message of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperRequest {
    /// Fork and execute. Descriptors: the launch document, those of the child, then those that the keeper
    /// keeps with the run and sends to the next daemon.
    Spawn {
        /// The run's number, chosen by the daemon.
        run: u64,
        /// How many of the descriptors are for the child.
        child_fds: u64,
    },
    /// Signal a run's process group, or its leader only. Does nothing after it is reaped: its pid may belong
    /// to another process.
    Signal {
        run: u64,
        signal: i32,
        /// The whole process group.
        group: bool,
    },
    /// Store the descriptor under a name; a previous one of that name is closed.
    StoreFd { name: String },
    /// Close the stored descriptor of this name.
    RemoveFd { name: String },
    /// Remove a run that has ended, and close its descriptors.
    Release { run: u64 },
    /// A shutdown has begun: if the daemon dies before it is complete, the next daemon continues it.
    BeginShutdown,
    /// Adopt a run that another keeper started: watch this process, which is not a child, and keep the
    /// descriptors. Answered by `Spawned`, or by `Exited` if it has ended.
    Adopt {
        run: u64,
        pid: i32,
        /// Start time of the leader, in clock ticks since boot.
        start_time: u64,
    },
    /// Start the next daemon from this binary, and return to the present one unless that daemon sends
    /// [`KeeperRequest::Ready`] in time.
    Upgrade,
    /// The daemon serves clients.
    Ready,
    /// The daemon is about to exit for good: exit too, and remove the socket.
    Exit,
}

/// A message of the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperNotice {
    /// The first message to a new daemon.
    Hello {
        protocol: u64,
        keeper: i32,
        /// Apps may run that this keeper does not know, since a previous keeper started them.
        is_successor: bool,
        /// The result of the upgrade that started this daemon.
        upgrade: UpgradeResult,
    },
    /// During sync, for each run that is not released. Descriptors: those kept with it, and its notifier.
    Run {
        run: u64,
        pid: i32,
        /// Start time of the leader, in clock ticks since boot.
        start_time: u64,
        /// The keeper is its parent, and that of its orphans.
        is_child: bool,
    },
    /// During sync, for each stored descriptor.
    StoredFd { name: String },
    /// The sync is complete; the messages that follow are new.
    SyncDone,
    /// The program runs. Descriptor: the notifier of its seccomp filter, if it has one.
    Spawned {
        run: u64,
        pid: i32,
        /// Start time of the leader, in clock ticks since boot.
        start_time: u64,
    },
    /// The program did not start; the run has ended and needs no release.
    SpawnFailed {
        run: u64,
        /// Index into `StartStep::ALL`.
        step: u64,
        /// The system's error number.
        errno: i32,
    },
    /// The leader of a run has ended. The run is kept until it is released.
    Exited { run: u64, status: WaitStatus },
    /// The keeper received SIGTERM or SIGINT.
    Terminate,
}

/// The result of an upgrade, for the daemon that follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpgradeResult {
    /// There was no upgrade.
    #[default]
    None,
    /// This daemon is the new one.
    Succeeded,
    /// The new daemon exited before it served clients.
    Crashed,
    /// The new daemon did not serve clients in time.
    TimedOut,
}

impl UpgradeResult {
    const ALL: [Self; 4] = [Self::None, Self::Succeeded, Self::Crashed, Self::TimedOut];

    /// The result of a word; `None` for one that this version does not know.
    pub(super) fn from_word(word: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(word).ok()?).copied()
    }
}

#[derive(Debug)]
pub struct Packet<M> {
    /// The version that the sender used.
    pub version: u64,
    pub message: M,
    /// The descriptors that came with it.
    pub fds: Vec<RoleFd>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum RequestKind {
    Spawn = 1,
    Signal,
    StoreFd,
    RemoveFd,
    Release,
    Exit,
    BeginShutdown,
    Adopt,
    Upgrade,
    Ready,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum NoticeKind {
    Hello = 1,
    Run,
    StoredFd,
    SyncDone,
    Spawned,
    SpawnFailed,
    Exited,
    Terminate,
}

impl RequestKind {
    const ALL: [Self; 10] = [
        Self::Spawn,
        Self::Signal,
        Self::StoreFd,
        Self::RemoveFd,
        Self::Release,
        Self::Exit,
        Self::BeginShutdown,
        Self::Adopt,
        Self::Upgrade,
        Self::Ready,
    ];
}

impl NoticeKind {
    const ALL: [Self; 8] = [
        Self::Hello,
        Self::Run,
        Self::StoredFd,
        Self::SyncDone,
        Self::Spawned,
        Self::SpawnFailed,
        Self::Exited,
        Self::Terminate,
    ];
}

/// How an exit is encoded.
const EXITED: u64 = 0;
const SIGNALED: u64 = 1;
const UNKNOWN: u64 = 2;

/// The two words and the flag of a status: kind, value, whether a core was dumped.
pub(super) fn status_to_words(status: WaitStatus) -> [u64; 3] {
    match status {
        WaitStatus::Exited(code) => [EXITED, i32_to_word(code), 0],
        WaitStatus::Signaled(signal, core) => [SIGNALED, i32_to_word(signal), u64::from(core)],
        WaitStatus::Unknown => [UNKNOWN, 0, 0],
    }
}

/// The status of these words; `None` for a kind that this version does not know.
pub(super) fn words_to_status([kind, value, core]: [u64; 3]) -> Option<WaitStatus> {
    match kind {
        EXITED => Some(WaitStatus::Exited(word_to_i32(value))),
        SIGNALED => Some(WaitStatus::Signaled(word_to_i32(value), core != 0)),
        UNKNOWN => Some(WaitStatus::Unknown),
        _ => None,
    }
}

/// The part of a packet that is the same for all messages.
struct PacketFrame<'a> {
    kind: u64,
    words: [u64; MAX_WORDS - 1],
    name: &'a str,
}

impl<'a> PacketFrame<'a> {
    fn new(kind: u64, words: &[u64]) -> Self {
        let mut frame = Self { kind, words: [0; MAX_WORDS - 1], name: "" };
        frame.words[..words.len()].copy_from_slice(words);
        frame
    }

    fn with_name(kind: u64, name: &'a str) -> Self {
        Self { name, ..Self::new(kind, &[]) }
    }

    /// Writes into `packet`; the part that was used.
    fn encode<'p>(
        &self,
        version: u64,
        fds: &[RoleBorrowedFd<'_>],
        packet: &'p mut [u8; MAX_PACKET],
    ) -> &'p [u8] {
        let mut writer = FixedWriter::new(packet);
        let roles = if version == 1 { &[] } else { fds };
        let version_bits = if version == 1 { 0 } else { version << VERSION_SHIFT };
        writer.word(self.kind | (roles.len() as u64) << ROLES_SHIFT | version_bits);
        self.words.iter().for_each(|word| writer.word(*word));
        roles.iter().for_each(|(role, _)| writer.bytes(&[*role as u8]));
        writer.bytes(&self.name.as_bytes()[..self.name.len().min(MAX_NAME)]);
        writer.finish()
    }

    /// The version, the frame, and the roles; the roles are `None` in version 1.
    fn decode(packet: &'a [u8]) -> Option<(u64, Self, Option<&'a [u8]>)> {
        let mut reader = WordReader(packet);
        let first = reader.next_word().ok()?;
        let mut words = [0; MAX_WORDS - 1];
        for word in &mut words {
            *word = reader.next_word().ok()?;
        }
        let (version, roles) = match first >> VERSION_SHIFT {
            0 => (1, None),
            version => {
                let count = usize::try_from(first >> ROLES_SHIFT & 0xffff).ok()?;
                (version, Some(reader.next_bytes(count).ok()?))
            }
        };
        let name = std::str::from_utf8(reader.0).ok()?;
        Some((version, Self { kind: first & 0xffff, words, name }, roles))
    }
}

/// Where the first word of a packet holds the number of roles, and the version (0 for version 1).
const ROLES_SHIFT: u32 = 16;
const VERSION_SHIFT: u32 = 32;

/// The descriptors with their roles; `None` if a role is not known. Descriptors that did not arrive are
/// missing at the end.
fn with_roles(roles: &[u8], fds: Vec<OwnedFd>) -> Option<Vec<RoleFd>> {
    roles.iter().zip(fds).map(|(role, fd)| Some((FdRole::from_byte(*role)?, fd))).collect()
}

impl KeeperRequest {
    /// The packet of this message and its descriptors, for a keeper of this version.
    pub fn encode<'p>(
        &self,
        version: u64,
        fds: &[RoleBorrowedFd<'_>],
        packet: &'p mut [u8; MAX_PACKET],
    ) -> &'p [u8] {
        use RequestKind as Kind;
        let frame = |kind: Kind, words: &[u64]| PacketFrame::new(kind as u64, words);
        let frame = match self {
            Self::Spawn { run, child_fds } => frame(Kind::Spawn, &[*run, *child_fds]),
            Self::Signal { run, signal, group } => {
                frame(Kind::Signal, &[*run, i32_to_word(*signal), u64::from(*group)])
            }
            Self::StoreFd { name } => PacketFrame::with_name(Kind::StoreFd as u64, name),
            Self::RemoveFd { name } => PacketFrame::with_name(Kind::RemoveFd as u64, name),
            Self::Release { run } => frame(Kind::Release, &[*run]),
            Self::BeginShutdown => frame(Kind::BeginShutdown, &[]),
            Self::Adopt { run, pid, start_time } => {
                frame(Kind::Adopt, &[*run, i32_to_word(*pid), *start_time])
            }
            Self::Upgrade => frame(Kind::Upgrade, &[]),
            Self::Ready => frame(Kind::Ready, &[]),
            Self::Exit => frame(Kind::Exit, &[]),
        };
        frame.encode(version, fds, packet)
    }

    /// The message of a packet; `None` for one that this version does not know.
    pub fn decode(packet: &[u8], fds: Vec<OwnedFd>) -> Option<Packet<Self>> {
        use RequestKind as Kind;
        let (version, PacketFrame { kind, words: [a, b, c, ..], name }, roles) = PacketFrame::decode(packet)?;
        let message = match Kind::ALL.into_iter().find(|known| *known as u64 == kind)? {
            Kind::Spawn => Self::Spawn { run: a, child_fds: b },
            Kind::Signal => Self::Signal { run: a, signal: word_to_i32(b), group: c != 0 },
            Kind::StoreFd => Self::StoreFd { name: name.to_owned() },
            Kind::RemoveFd => Self::RemoveFd { name: name.to_owned() },
            Kind::Release => Self::Release { run: a },
            Kind::BeginShutdown => Self::BeginShutdown,
            Kind::Adopt => Self::Adopt { run: a, pid: word_to_i32(b), start_time: c },
            Kind::Upgrade => Self::Upgrade,
            Kind::Ready => Self::Ready,
            Kind::Exit => Self::Exit,
        };
        let fds = match roles {
            Some(roles) => with_roles(roles, fds)?,
            None => message.fds_by_position(fds),
        };
        Some(Packet { version, message, fds })
    }

    /// The descriptors of a request in version 1.
    fn fds_by_position(&self, fds: Vec<OwnedFd>) -> Vec<RoleFd> {
        match self {
            Self::Spawn { child_fds, .. } => positions::of_spawn(*child_fds, fds),
            Self::Adopt { .. } => positions::of_run(fds),
            Self::Upgrade => positions::all(FdRole::Binary, fds),
            _ => positions::all(FdRole::Stored, fds),
        }
    }
}

impl KeeperNotice {
    /// The packet of this message and its descriptors.
    pub fn encode<'p>(&self, fds: &[RoleBorrowedFd<'_>], packet: &'p mut [u8; MAX_PACKET]) -> &'p [u8] {
        use NoticeKind as Kind;
        let frame = |kind: Kind, words: &[u64]| PacketFrame::new(kind as u64, words);
        let frame = match self {
            Self::Hello { protocol, keeper, is_successor, upgrade } => frame(
                Kind::Hello,
                &[*protocol, i32_to_word(*keeper), u64::from(*is_successor), *upgrade as u64],
            ),
            Self::Run { run, pid, start_time, is_child } => {
                frame(Kind::Run, &[*run, i32_to_word(*pid), *start_time, u64::from(*is_child)])
            }
            Self::StoredFd { name } => PacketFrame::with_name(Kind::StoredFd as u64, name),
            Self::SyncDone => frame(Kind::SyncDone, &[]),
            Self::Spawned { run, pid, start_time } => {
                frame(Kind::Spawned, &[*run, i32_to_word(*pid), *start_time])
            }
            Self::SpawnFailed { run, step, errno } => {
                frame(Kind::SpawnFailed, &[*run, *step, i32_to_word(*errno)])
            }
            Self::Exited { run, status } => {
                let [kind, value, core] = status_to_words(*status);
                frame(Kind::Exited, &[*run, kind, value, core])
            }
            Self::Terminate => frame(Kind::Terminate, &[]),
        };
        frame.encode(VERSION, fds, packet)
    }

    /// The message of a packet; `None` for one that this version does not know.
    pub fn decode(packet: &[u8], fds: Vec<OwnedFd>) -> Option<Packet<Self>> {
        use NoticeKind as Kind;
        let (version, PacketFrame { kind, words: [a, b, c, d, _], name }, roles) =
            PacketFrame::decode(packet)?;
        let message = match Kind::ALL.into_iter().find(|known| *known as u64 == kind)? {
            Kind::Hello => {
                let upgrade = UpgradeResult::from_word(d)?;
                Self::Hello { protocol: a, keeper: word_to_i32(b), is_successor: c != 0, upgrade }
            }
            Kind::Run => Self::Run { run: a, pid: word_to_i32(b), start_time: c, is_child: d != 0 },
            Kind::StoredFd => Self::StoredFd { name: name.to_owned() },
            Kind::SyncDone => Self::SyncDone,
            Kind::Spawned => Self::Spawned { run: a, pid: word_to_i32(b), start_time: c },
            Kind::SpawnFailed => Self::SpawnFailed { run: a, step: b, errno: word_to_i32(c) },
            Kind::Exited => Self::Exited { run: a, status: words_to_status([b, c, d])? },
            Kind::Terminate => Self::Terminate,
        };
        let fds = match roles {
            Some(roles) => with_roles(roles, fds)?,
            None => message.fds_by_position(fds),
        };
        Some(Packet { version, message, fds })
    }

    /// The descriptors of a notice in version 1.
    fn fds_by_position(&self, fds: Vec<OwnedFd>) -> Vec<RoleFd> {
        match self {
            Self::Run { .. } => positions::of_run(fds),
            Self::Spawned { .. } => positions::all(FdRole::Notifier, fds),
            _ => positions::all(FdRole::Stored, fds),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn requests_round_trip_in_both_versions() {
        let requests = [
            KeeperRequest::Spawn { run: u64::MAX, child_fds: 3 },
            KeeperRequest::Signal { run: 7, signal: 15, group: true },
            KeeperRequest::StoreFd { name: "槽 1".into() },
            KeeperRequest::RemoveFd { name: String::new() },
            KeeperRequest::Release { run: 1 << 40 },
            KeeperRequest::Exit,
            KeeperRequest::BeginShutdown,
            KeeperRequest::Adopt { run: 3, pid: 4, start_time: u64::MAX },
            KeeperRequest::Upgrade,
            KeeperRequest::Ready,
        ];
        for request in requests {
            for version in [MIN_VERSION, VERSION] {
                let mut packet = [0; MAX_PACKET];
                let decoded = KeeperRequest::decode(request.encode(version, &[], &mut packet), Vec::new());
                let decoded = decoded.unwrap();
                assert_eq!((decoded.message, decoded.version), (request.clone(), version));
            }
        }
    }

    #[test]
    fn notices_round_trip() {
        let upgrade = UpgradeResult::TimedOut;
        let notices = [
            KeeperNotice::Hello { protocol: VERSION, keeper: 4_194_304, is_successor: true, upgrade },
            KeeperNotice::Run { run: 1, pid: 2, start_time: u64::MAX, is_child: true },
            KeeperNotice::StoredFd { name: "n".repeat(MAX_NAME) },
            KeeperNotice::SyncDone,
            KeeperNotice::Spawned { run: 1, pid: 2, start_time: 3 },
            KeeperNotice::SpawnFailed { run: 1, step: 10, errno: 2 },
            KeeperNotice::Exited { run: 1, status: WaitStatus::Exited(255) },
            KeeperNotice::Exited { run: 1, status: WaitStatus::Signaled(11, true) },
            KeeperNotice::Exited { run: 1, status: WaitStatus::Unknown },
            KeeperNotice::Terminate,
        ];
        for notice in notices {
            let mut packet = [0; MAX_PACKET];
            let decoded = KeeperNotice::decode(notice.encode(&[], &mut packet), Vec::new()).unwrap();
            assert_eq!((decoded.message, decoded.version), (notice, VERSION));
        }
    }

    #[test]
    fn descriptors_keep_their_roles() {
        let roles = [FdRole::NodeChannel, FdRole::Stderr, FdRole::Stored];
        let owned = roles.map(|role| (role, null()));
        let borrowed: Vec<RoleBorrowedFd<'_>> = owned.iter().map(|(role, fd)| (*role, fd.as_fd())).collect();
        let mut packet = [0; MAX_PACKET];
        let request = KeeperRequest::StoreFd { name: "a".into() };
        let packet = request.encode(VERSION, &borrowed, &mut packet);
        let decoded = KeeperRequest::decode(packet, vec![null(), null(), null()]).unwrap();
        assert_eq!(decoded.message, request);
        assert_eq!(decoded.fds.iter().map(|(role, _)| *role).collect::<Vec<_>>(), roles);
        // One that could not be received is missing at the end.
        let decoded = KeeperRequest::decode(packet, vec![null(), null()]).unwrap();
        assert_eq!(decoded.fds.iter().map(|(role, _)| *role).collect::<Vec<_>>(), roles[..2]);
        for (byte, role) in FdRole::ALL.into_iter().enumerate() {
            assert_eq!(role as usize, byte);
        }
    }

    #[test]
    fn garbage_is_rejected() {
        assert!(KeeperRequest::decode(b"short", Vec::new()).is_none());
        assert!(KeeperRequest::decode(&[0xff; MAX_PACKET], Vec::new()).is_none());
        assert!(KeeperNotice::decode(&[0; MAX_WORDS * 8], Vec::new()).is_none());
    }
}
