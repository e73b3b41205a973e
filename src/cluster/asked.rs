//! What a call that waits for our answer wants, in the words of its program.

use nix::errno::Errno;

use crate::process::seccomp::{CallKind, Notification, read_memory};

/// What is wanted, on which descriptor of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupervisedCall {
    /// `bind`, to the address of this length at this place in its memory.
    Bind { number: i32, address: u64, length: u32 },
    /// `listen`.
    Listen { number: i32, backlog: i32 },
    /// `setsockopt`, with a value at this place.
    Option { number: i32, level: i32, name: i32, value: u64 },
}

impl SupervisedCall {
    /// Decodes a call; `None` for one that is of no concern.
    ///
    /// # Errors
    /// We may not look into the program's memory, or it gave a wrong address.
    pub fn of(call: &Notification) -> nix::Result<Option<Self>> {
        let arguments = call.args;
        Ok(Some(match call.kind() {
            None => return Ok(None),
            Some(CallKind::Bind) => Self::bind(arguments[0], arguments[1], arguments[2]),
            Some(CallKind::Listen) => Self::Listen { number: call.arg_i32(0), backlog: call.arg_i32(1) },
            Some(CallKind::SetSockOpt) => Self::Option {
                number: call.arg_i32(0),
                level: call.arg_i32(1),
                name: call.arg_i32(2),
                value: arguments[3],
            },
            Some(CallKind::SocketCall) => return Self::of_socket_call(call).map(Some),
        }))
    }

    fn bind(number: u64, address: u64, length: u64) -> Self {
        Self::Bind { number: (number as u32).cast_signed(), address, length: length as u32 }
    }

    /// 32-bit x86: the arguments lie in memory, four bytes each.
    fn of_socket_call(call: &Notification) -> nix::Result<Self> {
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
        Ok(Self::Listen { number: int(0)?, backlog: int(1)? })
    }
}
