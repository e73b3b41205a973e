//! `startup` and `unstartup`: have the saved apps started with the machine, and no more.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use nix::unistd::{User, geteuid};

use super::output;
use super::session::Session;
use crate::boot::{InitCommand, InitSystem, InstallPlan, Service, UnitFile};
use crate::error::Error;

// Arguments of `startup` and `unstartup`.
#[derive(Args, Debug)]
pub(super) struct Startup {
    /// The init system; found out unless given
    #[arg(value_name = "SYSTEM")]
    system: Option<InitSystem>,
    /// Whose apps; another user's only as root
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// That user's RSM_HOME, where it is not ~/.rsm
    #[arg(long, visible_alias = "hp", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Name of the service, for more than one of a user
    #[arg(long, value_name = "NAME")]
    service_name: Option<String>,
    /// Only print what would be written and run
    #[arg(long)]
    print: bool,
    /// PM2's; the network is always waited for
    #[arg(long, hide = true)]
    wait_ip: bool,
}

/// All that is to be done, and for whom.
struct Job {
    plan: InstallPlan,
    service: Service,
    system: InitSystem,
    /// The init system runs here: what talks to it makes sense.
    live: bool,
}

/// Writes the unit, enables and starts it. Done twice it changes nothing the second time.
pub(super) fn startup(args: &Startup, session: &Session) -> Result<(), Error> {
    let job = job(args, session)?;
    executable_by(&job.service)?;
    if args.print {
        return print(&job, &job.plan.install);
    }
    writable(&job)?;
    for file in &job.plan.files {
        let changed =
            write(file).map_err(|error| failed(format!("writing {}: {error}", file.path.display())))?;
        let what = if changed { "wrote" } else { "is as it should be:" };
        session.note(format_args!("{what} {}", file.path.display()));
    }
    run_all(&job.plan.install, &job, session)?;
    linger(&job, session);
    session.note(format_args!(
        "{}'s saved apps are started with the machine from now on; `rsm save` saves the list, `rsm conf autosave true` \
         has that done after each change",
        job.service.user.as_deref().unwrap_or("this user")
    ));
    Ok(())
}

/// Disables and removes the unit. Apps that run are left alone.
pub(super) fn unstartup(args: &Startup, session: &Session) -> Result<(), Error> {
    let job = job(args, session)?;
    if args.print {
        return print(&job, &job.plan.before_removal);
    }
    if !job.plan.files.iter().any(|file| file.path.exists()) {
        session
            .note(format_args!("{} is not there: there is nothing to do", job.plan.files[0].path.display()));
        return Ok(());
    }
    writable(&job)?;
    run_all(&job.plan.before_removal, &job, session)?;
    for file in job.plan.files.iter().filter(|file| file.path.exists()) {
        fs::remove_file(&file.path)
            .map_err(|error| failed(format!("removing {}: {error}", file.path.display())))?;
        session.note(format_args!("removed {}", file.path.display()));
    }
    if let Some(dir) = &job.plan.directory {
        let _ = fs::remove_dir(dir); // runit keeps things of its own in it while it runs
    }
    run_all(&job.plan.after_removal, &job, session)?;
    session.note(format_args!("apps that run go on; `rsm kill` ends them"));
    Ok(())
}

fn failed(reason: String) -> Error {
    Error::Part { part: "startup", reason }
}

fn job(args: &Startup, session: &Session) -> Result<Job, Error> {
    let system = args.system.or_else(|| InitSystem::detect(Path::new("/"))).ok_or_else(|| {
        failed("no init system that is known runs here; name one: systemd, openrc, sysv, runit. In a container use `rsm runtime`".into())
    })?;
    let service = service(args, session, system)?;
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let plan =
        InstallPlan::new(system, &service, &config.unwrap_or_else(|| service.user_dir.join(".config")));
    let live = Path::new(plan.running_marker).exists();
    Ok(Job { plan, service, system, live })
}

/// The service that these arguments are about, and its unit's file.
///
/// # Errors
/// There is no such user, or no init system that is known.
pub(super) fn service_and_file(args: &Startup, session: &Session) -> Result<(Service, PathBuf), Error> {
    let job = job(args, session)?;
    let file = job.plan.files.first().map(|file| file.path.clone()).unwrap_or_default();
    Ok((job.service, file))
}

