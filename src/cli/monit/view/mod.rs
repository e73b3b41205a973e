//! The screen: pure drawing of the model. Returns where things are, for the mouse.
//!
//! From top to bottom: the host, what needs attention, the tree, charts where there is room, the lower pane, and the keys
//! or what is being said.

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
use ratatui::widgets::Paragraph;

use super::model::{ClickAreas, Connection, Model, Tab};
pub(super) use crate::cli::monit::view::theme::Theme;

/// Below this nothing can be read.
const MIN_SIZE: (u16, u16) = (30, 8);
/// From here on the charts have a place beside the tree.
const WIDE_COLUMNS: u16 = 110;
/// Columns of the charts there.
const CHART_COLUMNS: u16 = 44;
/// From here on, narrower screens have a strip of charts.
const TALL_ROWS: u16 = 22;
/// Rows of that strip.
const STRIP_ROWS: u16 = 4;

/// Draws everything.
pub(super) fn draw(model: &Model, look: &Theme, zone: &TimeZone, frame: &mut Frame<'_>) -> ClickAreas {
    let screen = frame.area();
    let mut areas = ClickAreas::default();
    if screen.width < MIN_SIZE.0 || screen.height < MIN_SIZE.1 {
        frame.render_widget(Paragraph::new("rsm monit: terminal too small"), screen);
        return areas;
    }
    let concerns =
        if model.full || model.connection != Connection::Connected { Vec::new() } else { model.alerts() };
    let [host, attention, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::from(!concerns.is_empty())),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(screen);
    status_bars::host_bar(model, look, host, frame);
    status_bars::alert_bar(&concerns, look, attention, frame);
    if model.full {
        bottom_pane(model, look, zone, body, &mut areas, frame);
    } else {
        split(model, look, zone, body, &mut areas, frame);
    }
    if let Connection::Disconnected(why) = &model.connection {
        overlay::disconnected_banner(why, look, host, frame);
    }
    areas.keys = status_bars::footer(model, look, foot, frame);
    overlay::draw_overlay(model, look, screen, &mut areas, frame);
    areas
}

/// Tree and charts above, the lower pane below.
fn split(
    model: &Model,
    look: &Theme,
    zone: &TimeZone,
    body: Rect,
    areas: &mut ClickAreas,
    frame: &mut Frame<'_>,
) {
    let charts = model.tab != Tab::Charts;
    let wide = charts && body.width >= WIDE_COLUMNS;
    let strip = if charts && !wide && body.height >= TALL_ROWS - 2 { STRIP_ROWS } else { 0 };
    // A tree with few rows leaves its room to the log; one with many takes half.
    let rows = u16::try_from(model.rows.len()).unwrap_or(u16::MAX).saturating_add(1);
    let least = if wide { 14 } else { 4 };
    let upper = rows.max(least).min((body.height - strip) / 2);
    let [upper, middle, below] =
        Layout::vertical([Constraint::Length(upper), Constraint::Length(strip), Constraint::Min(0)])
            .areas(body);
    if wide {
        let [left, right] =
            Layout::horizontal([Constraint::Min(0), Constraint::Length(CHART_COLUMNS)]).areas(upper);
        tree::draw(model, look, left, areas, frame);
        charts::chart_column(model, look, right, frame);
    } else {
        tree::draw(model, look, upper, areas, frame);
        charts::chart_strip(model, look, middle, frame);
    }
    bottom_pane(model, look, zone, below, areas, frame);
}

fn bottom_pane(
    model: &Model,
    look: &Theme,
    zone: &TimeZone,
    area: Rect,
    areas: &mut ClickAreas,
    frame: &mut Frame<'_>,
) {
    let [head, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    areas.tabs = status_bars::tab_bar(model, look, head, frame);
    areas.pane = rest;
    match model.tab {
        Tab::Logs => logs::draw(model, look, rest, frame),
        Tab::Details => areas.details_most = details::draw(model, look, zone, rest, frame),
        Tab::Charts => charts::all_charts(model, look, rest, frame),
    }
}
