//! Extended attributes of files.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Maximum size of an ACL in bytes: some 500 entries. A larger one is not copied.
const MAX_ACL: usize = 4096;

/// Copies the POSIX ACL of an open file to another, if it has one.
pub fn copy_acl(from: &File, to: &File) {
    const ACL: &CStr = c"system.posix_acl_access";
    let mut value = vec![0u8; MAX_ACL];
    // SAFETY: an open descriptor, a NUL-terminated string, and a buffer with its length.
    let length =
        unsafe { libc::fgetxattr(from.as_raw_fd(), ACL.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    if let Ok(length @ 1..) = usize::try_from(length) {
        // SAFETY: an open descriptor, a NUL-terminated string, and `length` initialized bytes.
        unsafe { libc::fsetxattr(to.as_raw_fd(), ACL.as_ptr(), value.as_ptr().cast(), length, 0) };
    }
}

/// The value of an extended attribute; `None` if it does not exist, may not be read, or exceeds 64 bytes.
pub fn xattr(path: &Path, name: &CStr) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut value = [0u8; 64];
    // SAFETY: two NUL-terminated strings, and a buffer with its length.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    Some(value.get(..usize::try_from(length).ok()?)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ACL as the kernel stores it: a version, then entries of tag, permissions and id.
    fn acl() -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in [
            (0x01u16, 6u16, u32::MAX),
            (0x02, 4, 65534),
            (0x04, 4, u32::MAX),
            (0x10, 4, u32::MAX),
            (0x20, 0, u32::MAX),
        ] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn acl_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        let [source, target] = [&from, &to].map(|path| File::create(path).unwrap());
        copy_acl(&source, &target); // it has none
        let (name, value) = (c"system.posix_acl_access", acl());
        // SAFETY: an open descriptor, a NUL-terminated string, and initialized bytes.
        let set = unsafe {
            libc::fsetxattr(source.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        copy_acl(&source, &target);
        assert_eq!(xattr(&to, name), Some(value));
    }
}
