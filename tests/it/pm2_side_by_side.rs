//! The same scripts, files and commands given to PM2 and to rsm: what scripts depend on comes out
//! the same. Differences that are intended are listed in docs/from-pm2.md and written out here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::harness::{Rsm, wait_until};
use serde_json::Value;

/// PM2, installed once and kept for later runs.
fn pm2() -> &'static Path {
    static PM2: OnceLock<PathBuf> = OnceLock::new();
    PM2.get_or_init(|| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pm2");
        if !kept.join("node_modules/.bin/pm2").exists() {
            let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let npm = ["install", "--no-audit", "--no-fund", "--no-save", "pm2@7"];
            let npm = Command::new("npm").args(npm).current_dir(new.path()).output().unwrap();
            assert!(npm.status.success(), "npm install: {}", String::from_utf8_lossy(&npm.stderr));
            // Another run may have been faster; either is as good.
            let _ = fs::rename(new.path(), &kept);
        }
        kept.join("node_modules/.bin/pm2")
    })
}

/// Both, in directories of their own with the same files in them.
struct Both {
    rsm: Rsm,
    home: tempfile::TempDir,
}

/// What scripts read of an instance: name, status, restarts, mode, namespace.
type Row = (String, String, u64, String, String);

impl Both {
    fn new(files: &[(&str, &str)]) -> Self {
        let (rsm, home) = (Rsm::new(), tempfile::tempdir().unwrap());
        for (name, text) in files {
            rsm.write(name, text);
            let path = home.path().join("app").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self { rsm, home }
    }

    fn pm2(&self, args: &[&str]) -> Command {
        let mut command = Command::new(pm2());
        command.args(args).current_dir(self.home.path().join("app")).stdin(Stdio::null());
        command.env("PM2_HOME", self.home.path().join("home")).env("HOME", self.home.path());
        command
            .env("PM2_DISABLE_VERSION_CHECK", "true")
            .env("PM2_NO_INTERACTION", "true")
            .env_remove("RSM_HOME");
        command
    }

    /// Gives both the command; the code they both end with.
    fn run(&self, args: &[&str]) -> i32 {
        let [rsm, pm2] = self.codes(args);
        assert_eq!(rsm, pm2, "{args:?}: rsm ends with {rsm}, PM2 with {pm2}");
        rsm
    }

    fn codes(&self, args: &[&str]) -> [i32; 2] {
        let rsm = self.rsm.command(args).output().unwrap();
        let pm2 = self.pm2(args).output().unwrap();
        [rsm, pm2].map(|output| output.status.code().unwrap())
    }

    /// Both lists.
    fn lists(&self) -> [Vec<Row>; 2] {
        let rsm = self.rsm.ok(&["jlist"]).stdout;
        let pm2 = String::from_utf8(self.pm2(&["jlist"]).output().unwrap().stdout).unwrap();
        [rsm, pm2].map(|text| rows(&text))
    }

    /// The list, which is the same in both.
    fn list(&self) -> Vec<Row> {
        let [rsm, pm2] = self.lists();
        assert_eq!(rsm, pm2, "rsm on the left, PM2 on the right");
        rsm
    }

    /// The names of both's log files.
    fn log_files(&self) -> [Vec<String>; 2] {
        [self.rsm.home().join("logs"), self.home.path().join("home/logs")].map(|folder| {
            let entries = fs::read_dir(folder).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.retain(|name| name.ends_with(".log"));
            names.sort();
            names
        })
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        let _ = self.pm2(&["kill"]).output();
    }
}

/// The array is PM2's last line: it tells other things before.
fn rows(jlist: &str) -> Vec<Row> {
    let array: Vec<Value> = serde_json::from_str(jlist.trim().lines().last().unwrap_or("[]")).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |app: &Value| {
        let env = &app["pm2_env"];
        let restarts = env["restart_time"].as_u64().unwrap();
        (text(&app["name"]), text(&env["status"]), restarts, text(&env["exec_mode"]), text(&env["namespace"]))
    };
    let mut rows: Vec<Row> = array.iter().map(row).collect();
    rows.sort();
    rows
}

fn names(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.0.as_str()).collect()
}

