//! The list: a table as in PM2, with as many columns as fit the terminal.

use std::collections::{BTreeMap, BTreeSet};

use tabled::builder::Builder;
use tabled::settings::object::{Columns, Rows};
use tabled::settings::{Alignment, Color, Style as Border, Width};

use super::drift;
use super::style::{self, Style, Tone, tame, truncate};
use super::units;
use crate::cli::render::alerts;
use crate::cli::render::alerts::AlertContext;
use crate::ipc::message::{DisplayStatus, HostInfo, InstanceView};
use crate::spec::ExecMode;

/// A layout of the table.
struct ListLayout {
    columns: &'static [ListColumn],
    /// The width to which names are truncated before a layout with fewer columns is used.
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

/// From the widest to the narrowest. The widest has the order of PM2, for scripts; the others begin with what matters
/// most.
const LAYOUTS: [ListLayout; 7] = [
    ListLayout {
        columns: &[
            Id, Name, Namespace, Version, Mode, Pid, Uptime, Restarts, State, Cpu, Memory, User, Watching,
        ],
        name: 40,
    },
    ListLayout {
        columns: &[Id, Name, State, Restarts, Uptime, Memory, Cpu, Pid, Mode, Namespace, User],
        name: 32,
    },
    ListLayout { columns: &[Id, Name, State, Restarts, Uptime, Memory, Cpu, Pid, Mode], name: 24 },
    ListLayout { columns: &[Id, Name, State, Restarts, Uptime, Memory, Cpu], name: 20 },
    ListLayout { columns: &[Id, Name, State, Restarts, Memory], name: 16 },
    ListLayout { columns: &[Id, Name, State], name: 16 },
    ListLayout { columns: &[Id, Name, State], name: 6 },
];

/// Renders the table, totals, host and alerts. Ends with a newline.
pub(crate) fn list(instances: &[InstanceView], context: Option<&AlertContext>, style: Style) -> String {
    let mut text = table(instances, style);
    text.push('\n');
    if let Some(context) = context {
        text.push_str(&footer(instances, &context.host, style.width));
    }
    let default = AlertContext::default();
    let alerts = alerts::alerts(instances, context.unwrap_or(&default));
    if let Some((tone, line)) = alerts::line(&alerts, style.width) {
        text.push_str(&style.paint(tone, &line));
        text.push('\n');
    }
    for line in drift::lines(instances) {
        text.push_str(&style.paint(Tone::Warning, &line));
        text.push('\n');
    }
    text
}

/// The totals and the host, on one line if it fits.
fn footer(instances: &[InstanceView], host: &HostInfo, width: usize) -> String {
    let (totals, host) = (totals(instances), host_line(host));
    let both = style::width(&totals) + style::width(&host) + 5;
    match both <= width {
        true => format!("{totals}  |  {host}\n"),
        false => format!("{}\n{}\n", truncate(&totals, width), truncate(&host, width)),
    }
}

fn totals(instances: &[InstanceView]) -> String {
    let apps: BTreeSet<&str> = instances.iter().map(|view| view.name.as_str()).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for view in instances {
        *counts.entry(view.status.as_str()).or_default() += 1;
    }
    let states: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let subject = match instances.len() {
        count if count == apps.len() => units::pluralize(count, "app"),
        count => {
            format!("{} in {}", units::pluralize(count, "instance"), units::pluralize(apps.len(), "app"))
        }
    };
    // The sum of an empty iterator is -0.0.
    let cpu = 0.0 + instances.iter().map(|view| view.cpu).sum::<f32>();
    let memory: u64 = instances.iter().map(|view| view.memory).sum();
    let states = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
    format!("{subject}{states}; cpu {}, mem {}", units::percent(cpu), units::size(memory))
}

fn host_line(host: &HostInfo) -> String {
    format!(
        "host: {} on {}, mem {} of {}, disk {} of {}",
        units::load_averages(host),
        units::pluralize(host.cores, "core"),
        units::share(host.memory_used, host.memory_total),
        units::size(host.memory_total),
        units::share(host.disk_used, host.disk_total),
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
    let mut narrowest = None;
    for layout in &LAYOUTS {
        // Complete names first, then truncated ones.
        let name_widths = [longest, layout.name];
        for name in &name_widths[usize::from(longest <= layout.name)..] {
            let table = layout.table(instances, *name, style);
            if table.total_width() <= style.width {
                return table.to_string();
            }
            narrowest = Some(table);
        }
    }
    let truncate =
        |mut table: tabled::Table| table.with(Width::truncate(style.width).suffix("…")).to_string();
    narrowest.map(truncate).unwrap_or_default()
}

impl ListLayout {
    fn table(&self, instances: &[InstanceView], name: usize, style: Style) -> tabled::Table {
        let mut builder = Builder::with_capacity(instances.len() + 1, self.columns.len());
        builder.push_record(self.columns.iter().map(|column| column.title()));
        for instance in instances {
            builder.push_record(self.columns.iter().map(|column| column.cell(instance, name)));
        }
        let mut table = builder.build();
        // Without rows, the line below the header would be drawn instead of the bottom border.
        match instances.is_empty() {
            true => table.with(Border::rounded().remove_horizontals()),
            false => table.with(Border::rounded()),
        };
        for (index, _) in self.columns.iter().enumerate().filter(|(_, column)| column.is_number()) {
            table.modify(Columns::one(index), Alignment::right());
        }
        if style.color {
            self.color(&mut table, instances);
        }
        table
    }

    fn color(&self, table: &mut tabled::Table, instances: &[InstanceView]) {
        let heading = Color::new(Tone::Heading.begin(), style::RESET);
        table.modify(Rows::first(), heading);
        for (index, column) in self.columns.iter().enumerate() {
            for (row, instance) in instances.iter().enumerate() {
                let tone = match column {
                    Id => Tone::Heading,
                    State => Tone::of(instance.status),
                    _ => continue,
                };
                table.modify((row + 1, index), Color::new(tone.begin(), style::RESET));
            }
        }
    }
}

impl ListColumn {
    fn is_number(self) -> bool {
        matches!(self, Id | Pid | Uptime | Restarts | Cpu | Memory)
    }

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
            // The lines below the table explain the mark.
            Name if instance.drift.is_some() => format!("{} *", text(&instance.name)),
            Name => text(&instance.name),
            Namespace => text(&instance.namespace),
            Version => text(instance.version.as_deref().unwrap_or("N/A")),
            Mode => mode(instance.mode).to_owned(),
            Pid => instance.pid.map_or_else(|| "N/A".into(), |pid| pid.to_string()),
            Uptime => uptime(instance),
            Restarts => instance.restarts.to_string(),
            State => status(instance),
            Cpu => units::percent(instance.cpu),
            Memory => units::size(instance.memory),
            User => text(&instance.user),
            Watching => if instance.watching { "enabled" } else { "disabled" }.to_owned(),
        }
    }
}

