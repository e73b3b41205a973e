//! What runs, and rsm itself, use of the machine.

mod new_pids;
mod sampler;
mod tracked_process;
mod tracked_tree;

use std::path::Path;
use std::sync::Arc;

use nix::sys::statvfs::statvfs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::process::proc::stat::{Stat, page_size, pss, ticks_per_second};

pub use sampler::Sampler;

/// A process of rsm itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: i32,
    /// Uptime in milliseconds.
    pub uptime: u64,
    /// Proportional set size in bytes.
    pub memory: u64,
}

/// Host metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostInfo {
    /// Cores available to the daemon.
    pub cores: usize,
    /// Load average over 1, 5, 15 minutes.
    pub load: [f64; 3],
    /// Total memory in bytes.
    pub memory_total: u64,
    /// Used memory in bytes.
    pub memory_used: u64,
    /// Size in bytes of the file system of RSM_HOME.
    #[serde(default)]
    pub disk_total: u64,
    /// Used bytes of it.
    #[serde(default)]
    pub disk_used: u64,
}

/// What the tree of a run uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Percent of one core since the sample before.
    pub cpu_percent: f32,
    /// Bytes resident; pages that its processes share are counted once.
    pub memory: u64,
    /// Its processes.
    pub processes: Vec<i32>,
    /// The one of them that holds most.
    pub largest: Option<LargestProcess>,
}

/// The process of a tree that holds most.
#[derive(Clone, Debug, PartialEq)]
pub struct LargestProcess {
    /// Its pid.
    pub pid: i32,
    /// Its program's name, as the kernel cuts it.
    pub name: Arc<str>,
    /// Bytes resident; of pages that it shares with others of its tree, its part.
    pub memory: u64,
}

/// What can be said of a process at once: its own memory.
pub fn initial_usage(pid: i32) -> Usage {
    let resident = Stat::of(pid).map_or(0, |stat| stat.rss_pages * page_size());
    Usage { memory: resident, processes: vec![pid], ..Usage::default() }
}

/// The machine. `home` tells which of its disks matters.
pub fn host(home: &Path) -> HostInfo {
    let (disk_total, disk_used) = disk_usage(home);
    let only = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(only).ok();
    let load = System::load_average().map_or([0.0; 3], |load| [load.one, load.five, load.fifteen]);
    HostInfo {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        load,
        memory_total: system.as_ref().map_or(0, System::total_memory),
        memory_used: system.as_ref().map_or(0, System::used_memory),
        disk_total,
        disk_used,
    }
}

/// Bytes in all and in use, as `df` counts them; zeros where the file system does not tell.
fn disk_usage(path: &Path) -> (u64, u64) {
    let Ok(told) = statvfs(path) else { return (0, 0) };
    let used = told.blocks().saturating_sub(told.blocks_free());
    // What is kept for root is no room for others.
    let total = used + told.blocks_available();
    (total * told.fragment_size(), used * told.fragment_size())
}

/// One of rsm's own processes. `now` is milliseconds since boot.
pub fn process_info(pid: i32, now: u64) -> ProcessInfo {
    let stat = Stat::of(pid).ok();
    let started = stat.map_or(now, |stat| stat.start_time * 1000 / ticks_per_second());
    let resident = || stat.map_or(0, |stat| stat.rss_pages * page_size());
    ProcessInfo { pid, uptime: now.saturating_sub(started), memory: pss(pid).unwrap_or_else(resident) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_host_has_memory_in_use() {
        let host = super::host(std::path::Path::new("/"));
        assert!(host.cores >= 1 && host.memory_used > 0 && host.memory_used < host.memory_total);
        assert!(host.disk_used > 0 && host.disk_used <= host.disk_total);
    }
}
