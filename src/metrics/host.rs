//! Metrics of the machine, and of the processes of rsm.
#![warn(missing_docs)]

use std::path::Path;

use nix::sys::statvfs::statvfs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::process::proc::stat::{Stat, page_size, pss, ticks_per_second};

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
    /// Used bytes of that file system.
    #[serde(default)]
    pub disk_used: u64,
}

/// Metrics of the machine. `home` is a path on the file system whose size is reported.
pub fn host_info(home: &Path) -> HostInfo {
    let (disk_total, disk_used) = disk_usage(home);
    let memory_only = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory_only).ok();
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

/// Total and used bytes of a file system, as `df` shows them; zeros if they cannot be read.
fn disk_usage(path: &Path) -> (u64, u64) {
    let Ok(stat) = statvfs(path) else { return (0, 0) };
    let used = stat.blocks().saturating_sub(stat.blocks_free());
    // Without the blocks that are reserved for root.
    let total = used + stat.blocks_available();
    (total * stat.fragment_size(), used * stat.fragment_size())
}

/// Metrics of a process of rsm. `now` is milliseconds since boot.
pub fn process_info(pid: i32, now: u64) -> ProcessInfo {
    let stat = Stat::of(pid).ok();
    let started = stat.map_or(now, |stat| stat.start_time * 1000 / ticks_per_second());
    let resident = || stat.map_or(0, |stat| stat.rss_pages * page_size());
    ProcessInfo { pid, uptime: now.saturating_sub(started), memory: pss(pid).unwrap_or_else(resident) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn host_info_has_memory_and_disk() {
        let host = super::host_info(std::path::Path::new("/"));
        assert!(host.cores >= 1 && host.memory_used > 0 && host.memory_used < host.memory_total);
        assert!(host.disk_used > 0 && host.disk_used <= host.disk_total);
    }
}
