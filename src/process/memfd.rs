//! Named files in memory, to pass documents between processes as descriptors.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// An empty, close-on-exec file in memory. The name is shown in `/proc/PID/fd`.
///
/// # Errors
/// Out of descriptors or memory.
pub fn create(name: &CStr) -> nix::Result<File> {
    memfd_create(name, MFdFlags::MFD_CLOEXEC).map(File::from)
}

/// A file in memory with these contents; its offset is at the end.
///
/// # Errors
/// Out of descriptors or memory.
pub fn with_contents(name: &CStr, bytes: &[u8]) -> nix::Result<File> {
    let mut file = create(name)?;
    file.write_all(bytes).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(file)
}
