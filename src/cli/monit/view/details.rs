//! The details of the selection, as printed by `rsm describe`.

use jiff::tz::TimeZone;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;

use super::Theme;
use crate::cli::monit::model::Model;
use crate::cli::render::describe::describe;
use crate::cli::render::style;

/// Draws the details; returns the maximum scroll position.
pub(super) fn draw(
    model: &Model,
    theme: &Theme,
    zone: &TimeZone,
    area: Rect,
    frame: &mut Frame<'_>,
) -> usize {
    if model.details.is_empty() {
        let text = if model.ids().len() > 1 { " select an app or an instance" } else { " …" };
        frame.render_widget(Line::styled(text, theme.dim()), area);
        return 0;
    }
    let pages: Vec<String> =
        model.details.iter().map(|detail| describe(detail, &[], zone, style::Style::plain())).collect();
    let text = pages.join("\n");
    let lines: Vec<&str> = text.lines().collect();
    let height = usize::from(area.height);
    let max_top = lines.len().saturating_sub(height);
    let visible = lines.iter().skip(model.details_top.min(max_top)).take(height);
    for (line, y) in visible.zip(area.y..) {
        let heading = !line.starts_with(' ');
        let style = if heading { theme.heading() } else { Style::new() };
        frame.render_widget(Line::styled(format!(" {line}"), style), Rect { y, height: 1, ..area });
    }
    max_top
}