/// Whose apps, from where, by which rsm.
fn service(args: &Startup, session: &Session, system: InitSystem) -> Result<Service, Error> {
    let own = geteuid();
    let named = |name: &String| {
        let user = User::from_name(name).ok().flatten();
        user.ok_or_else(|| failed(format!("there is no user {name:?}")))
    };
    let user = match &args.user {
        Some(name) => named(name)?,
        None => {
            User::from_uid(own).ok().flatten().ok_or_else(|| failed(format!("user {own} has no name")))?
        }
    };
    if !own.is_root() && user.uid != own {
        return Err(failed(format!("only root may set up what runs as {}; or leave --user away", user.name)));
    }
    if own.is_root() && args.user.is_none() && std::env::var_os("SUDO_USER").is_some_and(|who| who != "root")
    {
        session.note(format_args!("this is about root's apps; for your own add: --user \"$SUDO_USER\""));
    }
    let home = match &args.home {
        Some(dir) => std::path::absolute(dir).map_err(Error::NoDirectory)?,
        None if user.uid == own => session.home.dir().to_owned(),
        None => user.dir.join(".rsm"),
    };
    if !home.exists() && !home.parent().is_some_and(Path::exists) {
        return Err(failed(format!(
            "{} has no place for rsm's files: {} is not there. Name a directory of that user's: --home DIR",
            user.name,
            home.parent().unwrap_or(&home).display()
        )));
    }
    // Of one's own there is but one systemd, and only systemd has such units.
    let of_system = own.is_root() || system != InitSystem::Systemd;
    let default = if of_system { format!("rsm-{}", user.name) } else { "rsm".to_owned() };
    let name = args.service_name.clone().unwrap_or(default);
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(fits) {
        return Err(failed(format!(
            "{name:?} is no name for a service: letters, digits, and - _ . @ make one"
        )));
    }
    Ok(Service { name, program: program()?, user: of_system.then_some(user.name), user_dir: user.dir, home })
}

/// This program by the name that it keeps: a link in `PATH` that leads here stays when the version
/// behind it changes.
fn program() -> Result<PathBuf, Error> {
    let exe = std::env::current_exe().map_err(|error| Error::System { what: "finding rsm itself", error })?;
    let same = |path: &PathBuf| fs::canonicalize(path).is_ok_and(|found| found == exe);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join("rsm")).find(same);
    match found {
        Some(path) => Ok(path),
        None if exe.exists() => Ok(exe),
        None => Err(failed(format!("{}: rsm was replaced meanwhile; try again", exe.display()))),
    }
}

/// Refuses a program that the service's user cannot execute: the unit would only fail at the next start.
fn executable_by(service: &Service) -> Result<(), Error> {
    let Some(user) = service.user.as_ref().filter(|user| *user != "root") else { return Ok(()) };
    let closed = service
        .program
        .ancestors()
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0));
    let own = service.program.starts_with(&service.user_dir);
    match closed.filter(|_| !own) {
        Some(path) => Err(failed(format!(
            "{user} may not execute {}: {} is closed to others. Install rsm where all can reach it, such as \
             /usr/local/bin/rsm, and run that",
            service.program.display(),
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Refuses early what would fail half-way.
fn writable(job: &Job) -> Result<(), Error> {
    if job.service.user.is_none() || geteuid().is_root() {
        return Ok(());
    }
    Err(failed(format!(
        "{} is started by root alone; run this as root: rsm startup --user {}",
        job.system.name(),
        job.service.user.as_deref().unwrap_or_default()
    )))
}

fn print(job: &Job, steps: &[InitCommand]) -> Result<(), Error> {
    let mut text = String::new();
    for file in &job.plan.files {
        text += &format!("# {}\n{}\n", file.path.display(), file.text);
    }
    for step in steps {
        text += &format!("# then: {}\n", step.display());
    }
    output::text(&text)
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

fn run_all(steps: &[InitCommand], job: &Job, session: &Session) -> Result<(), Error> {
    for step in steps {
        if step.needs_running_init && !job.live {
            session.note(format_args!(
                "left out, as {} does not run here: {}",
                job.system.name(),
                step.display()
            ));
            continue;
        }
        run(step)?;
        session.note(format_args!("ran {}", step.display()));
    }
    Ok(())
}

fn run(step: &InitCommand) -> Result<(), Error> {
    let [program, args @ ..] = &step.argv[..] else { return Ok(()) };
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(format!("running {}: {error}", step.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut reason = format!("{} failed ({}): {}", step.display(), output.status, said.trim());
    if step.argv.iter().any(|word| word == "--user") && said.contains("bus") {
        reason +=
            ". Log in as this user (su and sudo open no session), or set XDG_RUNTIME_DIR=/run/user/$(id -u)";
    }
    Err(failed(reason))
}

/// A user's own systemd ends with the user's last session, unless it is told to linger.
fn linger(job: &Job, session: &Session) {
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
            session.note(format_args!("ran loginctl enable-linger {user}: the apps start with the machine, and stay when you log out"));
        }
        _ => session.note(format_args!(
            "warning: until an administrator has run `loginctl enable-linger {user}`, your apps start when you log in, \
             and end when you log out"
        )),
    }
}
