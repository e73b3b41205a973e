//! Linux processes: starting, waiting, signaling, finding process trees, and helper processes.
//!
//! `unsafe` code is only here and in `cluster`.

pub mod bpf;
pub mod fd_channel;
#[cfg(test)]
pub(crate) mod fixture;
pub mod helper;
pub mod limits;
pub mod memfd;
pub mod oom_score;
pub mod pid1;
pub mod priority;
pub mod proc;
pub mod process_ref;
pub mod seccomp;
pub mod signal;
pub mod spawn;
pub mod tree;
pub mod wait;
pub mod xattr;
