//! Checks of the system and of rsm.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use crate::cli::commands::doctor::{Check, CheckStatus};
use crate::cli::session::Session;
use crate::daemon::jobs::dump;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{DisplayStatus, InstanceView, Pong, Request};
use crate::process::process_ref::ProcessRef;
use crate::settings::RsmSettings;
use crate::version::version;

/// Minimum free disk space in bytes, for the state and a burst of logs.
const MIN_FREE_BYTES: u64 = 256 << 20;
/// Minimum limit of open files, for apps with many connections.
const MIN_OPEN_FILES: u64 = 4096;

/// Runs all checks. Changes nothing.
pub(crate) async fn check_machine(session: &Session) -> Vec<Check> {
    let mut checks = vec![
        check_home(session),
        check_disk(session),
        check_config(session),
        check_kernel(),
        check_cgroups(),
        check_open_files(),
        check_inotify(),
    ];
    checks.extend(check_daemon(session).await);
    checks
}

fn ok(subject: &str, message: impl Into<String>) -> Check {
    Check::new(CheckStatus::Ok, subject, message)
}

fn warning(subject: &str, message: impl Into<String>) -> Check {
    Check::new(CheckStatus::Warning, subject, message)
}

fn failed(subject: &str, message: impl Into<String>) -> Check {
    Check::new(CheckStatus::Failed, subject, message)
}

fn check_home(session: &Session) -> Check {
    let dir = session.home.path();
    let shown = dir.display();
    match fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            ok("home", format!("{shown} will be created by the first start"))
        }
        Err(error) => failed("home", format!("{shown}: {error}; fix it, or set RSM_HOME")),
        Ok(meta) if !meta.is_dir() => {
            failed("home", format!("{shown} is not a directory; remove it, or set RSM_HOME"))
        }
        Ok(_) if access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_err() => {
            failed("home", format!("{shown} is not writable; set RSM_HOME to another directory"))
        }
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            warning("home", format!("{shown} is accessible by other users; run chmod 700 {shown}"))
        }
        Ok(_) => ok("home", shown.to_string()),
    }
}

fn check_disk(session: &Session) -> Check {
    let existing = session.home.path().ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let Ok(stat) = statvfs(existing) else { return warning("disk", "free space unknown") };
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let text = format!("{} MiB free for {}", free >> 20, session.home.path().display());
    if free < MIN_FREE_BYTES {
        failed("disk", format!("{text}; writing logs and state may fail"))
    } else {
        ok("disk", text)
    }
}

fn check_config(session: &Session) -> Check {
    match RsmSettings::load(&session.home) {
        Ok(settings) if settings.autosave() => ok("settings", "autosave is on"),
        Ok(_) => ok("settings", "autosave is off; enable it with `rsm conf autosave true`"),
        Err(error) => failed("settings", format!("{error}; fix or remove it")),
    }
}

fn check_kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if ProcessRef::of(std::process::id().cast_signed()).is_none() {
        return failed("kernel", "/proc shows no processes; mount it without hidepid");
    }
    match version {
        (0, _) => warning("kernel", format!("unknown kernel version {release:?}")),
        version if version < (5, 3) => {
            failed("kernel", format!("Linux {release} is not supported; 5.3 or later is required"))
        }
        version if version < (5, 9) => {
            warning("kernel", format!("Linux {release}: port sharing requires 5.9 or later"))
        }
        _ => ok("kernel", format!("Linux {release}")),
    }
}

fn check_cgroups() -> Check {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let dir = Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return warning("cgroups", "cgroup v2 is not mounted; process trees are tracked through /proc only");
    }
    match access(&dir, AccessFlags::W_OK) {
        Ok(()) => ok("cgroups", format!("{} is delegated", dir.display())),
        Err(_) => warning(
            "cgroups",
            "the cgroup of this session is not delegated; that of the service installed by `rsm startup` is",
        ),
    }
}

fn check_open_files() -> Check {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard < MIN_OPEN_FILES => warning(
            "open files",
            format!("limited to {hard}; raise `ulimit -Hn` for apps with many connections"),
        ),
        Ok((soft, hard)) => ok("open files", format!("{soft}, up to {hard}")),
        Err(errno) => warning("open files", errno.desc()),
    }
}

fn check_inotify() -> Check {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap_or_default();
    match limit.trim().parse::<u64>() {
        Ok(limit) if limit < 16_384 => warning(
            "watches",
            format!("limited to {limit} watched directories; run sysctl fs.inotify.max_user_watches=524288"),
        ),
        Ok(limit) => ok("watches", limit.to_string()),
        Err(_) => warning("watches", "inotify is not available; `watch` will not work"),
    }
}

async fn check_daemon(session: &Session) -> Vec<Check> {
    let mut client = match Client::connect(&session.home).await {
        Ok(client) => client,
        Err(ClientError::NotRunning { .. }) if session.home.has_state() => {
            return vec![warning(
                "daemon",
                "killed together with the keeper; the next command restarts both",
            )];
        }
        Err(ClientError::NotRunning { .. }) => {
            return vec![ok("daemon", "not running; `rsm start` starts it")];
        }
        Err(error) => return vec![failed("daemon", error.to_string())],
    };
    let response =
        tokio::time::timeout(std::time::Duration::from_secs(10), client.call::<Pong>(&Request::Ping)).await;
    let mut checks = match response {
        Ok(Ok(pong)) if pong.version != version() => {
            vec![warning(
                "daemon",
                format!("rsm {}, but this is rsm {}; run `rsm upgrade`", pong.version, version()),
            )]
        }
        Ok(Ok(pong)) => vec![ok("daemon", format!("rsm {}, pid {}", pong.version, pong.pid))],
        Ok(Err(error)) => return vec![failed("daemon", error.to_string())],
        Err(_) => {
            return vec![failed(
                "daemon",
                format!("no response for 10 s; see {}", session.home.daemon_log().display()),
            )];
        }
    };
    if let Ok(list) = client.call::<Vec<InstanceView>>(&Request::List).await {
        checks.extend(check_list(session, &list));
    }
    checks
}

fn check_list(session: &Session, list: &[InstanceView]) -> Vec<Check> {
    let errored: Vec<String> = list
        .iter()
        .filter(|view| view.status == DisplayStatus::Errored)
        .map(|view| format!("{} (id {})", view.name, view.id))
        .collect();
    let mut checks = Vec::new();
    if !errored.is_empty() {
        checks.push(failed("apps", format!("errored: {}; see `rsm describe`", errored.join(", "))));
    }
    let saved = dump::load(&session.home).map_or(0, |(saved, _)| saved.len());
    if saved != list.len() {
        checks.push(warning(
            "saved list",
            format!("{saved} instances saved, {} listed; run `rsm save`", list.len()),
        ));
    }
    checks
}
