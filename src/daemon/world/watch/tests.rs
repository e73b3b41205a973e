//! Real directories and events. Each wait is for a report, with a deadline. Each change causes one event, so
//! that a pause of the machine cannot split a burst.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::own_files::OwnFileList;
use super::*;

/// A temporary directory with a watched path, and the reports.
struct Site {
    dir: tempfile::TempDir,
    reports: UnboundedReceiver<PathBuf>,
    watcher: Watcher,
}

impl Site {
    /// Watches `path` in a directory filled by `prepare`.
    fn watch(path: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let spec = WatchSpec {
            paths: vec![dir.path().join(path)],
            ignore: vec!["*.tmp".into()],
            delay: Duration::ZERO,
        };
        let (changed, reports) = unbounded_channel();
        let own = OwnFiles::default();
        own.set(OwnFileList { home: dir.path().join("home"), files: vec![dir.path().join("app/out.log")] });
        let watcher = Watcher::start(&spec, dir.path(), own, changed).unwrap();
        Self { dir, reports, watcher }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn create(&self, name: &str) {
        fs::File::create_new(self.path(name)).unwrap();
    }

    fn append(&self, name: &str) {
        fs::OpenOptions::new().append(true).open(self.path(name)).unwrap().write_all(b"more").unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Waits for the next report.
    fn expect(&mut self, name: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let next = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), self.reports.recv()).await.unwrap()
        });
        assert_eq!(next, Some(self.path(name)));
    }
}

/// Creates an app in `dir`.
fn app(dir: &Path) {
    fs::create_dir_all(dir.join("app/src")).unwrap();
    fs::create_dir_all(dir.join("app/node_modules/lib")).unwrap();
    fs::write(dir.join("app/src/a.js"), "1").unwrap();
}

#[test]
fn reports_changed_created_and_removed_files() {
    let mut site = Site::watch("app", app);
    site.append("app/src/a.js");
    site.expect("app/src/a.js");
    site.create("app/b.js");
    site.expect("app/b.js");
    fs::remove_file(site.path("app/b.js")).unwrap();
    site.expect("app/b.js");
}

#[test]
fn ignores_ignored_and_exempt_files() {
    let mut site = Site::watch("app", app);
    for name in ["app/node_modules/lib/x.js", "app/.swp", "app/src/x.tmp", "app/out.log", "app/out.log.1"] {
        fs::write(site.path(name), "2").unwrap();
    }
    fs::read(site.path("app/src/a.js")).unwrap();
    // A report would name the first changed path.
    site.create("app/src/b.js");
    site.expect("app/src/b.js");
}

#[test]
fn watches_new_directories_and_their_content() {
    let mut site = Site::watch("app", app);
    fs::create_dir_all(site.path("made/deep")).unwrap();
    site.rename("made", "app/new");
    site.expect("app/new");
    site.create("app/new/deep/c.js");
    site.expect("app/new/deep/c.js");
    fs::create_dir(site.path("app/new/deep/er")).unwrap();
    site.expect("app/new/deep/er");
    site.create("app/new/deep/er/d.js");
    site.expect("app/new/deep/er/d.js");
}

#[test]
fn watches_recreated_root() {
    let mut site = Site::watch("app", app);
    site.rename("app", "old");
    site.expect("app");
    fs::create_dir_all(site.path("made/src")).unwrap();
    site.rename("made", "app");
    site.expect("app");
    site.append("old/src/a.js");
    site.create("app/src/b.js");
    site.expect("app/src/b.js");
}

#[test]
fn follows_replaced_link() {
    let mut site = Site::watch("current", |dir| {
        fs::create_dir_all(dir.join("one/src")).unwrap();
        fs::create_dir_all(dir.join("two/src")).unwrap();
        symlink("one", dir.join("current")).unwrap();
    });
    site.create("one/src/a.js");
    site.expect("current/src/a.js");
    symlink("two", site.path("next")).unwrap();
    site.rename("next", "current");
    site.expect("current");
    site.append("one/src/a.js");
    site.create("two/src/b.js");
    site.expect("current/src/b.js");
}

#[test]
fn watches_file_replaced_by_rename() {
    let mut site = Site::watch("app/src/a.js", app);
    for _ in 0..2 {
        site.create("app/src/a.js.new");
        site.rename("app/src/a.js.new", "app/src/a.js");
        site.expect("app/src/a.js");
    }
}

#[test]
fn missing_root_is_watched_once_it_is_created() {
    let mut site = Site::watch("not/yet/there", |_| {});
    fs::create_dir_all(site.path("not/yet/there")).unwrap();
    site.expect("not/yet/there");
    site.create("not/yet/there/a.js");
    site.expect("not/yet/there/a.js");
    fs::remove_dir_all(site.path("not")).unwrap();
    site.expect("not/yet/there/a.js");
    fs::create_dir_all(site.path("made/yet/there")).unwrap();
    site.rename("made", "not");
    site.expect("not/yet/there");
    site.create("not/yet/there/b.js");
    site.expect("not/yet/there/b.js");
}

#[test]
fn missing_file_is_watched_once_it_is_created() {
    let mut site = Site::watch("conf/app.json", |_| {});
    fs::create_dir(site.path("conf")).unwrap();
    site.create("conf/app.json");
    site.expect("conf/app.json");
}

#[test]
fn touch_is_a_change() {
    let mut site = Site::watch("app", app);
    let file = fs::File::open(site.path("app/src/a.js")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    site.expect("app/src/a.js");
}

#[test]
fn drop_ends_the_thread() {
    // The directory is kept: its removal would be a change.
    let Site { dir: _dir, mut reports, watcher } = Site::watch("app", app);
    drop(watcher);
    // The thread drops its sender when it ends, which closes the channel.
    assert_eq!(reports.blocking_recv(), None);
}
