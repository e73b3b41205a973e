//! `doctor`: what keeps rsm, or the saved apps, from working here. `--boot` looks with the eyes of the unit:
//! its user, its environment and nothing else.

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

/// What systemd starts programs of the system with (`systemd.exec(5)`).
const DEFAULT_UNIT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Set in the process that looks with the unit's eyes.
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

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckStatus {
    Ok,
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    status: CheckStatus,
    /// Of what: an app's name, or a part of the machine.
    subject: String,
    /// What is so, and what to do.
    message: String,
}

impl Check {
    fn new(verdict: CheckStatus, about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { status: verdict, subject: about.into(), message: text.into() }
    }
}

/// Looks, tells, and fails if something does not work.
pub(crate) async fn doctor(args: DoctorArgs, session: &Session) -> Result<(), Error> {
    let findings = match (args.boot, std::env::var_os(INSIDE_UNIT_VAR)) {
        (false, _) => machine::check_machine(session).await,
        (true, None) => return run_as_unit(&args, session),
        (true, Some(_)) => apps::check_apps(session).await,
    };
    if args.json {
        output::print_json(&findings)?;
    } else {
        output::print(&render(&findings))?;
    }
    match findings.iter().filter(|finding| finding.status == CheckStatus::Failed).count() {
        0 => Ok(()),
        failed => {
            let reason = match args.boot {
                true => format!("{failed} of {} apps would not start at boot", findings.len()),
                false => format!("{failed} of {} checks failed", findings.len()),
            };
            Err(Error::ComponentFailed { component: "doctor", reason })
        }
    }
}

/// Goes on as this very program, with the unit's user and environment: what is found there is found at boot.
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
    let failed = |reason: String| Error::ComponentFailed { component: "doctor", reason };
    let user = user.ok().flatten().ok_or_else(|| failed("the user of the service does not exist".into()))?;
    let mut inside = Command::new("/proc/self/exe");
    inside.arg0("rsm").args(["doctor", "--boot"]).args(args.json.then_some("--json"));
    inside
        .env_clear()
        .env(INSIDE_UNIT_VAR, "1")
        .env("RSM_HOME", &service.home)
        .env("PATH", DEFAULT_UNIT_PATH);
    inside
        .env("HOME", &user.dir)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .env("SHELL", &user.shell);
    inside.current_dir("/").stdin(Stdio::null());
    if geteuid().is_root() && !user.uid.is_root() {
        helper::set_user(&mut inside, &user)
            .map_err(|errno| failed(format!("cannot switch to user {}: {errno}", user.name)))?;
    }
    let error = inside.exec();
    Err(failed(format!("cannot run as {}: {error}", user.name)))
}

/// Gives this process the `PATH` of a login, as the unit does; must be called before anything else.
///
/// # Errors
/// The program cannot be executed again.
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

fn render(findings: &[Check]) -> String {
    let widest = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    let line = |finding: &Check| {
        let verdict = match finding.status {
            CheckStatus::Ok => "ok     ",
            CheckStatus::Warning => "warning",
            CheckStatus::Failed => "FAILED ",
        };
        format!("{verdict} {:widest$}  {}\n", finding.subject, finding.message)
    };
    findings.iter().map(line).collect()
}
