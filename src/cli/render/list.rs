//! The list: PM2's table, in the fullest layout that fits the terminal.

use std::collections::BTreeSet;

use tabled::builder::Builder;
use tabled::settings::object::Rows;
use tabled::settings::{Color, Style as Border, Width};

use super::style::{Style, Tone, cut, tame};
use super::units;
use crate::ipc::message::{InstanceView, Status};
use crate::spec::ExecMode;

/// The columns and limits of a layout.
struct Layout {
    columns: &'static [Column],
    /// Columns of the terminal that a name may take.
    name: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Id,
    Name,
    Namespace,
    Version,
    Mode,
    Pid,
    Uptime,
    Restarts,
    Status,
    Cpu,
    Memory,
    User,
    Watching,
}

use Column::{
    Cpu, Id, Memory, Mode, Name, Namespace, Pid, Restarts, Status as State, Uptime, User, Version, Watching,
};

/// From the fullest to the smallest.
const LAYOUTS: [Layout; 3] = [
    Layout {
        columns: &[
            Id, Name, Namespace, Version, Mode, Pid, Uptime, Restarts, State, Cpu, Memory, User, Watching,
        ],
        name: 40,
    },
    Layout { columns: &[Id, Name, Mode, Restarts, State, Cpu, Memory], name: 20 },
    Layout { columns: &[Id, Name, State, Cpu, Memory], name: 16 },
];

/// The table, and under it what needs attention. Ends with a newline.
pub(in crate::cli) fn list(instances: &[InstanceView], style: Style) -> String {
    let mut text = table(instances, style);
    text.push('\n');
    if let Some(line) = attention(instances) {
        text.push_str(&style.paint(Tone::Bad, &line));
        text.push('\n');
    }
    for line in drifts(instances) {
        text.push_str(&format!("{line}\n"));
    }
    text
}

/// A line for each app that is marked.
fn drifts(instances: &[InstanceView]) -> BTreeSet<String> {
    let line =
        |view: &InstanceView| Some(format!("* {}: {}", tame(&view.name), tame(view.drift.as_deref()?)));
    instances.iter().filter_map(line).collect()
}

fn table(instances: &[InstanceView], style: Style) -> String {
    let [full, condensed, mini] = LAYOUTS.map(|layout| move || layout.table(instances, style));
    for make in [&full as &dyn Fn() -> tabled::Table, &condensed] {
        let table = make();
        if table.total_width() <= style.width {
            return table.to_string();
        }
    }
    let mut table = mini();
    if table.total_width() > style.width {
        table.with(Width::truncate(style.width).suffix("…"));
    }
    table.to_string()
}

impl Layout {
    fn table(&self, instances: &[InstanceView], style: Style) -> tabled::Table {
        let mut builder = Builder::with_capacity(instances.len() + 1, self.columns.len());
        builder.push_record(self.columns.iter().map(|column| column.title()));
        for instance in instances {
            builder.push_record(self.columns.iter().map(|column| column.cell(instance, self.name)));
        }
        let mut table = builder.build();
        // The rule under the header would take the place of the lower border.
        match instances.is_empty() {
            true => table.with(Border::rounded().remove_horizontals()),
            false => table.with(Border::rounded()),
        };
        if style.colour {
            self.colour(&mut table, instances);
        }
        table
    }

    fn colour(&self, table: &mut tabled::Table, instances: &[InstanceView]) {
        let head = Color::new(Tone::Head.begin(), super::style::END);
        table.modify(Rows::first(), head);
        for (place, column) in self.columns.iter().enumerate() {
            for (row, instance) in instances.iter().enumerate() {
                let tone = match column {
                    Id => Tone::Head,
                    State => Tone::of(instance.status),
                    _ => continue,
                };
                table.modify((row + 1, place), Color::new(tone.begin(), super::style::END));
            }
        }
    }
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Id => "id",
            Name => "name",
            Namespace => "namespace",
            Version => "version",
            Mode => "mode",
            Pid => "pid",
            Uptime => "uptime",
            Restarts => "↺",
            State => "status",
            Cpu => "cpu",
            Memory => "mem",
            User => "user",
            Watching => "watching",
        }
    }

    fn cell(self, instance: &InstanceView, name: usize) -> String {
        let text = |text: &str| cut(&tame(text), name).into_owned();
        match self {
            Id => instance.id.to_string(),
            // The mark is explained below the table.
            Name if instance.drift.is_some() => format!("{} *", text(&instance.name)),
            Name => text(&instance.name),
            Namespace => text(&instance.namespace),
            Version => text(instance.version.as_deref().unwrap_or("N/A")),
            Mode => mode(instance.mode).to_owned(),
            Pid => instance.pid.map_or_else(|| "N/A".into(), |pid| pid.to_string()),
            Uptime => uptime(instance),
            Restarts => instance.restarts.to_string(),
            State => instance.status.as_str().to_owned(),
            Cpu => units::percent(instance.cpu),
            Memory => units::size(instance.memory),
            User => text(&instance.user),
            Watching => if instance.watching { "enabled" } else { "disabled" }.to_owned(),
        }
    }
}

/// The word for a mode.
pub(in crate::cli) fn mode(mode: ExecMode) -> &'static str {
    match mode {
        ExecMode::Fork => "fork",
        ExecMode::Cluster => "cluster",
    }
}

