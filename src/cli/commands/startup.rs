//! `startup` and `unstartup`: install and remove the service that starts rsm and the saved apps at boot.

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

// The service to install, remove or check: arguments of `startup`, `unstartup` and `doctor`.
#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    /// Init system: systemd, openrc, sysv or runit [default: detected]
    #[arg(value_name = "SYSTEM", hide_possible_values = true)]
    system: Option<InitSystem>,
    /// User that owns the apps; a different user requires root [default: current user]
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// RSM_HOME of that user [default: ~/.rsm]
    #[arg(long, visible_alias = "hp", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Name of the service [default: rsm-USER, or rsm for a systemd user service]
    #[arg(long, value_name = "NAME")]
    service_name: Option<String>,
}

impl ServiceArgs {
    /// Whether any of them was given.
    pub(crate) fn is_given(&self) -> bool {
        let Self { system, user, home, service_name } = self;
        system.is_some() || user.is_some() || home.is_some() || service_name.is_some()
    }
}

// Arguments of `unstartup`.
#[derive(Args, Debug)]
pub(crate) struct UnstartupArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Print the commands and the files to remove, and change nothing
    #[arg(long)]
    print: bool,
}

// Arguments of `startup`.
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

/// The installation or removal of a service.
struct InstallJob {
    /// The name of the command, for error messages.
    command: &'static str,
    plan: InstallPlan,
    service: Service,
    system: InitSystem,
    /// Whether the init system is running, so that its commands work. It is not in a chroot.
    init_running: bool,
}

/// Writes, enables and starts the service. Idempotent.
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
        let result = if changed { "wrote" } else { "unchanged:" };
        session.notice(format_args!("{result} {}", file.path.display()));
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

/// Disables and removes the service. Running apps are not affected.
pub(crate) fn unstartup(args: &UnstartupArgs, session: &Session) -> Result<(), Error> {
    let job = prepare(&args.service, "unstartup", session)?;
    let is_installed = job.plan.files.iter().any(|file| file.path.exists());
    if !is_installed {
        session
            .notice(format_args!("{} does not exist, nothing to remove", job.plan.files[0].path.display()));
    }
    if args.print {
        return print_removal(&job.plan);
    }
    if !is_installed {
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
        let _ = fs::remove_dir(dir); // not empty while runit supervises the service
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
    let init_running = Path::new(plan.running_marker).exists();
    Ok(InstallJob { command, plan, service, system, init_running })
}

/// Returns the service that the arguments select, and the path of its unit file.
pub(crate) fn service_and_unit(
    args: &ServiceArgs,
    command: &'static str,
    session: &Session,
) -> Result<(Service, PathBuf), Error> {
    let job = prepare(args, command, session)?;
    let file = job.plan.files.first().map(|file| file.path.clone()).unwrap_or_default();
    Ok((job.service, file))
}

/// Determines user, home directory, name and program of the service.
fn service(
    args: &ServiceArgs,
    command: &'static str,
    session: &Session,
    system: InitSystem,
) -> Result<Service, Error> {
    let to_error = |reason| startup_error(command, reason);
    let own_uid = geteuid();
    let by_name = |name: &String| {
        let user = User::from_name(name).ok().flatten();
        user.ok_or_else(|| to_error(format!("user {name:?} does not exist")))
    };
    let user = match &args.user {
        Some(name) => by_name(name)?,
        None => User::from_uid(own_uid)
            .ok()
            .flatten()
            .ok_or_else(|| to_error(format!("no passwd entry for uid {own_uid}")))?,
    };
    if !own_uid.is_root() && user.uid != own_uid {
        return Err(to_error(format!("only root can manage the service of user {}", user.name)));
    }
    if own_uid.is_root()
        && args.user.is_none()
        && std::env::var_os("SUDO_USER").is_some_and(|user| user != "root")
    {
        session.notice(format_args!(
            "note: this is the service of root; for your own apps use --user \"$SUDO_USER\""
        ));
    }
    let home = match &args.home {
        Some(dir) => std::path::absolute(dir).map_err(Error::CurrentDirUnreadable)?,
        None if user.uid == own_uid => session.home.path().to_owned(),
        None => user.dir.join(".rsm"),
    };
    if !home.exists() && !home.parent().is_some_and(Path::exists) {
        return Err(to_error(format!(
            "home directory {} of user {} does not exist; use --home DIR",
            home.parent().unwrap_or(&home).display(),
            user.name
        )));
    }
    // Only systemd has user services. A user has one systemd instance, so the name needs no user.
    let is_system_service = own_uid.is_root() || system != InitSystem::Systemd;
    let default = if is_system_service { format!("rsm-{}", user.name) } else { "rsm".to_owned() };
    let name = args.service_name.clone().unwrap_or(default);
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(is_allowed) {
        return Err(to_error(format!(
            "invalid service name {name:?}: use letters, digits, `-`, `_`, `.` and `@`"
        )));
    }
    Ok(Service {
        name,
        program: program(command)?,
        user: is_system_service.then_some(user.name),
        user_dir: user.dir,
        home,
    })
}

/// The path of this program. A link in `PATH` is preferred: it stays valid when it is changed to a new version.
fn program(command: &'static str) -> Result<PathBuf, Error> {
    let exe = std::env::current_exe()
        .map_err(|error| Error::Io { context: "cannot find the rsm binary", error })?;
    let is_own = |path: &PathBuf| fs::canonicalize(path).is_ok_and(|target| target == exe);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join("rsm")).find(is_own);
    match found {
        Some(path) => Ok(path),
        None if exe.exists() => Ok(exe),
        None => Err(startup_error(command, format!("{}: the binary was replaced; try again", exe.display()))),
    }
}

