//! Log and pid files in directories of other users, and files of others beside log files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::harness::{Rsm, need_root, read, wait_until};

const NOBODY: u32 = 65534;

/// A directory that belongs to another user, beside a private file of root and a directory of root.
struct Attack {
    rsm: Rsm,
    logs: PathBuf,
    secret: PathBuf,
    private: PathBuf,
}

impl Attack {
    fn new() -> Self {
        need_root();
        let rsm = Rsm::new().file("secret", "private\n");
        rsm.open_to_all();
        let (logs, secret, private) =
            (rsm.dir().join("logs"), rsm.dir().join("secret"), rsm.dir().join("private"));
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        for dir in [&logs, &private] {
            fs::create_dir(dir).unwrap();
        }
        chown(&logs, Some(NOBODY), Some(NOBODY)).unwrap();
        Self { rsm, logs, secret, private }
    }

    /// Starts an app that writes numbers to both of its logs, a line each time a file `go` is written.
    fn start(&self, settings: &str) {
        let file = format!(
            "[[apps]]\nname = 'app'\nuser = 'nobody'\nmerge_logs = true\n\
             script = 'n=0; while :; do n=$((n+1)); echo line $n; echo error $n >&2; sleep 0.05; done'\n\
             out_file = './logs/out.log'\nerror_file = './logs/err.log'\n{settings}\n"
        );
        self.rsm.write("e.toml", &file);
        self.rsm.ok(&["start", "e.toml"]);
    }

    /// Replaces a file of the app in one step.
    fn replace(&self, name: &str, make: impl FnOnce(&Path)) {
        let new = self.logs.join("new");
        make(&new);
        fs::rename(&new, self.logs.join(name)).unwrap();
    }

    fn fallback(&self, name: &str) -> PathBuf {
        self.rsm.home().join("logs").join(name)
    }

    fn assert_nothing_happened(&self) {
        assert_eq!(read(&self.secret), "private\n");
        assert_eq!(fs::read_dir(&self.private).unwrap().count(), 0);
    }
}

fn lines_in(path: &Path) -> impl Fn() -> Option<()> {
    let path = path.to_owned();
    move || fs::read_to_string(&path).is_ok_and(|text| text.lines().count() > 2).then_some(())
}

#[test]
fn links_of_the_apps_user_are_not_followed() {
    let attack = Attack::new();
    attack.start("");
    let out = attack.logs.join("out.log");
    wait_until("lines", lines_in(&out));
    assert_eq!(fs::metadata(&out).unwrap().uid(), NOBODY, "a new file belongs to the app's user");
    attack.replace("out.log", |new| symlink(&attack.secret, new).unwrap());
    attack.replace("err.log", |new| symlink(attack.private.join("planted"), new).unwrap());
    wait_until("lines in the default files", lines_in(&attack.fallback("app-out.log")));
    wait_until("errors in the default files", lines_in(&attack.fallback("app-error.log")));
    let said = read(attack.rsm.home().join("rsm.log"));
    assert!(
        said.contains("out.log is a symbolic link in a directory that other users can write to"),
        "{said}"
    );
    let described = attack.rsm.ok(&["describe", "app"]).stdout;
    assert!(described.contains("symbolic link"), "{described}");
    let shown = attack.rsm.ok(&["logs", "app", "--nostream", "--raw"]).stdout;
    assert!(shown.contains("line ") && !shown.contains("private"), "{shown}");
    attack.rsm.ok(&["reloadLogs"]);
    attack.rsm.ok(&["flush", "app"]);
    attack.rsm.ok(&["restart", "app"]);
    attack.assert_nothing_happened();
    // The link is removed: the file is used again after a restart.
    fs::remove_file(&out).unwrap();
    attack.rsm.ok(&["restart", "app"]);
    wait_until("lines", lines_in(&out));
}

#[test]
fn hard_links_and_foreign_files_are_not_written() {
    let attack = Attack::new();
    fs::hard_link(&attack.secret, attack.logs.join("out.log")).unwrap();
    fs::copy(&attack.secret, attack.logs.join("err.log")).unwrap();
    attack.start("");
    wait_until("lines in the default files", lines_in(&attack.fallback("app-out.log")));
    wait_until("errors in the default files", lines_in(&attack.fallback("app-error.log")));
    attack.rsm.ok(&["flush"]);
    assert_eq!(read(attack.logs.join("err.log")), "private\n");
    attack.assert_nothing_happened();
}

