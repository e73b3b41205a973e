//! The prompt: filters, the search, and the number of instances.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{InputMode, Model, PromptKind, Tab};
use super::pane::LinePattern;
use super::wish::{InstanceAction, UiCommand};
use crate::ipc::message::ScaleTo;

impl Model {
    /// Opens the prompt.
    pub(super) fn begin(&mut self, field: PromptKind) {
        let text = match field {
            PromptKind::Apps => self.shape.filter.clone(),
            PromptKind::Lines => self.line_filter.clone(),
            PromptKind::Search => String::new(),
            PromptKind::Scale if self.app().is_none() => return self.say("select an app to scale", false),
            PromptKind::Scale => String::new(),
        };
        if matches!(field, PromptKind::Lines | PromptKind::Search) {
            self.tab = Tab::Logs;
        }
        self.mode = InputMode::Typing { field, before: text.clone(), text };
    }

    /// Handles a key while the prompt is open.
    pub(super) fn type_in(&mut self, key: KeyEvent) -> Option<UiCommand> {
        let InputMode::Typing { text, before, field } = &mut self.mode else { return None };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => return self.typed(),
            KeyCode::Esc => {
                let (field, before) = (*field, before.clone());
                self.mode = InputMode::Typing { field, text: before.clone(), before };
                self.as_typed();
                self.mode = InputMode::Normal;
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
        let InputMode::Typing { field, text, .. } = &self.mode else { return };
        match field {
            PromptKind::Apps => {
                self.shape.filter = text.clone();
                self.arrange();
            }
            PromptKind::Lines => {
                self.line_filter = text.clone();
                self.pane.filter(LinePattern::new(text));
            }
            PromptKind::Search => drop(self.pane.search(LinePattern::new(text))),
            PromptKind::Scale => {}
        }
    }

    fn typed(&mut self) -> Option<UiCommand> {
        let InputMode::Typing { field, text, .. } = std::mem::take(&mut self.mode) else { return None };
        match field {
            PromptKind::Search
                if self.pane.marked().is_some() && !self.pane.search(LinePattern::new(&text)) =>
            {
                self.say(&format!("\"{text}\" not found"), false);
            }
            PromptKind::Scale => self.ask_to_scale(&text),
            PromptKind::Apps | PromptKind::Lines | PromptKind::Search => {}
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
                self.mode = InputMode::Confirm { deed: InstanceAction::Scale(to), select: vec![app], what };
            }
            Err(why) => self.say(&why, false),
        }
    }
}