const FILE: &str = "module.exports = { apps: [
  { name: 'api', script: './server.js', instances: 2, exec_mode: 'fork', namespace: 'web', env: { MODE: 'plain' },
    env_production: { MODE: 'production' } },
  { name: 'worker', script: './worker.sh', args: 'one two', max_memory_restart: '300M', autorestart: true },
  { name: 'later', script: './server.js', autostart: false, min_uptime: '5s', maxRestarts: 3 },
] }";

const FILES: [(&str, &str); 4] = [
    ("ecosystem.config.js", FILE),
    ("server.js", "console.log(process.env.MODE); setInterval(() => {}, 1000)"),
    ("worker.sh", "echo $*; while :; do sleep 1; done"),
    ("broken.config.js", "module.exports = { apps: [ }"),
];

#[test]
fn lifecycle_commands_match_pm2() {
    let both = Both::new(&FILES);
    both.rsm.ok(&["conf", "autosave", "false"]); // as in PM2
    assert_eq!(both.run(&["start", "ecosystem.config.js"]), 0);
    assert_eq!(names(&both.list()), ["api", "api", "later", "worker"]);
    assert_eq!(both.run(&["restart", "api"]), 0);
    assert_eq!(both.list().iter().map(|row| row.2).sum::<u64>(), 2, "each instance was restarted once");
    assert_eq!(both.run(&["stop", "worker"]), 0);
    assert_eq!(both.run(&["stop", "worker"]), 0);
    assert_eq!(both.list()[3].1, "stopped");
    assert_eq!(both.run(&["restart", "worker"]), 0);
    assert_eq!(both.list()[3].2, 0, "a start of what was stopped is no restart");
    assert_eq!(both.run(&["scale", "api", "3"]), 0);
    assert_eq!(both.list().len(), 5);
    assert_eq!(both.run(&["reset", "all"]), 0);
    assert_eq!(both.list().iter().map(|row| row.2).sum::<u64>(), 0);
    assert_eq!(both.run(&["stop", "web"]), 0, "a namespace");
    assert_eq!(both.run(&["start", "api"]), 0);
    assert_eq!(both.run(&["restart", "/^wor/"]), 0);
    assert_eq!(both.run(&["delete", "later", "worker"]), 0);
    assert_eq!(names(&both.list()), ["api"; 3]);
    assert_eq!(both.run(&["save"]), 0);
    assert_eq!(both.run(&["delete", "all"]), 0);
    assert!(both.list().is_empty());
    assert_eq!(both.run(&["resurrect"]), 0);
    assert_eq!(names(&both.list()), ["api"; 3]);
}

/// Fields of PM2's that are not here, as docs/from-pm2.md says.
const LEFT_OUT: [&str; 9] = [
    // The worker was stopped by a signal.
    "exit_code",
    "unique_id",
    "node_version",
    "versioning",
    "_tree_pids",
    "kill_retry_time",
    "PM2_HOME",
    "PM2_USAGE",
    "PM2_JSON_PROCESSING",
];

/// Fields whose values are the same.
const SAME: [&str; 12] = [
    "name",
    "namespace",
    "status",
    "restart_time",
    "exec_mode",
    "instances",
    "autostart",
    "autorestart",
    "max_memory_restart",
    "min_uptime",
    "max_restarts",
    "NODE_APP_INSTANCE",
];

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "switch",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "table",
    }
}

