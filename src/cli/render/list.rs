//! The list: PM2's table, in the fullest layout that fits the terminal.

use std::collections::{BTreeMap, BTreeSet};

use tabled::builder::Builder;
use tabled::settings::object::Rows;
use tabled::settings::{Color, Style as Border, Width};

use super::drift;
use super::style::{self, Style, Tone, tame, truncate};
use super::units;
use crate::cli::render::alerts;
use crate::cli::render::alerts::{AlertContext, alerts};
use crate::ipc::message::{HostInfo, InstanceView, Status};
use crate::spec::ExecMode;

/// The columns and limits of a layout.
struct ListLayout {
    columns: &'static [ListColumn],
    /// Columns of the terminal that a name is cut to before columns are left out.
    name: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ListColumn {
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

use ListColumn::{
    Cpu, Id, Memory, Mode, Name, Namespace, Pid, Restarts, Status as State, Uptime, User, Version, Watching,
};

/// From the fullest to the smallest.
const LAYOUTS: [ListLayout; 7] = [
    ListLayout {
        columns: &[
            Id, Name, Namespace, Version, Mode, Pid, Uptime, Restarts, State, Cpu, Memory, User, Watching,
        ],
        name: 40,
    },
    ListLayout {
        columns: &[Id, Name, Namespace, Mode, Pid, Uptime, Restarts, State, Cpu, Memory, User],
        name: 32,
    },
    ListLayout { columns: &[Id, Name, Mode, Pid, Uptime, Restarts, State, Cpu, Memory], name: 24 },
    ListLayout { columns: &[Id, Name, Mode, Restarts, State, Cpu, Memory], name: 20 },
    ListLayout { columns: &[Id, Name, State, Cpu, Memory], name: 16 },
    ListLayout { columns: &[Id, Name, State], name: 16 },
    ListLayout { columns: &[Id, Name, State], name: 6 },
];

/// The table, the sums and the host below it, and what needs attention. Ends with a newline.
pub(crate) fn list(instances: &[InstanceView], around: Option<&AlertContext>, style: Style) -> String {
    let mut text = table(instances, style);
    text.push('\n');
    if let Some(around) = around {
        text.push_str(&footer(instances, &around.host, style.width));
    }
    let nothing = AlertContext::default();
    let concerns = alerts(instances, around.unwrap_or(&nothing));
    if let Some((tone, line)) = alerts::line(&concerns, style.width) {
        text.push_str(&style.paint(tone, &line));
        text.push('\n');
    }
    for line in drift::lines(instances) {
        text.push_str(&style.paint(Tone::Warning, &line));
        text.push('\n');
    }
    text
}

/// The sums on the left, the host on the right, or below where the terminal is narrow.
fn footer(instances: &[InstanceView], host: &HostInfo, width: usize) -> String {
    let (sums, host) = (totals(instances), self::host(host));
    let both = style::width(&sums) + style::width(&host) + 5;
    match both <= width {
        true => format!("{sums}  |  {host}\n"),
        false => format!("{}\n{}\n", truncate(&sums, width), truncate(&host, width)),
    }
}

fn totals(instances: &[InstanceView]) -> String {
    let apps: BTreeSet<&str> = instances.iter().map(|view| view.name.as_str()).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for view in instances {
        *counts.entry(view.status.as_str()).or_default() += 1;
    }
    let states: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let of = match instances.len() {
        count if count == apps.len() => pluralize(count, "app"),
        count => format!("{} in {}", pluralize(count, "instance"), pluralize(apps.len(), "app")),
    };
    // The sum of nothing is minus zero.
    let cpu = 0.0 + instances.iter().map(|view| view.cpu).sum::<f32>();
    let memory: u64 = instances.iter().map(|view| view.memory).sum();
    let states = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
    format!("{of}{states}; cpu {}, mem {}", units::percent(cpu), units::size(memory))
}

fn pluralize(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn host(host: &HostInfo) -> String {
    let [one, five, fifteen] = host.load;
    let share = |used: u64, total: u64| format!("{}%", (used * 100).checked_div(total).unwrap_or(0));
    format!(
        "host: load {one:.2} {five:.2} {fifteen:.2} on {}, mem {} of {}, disk {} of {}",
        pluralize(host.cores, "core"),
        share(host.memory_used, host.memory_total),
        units::size(host.memory_total),
        share(host.disk_used, host.disk_total),
        units::size(host.disk_total),
    )
}

/// The lines of a page that fit on a screen of `height` rows. Rows of the table are left out first.
pub(crate) fn fit_rows(page: &str, height: usize) -> Vec<String> {
    let lines: Vec<&str> = page.lines().collect();
    let available = height.saturating_sub(1);
    if lines.len() <= available {
        return lines.into_iter().map(str::to_owned).collect();
    }
    let below = lines.iter().rev().take_while(|line| !line.starts_with('╰')).count() + 1;
    let above = available.saturating_sub(below + 1);
    let left_out = lines.len().saturating_sub(above + below);
    let mut fitting: Vec<String> = lines.iter().take(above).map(|line| (*line).to_owned()).collect();
    fitting.push(format!("  … {left_out} more rows; use `rsm monit` to scroll"));
    let end = lines.iter().skip(lines.len().saturating_sub(below.min(available)));
    fitting.extend(end.map(|line| (*line).to_owned()));
    fitting.truncate(available);
    fitting
}

fn table(instances: &[InstanceView], style: Style) -> String {
    let longest = instances.iter().map(|view| style::width(&view.name)).max().unwrap_or(0);
    let mut smallest = None;
    for layout in &LAYOUTS {
        let names = [longest, layout.name];
        // Where none is so long, both are the same.
        for name in &names[usize::from(longest <= layout.name)..] {
            let table = layout.table(instances, *name, style);
            if table.total_width() <= style.width {
                return table.to_string();
            }
            smallest = Some(table);
        }
    }
    let cut = |mut table: tabled::Table| table.with(Width::truncate(style.width).suffix("…")).to_string();
    smallest.map(cut).unwrap_or_default()
}

impl ListLayout {
    fn table(&self, instances: &[InstanceView], name: usize, style: Style) -> tabled::Table {
        let mut builder = Builder::with_capacity(instances.len() + 1, self.columns.len());
        builder.push_record(self.columns.iter().map(|column| column.title()));
        for instance in instances {
            builder.push_record(self.columns.iter().map(|column| column.cell(instance, name)));
        }
        let mut table = builder.build();
        // The rule under the header would take the place of the lower border.
        match instances.is_empty() {
            true => table.with(Border::rounded().remove_horizontals()),
            false => table.with(Border::rounded()),
        };
        if style.color {
            self.color(&mut table, instances);
        }
        table
    }

    fn color(&self, table: &mut tabled::Table, instances: &[InstanceView]) {
        let head = Color::new(Tone::Heading.begin(), super::style::RESET);
        table.modify(Rows::first(), head);
        for (place, column) in self.columns.iter().enumerate() {
            for (row, instance) in instances.iter().enumerate() {
                let tone = match column {
                    Id => Tone::Heading,
                    State => Tone::of(instance.status),
                    _ => continue,
                };
                table.modify((row + 1, place), Color::new(tone.begin(), super::style::RESET));
            }
        }
    }
}

impl ListColumn {
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
        let text = |text: &str| truncate(&tame(text), name).into_owned();
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
pub(crate) fn mode(mode: ExecMode) -> &'static str {
    match mode {
        ExecMode::Fork => "fork",
        ExecMode::Cluster => "cluster",
    }
}

/// How long it has been online; `0` where it is not.
pub(crate) fn uptime(instance: &InstanceView) -> String {
    match (instance.status, instance.uptime) {
        (Status::Online, Some(ms)) => units::age(ms),
        _ => "0".into(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn view(id: u32, name: &str, status: Status) -> InstanceView {
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
            memory_limit: None,
            user: "ada".into(),
            watching: false,
            version: None,
            source: None,
            drift: None,
        }
    }

    fn three() -> Vec<InstanceView> {
        let mut errored = view(2, "网关", Status::Errored);
        errored.reason = Some("16 unstable restarts, last exit: exit code 1".into());
        errored.restarts = 15;
        vec![view(0, "api", Status::Online), view(1, "worker", Status::Waiting), errored]
    }

    fn shown(width: usize) -> String {
        list(&three(), None, Style { color: false, width })
    }

    const FULL: &str = "\
╭────┬────────┬───────────┬─────────┬──────┬──────┬────────┬────┬─────────────────┬──────┬────────┬──────┬──────────╮
│ id │ name   │ namespace │ version │ mode │ pid  │ uptime │ ↺  │ status          │ cpu  │ mem    │ user │ watching │
├────┼────────┼───────────┼─────────┼──────┼──────┼────────┼────┼─────────────────┼──────┼────────┼──────┼──────────┤
│ 0  │ api    │ default   │ N/A     │ fork │ 4000 │ 2h     │ 0  │ online          │ 1.5% │ 51.4mb │ ada  │ disabled │
│ 1  │ worker │ default   │ N/A     │ fork │ N/A  │ 0      │ 0  │ waiting restart │ 0%   │ 0b     │ ada  │ disabled │
│ 2  │ 网关   │ default   │ N/A     │ fork │ N/A  │ 0      │ 15 │ errored         │ 0%   │ 0b     │ ada  │ disabled │
╰────┴────────┴───────────┴─────────┴──────┴──────┴────────┴────┴─────────────────┴──────┴────────┴──────┴──────────╯
网关 (id 2) is errored: 16 unstable restarts, last exit: exit code 1. For details: rsm describe 2
";

    #[test]
    fn wide_terminals_see_everything() {
        assert_eq!(shown(117), FULL);
    }

    #[test]
    fn narrower_ones_see_less() {
        let head =
            |width| shown(width).lines().nth(1).unwrap_or_default().replace(['│', ' '], "|").to_owned();
        let columns = |width| head(width).split('|').filter(|word| !word.is_empty()).count();
        assert_eq!(
            [116, 96, 95, 77, 76, 61, 60, 40].map(columns),
            [11, 11, 9, 9, 7, 7, 5, 3],
            "{}",
            shown(80)
        );
        let usual = "\
╭────┬────────┬──────┬──────┬────────┬────┬─────────────────┬──────┬────────╮
│ id │ name   │ mode │ pid  │ uptime │ ↺  │ status          │ cpu  │ mem    │
├────┼────────┼──────┼──────┼────────┼────┼─────────────────┼──────┼────────┤
│ 0  │ api    │ fork │ 4000 │ 2h     │ 0  │ online          │ 1.5% │ 51.4mb │
";
        assert!(shown(80).starts_with(usual), "{}", shown(80));
    }

    #[test]
    fn names_are_whole_where_there_is_room() {
        let name = "a-name-that-tells-all-there-is-to-tell-of-the-app-eu-central-1".to_owned();
        let long = [InstanceView { name: name.clone(), ..view(0, "", Status::Online) }];
        let shown = |width| list(&long, None, Style { color: false, width });
        assert!(shown(200).contains(&name) && list(&long, None, Style::plain()).contains(&name));
        assert!(shown(160).contains(&format!("{}…", &name[..39])), "{}", shown(160));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [30, 40, 50, 61, 80, 116, 117, 200] {
            let text = table(&three(), Style { color: false, width });
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
        assert_eq!(list(&[], None, Style { color: false, width: 40 }), want);
    }

    #[test]
    fn colors_do_not_move_the_columns() {
        let colored = list(&three(), None, Style { color: true, width: 117 });
        assert!(colored.contains("\u{1b}[32monline"), "{colored}");
        let mut bare = colored;
        for tone in [Tone::Heading, Tone::Success, Tone::Error, Tone::Warning] {
            bare = bare.replace(tone.begin(), "");
        }
        assert_eq!(bare.replace(super::super::style::RESET, ""), FULL);
    }

    fn around() -> AlertContext {
        let host = HostInfo {
            cores: 2,
            load: [0.5, 0.25, 0.0],
            memory_total: 8 << 30,
            memory_used: 2 << 30,
            disk_total: 100 << 30,
            disk_used: 40 << 30,
        };
        AlertContext { host, ..AlertContext::default() }
    }

    #[test]
    fn sums_and_host_stand_below() {
        let text = list(&three(), Some(&around()), Style { color: false, width: 200 });
        let want = "3 apps: 1 errored, 1 online, 1 waiting restart; cpu 1.5%, mem 51.4mb  |  \
                    host: load 0.50 0.25 0.00 on 2 cores, mem 25% of 8.0gb, disk 40% of 100.0gb\n";
        assert!(text.contains(want), "{text}");
        let narrow = list(&three(), Some(&around()), Style { color: false, width: 60 });
        assert!(narrow.lines().rev().skip(1).all(|line| style::width(line) <= 60), "{narrow}");
        let two = [view(0, "api", Status::Online), view(1, "api", Status::Online)];
        assert!(totals(&two).starts_with("2 instances in 1 app: 2 online; cpu 3%"), "{}", totals(&two));
    }

    #[test]
    fn fit_rows_counts_omitted_rows() {
        let page = format!("╭─╮\n{}╰─╯\nsums\nattention\n", "│x│\n".repeat(10));
        let fit = fit_rows(&page, 9);
        assert_eq!(fit.len(), 8);
        assert_eq!(fit[..2], ["╭─╮", "│x│"]);
        assert!(fit[4].contains("7 more rows"), "{fit:?}");
        assert_eq!(fit[5..], ["╰─╯", "sums", "attention"]);
        assert_eq!(fit_rows(&page, 100).len(), 14);
        assert!(fit_rows(&page, 2).len() <= 1 && fit_rows("", 0).is_empty());
    }
}
