//! Processes as the kernel has them: starting, reaping, signalling, and finding whole trees.
//!
//! Linux only, as are `keeper` and `cluster`. `unsafe` stands here and there alone.

pub mod account;
pub mod bpf;
pub mod cgroup;
pub mod channel;
pub mod command;
pub mod connections;
mod dead;
#[cfg(test)]
pub(crate) mod fixture;
pub mod init;
pub mod limits;
pub mod oom;
pub mod pidfd;
pub mod priority;
pub mod proc_fs;
pub mod reap;
pub mod report;
pub mod seccomp;
pub mod signal;
pub mod spawn;
pub mod stdio;
pub mod tree;
pub mod watched;
