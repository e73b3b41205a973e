//! The prompt: filters, the search, and the number of instances.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Field, Mode, Model, Tab};
use super::pane::Pattern;
use super::wish::{Deed, Wish};
use crate::ipc::message::ScaleTo;

impl Model {
    /// Opens the prompt.
    pub(super) fn begin(&mut self, field: Field) {
        let text = match field {
            Field::Apps => self.shape.filter.clone(),
            Field::Lines => self.line_filter.clone(),
            Field::Search => String::new(),
            Field::Scale if self.app().is_none() => return self.say("select an app to scale", false),
            Field::Scale => String::new(),
        };
        if matches!(field, Field::Lines | Field::Search) {
            self.tab = Tab::Logs;
        }
        self.mode = Mode::Typing { field, before: text.clone(), text };
    }

    /// Handles a key while the prompt is open.
    pub(super) fn type_in(&mut self, key: KeyEvent) -> Option<Wish> {
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

    /// Applies filters and the search after each key.
    pub(super) fn as_typed(&mut self) {
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
                self.say(&format!("\"{text}\" not found"), false);
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
                    ScaleTo::Add(count) => format!("up by {count}"),
                    ScaleTo::Remove(count) => format!("down by {count}"),
                };
                let what = format!("{app} {how}");
                self.mode = Mode::Confirm { deed: Deed::Scale(to), select: vec![app], what };
            }
            Err(why) => self.say(&why, false),
        }
    }
}
