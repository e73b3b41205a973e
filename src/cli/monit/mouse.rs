//! Mouse events. Each action of the mouse has a key, too.

use crossterm::event::{KeyCode, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use super::model::{Focus, InputMode, Model};
use crate::cli::monit::commands::UiCommand;

/// Lines per step of the wheel.
const WHEEL_LINES: isize = 3;

impl Model {
    pub(super) fn on_mouse(&mut self, mouse: MouseEvent) -> Option<UiCommand> {
        let position = Position::new(mouse.column, mouse.row);
        match mouse.kind {
            MouseEventKind::ScrollUp => self.wheel(position, WHEEL_LINES),
            MouseEventKind::ScrollDown => self.wheel(position, -WHEEL_LINES),
            MouseEventKind::Down(MouseButton::Left) => return self.click(position),
            _ => self.changed = false,
        }
        None
    }

    fn wheel(&mut self, position: Position, up: isize) {
        if self.areas.pane.contains(position) {
            self.scroll(up);
        } else if self.areas.rows.contains(position) {
            self.select(self.selected_index().saturating_add_signed(-up));
        }
    }

    fn click(&mut self, position: Position) -> Option<UiCommand> {
        let hit = |(area, target): &(Rect, _)| area.contains(position).then_some(*target);
        if self.mode == InputMode::Help {
            self.mode = InputMode::Normal;
        } else if let Some(letter) =
            self.areas.keys.iter().find_map(|(area, key)| area.contains(position).then_some(*key))
        {
            return match self.mode {
                InputMode::Confirm { .. } => self.on_confirm_key(KeyCode::Char(letter)),
                _ => self.on_letter(letter),
            };
        } else if self.mode != InputMode::Normal {
        } else if let Some(tab) = self.areas.tabs.iter().find_map(hit) {
            (self.tab, self.focus) = (tab, Focus::Pane);
        } else if let Some(sort) =
            self.areas.headings.iter().find_map(|(area, sort)| area.contains(position).then_some(*sort))
        {
            self.sort_by(sort);
        } else if self.areas.rows.contains(position) {
            self.focus = Focus::Tree;
            self.click_row(self.areas.top + usize::from(position.y - self.areas.rows.y));
        } else if self.areas.pane.contains(position) {
            self.focus = Focus::Pane;
        }
        None
    }

    /// Selects a row. If it is selected already, folds or unfolds the app.
    fn click_row(&mut self, index: usize) {
        let Some(row) = self.rows.get(index) else { return };
        match (row.key == self.selected, row.unfolded) {
            (true, Some(true)) => self.fold(),
            (true, Some(false)) => self.move_in_tree(KeyCode::Right),
            _ => self.select(index),
        }
    }
}
