//! What daemon and keeper say to each other: one packet a message, descriptors beside it.
//!
//! The layout is fixed words, so that the keeper allocates nothing and an old keeper can always
//! tell a message it does not know from garbage. `PROTOCOL` changes when the meaning does.

use crate::process::wait::WaitStatus;

/// Version of this protocol, told in [`News::Hello`].
pub const PROTOCOL: u64 = 1;

/// Longest packet: the words, then a name.
pub const PACKET: usize = WORDS * 8 + MAX_NAME;

/// Longest name of a stored descriptor, in bytes.
pub const MAX_NAME: usize = 200;

const WORDS: usize = 6;

/// What the daemon asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Fork and execute. Descriptors: the launch order's memory file, those for the child, then
    /// those that the keeper keeps with the run and shows to the next daemon.
    Spawn {
        /// The run's number, the daemon's choice.
        run: u64,
        /// How many descriptors go to the child.
        given: u64,
    },
    /// Signal a run's process group, or its first process alone. Nothing happens once it is
    /// reaped: its pid may be someone else's.
    Signal {
        /// The run.
        run: u64,
        /// The signal's number.
        signal: i32,
        /// The whole group.
        group: bool,
    },
    /// Keep this descriptor under a name; a former one of that name is closed.
    Store {
        /// The name.
        name: String,
    },
    /// Close the descriptor of this name.
    Drop {
        /// The name.
        name: String,
    },
    /// Forget a run that has ended, and close what was kept with it.
    Release {
        /// The run.
        run: u64,
    },
    /// A shutdown has begun: should the daemon die in the middle of it, the next one is told to go on.
    Closing,
    /// Take up a run that another keeper began: watch this process, which is no child of ours, and
    /// keep the descriptors that come along. Answered by `Spawned`, or by `Exited` if it is gone.
    Adopt {
        /// The run.
        run: u64,
        /// Its process.
        pid: i32,
        /// Start time of the process, in clock ticks since boot.
        start_time: u64,
    },
    /// Start the next daemon from the binary that comes along, and go back to the present one unless
    /// that says [`Order::Serving`] in time.
    Replace,
    /// The daemon answers clients.
    Serving,
    /// The daemon is about to end for good: end too, and remove the socket.
    Shutdown,
}

/// What the keeper tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// First of all.
    Hello {
        /// [`PROTOCOL`].
        protocol: u64,
        /// The keeper's pid.
        keeper: i32,
        /// Apps of ours may run that this keeper knows nothing of: it is not the one that began them.
        succeeds: bool,
        /// What came of the upgrade that led here.
        upgrade: Upgrade,
    },
    /// On attach, for each run not yet released. Descriptors: those kept, then the notifier of a run that
    /// asks before it listens.
    Run {
        /// The run.
        run: u64,
        /// Its process.
        pid: i32,
        /// Start time of the process, in clock ticks since boot.
        start_time: u64,
        /// The keeper is its parent, and of what it leaves behind.
        child: bool,
    },
    /// On attach, for each stored descriptor, which comes with it.
    Stored {
        /// Its name.
        name: String,
    },
    /// All is told; what follows is new.
    Attached,
    /// The program runs. Descriptor: the notifier of a run that asks before it listens.
    Spawned {
        /// The run.
        run: u64,
        /// Its process.
        pid: i32,
        /// Start time of the process, in clock ticks since boot.
        start_time: u64,
    },
    /// It does not; the run is over and needs no release.
    SpawnFailed {
        /// The run.
        run: u64,
        /// Index into `StartStep::ALL`.
        step: u64,
        /// The system's error.
        errno: i32,
    },
    /// The run's first process has ended. Kept until released.
    Exited {
        /// The run.
        run: u64,
        /// How.
        ended: WaitStatus,
    },
    /// The keeper was told to end (SIGTERM).
    Terminate,
}

/// What came of an upgrade, for the daemon that follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upgrade {
    /// There was none.
    #[default]
    None,
    /// The daemon that is told so is the new one.
    Done,
    /// The new one ended before it answered clients.
    Died,
    /// It did not come to answer clients in time.
    Silent,
}

impl Upgrade {
    const ALL: [Self; 4] = [Self::None, Self::Done, Self::Died, Self::Silent];

    /// Back from a word; none for one that is not known.
    pub fn from_word(word: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(word).ok()?).copied()
    }
}

#[derive(Default)]
struct Frame<'a> {
    words: [u64; WORDS],
    name: &'a str,
}

impl<'a> Frame<'a> {
    fn new(words: &[u64]) -> Self {
        let mut frame = Self::default();
        frame.words[..words.len()].copy_from_slice(words);
        frame
    }

    fn named(kind: u64, name: &'a str) -> Self {
        Self { name, ..Self::new(&[kind]) }
    }

    /// Writes into `packet`; the part used.
    fn write<'p>(&self, packet: &'p mut [u8; PACKET]) -> &'p [u8] {
        for (place, word) in packet.chunks_exact_mut(8).zip(self.words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let name = &self.name.as_bytes()[..self.name.len().min(MAX_NAME)];
        let end = WORDS * 8 + name.len();
        packet[WORDS * 8..end].copy_from_slice(name);
        &packet[..end]
    }

    fn read(packet: &'a [u8]) -> Option<Self> {
        let (head, name) = packet.split_at_checked(WORDS * 8)?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(head.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().ok()?);
        }
        Some(Self { words, name: std::str::from_utf8(name).ok()? })
    }
}

/// A signed number in a word, and back.
fn word(number: i32) -> u64 {
    u64::from(number.cast_unsigned())
}

fn number(word: u64) -> i32 {
    (word as u32).cast_signed()
}

