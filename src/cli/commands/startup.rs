//! `startup` and `unstartup`: have the saved apps started with the machine, and no more.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use nix::unistd::{User, geteuid};

use crate::boot::{InitCommand, InitSystem, InstallPlan, Service, UnitFile};
use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::session::Session;

// Which service a command is about: arguments of `startup`, `unstartup` and `doctor`.
#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    /// Init system: systemd, openrc, sysv or runit [default: detected]
    #[arg(value_name = "SYSTEM", hide_possible_values = true)]
    system: Option<InitSystem>,
    /// User who owns the apps; other users require root [default: current user]
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// RSM_HOME of that user [default: ~/.rsm]
    #[arg(long, visible_alias = "hp", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Name of the service [default: rsm-USER, or rsm for a systemd user service]
    #[arg(long, value_name = "NAME")]
    service_name: Option<String>,
}

// Arguments of `startup` and `unstartup`.
#[derive(Args, Debug)]
pub(crate) struct StartupArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Print the unit and commands without applying them
    #[arg(long)]
    print: bool,
    /// PM2 compatibility, ignored: the service always waits for the network
    #[arg(long, hide = true)]
    wait_ip: bool,
}

/// All that is to be done, and for whom.
struct InstallJob {
    /// The command that does it, for its errors.
    command: &'static str,
    plan: InstallPlan,
    service: Service,
    system: InitSystem,
    /// The init system runs here: what talks to it makes sense.
    init_running: bool,
}

/// Writes the unit, enables and starts it. Done twice it changes nothing the second time.
pub(crate) fn startup(args: &StartupArgs, session: &Session) -> Result<(), Error> {
    let job = prepare(&args.service, "startup", session)?;
    check_executable(&job)?;
    if args.print {
        return print_install(&job.plan);
    }
    check_writable(&job)?;
    for file in &job.plan.files {
        let changed = write(file)
            .map_err(|error| job.startup_error(format!("cannot write {}: {error}", file.path.display())))?;
        let what = if changed { "wrote" } else { "unchanged:" };
        session.notice(format_args!("{what} {}", file.path.display()));
    }
    run_all(&job.plan.install, &job, session)?;
    enable_linger(&job, session);
    session.notice(format_args!(
        "the saved apps of {} will start at boot; save the list with `rsm save`, or after each change with \
         `rsm conf autosave true`",
        job.service.user.as_deref().unwrap_or("this user")
    ));
    Ok(())
}

/// Disables and removes the unit. Apps that run are left alone.
pub(crate) fn unstartup(args: &StartupArgs, session: &Session) -> Result<(), Error> {
    let job = prepare(&args.service, "unstartup", session)?;
    if args.print {
        return print_removal(&job.plan);
    }
    if !job.plan.files.iter().any(|file| file.path.exists()) {
        session
            .notice(format_args!("{} does not exist, nothing to remove", job.plan.files[0].path.display()));
        return Ok(());
    }
    check_writable(&job)?;
    run_all(&job.plan.before_removal, &job, session)?;
    for file in job.plan.files.iter().filter(|file| file.path.exists()) {
        fs::remove_file(&file.path)
            .map_err(|error| job.startup_error(format!("cannot remove {}: {error}", file.path.display())))?;
        session.notice(format_args!("removed {}", file.path.display()));
    }
    if let Some(dir) = &job.plan.directory {
        let _ = fs::remove_dir(dir); // runit keeps things of its own in it while it runs
    }
    run_all(&job.plan.after_removal, &job, session)?;
    session.notice(format_args!("running apps are not affected; `rsm kill` stops them"));
    Ok(())
}

impl InstallJob {
    fn startup_error(&self, reason: String) -> Error {
        startup_error(self.command, reason)
    }
}

fn startup_error(command: &'static str, reason: String) -> Error {
    Error::ComponentFailed { component: command, reason }
}

