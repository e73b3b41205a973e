//! `--sort`: the order of lists.

use std::cmp::Ordering;

use clap::ValueEnum;

use super::monit::Sort;
use crate::ipc::message::InstanceView;

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    field: Field,
    descending: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Field {
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
pub(super) fn order(text: &str) -> Result<Order, String> {
    let (field, way) = text.split_once(':').unwrap_or((text, "asc"));
    let descending = match way {
        "asc" => false,
        "desc" => true,
        other => return Err(format!("invalid order {other:?}: expected asc or desc")),
    };
    let field = Field::from_str(field, true).map_err(|_| {
        let known: Vec<String> =
            Field::value_variants().iter().map(|field| format!("{field:?}").to_lowercase()).collect();
        format!("unknown field: expected one of {}", known.join(", "))
    })?;
    Ok(Order { field, descending })
}

impl Order {
    /// The same in `rsm monit`, whose tree goes by name where it has no such column.
    pub(super) fn in_monit(self) -> Sort {
        match self.field {
            Field::Cpu => Sort::Cpu,
            Field::Memory => Sort::Memory,
            Field::Uptime => Sort::Uptime,
            Field::Status => Sort::Status,
            Field::Name | Field::Namespace | Field::Pid | Field::Id => Sort::Name,
        }
    }

    /// Name and id decide what the field leaves open, so that the order is always the same.
    pub(super) fn compare(self, one: &InstanceView, other: &InstanceView) -> Ordering {
        let by_field = match self.field {
            Field::Name => one.name.cmp(&other.name),
            Field::Namespace => one.namespace.cmp(&other.namespace),
            Field::Pid => one.pid.cmp(&other.pid),
            Field::Id => one.id.cmp(&other.id),
            Field::Cpu => one.cpu.total_cmp(&other.cpu),
            Field::Memory => one.memory.cmp(&other.memory),
            Field::Uptime => one.uptime.cmp(&other.uptime),
            Field::Status => one.status.as_str().cmp(other.status.as_str()),
        };
        let by_field = if self.descending { by_field.reverse() } else { by_field };
        by_field.then_with(|| one.name.cmp(&other.name)).then(one.id.cmp(&other.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::Status;

    fn ids(sort: &str) -> Vec<u32> {
        let order = order(sort).unwrap();
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
            order("size").unwrap_err(),
            "unknown field: expected one of name, namespace, pid, id, cpu, memory, uptime, status"
        );
        assert!(order("name:up").is_err());
    }
}