impl Order {
    /// The packet of this message.
    pub fn write<'p>(&self, packet: &'p mut [u8; PACKET]) -> &'p [u8] {
        let frame = match self {
            Self::Spawn { run, given } => Frame::new(&[1, *run, *given]),
            Self::Signal { run, signal, group } => Frame::new(&[2, *run, word(*signal), u64::from(*group)]),
            Self::Store { name } => Frame::named(3, name),
            Self::Drop { name } => Frame::named(4, name),
            Self::Release { run } => Frame::new(&[5, *run]),
            Self::Shutdown => Frame::new(&[6]),
            Self::Closing => Frame::new(&[7]),
            Self::Adopt { run, pid, start_time } => Frame::new(&[8, *run, word(*pid), *start_time]),
            Self::Replace => Frame::new(&[9]),
            Self::Serving => Frame::new(&[10]),
        };
        frame.write(packet)
    }

    /// The message of a packet; `None` for one this version does not know.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let Frame { words: [kind, a, b, c, ..], name } = Frame::read(packet)?;
        Some(match kind {
            1 => Self::Spawn { run: a, given: b },
            2 => Self::Signal { run: a, signal: number(b), group: c != 0 },
            3 => Self::Store { name: name.to_owned() },
            4 => Self::Drop { name: name.to_owned() },
            5 => Self::Release { run: a },
            6 => Self::Shutdown,
            7 => Self::Closing,
            8 => Self::Adopt { run: a, pid: number(b), start_time: c },
            9 => Self::Replace,
            10 => Self::Serving,
            _ => return None,
        })
    }
}

impl News {
    /// The packet of this message.
    pub fn write<'p>(&self, packet: &'p mut [u8; PACKET]) -> &'p [u8] {
        let frame = match self {
            Self::Hello { protocol, keeper, succeeds, upgrade } => {
                Frame::new(&[1, *protocol, word(*keeper), u64::from(*succeeds), *upgrade as u64])
            }
            Self::Run { run, pid, start_time, child } => {
                Frame::new(&[2, *run, word(*pid), *start_time, u64::from(*child)])
            }
            Self::Stored { name } => Frame::named(3, name),
            Self::Attached => Frame::new(&[4]),
            Self::Spawned { run, pid, start_time } => Frame::new(&[5, *run, word(*pid), *start_time]),
            Self::SpawnFailed { run, step, errno } => Frame::new(&[6, *run, *step, word(*errno)]),
            Self::Exited { run, ended: WaitStatus::Exited(code) } => Frame::new(&[7, *run, 0, word(*code)]),
            Self::Exited { run, ended: WaitStatus::Signaled(signal, core) } => {
                Frame::new(&[7, *run, 1, word(*signal), u64::from(*core)])
            }
            Self::Exited { run, ended: WaitStatus::Unknown } => Frame::new(&[7, *run, 2]),
            Self::Terminate => Frame::new(&[8]),
        };
        frame.write(packet)
    }

    /// The message of a packet; `None` for one this version does not know.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let Frame { words: [kind, a, b, c, d, _], name } = Frame::read(packet)?;
        Some(match kind {
            1 => {
                let upgrade = Upgrade::from_word(d)?;
                Self::Hello { protocol: a, keeper: number(b), succeeds: c != 0, upgrade }
            }
            2 => Self::Run { run: a, pid: number(b), start_time: c, child: d != 0 },
            3 => Self::Stored { name: name.to_owned() },
            4 => Self::Attached,
            5 => Self::Spawned { run: a, pid: number(b), start_time: c },
            6 => Self::SpawnFailed { run: a, step: b, errno: number(c) },
            7 if b == 0 => Self::Exited { run: a, ended: WaitStatus::Exited(number(c)) },
            7 if b == 2 => Self::Exited { run: a, ended: WaitStatus::Unknown },
            7 => Self::Exited { run: a, ended: WaitStatus::Signaled(number(c), d != 0) },
            8 => Self::Terminate,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_way() {
        let orders = [
            Order::Spawn { run: u64::MAX, given: 3 },
            Order::Signal { run: 7, signal: 15, group: true },
            Order::Store { name: "槽 1".into() },
            Order::Drop { name: String::new() },
            Order::Release { run: 1 << 40 },
            Order::Shutdown,
            Order::Closing,
            Order::Adopt { run: 3, pid: 4, start_time: u64::MAX },
            Order::Replace,
            Order::Serving,
        ];
        for order in orders {
            assert_eq!(Order::read(order.write(&mut [0; PACKET])), Some(order));
        }
    }

    #[test]
    fn news_survive_the_way() {
        let news = [
            News::Hello { protocol: PROTOCOL, keeper: 4_194_304, succeeds: true, upgrade: Upgrade::Silent },
            News::Run { run: 1, pid: 2, start_time: u64::MAX, child: true },
            News::Stored { name: "n".repeat(MAX_NAME) },
            News::Attached,
            News::Spawned { run: 1, pid: 2, start_time: 3 },
            News::SpawnFailed { run: 1, step: 10, errno: 2 },
            News::Exited { run: 1, ended: WaitStatus::Exited(255) },
            News::Exited { run: 1, ended: WaitStatus::Signaled(11, true) },
            News::Exited { run: 1, ended: WaitStatus::Unknown },
            News::Terminate,
        ];
        for item in news {
            assert_eq!(News::read(item.write(&mut [0; PACKET])), Some(item));
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(Order::read(b"short"), None);
        assert_eq!(Order::read(&[0xff; PACKET]), None);
        assert_eq!(News::read(&[0; WORDS * 8]), None);
    }
}
