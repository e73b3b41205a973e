//! Hard limits of runs: enforced by a cgroup if rsm can create one, otherwise by rlimits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::instance::Instance;
use crate::instance::status::RunId;
use crate::ipc::message::LimitView;
use crate::paths::{self, Home};
use crate::process::limits::cgroup::CgroupRoot;
use crate::process::limits::{LimitEnforcement, current_rlimits};
use crate::process::oom_score;
use crate::spec::limits::Limits;

/// Creates and removes the cgroups of runs. All clones share one state.
#[derive(Clone, Debug)]
pub struct ResourceLimiter(Rc<LimiterState>);

#[derive(Debug)]
struct LimiterState {
    home: Home,
    /// Discovered when the first app has a limit, because that may move rsm's own processes.
    cgroup_root: RefCell<Option<Result<CgroupRoot, String>>>,
    /// Groups of ended runs that could not be removed yet, because they contain processes.
    leftover_groups: RefCell<BTreeSet<u64>>,
    /// The system's OOM kill counter at the last two samples.
    kills: Cell<[u64; 2]>,
}

impl ResourceLimiter {
    pub fn new(home: Home) -> Self {
        Self(Rc::new(LimiterState {
            home,
            cgroup_root: RefCell::default(),
            leftover_groups: RefCell::default(),
            kills: Cell::new([oom_score::system_oom_kills(); 2]),
        }))
    }

    /// Creates the cgroup of a run. Returns how each limit is enforced; `None` without limits.
    pub fn enforcement_for(&self, run: RunId, instance: &Instance) -> Option<LimitEnforcement> {
        let limits = &instance.spec().limits;
        if limits.is_empty() {
            return None;
        }
        let group = self.cgroup_root().and_then(|root| {
            root.create_group(run.to_u64(), limits)
                .map_err(|error| format!("cannot create a cgroup: {error}"))
        });
        let (cgroup_path, cgroup) = match group {
            Ok((path, enforced)) => (Some(path), enforced),
            Err(reason) => {
                tracing::warn!(app = %instance.spec().name, "using rlimits instead of a cgroup: {reason}");
                (None, Limits::default())
            }
        };
        let rlimit = Limits {
            nofile: None,
            memory: limits.memory.filter(|_| cgroup.memory.is_none()),
            cpu: None,
            pids: limits.pids.filter(|_| cgroup.pids.is_none()),
        };
        let exclusive_user = instance.spec().account.as_ref().is_some_and(|account| account.uid != 0);
        Some(LimitEnforcement { cgroup_path, cgroup, rlimit, exclusive_user })
    }

    /// Removes the group of an ended run, and groups that could not be removed before.
    pub fn release(&self, run: RunId) {
        let root = self.0.cgroup_root.borrow();
        let Some(Ok(root)) = root.as_ref() else { return };
        let mut leftover = self.0.leftover_groups.borrow_mut();
        leftover.insert(run.to_u64());
        leftover.retain(|run| !root.remove_group(*run));
    }

    /// Samples the system's OOM kill counter.
    pub fn record_oom_kills(&self) {
        let [_, last] = self.0.kills.get();
        self.0.kills.set([last, oom_score::system_oom_kills()]);
    }

    /// Whether the kernel killed a run because of memory: the counter of its group says so, or that of the
    /// system has grown since the sample before the last.
    pub fn was_oom_killed(&self, run: RunId) -> bool {
        let root = self.0.cgroup_root.borrow();
        let root = root.as_ref().and_then(|root| root.as_ref().ok());
        let [before, _] = self.0.kills.get();
        root.is_some_and(|root| root.oom_kills(run.to_u64()) > 0) || oom_score::system_oom_kills() > before
    }

    /// The limits of an instance and how they are enforced, read from the kernel.
    pub fn view(&self, instance: &Instance) -> Vec<LimitView> {
        let limits = &instance.spec().limits;
        let (Some(process), false) = (instance.status().state.process(), limits.is_empty()) else {
            return Vec::new();
        };
        let run = RunId { instance: instance.id(), number: process.run };
        let root = self.cgroup_root();
        let cgroup = root
            .as_ref()
            .map_or_else(|_| Limits::default(), |root| root.effective_limits(run.to_u64(), process.pid));
        let rlimit = current_rlimits(process.pid);
        let no_cgroup = root.err().unwrap_or_else(|| "started without a cgroup".to_owned());
        let view = |name: &str, get: fn(&Limits) -> Option<u64>, restriction: &str| {
            let value = get(limits)?;
            let (enforced_by, note) = if get(&cgroup).is_some() {
                ("cgroup", None)
            } else if get(&rlimit) == Some(value) && !restriction.is_empty() {
                ("rlimit", Some(format!("{restriction}; no cgroup: {no_cgroup}")))
            } else {
                ("none", Some(format!("requires a cgroup: {no_cgroup}")))
            };
            Some(LimitView { limit: name.into(), value, enforced_by: enforced_by.into(), note })
        };
        [
            view("memory_max", |limits| limits.memory, "per process; larger allocations fail"),
            view("cpu_max", |limits| limits.cpu.map(u64::from), ""),
            view("pids_max", |limits| limits.pids.map(u64::from), "counts all processes of the user"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn cgroup_root(&self) -> Result<CgroupRoot, String> {
        let mut root = self.0.cgroup_root.borrow_mut();
        root.get_or_insert_with(|| CgroupRoot::discover(&root_group_name(&self.0.home))).clone()
    }
}

/// The name of the group that contains all groups of a home.
fn root_group_name(home: &Home) -> String {
    paths::sanitize_file_name(&format!("rsm{}", home.path().display()))
}
