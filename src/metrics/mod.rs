//! tmp
#![allow(missing_docs)]
use crate::ipc::message::{HostInfo, ProcessInfo};
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub cpu_percent: f32,
    pub memory: u64,
    pub processes: Vec<i32>,
}
pub struct Sampler;
impl Sampler {
    pub fn new() -> Self {
        Self
    }
    pub fn sample(&mut self, _now: u64, runs: &[(u64, i32, u64)]) -> Vec<(u64, Usage)> {
        runs.iter()
            .map(|(run, pid, _)| {
                let rss = std::fs::read_to_string(format!("/proc/{pid}/statm"))
                    .ok()
                    .and_then(|s| s.split(' ').nth(1)?.parse::<u64>().ok())
                    .unwrap_or(0)
                    * 4096;
                (*run, Usage { cpu_percent: 0.0, memory: rss, processes: vec![*pid] })
            })
            .collect()
    }
}
pub fn host() -> HostInfo {
    HostInfo::default()
}
pub fn process(pid: i32) -> ProcessInfo {
    ProcessInfo { pid, uptime: 0, memory: 0 }
}
