//! `doctor`: checks rsm and the system. `--boot` checks the saved apps as the boot service starts them: with its user
//! and environment.

mod apps;
mod machine;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use clap::Args;
use nix::unistd::geteuid;
use serde::Serialize;

use crate::boot::login_path;
use crate::cli::commands::startup;
use crate::cli::commands::startup::ServiceArgs;
use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::session::Session;
use crate::process::helper;

/// The `PATH` of systemd system services, see `systemd.exec(5)`.
const DEFAULT_UNIT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Set in the process that has the user and the environment of the service.
const INSIDE_UNIT_VAR: &str = "RSM_DOCTOR_INSIDE";

// Arguments of `doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Check whether the saved apps would start at boot
    #[arg(long)]
    boot: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Service to check with --boot")]
    service: ServiceArgs,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckStatus {
    Ok,
    Warning,
    Failed,
}

/// A check and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    status: CheckStatus,
    /// The name of an app, or a part of the system.
    subject: String,
    /// The finding, and what to do about it.
    message: String,
}

impl Check {
    fn new(status: CheckStatus, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, subject: subject.into(), message: message.into() }
    }
}

/// Runs the checks and prints them.
///
/// # Errors
/// A check failed.
pub(crate) async fn doctor(args: DoctorArgs, session: &Session) -> Result<(), Error> {
    if !args.boot && args.service.is_given() {
        return Err(Error::WrongUsage {
            message: "SYSTEM, --user, --home and --service-name name the boot service to check".into(),
            help: "use them with --boot: rsm doctor --boot systemd".into(),
        });
    }
    let checks = match (args.boot, std::env::var_os(INSIDE_UNIT_VAR)) {
        (false, _) => machine::check_machine(session).await,
        (true, None) => return run_as_unit(&args, session),
        (true, Some(_)) => apps::check_apps(session).await,
    };
    if args.json {
        output::print_json(&checks)?;
    } else {
        output::print(&render(&checks))?;
    }
    match checks.iter().filter(|check| check.status == CheckStatus::Failed).count() {
        0 => Ok(()),
        failed => {
            let reason = match args.boot {
                true => format!("{failed} of {} apps would not start at boot", checks.len()),
                false => format!("{failed} of {} checks failed", checks.len()),
            };
            Err(Error::ComponentFailed { component: "doctor", reason })
        }
    }
}

/// Executes this program again with the user and the environment of the service, as at boot.
fn run_as_unit(args: &DoctorArgs, session: &Session) -> Result<(), Error> {
    let (service, file) = startup::service_and_unit(&args.service, "doctor", session)?;
    if !file.exists() {
        session.notice(format_args!(
            "warning: no boot service installed ({} not found); run `rsm startup`",
            file.display()
        ));
    }
    let user = match &service.user {
        Some(name) => nix::unistd::User::from_name(name),
        None => nix::unistd::User::from_uid(geteuid()),
    };
    let to_error = |reason: String| Error::ComponentFailed { component: "doctor", reason };
    let user =
        user.ok().flatten().ok_or_else(|| to_error("the user of the service does not exist".into()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rsm").args(["doctor", "--boot"]).args(args.json.then_some("--json"));
    command
        .env_clear()
        .env(INSIDE_UNIT_VAR, "1")
        .env("RSM_HOME", &service.home)
        .env("PATH", DEFAULT_UNIT_PATH);
    command
        .env("HOME", &user.dir)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .env("SHELL", &user.shell);
    command.current_dir("/").stdin(Stdio::null());
    if geteuid().is_root() && !user.uid.is_root() {
        helper::set_user(&mut command, &user)
            .map_err(|errno| to_error(format!("cannot switch to user {}: {errno}", user.name)))?;
    }
    let error = command.exec();
    Err(to_error(format!("cannot run as {}: {error}", user.name)))
}

/// With `--boot`, executes this program again with the `PATH` of a login shell, as the service does. Must be called
/// before anything else is done in this process.
pub(crate) fn exec_with_login_path() -> Result<(), Error> {
    const RESOLVED: &str = "2";
    if std::env::var_os(INSIDE_UNIT_VAR).is_none_or(|stage| stage == RESOLVED) {
        return Ok(());
    }
    let path = login_path::join_paths(
        &login_path::login_path().unwrap_or_default().to_string_lossy(),
        DEFAULT_UNIT_PATH,
    );
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let error = Command::new("/proc/self/exe")
        .arg0("rsm")
        .args(args)
        .env("PATH", path)
        .env(INSIDE_UNIT_VAR, RESOLVED)
        .exec();
    Err(Error::Io { context: "cannot restart with the login PATH", error })
}

fn render(checks: &[Check]) -> String {
    let widest = checks.iter().map(|check| check.subject.chars().count()).max().unwrap_or(0);
    let line = |check: &Check| {
        let status = match check.status {
            CheckStatus::Ok => "ok     ",
            CheckStatus::Warning => "warning",
            CheckStatus::Failed => "FAILED ",
        };
        format!("{status} {:widest$}  {}\n", check.subject, check.message)
    };
    checks.iter().map(line).collect()
}
