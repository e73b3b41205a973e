//! eBPF: instructions, and the system call that creates maps and loads programs.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct EbpfInstruction {
    code: u8,
    /// `dst_reg` in the low four bits, `src_reg` in the high ones.
    registers: u8,
    off: i16,
    imm: i32,
}

pub(super) const fn instruction(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> EbpfInstruction {
    EbpfInstruction { code, registers: src << 4 | dst, off, imm }
}

/// Commands of `bpf(2)`, from `linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_LOAD: libc::c_int = 5;

/// Socket option, from `asm-generic/socket.h`.
const SO_ATTACH_REUSEPORT_EBPF: libc::c_int = 52;

/// Types of maps with 32-bit keys and 64-bit values.
#[derive(Clone, Copy)]
pub(super) enum MapKind {
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_REUSEPORT_SOCKARRAY`: its values are descriptors of sockets.
    ReuseportSockets = 20,
}

/// Types of programs that choose the socket of a group.
#[derive(Clone, Copy)]
pub(super) enum ProgramKind {
    /// `BPF_PROG_TYPE_SOCKET_FILTER`: returns the index of a member.
    SocketFilter,
    /// `BPF_PROG_TYPE_SK_REUSEPORT` with `BPF_SK_REUSEPORT_SELECT_OR_MIGRATE`: also chooses the member that gets the
    /// connections of one that stops listening. Since Linux 5.14.
    SelectOrMigrate,
}

/// A map.
#[derive(Debug)]
pub(super) struct Map(OwnedFd);

impl Map {
    pub fn new(kind: MapKind, entries: u32) -> nix::Result<Self> {
        #[repr(C)]
        struct BpfAttr {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            map_flags: u32,
        }
        let (key_size, value_size) = (size_of::<u32>() as u32, size_of::<u64>() as u32);
        let attr =
            BpfAttr { map_type: kind as u32, key_size, value_size, max_entries: entries, map_flags: 0 };
        bpf_new_fd(BPF_MAP_CREATE, &attr).map(Self)
    }

    /// The descriptor that a program names it by.
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    pub fn get(&self, key: u32) -> nix::Result<u64> {
        let mut value = 0u64;
        self.access(BPF_MAP_LOOKUP_ELEM, key, &raw mut value as u64).map(|()| value)
    }

    pub fn set(&self, key: u32, value: u64) -> nix::Result<()> {
        self.access(BPF_MAP_UPDATE_ELEM, key, &raw const value as u64)
    }

    pub fn remove(&self, key: u32) -> nix::Result<()> {
        // The command has no value.
        self.access(BPF_MAP_DELETE_ELEM, key, 0)
    }

    /// `value`: the address of the value.
    fn access(&self, command: libc::c_int, key: u32, value: u64) -> nix::Result<()> {
        #[repr(C)]
        struct BpfAttr {
            map_fd: u64,
            key: u64,
            value: u64,
            flags: u64,
        }
        let (map_fd, key) = (u64::from(self.0.as_raw_fd().cast_unsigned()), &raw const key as u64);
        bpf(command, &BpfAttr { map_fd, key, value, flags: 0 }).map(drop)
    }
}

/// Loads a program and attaches it to the group of this socket.
///
/// # Errors
/// `EPERM`: missing privileges. `EINVAL`: not supported by the kernel. The previous program stays attached.
pub(super) fn attach(fd: BorrowedFd<'_>, kind: ProgramKind, program: &[EbpfInstruction]) -> nix::Result<()> {
    let program = load_program(kind, program)?;
    let program_fd = program.as_raw_fd();
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one number. The group keeps program and maps open, so the program's descriptor may be
    // closed.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_ATTACH_REUSEPORT_EBPF,
            (&raw const program_fd).cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
}

fn load_program(kind: ProgramKind, program: &[EbpfInstruction]) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct BpfAttr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        /// `log_level`, `log_size` and `log_buf`: no log.
        log: [u64; 2],
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let (prog_type, expected_attach_type) = match kind {
        ProgramKind::SocketFilter => (1, 0),
        ProgramKind::SelectOrMigrate => (21, 40),
    };
    bpf_new_fd(
        BPF_PROG_LOAD,
        &BpfAttr {
            prog_type,
            insn_cnt: program.len() as u32,
            insns: program.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            log: [0; 2],
            kern_version: 0,
            prog_flags: 0,
            prog_name: [0; 16],
            prog_ifindex: 0,
            expected_attach_type,
        },
    )
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> nix::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, and what they point to outlives the call.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    })
}

fn bpf_new_fd<T>(command: libc::c_int, attributes: &T) -> nix::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just created it for this call, with close-on-exec set.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
