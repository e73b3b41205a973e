//! Charts of the selection: CPU, memory, and in cluster mode the connections of each instance. The newest sample is on
//! the right; each column is one second.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline};

use super::Theme;
use crate::cli::monit::model::Model;
use crate::cli::monit::text::pad_left;
use crate::cli::render::style::{truncate, width};
use crate::cli::render::units;

/// Draws the charts next to the tree.
pub(super) fn chart_column(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let area = Rect { x: area.x + 2, width: area.width.saturating_sub(3), ..area };
    stacked(model, theme, area, frame);
}

/// Draws the charts in the lower pane.
pub(super) fn all_charts(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    stacked(model, theme, Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area }, frame);
}

/// Draws the charts one above the other.
fn stacked(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let instances = model.details.iter().filter(|detail| detail.connections.is_some()).count();
    let rows = match u16::try_from(instances).unwrap_or(u16::MAX) {
        0 => 0,
        instances => (instances + 1).min(area.height / 3),
    };
    let [cpu, memory, connections] =
        Layout::vertical([Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(rows)]).areas(area);
    self::cpu(model, theme, cpu, frame);
    self::memory(model, theme, memory, frame);
    self::connections(model, theme, connections, frame);
}

/// Draws the charts side by side, below the tree.
pub(super) fn chart_strip(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    if area.height == 0 {
        return;
    }
    let has_connections = model.details.iter().any(|detail| detail.connections.is_some());
    let third = if has_connections { Constraint::Fill(1) } else { Constraint::Length(0) };
    let area = Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area };
    let [cpu, memory, connections] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), third]).spacing(2).areas(area);
    self::cpu(model, theme, cpu, frame);
    self::memory(model, theme, memory, frame);
    self::connections(model, theme, connections, frame);
}

fn cpu(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let samples = model.history.sum(model.ids(), usize::from(area.width));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tenths of percents are few")]
    let tenths: Vec<u64> = samples.iter().map(|sample| (sample.cpu * 10.0) as u64).collect();
    let peak = samples.iter().map(|sample| sample.cpu).fold(0.0, f32::max);
    let now = samples.last().map_or(0.0, |sample| sample.cpu);
    let title = format!("{}, peak {}", units::percent(now), units::percent(peak));
    // At least 10%, so that small changes of an idle app do not look like load.
    let max = tenths.iter().copied().max().unwrap_or(0).max(100);
    chart(("cpu", &title), &tenths, max, theme, area, frame);
}

fn memory(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let samples = model.history.sum(model.ids(), usize::from(area.width));
    let bytes: Vec<u64> = samples.iter().map(|sample| sample.memory).collect();
    let peak = bytes.iter().copied().max().unwrap_or(0);
    let limit = model.selected_row().and_then(|row| row.sum.limit);
    let now = units::size(bytes.last().copied().unwrap_or(0));
    let title = match limit {
        Some(limit) => format!("{now} of {}", units::size(limit)),
        None => format!("{now}, peak {}", units::size(peak)),
    };
    // The scale ends at the limit, or else above the peak.
    let max = limit.unwrap_or(0).max(peak + peak / 4);
    chart(("memory", &title), &bytes, max, theme, area, frame);
}

fn chart(
    (name, title): (&str, &str),
    samples: &[u64],
    max: u64,
    theme: &Theme,
    area: Rect,
    frame: &mut Frame<'_>,
) {
    if area.height == 0 {
        return;
    }
    let span = units::age(1000 * u64::try_from(samples.len()).unwrap_or(0));
    let titles = [format!("{title}, last {span}"), title.to_owned()];
    chart_title(name, &titles, theme, area, frame);
    sparkline(samples, max, theme, Rect { y: area.y + 1, height: area.height - 1, ..area }, frame);
}

/// Draws the name of a chart, and the longest title that fits.
fn chart_title(name: &str, titles: &[String], theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let available = usize::from(area.width).saturating_sub(name.len() + 1);
    let fitting = titles.iter().find(|title| width(title) <= available);
    let title = fitting.or(titles.last()).map(|title| truncate(title, available)).unwrap_or_default();
    let spans = vec![Span::styled(name.to_owned(), theme.heading()), Span::raw(format!(" {title}"))];
    frame.render_widget(Line::from(spans), Rect { height: 1, ..area });
}

fn sparkline(samples: &[u64], max: u64, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let newest_first = samples.iter().rev().copied();
    let line = Sparkline::default().data(newest_first).direction(RenderDirection::RightToLeft);
    frame.render_widget(line.max(max.max(1)).style(theme.chart()), area);
}

/// Draws a row for each instance.
fn connections(model: &Model, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    if area.height == 0 || area.width < 16 {
        return;
    }
    let counts: Vec<(u32, u64)> =
        model.details.iter().filter_map(|detail| Some((detail.view.id, detail.connections?))).collect();
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let titles = [format!("{total} in {} instances", counts.len()), total.to_string()];
    chart_title("connections", &titles, theme, area, frame);
    let chart_width = area.width - 14;
    let histories: Vec<Vec<u64>> =
        counts.iter().map(|(id, _)| model.history.connections(*id, usize::from(chart_width))).collect();
    // The same scale for all, so that instances can be compared.
    let max = histories.iter().flatten().copied().max().unwrap_or(0);
    for (((id, count), history), y) in counts.iter().zip(&histories).zip(area.y + 1..area.bottom()) {
        let row = Rect { y, height: 1, ..area };
        frame.render_widget(
            Line::raw(format!("id{}{}", pad_left(&id.to_string(), 4), pad_left(&count.to_string(), 7))),
            row,
        );
        sparkline(history, max, theme, Rect { x: row.x + 14, width: chart_width, ..row }, frame);
    }
}