fn prepare(args: &ServiceArgs, command: &'static str, session: &Session) -> Result<InstallJob, Error> {
    let system = args.system.or_else(|| InitSystem::detect(Path::new("/"))).ok_or_else(|| {
        let reason = "no supported init system detected; specify systemd, openrc, sysv or runit, \
                      or use `rsm runtime` in a container";
        startup_error(command, reason.into())
    })?;
    let service = service(args, command, session, system)?;
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let plan =
        InstallPlan::new(system, &service, &config.unwrap_or_else(|| service.user_dir.join(".config")));
    let live = Path::new(plan.running_marker).exists();
    Ok(InstallJob { command, plan, service, system, init_running: live })
}

/// The service that these arguments are about, and its unit's file.
///
/// # Errors
/// There is no such user, or no init system that is known.
pub(crate) fn service_and_unit(
    args: &ServiceArgs,
    command: &'static str,
    session: &Session,
) -> Result<(Service, PathBuf), Error> {
    let job = prepare(args, command, session)?;
    let file = job.plan.files.first().map(|file| file.path.clone()).unwrap_or_default();
    Ok((job.service, file))
}

/// Whose apps, from where, by which rsm.
fn service(
    args: &ServiceArgs,
    command: &'static str,
    session: &Session,
    system: InitSystem,
) -> Result<Service, Error> {
    let failed = |reason| startup_error(command, reason);
    let own = geteuid();
    let named = |name: &String| {
        let user = User::from_name(name).ok().flatten();
        user.ok_or_else(|| failed(format!("user {name:?} does not exist")))
    };
    let user = match &args.user {
        Some(name) => named(name)?,
        None => User::from_uid(own)
            .ok()
            .flatten()
            .ok_or_else(|| failed(format!("no passwd entry for uid {own}")))?,
    };
    if !own.is_root() && user.uid != own {
        return Err(failed(format!("only root can manage the service of user {}", user.name)));
    }
    if own.is_root() && args.user.is_none() && std::env::var_os("SUDO_USER").is_some_and(|who| who != "root")
    {
        session.notice(format_args!(
            "note: this is the service of root; for your own apps use --user \"$SUDO_USER\""
        ));
    }
    let home = match &args.home {
        Some(dir) => std::path::absolute(dir).map_err(Error::CurrentDirUnreadable)?,
        None if user.uid == own => session.home.path().to_owned(),
        None => user.dir.join(".rsm"),
    };
    if !home.exists() && !home.parent().is_some_and(Path::exists) {
        return Err(failed(format!(
            "home directory {} of user {} does not exist; use --home DIR",
            home.parent().unwrap_or(&home).display(),
            user.name
        )));
    }
    // Of one's own there is but one systemd, and only systemd has such units.
    let of_system = own.is_root() || system != InitSystem::Systemd;
    let default = if of_system { format!("rsm-{}", user.name) } else { "rsm".to_owned() };
    let name = args.service_name.clone().unwrap_or(default);
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(fits) {
        return Err(failed(format!(
            "invalid service name {name:?}: use letters, digits, `-`, `_`, `.` and `@`"
        )));
    }
    Ok(Service {
        name,
        program: program(command)?,
        user: of_system.then_some(user.name),
        user_dir: user.dir,
        home,
    })
}

/// This program by the name that it keeps: a link in `PATH` that leads here stays when the version
/// behind it changes.
fn program(command: &'static str) -> Result<PathBuf, Error> {
    let exe = std::env::current_exe()
        .map_err(|error| Error::Io { context: "cannot find the rsm binary", error })?;
    let same = |path: &PathBuf| fs::canonicalize(path).is_ok_and(|found| found == exe);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join("rsm")).find(same);
    match found {
        Some(path) => Ok(path),
        None if exe.exists() => Ok(exe),
        None => Err(startup_error(command, format!("{}: the binary was replaced; try again", exe.display()))),
    }
}

