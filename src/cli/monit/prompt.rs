//! The prompt: filters, the search, and the number of instances.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::cli::commands::scale::parse_scale;
use crate::cli::monit::commands::{InstanceAction, UiCommand};
use crate::cli::monit::log_pane::LinePattern;
use crate::cli::monit::model::{InputMode, Model, PromptKind, Tab};
use crate::ipc::message::ScaleTo;

impl Model {
    /// Opens the prompt.
    pub(super) fn open_prompt(&mut self, field: PromptKind) {
        let text = match field {
            PromptKind::Apps => self.tree_options.filter.clone(),
            PromptKind::Lines => self.line_filter.clone(),
            PromptKind::Search => String::new(),
            PromptKind::Scale if self.app().is_none() => {
                return self.set_message("select an app to scale", false);
            }
            PromptKind::Scale => String::new(),
        };
        if matches!(field, PromptKind::Lines | PromptKind::Search) {
            self.tab = Tab::Logs;
        }
        self.mode = InputMode::Prompt { field, previous: text.clone(), text };
    }

    /// Handles a key while the prompt is open.
    pub(super) fn on_prompt_key(&mut self, key: KeyEvent) -> Option<UiCommand> {
        let InputMode::Prompt { text, previous, field } = &mut self.mode else { return None };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => return self.submit(),
            KeyCode::Esc => {
                let (field, text) = (*field, previous.clone());
                self.mode = InputMode::Prompt { field, text: text.clone(), previous: text };
                self.apply_live();
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
        self.apply_live();
        None
    }

    /// Applies filters and the search after each key.
    pub(super) fn apply_live(&mut self) {
        let InputMode::Prompt { field, text, .. } = &self.mode else { return };
        match field {
            PromptKind::Apps => {
                self.tree_options.filter = text.clone();
                self.rebuild_rows();
            }
            PromptKind::Lines => {
                self.line_filter = text.clone();
                self.log_pane.set_filter(LinePattern::new(text));
            }
            PromptKind::Search => drop(self.log_pane.set_search(LinePattern::new(text))),
            PromptKind::Scale => {}
        }
    }

    fn submit(&mut self) -> Option<UiCommand> {
        let InputMode::Prompt { field, text, .. } = std::mem::take(&mut self.mode) else { return None };
        match field {
            PromptKind::Search
                if self.log_pane.search_pattern().is_some()
                    && !self.log_pane.set_search(LinePattern::new(&text)) =>
            {
                self.set_message(&format!("\"{text}\" not found"), false);
            }
            PromptKind::Scale => self.confirm_scale(&text),
            PromptKind::Apps | PromptKind::Lines | PromptKind::Search => {}
        }
        None
    }

    fn confirm_scale(&mut self, text: &str) {
        let Some(app) = self.app().map(str::to_owned) else { return };
        match parse_scale(text.trim()) {
            Ok(to) => {
                let change = match to {
                    ScaleTo::Exactly(count) => format!("to {count}"),
                    ScaleTo::Add(count) => format!("up by {count}"),
                    ScaleTo::Remove(count) => format!("down by {count}"),
                };
                let subject = format!("{app} {change}");
                self.mode = InputMode::Confirm {
                    action: InstanceAction::Scale(to),
                    select: vec![app],
                    subject,
                    typed: None,
                };
            }
            Err(error) => self.set_message(&error, false),
        }
    }
}
