//! Mode, owner, group and ACL of a log file, which are those of the file it replaces.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use crate::process::xattr;

/// Copies owner and group and, `with_mode`, the mode and the ACL. Best effort: a daemon that is not root may not set
/// another owner.
pub(crate) fn copy(from: &File, to: &File, with_mode: bool) {
    let (Ok(old), Ok(new)) = (from.metadata(), to.metadata()) else { return };
    if (old.uid(), old.gid()) != (new.uid(), new.gid())
        && fchown(to, Some(old.uid()), Some(old.gid())).is_err()
    {
        let _ = fchown(to, None, Some(old.gid()));
    }
    // Without its group, a group that had no access would get it.
    if with_mode && to.metadata().is_ok_and(|new| new.gid() == old.gid()) {
        // After the owner, because a change of owner clears bits.
        let _ = to.set_permissions(Permissions::from_mode(old.mode() & 0o7777));
        xattr::copy_acl(from, to);
    }
}