#[test]
fn directory_replaced_by_a_link_is_not_used() {
    let attack = Attack::new();
    let own = attack.rsm.dir().join("theirs");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    symlink(&attack.private, own.join("logs")).unwrap();
    attack.rsm.write(
        "e.toml",
        "[[apps]]\nname = 'app'\nuser = 'nobody'\nscript = 'echo hello; exec sleep 1000'\n\
         out_file = './theirs/logs/deep/out.log'\nerror_file = './theirs/logs/err.log'\n\
         pid_file = './theirs/logs/app.pid'\n",
    );
    attack.rsm.ok(&["start", "e.toml"]);
    wait_until("the line", || read(attack.fallback("app-out.log")).contains("hello").then_some(()));
    attack.rsm.ok(&["stop", "app"]);
    attack.assert_nothing_happened();
}

#[test]
fn compression_reads_no_file_that_was_moved_there() {
    let attack = Attack::new();
    attack.start("logs = { max_size = '1K', interval = 'none', compress = true, retain = 'all' }");
    let rotated = || {
        let names = fs::read_dir(&attack.logs).unwrap().map(|entry| entry.unwrap().path());
        names
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("out__"))
            .collect::<Vec<_>>()
    };
    wait_until("a compressed file", || {
        rotated().iter().any(|path| path.extension().is_some_and(|extension| extension == "gz")).then_some(())
    });
    // Names that a rotation will give, already taken, and partial files planted for them.
    for path in rotated() {
        let name = path.file_name().unwrap().to_str().unwrap().trim_end_matches(".gz").to_owned();
        let _ = symlink(&attack.secret, attack.logs.join(format!(".{name}.gz.part")));
        let _ = fs::remove_file(&path);
        let _ = symlink(&attack.secret, &path);
    }
    let before = rotated().len();
    wait_until("further rotations", || (rotated().len() > before + 3).then_some(()));
    attack.rsm.ok(&["logs", "app", "--nostream", "--lines", "100000"]);
    for path in rotated().iter().filter(|path| !path.is_symlink()) {
        if path.exists() {
            assert_eq!(fs::metadata(path).unwrap().uid(), NOBODY, "{}", path.display());
        }
    }
    attack.assert_nothing_happened();
}

#[test]
fn pid_file_is_not_written_through_a_link() {
    let attack = Attack::new();
    symlink(&attack.secret, attack.logs.join("app-0.pid")).unwrap();
    attack.start("pid_file = './logs/app.pid'");
    wait_until("the warning", || {
        read(attack.rsm.home().join("rsm.log")).contains("cannot write pid file").then_some(())
    });
    attack.rsm.ok(&["delete", "app"]);
    attack.assert_nothing_happened();
    fs::remove_file(attack.logs.join("app-0.pid")).unwrap();
}

#[test]
fn links_between_directories_of_the_same_user_work() {
    let attack = Attack::new();
    let release = attack.logs.join("releases");
    fs::create_dir(&release).unwrap();
    chown(&release, Some(NOBODY), Some(NOBODY)).unwrap();
    symlink("releases", attack.logs.join("current")).unwrap();
    attack.rsm.write(
        "e.toml",
        "[[apps]]\nname = 'app'\nuser = 'nobody'\nscript = 'echo hello; exec sleep 1000'\n\
         out_file = './logs/current/logs/out.log'\n",
    );
    attack.rsm.ok(&["start", "e.toml"]);
    let out = release.join("logs/out.log");
    wait_until("the line", || (fs::read_to_string(&out).ok()? == "hello\n").then_some(()));
    assert_eq!(fs::metadata(release.join("logs")).unwrap().uid(), NOBODY);
}

#[test]
fn standard_output_of_the_daemon_is_no_log_file() {
    let rsm = Rsm::new();
    symlink("/dev/stdout", rsm.dir().join("link.log")).unwrap();
    rsm.write(
        "e.toml",
        "[[apps]]\nname = 'a'\nscript = 'echo to out; echo to err >&2; exec sleep 1000'\n\
         out_file = '/dev/stdout'\nerror_file = '/dev/stderr'\n\
         [[apps]]\nname = 'b'\nscript = 'echo linked; exec sleep 1000'\nout_file = './link.log'\n",
    );
    rsm.ok(&["start", "e.toml"]);
    let log = |name: &str| read(rsm.home().join("logs").join(name));
    for (name, line) in [("a-out.log", "to out\n"), ("a-error.log", "to err\n"), ("b-out.log", "linked\n")] {
        wait_until(name, || (log(name) == line).then_some(()));
    }
    let shown = rsm.ok(&["logs", "--nostream", "--raw"]).stdout;
    assert!(shown.contains("to out") && !shown.contains("INFO"), "{shown}");
    rsm.ok(&["flush"]);
    let daemon_log = read(rsm.home().join("rsm.log"));
    assert!(!daemon_log.is_empty() && !daemon_log.contains("to err"), "{daemon_log}");
    assert_eq!(log("a-out.log"), "");
}

