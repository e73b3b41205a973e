//! Tests of the log workers with real pipes and files.

use std::io::{PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use crate::logs::item::{LogItem, OutputStream};
use crate::logs::*;
use crate::secure_fs::FileUser;
use crate::spec::{LogFormat, Rotation};

struct Fixture {
    dir: tempfile::TempDir,
    workers: LogWorkers,
    runtime: tokio::runtime::Runtime,
    rotation: Arc<Rotation>,
}

/// Write ends of the pipes of a run.
struct App {
    run: u64,
    out: PipeWriter,
    err: PipeWriter,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config =
            LogConfig { logs: dir.path().to_owned(), indexes: dir.path().join("index"), budget: u64::MAX };
        let workers = LogWorkers::start(config, &mut Vec::new(), Box::new(|_, _| {})).unwrap();
        Self {
            dir,
            workers,
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            rotation: Arc::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn files(&self, out: &str, err: &str) -> LogFiles {
        LogFiles { out: Some(self.path(out)), err: Some(self.path(err)), combined: None, mirror: None }
    }

    fn app(&self, run: u64, files: LogFiles, format: LogFormat, date_format: Option<&str>) -> App {
        let (out_reader, out) = std::io::pipe().unwrap();
        let (err_reader, err) = std::io::pipe().unwrap();
        for reader in [&out_reader, &err_reader] {
            nix::fcntl::fcntl(reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        }
        self.workers.handle().attach(RunOutput {
            id: u32::try_from(run).unwrap(),
            name: format!("app{run}"),
            run,
            out: Arc::new(out_reader.into()),
            err: Arc::new(err_reader.into()),
            files,
            fallback: LogFiles::default(),
            user: FileUser::own(),
            format,
            date_format: date_format.map(str::to_owned),
            rotation: Arc::clone(&self.rotation),
        });
        App { run, out, err }
    }

    fn raw(&self, run: u64, files: LogFiles) -> App {
        self.app(run, files, LogFormat::Raw, None)
    }

    /// Closes the pipes and waits until all output is written.
    fn finish(&self, app: App) {
        let App { run, .. } = app;
        drop((app.out, app.err));
        self.wait_closed(run);
    }

    fn wait_closed(&self, run: u64) {
        let logs = self.workers.handle();
        self.runtime.block_on(logs.wait_closed(run));
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }
}

/// Writes numbered lines in chunks that do not end with lines.
fn write_numbered(mut pipe: PipeWriter, tag: &str, count: usize, chunk_size: usize) {
    let text: String = (0..count).map(|number| format!("{tag} {number}\n")).collect();
    for chunk in text.as_bytes().chunks(chunk_size) {
        pipe.write_all(chunk).unwrap();
    }
}

fn numbered(tag: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{tag} {number}")).collect()
}

#[test]
fn lines_of_many_apps_are_written_once_and_in_order() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for run in 1..=5_u64 {
            let files = fixture.files(&format!("{run}-out"), &format!("{run}-err"));
            let date_format = (run % 2 == 0).then_some("[at] YYYY");
            let app = fixture.app(run, files, LogFormat::Raw, date_format);
            let chunk_sizes = [7 * run as usize, 4099 * run as usize];
            scope.spawn(move || write_numbered(app.out, "out", 10_000, chunk_sizes[0]));
            scope.spawn(move || write_numbered(app.err, "err", 10_000, chunk_sizes[1]));
        }
    });
    for run in 1..=5 {
        fixture.wait_closed(run);
        for tag in ["out", "err"] {
            let text = fixture.text(&format!("{run}-{tag}"));
            let lines = text.lines().map(|line| match line.split_once(": ") {
                Some((timestamp, line)) if run % 2 == 0 => {
                    assert!(timestamp.starts_with("at 2"), "{timestamp}");
                    line.to_owned()
                }
                _ => line.to_owned(),
            });
            assert!(lines.eq(numbered(tag, 10_000)), "run {run} {tag}");
        }
    }
}

#[test]
fn streams_in_one_file_keep_lines_whole() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for run in 1..=2 {
            let files = LogFiles { combined: Some(fixture.path("all")), ..fixture.files("both", "both") };
            let app = fixture.raw(run, files);
            scope.spawn(move || write_numbered(app.out, &format!("out{run}"), 5_000, 13));
            scope.spawn(move || write_numbered(app.err, &format!("err{run}"), 5_000, 1001));
        }
    });
    fixture.wait_closed(1);
    fixture.wait_closed(2);
    for file in ["both", "all"] {
        let text = fixture.text(file);
        for tag in ["out1", "err1", "out2", "err2"] {
            let lines = text.lines().filter(|line| line.starts_with(tag)).map(str::to_owned);
            assert!(lines.eq(numbered(tag, 5_000)), "{tag} in {file}");
        }
        assert_eq!(text.lines().count(), 20_000);
    }
}

#[test]
fn long_json_lines_are_split_and_marked() {
    let fixture = Fixture::new();
    let mut app = fixture.app(1, fixture.files("out", "err"), LogFormat::Json, None);
    let long = "é".repeat(300_000);
    write!(app.out, "{long}\nshort\nunfinished").unwrap();
    app.err.write_all(b"\xff\x00\n").unwrap();
    fixture.finish(app);
    let objects: Vec<serde_json::Value> =
        fixture.text("out").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (parts, others): (Vec<_>, Vec<_>) =
        objects.iter().map(|object| object["message"].as_str().unwrap()).partition(|text| text.contains('é'));
    assert_eq!(parts.concat(), long);
    assert_eq!(others, ["short", "unfinished"]);
    let marked = objects.iter().filter(|object| object["continued"] == true).count();
    assert_eq!(marked, parts.len() - 1);
    let error: serde_json::Value = serde_json::from_str(&fixture.text("err")).unwrap();
    assert_eq!((&error["message"], &error["type"]), (&"\u{FFFD}\0".into(), &"err".into()));
}

