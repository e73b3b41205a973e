//! Checks whether the apps of the saved list would start in this environment.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, User, access, geteuid};

use crate::cli::commands::doctor::{Check, CheckStatus};
use crate::cli::session::Session;
use crate::daemon::jobs::dump;
use crate::instance::Instance;
use crate::instance::launch;
use crate::instance::program_lookup::{DEFAULT_PATH, find_program};
use crate::instance::state::Want;
use crate::instance::status::RunId;
use crate::ipc::client::Client;
use crate::ipc::message::{DisplayStatus, InstanceView, Request};
use crate::logs;
use crate::paths::Home;
use crate::process::spawn::LaunchSpec;
use crate::program::{FileHead, Shebang, is_executable};
use crate::spec::Launcher;

/// Directories of version managers, which remove programs together with their version.
const VERSION_MANAGER_DIRS: [&str; 6] =
    ["/.nvm/", "/.fnm", "/.asdf/installs/", "/.pyenv/versions/", "/.rbenv/versions/", "/.local/share/mise/"];

/// Runs a check for each app, with its first instance.
pub(crate) async fn check_apps(session: &Session) -> Vec<Check> {
    let home = &session.home;
    let (saved, note) = match dump::load(home) {
        Ok(loaded) => loaded,
        Err(error) => {
            let hint = error.hint.map(|hint| format!(" {hint}")).unwrap_or_default();
            return vec![Check::new(CheckStatus::Failed, "saved list", format!("{}.{hint}", error.message))];
        }
    };
    let mut checks: Vec<Check> =
        note.into_iter().map(|note| Check::new(CheckStatus::Warning, "saved list", note)).collect();
    if saved.is_empty() {
        checks.push(Check::new(
            CheckStatus::Warning,
            "saved list",
            "empty; start your apps, then run `rsm save`",
        ));
    }
    let listed = list_running(home).await;
    if let Some(listed) = &listed {
        checks.extend(check_saved_list(saved.instances(), listed));
    }
    let mut seen = BTreeSet::new();
    for instance in saved.instances() {
        if seen.insert(instance.spec().name.clone()) {
            let online = listed.as_ref().is_some_and(|listed| {
                listed
                    .iter()
                    .any(|view| view.name == instance.spec().name && view.status == DisplayStatus::Online)
            });
            checks.push(check_app(instance, home, online));
        }
    }
    checks
}

/// The list, or `None` if the daemon is not running.
async fn list_running(home: &Home) -> Option<Vec<InstanceView>> {
    Client::connect(home).await.ok()?.call(&Request::List).await.ok()
}

/// Compares the saved list with the list.
fn check_saved_list(saved: &[Instance], listed: &[InstanceView]) -> Option<Check> {
    let saved: BTreeSet<&str> = saved.iter().map(|instance| instance.spec().name.as_str()).collect();
    let listed: BTreeSet<&str> = listed.iter().map(|view| view.name.as_str()).collect();
    let join = |names: Vec<&&str>| names.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    let unsaved = join(listed.difference(&saved).collect());
    let unlisted = join(saved.difference(&listed).collect());
    let text = match (unsaved.as_str(), unlisted.as_str()) {
        ("", "") => return None,
        (unsaved, "") => format!("not saved: {unsaved}; run `rsm save`"),
        ("", unlisted) => format!("saved but no longer listed: {unlisted}; run `rsm save`"),
        (unsaved, unlisted) => {
            format!("not saved: {unsaved}; saved but no longer listed: {unlisted}; run `rsm save`")
        }
    };
    Some(Check::new(CheckStatus::Warning, "saved list", text))
}

fn check_app(instance: &Instance, home: &Home, online: bool) -> Check {
    let name = &instance.spec().name;
    if instance.status().want != Want::Up {
        return Check::new(CheckStatus::Ok, name, "saved as stopped");
    }
    match try_app(instance, home, online) {
        Ok(text) if VERSION_MANAGER_DIRS.iter().any(|dir| text.contains(dir)) => {
            let more = "; if this version is removed, the one in the login PATH is used";
            Check::new(CheckStatus::Ok, name, text + more)
        }
        Ok(text) => Check::new(CheckStatus::Ok, name, text),
        Err(text) => Check::new(CheckStatus::Failed, name, text),
    }
}

