//! `--sort`: the order of lists.

use std::cmp::Ordering;

use clap::ValueEnum;

use crate::cli::monit::TreeSort;
use crate::ipc::message::InstanceView;

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SortOrder {
    field: SortField,
    descending: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum SortField {
    #[default]
    Name,
    Namespace,
    Pid,
    Id,
    Cpu,
    Memory,
    Uptime,
    Status,
}

/// `field`, `field:asc` or `field:desc`.
pub(super) fn parse_sort(text: &str) -> Result<SortOrder, String> {
    let (field, way) = text.split_once(':').unwrap_or((text, "asc"));
    let descending = match way {
        "asc" => false,
        "desc" => true,
        other => return Err(format!("invalid order {other:?}: expected asc or desc")),
    };
    let field = SortField::from_str(field, true).map_err(|_| {
        let known: Vec<String> =
            SortField::value_variants().iter().map(|field| format!("{field:?}").to_lowercase()).collect();
        format!("unknown field: expected one of {}", known.join(", "))
    })?;
    Ok(SortOrder { field, descending })
}

impl SortOrder {
    /// The same in `rsm monit`, whose tree goes by name where it has no such column.
    pub(super) fn to_monit_column(self) -> TreeSort {
        match self.field {
            SortField::Cpu => TreeSort::Cpu,
            SortField::Memory => TreeSort::Memory,
            SortField::Uptime => TreeSort::Uptime,
            SortField::Status => TreeSort::Status,
            SortField::Name | SortField::Namespace | SortField::Pid | SortField::Id => TreeSort::Name,
        }
    }

    /// Name and id decide what the field leaves open, so that the order is always the same.
    pub(super) fn compare(self, one: &InstanceView, other: &InstanceView) -> Ordering {
        let by_field = match self.field {
            SortField::Name => one.name.cmp(&other.name),
            SortField::Namespace => one.namespace.cmp(&other.namespace),
            SortField::Pid => one.pid.cmp(&other.pid),
            SortField::Id => one.id.cmp(&other.id),
            SortField::Cpu => one.cpu.total_cmp(&other.cpu),
            SortField::Memory => one.memory.cmp(&other.memory),
            SortField::Uptime => one.uptime.cmp(&other.uptime),
            SortField::Status => one.status.as_str().cmp(other.status.as_str()),
        };
        let by_field = if self.descending { by_field.reverse() } else { by_field };
        by_field.then_with(|| one.name.cmp(&other.name)).then(one.id.cmp(&other.id))
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::render::list::tests::view;
    use crate::cli::sort::*;
    use crate::ipc::message::Status;

    fn ids(sort: &str) -> Vec<u32> {
        let order = parse_sort(sort).unwrap();
        let mut views = [
            view(2, "a", Status::Online),
            view(0, "b", Status::Stopped),
            view(3, "c", Status::Online),
            view(1, "a", Status::Online),
        ];
        views.sort_by(|one, other| order.compare(one, other));
        views.iter().map(|view| view.id).collect()
    }

    #[test]
    fn orders() {
        assert_eq!(ids("name"), [1, 2, 0, 3]);
        assert_eq!(ids("name:desc"), [3, 0, 1, 2]);
        assert_eq!(ids("id"), [0, 1, 2, 3]);
        assert_eq!(ids("status:asc"), [1, 2, 3, 0]);
        assert_eq!(ids("memory:desc"), [1, 2, 3, 0]);
        assert_eq!(
            parse_sort("size").unwrap_err(),
            "unknown field: expected one of name, namespace, pid, id, cpu, memory, uptime, status"
        );
        assert!(parse_sort("name:up").is_err());
    }
}