#[test]
fn jlist_matches_pm2() {
    let both = Both::new(&FILES);
    both.run(&["start", "ecosystem.config.js"]);
    both.run(&["stop", "worker"]);
    let rsm: Value = both.rsm.json(&["jlist"]);
    let text = String::from_utf8(both.pm2(&["jlist"]).output().unwrap().stdout).unwrap();
    let pm2: Value = serde_json::from_str(text.trim().lines().last().unwrap()).unwrap();
    for theirs in pm2.as_array().unwrap() {
        // Ids follow the order in which PM2 happens to be done.
        let number = |app: &Value| app["pm2_env"]["NODE_APP_INSTANCE"].clone();
        let same = |ours: &&Value| ours["name"] == theirs["name"] && number(ours) == number(theirs);
        let ours = rsm.as_array().unwrap().iter().find(same).unwrap();
        let about = format!("{} ({})", theirs["name"], theirs["pm_id"]);
        for field in ["pid", "name", "pm_id", "monit"] {
            // PM2 has no pid of what never ran.
            if theirs[field].is_null() {
                continue;
            }
            assert_eq!(kind(&ours[field]), kind(&theirs[field]), "{about}: {field}");
        }
        for field in ["memory", "cpu"] {
            assert_eq!(kind(&ours["monit"][field]), "number", "{about}: {field}");
        }
        let (ours, theirs) = (&ours["pm2_env"], theirs["pm2_env"].as_object().unwrap());
        let variables = theirs["env"].as_object().unwrap();
        let fields = theirs.iter().filter(|(field, value)| {
            let elsewhere = variables.contains_key(*field) || field.starts_with("env_");
            !elsewhere && !LEFT_OUT.contains(&field.as_str()) && !value.is_null()
        });
        for (field, value) in fields {
            assert_eq!(kind(&ours[field]), kind(value), "{about}: {field}: {} and {value}", ours[field]);
        }
        for field in SAME.iter().filter(|field| theirs.contains_key(**field)) {
            assert_eq!(ours[*field], theirs[*field], "{about}: {field}");
        }
        for field in ["pm_exec_path", "pm_out_log_path", "pm_err_log_path", "pm_pid_path"] {
            // What has no merged logs has its id in their names.
            let bare = |env: &Value| {
                let file = env[field].as_str().unwrap().rsplit('/').next().unwrap();
                file.replace(&format!("-{}.", env["pm_id"]), ".")
            };
            assert_eq!(bare(ours), bare(&Value::Object(theirs.clone())), "{about}: {field}");
        }
    }
}

#[test]
fn failures_match_pm2() {
    let both = Both::new(&FILES);
    let failing: [&[&str]; 9] = [
        &["start", "missing.js"],
        &["start", "missing.config.js"],
        &["start", "broken.config.js"],
        &["stop", "nobody"],
        &["restart", "99"],
        &["delete", "nobody"],
        &["describe", "nobody"],
        &["start", "server.js", "--max-memory-restart", "much"],
        &["start", "server.js", "--interpreter", "no-such-program"],
    ];
    for args in failing {
        assert_eq!(both.run(args), 1, "{args:?}");
    }
    assert!(both.list().is_empty());
    // Intended: wrong usage is told apart, and so is a daemon that is not there.
    assert_eq!(both.codes(&["frobnicate"]), [2, 1]);
    assert_eq!(both.codes(&["pid", "nobody"]), [1, 0]);
    assert_eq!(both.codes(&["flush", "nobody"]), [1, 0]);
}

#[test]
fn scripts_and_log_files_match_pm2() {
    let both = Both::new(&FILES);
    assert_eq!(both.run(&["start", "server.js"]), 0);
    assert_eq!(both.run(&["start", "server.js", "--name", "two_words", "-i", "2", "-x"]), 0);
    assert_eq!(both.run(&["start", "worker.sh", "--name", "w", "--", "a b"]), 0);
    assert_eq!(both.run(&["start", "sleep 1000"]), 0);
    assert_eq!(names(&both.list()), ["server", "sleep 1000", "two_words", "two_words", "w"]);
    assert_eq!(both.run(&["start", "server.js"]), 1, "it runs already");
    assert_eq!(both.run(&["start", "server.js", "-f"]), 0);
    assert_eq!(both.list().len(), 6);
    let [rsm, pm2] = both.log_files();
    assert_eq!(rsm, pm2);
}

