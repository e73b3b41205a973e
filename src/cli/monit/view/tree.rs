//! The tree of apps and instances. Only the visible rows are drawn.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::Theme;
use crate::cli::monit::model::{ClickAreas, Connection, Focus, Model};
use crate::cli::monit::text::{pad_left, pad_right};
use crate::cli::monit::tree::{RowKey, TreeRow, TreeSort};
use crate::cli::render::style::{tame, width};
use crate::cli::render::units;
use crate::ipc::message::DisplayStatus;

/// A column other than the name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TreeColumn {
    Status,
    Cpu,
    Memory,
    Limit,
    Restarts,
    Uptime,
    Mode,
    Pid,
    Health,
    LastExit,
}

/// The columns by priority, with their width in terminal columns, including a leading space.
const COLUMNS: [(TreeColumn, usize); 10] = [
    (TreeColumn::Status, 16),
    (TreeColumn::Cpu, 8),
    (TreeColumn::Memory, 10),
    (TreeColumn::Restarts, 4),
    (TreeColumn::Uptime, 6),
    (TreeColumn::Limit, 10),
    (TreeColumn::Pid, 9),
    (TreeColumn::Mode, 9),
    (TreeColumn::Health, 10),
    (TreeColumn::LastExit, 20),
];

/// The columns in the order on the screen.
const COLUMN_PRIORITY: [TreeColumn; 10] = [
    TreeColumn::Mode,
    TreeColumn::Pid,
    TreeColumn::Status,
    TreeColumn::Cpu,
    TreeColumn::Memory,
    TreeColumn::Limit,
    TreeColumn::Restarts,
    TreeColumn::Uptime,
    TreeColumn::Health,
    TreeColumn::LastExit,
];

/// Minimum width of the name, in terminal columns.
const MIN_NAME: usize = 14;
/// The first columns of `COLUMNS`, for which a name is truncated. The others are only shown if the names fit, up
/// to `LONG`.
const REQUIRED_COLUMNS: usize = 5;
const MAX_NAME: usize = 36;

/// Terminal columns for the fold marker before a name, and for the number of instances after it.
const INDENT: usize = 7;

/// Draws the headings and the rows.
pub(super) fn draw(model: &Model, theme: &Theme, area: Rect, areas: &mut ClickAreas, frame: &mut Frame<'_>) {
    let longest = model.rows.iter().map(|row| width(&row.label)).max().unwrap_or(0) + INDENT;
    let columns = fit_columns(usize::from(area.width), longest);
    let others: usize = columns.iter().map(|(_, width)| width).sum();
    // Not wider than the names need: the values stay next to them.
    let name = usize::from(area.width).saturating_sub(others + 1).min(longest.max(MAX_NAME));
    let head = Rect { height: 1, ..area };
    let rows = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    areas.rows = rows;
    areas.top =
        scroll_top(model.areas.top, model.selected_index(), usize::from(rows.height), model.rows.len());
    areas.headings = headings(model, theme, &columns, name, hidden_rows(model, areas), head, frame);
    if model.instances.is_empty() {
        return empty_message(model, theme, rows, frame);
    }
    let (selected, height) = (model.selected_index(), usize::from(rows.height));
    let focused = !model.full && model.focus == Focus::Tree;
    for (at, row) in model.rows.iter().enumerate().skip(areas.top).take(height) {
        let y = rows.y + u16::try_from(at - areas.top).unwrap_or(0);
        let mut line = row_line(row, theme, &columns, name);
        if at == selected {
            // With reversed colors, the colors of cells would become backgrounds.
            line.spans.iter_mut().for_each(|span| span.style = Style::new());
            line = line.style(theme.selected(focused));
        }
        frame.render_widget(line, Rect { y, height: 1, ..rows });
    }
}

/// The number of rows above and below the visible ones.
fn hidden_rows(model: &Model, areas: &ClickAreas) -> String {
    let end = areas.top + usize::from(areas.rows.height);
    let count = |sign, rows| if rows > 0 { format!(" {sign}{rows}") } else { String::new() };
    count('↑', areas.top) + &count('↓', model.rows.len().saturating_sub(end))
}

