//! The child's side: which calls are told, and installing the filter.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::process::bpf::{self, Instruction};

/// Offsets in `struct seccomp_data`; of the arguments (little-endian) the low halves.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;

/// x32 calls bear x86-64's architecture and this bit.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Which calls are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calls {
    /// `bind` and `listen`.
    BindListen,
    /// Also those `setsockopt` calls that decide how a port may be shared: for whoever cannot look
    /// into the program's sockets.
    WithOptions,
}

/// A call that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `bind(fd, address, length)`.
    Bind,
    /// `listen(fd, backlog)`.
    Listen,
    /// `setsockopt(fd, level, option, value, length)`.
    SetOption,
    /// 32-bit x86's one call for all of a socket's: its arguments lie in memory.
    SocketCall,
}

/// A way to make system calls that this machine knows, and the numbers in it.
struct Table {
    architecture: u32,
    numbers: &'static [(u32, Call)],
}

#[cfg(target_arch = "x86_64")]
const TABLES: &[Table] = &[
    Table {
        architecture: 0xC000_003E,
        numbers: &[
            (49, Call::Bind),
            (50, Call::Listen),
            (54, Call::SetOption),
            (X32 | 49, Call::Bind),
            (X32 | 50, Call::Listen),
            (X32 | 541, Call::SetOption),
        ],
    },
    Table {
        architecture: 0x4000_0003,
        numbers: &[(361, Call::Bind), (363, Call::Listen), (366, Call::SetOption), (102, Call::SocketCall)],
    },
];

#[cfg(target_arch = "aarch64")]
const TABLES: &[Table] = &[
    Table {
        architecture: 0xC000_00B7,
        numbers: &[(200, Call::Bind), (201, Call::Listen), (208, Call::SetOption)],
    },
    Table {
        architecture: 0x4000_0028,
        numbers: &[(282, Call::Bind), (284, Call::Listen), (294, Call::SetOption)],
    },
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const TABLES: &[Table] = &[];

impl Call {
    /// The call of a number under an architecture; `None` for one that no filter of ours tells.
    pub fn of(architecture: u32, number: i32) -> Option<Self> {
        let table = TABLES.iter().find(|table| table.architecture == architecture)?;
        let number = number.cast_unsigned();
        table.numbers.iter().find(|(known, _)| *known == number).map(|(_, call)| *call)
    }
}

/// `bind` and `listen` of `socketcall(2)`, its first argument.
const SOCKETCALL_BIND: u32 = 2;
const SOCKETCALL_LISTEN: u32 = 4;

/// The filter's program.
pub(super) fn program(calls: Calls) -> Vec<Instruction> {
    const TELL: Instruction = bpf::give(libc::SECCOMP_RET_USER_NOTIF);
    const PASS: Instruction = bpf::give(libc::SECCOMP_RET_ALLOW);
    let mut program = vec![bpf::load_word(ARCHITECTURE)];
    for table in TABLES {
        let mut body = vec![bpf::load_word(NUMBER)];
        for (number, call) in table.numbers {
            let tests: &[Instruction] = match call {
                Call::Bind | Call::Listen => &[],
                Call::SetOption if calls == Calls::BindListen => continue,
                Call::SetOption => &[
                    bpf::load_word(SECOND_ARGUMENT),
                    bpf::if_equal(libc::SOL_SOCKET as u32, 0, 3),
                    bpf::load_word(THIRD_ARGUMENT),
                    bpf::if_equal(libc::SO_REUSEPORT as u32, 4, 0),
                    PASS,
                    bpf::if_equal(libc::IPPROTO_IPV6 as u32, 0, 3),
                    bpf::load_word(THIRD_ARGUMENT),
                    bpf::if_equal(libc::IPV6_V6ONLY as u32, 0, 1),
                ],
                Call::SocketCall => &[
                    bpf::load_word(SECOND_ARGUMENT - 8),
                    bpf::if_equal(SOCKETCALL_BIND, 1, 0),
                    bpf::if_equal(SOCKETCALL_LISTEN, 0, 1),
                ],
            };
            // Whoever fails a test has lost the number from the accumulator, but needs it no more.
            let after = if tests.is_empty() { 1 } else { 2 };
            body.push(bpf::if_equal(*number, 0, (tests.len() + after) as u8));
            body.extend_from_slice(tests);
            body.push(TELL);
            body.extend((after == 2).then_some(PASS));
        }
        body.push(PASS);
        program.push(bpf::if_equal(table.architecture, 0, body.len() as u8));
        program.extend(body);
    }
    program.push(PASS);
    program
}

/// Makes this thread, and all it will fork and execute, ask before the `calls`. Returns what the
/// answers are given through. For a child between fork and exec: there is no way back.
///
/// Without `CAP_SYS_ADMIN` the program and its descendants lose what set-user-id bits and file
/// capabilities would give them: only then does the kernel let an ordinary user filter.
///
/// # Errors
/// `ENOSYS` and `EINVAL`: no such thing in this kernel. `EBUSY`: someone above us asks already.
/// `EPERM`, `EACCES`: the container forbids it.
pub fn install(calls: Calls) -> nix::Result<OwnedFd> {
    install_program(&program(calls))
}

/// [`install`] without allocating: for a child whose parent has threads.
pub(super) fn install_program(program: &[Instruction]) -> nix::Result<OwnedFd> {
    if TABLES.is_empty() {
        return Err(Errno::ENOSYS);
    }
    match set_best_filter(program) {
        Err(Errno::EACCES) => {
            nix::sys::prctl::set_no_new_privs()?;
            set_best_filter(program)
        }
        other => other,
    }
}

fn set_best_filter(program: &[Instruction]) -> nix::Result<OwnedFd> {
    // A call that waits for its answer must not be disturbed by harmless signals, else it is made
    // again for each of them. Linux 5.19 can do that.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    match set_filter(program, flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::EINVAL) => set_filter(program, flags),
        other => other,
    }
}

