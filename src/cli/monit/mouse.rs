//! The mouse: whatever can be done by a click has a key, too.

use crossterm::event::{KeyCode, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use super::model::{Focus, InputMode, Model};
use crate::cli::monit::commands::UiCommand;

/// Lines that a turn of the wheel moves.
const WHEEL_LINES: isize = 3;

impl Model {
    /// What the mouse did.
    pub(super) fn mouse(&mut self, mouse: MouseEvent) -> Option<UiCommand> {
        let at = Position::new(mouse.column, mouse.row);
        match mouse.kind {
            MouseEventKind::ScrollUp => self.wheel(at, WHEEL_LINES),
            MouseEventKind::ScrollDown => self.wheel(at, -WHEEL_LINES),
            MouseEventKind::Down(MouseButton::Left) => return self.click(at),
            _ => self.changed = false,
        }
        None
    }

    fn wheel(&mut self, at: Position, up: isize) {
        if self.areas.pane.contains(at) {
            self.scroll(up);
        } else if self.areas.rows.contains(at) {
            self.select(self.selected_index().saturating_add_signed(-up));
        }
    }

    fn click(&mut self, at: Position) -> Option<UiCommand> {
        let hit = |(area, what): &(Rect, _)| area.contains(at).then_some(*what);
        if self.mode == InputMode::Help {
            self.mode = InputMode::Normal;
        } else if let Some(letter) =
            self.areas.keys.iter().find_map(|(area, key)| area.contains(at).then_some(*key))
        {
            return match self.mode {
                InputMode::Confirm { .. } => self.confirm(KeyCode::Char(letter)),
                _ => self.on_letter(letter),
            };
        } else if self.mode != InputMode::Normal {
        } else if let Some(tab) = self.areas.tabs.iter().find_map(hit) {
            (self.tab, self.focus) = (tab, Focus::Pane);
        } else if let Some(sort) =
            self.areas.headings.iter().find_map(|(area, sort)| area.contains(at).then_some(*sort))
        {
            self.sort_by(sort);
        } else if self.areas.rows.contains(at) {
            self.focus = Focus::Tree;
            self.click_row(self.areas.top + usize::from(at.y - self.areas.rows.y));
        } else if self.areas.pane.contains(at) {
            self.focus = Focus::Pane;
        }
        None
    }

    /// A click on a row selects it; on the selected app it folds or unfolds it.
    fn click_row(&mut self, place: usize) {
        let Some(row) = self.rows.get(place) else { return };
        match (row.key == self.selected, row.unfolded) {
            (true, Some(true)) => self.fold(),
            (true, Some(false)) => self.move_in_tree(KeyCode::Right),
            _ => self.select(place),
        }
    }
}
