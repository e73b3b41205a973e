//! `SupervisedCall`: a decoded system call that waits for an answer of rsm.

use nix::errno::Errno;

use crate::process::seccomp::{CallKind, Notification};

/// Reads bytes at an address in the memory of the caller.
pub(crate) type ReadMemory<'a> = &'a dyn Fn(u64, usize) -> nix::Result<Vec<u8>>;

/// `bind(fd, address, length)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BindArgs {
    /// Descriptor of the program, as in the other calls.
    pub fd: i32,
    /// Pointer in the memory of the program.
    pub address: u64,
    pub length: u32,
}

/// `listen(fd, backlog)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenArgs {
    pub fd: i32,
    pub backlog: i32,
}

/// `setsockopt(fd, level, option, value, …)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetSockOptArgs {
    pub fd: i32,
    pub level: i32,
    pub option: i32,
    /// Pointer in the memory of the program.
    pub value: u64,
    pub length: u32,
}

/// `landlock_create_ruleset(attributes, size, flags)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LandlockArgs {
    /// Pointer in the memory of the program.
    pub attributes: u64,
    pub size: u64,
}

/// A system call and its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SupervisedCall {
    Bind(BindArgs),
    Listen(ListenArgs),
    SetSockOpt(SetSockOptArgs),
    LandlockRuleset(LandlockArgs),
}

/// The answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallVerdict {
    /// The kernel executes the call.
    Continue,
    /// The call returns this without being executed.
    Return(nix::Result<()>),
}

impl SupervisedCall {
    /// Decodes a call, with `read` for the memory of the caller; `None` if the call is not supervised.
    ///
    /// # Errors
    /// `EPERM`: rsm may not read the memory of the program. `EFAULT`: a pointer is invalid.
    pub fn parse(call: &Notification, read: ReadMemory<'_>) -> nix::Result<Option<Self>> {
        let args = call.args;
        Ok(Some(match call.kind() {
            None => return Ok(None),
            Some(CallKind::Bind) => Self::bind(args[0], args[1], args[2]),
            Some(CallKind::Listen) => {
                Self::Listen(ListenArgs { fd: call.arg_i32(0), backlog: call.arg_i32(1) })
            }
            Some(CallKind::SetSockOpt) => Self::SetSockOpt(SetSockOptArgs {
                fd: call.arg_i32(0),
                level: call.arg_i32(1),
                option: call.arg_i32(2),
                value: args[3],
                length: args[4] as u32,
            }),
            Some(CallKind::LandlockRuleset) => {
                Self::LandlockRuleset(LandlockArgs { attributes: args[0], size: args[1] })
            }
            Some(CallKind::SocketCall) => return Self::parse_socketcall(call, read).map(Some),
        }))
    }

    fn bind(fd: u64, address: u64, length: u64) -> Self {
        Self::Bind(BindArgs { fd: (fd as u32).cast_signed(), address, length: length as u32 })
    }

    /// `socketcall` of 32-bit x86: the arguments are in memory, four bytes each.
    fn parse_socketcall(call: &Notification, read: ReadMemory<'_>) -> nix::Result<Self> {
        /// From `linux/net.h`.
        const SYS_BIND: u64 = 2;
        let bytes = read(call.args[1], 12)?;
        let word = |index: usize| {
            let word = bytes.chunks_exact(4).nth(index).and_then(|word| word.try_into().ok());
            word.map(|word| u64::from(u32::from_ne_bytes(word))).ok_or(Errno::EFAULT)
        };
        if call.args[0] == SYS_BIND {
            return Ok(Self::bind(word(0)?, word(1)?, word(2)?));
        }
        let int = |index| word(index).map(|word| (word as u32).cast_signed());
        Ok(Self::Listen(ListenArgs { fd: int(0)?, backlog: int(1)? }))
    }
}
