//! Hard limits of runs: by a control group where one can be made, else by the process itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::instance::Instance;
use crate::instance::status::RunId;
use crate::ipc::message::LimitView;
use crate::paths::{self, Home};
use crate::process::limits::cgroup::CgroupRoot;
use crate::process::limits::{self, LimitEnforcement};
use crate::process::oom_score;
use crate::spec::limits::Limits;

/// Knows where groups can be made, and which runs have one. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct ResourceLimiter(Rc<LimiterState>);

#[derive(Debug)]
struct LimiterState {
    home: Home,
    /// Looked for when the first app wants a limit: it may mean to move rsm's own processes.
    cgroup_root: RefCell<Option<Result<CgroupRoot, String>>>,
    /// Groups of runs that are over, and that held processes still when they were to be removed.
    leftover_groups: RefCell<BTreeSet<u64>>,
    /// The kernel's count of those it killed for memory, at the last two looks.
    kills: Cell<[u64; 2]>,
}

impl ResourceLimiter {
    /// For the apps of this home.
    pub fn new(home: Home) -> Self {
        Self(Rc::new(LimiterState {
            home,
            cgroup_root: RefCell::default(),
            leftover_groups: RefCell::default(),
            kills: Cell::new([oom_score::system_oom_kills(); 2]),
        }))
    }

    /// How a run is to be limited; nothing if it is not.
    pub fn enforcement_for(&self, run: RunId, instance: &Instance) -> Option<LimitEnforcement> {
        let wanted = &instance.spec().limits;
        if wanted.is_empty() {
            return None;
        }
        let made = self.cgroup_root().and_then(|place| {
            place
                .create_group(run.to_u64(), wanted)
                .map_err(|error| format!("cannot create a cgroup: {error}"))
        });
        let (cgroup_path, cgroup) = match made {
            Ok((group, held)) => (Some(group), held),
            Err(why) => {
                tracing::warn!(app = %instance.spec().name, "using rlimits instead of a cgroup: {why}");
                (None, Limits::default())
            }
        };
        let rlimit = Limits {
            memory: wanted.memory.filter(|_| cgroup.memory.is_none()),
            cpu: None,
            pids: wanted.pids.filter(|_| cgroup.pids.is_none()),
        };
        let exclusive_user = instance.spec().account.as_ref().is_some_and(|account| account.uid != 0);
        Some(LimitEnforcement { cgroup_path, cgroup, rlimit, exclusive_user })
    }

    /// A run is over: its group goes, as well as those that could not before.
    pub fn release(&self, run: RunId) {
        let place = self.0.cgroup_root.borrow();
        let Some(Ok(place)) = place.as_ref() else { return };
        let mut left = self.0.leftover_groups.borrow_mut();
        left.insert(run.to_u64());
        left.retain(|run| !place.remove_group(*run));
    }

    /// Looks at the kernel's count again.
    pub fn record_oom_kills(&self) {
        let [_, last] = self.0.kills.get();
        self.0.kills.set([last, oom_score::system_oom_kills()]);
    }

    /// Whether it was the kernel that killed a run, for want of memory: its group says so, or the
    /// kernel has killed somebody since the look before the last.
    pub fn was_oom_killed(&self, run: RunId) -> bool {
        let place = self.0.cgroup_root.borrow();
        let group = place.as_ref().and_then(|place| place.as_ref().ok());
        let [before, _] = self.0.kills.get();
        group.is_some_and(|place| place.oom_kills(run.to_u64()) > 0) || oom_score::system_oom_kills() > before
    }

    /// Which of its limits hold for an instance, and by what; as the kernel tells it.
    pub fn view(&self, instance: &Instance) -> Vec<LimitView> {
        let wanted = &instance.spec().limits;
        let (Some(process), false) = (instance.status().state.process(), wanted.is_empty()) else {
            return Vec::new();
        };
        let run = RunId { instance: instance.id(), number: process.run };
        let place = self.cgroup_root();
        let cgroup = place
            .as_ref()
            .map_or_else(|_| Limits::default(), |place| place.effective_limits(run.to_u64(), process.pid));
        let rlimit = limits::current_rlimits(process.pid);
        let no_group = place.err().unwrap_or_else(|| "started without a cgroup".to_owned());
        let view = |limit: &str, of: fn(&Limits) -> Option<u64>, less: &str| {
            let value = of(wanted)?;
            let (by, note) = if of(&cgroup).is_some() {
                ("cgroup", None)
            } else if of(&rlimit) == Some(value) && !less.is_empty() {
                ("rlimit", Some(format!("{less}; no cgroup: {no_group}")))
            } else {
                ("none", Some(format!("requires a cgroup: {no_group}")))
            };
            Some(LimitView { limit: limit.into(), value, enforced_by: by.into(), note })
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
        let mut place = self.0.cgroup_root.borrow_mut();
        place.get_or_insert_with(|| CgroupRoot::discover(&root_group_name(&self.0.home))).clone()
    }
}

/// Of the groups of a home, at the top of all.
fn root_group_name(home: &Home) -> String {
    paths::sanitize_file_name(&format!("rsm{}", home.path().display()))
}