#[test]
fn partial_last_line_is_written() {
    let fixture = Fixture::new();
    for (run, date_format, expected) in [(1, None, "panic: no newl"), (2, Some("[t]"), "t: panic: no newl\n")]
    {
        let name = format!("{run}");
        let mut app = fixture.app(run, fixture.files(&name, "err"), LogFormat::Raw, date_format);
        app.out.write_all(b"panic: no newl").unwrap();
        fixture.finish(app);
        assert_eq!(fixture.text(&name), expected);
    }
}

#[test]
fn shutdown_writes_content_of_pipes() {
    let fixture = Fixture::new();
    let mut app = fixture.app(1, fixture.files("out", "err"), LogFormat::Raw, Some("[t]"));
    app.out.write_all(b"one\ntwo").unwrap();
    let Fixture { dir, workers, .. } = fixture;
    drop(workers);
    assert_eq!(std::fs::read_to_string(dir.path().join("out")).unwrap(), "t: one\nt: two");
}

#[test]
fn blocked_file_delays_only_its_app() {
    let fixture = Fixture::new();
    let fifo = fixture.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Opening a named pipe without a reader fails, as a write to a full disk does.
    let blocked = fixture.raw(1, fixture.files("fifo", "err1"));
    let writer = std::thread::spawn(move || write_numbered(blocked.out, "out", 50_000, 8192));
    let free = fixture.raw(2, fixture.files("out2", "err2"));
    write_numbered(free.out, "free", 10_000, 8192);
    drop(free.err);
    fixture.wait_closed(2);
    assert_eq!(fixture.text("out2").lines().count(), 10_000);
    drop(blocked.err);
    let text = std::fs::read_to_string(&fifo).unwrap();
    writer.join().unwrap();
    assert!(text.lines().eq(numbered("out", 50_000)));
}

#[test]
fn files_are_truncated_and_reopened() {
    let fixture = Fixture::new();
    let logs = fixture.workers.handle();
    let mut app = fixture.raw(1, fixture.files("out", "err"));
    let mut write = |text: &str, file: &str| {
        writeln!(app.out, "{text}").unwrap();
        let (path, notify) = (fixture.path(file), logs.notify_handle());
        fixture.runtime.block_on(async {
            loop {
                let changed = notify.changed();
                if std::fs::read_to_string(&path).is_ok_and(|content| content.ends_with(&format!("{text}\n")))
                {
                    break;
                }
                changed.await;
            }
        });
    };
    write("one", "out");
    assert!(
        fixture
            .runtime
            .block_on(logs.flush(["out", "none"].map(|name| (fixture.path(name), FileUser::own())).into()))
            .is_empty()
    );
    assert_eq!(fixture.text("out"), "");
    write("two", "out");
    std::fs::rename(fixture.path("out"), fixture.path("moved")).unwrap();
    assert!(fixture.runtime.block_on(logs.reopen()).is_empty());
    write("three", "out");
    fixture.finish(app);
    assert_eq!((fixture.text("moved").as_str(), fixture.text("out").as_str()), ("two\n", "three\n"));
}

#[test]
fn follower_gets_lines_of_filter() {
    let fixture = Fixture::new();
    let target = FollowTarget::Selected { ids: Default::default(), names: ["app2".to_owned()].into() };
    let mut follower = fixture.workers.handle().follow(FollowFilter { target, out: false, err: true });
    for run in 1..=2 {
        let mut app = fixture.raw(run, LogFiles::default());
        app.out.write_all(b"out\n").unwrap();
        app.err.write_all(b"e\xffr\nrest").unwrap();
        fixture.finish(app);
    }
    drop(fixture.workers);
    let mut received = Vec::new();
    while let Some(LogItem::Line { id, name, stream, line, .. }) = fixture.runtime.block_on(follower.next()) {
        received.push((id, name, stream, line));
    }
    let line = |text: &str| (2, "app2".to_owned(), OutputStream::Err, text.to_owned());
    assert_eq!(received, [line("e\u{FFFD}r"), line("rest")]);
}

#[test]
fn slow_follower_gets_number_of_missed_lines() {
    let fixture = Fixture::new();
    let mut follower =
        fixture.workers.handle().follow(FollowFilter { target: FollowTarget::All, out: true, err: true });
    let app = fixture.raw(1, LogFiles::default());
    write_numbered(app.out, "out", 50_000, 60_000);
    drop(app.err);
    fixture.wait_closed(1);
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
fn unknown_run_is_closed() {
    Fixture::new().wait_closed(99);
}

#[test]
fn attach_ignores_fds_that_are_not_pipes() {
    let fixture = Fixture::new();
    let null = || Arc::new(std::fs::File::open(Path::new("/dev/null")).unwrap().into());
    fixture.workers.handle().attach(RunOutput {
        id: 1,
        name: "odd".into(),
        run: 1,
        out: null(),
        err: null(),
        files: LogFiles::default(),
        fallback: LogFiles::default(),
        user: FileUser::own(),
        format: LogFormat::Raw,
        date_format: None,
        rotation: Arc::default(),
    });
    fixture.wait_closed(1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn raw_output_is_copied_unchanged(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 0..20),
    ) {
        let fixture = Fixture::new();
        let files = LogFiles { combined: Some(fixture.path("all")), ..fixture.files("out", "err") };
        let mut app = fixture.raw(1, files);
        for chunk in &chunks {
            app.out.write_all(chunk).unwrap();
        }
        fixture.finish(app);
        prop_assert_eq!(fixture.read("out"), chunks.concat());
        prop_assert_eq!(fixture.read("all"), chunks.concat());
    }
}
