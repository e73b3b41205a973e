//! What the selection used during the last minutes: processor, memory, and of clusters the connections
//! of each instance. The newest sample is on the right, one column a second.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline};

use super::Theme;
use crate::cli::monit::model::Model;
use crate::cli::monit::text::pad_left;
use crate::cli::render::style::{truncate, width};
use crate::cli::render::units;

/// Beside the tree.
pub(super) fn chart_column(model: &Model, look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let area = Rect { x: area.x + 2, width: area.width.saturating_sub(3), ..area };
    stacked(model, look, area, frame);
}

/// In the lower pane.
pub(super) fn all_charts(model: &Model, look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    stacked(model, look, Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area }, frame);
}

/// One above the other.
fn stacked(model: &Model, look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let instances = model.details.iter().filter(|detail| detail.connections.is_some()).count();
    let rows = match u16::try_from(instances).unwrap_or(u16::MAX) {
        0 => 0,
        instances => (instances + 1).min(area.height / 3),
    };
    let [cpu, memory, connections] =
        Layout::vertical([Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(rows)]).areas(area);
    self::cpu(model, look, cpu, frame);
    self::memory(model, look, memory, frame);
    self::connections(model, look, connections, frame);
}

/// Side by side, between tree and pane.
pub(super) fn chart_strip(model: &Model, look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    if area.height == 0 {
        return;
    }
    let several = model.details.iter().any(|detail| detail.connections.is_some());
    let third = if several { Constraint::Fill(1) } else { Constraint::Length(0) };
    let area = Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area };
    let [cpu, memory, connections] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), third]).spacing(2).areas(area);
    self::cpu(model, look, cpu, frame);
    self::memory(model, look, memory, frame);
    self::connections(model, look, connections, frame);
}

fn cpu(model: &Model, look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let samples = model.history.sum(model.ids(), usize::from(area.width));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tenths of percents are few")]
    let tenths: Vec<u64> = samples.iter().map(|sample| (sample.cpu * 10.0) as u64).collect();
    let highest = samples.iter().map(|sample| sample.cpu).fold(0.0, f32::max);
    let now = samples.last().map_or(0.0, |sample| sample.cpu);
    let title = format!("{}, peak {}", units::percent(now), units::percent(highest));
    // An idle app's trembling is not to look like load.
    let most = tenths.iter().copied().max().unwrap_or(0).max(100);
    chart(("cpu", &title), &tenths, most, look, area, frame);
}

fn memory(model: &Model, look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let samples = model.history.sum(model.ids(), usize::from(area.width));
    let bytes: Vec<u64> = samples.iter().map(|sample| sample.memory).collect();
    let highest = bytes.iter().copied().max().unwrap_or(0);
    let limit = model.row().and_then(|row| row.sum.limit);
    let now = units::size(bytes.last().copied().unwrap_or(0));
    let title = match limit {
        Some(limit) => format!("{now} of {}", units::size(limit)),
        None => format!("{now}, peak {}", units::size(highest)),
    };
    // Below a limit one sees how near it is; else that there is room above.
    let most = limit.unwrap_or(0).max(highest + highest / 4);
    chart(("memory", &title), &bytes, most, look, area, frame);
}

fn chart(
    (name, title): (&str, &str),
    samples: &[u64],
    most: u64,
    look: &Theme,
    area: Rect,
    frame: &mut Frame<'_>,
) {
    if area.height == 0 {
        return;
    }
    let span = units::age(1000 * u64::try_from(samples.len()).unwrap_or(0));
    let titles = [format!("{title}, last {span}"), title.to_owned()];
    chart_title(name, &titles, look, area, frame);
    sparkline(samples, most, look, Rect { y: area.y + 1, height: area.height - 1, ..area }, frame);
}

/// A chart's name, and the longest of what is said of it that there is room for.
fn chart_title(name: &str, titles: &[String], look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let room = usize::from(area.width).saturating_sub(name.len() + 1);
    let fits = titles.iter().find(|title| width(title) <= room);
    let title = fits.or(titles.last()).map(|title| truncate(title, room)).unwrap_or_default();
    let head = vec![Span::styled(name.to_owned(), look.heading()), Span::raw(format!(" {title}"))];
    frame.render_widget(Line::from(head), Rect { height: 1, ..area });
}

fn sparkline(samples: &[u64], most: u64, look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let newest_first = samples.iter().rev().copied();
    let line = Sparkline::default().data(newest_first).direction(RenderDirection::RightToLeft);
    frame.render_widget(line.max(most.max(1)).style(look.chart()), area);
}

/// A row an instance.
fn connections(model: &Model, look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    if area.height == 0 || area.width < 16 {
        return;
    }
    let of: Vec<(u32, u64)> =
        model.details.iter().filter_map(|detail| Some((detail.view.id, detail.connections?))).collect();
    let total: u64 = of.iter().map(|(_, count)| count).sum();
    let titles = [format!("{total} in {} instances", of.len()), total.to_string()];
    chart_title("connections", &titles, look, area, frame);
    let room = area.width - 14;
    let histories: Vec<Vec<u64>> =
        of.iter().map(|(id, _)| model.history.connections(*id, usize::from(room))).collect();
    // One scale for all: what one looks for is who gets more.
    let most = histories.iter().flatten().copied().max().unwrap_or(0);
    for (((id, count), history), y) in of.iter().zip(&histories).zip(area.y + 1..area.bottom()) {
        let row = Rect { y, height: 1, ..area };
        frame.render_widget(
            Line::raw(format!("id{}{}", pad_left(&id.to_string(), 4), pad_left(&count.to_string(), 7))),
            row,
        );
        sparkline(history, most, look, Rect { x: row.x + 14, width: room, ..row }, frame);
    }
}
