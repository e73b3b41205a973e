//! The lines of the log pane, drawn from the last one upwards.

use jiff::tz::TimeZone;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line as Shown, Span};
use unicode_segmentation::UnicodeSegmentation;

use super::Theme;
use crate::cli::monit::log_pane::{LinePattern, LogLine};
use crate::cli::monit::model::Model;
use crate::cli::monit::text::{pad_right, wrap};
use crate::cli::monit::tree::RowKey;
use crate::cli::render::style::{tame, width};
use crate::cli::render::units;
use crate::ipc::message::OutputStream;

/// Width of the app name before a line, in columns.
const NAME_WIDTH: usize = 14;

/// Minimum width of the pane for the time of each line, in columns.
const MIN_WIDTH_FOR_TIME: usize = 60;

/// Draws as many lines as fit.
pub(super) fn draw(model: &Model, theme: &Theme, zone: &TimeZone, area: Rect, frame: &mut Frame<'_>) {
    let pane = &model.log_pane;
    if pane.len() == 0 {
        let text = match (model.ids().is_empty(), model.line_filter.is_empty()) {
            (true, _) => " no app selected",
            (_, true) => " no output yet",
            (_, false) => " no matching lines; press f to change the filter, Esc to clear it",
        };
        return frame.render_widget(Shown::styled(text, theme.dim()), area);
    }
    let show_name = model.selected == RowKey::All;
    let show_id = model.ids().len() > 1;
    let zone = (usize::from(area.width) >= MIN_WIDTH_FOR_TIME).then_some(zone);
    let (mut rows, mut newer) = (Vec::new(), pane.lines_below);
    while rows.len() < usize::from(area.height) {
        let Some(line) = pane.nth_last(newer) else { break };
        let prefix = prefix(line, show_name, show_id, zone, theme);
        let prefix_width: usize = prefix.iter().map(Span::width).sum();
        let text_width = usize::from(area.width).saturating_sub(prefix_width).max(2);
        let parts = match pane.wrap {
            true => wrap(&line.text, text_width),
            false => vec![visible_range(&line.text, pane.scroll_x)],
        };
        // The last part is the lowest row.
        for (at, (start, end)) in parts.iter().enumerate().rev() {
            let mut spans = if at == 0 { prefix.clone() } else { vec![Span::raw(" ".repeat(prefix_width))] };
            spans.extend(highlight_matches(
                &line.text,
                (*start, *end),
                text_width,
                pane.search_pattern(),
                theme,
            ));
            rows.push(Shown::from(spans));
        }
        newer += 1;
    }
    rows.truncate(usize::from(area.height));
    // Lines that do not fill the pane start at its top.
    let empty_rows = u16::try_from(usize::from(area.height) - rows.len()).unwrap_or(0);
    for (at, row) in rows.into_iter().enumerate() {
        let up = u16::try_from(at).unwrap_or(0) + 1 + empty_rows;
        frame.render_widget(row, Rect { y: area.bottom() - up, height: 1, ..area });
    }
}

/// The time, instance and stream of a line. The bar of stderr also differs in shape, for terminals without colors.
fn prefix(
    line: &LogLine,
    show_name: bool,
    show_id: bool,
    zone: Option<&TimeZone>,
    theme: &Theme,
) -> Vec<Span<'static>> {
    let bar = match line.stream {
        OutputStream::Out => Span::styled("│", theme.dim()),
        OutputStream::Err => Span::styled("▌", theme.error()),
    };
    let source = match &line.source {
        Some((id, name)) if show_name => format!("{id:>3} {}", pad_right(&tame(name), NAME_WIDTH)),
        Some((id, _)) if show_id => format!("{id:>3}"),
        Some(_) | None => String::new(),
    };
    let color = line.source.as_ref().map_or(theme.dim(), |(_, name)| theme.app(name));
    let time = zone.zip(line.at).map(|(zone, at)| format!("{} ", units::time_of_day(at, zone)));
    vec![Span::styled(time.unwrap_or_default(), theme.dim()), Span::styled(source, color), bar]
}

/// The byte range of a line after its first `columns`.
fn visible_range(text: &str, columns: usize) -> (usize, usize) {
    let mut used = 0;
    let start = text.grapheme_indices(true).find(|(_, grapheme)| {
        let is_visible = used >= columns;
        used += width(grapheme);
        is_visible
    });
    (start.map_or(text.len(), |(at, _)| at), text.len())
}

/// A part of a line with highlighted matches.
fn highlight_matches(
    text: &str,
    (start, end): (usize, usize),
    columns: usize,
    pattern: Option<&LinePattern>,
    theme: &Theme,
) -> Vec<Span<'static>> {
    // The invisible rest of a line, which may be long, is not searched.
    let end = text[start..end].char_indices().nth(columns).map_or(end, |(at, _)| start + at);
    let (mut spans, mut at) = (Vec::new(), start);
    let matches = pattern.map(|pattern| pattern.find(text)).unwrap_or_default();
    for (from, to) in matches {
        let (from, to) = (from.clamp(at, end), to.clamp(at, end));
        if from < to {
            spans.push(Span::raw(text[at..from].to_owned()));
            spans.push(Span::styled(text[from..to].to_owned(), theme.match_highlight()));
            at = to;
        }
    }
    spans.push(Span::styled(text[at..end].to_owned(), Style::new()));
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrolls_by_columns() {
        let rest = |text: &'static str, columns| &text[visible_range(text, columns).0..];
        assert_eq!((rest("abcdef", 2), rest("队列服务", 3), rest("ab", 5)), ("cdef", "服务", ""));
    }

    #[test]
    fn highlights_matches_in_visible_part() {
        let theme = Theme { color: false };
        let texts = |spans: Vec<Span<'static>>| {
            spans.into_iter().map(|span| span.content.into_owned()).collect::<Vec<_>>()
        };
        let pattern = LinePattern::new("b+").unwrap();
        assert_eq!(
            texts(highlight_matches("abbcb", (0, 5), 9, Some(&pattern), &theme)),
            ["a", "bb", "c", "b", ""]
        );
        assert_eq!(texts(highlight_matches("abbcb", (2, 4), 9, Some(&pattern), &theme)), ["", "b", "c"]);
        assert_eq!(texts(highlight_matches("网网b", (0, 7), 2, Some(&pattern), &theme)), ["网网"]);
    }
}
