//! Processes as the kernel has them: starting, reaping, signalling, and finding whole trees.
//!
//! Linux only, as are `keeper` and `cluster`. `unsafe` stands here and there alone.

pub mod channel;
#[cfg(test)]
pub(crate) mod fixture;
pub mod pidfd;
pub mod priority;
pub mod proc_fs;
pub mod reap;
pub mod signal;
pub mod spawn;
pub mod tree;
