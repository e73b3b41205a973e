//! The child's side: which calls are told, and installing the filter.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::process::bpf::{self, Instruction};

/// Offsets in `struct seccomp_data`; of the arguments (little-endian) the low halves.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARG1: u32 = 24;
const OFFSET_ARG2: u32 = 32;

/// x32 calls bear x86-64's architecture and this bit.
#[cfg(target_arch = "x86_64")]
const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// Which calls are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisedCalls {
    /// `bind` and `listen`.
    BindListen,
    /// Also those `setsockopt` calls that decide how a port may be shared: for whoever cannot look
    /// into the program's sockets.
    BindListenSetsockopt,
}

/// A call that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `bind(fd, address, length)`.
    Bind,
    /// `listen(fd, backlog)`.
    Listen,
    /// `setsockopt(fd, level, option, value, length)`.
    SetSockOpt,
    /// 32-bit x86's one call for all of a socket's: its arguments lie in memory.
    SocketCall,
}

/// A way to make system calls that this machine knows, and the numbers in it.
struct SyscallTable {
    architecture: u32,
    numbers: &'static [(u32, CallKind)],
}

#[cfg(target_arch = "x86_64")]
const TABLES: &[SyscallTable] = &[
    SyscallTable {
        architecture: 0xC000_003E,
        numbers: &[
            (49, CallKind::Bind),
            (50, CallKind::Listen),
            (54, CallKind::SetSockOpt),
            (X32_SYSCALL_BIT | 49, CallKind::Bind),
            (X32_SYSCALL_BIT | 50, CallKind::Listen),
            (X32_SYSCALL_BIT | 541, CallKind::SetSockOpt),
        ],
    },
    SyscallTable {
        architecture: 0x4000_0003,
        numbers: &[
            (361, CallKind::Bind),
            (363, CallKind::Listen),
            (366, CallKind::SetSockOpt),
            (102, CallKind::SocketCall),
        ],
    },
];

