//! From an instance to the executed command: program, arguments, environment. Without I/O, except that it looks up
//! programs.

use std::path::PathBuf;

use super::Instance;
use super::inspector::inspector_flag;
use super::program_lookup::ProgramLookup;
use super::status::RunId;
use crate::exit::StartFailure;
use crate::paths::Home;
use crate::process::spawn::LaunchSpec;
use crate::process::tree::RunMarker;
use crate::spec::{AppSpec, EnvFilter, EnvVars, Launcher};

/// The variable that marks all processes of a run, except those with a cleared environment.
pub const RUN_MARKER_VAR: &str = "RSM_RUN";

/// The marker of the runs of this home.
pub fn run_marker(home: &Home) -> RunMarker {
    RunMarker { name: RUN_MARKER_VAR, owner: home.path().to_string_lossy().into_owned() }
}

/// The command line: the program, not looked up yet, and its arguments.
pub fn argv(spec: &AppSpec) -> Vec<String> {
    let strings = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut words = match &spec.launcher {
        Launcher::Direct => strings(&[&spec.script]),
        Launcher::Interpreter { program, args } => {
            let script = [spec.script.clone()];
            [program].into_iter().chain(args).chain(&script).cloned().collect()
        }
        Launcher::Shell => return strings(&["sh", "-c", &spec.script]),
        Launcher::Serve => strings(&["rsm", "serve-files"]),
    };
    words.extend(spec.args.iter().cloned());
    words
}

/// The launch spec of a run. `fds` are the descriptor numbers that the program gets.
///
/// # Errors
/// The program is not in the app's `PATH`.
pub fn launch_spec(
    run: RunId,
    instance: &Instance,
    home: &Home,
    fds: Vec<i32>,
) -> Result<LaunchSpec, StartFailure> {
    let spec = &instance.spec;
    let mut vars = environment(run, instance, home);
    let mut argv = argv(spec);
    let mut lookup = ProgramLookup::new(&vars, &spec.cwd);
    let program = match &spec.launcher {
        // A child of the keeper executes this link, so it is the binary of the keeper, even if that file was replaced.
        Launcher::Serve => PathBuf::from("/proc/self/exe"),
        // bash if it is installed, as PM2: scripts use its extensions.
        Launcher::Shell => {
            lookup.refresh_for_line(&spec.script);
            match lookup.find("bash") {
                Ok(bash) => {
                    "bash".clone_into(&mut argv[0]);
                    bash
                }
                Err(_) => PathBuf::from("/bin/sh"),
            }
        }
        Launcher::Direct => lookup.find(&spec.script)?,
        Launcher::Interpreter { program, args } => {
            // A bare name is a program with a #! line, such as npm.
            if let Some(script) = argv.get_mut(1 + args.len()).filter(|script| !script.contains('/')) {
                *script = lookup.find(script)?.to_string_lossy().into_owned();
            }
            lookup.find(program)?
        }
    };
    if let Some(flag) = inspector_flag(instance, &vars)
        && let Launcher::Interpreter { args, .. } = &spec.launcher
    {
        argv.insert(1 + args.len(), flag);
    }
    if let Some(path) = lookup.changed_path() {
        vars.insert("PATH".to_owned(), path);
    }
    let env = vars.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (cwd, account) = (spec.cwd.clone(), spec.account.clone());
    Ok(LaunchSpec {
        program,
        argv,
        env,
        cwd,
        account,
        fds,
        supervised_calls: None,
        limits: None,
        nofile: spec.limits.nofile,
        tag: Some(run_marker(home).tag(run.to_u64())),
        listen_pid: false,
    })
}

/// The environment of a run. Later variables override earlier ones: inherited (filtered), name and account, `env`
/// of the app, and the variables of this instance.
pub fn environment(run: RunId, instance: &Instance, home: &Home) -> EnvVars {
    let spec = &instance.spec;
    let mut vars = filter_inherited(&spec.filter_env, &instance.inherited);
    let mut set = |name: &str, value: String| vars.insert(name.to_owned(), value);
    let dir = home.path().display().to_string();
    set("name", spec.name.clone());
    set("namespace", spec.namespace.clone());
    set("PWD", spec.cwd.display().to_string());
    // Scripts written for PM2 read these two.
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

    use super::*;
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
    fn env_of_app_overrides_inherited_variables() {
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
    fn settings_are_not_read_from_environment() {
        let api = instance(0, |_| {}, &[("kill_timeout", "1"), ("instances", "9")]);
        assert_eq!((env(&api)["instances"].as_str(), api.spec.instances), ("9", 1));
    }

    #[test]
    fn inherited_variables_are_filtered() {
        let vars = &[("AWS_KEY", "k"), ("LANG", "C")];
        let with = |filter| env(&instance(0, |spec| spec.filter_env = filter, vars));
        assert!(!with(EnvFilter::Containing(vec!["AWS".into()])).contains_key("AWS_KEY"));
        assert!(with(EnvFilter::Exact("AWS".into())).contains_key("AWS_KEY"));
        assert!(!with(EnvFilter::All).contains_key("LANG"));
    }

    #[test]
    fn argv_follows_launcher() {
        let mut spec = AppSpec::new("api", "/srv/api.js", "/srv");
        spec.args = vec!["--x".into()];
        assert_eq!(argv(&spec), ["/srv/api.js", "--x"]);
        spec.launcher = Launcher::Interpreter { program: "node".into(), args: vec!["--trace".into()] };
        assert_eq!(argv(&spec), ["node", "--trace", "/srv/api.js", "--x"]);
    }
}