/// The first visible row, so that the selected row is visible and no line is empty.
fn scroll_top(previous: usize, selected: usize, height: usize, rows: usize) -> usize {
    let min = (selected + 1).saturating_sub(height.max(1));
    previous.clamp(min, selected).min(rows.saturating_sub(height))
}

/// The columns that fit next to names of up to `longest` terminal columns.
fn fit_columns(available: usize, longest: usize) -> Vec<(TreeColumn, usize)> {
    let (mut left, mut fitting) = (available.saturating_sub(MIN_NAME + 1), Vec::new());
    for (at, (column, width)) in COLUMNS.into_iter().enumerate() {
        let more = if at < REQUIRED_COLUMNS { 0 } else { longest.clamp(MIN_NAME, MAX_NAME) - MIN_NAME };
        if width + more > left {
            break;
        }
        left -= width;
        fitting.push((column, width));
    }
    fitting.sort_by_key(|(column, _)| COLUMN_PRIORITY.iter().position(|other| other == column));
    fitting
}

fn headings(
    model: &Model,
    theme: &Theme,
    columns: &[(TreeColumn, usize)],
    name: usize,
    hidden: String,
    area: Rect,
    frame: &mut Frame<'_>,
) -> Vec<(Rect, TreeSort)> {
    let mark = |sort: TreeSort| match (model.tree_options.sort == sort, model.tree_options.reversed) {
        (false, _) => "",
        (true, false) => "▾",
        (true, true) => "▴",
    };
    let filter = match model.tree_options.filter.as_str() {
        "" => String::new(),
        filter => format!("  filter \"{filter}\""),
    };
    let title = format!("name{}{hidden}{filter}", mark(TreeSort::Name));
    let mut spans = vec![Span::raw(format!(" {}", pad_right(&title, name)))];
    let mut headings = Vec::new();
    let mut at = name + 1;
    let mut add_heading = |at: usize, width: usize, sort| {
        let (x, width) = (u16::try_from(at).unwrap_or(0), u16::try_from(width).unwrap_or(0));
        headings.push((Rect { x: area.x + x, width, ..area }.intersection(area), sort));
    };
    add_heading(0, name + 1, TreeSort::Name);
    for (column, width) in columns {
        let (title, sort) = column.title();
        let text = format!("{title}{}", sort.map(mark).unwrap_or_default());
        spans.push(Span::raw(match column {
            TreeColumn::Status | TreeColumn::Mode | TreeColumn::Health | TreeColumn::LastExit => {
                format!(" {}", pad_right(&text, width - 1))
            }
            _ => pad_left(&text, *width),
        }));
        if let Some(sort) = sort {
            add_heading(at, *width, sort);
        }
        at += width;
    }
    frame.render_widget(Line::from(spans).style(theme.heading()), area);
    headings
}

impl TreeColumn {
    fn title(self) -> (&'static str, Option<TreeSort>) {
        match self {
            Self::Status => ("status", Some(TreeSort::Status)),
            Self::Cpu => ("cpu", Some(TreeSort::Cpu)),
            Self::Memory => ("memory", Some(TreeSort::Memory)),
            Self::Limit => ("limit", None),
            Self::Restarts => ("↺", Some(TreeSort::Restarts)),
            Self::Uptime => ("up", Some(TreeSort::Uptime)),
            Self::Mode => ("mode", None),
            Self::Pid => ("pid", None),
            Self::Health => ("health", None),
            Self::LastExit => ("last exit", None),
        }
    }