#[cfg(target_arch = "aarch64")]
const TABLES: &[SyscallTable] = &[
    SyscallTable {
        architecture: 0xC000_00B7,
        numbers: &[(200, CallKind::Bind), (201, CallKind::Listen), (208, CallKind::SetSockOpt)],
    },
    SyscallTable {
        architecture: 0x4000_0028,
        numbers: &[(282, CallKind::Bind), (284, CallKind::Listen), (294, CallKind::SetSockOpt)],
    },
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const TABLES: &[SyscallTable] = &[];

impl CallKind {
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
pub(super) fn program(calls: SupervisedCalls) -> Vec<Instruction> {
    const NOTIFY: Instruction = bpf::ret(libc::SECCOMP_RET_USER_NOTIF);
    const ALLOW: Instruction = bpf::ret(libc::SECCOMP_RET_ALLOW);
    let mut program = vec![bpf::load_word(OFFSET_ARCH)];
    for table in TABLES {
        let mut body = vec![bpf::load_word(OFFSET_NR)];
        for (number, call) in table.numbers {
            let tests: &[Instruction] = match call {
                CallKind::Bind | CallKind::Listen => &[],
                CallKind::SetSockOpt if calls == SupervisedCalls::BindListen => continue,
                CallKind::SetSockOpt => &[
                    bpf::load_word(OFFSET_ARG1),
                    bpf::jump_eq(libc::SOL_SOCKET as u32, 0, 3),
                    bpf::load_word(OFFSET_ARG2),
                    bpf::jump_eq(libc::SO_REUSEPORT as u32, 4, 0),
                    ALLOW,
                    bpf::jump_eq(libc::IPPROTO_IPV6 as u32, 0, 3),
                    bpf::load_word(OFFSET_ARG2),
                    bpf::jump_eq(libc::IPV6_V6ONLY as u32, 0, 1),
                ],
                CallKind::SocketCall => &[
                    bpf::load_word(OFFSET_ARG1 - 8),
                    bpf::jump_eq(SOCKETCALL_BIND, 1, 0),
                    bpf::jump_eq(SOCKETCALL_LISTEN, 0, 1),
                ],
            };
            // Whoever fails a test has lost the number from the accumulator, but needs it no more.
            let after = if tests.is_empty() { 1 } else { 2 };
            body.push(bpf::jump_eq(*number, 0, (tests.len() + after) as u8));
            body.extend_from_slice(tests);
            body.push(NOTIFY);
            body.extend((after == 2).then_some(ALLOW));
        }
        body.push(ALLOW);
        program.push(bpf::jump_eq(table.architecture, 0, body.len() as u8));
        program.extend(body);
    }
    program.push(ALLOW);
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
pub fn install(calls: SupervisedCalls) -> nix::Result<OwnedFd> {
    install_program(&program(calls))
}

/// [`install`] without allocating: for a child whose parent has threads.
pub(super) fn install_program(program: &[Instruction]) -> nix::Result<OwnedFd> {
    if TABLES.is_empty() {
        return Err(Errno::ENOSYS);
    }
    match set_filter_with_fallback(program) {
        Err(Errno::EACCES) => {
            nix::sys::prctl::set_no_new_privs()?;
            set_filter_with_fallback(program)
        }
        other => other,
    }
}

fn set_filter_with_fallback(program: &[Instruction]) -> nix::Result<OwnedFd> {
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
    fn told(calls: SupervisedCalls, architecture: u32, number: u32, arguments: [u32; 3]) -> bool {
        let load = |offset, _| match offset {
            OFFSET_NR => number,
            OFFSET_ARCH => architecture,
            16 => arguments[0],
            OFFSET_ARG1 => arguments[1],
            OFFSET_ARG2 => arguments[2],
            _ => panic!("nothing at {offset}"),
        };
        interpreter::interpret(&program(calls), &load) == libc::SECCOMP_RET_USER_NOTIF
    }

    #[test]
    fn calls_are_told_by_number_and_architecture() {
        for calls in [SupervisedCalls::BindListen, SupervisedCalls::BindListenSetsockopt] {
            for table in TABLES {
                for (number, call) in table.numbers {
                    assert_eq!(CallKind::of(table.architecture, number.cast_signed()), Some(*call));
                    if matches!(call, CallKind::Bind | CallKind::Listen) {
                        assert!(told(calls, table.architecture, *number, [7, 8, 9]), "{call:?}");
                        assert!(!told(calls, 1, *number, [7, 8, 9]), "of an unknown architecture");
                    }
                }
                assert!(!told(calls, table.architecture, 0, [0; 3]));
                assert!(!told(calls, table.architecture, u32::MAX, [0; 3]));
            }
        }
        assert_eq!(CallKind::of(0, 49), None);
    }

    #[test]
    fn of_the_options_only_those_that_matter_are_told() {
        let (socket, ipv6) = (libc::SOL_SOCKET as u32, libc::IPPROTO_IPV6 as u32);
        let (reuse, only) = (libc::SO_REUSEPORT as u32, libc::IPV6_V6ONLY as u32);
        for table in TABLES {
            for (number, _) in table.numbers.iter().filter(|(_, call)| *call == CallKind::SetSockOpt) {
                let told =
                    |calls, level, option| told(calls, table.architecture, *number, [3, level, option]);
                assert!(
                    told(SupervisedCalls::BindListenSetsockopt, socket, reuse)
                        && told(SupervisedCalls::BindListenSetsockopt, ipv6, only)
                );
                assert!(
                    !told(SupervisedCalls::BindListenSetsockopt, socket, only)
                        && !told(SupervisedCalls::BindListenSetsockopt, ipv6, reuse)
                );
                assert!(!told(SupervisedCalls::BindListenSetsockopt, libc::IPPROTO_TCP as u32, 1));
                assert!(
                    !told(SupervisedCalls::BindListen, socket, reuse)
                        && !told(SupervisedCalls::BindListen, ipv6, only)
                );
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn of_the_socket_calls_of_32_bits_bind_and_listen_are_told() {
        let told = |which| told(SupervisedCalls::BindListen, 0x4000_0003, 102, [which, 0, 0]);
        assert!(told(SOCKETCALL_BIND) && told(SOCKETCALL_LISTEN));
        assert!(!told(1) && !told(3) && !told(5));
    }
}
