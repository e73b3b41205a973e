//! Screens at several sizes, drawn into memory.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

use super::*;
use crate::cli::monit::model::tests::model;
use crate::cli::monit::model::{Focus, InputMode, PromptKind, Update};
use crate::cli::render::describe::tests::detail;
use crate::cli::render::list::tests::view;
use crate::ipc::message::{
    DaemonInfo, DisplayStatus, HostInfo, InstanceDetail, InstanceView, LogItem, OutputStream, ProcessInfo,
};

const SIZES: [(u16, u16); 5] = [(120, 40), (80, 24), (60, 15), (200, 60), (30, 8)];

fn draw(model: &Model, (width, height): (u16, u16), color: bool) -> (Buffer, ClickAreas) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut areas = ClickAreas::default();
    let theme = Theme { color };
    let frame = terminal.draw(|frame| areas = super::draw(model, &theme, &TimeZone::UTC, frame)).unwrap();
    (frame.buffer.clone(), areas)
}

/// The screen as text; the second column of a wide character holds nothing.
fn text(model: &Model, size: (u16, u16)) -> Vec<String> {
    let (buffer, _) = draw(model, size, true);
    let row = |y| {
        let mut row = String::new();
        let mut skip = 0;
        for x in 0..size.0 {
            let symbol = buffer[(x, y)].symbol();
            if skip == 0 {
                row.push_str(symbol);
                skip = crate::cli::render::style::width(symbol).max(1);
            }
            skip -= 1;
        }
        row
    };
    (0..size.1).map(row).collect()
}

fn line(id: u32, stream: OutputStream, line: &str) -> LogItem {
    LogItem::Line { id, name: "api".into(), stream, at: None, line: line.into() }
}

fn info() -> DaemonInfo {
    let process = ProcessInfo { pid: 1, uptime: 1, memory: 1 };
    let host = HostInfo {
        cores: 4,
        load: [0.5, 0.25, 0.0],
        memory_total: 8 << 30,
        memory_used: 2 << 30,
        disk_total: 100 << 30,
        disk_used: 40 << 30,
    };
    DaemonInfo {
        version: "9.8.7".into(),
        daemon: process.clone(),
        keeper: process,
        paths: Default::default(),
        instances: Default::default(),
        host,
        unsaved: false,
        stalled: Vec::new(),
    }
}

/// With host, logs of both streams, and the app `api` selected.
fn busy() -> Model {
    let mut model = model();
    model.apply_update(Update::Info(Box::new(info())));
    model.select(1);
    model.add_log_lines(
        vec![line(0, OutputStream::Out, "日志 第一行"), line(1, OutputStream::Err, "something failed")],
        0,
    );
    model
}

fn has(screen: &[String], what: &str) -> bool {
    screen.iter().any(|row| row.contains(what))
}

#[test]
fn everything_has_its_place_at_any_size() {
    let model = busy();
    for size in SIZES {
        let screen = text(&model, size);
        let all = screen.join("\n");
        assert!(screen[0].contains("2/3 online"), "{size:?}\n{all}");
        assert!(has(&screen, "1 Logs"), "{size:?}\n{all}");
        assert!(screen[size.1 as usize - 1].contains("quit"), "{size:?}\n{all}");
        if size.1 >= 15 {
            assert!(has(&screen, "网关"), "{size:?}\n{all}");
            assert!(has(&screen, "errored") && has(&screen, "something failed"), "{size:?}\n{all}");
        }
        assert_eq!(
            has(&screen, "memory 51.4 MB") || has(&screen, "memory 102.8 MB"),
            size.1 >= 24,
            "{size:?}\n{all}"
        );
        assert!(screen.iter().all(|row| crate::cli::render::style::width(row) == size.0 as usize), "{all}");
    }
    assert!(text(&model, (40, 5))[0].contains("too small"));
    text(&model, (1, 1));
}

#[test]
fn columns_align_with_wide_names() {
    let model = busy();
    for size in SIZES.into_iter().filter(|size| size.0 >= 60) {
        let screen = text(&model, size);
        let column =
            |row: &str, word: &str| crate::cli::render::style::width(row.split(word).next().unwrap());
        let head_row = screen.iter().position(|row| row.contains("name▾")).unwrap();
        let head = column(&screen[head_row], "status");
        let row = |name: &str| screen.iter().skip(head_row).find(|row| row.contains(name)).unwrap().clone();
        assert_eq!(column(&row("网关"), "errored"), head, "{size:?}");
        assert_eq!(column(&row("0  id 0"), "online"), head, "{size:?}");
    }
}

