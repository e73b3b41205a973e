//! The rows of the tree: a total, apps, and the instances of apps with several.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::cli::sort::SortField;
use crate::ipc::message::{DisplayStatus, InstanceView};
use crate::spec::ExecMode;

/// Identifies a row while other rows are added and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowKey {
    /// All apps.
    #[default]
    All,
    /// An app.
    App(String),
    /// An instance, by id.
    Instance(u32),
}

/// A row of the tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TreeRow {
    pub(super) key: RowKey,
    /// The name of the app, or the number of the instance.
    pub(super) label: String,
    /// The ids of the instances.
    pub(super) ids: Vec<u32>,
    /// Whether the row is unfolded; `None` if it cannot be.
    pub(super) unfolded: Option<bool>,
    pub(super) sum: Totals,
}

/// The totals of the instances in a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Totals {
    pub(super) count: usize,
    pub(super) online: usize,
    /// The status with the highest urgency.
    pub(super) status: DisplayStatus,
    /// In percent of one core.
    pub(super) cpu: f32,
    /// In bytes.
    pub(super) memory: u64,
    /// The memory limit in bytes, if all instances have one.
    pub(super) limit: Option<u64>,
    pub(super) restarts: u32,
    /// Milliseconds since the latest start.
    pub(super) uptime: Option<u64>,
    /// Whether it runs in cluster mode.
    pub(super) cluster: bool,
    /// The first pid.
    pub(super) pid: Option<i32>,
    /// Whether all instances with a liveness probe are healthy.
    pub(super) healthy: Option<bool>,
    /// How the last run ended, for a single instance.
    pub(super) last_exit: Option<String>,
}

/// The sort key of apps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TreeSort {
    #[default]
    Name,
    Status,
    Cpu,
    Memory,
    Restarts,
    Uptime,
}

impl From<SortField> for TreeSort {
    /// The tree has no columns for namespace, pid and id.
    fn from(field: SortField) -> Self {
        match field {
            SortField::Cpu => Self::Cpu,
            SortField::Memory => Self::Memory,
            SortField::Uptime => Self::Uptime,
            SortField::Restarts => Self::Restarts,
            SortField::Status => Self::Status,
            SortField::Name | SortField::Namespace | SortField::Pid | SortField::Id => Self::Name,
        }
    }
}

impl TreeSort {
    /// In the order in which the sort key cycles.
    pub(super) const ALL: [Self; 6] =
        [Self::Name, Self::Status, Self::Cpu, Self::Memory, Self::Restarts, Self::Uptime];

    /// The next sort key.
    pub(super) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// The heading of the column.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Status => "status",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Restarts => "restarts",
            Self::Uptime => "uptime",
        }
    }

    /// Numbers are in descending order.
    fn compare(self, a: &TreeRow, b: &TreeRow) -> Ordering {
        let (a, b) = (&a.sum, &b.sum);
        match self {
            Self::Name => Ordering::Equal,
            Self::Status => urgency(b.status).cmp(&urgency(a.status)),
            Self::Cpu => b.cpu.total_cmp(&a.cpu),
            Self::Memory => b.memory.cmp(&a.memory),
            Self::Restarts => b.restarts.cmp(&a.restarts),
            Self::Uptime => a.uptime.unwrap_or(u64::MAX).cmp(&b.uptime.unwrap_or(u64::MAX)),
        }
    }
}

/// Display options of the tree.
#[derive(Clone, Debug, Default)]
pub(super) struct TreeOptions {
    pub(super) sort: TreeSort,
    pub(super) reversed: bool,
    /// Words that must occur in the name, namespace, status or id.
    pub(super) filter: String,
    /// The apps whose instances are hidden.
    pub(super) folded: BTreeSet<String>,
}

/// The rows, from top to bottom.
pub(super) fn rows(instances: &[InstanceView], options: &TreeOptions) -> Vec<TreeRow> {
    let filter = options.filter.to_lowercase();
    let mut apps: BTreeMap<&str, Vec<&InstanceView>> = BTreeMap::new();
    for view in instances.iter().filter(|view| matches(view, &filter)) {
        apps.entry(&view.name).or_default().push(view);
    }
    let all: Vec<&InstanceView> = apps.values().flatten().copied().collect();
    let mut rows = vec![row(RowKey::All, "all".into(), &all)];
    let mut app_rows: Vec<(TreeRow, Vec<&InstanceView>)> = apps
        .into_iter()
        .map(|(name, mut views)| {
            views.sort_by_key(|view| view.id);
            let mut row = row(RowKey::App(name.to_owned()), name.to_owned(), &views);
            row.unfolded = (views.len() > 1).then(|| !options.folded.contains(name));
            (row, views)
        })
        .collect();
    app_rows.sort_by(|(a, _), (b, _)| {
        let order = options.sort.compare(a, b).then_with(|| a.label.cmp(&b.label));
        if options.reversed { order.reverse() } else { order }
    });
    for (app_row, views) in app_rows {
        let unfolded = app_row.unfolded == Some(true);
        rows.push(app_row);
        if unfolded {
            rows.extend(views.iter().map(|view| {
                row(
                    RowKey::Instance(view.id),
                    format!("{}  id {}", view.number, view.id),
                    std::slice::from_ref(view),
                )
            }));
        }
    }
    rows
}