#[test]
fn escape_sequences_of_apps_do_not_reach_the_terminal() {
    let rsm = Rsm::new().file(
        "app.sh",
        "#!/bin/sh\nprintf '\\033[31mred\\033[0m\\033]52;c;aGk=\\007\\033[2Jend\\n'\nexec sleep 1000\n",
    );
    rsm.ok(&["start", "app.sh"]);
    let raw = "\u{1b}[31mred\u{1b}[0m\u{1b}]52;c;aGk=\u{7}\u{1b}[2Jend\n";
    let show = |args: &[&str]| rsm.ok(&[&["logs", "app", "--nostream"], args].concat()).stdout;
    wait_until("the line", || (show(&["--raw"]) == raw).then_some(()));
    assert_eq!(show(&[]), "0|app | \u{1b}[31mred\u{1b}[0mend\n");
    let pairs = show(&["--format"]);
    assert!(pairs.ends_with("message=\u{1b}[31mred\u{1b}[0mend\n"), "{pairs:?}");
}

#[test]
fn rotation_keeps_mode_owner_and_group() {
    need_root();
    let rsm = Rsm::new().file("a.log", "").file(
        "e.toml",
        "[[apps]]\nname = 'a'\nscript = 'while :; do echo a line of some length; sleep 0.01; done'\n\
         out_file = './a.log'\nlogs = { max_size = '1K', interval = 'none', retain = 2 }\n",
    );
    let log = rsm.dir().join("a.log");
    chown(&log, Some(NOBODY), Some(1)).unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o664)).unwrap();
    rsm.ok(&["start", "e.toml"]);
    wait_until("two rotated files", || {
        let names = fs::read_dir(rsm.dir()).unwrap().map(|entry| entry.unwrap().file_name());
        (names.filter(|name| name.to_str().unwrap().starts_with("a__")).count() == 2).then_some(())
    });
    let meta = fs::metadata(&log).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (NOBODY, 1, 0o664));
}

#[test]
fn rotation_leaves_files_of_others_alone() {
    let rsm = Rsm::new().file(
        "e.toml",
        "[[apps]]\nname = 'worker'\nscript = 'echo from worker; exec sleep 1000'\n\
         out_file = './logs/api__worker.log'\n[[apps]]\nname = 'api'\n\
         script = 'while :; do echo a line of some length; sleep 0.01; done'\n\
         out_file = './logs/api.log'\nerror_file = './logs/api__error.log'\n\
         logs = { max_size = '1K', interval = 'none', retain = 1, compress = true, max_age = '1s' }\n",
    );
    let logs = rsm.dir().join("logs");
    let foreign = ["api__notes.log", "api__2020-01-01_00-00-00.log", "api__old.log.gz"];
    for name in foreign {
        let path = rsm.write(&format!("logs/{name}"), "mine");
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(1_000_000);
        fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
    rsm.ok(&["conf", "logs.budget", "1M"]);
    rsm.ok(&["start", "e.toml"]);
    let compressed = || {
        let names =
            fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !foreign.contains(&name.as_str()) && name.ends_with(".gz")).collect::<Vec<_>>()
    };
    let first = wait_until("a compressed file", || compressed().first().cloned());
    wait_until("the removal of the first rotated file", || (!logs.join(&first).exists()).then_some(()));
    for name in foreign {
        assert_eq!(read(logs.join(name)), "mine", "{name}");
    }
    assert_eq!(read(logs.join("api__worker.log")), "from worker\n");
    assert!(logs.join("api__error.log").exists());
    let shown = rsm.ok(&["logs", "api", "--nostream", "--raw", "--lines", "100000"]).stdout;
    assert!(!shown.contains("from worker") && !shown.contains("mine"), "{shown}");
}
