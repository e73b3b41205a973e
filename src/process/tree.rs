//! tmp
#![allow(missing_docs)]
use std::collections::{HashMap, HashSet};
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessRef {
    pub pid: i32,
    pub start_time: u64,
    pub pgrp: i32,
}
impl ProcessRef {
    pub fn signal(&self, number: i32) -> nix::Result<()> {
        match stat(self.pid) {
            Some(s) if s.2 == self.start_time => nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(self.pid),
                nix::sys::signal::Signal::try_from(number)?,
            ),
            _ => Ok(()),
        }
    }
    pub fn in_group(&self, leader: i32) -> bool {
        self.pgrp == leader
    }
}
pub struct RunLeft {
    pub run: u64,
    pub leader: i32,
    pub start_time: u64,
    pub mark: String,
}
fn stat(pid: i32) -> Option<(i32, i32, u64, char, i32)> {
    let s = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let f: Vec<&str> = s[s.rfind(')')? + 2..].split(' ').collect();
    Some((
        f[1].parse().ok()?,
        f[2].parse().ok()?,
        f[19].parse().ok()?,
        f[0].chars().next()?,
        f[3].parse().ok()?,
    ))
}
fn children(pid: i32) -> Vec<i32> {
    let mut out = vec![];
    if let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) {
        for t in tasks.flatten() {
            if let Ok(s) = std::fs::read_to_string(t.path().join("children")) {
                out.extend(s.split_whitespace().filter_map(|p| p.parse::<i32>().ok()));
            }
        }
    }
    out
}
pub fn descendants(leader: i32) -> Vec<ProcessRef> {
    let mut out = vec![];
    let mut todo = vec![leader];
    while let Some(pid) = todo.pop() {
        if let Some(s) = stat(pid) {
            out.push(ProcessRef { pid, start_time: s.2, pgrp: s.1 });
        }
        todo.extend(children(pid));
    }
    out
}
pub fn remains_of(keeper: i32, runs: &[RunLeft], live: &HashSet<i32>) -> HashMap<u64, Vec<ProcessRef>> {
    let mut out: HashMap<u64, Vec<ProcessRef>> = HashMap::new();
    for child in children(keeper) {
        if live.contains(&child) {
            continue;
        }
        let Some(s) = stat(child) else { continue };
        let env = std::fs::read(format!("/proc/{child}/environ")).unwrap_or_default();
        for run in runs {
            if s.1 == run.leader
                || s.4 == run.leader
                || env.split(|b| *b == 0).any(|v| v == run.mark.as_bytes())
            {
                let tree = descendants(child).into_iter().filter(|p| stat(p.pid).is_some_and(|s| s.3 != 'Z'));
                out.entry(run.run).or_default().extend(tree);
            }
        }
    }
    out
}
