//! The log pane's lines, from the last one upwards.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line as Shown, Span};
use unicode_segmentation::UnicodeSegmentation;

use super::Theme;
use crate::cli::monit::log_pane::{LinePattern, LogLine};
use crate::cli::monit::model::Model;
use crate::cli::monit::text::{pad_right, wrapped};
use crate::cli::monit::tree::RowKey;
use crate::cli::render::style::{tame, width};
use crate::ipc::message::OutputStream;

/// Columns of an app's name before its lines.
const NAME_WIDTH: usize = 14;

/// Draws as many lines as there is room for.
pub(super) fn draw(model: &Model, look: &Theme, area: Rect, frame: &mut Frame<'_>) {
    let pane = &model.log_pane;
    if pane.len() == 0 {
        let text = match (model.ids().is_empty(), model.line_filter.is_empty()) {
            (true, _) => " no app selected",
            (_, true) => " no output yet",
            (_, false) => " no matching lines; press f to change the filter, Esc to clear it",
        };
        return frame.render_widget(Shown::styled(text, look.dim()), area);
    }
    let named = model.selected == RowKey::All;
    let numbered = model.ids().len() > 1;
    let (mut rows, mut newer) = (Vec::new(), pane.lines_below);
    while rows.len() < usize::from(area.height) {
        let Some(line) = pane.nth_last(newer) else { break };
        let prefix = prefix(line, named, numbered, look);
        let taken: usize = prefix.iter().map(Span::width).sum();
        let room = usize::from(area.width).saturating_sub(taken).max(2);
        let parts = match pane.wrap {
            true => wrapped(&line.text, room),
            false => vec![visible_range(&line.text, pane.scroll_x)],
        };
        // The last parts are the lowest rows.
        for (at, (begin, end)) in parts.iter().enumerate().rev() {
            let mut spans = if at == 0 { prefix.clone() } else { vec![Span::raw(" ".repeat(taken))] };
            spans.extend(highlight_matches(&line.text, (*begin, *end), room, pane.search_pattern(), look));
            rows.push(Shown::from(spans));
        }
        newer += 1;
    }
    rows.truncate(usize::from(area.height));
    let above = usize::from(area.height) - rows.len();
    // What does not fill the pane begins at its top.
    let lift = u16::try_from(above).unwrap_or(0);
    for (at, row) in rows.into_iter().enumerate() {
        let up = u16::try_from(at).unwrap_or(0) + 1 + lift;
        frame.render_widget(row, Rect { y: area.bottom() - up, height: 1, ..area });
    }
}

/// Whose line it is. The bar of standard error differs in shape, too.
fn prefix(line: &LogLine, named: bool, numbered: bool, look: &Theme) -> Vec<Span<'static>> {
    let bar = match line.stream {
        OutputStream::Out => Span::styled("│", look.dim()),
        OutputStream::Err => Span::styled("▌", look.error()),
    };
    let who = match &line.from {
        Some((id, name)) if named => format!("{id:>3} {}", pad_right(&tame(name), NAME_WIDTH)),
        Some((id, _)) if numbered => format!("{id:>3}"),
        Some(_) | None => String::new(),
    };
    vec![Span::styled(who, look.dim()), bar]
}

/// The line without its first columns.
fn visible_range(text: &str, columns: usize) -> (usize, usize) {
    let mut taken = 0;
    let begin = text.grapheme_indices(true).find(|(_, sign)| {
        let there = taken >= columns;
        taken += width(sign);
        there
    });
    (begin.map_or(text.len(), |(at, _)| at), text.len())
}

/// A part of a line, with what was searched for marked.
fn highlight_matches(
    text: &str,
    (begin, end): (usize, usize),
    room: usize,
    pattern: Option<&LinePattern>,
    look: &Theme,
) -> Vec<Span<'static>> {
    // What is beyond the screen is not searched: lines may be long.
    let end = text[begin..end].char_indices().nth(room).map_or(end, |(at, _)| begin + at);
    let (mut spans, mut at) = (Vec::new(), begin);
    let found = pattern.map(|pattern| pattern.find(text)).unwrap_or_default();
    for (from, to) in found {
        let (from, to) = (from.clamp(at, end), to.clamp(at, end));
        if from < to {
            spans.push(Span::raw(text[at..from].to_owned()));
            spans.push(Span::styled(text[from..to].to_owned(), look.match_highlight()));
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
    fn lines_are_moved_by_columns() {
        let rest = |text: &'static str, columns| &text[visible_range(text, columns).0..];
        assert_eq!((rest("abcdef", 2), rest("队列服务", 3), rest("ab", 5)), ("cdef", "服务", ""));
    }

    #[test]
    fn what_is_searched_for_is_marked_within_the_part() {
        let look = Theme { color: false };
        let texts = |spans: Vec<Span<'static>>| {
            spans.into_iter().map(|span| span.content.into_owned()).collect::<Vec<_>>()
        };
        let pattern = LinePattern::new("b+").unwrap();
        assert_eq!(
            texts(highlight_matches("abbcb", (0, 5), 9, Some(&pattern), &look)),
            ["a", "bb", "c", "b", ""]
        );
        assert_eq!(texts(highlight_matches("abbcb", (2, 4), 9, Some(&pattern), &look)), ["", "b", "c"]);
        assert_eq!(texts(highlight_matches("网网b", (0, 7), 2, Some(&pattern), &look)), ["网网"]);
    }
}