/// The status; that of a scheduled job with the time until its next run.
fn status(instance: &InstanceView) -> String {
    let name = instance.status.as_str();
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    match (instance.status, instance.next_run) {
        (DisplayStatus::Scheduled, Some(next)) => {
            format!("{name} in {}", units::age(next.saturating_sub(now)))
        }
        _ => name.to_owned(),
    }
}

pub(crate) fn mode(mode: ExecMode) -> &'static str {
    match mode {
        ExecMode::Fork => "fork",
        ExecMode::Cluster => "cluster",
    }
}

/// The uptime of an instance, `0` unless it is online.
pub(crate) fn uptime(instance: &InstanceView) -> String {
    match (instance.status, instance.uptime) {
        (DisplayStatus::Online, Some(ms)) => units::age(ms),
        _ => "0".into(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn view(id: u32, name: &str, status: DisplayStatus) -> InstanceView {
        let online = status == DisplayStatus::Online;
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
            runs: 0,
            next_run: None,
            last_run_failed: false,
            failed_runs: 0,
            last_exit: None,
            cpu: if online { 1.5 } else { 0.0 },
            memory: if online { 53_896_806 } else { 0 },
            memory_limit: None,
            user: "ada".into(),
            watching: false,
            healthy: None,
            script: "/srv/app.js".into(),
            version: None,
            source: None,
            drift: None,
        }
    }

    fn three() -> Vec<InstanceView> {
        let mut errored = view(2, "网关", DisplayStatus::Errored);
        errored.reason = Some("16 unstable restarts, last exit: exit code 1".into());
        errored.restarts = 15;
        vec![view(0, "api", DisplayStatus::Online), view(1, "worker", DisplayStatus::Waiting), errored]
    }

    fn shown(width: usize) -> String {
        list(&three(), None, Style { color: false, width })
    }

    const FULL: &str = "\
╭────┬────────┬───────────┬─────────┬──────┬──────┬────────┬────┬─────────────────┬──────┬─────────┬──────┬──────────╮
│ id │ name   │ namespace │ version │ mode │  pid │ uptime │  ↺ │ status          │  cpu │     mem │ user │ watching │
├────┼────────┼───────────┼─────────┼──────┼──────┼────────┼────┼─────────────────┼──────┼─────────┼──────┼──────────┤
│  0 │ api    │ default   │ N/A     │ fork │ 4000 │     2h │  0 │ online          │ 1.5% │ 51.4 MB │ ada  │ disabled │
│  1 │ worker │ default   │ N/A     │ fork │  N/A │      0 │  0 │ waiting restart │   0% │     0 B │ ada  │ disabled │
│  2 │ 网关   │ default   │ N/A     │ fork │  N/A │      0 │ 15 │ errored         │   0% │     0 B │ ada  │ disabled │
╰────┴────────┴───────────┴─────────┴──────┴──────┴────────┴────┴─────────────────┴──────┴─────────┴──────┴──────────╯
网关 (id 2) is errored: 16 unstable restarts, last exit: exit code 1. For details: rsm describe 2
";

    #[test]
    fn wide_terminal_shows_all_columns() {
        assert_eq!(shown(118), FULL);
    }

    #[test]
    fn narrow_terminal_shows_fewer_columns() {
        let head =
            |width| shown(width).lines().nth(1).unwrap_or_default().replace(['│', ' '], "|").to_owned();
        let columns = |width| head(width).split('|').filter(|word| !word.is_empty()).count();
        assert_eq!(
            [117, 97, 96, 78, 77, 64, 63, 48, 47].map(columns),
            [11, 11, 9, 9, 7, 7, 5, 5, 3],
            "{}",
            shown(80)
        );
        let usual = "\
╭────┬────────┬─────────────────┬────┬────────┬─────────┬──────┬──────┬──────╮
│ id │ name   │ status          │  ↺ │ uptime │     mem │  cpu │  pid │ mode │
├────┼────────┼─────────────────┼────┼────────┼─────────┼──────┼──────┼──────┤
│  0 │ api    │ online          │  0 │     2h │ 51.4 MB │ 1.5% │ 4000 │ fork │
";
        assert!(shown(80).starts_with(usual), "{}", shown(80));
    }

    #[test]
    fn names_are_truncated_only_if_needed() {
        let name = "a-name-that-is-too-long-for-most-terminals-of-today-eu-central-1".to_owned();
        let long = [InstanceView { name: name.clone(), ..view(0, "", DisplayStatus::Online) }];
        let shown = |width| list(&long, None, Style { color: false, width });
        assert!(shown(200).contains(&name) && list(&long, None, Style::plain()).contains(&name));
        assert!(shown(160).contains(&format!("{}…", &name[..39])), "{}", shown(160));
    }

    #[test]
    fn table_fits_terminal_width() {
        for width in [30, 40, 50, 62, 80, 117, 118, 200] {
            let text = table(&three(), Style { color: false, width });
            let widest = text.lines().map(style::width).max();
            assert!(widest <= Some(width), "{width}\n{text}");
        }
    }

    #[test]
    fn empty_list_is_a_header() {
        let want = "\
╭────┬──────┬────────┬───┬─────╮
│ id │ name │ status │ ↺ │ mem │
╰────┴──────┴────────┴───┴─────╯
";
        assert_eq!(list(&[], None, Style { color: false, width: 40 }), want);
    }

    #[test]
    fn colors_keep_column_widths() {
        let colored = list(&three(), None, Style { color: true, width: 118 });
        assert!(colored.contains("\u{1b}[32monline"), "{colored}");
        let mut bare = colored;
        for tone in [Tone::Heading, Tone::Success, Tone::Error, Tone::Warning] {
            bare = bare.replace(tone.begin(), "");
        }
        assert_eq!(bare.replace(style::RESET, ""), FULL);
    }

    fn context() -> AlertContext {
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
    fn totals_and_host_follow_table() {
        let text = list(&three(), Some(&context()), Style { color: false, width: 200 });
        let want = "3 apps: 1 errored, 1 online, 1 waiting restart; cpu 1.5%, mem 51.4 MB  |  \
                    host: load 0.50 0.25 0.00 on 2 cores, mem 25% of 8.0 GB, disk 40% of 100.0 GB\n";
        assert!(text.contains(want), "{text}");
        let narrow = list(&three(), Some(&context()), Style { color: false, width: 60 });
        assert!(narrow.lines().rev().skip(1).all(|line| style::width(line) <= 60), "{narrow}");
        let two = [view(0, "api", DisplayStatus::Online), view(1, "api", DisplayStatus::Online)];
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
