//! Loading as a whole: files and command lines to apps.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::spec::{AppSpec, EnvFilter, ExecMode, KillMode, Launcher, LogPath, RestartDelay};

/// A directory with programs in `bin`, which is `PATH`, and files beside it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for name in ["node", "python3", "sh", "bash", "tool"] {
            place.program(&format!("bin/{name}"), "\x7fELF\0");
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn program(&self, name: &str, text: &str) {
        fs::set_permissions(self.file(name, text), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn options(&self) -> LoadOptions {
        LoadOptions { cores: 4, path_var: self.path("bin").into(), ..LoadOptions::default() }
    }

    fn load(&self, text: &str) -> Result<Loaded, String> {
        self.load_with(text, &self.options())
    }

    fn load_with(&self, text: &str, options: &LoadOptions) -> Result<Loaded, String> {
        load(&self.file("ecosystem.toml", text), options).map_err(|mistakes| mistakes.to_string())
    }

    fn app(&self, settings: &str) -> AppSpec {
        self.load(&format!("[[apps]]\n{settings}\n")).unwrap().apps.remove(0)
    }

    fn refused(&self, settings: &str) -> String {
        self.load(&format!("[[apps]]\n{settings}\n")).err().unwrap_or_default()
    }

    fn command(&self, script: &str, args: &[String], flags: &[(&str, &str)]) -> Result<AppSpec, String> {
        let line = CommandLine { script, args, flags: &GivenFlag::all(flags) };
        let loaded = load_command_line(&line, self.0.path(), &self.options());
        loaded.map(|mut loaded| loaded.apps.remove(0)).map_err(|mistakes| mistakes.to_string())
    }
}

fn runs_with(program: &str) -> Launcher {
    Launcher::Interpreter { program: program.into(), args: Vec::new() }
}

#[test]
fn a_whole_file_of_a_team() {
    let place = Place::new();
    place.program("node_modules/tsx/dist/cli.mjs", "#!/usr/bin/env node\n");
    fs::create_dir_all(place.path("node_modules/.bin")).unwrap();
    symlink("../tsx/dist/cli.mjs", place.path("node_modules/.bin/tsx")).unwrap();
    place.file("package.json", r#"{"version":"3.1.4"}"#);
    let app = place.app(
        "name = 'workbot'\nscript = './node_modules/.bin/tsx'\nargs = 'server.ts'\ninstances = 'max'\n\
         exec_mode = 'cluster'\nenv = { NODE_ENV = 'production', PORT = 5000 }\nmax_memory_restart = '1G'\n\
         autorestart = true\nwatch = false\nmax_restarts = 10\nmin_uptime = '10s'\n\
         error_file = './logs/pm2-error.log'\nout_file = './logs/pm2-out.log'\n\
         log_date_format = 'YYYY-MM-DD HH:mm:ss'\n",
    );
    assert_eq!(app.script, place.path("node_modules/.bin/tsx").to_str().unwrap(), "the link itself");
    assert_eq!(app.launcher, runs_with("node"));
    assert_eq!((app.instances, app.exec_mode), (4, ExecMode::Cluster));
    assert_eq!(app.env["PORT"], "5000");
    assert_eq!(app.max_memory_restart, Some(1 << 30));
    assert_eq!((app.restart.max_restarts, app.restart.min_uptime), (10, Duration::from_secs(10)));
    assert_eq!(app.logs.err, LogPath::File(place.path("logs/pm2-error.log")));
    assert!(!app.logs.merge && app.watch.is_none());
    assert_eq!(app.version.as_deref(), Some("3.1.4"));
    assert_eq!(app.source, Some(place.path("ecosystem.toml")));
}

#[test]
fn scripts_find_what_runs_them() {
    let place = Place::new();
    place.file("a.js", "");
    place.file("a.py", "");
    place.program("hooked.py", "#!/usr/bin/env node\n");
    place.program("native", "\x7fELF\0");
    place.program("run", "#!/usr/bin/env sh\n");
    place.file("unmarked", "#!/usr/bin/env sh\n");
    place.program("cli", "#!/usr/bin/env -S node --flag\n");
    let launcher = |script: &str| place.app(&format!("script = '{script}'")).launcher;
    assert_eq!(launcher("a.js"), runs_with("node"));
    assert_eq!(launcher("hooked.py"), runs_with("python3"));
    assert_eq!(launcher("native"), Launcher::Direct);
    assert_eq!(launcher("run"), Launcher::Direct);
    assert_eq!(launcher("unmarked"), runs_with("sh"));
    let with_flag = Launcher::Interpreter { program: "node".into(), args: vec!["--flag".into()] };
    assert_eq!(launcher("cli"), with_flag);
    assert_eq!(place.app("script = 'a.py'").env["PYTHONUNBUFFERED"], "1");
    assert_eq!(place.app("script = 'a.py'\nenv = { PYTHONUNBUFFERED = '' }").env["PYTHONUNBUFFERED"], "");
    assert_eq!(place.app("script = 'native'\ninterpreter = 'none'").launcher, Launcher::Direct);
    let args = place.app("script = 'a.js'\nnode_args = '--a --b'").launcher;
    assert_eq!(
        args,
        Launcher::Interpreter { program: "node".into(), args: vec!["--a".into(), "--b".into()] }
    );
}

#[test]
fn scripts_that_cannot_run_are_mistakes_with_a_way_out() {
    let place = Place::new();
    place.file("server.js", "");
    place.file("notes", "hello");
    place.file("a.rb", "");
    place.file("tool.bin", "\x7fELF\0");
    place.file("all.js", "");
    place.program("lost", "#!/opt/none/lua\n");
    for (settings, message) in [
        ("script = './sever.js'", "did you mean \"server.js\""),
        ("script = 'nothing'", "no program of this name in PATH"),
        ("script = 'bin'", "neither a package.json"),
        ("script = 'notes'", "no interpreter known for"),
        ("script = 'a.rb'", "requires ruby"),
        ("script = 'tool.bin'", "is not executable"),
        ("script = 'lost'", "interpreter /opt/none/lua not found"),
        ("script = 'server.js'\ninterpreter = 'node@18'", "path of that version"),
        ("script = 'server.js'\ninterpreter = 'node -r x'", "to `interpreter_args`"),
        ("script = 'server.js'\ninterpreter = './bin/none'", "is not an executable file"),
        (
            "script = 'server.js --x'\ninterpreter = 'node'",
            "a shell command cannot be used with interpreter node",
        ),
        ("script = 'server.js'\ncwd = 'absent'", "not found"),
        ("script = '.'", "neither a package.json"),
        ("script = 'all of it'\nname = 'all'", "expected a name other than"),
        ("script = './all.js'", "derived name \"all\" is invalid"),
        ("script = 'serve'\nenv = { PORT = 'none' }", "invalid port"),
        ("name = 'x'", "missing `script`"),
    ] {
        let told = place.refused(settings);
        assert!(told.contains(message), "{settings}\n{told}");
        assert!(told.contains("ecosystem.toml:") && told.contains("help: "), "{told}");
        assert_eq!(told.matches("help: ").count(), 1, "{told}");
    }
}

#[test]
fn commands_shell_lines_and_the_file_server() {
    let place = Place::new();
    fs::create_dir(place.path("www")).unwrap();
    let app = place.app("script = 'tool'");
    assert_eq!((app.script.as_str(), app.launcher), ("tool", Launcher::Direct));
    let app = place.app("script = 'sleep 7'\nargs = [\"it's\", 'x']");
    assert_eq!((app.script.as_str(), app.launcher), ("sleep 7 \"it's\" x", Launcher::Shell));
    assert!(app.args.is_empty() && app.name == "sleep 7");
    place.file("my app.js", "");
    assert_eq!(place.app("script = 'my app.js'").launcher, runs_with("node"));
    let app = place.app("script = 'serve'\nport = 8080\ninstances = 2\nenv = { PM2_SERVE_PATH = './www' }");
    assert_eq!((app.launcher, app.exec_mode), (Launcher::Serve, ExecMode::Cluster));
    assert_eq!(app.args, [place.path("www").to_str().unwrap(), "8080"]);
    assert!(place.refused("script = 'serve'\nargs = '--nope'").contains("unknown option --nope"));
}

#[test]
fn modes_follow_instances_and_interpreter() {
    let place = Place::new();
    place.file("a.js", "");
    place.file("a.py", "");
    for (settings, mode, count, merged) in [
        ("script = 'a.js'", ExecMode::Fork, 1, true),
        ("script = 'a.js'\ninstances = 1", ExecMode::Cluster, 1, true),
        ("script = 'a.js'\ninstances = -1", ExecMode::Cluster, 3, false),
        ("script = 'a.js'\ninstances = '2'\nexec_mode = 'fork'", ExecMode::Fork, 2, false),
        ("script = 'a.js'\ninstances = 2\nexecute_command = true", ExecMode::Fork, 2, false),
        ("script = 'a.py'\ninstances = 0\nmerge_logs = true", ExecMode::Fork, 4, true),
        ("script = 'a.py'\nexec_mode = 'cluster_mode'", ExecMode::Cluster, 1, true),
    ] {
        let app = place.app(settings);
        assert_eq!((app.exec_mode, app.instances, app.logs.merge), (mode, count, merged), "{settings}");
    }
}

#[test]
fn zero_means_zero() {
    let place = Place::new();
    let app = place.app(
        "script = 'tool'\nmax_restarts = 0\nkill_timeout = 0\nmin_uptime = 0\nlisten_timeout = 0\n\
         restart_delay = 0\nstop_exit_codes = 0\ntreekill = false\nwait_ready = true\ncron_restart = 0",
    );
    assert_eq!(app.restart.max_restarts, 0);
    assert_eq!(app.restart.delay, RestartDelay::Fixed(Duration::ZERO));
    assert_eq!(app.restart.stop_exit_codes, [0]);
    assert_eq!((app.stop.timeout, app.readiness.timeout), (Duration::ZERO, Duration::ZERO));
    assert!(app.stop.mode == KillMode::Main && app.readiness.wait_ready && app.cron_restart.is_none());
    let growing = place.app("script = 'tool'\nexp_backoff_restart_delay = '1s'").restart.delay;
    assert_eq!(growing, RestartDelay::Pm2Backoff { initial: Duration::from_secs(1) });
}

#[test]
fn environments_are_merged_by_name() {
    let place = Place::new();
    let text = "[[apps]]\nname = 'api'\nscript = 'tool'\nappend_env_to_name = true\nport = 80\nfilter_env = true\n\
                [apps.env]\nA = 1\nB = 1\n[apps.env_prod]\nB = 2\nPORT = 81\n\
                [[apps]]\nname = 'other'\nscript = 'tool'\n";
    let options = LoadOptions { env_name: Some("prod".into()), ..place.options() };
    let loaded = place.load_with(text, &options).unwrap();
    let api = &loaded.apps[0];
    assert_eq!(api.name, "api-prod");
    assert_eq!((api.env["A"].as_str(), api.env["B"].as_str(), api.env["PORT"].as_str()), ("1", "2", "81"));
    assert_eq!(api.filter_env, EnvFilter::All);
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("\"other\" has no `env_prod`"), "{:?}", loaded.warnings);
    assert_eq!(place.load(text).unwrap().apps[0].env["PORT"], "80");
    assert_eq!(
        app_names(
            &place.path("ecosystem.toml"),
            &LoadOptions { env_name: Some("prod".into()), ..LoadOptions::default() }
        )
        .unwrap(),
        ["api-prod", "other"]
    );
}

#[test]
fn paths_start_from_the_file_and_then_from_cwd() {
    let place = Place::new();
    place.file("sub/a.js", "");
    let app = place.app(
        "script = 'a.js'\ncwd = './sub'\nout_file = 'o.log'\nerror_file = 'NULL'\nlog_file = true\n\
         pid_file = 'a.pid'\nwatch = ['.', 'src/**/*.js']\nignore_watch = './tmp'\ntime = true",
    );
    let sub = place.path("sub");
    assert_eq!(app.cwd, sub);
    assert_eq!(app.logs.out, LogPath::File(sub.join("o.log")));
    assert_eq!((app.logs.err, app.logs.combined), (LogPath::Discard, Some(LogPath::Default)));
    assert_eq!(app.pid_file, Some(sub.join("a.pid")));
    let watch = app.watch.unwrap();
    assert_eq!((watch.paths, watch.ignore), (vec![sub.clone(), sub.join("src")], vec!["./tmp".to_owned()]));
    assert_eq!(app.logs.date_format.as_deref(), Some("YYYY-MM-DDTHH:mm:ss"));
}

#[test]
fn all_mistakes_of_all_apps_come_at_once_in_order() {
    let place = Place::new();
    let told = place
        .load("[[apps]]\nname = 'a'\nscript = 'none'\ncron_restart = '* *'\n[[apps]]\nname = 'a'\nscript = 'tool'\nkill_signal = 'X'\n")
        .unwrap_err();
    let lines: Vec<&str> = told.lines().filter(|line| line.contains("ecosystem.toml:")).collect();
    let positions: Vec<&str> = lines.iter().filter_map(|line| line.split("ecosystem.toml:").nth(1)).collect();
    assert_eq!(positions.len(), 4, "{told}");
    assert!(positions[0].starts_with("3:10: script not found"), "{told}");
    assert!(positions[1].starts_with("4:16: invalid value for `cron_restart`"), "{told}");
    assert!(positions[2].starts_with("6:8: apps 1 and 2 have the same name \"a\""), "{told}");
    assert!(positions[3].starts_with("8:15: invalid value for `kill_signal`"), "{told}");
}

#[test]
fn apps_left_out_are_not_looked_up() {
    let place = Place::new();
    let text = "[[apps]]\nname = 'here'\nscript = 'tool'\n[[apps]]\nname = 'there'\nscript = 'absent'\n";
    let only = |name: &str| LoadOptions { only: vec![name.into()], ..place.options() };
    assert_eq!(place.load_with(text, &only("here")).unwrap().apps.len(), 1);
    let told = place.load_with(text, &only("her")).unwrap_err();
    assert_eq!(told, "--only: app \"her\" not found in the file\nhelp: available: here, there\n");
    assert_eq!(app_names(&place.path("ecosystem.toml"), &LoadOptions::default()).unwrap(), ["here", "there"]);
}

#[test]
fn commands_go_the_same_way_as_files() {
    let place = Place::new();
    place.file("a.js", "");
    place.file("sub/keep", "");
    let flags = [
        ("--instances", "2"),
        ("--cwd", "sub"),
        ("--max-memory-restart", "200M"),
        ("--watch", ""),
        ("--watch-delay", "1.5"),
        ("--ext", "js,ts"),
        ("--cron-restart", "0"),
    ];
    let app = place.command("./a.js", &["--x".into(), "a b".into()], &flags).unwrap();
    assert_eq!((app.name.as_str(), app.cwd, app.instances), ("a", place.path("sub"), 2));
    assert_eq!((app.exec_mode, app.launcher), (ExecMode::Cluster, runs_with("node")));
    assert_eq!(
        (app.script.as_str(), app.args),
        (place.path("a.js").to_str().unwrap(), vec!["--x".into(), "a b".into()])
    );
    let watch = app.watch.unwrap();
    assert_eq!((watch.delay, watch.paths), (Duration::from_millis(1500), vec![place.path("sub")]));
    assert_eq!(watch.ignore, ["*", "!*/", "!*.js", "!*.ts", ".*", "node_modules"]);
}

#[test]
fn mistakes_of_commands_name_their_flags() {
    let place = Place::new();
    let flags = [("--kill-timeout", "soon"), ("--instances", "many")];
    let told = place.command("none", &[], &flags).unwrap_err();
    assert!(
        told.contains("--kill-timeout: expected a duration") && told.contains("--instances: expected"),
        "{told}"
    );
    let told = place.command("none", &[], &[]).unwrap_err();
    assert!(told.starts_with("start: script not found: no file "), "{told}");
}

#[test]
fn files_from_other_editors_are_read() {
    let place = Place::new();
    let loaded = place.load("\u{feff}[[apps]]\r\nscript = 'tool'\r\nname = 'a'\r\n").unwrap();
    assert_eq!(loaded.apps[0].name, "a");
    let told = place.load("\u{feff}[[apps]]\r\nscript = 'tool'\r\nnam = 'a'\r\n").unwrap_err();
    assert!(told.contains(":3:1: unknown key `nam`\n  3 | nam\n"), "{told}");
}