fn set_filter(program: &[Instruction], flags: libc::c_ulong) -> nix::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program =
        libc::sock_fprog { len: length, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: `Instruction` is `struct sock_filter`, `program` outlives the call and is only read.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: just made for us; close-on-exec by definition.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::bpf::interpreter;

    /// Whether a call is told.
    fn told(calls: Calls, architecture: u32, number: u32, arguments: [u32; 3]) -> bool {
        let load = |offset, _| match offset {
            NUMBER => number,
            ARCHITECTURE => architecture,
            16 => arguments[0],
            SECOND_ARGUMENT => arguments[1],
            THIRD_ARGUMENT => arguments[2],
            _ => panic!("nothing at {offset}"),
        };
        interpreter::run(&program(calls), &load) == libc::SECCOMP_RET_USER_NOTIF
    }

    #[test]
    fn calls_are_told_by_number_and_architecture() {
        for calls in [Calls::BindListen, Calls::WithOptions] {
            for table in TABLES {
                for (number, call) in table.numbers {
                    assert_eq!(Call::of(table.architecture, number.cast_signed()), Some(*call));
                    if matches!(call, Call::Bind | Call::Listen) {
                        assert!(told(calls, table.architecture, *number, [7, 8, 9]), "{call:?}");
                        assert!(!told(calls, 1, *number, [7, 8, 9]), "of an unknown architecture");
                    }
                }
                assert!(!told(calls, table.architecture, 0, [0; 3]));
                assert!(!told(calls, table.architecture, u32::MAX, [0; 3]));
            }
        }
        assert_eq!(Call::of(0, 49), None);
    }

    #[test]
    fn of_the_options_only_those_that_matter_are_told() {
        let (socket, ipv6) = (libc::SOL_SOCKET as u32, libc::IPPROTO_IPV6 as u32);
        let (reuse, only) = (libc::SO_REUSEPORT as u32, libc::IPV6_V6ONLY as u32);
        for table in TABLES {
            for (number, _) in table.numbers.iter().filter(|(_, call)| *call == Call::SetOption) {
                let told =
                    |calls, level, option| told(calls, table.architecture, *number, [3, level, option]);
                assert!(told(Calls::WithOptions, socket, reuse) && told(Calls::WithOptions, ipv6, only));
                assert!(!told(Calls::WithOptions, socket, only) && !told(Calls::WithOptions, ipv6, reuse));
                assert!(!told(Calls::WithOptions, libc::IPPROTO_TCP as u32, 1));
                assert!(!told(Calls::BindListen, socket, reuse) && !told(Calls::BindListen, ipv6, only));
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn of_the_socket_calls_of_32_bits_bind_and_listen_are_told() {
        let told = |which| told(Calls::BindListen, 0x4000_0003, 102, [which, 0, 0]);
        assert!(told(SOCKETCALL_BIND) && told(SOCKETCALL_LISTEN));
        assert!(!told(1) && !told(3) && !told(5));
    }
}