/// Returns the program that would be executed, or why the app would not start.
fn try_app(instance: &Instance, home: &Home, online: bool) -> Result<String, String> {
    let spec = instance.spec();
    if let Some(account) = &spec.account {
        let user = User::from_name(&account.user).ok().flatten();
        match user {
            None => {
                return Err(format!(
                    "user {} does not exist; create it, or start the app as another user",
                    account.user
                ));
            }
            Some(user) if user.uid.as_raw() != account.uid => {
                return Err(format!(
                    "user {} now has uid {} (was {}); delete the app and start it again",
                    account.user, user.uid, account.uid
                ));
            }
            Some(_) if !geteuid().is_root() && account.uid != geteuid().as_raw() => {
                return Err(format!("runs as {}, which requires a service of root", account.user));
            }
            Some(_) => {}
        }
    }
    let cwd = spec.cwd.display();
    match fs::metadata(&spec.cwd) {
        Err(error) => return Err(format!("working directory {cwd}: {error}; create it, or change cwd")),
        Ok(meta) if !meta.is_dir() => {
            return Err(format!("working directory {cwd} is not a directory; change cwd"));
        }
        Ok(_) if access(&spec.cwd, AccessFlags::X_OK).is_err() => {
            return Err(format!("working directory {cwd}: permission denied for user {}", current_user()));
        }
        Ok(_) => {}
    }
    let run = RunId { instance: instance.id(), number: 1 };
    let launch = launch::launch_spec(run, instance, home, Vec::new());
    let launch = launch.map_err(|failure| {
        format!("{} not found, neither in the PATH of the app nor in the login PATH; install it, or use an absolute path", failure.subject)
    })?;
    if spec.launcher != Launcher::Serve {
        check_executable(&launch.program)?;
    }
    if let Launcher::Interpreter { args, .. } = &spec.launcher {
        let script = spec.cwd.join(launch.argv.get(1 + args.len()).unwrap_or(&spec.script));
        File::open(&script).map_err(|error| format!("script {}: {error}", script.display()))?;
    } else if spec.launcher == Launcher::Direct {
        check_shebang(&launch)?;
    }
    check_log_files(instance, home)?;
    if !online {
        check_ports(instance)?;
    }
    let script = match &spec.launcher {
        Launcher::Interpreter { .. } => format!(" {}", spec.script),
        Launcher::Direct | Launcher::Shell | Launcher::Serve => String::new(),
    };
    Ok(format!("{}{script}", launch.program.display()))
}

fn current_user() -> String {
    User::from_uid(geteuid()).ok().flatten().map_or_else(|| geteuid().to_string(), |user| user.name)
}

fn check_executable(program: &Path) -> Result<(), String> {
    let shown = program.display();
    let meta = fs::metadata(program).map_err(|error| format!("{shown}: {error}"))?;
    if !meta.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    if !is_executable(program) {
        return Err(format!("{shown} is not executable; run chmod +x {shown}"));
    }
    access(program, AccessFlags::X_OK)
        .map_err(|_| format!("{shown}: user {} has no execute permission", current_user()))
}

/// What the kernel reads of `#!…`, and what `env` then looks up.
fn check_shebang(launch: &LaunchSpec) -> Result<(), String> {
    // A program that cannot be read may still be executed.
    let Ok(FileHead::Shebang(Shebang { interpreter, program: name, .. })) = FileHead::read(&launch.program)
    else {
        return Ok(());
    };
    let script = launch.program.display();
    check_executable(Path::new(&interpreter))
        .map_err(|reason| format!("{script}: interpreter {interpreter}: {reason}"))?;
    if name == interpreter {
        return Ok(());
    }
    let path = launch.env.iter().find_map(|var| var.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let own_path = std::env::var("PATH").unwrap_or_default();
    match find_program(&name, path, &launch.cwd) {
        Some(_) => Ok(()),
        None => Err(match find_program(&name, &own_path, &launch.cwd) {
            Some(found) => format!(
                "{script}: {name} is no longer in the PATH of the app, but at {}; run `rsm restart APP -a`, then `rsm save`",
                found.display()
            ),
            None => format!("{script}: {name} is not in the PATH of the app; install it"),
        }),
    }
}

fn check_log_files(instance: &Instance, home: &Home) -> Result<(), String> {
    let files = logs::log_files(instance.spec(), instance.id(), &instance.file_name(), home);
    for file in [files.out, files.err, files.combined].into_iter().flatten() {
        let existing = file.ancestors().find(|path| path.exists()).map(PathBuf::from).unwrap_or_default();
        let mode = if existing.is_dir() { AccessFlags::W_OK | AccessFlags::X_OK } else { AccessFlags::W_OK };
        access(&existing, mode).map_err(|errno| {
            format!(
                "log file {} is not writable by user {}: {}: {}",
                file.display(),
                current_user(),
                existing.display(),
                errno.desc()
            )
        })?;
    }
    Ok(())
}

/// Checks that the configured ports are free, and that this user may bind them.
fn check_ports(instance: &Instance) -> Result<(), String> {
    let env_port = instance.spec().env.get("PORT").into_iter();
    let ports = env_port
        .chain(&instance.spec().listen)
        .filter_map(|text| text.rsplit(':').next()?.parse::<u16>().ok());
    for port in ports.filter(|port| *port > 0) {
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map(drop) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(format!("port {port} is in use by another program"));
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(format!("port {port}: user {} may not bind ports below 1024", current_user()));
            }
            _ => {}
        }
    }
    Ok(())
}
