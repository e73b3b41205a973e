//! The seccomp filter: which system calls are supervised, and its installation in the child.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::process::bpf::{self, Instruction};

/// Offsets in `struct seccomp_data`; for arguments, of their lower half (little-endian).
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARG0: u32 = 16;
const OFFSET_ARG1: u32 = 24;
const OFFSET_ARG2: u32 = 32;

/// System calls of x32 have the architecture of x86-64 and this bit.
#[cfg(target_arch = "x86_64")]
const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// Which system calls are supervised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisedCalls {
    /// `bind` and `listen`, and the call by which a program forbids itself to bind.
    BindListen,
    /// Also the `setsockopt` calls that affect port sharing: needed if rsm cannot inspect the sockets of the
    /// app.
    BindListenSetsockopt,
}

/// A supervised system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `bind(fd, address, length)`.
    Bind,
    /// `listen(fd, backlog)`.
    Listen,
    /// `setsockopt(fd, level, option, value, length)`.
    SetSockOpt,
    /// `landlock_create_ruleset(attributes, size, flags)`.
    LandlockRuleset,
    /// `socketcall(call, arguments)` of 32-bit x86: one call for all socket operations, with arguments in
    /// memory.
    SocketCall,
}

/// The system call numbers of an architecture (`AUDIT_ARCH_*`) that this machine can execute.
struct SyscallTable {
    architecture: u32,
    numbers: &'static [(u32, CallKind)],
}

/// The same number on all architectures.
const LANDLOCK_CREATE_RULESET: u32 = 444;

/// Socket options that decide how a socket may be bound, or to which group it belongs. From `linux/in6.h` where libc
/// has no name.
const SOCKET_OPTIONS: &[(i32, &[i32])] = &[
    (libc::SOL_SOCKET, &[libc::SO_REUSEPORT, libc::SO_BINDTODEVICE, libc::SO_BINDTOIFINDEX]),
    (libc::IPPROTO_IPV6, &[libc::IPV6_V6ONLY, libc::IPV6_TRANSPARENT, libc::IPV6_FREEBIND]),
    (libc::IPPROTO_IP, &[libc::IP_TRANSPARENT, libc::IP_FREEBIND]),
];

/// The native architecture, and that of 32-bit programs on the same machine (`linux/audit.h`).
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH_AARCH64: u32 = 0xC000_00B7;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;

#[cfg(target_arch = "x86_64")]
const TABLES: &[SyscallTable] = &[
    SyscallTable {
        architecture: AUDIT_ARCH_X86_64,
        numbers: &[
            (libc::SYS_bind as u32, CallKind::Bind),
            (libc::SYS_listen as u32, CallKind::Listen),
            (libc::SYS_setsockopt as u32, CallKind::SetSockOpt),
            (LANDLOCK_CREATE_RULESET, CallKind::LandlockRuleset),
            (X32_SYSCALL_BIT | libc::SYS_bind as u32, CallKind::Bind),
            (X32_SYSCALL_BIT | libc::SYS_listen as u32, CallKind::Listen),
            (X32_SYSCALL_BIT | 541, CallKind::SetSockOpt),
            (X32_SYSCALL_BIT | LANDLOCK_CREATE_RULESET, CallKind::LandlockRuleset),
        ],
    },
    SyscallTable {
        architecture: AUDIT_ARCH_I386,
        numbers: &[
            (361, CallKind::Bind),
            (363, CallKind::Listen),
            (366, CallKind::SetSockOpt),
            (102, CallKind::SocketCall),
            (LANDLOCK_CREATE_RULESET, CallKind::LandlockRuleset),
        ],
    },
];

