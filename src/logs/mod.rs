//! The apps' output: from their pipes into files and to followers, and rsm's own log.
//!
//! One thread ([`LogThread`]) with a runtime of its own does all of it, so that an app that
//! floods its output never delays supervision. The daemon talks to it through [`Logs`], which
//! only sends and never waits.
//!
//! The way of a line: `pump` reads the pipe, `shape` stamps it if asked, `writer` appends it to the
//! file, `follow` offers it to whoever listens. Raw bytes that a file takes at once are not copied on the
//! way; what it cannot (full disk) is kept, and that app's pipe is left to fill up: nothing is
//! lost, and only that app waits.

pub mod files;
pub mod follow;
pub mod item;
pub mod own;
pub mod tail;
pub mod thread;

mod lines;
mod pump;
mod shape;
mod stamp;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

pub use files::{Files, check, files};
pub use follow::{Filter, Follower, Which};
pub use tail::last_lines;
pub use thread::{Done, LogThread, Logs, Source};
