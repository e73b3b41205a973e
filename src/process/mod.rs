//! Linux processes: starting, waiting, signaling, finding process trees, and helper processes.
//!
//! `unsafe` code is only here and in `cluster`.

pub(crate) mod bpf;
pub(crate) mod detached;
pub mod fd_channel;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod helper;
pub(crate) mod limits;
pub(crate) mod memfd;
pub(crate) mod oom_score;
pub(crate) mod pid1;
pub(crate) mod priority;
pub(crate) mod proc;
pub mod process_ref;
pub mod run_tag;
pub(crate) mod seccomp;
pub(crate) mod signal;
pub mod spawn;
pub(crate) mod stop_targets;
pub mod tree;
pub(crate) mod wait;
pub(crate) mod xattr;
