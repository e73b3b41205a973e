//! The commands as typed: what each does, what it prints where, and the code it ends with.

mod lifecycle;
mod list;
mod logs;
mod scale;
mod select;
mod start;
mod usage;

use crate::harness::Rsm;

/// Runs until it is told to end.
const SLEEPER: &str = "#!/bin/sh\nexec sleep 1000\n";

/// Three apps of the list: `api` with two instances, `web` in the namespace `front`, `job`.
fn three_apps() -> Rsm {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "api", "-i", "2"]);
    rsm.ok(&["start", "sleep 1000", "--name", "web", "--namespace", "front"]);
    rsm.ok(&["start", "sleep 1000", "--name", "job"]);
    rsm
}

/// Name, id, status and pid of all instances: equal before and after where nothing happened.
fn all_of(rsm: &Rsm) -> Vec<String> {
    let row =
        |view: &serde_json::Value| ["name", "id", "status", "pid"].map(|key| view[key].to_string()).join(" ");
    rsm.list().iter().map(row).collect()
}