#[test]
fn only_and_env_match_pm2() {
    let both = Both::new(&FILES);
    assert_eq!(both.run(&["start", "ecosystem.config.js", "--only", "api,later", "--env", "production"]), 0);
    assert_eq!(names(&both.list()), ["api", "api", "later"]);
    let mode = |command: Command| {
        let mut command = command;
        let env = String::from_utf8(command.output().unwrap().stdout).unwrap();
        // PM2 paints values even for a pipe.
        let plain = env.replace("\u{1b}[32m", "").replace("\u{1b}[39m", "");
        plain.lines().filter_map(|line| line.strip_prefix("MODE: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(mode(both.rsm.command(&["env", "0"])), mode(both.pm2(&["env", "0"])));
    assert_eq!(both.run(&["delete", "ecosystem.config.js"]), 0);
}

#[test]
fn crash_loop_matches_pm2() {
    let both = Both::new(&[("crash.sh", "exit 1")]);
    // Intended: PM2 does not notice that the program exits at once.
    assert_eq!(both.codes(&["start", "crash.sh", "--max-restarts", "4"]), [1, 0]);
    let restarts = wait_until("both have given up", || {
        let lists = both.lists();
        let errored = |rows: &Vec<Row>| rows.first().is_some_and(|row| row.1 == "errored");
        lists.iter().all(errored).then(|| lists.map(|rows| rows[0].2))
    });
    // Intended: four restarts are four restarts; PM2 counts the first start among them.
    assert_eq!(restarts, [4, 3]);
}

#[test]
fn paths_of_scripts_match_pm2() {
    let files = [FILES[1], ("dir/child.js", "setInterval(() => {}, 1000)")];
    let both = Both::new(&files);
    assert_eq!(both.run(&["start", "server.js", "--name", "one"]), 0);
    assert_eq!(both.run(&["start", "./server.js", "--name", "two"]), 0);
    assert_eq!(both.run(&["start", "dir/child.js"]), 0);
    for command in [&["stop", "server.js"][..], &["restart", "./server.js"], &["stop", "dir/../dir/child.js"]]
    {
        assert_eq!(both.run(command), 0, "{command:?}");
        both.list();
    }
    assert_eq!(both.run(&["delete", "dir/child.js"]), 0);
    assert_eq!(names(&both.list()), ["one", "two"]);
    assert_eq!(both.run(&["stop", "other.js"]), 1);
    // Intended: rsm restarts the app with a warning; PM2 refuses.
    assert_eq!(both.codes(&["restart", "one", "--env", "production"]), [0, 1]);
}

/// The variables and arguments that an app prints, of both.
fn printed(both: &Both, log: &str) -> [String; 2] {
    [both.rsm.home(), both.home.path().join("home")].map(|home| {
        let file = home.join("logs").join(log);
        wait_until("the app prints", || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')))
    })
}

#[test]
fn numbers_arguments_and_command_line_match_pm2() {
    let print = "const { A, B, C, D, ENV } = process.env\n\
                 console.log(JSON.stringify([A, B, C, D, ENV, process.argv.slice(2)])); setInterval(() => {}, 1000)";
    let config = "const at = process.argv.indexOf('--env')
        module.exports = { apps: [{ name: 'print', script: 'print.js',
        args: '--json {\"port\":80} \\'a b\\' --x=1',
        env: { A: 1.0, B: 1e3, C: 0.1, D: 1e21, ENV: at < 0 ? 'none' : process.argv[at + 1] }, env_staging: {} }] }";
    let both = Both::new(&[("print.js", print), ("ecosystem.config.js", config)]);
    assert_eq!(both.run(&["start", "ecosystem.config.js", "--env", "staging"]), 0);
    let [rsm, pm2] = printed(&both, "print-out.log");
    assert_eq!(rsm, pm2);
    assert!(
        rsm.contains("\"1000\"") && rsm.contains("staging") && rsm.contains("{\\\"port\\\":80}"),
        "{rsm}"
    );
}

#[test]
fn directories_run_in_both() {
    let both = Both::new(&[
        ("site/package.json", r#"{ "main": "main.js" }"#),
        ("site/main.js", "console.log('main'); setInterval(() => {}, 1000)"),
    ]);
    assert_eq!(both.run(&["start", "./site"]), 0);
    let [rsm, pm2] = printed(&both, "site-out.log");
    assert_eq!(rsm, pm2);
    assert_eq!(both.run(&["stop", "./site"]), 0);
    both.list();
}
