//! Overlays: confirmation, help, and the banner of a lost connection.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Paragraph, Wrap};

use super::Theme;
use crate::cli::monit::commands::InstanceAction;
use crate::cli::monit::model::{ClickAreas, InputMode, Model};
use crate::cli::render::style::width;
use crate::ipc::message::Action;

const HELP: &str = "\
Move       ↑↓ PgUp PgDn Home End, j k g G
Tree       ← → fold, z fold all, / filter
Sort       o next column, O reverse, or click
Apps       s start   x stop   r restart
           R reload without downtime
           i scale   d delete
Lower pane Tab focus, 1 logs, 2 details,
           3 charts, Enter full screen
Log        l full screen, p pause, w wrap
           e streams, f filter, / search
           n N next and previous match
           ← → scroll, End newest line
Quit       q or Ctrl-C, Ctrl-Z suspend, Esc back";

/// Draws the confirmation or the help, if open.
pub(super) fn draw_overlay(
    model: &Model,
    theme: &Theme,
    screen: Rect,
    areas: &mut ClickAreas,
    frame: &mut Frame<'_>,
) {
    match &model.mode {
        InputMode::Normal | InputMode::Prompt { .. } => {}
        InputMode::Help => {
            let lines: Vec<Line<'_>> = HELP.lines().map(|line| help_line(line, theme)).collect();
            window("Keys", lines, theme, screen, frame);
        }
        InputMode::Confirm { action, subject, typed, .. } => {
            confirm(*action, subject, typed.as_deref(), theme, screen, areas, frame)
        }
    }
}

fn help_line<'a>(line: &'a str, theme: &Theme) -> Line<'a> {
    match line.split_at_checked(11) {
        Some((heading, keys)) => Line::from(vec![Span::styled(heading, theme.heading()), Span::raw(keys)]),
        None => Line::raw(line),
    }
}

fn confirm(
    action: InstanceAction,
    subject: &str,
    typed: Option<&str>,
    theme: &Theme,
    screen: Rect,
    areas: &mut ClickAreas,
    frame: &mut Frame<'_>,
) {
    let consequence = match action {
        InstanceAction::Basic(Action::Delete) => "The app is stopped and removed from the list.",
        InstanceAction::Basic(Action::Restart) => "Restarting causes downtime; use R to reload.",
        InstanceAction::Basic(_) | InstanceAction::Reload | InstanceAction::Scale(_) => "",
    };
    let mut lines = vec![Line::raw(format!("{} {subject}?", action.label()))];
    if !consequence.is_empty() {
        lines.push(Line::styled(consequence, theme.dim()));
    }
    if let Some(typed) = typed {
        lines.push(Line::raw(""));
        lines.push(Line::raw(format!("Type \"all\" and press Enter: {typed}_")));
        lines.push(Line::styled("Esc cancels", theme.dim()));
        window(action.label(), lines, theme, screen, frame);
        areas.keys = Vec::new();
        return;
    }
    let (yes, no) = (" y yes ", " n no ");
    let mut buttons = vec![
        Span::styled(yes, theme.selected(true)),
        Span::raw("  "),
        Span::styled(no, theme.selected(false)),
    ];
    buttons.push(Span::raw(""));
    lines.extend([Line::raw(""), Line::from(buttons)]);
    let inner = window(action.label(), lines, theme, screen, frame);
    let columns = |text: &str| u16::try_from(width(text)).unwrap_or(0);
    let row = Rect { y: inner.bottom().saturating_sub(1), height: 1, ..inner };
    areas.keys = vec![
        (Rect { width: columns(yes), ..row }, 'y'),
        (Rect { x: row.x + columns(yes) + 2, width: columns(no), ..row }, 'n'),
    ];
}

/// Draws a centered window; returns its inner area.
fn window(title: &str, lines: Vec<Line<'_>>, theme: &Theme, screen: Rect, frame: &mut Frame<'_>) -> Rect {
    let widest = lines.iter().map(Line::width).max().unwrap_or(0);
    let columns = u16::try_from(widest + 4).unwrap_or(u16::MAX).min(screen.width);
    let inner_width = usize::from(columns.saturating_sub(4)).max(1);
    let rows: usize = lines.iter().map(|line| line.width().div_ceil(inner_width).max(1)).sum();
    let rows = u16::try_from(rows + 2).unwrap_or(u16::MAX).min(screen.height);
    let area = Rect {
        x: screen.x + (screen.width - columns) / 2,
        y: screen.y + (screen.height - rows) / 2,
        width: columns,
        height: rows,
    };
    frame.render_widget(Clear, area);
    let block = Block::bordered().border_type(BorderType::Rounded).border_style(theme.heading());
    let block = block.title(Span::styled(format!(" {title} "), theme.heading()));
    let inner = Rect {
        x: area.x + 2,
        y: area.y + 1,
        width: area.width.saturating_sub(4),
        height: area.height.saturating_sub(2),
    };
    frame.render_widget(block, area);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), inner);
    inner
}

/// Draws a banner over the host bar: the data below is outdated.
pub(super) fn disconnected_banner(reason: &str, theme: &Theme, area: Rect, frame: &mut Frame<'_>) {
    frame.render_widget(Clear, area);
    let text = format!(" {reason}; showing old data, reconnecting ");
    let line = Line::styled(text, theme.error()).style(theme.selected(true));
    frame.render_widget(line, area);
}