/// Refuses a program that the service's user cannot execute: the unit would only fail at the next start.
fn check_executable(job: &InstallJob) -> Result<(), Error> {
    let service = &job.service;
    let Some(user) = service.user.as_ref().filter(|user| *user != "root") else { return Ok(()) };
    let closed = service
        .program
        .ancestors()
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0));
    let own = service.program.starts_with(&service.user_dir);
    match closed.filter(|_| !own) {
        Some(path) => Err(job.startup_error(format!(
            "user {user} cannot execute {}: {} is not accessible by other users; install rsm in a public directory \
             such as /usr/local/bin and run it from there",
            service.program.display(),
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Refuses early what would fail half-way.
fn check_writable(job: &InstallJob) -> Result<(), Error> {
    if job.service.user.is_none() || geteuid().is_root() {
        return Ok(());
    }
    Err(job.startup_error(format!(
        "{} requires root: run `rsm {} --user {}` as root",
        job.system.name(),
        job.command,
        job.service.user.as_deref().unwrap_or_default()
    )))
}

/// The files to write, then the commands to run.
fn print_install(plan: &InstallPlan) -> Result<(), Error> {
    let files = plan.files.iter().map(|file| format!("# {}\n{}\n", file.path.display(), file.text));
    let steps = plan.install.iter().map(|step| format!("# then run: {}\n", step.display()));
    output::print(&files.chain(steps).collect::<String>())
}

/// The commands to run and the files to remove, in their order.
fn print_removal(plan: &InstallPlan) -> Result<(), Error> {
    let run = |step: &InitCommand| format!("run: {}\n", step.display());
    let files = plan.files.iter().map(|file| format!("remove: {}\n", file.path.display()));
    let before = plan.before_removal.iter().map(run);
    output::print(&before.chain(files).chain(plan.after_removal.iter().map(run)).collect::<String>())
}

/// Writes a file beside its place and puts it there; false if it was like that already.
fn write(file: &UnitFile) -> io::Result<bool> {
    let mode = if file.executable { 0o755 } else { 0o644 };
    let there = fs::read(&file.path).is_ok_and(|text| text == file.text.as_bytes());
    if there && fs::metadata(&file.path)?.permissions().mode() & 0o777 == mode {
        return Ok(false);
    }
    if let Some(dir) = file.path.parent() {
        fs::create_dir_all(dir)?;
    }
    let new = file
        .path
        .with_file_name(format!(".{}.new", file.path.file_name().unwrap_or_default().to_string_lossy()));
    let mut opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
    opened.write_all(file.text.as_bytes())?;
    opened.set_permissions(fs::Permissions::from_mode(mode))?;
    opened.sync_all()?;
    fs::rename(&new, &file.path)?;
    Ok(true)
}

fn run_all(steps: &[InitCommand], job: &InstallJob, session: &Session) -> Result<(), Error> {
    for step in steps {
        if step.needs_running_init && !job.init_running {
            session.notice(format_args!(
                "skipped ({} is not running): {}",
                job.system.name(),
                step.display()
            ));
            continue;
        }
        run(step, job)?;
        session.notice(format_args!("ran {}", step.display()));
    }
    Ok(())
}

fn run(step: &InitCommand, job: &InstallJob) -> Result<(), Error> {
    let [program, args @ ..] = &step.argv[..] else { return Ok(()) };
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| job.startup_error(format!("cannot run {}: {error}", step.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut reason = format!("{} failed ({}): {}", step.display(), output.status, said.trim());
    if step.argv.iter().any(|word| word == "--user") && said.contains("bus") {
        reason += ". Log in as this user (su and sudo do not create a session), or set XDG_RUNTIME_DIR=/run/user/$(id -u)";
    }
    Err(job.startup_error(reason))
}

/// A user's own systemd ends with the user's last session, unless it is told to linger.
fn enable_linger(job: &InstallJob, session: &Session) {
    if job.service.user.is_some() || job.system != InitSystem::Systemd {
        return;
    }
    let user = User::from_uid(geteuid()).ok().flatten().map(|user| user.name).unwrap_or_default();
    if Path::new("/var/lib/systemd/linger").join(&user).exists() {
        return;
    }
    let asked = Command::new("loginctl").args(["enable-linger", &user]).stdin(Stdio::null()).output();
    match asked {
        Ok(output) if output.status.success() => {
            session.notice(format_args!("enabled lingering for {user}: apps start at boot and keep running after logout"));
        }
        _ => session.notice(format_args!(
            "warning: lingering is not enabled for {user}: apps start at login and stop at logout; ask an administrator \
             to run `loginctl enable-linger {user}`"
        )),
    }
}