#[cfg(target_arch = "aarch64")]
const TABLES: &[SyscallTable] = &[
    SyscallTable {
        architecture: AUDIT_ARCH_AARCH64,
        numbers: &[
            (libc::SYS_bind as u32, CallKind::Bind),
            (libc::SYS_listen as u32, CallKind::Listen),
            (libc::SYS_setsockopt as u32, CallKind::SetSockOpt),
            (LANDLOCK_CREATE_RULESET, CallKind::LandlockRuleset),
        ],
    },
    SyscallTable {
        architecture: AUDIT_ARCH_ARM,
        numbers: &[
            (282, CallKind::Bind),
            (284, CallKind::Listen),
            (294, CallKind::SetSockOpt),
            (LANDLOCK_CREATE_RULESET, CallKind::LandlockRuleset),
        ],
    },
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const TABLES: &[SyscallTable] = &[];

impl CallKind {
    /// The call with this number in an architecture; `None` for calls that no filter supervises.
    pub fn of(architecture: u32, number: i32) -> Option<Self> {
        let table = TABLES.iter().find(|table| table.architecture == architecture)?;
        let number = number.cast_unsigned();
        table.numbers.iter().find(|(known, _)| *known == number).map(|(_, call)| *call)
    }
}

/// First argument of `socketcall(2)` for `bind` and `listen`.
const SOCKETCALL_BIND: u32 = 2;
const SOCKETCALL_LISTEN: u32 = 4;

const NOTIFY: Instruction = bpf::ret(libc::SECCOMP_RET_USER_NOTIF);
const ALLOW: Instruction = bpf::ret(libc::SECCOMP_RET_ALLOW);

/// Allows a `setsockopt` call of any other option than [`SOCKET_OPTIONS`]; for these, continues at its end.
fn match_socket_options() -> Vec<Instruction> {
    let mut tests = vec![ALLOW];
    for (level, options) in SOCKET_OPTIONS.iter().rev() {
        let mut of_level = vec![bpf::load_word(OFFSET_ARG2)];
        for (number, option) in options.iter().enumerate() {
            let to_end = (options.len() - number) + tests.len();
            of_level.push(bpf::jump_eq(*option as u32, to_end as u8, 0));
        }
        of_level.push(ALLOW);
        let mut all = vec![bpf::jump_eq(*level as u32, 0, of_level.len() as u8)];
        all.extend(of_level);
        all.extend(tests);
        tests = all;
    }
    tests.insert(0, bpf::load_word(OFFSET_ARG1));
    tests
}

/// The program of the filter.
pub(super) fn program(calls: SupervisedCalls) -> Vec<Instruction> {
    let mut program = vec![bpf::load_word(OFFSET_ARCH)];
    for table in TABLES {
        let mut body = vec![bpf::load_word(OFFSET_NR)];
        for (number, call) in table.numbers {
            let tests: Vec<Instruction> = match call {
                CallKind::Bind | CallKind::Listen | CallKind::LandlockRuleset => Vec::new(),
                CallKind::SetSockOpt if calls == SupervisedCalls::BindListen => continue,
                CallKind::SetSockOpt => match_socket_options(),
                CallKind::SocketCall => vec![
                    bpf::load_word(OFFSET_ARG0),
                    bpf::jump_eq(SOCKETCALL_BIND, 1, 0),
                    bpf::jump_eq(SOCKETCALL_LISTEN, 0, 1),
                ],
            };
            // After a failed test the accumulator does not hold the call number any more, so the call is
            // allowed here.
            let after = if tests.is_empty() { 1 } else { 2 };
            body.push(bpf::jump_eq(*number, 0, (tests.len() + after) as u8));
            body.extend(tests);
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

/// Installs the filter in this thread, for all programs that it executes and all its descendants: each of
/// `calls` waits for a response. Returns the notifier. For a child between fork and exec: a filter cannot be
/// removed.
///
/// Without `CAP_SYS_ADMIN` this sets `no_new_privs`, as the kernel requires: set-user-id bits and file
/// capabilities then have no effect for the program and its descendants.
///
/// # Errors
/// `ENOSYS`, `EINVAL`: not supported by the kernel. `EBUSY`: a filter with a notifier is already installed.
/// `EPERM`, `EACCES`: forbidden by the container.
pub fn install(calls: SupervisedCalls) -> nix::Result<OwnedFd> {
    install_program(&program(calls))
}

/// Like [`install`], without allocation: for the child of a process with several threads.
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
    // Since Linux 5.19, only fatal signals can interrupt a call that waits for its response. Before that,
    // every signal interrupts and restarts it.
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
    // SAFETY: the kernel just created it; a notifier is always close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::bpf::interpreter;

    /// Whether the filter reports a call.
    fn is_reported(calls: SupervisedCalls, architecture: u32, number: u32, arguments: [u32; 3]) -> bool {
        let load = |offset, _| match offset {
            OFFSET_NR => number,
            OFFSET_ARCH => architecture,
            OFFSET_ARG0 => arguments[0],
            OFFSET_ARG1 => arguments[1],
            OFFSET_ARG2 => arguments[2],
            _ => panic!("nothing at {offset}"),
        };
        interpreter::interpret(&program(calls), &load) == libc::SECCOMP_RET_USER_NOTIF
    }

    #[test]
    fn reports_calls_by_number_and_architecture() {
        for calls in [SupervisedCalls::BindListen, SupervisedCalls::BindListenSetsockopt] {
            for table in TABLES {
                for (number, call) in table.numbers {
                    assert_eq!(CallKind::of(table.architecture, number.cast_signed()), Some(*call));
                    if matches!(call, CallKind::Bind | CallKind::Listen | CallKind::LandlockRuleset) {
                        assert!(is_reported(calls, table.architecture, *number, [7, 8, 9]), "{call:?}");
                        assert!(!is_reported(calls, 1, *number, [7, 8, 9]), "unknown architecture");
                    }
                }
                assert!(!is_reported(calls, table.architecture, 0, [0; 3]));
                assert!(!is_reported(calls, table.architecture, u32::MAX, [0; 3]));
            }
        }
        assert_eq!(CallKind::of(0, 49), None);
    }

    #[test]
    fn reports_only_options_of_port_sharing() {
        let (socket, ipv6) = (libc::SOL_SOCKET as u32, libc::IPPROTO_IPV6 as u32);
        let (reuse, only) = (libc::SO_REUSEPORT as u32, libc::IPV6_V6ONLY as u32);
        for table in TABLES {
            for (number, _) in table.numbers.iter().filter(|(_, call)| *call == CallKind::SetSockOpt) {
                let is_reported = |calls, level, option| {
                    is_reported(calls, table.architecture, *number, [3, level, option])
                };
                for (level, options) in SOCKET_OPTIONS {
                    for option in 0..128 {
                        assert_eq!(
                            is_reported(SupervisedCalls::BindListenSetsockopt, *level as u32, option),
                            options.contains(&(option as i32)),
                            "option {option} of level {level}"
                        );
                    }
                }
                assert!(!is_reported(SupervisedCalls::BindListenSetsockopt, libc::IPPROTO_TCP as u32, 1));
                assert!(
                    !is_reported(SupervisedCalls::BindListen, socket, reuse)
                        && !is_reported(SupervisedCalls::BindListen, ipv6, only)
                );
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn reports_bind_and_listen_of_socketcall() {
        let is_reported = |call| is_reported(SupervisedCalls::BindListen, AUDIT_ARCH_I386, 102, [call, 0, 0]);
        assert!(is_reported(SOCKETCALL_BIND) && is_reported(SOCKETCALL_LISTEN));
        assert!(!is_reported(1) && !is_reported(3) && !is_reported(5));
    }
}