#[test]
fn host_bar_shows_what_fits() {
    let first = |width| text(&busy(), (width, 24))[0].clone();
    assert!(first(200).contains(
        "load 0.50 0.25 0.00 on 4 cores │ memory 2.0 GB of 8.0 GB, 25% │ disk 40.0 GB of 100.0 GB, 40%"
    ));
    assert!(first(120).contains("load 0.50 0.25 0.00 on 4 cores │ memory 25% │ disk 40%"), "{}", first(120));
    assert!(first(80).contains("load 0.50 mem 25% disk 40%"), "{}", first(80));
    assert!(!first(40).contains("load"));
}

#[test]
fn text_is_the_same_without_colors() {
    let (plain, _) = draw(&busy(), (120, 40), false);
    assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let (colored, _) = draw(&busy(), (120, 40), true);
    assert!(colored.content.iter().any(|cell| cell.fg == Color::Red));
    // Readable on any background: no background color, no white, no black.
    let allowed = [Color::Reset, Color::Red, Color::Green, Color::Blue, Color::Magenta, Color::Cyan];
    assert!(colored.content.iter().all(|cell| allowed.contains(&cell.fg) && cell.bg == Color::Reset));
    let symbols =
        |buffer: &Buffer| buffer.content.iter().map(|cell| cell.symbol().to_owned()).collect::<Vec<_>>();
    assert_eq!(symbols(&plain), symbols(&colored));
}

#[test]
fn selected_row_of_many_is_visible() {
    let mut model = Model::default();
    let instances: Vec<InstanceView> =
        (0..1000).map(|id| view(id, &format!("app-{id:04}"), DisplayStatus::Online)).collect();
    model.apply_update(Update::Listed { instances, sample: true });
    for (place, name) in [(1000, "app-0999"), (500, "app-0499"), (1, "app-0000")] {
        model.select(place);
        let (_, areas) = draw(&model, (80, 24), true);
        model.set_areas(areas);
        let screen = text(&model, (80, 24));
        let row = screen.iter().position(|row| row.contains(name)).unwrap();
        let (buffer, _) = draw(&model, (80, 24), true);
        assert!(buffer[(3, row as u16)].modifier.contains(Modifier::REVERSED), "{name}");
    }
}

#[test]
fn long_lines_are_truncated_scrolled_or_wrapped() {
    let mut model = busy();
    model.log_pane.clear();
    let long = format!("begin{}end", "网".repeat(100));
    model.add_log_lines(vec![line(0, OutputStream::Out, &long)], 0);
    model.full = true;
    let size = (60, 15);
    assert!(has(&text(&model, size), "begin") && !has(&text(&model, size), "end"));
    model.log_pane.scroll_x = 160;
    assert!(!has(&text(&model, size), "begin") && has(&text(&model, size), "end"));
    (model.log_pane.scroll_x, model.log_pane.wrap) = (0, true);
    let screen = text(&model, size);
    assert!(has(&screen, "begin") && has(&screen, "end"), "{screen:#?}");
}

#[test]
fn matches_are_highlighted() {
    let mut model = busy();
    model.log_pane.set_search(crate::cli::monit::log_pane::LinePattern::new("failed"));
    let screen = text(&model, (80, 24));
    let row = screen.iter().position(|row| row.contains("something failed")).unwrap();
    let column = crate::cli::render::style::width(screen[row].split("failed").next().unwrap());
    let (buffer, _) = draw(&model, (80, 24), false);
    assert!(buffer[(column as u16, row as u16)].modifier.contains(Modifier::REVERSED));
    assert!(!buffer[(column as u16 - 2, row as u16)].modifier.contains(Modifier::REVERSED));
}

#[test]
fn draws_confirmation_and_help() {
    let mut model = busy();
    model.on_letter('d');
    for size in SIZES {
        let screen = text(&model, size);
        assert!(has(&screen, "delete api (2 ins") && has(&screen, "y yes"), "{size:?} {screen:#?}");
    }
    let (_, areas) = draw(&model, (80, 24), true);
    assert_eq!(areas.keys.iter().map(|(_, key)| *key).collect::<String>(), "yn");
    model.mode = InputMode::Help;
    let screen = text(&model, (60, 15));
    assert!(has(&screen, "Ctrl-Z") && has(&screen, "Esc back"), "{screen:#?}");
}

#[test]
fn prompt_shows_cursor() {
    let mut model = busy();
    model.mode = InputMode::Prompt { field: PromptKind::Apps, text: "网a".into(), previous: String::new() };
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let theme = Theme { color: true };
    terminal.draw(|frame| drop(super::draw(&model, &theme, &TimeZone::UTC, frame))).unwrap();
    let at = terminal.get_cursor_position().unwrap();
    assert_eq!((at.x, at.y), (" filter apps: ".len() as u16 + 3, 23));
}

