//! From a spec to what is executed: program, arguments, environment. Pure but for looking up
//! programs.

use std::path::{Path, PathBuf};

use crate::exit::{StartFailure, StartStep};
use crate::instance::Instance;
use crate::instance::status::RunId;
use crate::paths::Home;
use crate::process::spawn::LaunchSpec;
use crate::process::tree::RunMarker;
use crate::program;
use crate::spec::{AppSpec, EnvFilter, EnvVars, Launcher};

/// The variable that marks every process of a run, unless it cleans its environment.
pub const RUN_MARKER_VAR: &str = "RSM_RUN";

/// Where programs are looked up for an app without a `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The mark of the runs of this home.
pub fn run_marker(home: &Home) -> RunMarker {
    RunMarker { name: RUN_MARKER_VAR, owner: home.path().to_string_lossy().into_owned() }
}

/// Program (not looked up yet) and arguments, the program first.
pub fn argv(spec: &AppSpec) -> Vec<String> {
    let own = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut words = match &spec.launcher {
        Launcher::Direct => own(&[&spec.script]),
        Launcher::Interpreter { program, args } => {
            let script = [spec.script.clone()];
            [program].into_iter().chain(args).chain(&script).cloned().collect()
        }
        Launcher::Shell => return own(&["sh", "-c", &spec.script]),
        Launcher::Serve => own(&["rsm", "serve-files"]),
    };
    words.extend(spec.args.iter().cloned());
    words
}

/// The whole order for a run. `descriptors` are the numbers of those that go with it.
///
/// # Errors
/// The program is not in the app's `PATH`.
pub fn launch_spec(
    run: RunId,
    instance: &Instance,
    home: &Home,
    descriptors: Vec<i32>,
) -> Result<LaunchSpec, StartFailure> {
    let spec = &instance.spec;
    let mut vars = environment(run, instance, home);
    let mut argv = argv(spec);
    let name = argv.first().cloned().unwrap_or_default();
    let path = vars.get("PATH").map_or(DEFAULT_PATH, String::as_str).to_owned();
    let program = match &spec.launcher {
        // The binary of the keeper, whose child executes it, replaced or not.
        Launcher::Serve => PathBuf::from("/proc/self/exe"),
        // bash where there is one, as PM2: people write bashisms.
        Launcher::Shell => match find_program("bash", &path, &spec.cwd) {
            Some(bash) => {
                "bash".clone_into(&mut argv[0]);
                bash
            }
            None => PathBuf::from("/bin/sh"),
        },
        Launcher::Direct | Launcher::Interpreter { .. } => match find_program(&name, &path, &spec.cwd) {
            Some(program) => program,
            None => {
                let (program, path) = find_in_login_path(&name, &path).ok_or(StartFailure {
                    step: StartStep::LookUp,
                    errno: libc::ENOENT,
                    subject: name,
                })?;
                vars.insert("PATH".to_owned(), path);
                program
            }
        },
    };
    let env = vars.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (cwd, account) = (spec.cwd.clone(), spec.account.clone());
    Ok(LaunchSpec {
        program,
        argv,
        env,
        cwd,
        account,
        fds: descriptors,
        supervised_calls: None,
        limits: None,
        listen_pid: false,
    })
}

/// A program that the app's own `PATH` has no more, in the daemon's: after an update of node by nvm or its
/// like, the directory that was there when the app was started is gone, and at boot the daemon is given
/// what a login has now. With the `PATH` in which its own helpers are found, too.
fn find_in_login_path(name: &str, path: &str) -> Option<(PathBuf, String)> {
    let now = std::env::var("PATH").ok()?;
    let program = find_program(name, &now, Path::new("/"))?;
    Some((program, format!("{path}:{now}")))
}

/// Where a program is: a path stays as it is (links are followed at each start, so that a
/// `current` link may be moved); a bare name is looked up.
pub fn find_program(name: &str, path: &str, cwd: &Path) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(cwd.join(name));
    }
    program::search_path(name, path, cwd)
}

