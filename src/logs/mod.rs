//! The apps' output: from their pipes into files and to followers, and rsm's own log.
//!
//! Threads of their own ([`LogWorkers`]) do all of it, so that an app that floods its output never delays
//! supervision, and a disk that does not answer delays only the apps that write to it. The daemon
//! talks to them through [`LogHandle`], which only sends and never blocks.
//!
//! The way of a line: `pump` waits for the pipe, `peek` looks what is in it, `shape` stamps it
//! if asked, `writer` appends it to the file, and only then is it taken out of the pipe: `journal`
//! sees that each line counts once whenever the daemon is killed. What a file does not take (full
//! disk) stays in the pipe: nothing is lost, and only that app waits.
//!
//! Files make way for new ones in `segment`; `tidy` removes old ones and `packer` compresses them, on
//! threads of their own. Readers go by the files, with `index` for times and order; `follow` tells them when
//! there is more.

pub mod item;

mod capture;
pub mod daemon_log;
pub mod files;
pub mod handle;
mod read;
mod retention;
pub mod subscribe;
#[cfg(test)]
mod tests;
pub mod timestamp;

pub use crate::logs::files::paths::{LogFiles, log_files};
pub use crate::logs::handle::{LogConfig, LogHandle, LogWorkers, RunOutput};
pub use crate::logs::read::reader::{LogReader, ReadQuery, ReadTarget};
pub use crate::logs::subscribe::{FollowFilter, FollowTarget, Follower, LogNotify};