#[test]
fn details_scroll_stops_at_end() {
    let mut model = busy();
    model.tab = Tab::Details;
    model.focus = Focus::Pane;
    model.apply_update(Update::Details(vec![detail()]));
    assert!(has(&text(&model, (80, 24)), "api (id 3)"));
    model.details_top = 10_000;
    let (_, areas) = draw(&model, (80, 24), true);
    model.set_areas(areas);
    assert!(model.details_top < 60 && has(&text(&model, (80, 24)), "exit code 1"));
}

#[test]
fn shows_connections_of_each_instance() {
    let mut model = busy();
    let mut details = vec![detail(), detail()];
    for (id, (detail, connections)) in details.iter_mut().zip([12, 3456]).enumerate() {
        (detail.view.id, detail.connections) = (id as u32, Some(connections));
    }
    model.apply_update(Update::Details(details));
    for size in [(120, 40), (80, 24)] {
        let screen = text(&model, size);
        assert!(has(&screen, "connections 3468") && has(&screen, "id   1   3456"), "{size:?} {screen:#?}");
    }
}

#[test]
fn alert_bar_shows_command() {
    let mut model = busy();
    let told = |model: &Model, size| text(model, size)[1].trim_end().to_owned();
    assert!(told(&model, (60, 15)).starts_with(" ▲ 网关 (id 2)"), "{}", told(&model, (60, 15)));
    assert!(told(&model, (60, 15)).ends_with("rsm describe 2; 1 more: rsm list"));
    assert!(
        told(&model, (120, 40)).ends_with("this is another version: rsm upgrade"),
        "{}",
        told(&model, (120, 40))
    );
    let version = crate::version::version().to_owned();
    model.apply_update(Update::Info(Box::new(DaemonInfo { version, unsaved: true, ..info() })));
    model.apply_update(Update::Listed {
        instances: vec![view(0, "api", DisplayStatus::Online)],
        sample: false,
    });
    assert_eq!(told(&model, (80, 24)), " ▲ the list is not saved: rsm save");
    let version = crate::version::version().to_owned();
    model.apply_update(Update::Info(Box::new(DaemonInfo { version, unsaved: false, ..info() })));
    let differs = InstanceView {
        source: Some("/srv/ecosystem.toml".into()),
        drift: Some("changed".into()),
        ..view(0, "api", DisplayStatus::Online)
    };
    model.apply_update(Update::Listed { instances: vec![differs], sample: false });
    assert!(told(&model, (80, 24)).contains("rsm plan /srv/ecosystem.toml"), "{}", told(&model, (80, 24)));
    model.full = true;
    assert!(!has(&text(&model, (80, 24)), "▲"), "not in full screen");
}

#[test]
fn numbers_are_not_truncated() {
    let mut limited = view(0, "api", DisplayStatus::Online);
    limited.memory_limit = Some(800 << 20);
    let mut model = Model::default();
    model.apply_update(Update::Listed { instances: vec![limited], sample: true });
    model.apply_update(Update::Details(vec![InstanceDetail { connections: Some(7), ..detail() }]));
    for width in 60..120 {
        let screen = text(&model, (width, 24));
        let row = screen.iter().find(|row| row.contains("memory 51.4 MB of")).unwrap();
        assert!(row.contains("of 800.0 MB") || row.contains('…'), "{width}: {row}");
    }
}

#[test]
fn hidden_rows_are_counted() {
    let mut model = Model::default();
    let instances = (0..30).map(|id| view(id, &format!("app-{id:02}"), DisplayStatus::Online)).collect();
    model.apply_update(Update::Listed { instances, sample: true });
    assert!(has(&text(&model, (60, 15)), "name▾ ↓26"), "{:#?}", text(&model, (60, 15)));
    model.select(30);
    assert!(has(&text(&model, (60, 15)), "name▾ ↑26"), "{:#?}", text(&model, (60, 15)));
    assert!(!has(&text(&model, (60, 99)), "↓"));
}

#[test]
fn banner_shows_lost_connection() {
    let mut model = busy();
    model.apply_update(Update::Disconnected("the daemon is not responding".into()));
    let screen = text(&model, (80, 24));
    assert!(screen[0].contains("the daemon is not responding"), "{screen:#?}");
    assert!(has(&screen, "api"), "old data is still shown");
    let mut nothing = Model::default();
    assert!(!has(&text(&nothing, (80, 24)), "rsm start"));
    nothing.apply_update(Update::Disconnected("the daemon is not running".into()));
    assert!(has(&text(&nothing, (80, 24)), "rsm start"));
}
