//! Files in directories that other users can write to.
//!
//! A daemon of root writes log and pid files for apps of other users, often in directories of those users. Whoever
//! can write to a directory can replace a file in it by a symbolic link, a hard link, a named pipe or a file of
//! somebody else, at any moment. So all such files are found and opened here, and nowhere by their path alone:
//!
//! * A path is resolved component by component with directory descriptors ([`walk`]). A directory is *trusted*
//!   while it and all above it belong to root or to the user of this process and no other user can write to them.
//!   (POSIX ACLs are covered: their mask is shown as the group bits.) Only in trusted directories are symbolic
//!   links followed like any other path.
//! * A sticky directory such as `/tmp` is not trusted, but a private directory in it is: nobody else can rename it.
//! * From the first directory that is not trusted on, a file is used only if it is a regular file or a named pipe
//!   without other names, and belongs to the user it is written for ([`location`]). A file of this process's user
//!   is used only if it is known to have been made by it. New files and directories belong to that user.
//! * Renames and removals act on the descriptor of the directory, after the identity of the file was compared.

mod location;
mod user;
mod walk;

pub use location::{Access, FileId, Location, PRIVATE_ACCESS, open_private};
pub use user::FileUser;
pub use walk::is_refused;
