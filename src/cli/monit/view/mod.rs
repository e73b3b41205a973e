//! Drawing of the model. Pure: returns the areas of the frame, for the mouse.
//!
//! From top to bottom: host, alerts, tree, charts if they fit, the lower pane, and keys, prompt or message.

mod charts;
mod details;
mod logs;
mod overlay;
mod status_bars;
#[cfg(test)]
mod tests;
mod theme;
mod tree;

use jiff::tz::TimeZone;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::widgets::{Paragraph, Wrap};

use super::model::{ClickAreas, Connection, Model, Tab};
pub(super) use crate::cli::monit::view::theme::Theme;

/// Minimum size of the terminal.
const MIN_SIZE: (u16, u16) = (30, 8);
/// Minimum width for charts next to the tree.
const WIDE_COLUMNS: u16 = 110;
/// Width of these charts.
const CHART_COLUMNS: u16 = 44;
/// Minimum height for charts below the tree.
const TALL_ROWS: u16 = 22;
/// Height of these charts.
const STRIP_ROWS: u16 = 4;

/// Draws a frame.
pub(super) fn draw(model: &Model, theme: &Theme, zone: &TimeZone, frame: &mut Frame<'_>) -> ClickAreas {
    let screen = frame.area();
    let mut areas = ClickAreas::default();
    if screen.width < MIN_SIZE.0 || screen.height < MIN_SIZE.1 {
        let (columns, rows) = MIN_SIZE;
        let text = format!("terminal too small: {}x{}, needs {columns}x{rows}", screen.width, screen.height);
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), screen);
        return areas;
    }
    let alerts =
        if model.full || model.connection != Connection::Connected { Vec::new() } else { model.alerts() };
    let [host, alert_row, body, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::from(!alerts.is_empty())),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(screen);
    status_bars::host_bar(model, theme, host, frame);
    status_bars::alert_bar(&alerts, theme, alert_row, frame);
    if model.full {
        bottom_pane(model, theme, zone, body, &mut areas, frame);
    } else {
        split(model, theme, zone, body, &mut areas, frame);
    }
    if let Connection::Disconnected(reason) = &model.connection {
        overlay::disconnected_banner(reason, theme, host, frame);
    }
    areas.keys = status_bars::footer(model, theme, footer, frame);
    overlay::draw_overlay(model, theme, screen, &mut areas, frame);
    areas
}

/// Draws the tree and charts above the lower pane.
fn split(
    model: &Model,
    theme: &Theme,
    zone: &TimeZone,
    body: Rect,
    areas: &mut ClickAreas,
    frame: &mut Frame<'_>,
) {
    let charts = model.tab != Tab::Charts;
    let wide = charts && body.width >= WIDE_COLUMNS;
    let strip = if charts && !wide && body.height >= TALL_ROWS - 2 { STRIP_ROWS } else { 0 };
    // The tree takes as many rows as it needs, at most half.
    let rows = u16::try_from(model.rows.len()).unwrap_or(u16::MAX).saturating_add(1);
    let min = if wide { 14 } else { 4 };
    let upper = rows.max(min).min((body.height - strip) / 2);
    let [upper, middle, below] =
        Layout::vertical([Constraint::Length(upper), Constraint::Length(strip), Constraint::Min(0)])
            .areas(body);
    if wide {
        let [left, right] =
            Layout::horizontal([Constraint::Min(0), Constraint::Length(CHART_COLUMNS)]).areas(upper);
        tree::draw(model, theme, left, areas, frame);
        charts::chart_column(model, theme, right, frame);
    } else {
        tree::draw(model, theme, upper, areas, frame);
        charts::chart_strip(model, theme, middle, frame);
    }
    bottom_pane(model, theme, zone, below, areas, frame);
}

fn bottom_pane(
    model: &Model,
    theme: &Theme,
    zone: &TimeZone,
    area: Rect,
    areas: &mut ClickAreas,
    frame: &mut Frame<'_>,
) {
    let [tabs, pane] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    areas.tabs = status_bars::tab_bar(model, theme, tabs, frame);
    areas.pane = pane;
    match model.tab {
        Tab::Logs => logs::draw(model, theme, zone, pane, frame),
        Tab::Details => areas.max_details_top = details::draw(model, theme, zone, pane, frame),
        Tab::Charts => charts::all_charts(model, theme, pane, frame),
    }
}