/// Checks that the user of the service can execute the program. Otherwise the service would fail at the next boot.
fn check_executable(job: &InstallJob) -> Result<(), Error> {
    let service = &job.service;
    let Some(user) = service.user.as_ref().filter(|user| *user != "root") else { return Ok(()) };
    let inaccessible = service
        .program
        .ancestors()
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0));
    let in_own_dir = service.program.starts_with(&service.user_dir);
    match inaccessible.filter(|_| !in_own_dir) {
        Some(path) => Err(job.startup_error(format!(
            "user {user} cannot execute {}: {} is not accessible by other users; install rsm in a public directory \
             such as /usr/local/bin and run it from there",
            service.program.display(),
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Checks permissions before the first change, so that no installation is left incomplete.
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

/// Prints the files to write and the commands to run.
fn print_install(plan: &InstallPlan) -> Result<(), Error> {
    let files = plan.files.iter().map(|file| format!("# {}\n{}\n", file.path.display(), file.text));
    let steps = plan.install.iter().map(|step| format!("# then run: {}\n", step.display()));
    output::print(&files.chain(steps).collect::<String>())
}

/// Prints the commands to run and the files to remove, in order.
fn print_removal(plan: &InstallPlan) -> Result<(), Error> {
    let run = |step: &InitCommand| format!("run: {}\n", step.display());
    let files = plan.files.iter().map(|file| format!("remove: {}\n", file.path.display()));
    let before = plan.before_removal.iter().map(run);
    output::print(&before.chain(files).chain(plan.after_removal.iter().map(run)).collect::<String>())
}

/// Writes a file atomically. Returns false if it is already up to date.
fn write(file: &UnitFile) -> io::Result<bool> {
    let mode = if file.executable { 0o755 } else { 0o644 };
    let is_equal = fs::read(&file.path).is_ok_and(|text| text == file.text.as_bytes());
    if is_equal && fs::metadata(&file.path)?.permissions().mode() & 0o777 == mode {
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
    let stderr = String::from_utf8_lossy(&output.stderr);
    let mut reason = format!("{} failed ({}): {}", step.display(), output.status, stderr.trim());
    if step.argv.iter().any(|word| word == "--user") && stderr.contains("bus") {
        reason += ". Log in as this user (su and sudo do not create a session), or set XDG_RUNTIME_DIR=/run/user/$(id -u)";
    }
    Err(job.startup_error(reason))
}

/// Enables lingering. Otherwise the systemd instance of a user exits with the last session of the user.
fn enable_linger(job: &InstallJob, session: &Session) {
    if job.service.user.is_some() || job.system != InitSystem::Systemd {
        return;
    }
    let user = User::from_uid(geteuid()).ok().flatten().map(|user| user.name).unwrap_or_default();
    if Path::new("/var/lib/systemd/linger").join(&user).exists() {
        return;
    }
    let output = Command::new("loginctl").args(["enable-linger", &user]).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            session.notice(format_args!("enabled lingering for {user}: apps start at boot and keep running after logout"));
        }
        _ => session.notice(format_args!(
            "warning: lingering is not enabled for {user}: apps start at login and stop at logout; ask an administrator \
             to run `loginctl enable-linger {user}`"
        )),
    }
}
