//! The bars of one row: host, alerts, tabs and keys.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::cli::monit::log_pane::StreamFilter;
use crate::cli::monit::model::{Focus, InputMode, Model, PromptKind, Tab};
use crate::cli::monit::view::Theme;
use crate::cli::render::alerts::{Alert, compact_line};
use crate::cli::render::style::{Tone, width};
use crate::cli::render::units;
use crate::ipc::message::{DisplayStatus, HostInfo};

/// Draws the version, the number of instances and the state of the host.
pub(super) fn host_bar(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let version = model.info.as_ref().map_or_else(String::new, |info| format!(" {}", info.version));
    let mut left = vec![Span::styled(format!(" rsm{version} "), theme.heading())];
    let instances = &model.instances;
    let online = instances.iter().filter(|view| view.status == DisplayStatus::Online).count();
    let errored = instances.iter().filter(|view| view.status == DisplayStatus::Errored).count();
    left.push(Span::styled(format!(" {online}/{} online", instances.len()), Style::new()));
    if errored > 0 {
        left.push(Span::styled(format!(" {errored} errored"), theme.error()));
    }
    let used: usize = left.iter().map(Span::width).sum();
    let host = model.info.as_ref().map(|info| &info.host);
    let available = usize::from(area.width).saturating_sub(used + 3);
    // The most detailed text that fits.
    let right = host.and_then(|host| {
        [full(host), medium(host), short(host)].into_iter().find(|text| width(text) <= available)
    });
    frame.render_widget(Line::from(left), area);
    frame.render_widget(Line::from(right.unwrap_or_default()).right_aligned(), area);
}

/// Draws the alerts with their commands.
pub(super) fn alert_bar(alerts: &[Alert], theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let columns = usize::from(area.width).saturating_sub(4);
    if let Some((tone, text)) = compact_line(alerts, columns) {
        let style = if tone == Tone::Error { theme.error() } else { theme.warning() };
        frame.render_widget(Line::styled(format!(" ▲ {text}"), style), area);
    }
}

fn full(host: &HostInfo) -> String {
    let disk = match host.disk_total {
        0 => String::new(),
        total => format!(
            " │ disk {} of {}, {}",
            units::size(host.disk_used),
            units::size(total),
            units::share(host.disk_used, total)
        ),
    };
    format!(
        "{} │ memory {} of {}, {}{disk} ",
        load(host),
        units::size(host.memory_used),
        units::size(host.memory_total),
        units::share(host.memory_used, host.memory_total),
    )
}

fn medium(host: &HostInfo) -> String {
    let (memory, disk) = memory_and_disk(host);
    format!("{} │ memory {memory} │ disk {disk} ", load(host))
}

fn short(host: &HostInfo) -> String {
    let (memory, disk) = memory_and_disk(host);
    format!("load {:.2} mem {memory} disk {disk} ", host.load[0])
}

fn load(host: &HostInfo) -> String {
    format!("{} on {}", units::load_averages(host), units::pluralize(host.cores, "core"))
}

fn memory_and_disk(host: &HostInfo) -> (String, String) {
    (units::share(host.memory_used, host.memory_total), units::share(host.disk_used, host.disk_total))
}

/// Draws the tabs of the lower pane, and its state. Returns the areas of the tabs.
pub(super) fn tab_bar(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) -> Vec<(Rect, Tab)> {
    let (mut spans, mut areas, mut at) = (vec![Span::raw("─")], Vec::new(), 1);
    let focused = model.full || model.focus == Focus::Pane;
    for (number, tab) in Tab::ALL.into_iter().enumerate() {
        let text = format!(" {} {} ", number + 1, tab.title());
        let columns = u16::try_from(width(&text)).unwrap_or(0);
        let style = if tab == model.tab { theme.selected(focused) } else { theme.dim() };
        spans.push(Span::styled(text, style));
        areas.push((Rect { x: area.x + at, width: columns, ..area }.intersection(area), tab));
        at += columns;
    }
    spans.push(Span::styled(format!(" {} ", model.selection_text()), theme.heading()));
    match model.tab {
        Tab::Logs => spans.extend(log_state(model, theme)),
        Tab::Details if model.areas.max_details_top > model.details_top => {
            let below = model.areas.max_details_top - model.details_top;
            spans.push(Span::styled(format!("[{below} below] "), theme.warning()));
        }
        Tab::Details | Tab::Charts => {}
    }
    let used: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::raw("─".repeat(usize::from(area.width).saturating_sub(used))));
    frame.render_widget(Line::from(spans), area);
    areas
}

