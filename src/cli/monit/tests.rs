//! Effects of keys and clicks.

use crossterm::event::{Event, KeyCode, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Rect;

use super::model::tests::model;
use super::model::{InputMode, Model};
use super::tree::{RowKey, TreeSort};
use crate::cli::monit::commands::{InstanceAction, UiCommand};
use crate::ipc::message::{Action, LogItem, OutputStream, ScaleTo};

fn press(model: &mut Model, keys: &str) -> Option<UiCommand> {
    let mut command = None;
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
                    command = model.handle_event(&Event::Key(KeyCode::Char(c).into()));
                }
                continue;
            }
        };
        command = model.handle_event(&Event::Key(code.into()));
    }
    command
}

#[test]
fn arrows_move_in_tree() {
    let mut model = model();
    press(&mut model, "Down Down");
    assert_eq!(model.selected, RowKey::Instance(0));
    press(&mut model, "Left");
    assert_eq!((model.selected.clone(), model.rows.len()), (RowKey::App("api".into()), 3));
    press(&mut model, "Right End");
    assert_eq!((model.selected.clone(), model.rows.len()), (RowKey::App("网关".into()), 5));
    press(&mut model, "g");
    assert_eq!(model.selected, RowKey::All);
}

#[test]
fn actions_require_confirmation() {
    let mut model = model();
    assert_eq!(press(&mut model, "Down x n"), None);
    assert_eq!(model.mode, InputMode::Normal);
    assert_eq!(press(&mut model, "r"), None);
    assert_eq!(
        press(&mut model, "y"),
        Some(UiCommand::Run(InstanceAction::Basic(Action::Restart), vec!["api".into()]))
    );
    assert_eq!(
        press(&mut model, "R Enter"),
        Some(UiCommand::Run(InstanceAction::Reload, vec!["api".into()]))
    );
    assert_eq!(
        press(&mut model, "Down d y"),
        Some(UiCommand::Run(InstanceAction::Basic(Action::Delete), vec!["0".into()]))
    );
}

#[test]
fn stopping_all_requires_the_word() {
    let mut model = model();
    for keys in ["d y Enter", "x Enter", "d Esc", "d alle Enter"] {
        assert_eq!(press(&mut model, keys), None, "{keys}");
        assert_eq!(model.mode, InputMode::Normal, "{keys}");
    }
    let all = vec!["all".to_owned()];
    assert_eq!(
        press(&mut model, "d alx Back l Enter"),
        Some(UiCommand::Run(InstanceAction::Basic(Action::Delete), all.clone()))
    );
    assert_eq!(press(&mut model, "r y"), Some(UiCommand::Run(InstanceAction::Basic(Action::Restart), all)));
}

#[test]
fn scale_requires_number_and_app() {
    let mut model = model();
    press(&mut model, "i");
    assert_eq!(
        (&model.mode, model.message.as_ref().unwrap().1),
        (&InputMode::Normal, false),
        "all cannot be scaled"
    );
    press(&mut model, "Down i many Enter");
    assert_eq!(model.mode, InputMode::Normal);
    let command = press(&mut model, "i +2 Enter y");
    assert_eq!(command, Some(UiCommand::Run(InstanceAction::Scale(ScaleTo::Add(2)), vec!["api".into()])));
}

#[test]
fn filter_applies_live_and_esc_removes_it() {
    let mut model = model();
    press(&mut model, "/ap");
    assert_eq!((model.rows.len(), model.tree_options.filter.as_str()), (4, "ap"));
    press(&mut model, "Esc");
    assert_eq!((model.rows.len(), model.tree_options.filter.as_str()), (5, ""));
    press(&mut model, "/网 Enter");
    assert_eq!((model.rows.len(), model.mode.clone()), (2, InputMode::Normal));
    assert_eq!(press(&mut model, "q"), Some(UiCommand::Quit));
    press(&mut model, "Esc");
    assert_eq!(model.rows.len(), 5);
}

#[test]
fn slash_searches_in_focused_log() {
    let mut model = model();
    let line = |text: &str| LogItem::Line {
        id: 0,
        name: "api".into(),
        stream: OutputStream::Out,
        at: None,
        line: text.into(),
    };
    model.add_log_lines(["x 1", "y", "x 2"].map(line).into(), 0);
    press(&mut model, "Tab /x Enter");
    assert_eq!(model.log_pane.lines_below, 0);
    press(&mut model, "n");
    assert_eq!(model.log_pane.lines_below, 2);
    press(&mut model, "f2 Enter Esc Esc");
    assert!(model.log_pane.search_pattern().is_none() && model.line_filter.is_empty());
    press(&mut model, "/none Enter");
    assert!(!model.message.unwrap().1);
}

#[test]
fn second_click_on_heading_reverses_order() {
    let mut model = model();
    model.areas.headings = vec![(Rect::new(10, 0, 5, 1), TreeSort::Cpu)];
    let click = |model: &mut Model, column, row| {
        let kind = MouseEventKind::Down(MouseButton::Left);
        let modifiers = KeyModifiers::NONE;
        model.handle_event(&Event::Mouse(MouseEvent { kind, column, row, modifiers }))
    };
    click(&mut model, 11, 0);
    assert_eq!((model.tree_options.sort, model.tree_options.reversed), (TreeSort::Cpu, false));
    click(&mut model, 11, 0);
    assert!(model.tree_options.reversed);
    model.areas.rows = Rect::new(0, 1, 40, 5);
    model.sort_by(TreeSort::Name);
    click(&mut model, 3, 3);
    assert_eq!(model.selected, RowKey::Instance(0));
}
