//! The log thread over real pipes: what goes in at one end is in the files at the other.

use std::io::{PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::item::{LogItem, OutputStream};
use super::*;
use crate::spec::{LogFormat, Rotation};

struct Rig {
    dir: tempfile::TempDir,
    thread: LogWorkers,
    runtime: tokio::runtime::Runtime,
    rotation: Arc<Rotation>,
}

/// The app's ends of a run's pipes.
struct App {
    run: u64,
    out: PipeWriter,
    err: PipeWriter,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place =
            LogConfig { logs: dir.path().to_owned(), indexes: dir.path().join("index"), budget: u64::MAX };
        let thread = LogWorkers::start(place, &mut Vec::new(), Box::new(|_, _| {})).unwrap();
        Self {
            dir,
            thread,
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            rotation: Arc::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn files(&self, out: &str, err: &str) -> LogFiles {
        LogFiles { out: Some(self.path(out)), err: Some(self.path(err)), combined: None }
    }

    fn app(&self, run: u64, files: LogFiles, format: LogFormat, date_format: Option<&str>) -> App {
        let (out_reader, out) = std::io::pipe().unwrap();
        let (err_reader, err) = std::io::pipe().unwrap();
        for reader in [&out_reader, &err_reader] {
            nix::fcntl::fcntl(reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        }
        self.thread.handle().attach(RunOutput {
            id: u32::try_from(run).unwrap(),
            name: format!("app{run}"),
            run,
            out: out_reader.into(),
            err: err_reader.into(),
            files,
            format,
            date_format: date_format.map(str::to_owned),
            rotation: Arc::clone(&self.rotation),
        });
        App { run, out, err }
    }

    fn raw(&self, run: u64, files: LogFiles) -> App {
        self.app(run, files, LogFormat::Raw, None)
    }

    /// Ends an app and waits until all of its output is written.
    fn finish(&self, app: App) {
        let App { run, .. } = app;
        drop((app.out, app.err));
        self.closed(run);
    }

    fn closed(&self, run: u64) {
        let logs = self.thread.handle();
        self.runtime.block_on(logs.wait_closed(run));
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }
}

/// Writes numbered lines in pieces that end anywhere.
fn write_numbered(mut pipe: PipeWriter, tag: &str, count: usize, piece: usize) {
    let text: String = (0..count).map(|number| format!("{tag} {number}\n")).collect();
    for piece in text.as_bytes().chunks(piece) {
        pipe.write_all(piece).unwrap();
    }
}

fn numbered(tag: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{tag} {number}")).collect()
}

#[test]
fn a_hundred_thousand_lines_of_many_apps_arrive_once_and_in_order() {
    let rig = Rig::new();
    std::thread::scope(|scope| {
        for run in 1..=5_u64 {
            let files = rig.files(&format!("{run}-out"), &format!("{run}-err"));
            let stamp = (run % 2 == 0).then_some("[at] YYYY");
            let app = rig.app(run, files, LogFormat::Raw, stamp);
            let pieces = [7 * run as usize, 4099 * run as usize];
            scope.spawn(move || write_numbered(app.out, "out", 10_000, pieces[0]));
            scope.spawn(move || write_numbered(app.err, "err", 10_000, pieces[1]));
        }
    });
    for run in 1..=5 {
        rig.closed(run);
        for tag in ["out", "err"] {
            let text = rig.text(&format!("{run}-{tag}"));
            let lines = text.lines().map(|line| match line.split_once(": ") {
                Some((stamp, line)) if run % 2 == 0 => {
                    assert!(stamp.starts_with("at 2"), "{stamp}");
                    line.to_owned()
                }
                _ => line.to_owned(),
            });
            assert!(lines.eq(numbered(tag, 10_000)), "run {run} {tag}");
        }
    }
}

#[test]
fn streams_in_one_file_are_never_torn() {
    let rig = Rig::new();
    std::thread::scope(|scope| {
        for run in 1..=2 {
            let files = LogFiles { combined: Some(rig.path("all")), ..rig.files("both", "both") };
            let app = rig.raw(run, files);
            scope.spawn(move || write_numbered(app.out, &format!("out{run}"), 5_000, 13));
            scope.spawn(move || write_numbered(app.err, &format!("err{run}"), 5_000, 1001));
        }
    });
    rig.closed(1);
    rig.closed(2);
    for file in ["both", "all"] {
        let text = rig.text(file);
        for tag in ["out1", "err1", "out2", "err2"] {
            let lines = text.lines().filter(|line| line.starts_with(tag)).map(str::to_owned);
            assert!(lines.eq(numbered(tag, 5_000)), "{tag} in {file}");
        }
        assert_eq!(text.lines().count(), 20_000);
    }
}

#[test]
fn long_json_lines_are_cut_and_marked() {
    let rig = Rig::new();
    let mut app = rig.app(1, rig.files("out", "err"), LogFormat::Json, None);
    let long = "é".repeat(300_000);
    write!(app.out, "{long}\nshort\nunfinished").unwrap();
    app.err.write_all(b"\xff\x00\n").unwrap();
    rig.finish(app);
    let objects: Vec<serde_json::Value> =
        rig.text("out").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (parts, others): (Vec<_>, Vec<_>) =
        objects.iter().map(|object| object["message"].as_str().unwrap()).partition(|text| text.contains('é'));
    assert_eq!(parts.concat(), long);
    assert_eq!(others, ["short", "unfinished"]);
    let marked = objects.iter().filter(|object| object["continued"] == true).count();
    assert_eq!(marked, parts.len() - 1);
    let error: serde_json::Value = serde_json::from_str(&rig.text("err")).unwrap();
    assert_eq!((&error["message"], &error["type"]), (&"\u{FFFD}\0".into(), &"err".into()));
}

#[test]
fn the_last_words_of_a_crash_are_kept() {
    let rig = Rig::new();
    for (run, stamp, expected) in [(1, None, "panic: no newl"), (2, Some("[t]"), "t: panic: no newl\n")] {
        let name = format!("{run}");
        let mut app = rig.app(run, rig.files(&name, "err"), LogFormat::Raw, stamp);
        app.out.write_all(b"panic: no newl").unwrap();
        rig.finish(app);
        assert_eq!(rig.text(&name), expected);
    }
}

#[test]
fn ending_the_thread_writes_what_the_pipes_hold() {
    let rig = Rig::new();
    let mut app = rig.app(1, rig.files("out", "err"), LogFormat::Raw, Some("[t]"));
    app.out.write_all(b"one\ntwo").unwrap();
    let Rig { dir, thread, .. } = rig;
    drop(thread);
    assert_eq!(std::fs::read_to_string(dir.path().join("out")).unwrap(), "t: one\nt: two");
}

#[test]
fn an_app_whose_file_takes_nothing_waits_alone_and_loses_nothing() {
    let rig = Rig::new();
    let fifo = rig.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A named pipe without a reader refuses to be opened, as a full disk refuses bytes.
    let blocked = rig.raw(1, rig.files("fifo", "err1"));
    let writer = std::thread::spawn(move || write_numbered(blocked.out, "out", 50_000, 8192));
    let free = rig.raw(2, rig.files("out2", "err2"));
    write_numbered(free.out, "free", 10_000, 8192);
    drop(free.err);
    rig.closed(2);
    assert_eq!(rig.text("out2").lines().count(), 10_000);
    drop(blocked.err);
    let text = std::fs::read_to_string(&fifo).unwrap();
    writer.join().unwrap();
    assert!(text.lines().eq(numbered("out", 50_000)));
}

#[test]
fn files_are_emptied_and_reopened_on_demand() {
    let rig = Rig::new();
    let logs = rig.thread.handle();
    let mut app = rig.raw(1, rig.files("out", "err"));
    let mut say = |text: &str, file: &str| {
        writeln!(app.out, "{text}").unwrap();
        let (path, news) = (rig.path(file), logs.notify_handle());
        rig.runtime.block_on(async {
            loop {
                let more = news.changed();
                if std::fs::read_to_string(&path).is_ok_and(|have| have.ends_with(&format!("{text}\n"))) {
                    break;
                }
                more.await;
            }
        });
    };
    say("one", "out");
    assert!(rig.runtime.block_on(logs.flush(vec![rig.path("out"), rig.path("none")])).is_empty());
    assert_eq!(rig.text("out"), "");
    say("two", "out");
    std::fs::rename(rig.path("out"), rig.path("moved")).unwrap();
    assert!(rig.runtime.block_on(logs.reopen()).is_empty());
    say("three", "out");
    rig.finish(app);
    assert_eq!((rig.text("moved").as_str(), rig.text("out").as_str()), ("two\n", "three\n"));
}

#[test]
fn a_follower_gets_the_lines_it_asked_for() {
    let rig = Rig::new();
    let which = FollowTarget::Selected { ids: Default::default(), names: ["app2".to_owned()].into() };
    let mut follower = rig.thread.handle().follow(FollowFilter { target: which, out: false, err: true });
    for run in 1..=2 {
        let mut app = rig.raw(run, LogFiles::default());
        app.out.write_all(b"out\n").unwrap();
        app.err.write_all(b"e\xffr\nrest").unwrap();
        rig.finish(app);
    }
    drop(rig.thread);
    let mut got = Vec::new();
    while let Some(LogItem::Line { id, name, stream, line, .. }) = rig.runtime.block_on(follower.next()) {
        got.push((id, name, stream, line));
    }
    let line = |text: &str| (2, "app2".to_owned(), OutputStream::Err, text.to_owned());
    assert_eq!(got, [line("e\u{FFFD}r"), line("rest")]);
}

#[test]
fn a_slow_follower_of_an_unkept_stream_is_told_what_it_missed() {
    let rig = Rig::new();
    let mut follower =
        rig.thread.handle().follow(FollowFilter { target: FollowTarget::All, out: true, err: true });
    let app = rig.raw(1, LogFiles::default());
    write_numbered(app.out, "out", 50_000, 60_000);
    drop(app.err);
    rig.closed(1);
    let (mut lines, mut missed) = (0, 0);
    while let Some(item) = follower.try_next() {
        match item {
            LogItem::Line { .. } => lines += 1,
            LogItem::Missed { lines } => missed += lines,
            LogItem::Positions { .. } => {}
        }
    }
    assert!(lines > 0 && missed > 0);
    assert_eq!(lines + missed, 50_000);
}

#[test]
fn a_run_that_never_was_is_closed() {
    Rig::new().closed(99);
}

#[test]
fn what_is_no_pipe_is_refused_and_harms_nobody() {
    let rig = Rig::new();
    let null = || std::fs::File::open(Path::new("/dev/null")).unwrap().into();
    rig.thread.handle().attach(RunOutput {
        id: 1,
        name: "odd".into(),
        run: 1,
        out: null(),
        err: null(),
        files: LogFiles::default(),
        format: LogFormat::Raw,
        date_format: None,
        rotation: Arc::default(),
    });
    rig.closed(1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn raw_output_is_what_was_written(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 0..20),
    ) {
        let rig = Rig::new();
        let files = LogFiles { combined: Some(rig.path("all")), ..rig.files("out", "err") };
        let mut app = rig.raw(1, files);
        for piece in &pieces {
            app.out.write_all(piece).unwrap();
        }
        rig.finish(app);
        prop_assert_eq!(rig.read("out"), pieces.concat());
        prop_assert_eq!(rig.read("all"), pieces.concat());
    }
}