/// The options of the log pane that differ from the default.
fn log_state(model: &Model, theme: &Theme) -> Vec<Span<'static>> {
    let pane = &model.log_pane;
    let mut words = Vec::new();
    if pane.paused {
        words.push("paused".to_owned());
    }
    if pane.lines_below > 0 {
        words.push(format!("{} below", pane.lines_below));
    }
    match pane.streams {
        StreamFilter::Both => {}
        StreamFilter::Out => words.push("stdout".into()),
        StreamFilter::Err => words.push("stderr".into()),
    }
    if pane.wrap {
        words.push("wrap".into());
    }
    if !model.line_filter.is_empty() {
        words.push(format!("filter /{}/", model.line_filter));
    }
    words.into_iter().map(|word| Span::styled(format!("[{word}] "), theme.warning())).collect()
}

/// Draws the prompt or a message, or else the keys. Returns the areas of the keys, which can be clicked.
pub(super) fn footer(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) -> Vec<(Rect, char)> {
    if let InputMode::Prompt { field, text, .. } = &model.mode {
        let (label, hint) = match field {
            PromptKind::Apps => ("filter apps: ", "  Enter apply, Esc cancel"),
            PromptKind::Search => ("search: ", "  Enter find, then n or N"),
            PromptKind::Lines => ("filter lines: ", "  Enter apply, Esc cancel"),
            PromptKind::Scale => ("instances (4, +1, -1): ", "  Enter scale, Esc cancel"),
        };
        let line = Line::from(vec![
            Span::styled(format!(" {label}"), theme.heading()),
            Span::raw(text.clone()),
            Span::styled(hint, theme.dim()),
        ]);
        let at = 1 + width(label) + width(text);
        frame.render_widget(line, area);
        let column =
            area.x.saturating_add(u16::try_from(at).unwrap_or(u16::MAX)).min(area.right().saturating_sub(1));
        frame.set_cursor_position((column, area.y));
        return Vec::new();
    }
    if let Some((text, good)) = &model.message {
        let style = if *good { theme.success() } else { theme.error() };
        frame.render_widget(Line::styled(format!(" {text}"), style), area);
        return Vec::new();
    }
    key_hints(model, theme, area, frame)
}

/// Draws as many keys as fit, the most important first.
fn key_hints(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) -> Vec<(Rect, char)> {
    const TREE_KEYS: [(char, &str, &str); 13] = [
        ('q', "q", "quit"),
        ('?', "?", "help"),
        ('/', "/", "filter"),
        ('r', "r", "restart"),
        ('l', "l", "logs"),
        ('x', "x", "stop"),
        ('s', "s", "start"),
        ('R', "R", "reload"),
        ('i', "i", "scale"),
        ('d', "d", "delete"),
        ('o', "o", "sort"),
        ('\t', "Tab", "pane"),
        ('z', "z", "fold"),
    ];
    const PANE_KEYS: [(char, &str, &str); 9] = [
        ('q', "q", "quit"),
        ('?', "?", "help"),
        ('/', "/", "search"),
        ('f', "f", "filter"),
        ('p', "p", "pause"),
        ('w', "w", "wrap"),
        ('e', "e", "streams"),
        ('n', "n", "next"),
        ('l', "l", "full"),
    ];
    let in_pane = model.full || model.focus == Focus::Pane;
    let (mut spans, mut areas, mut at) = (vec![Span::raw(" ")], Vec::new(), 1);
    for (letter, key, label) in if in_pane { &PANE_KEYS[..] } else { &TREE_KEYS[..] } {
        let columns = width(key) + width(label) + 3;
        if at + columns > usize::from(area.width) + 2 {
            break;
        }
        spans.push(Span::styled(*key, theme.heading()));
        spans.push(Span::raw(format!(" {label}  ")));
        let (x, columns16) = (area.x + u16::try_from(at).unwrap_or(0), u16::try_from(columns).unwrap_or(0));
        areas.push((Rect { x, width: columns16.saturating_sub(2), ..area }.intersection(area), *letter));
        at += columns;
    }
    frame.render_widget(Line::from(spans), area);
    areas
}
