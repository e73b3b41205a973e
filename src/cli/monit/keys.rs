//! Keys: the change of the model or the command for each. The keys of the prompt are in `prompt`, the mouse in `mouse`.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Focus, InputMode, Model, PromptKind, Tab};
use super::tree::{RowKey, TreeSort};
use crate::cli::monit::commands::{InstanceAction, UiCommand};
use crate::cli::monit::log_pane::StreamFilter;
use crate::ipc::message::Action;

/// Columns per step of horizontal scrolling.
const SCROLL_COLUMNS: usize = 8;

impl Model {
    /// Handles an event of the terminal.
    pub(super) fn handle_event(&mut self, event: &Event) -> Option<UiCommand> {
        self.changed = true;
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.on_key(*key),
            Event::Mouse(mouse) => self.on_mouse(*mouse),
            Event::Paste(text) => {
                if let InputMode::Prompt { text: input, .. } = &mut self.mode {
                    input.extend(text.chars().filter(|c| !c.is_control()));
                    self.apply_live();
                }
                None
            }
            _ => None,
        }
    }

    fn on_key(&mut self, key: KeyEvent) -> Option<UiCommand> {
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Some(UiCommand::Quit),
                KeyCode::Char('z') => return Some(UiCommand::Suspend),
                KeyCode::Char('l') => return Some(UiCommand::Redraw),
                _ => {}
            }
        }
        match &self.mode {
            InputMode::Normal => self.on_command_key(key),
            InputMode::Prompt { .. } => self.on_prompt_key(key),
            InputMode::Confirm { .. } => self.on_confirm_key(key.code),
            InputMode::Help => {
                self.mode = InputMode::Normal;
                None
            }
        }
    }

    fn on_command_key(&mut self, key: KeyEvent) -> Option<UiCommand> {
        match key.code {
            KeyCode::Char(c) if !key.modifiers.contains(KeyModifiers::CONTROL) => return self.on_letter(c),
            KeyCode::F(1) => self.mode = InputMode::Help,
            KeyCode::Delete => self.open_confirm(InstanceAction::Basic(Action::Delete)),
            KeyCode::Tab | KeyCode::BackTab => self.change_focus(),
            KeyCode::Enter => self.full = !self.full,
            KeyCode::Esc => self.on_escape(),
            code if self.full || self.focus == Focus::Pane => self.move_in_pane(code),
            code => self.move_in_tree(code),
        }
        None
    }

    /// Handles a letter, or a click on one in the last line.
    pub(super) fn on_letter(&mut self, letter: char) -> Option<UiCommand> {
        let in_pane = self.full || self.focus == Focus::Pane;
        match letter {
            'q' => return Some(UiCommand::Quit),
            '?' => self.mode = InputMode::Help,
            'j' if in_pane => self.move_in_pane(KeyCode::Down),
            'k' if in_pane => self.move_in_pane(KeyCode::Up),
            'j' => self.move_in_tree(KeyCode::Down),
            'k' => self.move_in_tree(KeyCode::Up),
            'g' if in_pane => self.move_in_pane(KeyCode::Home),
            'G' if in_pane => self.move_in_pane(KeyCode::End),
            'g' => self.select(0),
            'G' => self.select(usize::MAX),
            '/' if in_pane && self.tab == Tab::Logs => self.open_prompt(PromptKind::Search),
            '/' => self.open_prompt(PromptKind::Apps),
            'f' => self.open_prompt(PromptKind::Lines),
            'n' => self.find_next(true),
            'N' => self.find_next(false),
            's' => self.open_confirm(InstanceAction::Basic(Action::Start)),
            'x' => self.open_confirm(InstanceAction::Basic(Action::Stop)),
            'r' => self.open_confirm(InstanceAction::Basic(Action::Restart)),
            'R' => self.open_confirm(InstanceAction::Reload),
            'd' => self.open_confirm(InstanceAction::Basic(Action::Delete)),
            'i' => self.open_prompt(PromptKind::Scale),
            'o' => self.sort_by(self.tree_options.sort.next()),
            'O' => self.reverse(),
            'z' => self.fold_all(),
            '1' => self.tab = Tab::Logs,
            '2' => self.tab = Tab::Details,
            '3' => self.tab = Tab::Charts,
            'l' => (self.tab, self.full) = (Tab::Logs, !(self.full && self.tab == Tab::Logs)),
            'p' | ' ' => self.pause(),
            'w' => (self.log_pane.wrap, self.log_pane.scroll_x) = (!self.log_pane.wrap, 0),
            'e' => self.log_pane.set_streams(match self.log_pane.streams {
                StreamFilter::Both => StreamFilter::Err,
                StreamFilter::Err => StreamFilter::Out,
                StreamFilter::Out => StreamFilter::Both,
            }),
            _ => {}
        }
        None
    }

    fn change_focus(&mut self) {
        self.focus = if self.focus == Focus::Tree { Focus::Pane } else { Focus::Tree };
    }

    /// Esc: leaves the full screen, or else clears the search, the filters or the focus.
    fn on_escape(&mut self) {
        if self.full {
            self.full = false;
        } else if self.log_pane.search_pattern().is_some() {
            self.log_pane.set_search(None);
        } else if !self.line_filter.is_empty() {
            self.line_filter.clear();
            self.log_pane.set_filter(None);
        } else if !self.tree_options.filter.is_empty() {
            self.tree_options.filter.clear();
            self.rebuild_rows();
        } else {
            self.focus = Focus::Tree;
            self.log_pane.lines_below = 0;
        }
    }

    fn pause(&mut self) {
        self.log_pane.paused = !self.log_pane.paused;
        if !self.log_pane.paused {
            self.log_pane.lines_below = 0;
        }
    }

    fn find_next(&mut self, older: bool) {
        let found = if older { self.log_pane.find_older() } else { self.log_pane.find_newer() };
        if !found {
            let text = match (self.log_pane.search_pattern(), older) {
                (None, _) => "no search pattern; press Tab, then /",
                (_, true) => "no earlier match",
                (_, false) => "no later match",
            };
            self.set_message(text, false);
        }
    }

    /// Sorts by a column; again by the same one reverses the order.
    pub(super) fn sort_by(&mut self, sort: TreeSort) {
        self.tree_options.reversed = self.tree_options.sort == sort && !self.tree_options.reversed;
        self.tree_options.sort = sort;
        self.rebuild_rows();
        let direction = if self.tree_options.reversed { ", reversed" } else { "" };
        self.set_message(&format!("sorted by {}{direction}", sort.title()), true);
    }

    fn reverse(&mut self) {
        self.tree_options.reversed = !self.tree_options.reversed;
        self.rebuild_rows();
    }

    pub(super) fn move_in_tree(&mut self, code: KeyCode) {
        let page = usize::from(self.areas.rows.height).max(2) - 1;
        let at = self.selected_index();
        match code {
            KeyCode::Up => self.select(at.saturating_sub(1)),
            KeyCode::Down => self.select(at + 1),
            KeyCode::PageUp => self.select(at.saturating_sub(page)),
            KeyCode::PageDown => self.select(at + page),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Left => self.fold(),
            KeyCode::Right => {
                if let RowKey::App(name) = &self.selected {
                    self.tree_options.folded.remove(name);
                    self.rebuild_rows();
                }
            }
            _ => self.changed = false,
        }
    }

    /// Folds the selected app, and selects it if one of its instances is selected.
    pub(super) fn fold(&mut self) {
        if let Some(app) = self.app().map(str::to_owned) {
            self.tree_options.folded.insert(app.clone());
            self.selected = RowKey::App(app);
            self.rebuild_rows();
        }
    }

    fn move_in_pane(&mut self, code: KeyCode) {
        let page = isize::try_from(self.areas.pane.height).unwrap_or(1).max(2) - 1;
        match code {
            KeyCode::Up => self.scroll(1),
            KeyCode::Down => self.scroll(-1),
            KeyCode::PageUp => self.scroll(page),
            KeyCode::PageDown => self.scroll(-page),
            KeyCode::Home => self.scroll(isize::MAX),
            KeyCode::End => self.scroll(-isize::MAX),
            KeyCode::Left => self.log_pane.scroll_x = self.log_pane.scroll_x.saturating_sub(SCROLL_COLUMNS),
            KeyCode::Right if !self.log_pane.wrap => self.log_pane.scroll_x += SCROLL_COLUMNS,
            _ => self.changed = false,
        }
    }

    /// Scrolls the lower pane up by a number of lines.
    pub(super) fn scroll(&mut self, up: isize) {
        match self.tab {
            Tab::Logs => self.log_pane.scroll(up),
            Tab::Details | Tab::Charts => {
                self.details_top = self.details_top.saturating_add_signed(-up);
            }
        }
    }

    /// Opens the confirmation of an action.
    fn open_confirm(&mut self, action: InstanceAction) {
        if self.ids().is_empty() {
            return self.set_message("nothing selected", false);
        }
        let (select, subject) = (self.selectors(), self.selection_text());
        let is_drastic = matches!(action, InstanceAction::Basic(Action::Stop | Action::Delete));
        let typed = (is_drastic && self.selected == RowKey::All).then(String::new);
        self.mode = InputMode::Confirm { action, select, subject, typed };
    }

    /// A key while `all` must be typed to confirm an action.
    fn on_typed_confirm_key(&mut self, code: KeyCode) -> Option<UiCommand> {
        let InputMode::Confirm { typed: Some(typed), .. } = &mut self.mode else { return None };
        match code {
            KeyCode::Enter if typed.trim() == "all" => return self.confirmed(),
            KeyCode::Enter => self.set_message("not confirmed: \"all\" was not typed", false),
            KeyCode::Esc => {}
            KeyCode::Backspace => {
                typed.pop();
                return None;
            }
            KeyCode::Char(c) => {
                typed.push(c);
                return None;
            }
            _ => return None,
        }
        self.mode = InputMode::Normal;
        None
    }

    fn confirmed(&mut self) -> Option<UiCommand> {
        let InputMode::Confirm { action, select, subject, .. } = std::mem::take(&mut self.mode) else {
            return None;
        };
        self.set_message(&format!("{} {subject}…", action.label()), true);
        Some(UiCommand::Run(action, select))
    }

    pub(super) fn on_confirm_key(&mut self, code: KeyCode) -> Option<UiCommand> {
        if matches!(self.mode, InputMode::Confirm { typed: Some(_), .. }) {
            return self.on_typed_confirm_key(code);
        }
        match code {
            KeyCode::Char('y' | 'Y') | KeyCode::Enter => self.confirmed(),
            KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {
                self.mode = InputMode::Normal;
                None
            }
            _ => None,
        }
    }
}
