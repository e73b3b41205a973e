//! `--sort` and the setting `list.sort`: the order of the list.

use std::cmp::Ordering;

use clap::ValueEnum;

use crate::ipc::message::InstanceView;

/// A field and a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SortOrder {
    field: SortField,
    descending: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum SortField {
    #[default]
    Name,
    Namespace,
    Pid,
    Id,
    Cpu,
    #[value(alias = "mem")]
    Memory,
    Uptime,
    Restarts,
    Status,
}

/// Parses `field`, `field:asc` or `field:desc`.
pub(super) fn parse_sort(text: &str) -> Result<SortOrder, String> {
    let (field, direction) = text.split_once(':').unwrap_or((text, "asc"));
    let descending = match direction {
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
    pub(super) fn field(self) -> SortField {
        self.field
    }

    /// Compares by field, then by name and id, so that the order is deterministic.
    pub(super) fn compare(self, a: &InstanceView, b: &InstanceView) -> Ordering {
        let by_field = match self.field {
            SortField::Name => a.name.cmp(&b.name),
            SortField::Namespace => a.namespace.cmp(&b.namespace),
            SortField::Pid => a.pid.cmp(&b.pid),
            SortField::Id => a.id.cmp(&b.id),
            SortField::Cpu => a.cpu.total_cmp(&b.cpu),
            SortField::Memory => a.memory.cmp(&b.memory),
            SortField::Uptime => a.uptime.cmp(&b.uptime),
            SortField::Restarts => a.restarts.cmp(&b.restarts),
            SortField::Status => a.status.as_str().cmp(b.status.as_str()),
        };
        let by_field = if self.descending { by_field.reverse() } else { by_field };
        by_field.then_with(|| a.name.cmp(&b.name)).then(a.id.cmp(&b.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::DisplayStatus;

    fn ids(sort: &str) -> Vec<u32> {
        let order = parse_sort(sort).unwrap();
        let mut views = [
            view(2, "a", DisplayStatus::Online),
            view(0, "b", DisplayStatus::Stopped),
            view(3, "c", DisplayStatus::Online),
            view(1, "a", DisplayStatus::Online),
        ];
        views.sort_by(|a, b| order.compare(a, b));
        views.iter().map(|view| view.id).collect()
    }

    #[test]
    fn sorts_by_field_then_name_and_id() {
        assert_eq!(ids("name"), [1, 2, 0, 3]);
        assert_eq!(ids("name:desc"), [3, 0, 1, 2]);
        assert_eq!(ids("id"), [0, 1, 2, 3]);
        assert_eq!(ids("status:asc"), [1, 2, 3, 0]);
        assert_eq!(ids("memory:desc"), [1, 2, 3, 0]);
        assert_eq!(
            parse_sort("size").unwrap_err(),
            "unknown field: expected one of name, namespace, pid, id, cpu, memory, uptime, restarts, status"
        );
        assert!(parse_sort("name:up").is_err());
    }
}