/// The environment of a run, low to high: inherited (filtered), who it is, what it was given,
/// and what makes this instance differ from the others.
pub fn environment(run: RunId, instance: &Instance, home: &Home) -> EnvVars {
    let spec = &instance.spec;
    let mut vars = filter_inherited(&spec.filter_env, &instance.inherited);
    let mut set = |name: &str, value: String| vars.insert(name.to_owned(), value);
    let dir = home.path().display().to_string();
    set("name", spec.name.clone());
    set("namespace", spec.namespace.clone());
    set("PWD", spec.cwd.display().to_string());
    // Scripts written for PM2 look at these two.
    set("PM2_HOME", dir.clone());
    set("pm_id", instance.id.to_string());
    set("RSM_HOME", dir);
    if let Some(account) = &spec.account {
        set("HOME", account.home.display().to_string());
        set("USER", account.user.clone());
        set("LOGNAME", account.user.clone());
    }
    vars.extend(spec.env.clone());
    if let Some(name) = &spec.increment_var {
        let first = vars.get(name).and_then(|value| value.trim().parse::<i64>().ok()).unwrap_or(0);
        vars.insert(name.clone(), first.saturating_add(i64::from(instance.number)).to_string());
    }
    vars.insert(spec.instance_var.clone(), instance.number.to_string());
    vars.insert(RUN_MARKER_VAR.to_owned(), run_marker(home).value(run.to_u64()));
    vars
}

fn filter_inherited(filter: &EnvFilter, all: &EnvVars) -> EnvVars {
    let keep = |name: &str| match filter {
        EnvFilter::None => true,
        EnvFilter::All => false,
        EnvFilter::Containing(parts) => !parts.iter().any(|part| name.contains(part.as_str())),
        EnvFilter::Exact(other) => name != other,
    };
    all.iter().filter(|(name, _)| keep(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::instance::launch::*;
    use crate::time::Moment;

    fn instance(number: u32, change: impl FnOnce(&mut AppSpec), inherited: &[(&str, &str)]) -> Instance {
        let mut spec = AppSpec::new("api", "/srv/api.js", "/srv");
        change(&mut spec);
        let vars = inherited.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Instance::new(7, number, Arc::new(spec), Arc::new(vars), 0, Moment::default())
    }

    fn env(instance: &Instance) -> EnvVars {
        environment(RunId { instance: 7, number: 1 }, instance, &Home::new("/h"))
    }

    #[test]
    fn what_is_given_wins_over_what_is_inherited() {
        let api = instance(
            2,
            |spec| {
                spec.env = EnvVars::from([("PORT".into(), "5000".into()), ("name".into(), "mine".into())]);
                spec.increment_var = Some("PORT".into());
            },
            &[("PORT", "1"), ("LANG", "C")],
        );
        let env = env(&api);
        assert_eq!((&*env["PORT"], &*env["LANG"], &*env["name"]), ("5002", "C", "mine"));
        assert_eq!((&*env["NODE_APP_INSTANCE"], &*env["pm_id"]), ("2", "7"));
    }

    #[test]
    fn settings_do_not_come_from_the_environment() {
        let api = instance(0, |_| {}, &[("kill_timeout", "1"), ("instances", "9")]);
        assert_eq!((env(&api)["instances"].as_str(), api.spec.instances), ("9", 1));
    }

    #[test]
    fn filters() {
        let vars = &[("AWS_KEY", "k"), ("LANG", "C")];
        let with = |filter| env(&instance(0, |spec| spec.filter_env = filter, vars));
        assert!(!with(EnvFilter::Containing(vec!["AWS".into()])).contains_key("AWS_KEY"));
        assert!(with(EnvFilter::Exact("AWS".into())).contains_key("AWS_KEY"));
        assert!(!with(EnvFilter::All).contains_key("LANG"));
    }

    #[test]
    fn commands() {
        let mut spec = AppSpec::new("api", "/srv/api.js", "/srv");
        spec.args = vec!["--x".into()];
        assert_eq!(argv(&spec), ["/srv/api.js", "--x"]);
        spec.launcher = Launcher::Interpreter { program: "node".into(), args: vec!["--trace".into()] };
        assert_eq!(argv(&spec), ["node", "--trace", "/srv/api.js", "--x"]);
    }
}
