//! CPU and memory of process trees, and metrics of the machine and of rsm itself.

mod host;
mod new_pids;
mod sampler;
mod tracked_process;
mod tracked_tree;

use std::sync::Arc;

use crate::process::proc::stat::{Stat, page_size};

pub use host::{HostInfo, ProcessInfo, host_info, process_info};
pub use sampler::Sampler;

/// CPU and memory usage of a process tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU usage since the previous sample, in percent of one core.
    pub cpu_percent: f32,
    /// Resident bytes; pages that several of its processes share are counted once.
    pub memory: u64,
    /// Pids of the running processes.
    pub processes: Vec<i32>,
    pub largest: Option<LargestProcess>,
}

/// The process of a tree that uses the most memory.
#[derive(Clone, Debug, PartialEq)]
pub struct LargestProcess {
    pub pid: i32,
    /// Its name, truncated by the kernel.
    pub name: Arc<str>,
    /// Resident bytes; of shared pages, its proportional part.
    pub memory: u64,
}

/// The usage of a process that was just started: its own memory.
pub fn initial_usage(pid: i32) -> Usage {
    let resident = Stat::of(pid).map_or(0, |stat| stat.rss_pages * page_size());
    Usage { memory: resident, processes: vec![pid], ..Usage::default() }
}
