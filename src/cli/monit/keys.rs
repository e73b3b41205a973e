//! Keys and the mouse: what each does to the model, and what it wants of the outside.

use crossterm::event::{
    Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::layout::{Position, Rect};

use super::model::{Deed, Field, Focus, Mode, Model, Tab, Wish};
use super::pane::{Pattern, Streams};
use super::tree::Key;
use crate::ipc::message::{Action, ScaleTo};

/// Lines that a turn of the wheel moves.
const WHEEL: isize = 3;
/// Columns that an arrow moves log lines by.
const SIDEWAYS: usize = 8;

impl Model {
    /// Takes in what a person did.
    pub(super) fn feel(&mut self, event: &Event) -> Option<Wish> {
        self.changed = true;
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key),
            Event::Mouse(mouse) => self.mouse(*mouse),
            Event::Paste(text) => {
                if let Mode::Typing { text: typed, .. } = &mut self.mode {
                    typed.extend(text.chars().filter(|c| !c.is_control()));
                    self.as_typed();
                }
                None
            }
            _ => None,
        }
    }

    fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        self.said = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Some(Wish::Quit),
                KeyCode::Char('z') => return Some(Wish::Suspend),
                KeyCode::Char('l') => return Some(Wish::Redraw),
                _ => {}
            }
        }
        match &self.mode {
            Mode::Normal => self.command(key),
            Mode::Typing { .. } => self.type_in(key),
            Mode::Confirm { .. } => self.confirm(key.code),
            Mode::Help => {
                self.mode = Mode::Normal;
                None
            }
        }
    }

    fn command(&mut self, key: KeyEvent) -> Option<Wish> {
        match key.code {
            KeyCode::Char(c) if !key.modifiers.contains(KeyModifiers::CONTROL) => return self.letter(c),
            KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Delete => self.ask(Deed::Act(Action::Delete)),
            KeyCode::Tab | KeyCode::BackTab => self.change_focus(),
            KeyCode::Enter => self.full = !self.full,
            KeyCode::Esc => self.back(),
            code if self.full || self.focus == Focus::Pane => self.move_in_pane(code),
            code => self.move_in_tree(code),
        }
        None
    }

    /// The commands that have a letter. Also reached by a click on the key in the last line.
    pub(super) fn letter(&mut self, letter: char) -> Option<Wish> {
        let in_pane = self.full || self.focus == Focus::Pane;
        match letter {
            'q' => return Some(Wish::Quit),
            '?' => self.mode = Mode::Help,
            'j' if in_pane => self.move_in_pane(KeyCode::Down),
            'k' if in_pane => self.move_in_pane(KeyCode::Up),
            'j' => self.move_in_tree(KeyCode::Down),
            'k' => self.move_in_tree(KeyCode::Up),
            'g' if in_pane => self.move_in_pane(KeyCode::Home),
            'G' if in_pane => self.move_in_pane(KeyCode::End),
            'g' => self.select(0),
            'G' => self.select(usize::MAX),
            '/' if in_pane && self.tab == Tab::Logs => self.begin(Field::Search),
            '/' => self.begin(Field::Apps),
            'f' => self.begin(Field::Lines),
            'n' => self.find(true),
            'N' => self.find(false),
            's' => return self.ask_for(Deed::Act(Action::Start)),
            'x' => return self.ask_for(Deed::Act(Action::Stop)),
            'r' => return self.ask_for(Deed::Act(Action::Restart)),
            'R' => return self.ask_for(Deed::Reload),
            'd' => return self.ask_for(Deed::Act(Action::Delete)),
            'i' => self.begin(Field::Scale),
            'o' => self.sort_by(self.shape.sort.next()),
            'O' => self.reverse(),
            'z' => self.fold_all(),
            '1' => self.tab = Tab::Logs,
            '2' => self.tab = Tab::Details,
            '3' => self.tab = Tab::Charts,
            'l' => (self.tab, self.full) = (Tab::Logs, !(self.full && self.tab == Tab::Logs)),
            'p' | ' ' => self.pause(),
            'w' => (self.pane.wrap, self.pane.shift) = (!self.pane.wrap, 0),
            'e' => self.pane.show(match self.pane.streams {
                Streams::Both => Streams::Err,
                Streams::Err => Streams::Out,
                Streams::Out => Streams::Both,
            }),
            _ => {}
        }
        None
    }

    fn change_focus(&mut self) {
        self.focus = if self.focus == Focus::Tree { Focus::Pane } else { Focus::Tree };
    }

    /// Esc: one thing less, the innermost first.
    fn back(&mut self) {
        if self.full {
            self.full = false;
        } else if self.pane.marked().is_some() {
            self.pane.search(None);
        } else if !self.line_filter.is_empty() {
            self.line_filter.clear();
            self.pane.filter(None);
        } else if !self.shape.filter.is_empty() {
            self.shape.filter.clear();
            self.arrange();
        } else {
            self.focus = Focus::Tree;
            self.pane.below = 0;
        }
    }

    fn pause(&mut self) {
        self.pane.paused = !self.pane.paused;
        if !self.pane.paused {
            self.pane.below = 0;
        }
    }

    fn find(&mut self, older: bool) {
        let found = if older { self.pane.find_older() } else { self.pane.find_newer() };
        if !found {
            let text = match (self.pane.marked(), older) {
                (None, _) => "nothing is searched for: Tab to the log, then /",
                (_, true) => "not found above",
                (_, false) => "not found below",
            };
            self.say(text, false);
        }
    }

    /// Another order; the same again is reversed.
    pub(super) fn sort_by(&mut self, sort: super::tree::Sort) {
        self.shape.reversed = self.shape.sort == sort && !self.shape.reversed;
        self.shape.sort = sort;
        self.arrange();
        let way = if self.shape.reversed { ", the other way round" } else { "" };
        self.say(&format!("sorted by {}{way}", sort.title()), true);
    }

    fn reverse(&mut self) {
        self.shape.reversed = !self.shape.reversed;
        self.arrange();
    }

    fn move_in_tree(&mut self, code: KeyCode) {
        let page = usize::from(self.areas.rows.height).max(2) - 1;
        let at = self.place();
        match code {
            KeyCode::Up => self.select(at.saturating_sub(1)),
            KeyCode::Down => self.select(at + 1),
            KeyCode::PageUp => self.select(at.saturating_sub(page)),
            KeyCode::PageDown => self.select(at + page),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Left => self.fold(),
            KeyCode::Right => {
                if let Key::App(name) = &self.selected {
                    self.shape.folded.remove(name);
                    self.arrange();
                }
            }
            _ => self.changed = false,
        }
    }

    /// Hides the instances of the selected app, which is selected then.
    fn fold(&mut self) {
        if let Some(app) = self.app().map(str::to_owned) {
            self.shape.folded.insert(app.clone());
            self.selected = Key::App(app);
            self.arrange();
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
            KeyCode::Left => self.pane.shift = self.pane.shift.saturating_sub(SIDEWAYS),
            KeyCode::Right if !self.pane.wrap => self.pane.shift += SIDEWAYS,
            _ => self.changed = false,
        }
    }

    /// Scrolls the lower pane so many lines up.
    fn scroll(&mut self, up: isize) {
        match self.tab {
            Tab::Logs => self.pane.scroll(up),
            Tab::Details | Tab::Charts => {
                self.details_top = self.details_top.saturating_add_signed(-up);
            }
        }
    }

    fn ask_for(&mut self, deed: Deed) -> Option<Wish> {
        self.ask(deed);
        None
    }

    /// Asks before something is done.
    fn ask(&mut self, deed: Deed) {
        if self.ids().is_empty() {
            return self.say("there is nothing to act on", false);
        }
        let (select, what) = (self.selectors(), self.what());
        self.mode = Mode::Confirm { deed, select, what };
    }

    fn confirm(&mut self, code: KeyCode) -> Option<Wish> {
        match code {
            KeyCode::Char('y' | 'Y') | KeyCode::Enter => {
                let Mode::Confirm { deed, select, what } = std::mem::take(&mut self.mode) else {
                    return None;
                };
                self.say(&format!("{} {what} …", deed.word()), true);
                Some(Wish::Do(deed, select))
            }
            KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {
                self.mode = Mode::Normal;
                None
            }
            _ => None,
        }
    }

    fn begin(&mut self, field: Field) {
        let text = match field {
            Field::Apps => self.shape.filter.clone(),
            Field::Lines => self.line_filter.clone(),
            Field::Search => String::new(),
            Field::Scale if self.app().is_none() => return self.say("select the app to scale first", false),
            Field::Scale => String::new(),
        };
        if matches!(field, Field::Lines | Field::Search) {
            self.tab = Tab::Logs;
        }
        self.mode = Mode::Typing { field, before: text.clone(), text };
    }

    fn type_in(&mut self, key: KeyEvent) -> Option<Wish> {
        let Mode::Typing { text, before, field } = &mut self.mode else { return None };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => return self.typed(),
            KeyCode::Esc => {
                let (field, before) = (*field, before.clone());
                self.mode = Mode::Typing { field, text: before.clone(), before };
                self.as_typed();
                self.mode = Mode::Normal;
                return None;
            }
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char('u') if control => text.clear(),
            KeyCode::Char('w') if control => {
                let word = text.trim_end().rfind(' ').map_or(0, |at| at + 1);
                text.truncate(word);
            }
            KeyCode::Char(c) if !control => text.push(c),
            _ => return None,
        }
        self.as_typed();
        None
    }

    /// Filters take effect with each letter.
    fn as_typed(&mut self) {
        let Mode::Typing { field, text, .. } = &self.mode else { return };
        match field {
            Field::Apps => {
                self.shape.filter = text.clone();
                self.arrange();
            }
            Field::Lines => {
                self.line_filter = text.clone();
                self.pane.filter(Pattern::new(text));
            }
            Field::Search => drop(self.pane.search(Pattern::new(text))),
            Field::Scale => {}
        }
    }

    fn typed(&mut self) -> Option<Wish> {
        let Mode::Typing { field, text, .. } = std::mem::take(&mut self.mode) else { return None };
        match field {
            Field::Search if self.pane.marked().is_some() && !self.pane.search(Pattern::new(&text)) => {
                self.say(&format!("\"{text}\" is not found"), false);
            }
            Field::Scale => self.ask_to_scale(&text),
            Field::Apps | Field::Lines | Field::Search => {}
        }
        None
    }

    fn ask_to_scale(&mut self, text: &str) {
        let Some(app) = self.app().map(str::to_owned) else { return };
        match crate::cli::act::scale_to(text.trim()) {
            Ok(to) => {
                let how = match to {
                    ScaleTo::Exactly(count) => format!("to {count}"),
                    ScaleTo::Add(count) => format!("by {count} more"),
                    ScaleTo::Remove(count) => format!("by {count} fewer"),
                };
                let what = format!("{app} {how}");
                self.mode = Mode::Confirm { deed: Deed::Scale(to), select: vec![app], what };
            }
            Err(why) => self.say(&why, false),
        }
    }

    fn mouse(&mut self, mouse: MouseEvent) -> Option<Wish> {
        let at = Position::new(mouse.column, mouse.row);
        match mouse.kind {
            MouseEventKind::ScrollUp => self.wheel(at, WHEEL),
            MouseEventKind::ScrollDown => self.wheel(at, -WHEEL),
            MouseEventKind::Down(MouseButton::Left) => return self.click(at),
            _ => self.changed = false,
        }
        None
    }

    fn wheel(&mut self, at: Position, up: isize) {
        if self.areas.pane.contains(at) {
            self.scroll(up);
        } else if self.areas.rows.contains(at) {
            self.select(self.place().saturating_add_signed(-up));
        }
    }

    fn click(&mut self, at: Position) -> Option<Wish> {
        let hit = |(area, what): &(Rect, _)| area.contains(at).then_some(*what);
        if self.mode == Mode::Help {
            self.mode = Mode::Normal;
        } else if let Some(letter) =
            self.areas.keys.iter().find_map(|(area, key)| area.contains(at).then_some(*key))
        {
            return match self.mode {
                Mode::Confirm { .. } => self.confirm(KeyCode::Char(letter)),
                _ => self.letter(letter),
            };
        } else if self.mode != Mode::Normal {
        } else if let Some(tab) = self.areas.tabs.iter().find_map(hit) {
            (self.tab, self.focus) = (tab, Focus::Pane);
        } else if let Some(sort) =
            self.areas.headings.iter().find_map(|(area, sort)| area.contains(at).then_some(*sort))
        {
            self.sort_by(sort);
        } else if self.areas.rows.contains(at) {
            self.focus = Focus::Tree;
            self.press(self.areas.top + usize::from(at.y - self.areas.rows.y));
        } else if self.areas.pane.contains(at) {
            self.focus = Focus::Pane;
        }
        None
    }

    /// A click on a row selects it; on the selected app it folds or unfolds it.
    fn press(&mut self, place: usize) {
        let Some(row) = self.rows.get(place) else { return };
        match (row.key == self.selected, row.unfolded) {
            (true, Some(true)) => self.fold(),
            (true, Some(false)) => self.move_in_tree(KeyCode::Right),
            _ => self.select(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::model;
    use super::super::tree::Sort;
    use super::*;
    use crate::ipc::message::{LogItem, Stream};

    fn press(model: &mut Model, keys: &str) -> Option<Wish> {
        let mut wish = None;
        for word in keys.split(' ') {
            let code = match word {
                "Enter" => KeyCode::Enter,
                "Esc" => KeyCode::Esc,
                "Down" => KeyCode::Down,
                "Up" => KeyCode::Up,
                "Left" => KeyCode::Left,
                "Right" => KeyCode::Right,
                "End" => KeyCode::End,
                "Tab" => KeyCode::Tab,
                "Back" => KeyCode::Backspace,
                letters => {
                    for c in letters.chars() {
                        wish = model.feel(&Event::Key(KeyCode::Char(c).into()));
                    }
                    continue;
                }
            };
            wish = model.feel(&Event::Key(code.into()));
        }
        wish
    }

    #[test]
    fn arrows_go_through_the_tree() {
        let mut model = model();
        press(&mut model, "Down Down");
        assert_eq!(model.selected, Key::One(0));
        press(&mut model, "Left");
        assert_eq!((model.selected.clone(), model.rows.len()), (Key::App("api".into()), 3));
        press(&mut model, "Right End");
        assert_eq!((model.selected.clone(), model.rows.len()), (Key::App("网关".into()), 5));
        press(&mut model, "g");
        assert_eq!(model.selected, Key::All);
    }

    #[test]
    fn nothing_is_done_without_a_yes() {
        let mut model = model();
        assert_eq!(press(&mut model, "Down x n"), None);
        assert_eq!(model.mode, Mode::Normal);
        assert_eq!(press(&mut model, "r"), None);
        assert_eq!(press(&mut model, "y"), Some(Wish::Do(Deed::Act(Action::Restart), vec!["api".into()])));
        assert_eq!(press(&mut model, "R Enter"), Some(Wish::Do(Deed::Reload, vec!["api".into()])));
        assert_eq!(
            press(&mut model, "Down d y"),
            Some(Wish::Do(Deed::Act(Action::Delete), vec!["0".into()]))
        );
    }

    #[test]
    fn scaling_wants_a_number() {
        let mut model = model();
        press(&mut model, "i");
        assert_eq!(
            (&model.mode, model.said.as_ref().unwrap().1),
            (&Mode::Normal, false),
            "all cannot be scaled"
        );
        press(&mut model, "Down i many Enter");
        assert_eq!(model.mode, Mode::Normal);
        let wish = press(&mut model, "i +2 Enter y");
        assert_eq!(wish, Some(Wish::Do(Deed::Scale(ScaleTo::Add(2)), vec!["api".into()])));
    }

    #[test]
    fn filters_work_while_they_are_typed_and_go_with_esc() {
        let mut model = model();
        press(&mut model, "/ap");
        assert_eq!((model.rows.len(), model.shape.filter.as_str()), (4, "ap"));
        press(&mut model, "Esc");
        assert_eq!((model.rows.len(), model.shape.filter.as_str()), (5, ""));
        press(&mut model, "/网 Enter");
        assert_eq!((model.rows.len(), model.mode.clone()), (2, Mode::Normal));
        assert_eq!(press(&mut model, "q"), Some(Wish::Quit));
        press(&mut model, "Esc");
        assert_eq!(model.rows.len(), 5);
    }

    #[test]
    fn the_log_is_searched_where_the_arrows_are() {
        let mut model = model();
        let line = |text: &str| LogItem::Line {
            id: 0,
            name: "api".into(),
            stream: Stream::Out,
            at: None,
            line: text.into(),
        };
        model.read(["x 1", "y", "x 2"].map(line).into(), 0);
        press(&mut model, "Tab /x Enter");
        assert_eq!(model.pane.below, 0);
        press(&mut model, "n");
        assert_eq!(model.pane.below, 2);
        press(&mut model, "f2 Enter Esc Esc");
        assert!(model.pane.marked().is_none() && model.line_filter.is_empty());
        press(&mut model, "/none Enter");
        assert!(!model.said.unwrap().1);
    }

    #[test]
    fn the_same_heading_twice_turns_the_order() {
        let mut model = model();
        model.areas.headings = vec![(Rect::new(10, 0, 5, 1), Sort::Cpu)];
        let click = |model: &mut Model, column, row| {
            let kind = MouseEventKind::Down(MouseButton::Left);
            let modifiers = KeyModifiers::NONE;
            model.feel(&Event::Mouse(MouseEvent { kind, column, row, modifiers }))
        };
        click(&mut model, 11, 0);
        assert_eq!((model.shape.sort, model.shape.reversed), (Sort::Cpu, false));
        click(&mut model, 11, 0);
        assert!(model.shape.reversed);
        model.areas.rows = Rect::new(0, 1, 40, 5);
        model.sort_by(Sort::Name);
        click(&mut model, 3, 3);
        assert_eq!(model.selected, Key::One(0));
    }
}