/// How long it has been online; `0` where it is not.
pub(in crate::cli) fn uptime(instance: &InstanceView) -> String {
    match (instance.status, instance.uptime) {
        (Status::Online, Some(ms)) => units::age(ms),
        _ => "0".into(),
    }
}

/// One line about what was given up, why, and how to learn more.
fn attention(instances: &[InstanceView]) -> Option<String> {
    let mut errored = instances.iter().filter(|instance| instance.status == Status::Errored);
    let first = errored.next()?;
    let who = match errored.count() {
        0 => format!("{} (id {}) is errored", tame(&first.name), first.id),
        more => format!("{} (id {}) and {more} more are errored", tame(&first.name), first.id),
    };
    let why = first.reason.as_deref().map(|reason| format!(": {}", tame(reason))).unwrap_or_default();
    Some(format!("{who}{why}. To see why: rsm describe {}", first.id))
}

#[cfg(test)]
pub(in crate::cli) mod tests {
    use super::*;

    pub(in crate::cli) fn view(id: u32, name: &str, status: Status) -> InstanceView {
        let online = status == Status::Online;
        InstanceView {
            id,
            name: name.into(),
            namespace: "default".into(),
            number: 0,
            mode: ExecMode::Fork,
            status,
            reason: None,
            pid: online.then_some(4000 + id.cast_signed()),
            started_at: online.then_some(1_700_000_000_000),
            uptime: online.then_some(7_200_000),
            restarts: 0,
            unstable_restarts: 0,
            cpu: if online { 1.5 } else { 0.0 },
            memory: if online { 53_896_806 } else { 0 },
            user: "ada".into(),
            watching: false,
            version: None,
            drift: None,
        }
    }

    fn three() -> Vec<InstanceView> {
        let mut errored = view(2, "网关", Status::Errored);
        errored.reason = Some("16 early exits, the last with exit code 1".into());
        errored.restarts = 15;
        vec![view(0, "api", Status::Online), view(1, "worker", Status::Waiting), errored]
    }

    fn shown(width: usize) -> String {
        list(&three(), Style { colour: false, width })
    }

    const FULL: &str = "\
╭────┬────────┬───────────┬─────────┬──────┬──────┬────────┬────┬─────────────────┬──────┬────────┬──────┬──────────╮
│ id │ name   │ namespace │ version │ mode │ pid  │ uptime │ ↺  │ status          │ cpu  │ mem    │ user │ watching │
├────┼────────┼───────────┼─────────┼──────┼──────┼────────┼────┼─────────────────┼──────┼────────┼──────┼──────────┤
│ 0  │ api    │ default   │ N/A     │ fork │ 4000 │ 2h     │ 0  │ online          │ 1.5% │ 51.4mb │ ada  │ disabled │
│ 1  │ worker │ default   │ N/A     │ fork │ N/A  │ 0      │ 0  │ waiting restart │ 0%   │ 0b     │ ada  │ disabled │
│ 2  │ 网关   │ default   │ N/A     │ fork │ N/A  │ 0      │ 15 │ errored         │ 0%   │ 0b     │ ada  │ disabled │
╰────┴────────┴───────────┴─────────┴──────┴──────┴────────┴────┴─────────────────┴──────┴────────┴──────┴──────────╯
网关 (id 2) is errored: 16 early exits, the last with exit code 1. To see why: rsm describe 2
";

    #[test]
    fn wide_terminals_see_everything() {
        assert_eq!(shown(117), FULL);
    }

    #[test]
    fn narrower_ones_see_less() {
        let condensed = "\
╭────┬────────┬──────┬────┬─────────────────┬──────┬────────╮
│ id │ name   │ mode │ ↺  │ status          │ cpu  │ mem    │
├────┼────────┼──────┼────┼─────────────────┼──────┼────────┤
│ 0  │ api    │ fork │ 0  │ online          │ 1.5% │ 51.4mb │
";
        assert!(shown(116).starts_with(condensed), "{}", shown(116));
        let mini = "\
╭────┬────────┬─────────────────┬──────┬────────╮
│ id │ name   │ status          │ cpu  │ mem    │
";
        assert!(shown(60).starts_with(mini), "{}", shown(60));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [30, 40, 50, 61, 80, 116, 117, 200] {
            let text = table(&three(), Style { colour: false, width });
            let widest = text.lines().map(super::super::style::width).max();
            assert!(widest <= Some(width), "{width}\n{text}");
        }
    }

    #[test]
    fn an_empty_list_is_a_header() {
        let want = "\
╭────┬──────┬────────┬─────┬─────╮
│ id │ name │ status │ cpu │ mem │
╰────┴──────┴────────┴─────┴─────╯
";
        assert_eq!(list(&[], Style { colour: false, width: 40 }), want);
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let coloured = list(&three(), Style { colour: true, width: 117 });
        assert!(coloured.contains("\u{1b}[32monline"), "{coloured}");
        let mut bare = coloured;
        for tone in [Tone::Head, Tone::Good, Tone::Bad, Tone::Change] {
            bare = bare.replace(tone.begin(), "");
        }
        assert_eq!(bare.replace(super::super::style::END, ""), FULL);
    }

    #[test]
    fn several_given_up_are_counted() {
        let instances = [view(4, "a", Status::Errored), view(5, "b", Status::Errored)];
        let want = "a (id 4) and 1 more are errored. To see why: rsm describe 4";
        assert_eq!(attention(&instances).as_deref(), Some(want));
    }
}