/// Whether an instance matches all words of the filter.
fn matches(view: &InstanceView, filter: &str) -> bool {
    let texts = || [view.name.to_lowercase(), view.namespace.to_lowercase(), view.status.as_str().into()];
    filter
        .split_whitespace()
        .all(|word| texts().iter().any(|text| text.contains(word)) || view.id.to_string() == word)
}

fn row(key: RowKey, label: String, views: &[&InstanceView]) -> TreeRow {
    let ids = views.iter().map(|view| view.id).collect();
    TreeRow { key, label, ids, unfolded: None, sum: Totals::new(views) }
}

/// The order of statuses by urgency.
fn urgency(status: DisplayStatus) -> u8 {
    match status {
        DisplayStatus::Completed => 0,
        DisplayStatus::Scheduled => 1,
        DisplayStatus::Online => 2,
        DisplayStatus::Stopped => 3,
        DisplayStatus::Stopping => 4,
        DisplayStatus::Launching => 5,
        DisplayStatus::Waiting => 6,
        DisplayStatus::Failed => 7,
        DisplayStatus::Errored => 8,
    }
}

impl Totals {
    fn new(views: &[&InstanceView]) -> Self {
        let limits: Vec<u64> = views.iter().filter_map(|view| view.memory_limit).collect();
        Self {
            count: views.len(),
            online: views.iter().filter(|view| view.status == DisplayStatus::Online).count(),
            status: views
                .iter()
                .map(|view| view.status)
                .max_by_key(|status| urgency(*status))
                .unwrap_or(DisplayStatus::Stopped),
            cpu: views.iter().map(|view| view.cpu).sum(),
            memory: views.iter().map(|view| view.memory).sum(),
            // Without a limit for each instance, there is no limit for the total.
            limit: (!limits.is_empty() && limits.len() == views.len()).then(|| limits.iter().sum()),
            restarts: views.iter().map(|view| view.restarts).fold(0, u32::saturating_add),
            uptime: views.iter().filter_map(|view| view.uptime).min(),
            cluster: views.iter().any(|view| view.mode == ExecMode::Cluster),
            pid: views.iter().find_map(|view| view.pid),
            healthy: views.iter().filter_map(|view| view.healthy).reduce(|one, other| one && other),
            last_exit: match views {
                [view] => view.last_exit.as_ref().map(ToString::to_string),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;

    fn instances() -> Vec<InstanceView> {
        let mut busy = view(3, "worker", DisplayStatus::Online);
        busy.cpu = 90.0;
        vec![
            view(0, "api", DisplayStatus::Online),
            view(1, "api", DisplayStatus::Errored),
            view(2, "网关", DisplayStatus::Stopped),
            busy,
        ]
    }

    fn labels(options: &TreeOptions) -> Vec<String> {
        rows(&instances(), options).into_iter().map(|row| row.label).collect()
    }

    #[test]
    fn apps_with_several_instances_can_be_folded() {
        let mut options = TreeOptions::default();
        assert_eq!(labels(&options), ["all", "api", "0  id 0", "0  id 1", "worker", "网关"]);
        options.folded.insert("api".into());
        assert_eq!(labels(&options), ["all", "api", "worker", "网关"]);
    }

    #[test]
    fn sorts_by_column() {
        let folded = BTreeSet::from(["api".to_owned()]);
        let mut options = TreeOptions { sort: TreeSort::Cpu, folded, ..TreeOptions::default() };
        assert_eq!(labels(&options), ["all", "worker", "api", "网关"]);
        options.sort = TreeSort::Status;
        assert_eq!(labels(&options), ["all", "api", "网关", "worker"]);
        options.reversed = true;
        assert_eq!(labels(&options), ["all", "worker", "网关", "api"]);
    }

    #[test]
    fn shows_only_matching_rows() {
        let shown = |filter: &str| labels(&TreeOptions { filter: filter.into(), ..TreeOptions::default() });
        assert_eq!(shown("API online"), ["all", "api"]);
        assert_eq!(shown("网"), ["all", "网关"]);
        assert_eq!(shown("3"), ["all", "worker"]);
        assert_eq!(shown("none such"), ["all"]);
    }

    #[test]
    fn row_shows_most_urgent_status() {
        let rows = rows(&instances(), &TreeOptions::default());
        let sum = &rows[1].sum;
        assert_eq!((sum.count, sum.online, sum.status), (2, 1, DisplayStatus::Errored));
    }
}
