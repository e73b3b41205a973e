//! What a call that waits for our answer wants, in the words of its program.

use nix::errno::Errno;

use crate::process::seccomp::{CallKind, Notification, read_memory};

/// What is wanted, on which descriptor of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupervisedCall {
    /// `bind`, to the address of this length at this place in its memory.
    Bind { fd: i32, address: u64, length: u32 },
    /// `listen`.
    Listen { fd: i32, backlog: i32 },
    /// `setsockopt`, with a value at this place.
    SetSockOpt { fd: i32, level: i32, option: i32, value: u64 },
}

impl SupervisedCall {
    /// Decodes a call; `None` for one that is of no concern.
    ///
    /// # Errors
    /// We may not look into the program's memory, or it gave a wrong address.
    pub fn parse(call: &Notification) -> nix::Result<Option<Self>> {
        let arguments = call.args;
        Ok(Some(match call.kind() {
            None => return Ok(None),
            Some(CallKind::Bind) => Self::bind(arguments[0], arguments[1], arguments[2]),
            Some(CallKind::Listen) => Self::Listen { fd: call.arg_i32(0), backlog: call.arg_i32(1) },
            Some(CallKind::SetSockOpt) => Self::SetSockOpt {
                fd: call.arg_i32(0),
                level: call.arg_i32(1),
                option: call.arg_i32(2),
                value: arguments[3],
            },
            Some(CallKind::SocketCall) => return Self::parse_socketcall(call).map(Some),
        }))
    }

    fn bind(number: u64, address: u64, length: u64) -> Self {
        Self::Bind { fd: (number as u32).cast_signed(), address, length: length as u32 }
    }

    /// 32-bit x86: the arguments lie in memory, four bytes each.
    fn parse_socketcall(call: &Notification) -> nix::Result<Self> {
        const BIND: u64 = 2;
        let bytes = read_memory(call.tid, call.args[1], 12)?;
        let word = |place: usize| {
            let word = bytes.chunks_exact(4).nth(place).and_then(|word| word.try_into().ok());
            word.map(|word| u64::from(u32::from_ne_bytes(word))).ok_or(Errno::EFAULT)
        };
        if call.args[0] == BIND {
            return Ok(Self::bind(word(0)?, word(1)?, word(2)?));
        }
        let int = |place| word(place).map(|word| (word as u32).cast_signed());
        Ok(Self::Listen { fd: int(0)?, backlog: int(1)? })
    }
}
