//! Logs: from the output pipes of apps to files and followers, and rsm's own log.
//!
//! Log workers, threads of their own, capture the output: an app that writes fast never delays the
//! supervisor, and a disk that does not respond delays only the apps that write to it. The daemon sends them
//! commands through [`LogHandle`] and never blocks. The retention thread removes and compresses rotated
//! files. Readers read the files, with their indexes for times and order; [`LogNotify`] wakes them when there
//! is more.

pub mod daemon_log;
pub mod item;
pub mod timestamp;

mod capture;
mod files;
mod handle;
mod read;
mod retention;
mod stalls;
mod subscribe;
#[cfg(test)]
mod tests;

pub use crate::logs::capture::{FileError, FileErrors, RunOutput};
pub use crate::logs::files::access::{LogAccess, LogHome};
pub use crate::logs::files::diversion::Diversion;
pub use crate::logs::files::paths::{LogFiles, default_log_files, log_files};
pub use crate::logs::handle::{LogConfig, LogHandle, LogWorkers, StoreFdFn};
pub use crate::logs::read::reader::{LogReader, ReadQuery, ReadTarget};
pub use crate::logs::subscribe::{FollowFilter, FollowTarget, Follower, LogNotify};