    fn cell(self, row: &TreeRow, theme: &Theme) -> (String, Style) {
        let sum = &row.sum;
        let none = || "-".to_owned();
        let plain = |text| (text, Style::new());
        match self {
            Self::Status if sum.count == 0 => plain(String::new()),
            Self::Status if sum.count > 1 && sum.online < sum.count && sum.online > 0 => {
                (format!("{}/{} online", sum.online, sum.count), theme.status(sum.status))
            }
            Self::Status => (sum.status.as_str().into(), theme.status(sum.status)),
            Self::Cpu => plain(units::percent(sum.cpu)),
            Self::Memory => match sum.limit {
                Some(limit) if sum.memory * 10 > limit * 9 => (units::size(sum.memory), theme.error()),
                _ => plain(units::size(sum.memory)),
            },
            Self::Limit => (sum.limit.map_or_else(none, units::size), theme.dim()),
            Self::Restarts if sum.restarts > 9999 => plain("…".into()),
            Self::Restarts => plain(sum.restarts.to_string()),
            Self::Uptime => match (sum.uptime, sum.status) {
                (Some(ms), _) => plain(units::age(ms)),
                (None, _) => (none(), theme.dim()),
            },
            Self::Mode if row.key == RowKey::All => plain(String::new()),
            Self::Mode => (if sum.cluster { "cluster" } else { "fork" }.into(), theme.dim()),
            Self::Health => match sum.healthy {
                None => (none(), theme.dim()),
                Some(true) => ("healthy".into(), theme.success()),
                Some(false) => ("unhealthy".into(), theme.error()),
            },
            Self::LastExit => (sum.last_exit.clone().unwrap_or_else(none), theme.dim()),
            Self::Pid if sum.count > 1 => plain(String::new()),
            Self::Pid => (sum.pid.map_or_else(none, |pid| pid.to_string()), theme.dim()),
        }
    }
}

fn row_line(row: &TreeRow, theme: &Theme, columns: &[(TreeColumn, usize)], name: usize) -> Line<'static> {
    let label = tame(&row.label);
    let label = match (&row.key, row.unfolded) {
        (RowKey::All, _) => format!("{label} ({})", row.sum.count),
        (RowKey::Instance(_), _) => format!("    {label}"),
        (RowKey::App(_), Some(true)) => format!("▾ {label} ({})", row.sum.count),
        (RowKey::App(_), Some(false)) => format!("▸ {label} ({})", row.sum.count),
        (RowKey::App(_), None) => format!("  {label}"),
    };
    let is_alert = matches!(row.sum.status, DisplayStatus::Errored) && row.key != RowKey::All;
    let style = if is_alert { theme.error() } else { Style::new() };
    let mut spans = vec![Span::raw(" "), Span::styled(pad_right(&label, name), style)];
    for (column, columns) in columns {
        let (text, style) = column.cell(row, theme);
        let text = match column {
            TreeColumn::Status | TreeColumn::Mode | TreeColumn::Health | TreeColumn::LastExit => {
                format!(" {}", pad_right(&text, columns - 1))
            }
            _ => format!(" {}", pad_left(&text, columns - 1)),
        };
        debug_assert_eq!(width(&text), *columns);
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}

fn empty_message(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let text = match model.connection {
        Connection::Unknown => " …",
        Connection::Connected => " No apps. Start one with: rsm start app.js",
        Connection::Disconnected(_) => " The daemon is not running. Run `rsm start` or `rsm resurrect`.",
    };
    frame.render_widget(Line::styled(text, theme.dim()), area);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selected_row_is_visible() {
        assert_eq!(scroll_top(0, 3, 10, 100), 0);
        assert_eq!(scroll_top(0, 10, 10, 100), 1);
        assert_eq!(scroll_top(50, 10, 10, 100), 10);
        assert_eq!(scroll_top(95, 99, 10, 100), 90, "a larger window is filled");
        assert_eq!(scroll_top(5, 2, 10, 3), 0);
        assert_eq!(scroll_top(5, 2, 0, 3), 2);
    }

    #[test]
    fn narrow_screens_keep_most_important_columns() {
        let shown = |available, longest| {
            fit_columns(available, longest)
                .into_iter()
                .map(|(column, _)| column.title().0)
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(40, 9), ["status", "cpu"]);
        assert_eq!(shown(60, 99), ["status", "cpu", "memory", "↺", "up"]);
        assert_eq!(shown(100, 9), ["mode", "pid", "status", "cpu", "memory", "limit", "↺", "up", "health"]);
        assert_eq!(
            shown(91, 36),
            ["status", "cpu", "memory", "limit", "↺", "up"],
            "a name counts for more than a pid"
        );
    }
}
