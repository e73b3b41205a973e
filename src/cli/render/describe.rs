//! `describe`: all details of an instance, in sections. Environment variables are shown without their values.

use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::list::mode;
use super::style::{Style, Tone, tame, width};
use super::units;
use crate::ipc::message::{DisplayStatus, ExitView, InstanceDetail, LimitView};
use crate::spec::{
    AppSpec, Autoscale, Condition, Dependency, KillMode, Overlap, Probe, RestartDelay, RestartPolicy,
    known_program,
};

/// A heading and its rows.
type Section = (&'static str, Vec<(&'static str, String)>);

/// Renders the page. `stderr` contains the last lines of standard error.
pub(crate) fn describe(detail: &InstanceDetail, stderr: &[String], zone: &TimeZone, style: Style) -> String {
    let view = &detail.view;
    let title = format!("{} (id {})", tame(&view.name), view.id);
    let mut page = format!("{}\n", style.paint(Tone::Heading, &title));
    let sections = [
        identity(detail),
        command(detail),
        state(detail, zone),
        restart(&detail.spec),
        limits(detail),
        ports(detail),
        logs(detail),
    ];
    for (heading, rows) in sections.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        page.push_str(&format!("\n{}\n", style.paint(Tone::Heading, heading)));
        for (key, value) in rows {
            let tone = if key == "status" { Tone::of(view.status) } else { Tone::Plain };
            page.push_str(&format!("  {key:<14} {}\n", style.paint(tone, &tame(&value))));
        }
    }
    page.push_str(&format!("\n{}\n", style.paint(Tone::Heading, "Exit history")));
    page.push_str(&exit_table(&detail.exits, zone));
    if !stderr.is_empty() {
        page.push_str(&format!("\n{}\n", style.paint(Tone::Heading, "Last lines of stderr")));
        stderr.iter().for_each(|line| page.push_str(&format!("  {}\n", tame(line))));
    }
    page
}

fn identity(detail: &InstanceDetail) -> Section {
    let (view, spec) = (&detail.view, &detail.spec);
    let mut rows = vec![
        ("name", view.name.clone()),
        ("namespace", view.namespace.clone()),
        ("instance", format!("{} (number within the app)", view.number)),
        ("version", view.version.clone().unwrap_or_else(|| "N/A".into())),
        ("mode", mode(view.mode).into()),
    ];
    rows.extend(spec.source.as_ref().map(|file| ("ecosystem file", display_path(file))));
    rows.extend(view.drift.as_ref().map(|drift| ("drift", drift.clone())));
    ("Identity", rows)
}

fn command(detail: &InstanceDetail) -> Section {
    let names: Vec<&str> = detail.spec.env.keys().map(String::as_str).collect();
    let line = detail.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let mut rows = vec![
        ("command", line),
        ("directory", display_path(&detail.spec.cwd)),
        ("user", detail.view.user.clone()),
        ("environment", if names.is_empty() { "none".into() } else { names.join(" ") }),
    ];
    if !names.is_empty() {
        rows.push(("", format!("see `rsm env {}` for values", detail.view.id)));
    }
    ("Command", rows)
}

fn state(detail: &InstanceDetail, zone: &TimeZone) -> Section {
    let view = &detail.view;
    let status = match &view.reason {
        Some(reason) => format!("{}: {reason}", view.status.as_str()),
        None => view.status.as_str().into(),
    };
    let mut rows = vec![("status", status)];
    if let Some(pid) = view.pid {
        let others = detail.processes.iter().filter(|other| **other != pid).count();
        let tree = if others == 0 { String::new() } else { format!(" (+{others} child processes)") };
        rows.push(("process", format!("{pid}{tree}")));
        rows.push(("cpu, memory", format!("{}, {}", units::percent(view.cpu), units::size(view.memory))));
    }
    if let (Some(since), Some(uptime)) = (view.started_at, view.uptime) {
        rows.push((
            "uptime",
            format!("{}, since {}", units::duration(uptime), units::local_time(since, zone)),
        ));
    }
    if let Some(next) = view.next_run {
        rows.push(("next run", units::local_time(next, zone)));
    }
    rows.push(("runs", view.runs.to_string()));
    rows.push(("restarts", format!("{} ({} unstable)", view.restarts, view.unstable_restarts)));
    rows.push(("crashes", view.crashes.to_string()));
    rows.push(("added", units::local_time(detail.created_at, zone)));
    ("State", rows)
}

/// The schedule, its time zone, and what it does while a run has not ended.
fn schedule_text(schedule: &str, spec: &AppSpec) -> String {
    let zone = spec.timezone.as_ref().map(|zone| format!(" ({zone})")).unwrap_or_default();
    let rule = match spec.overlap {
        Overlap::Replace => "",
        Overlap::Skip => ", skipped while it runs",
        Overlap::Queue => ", queued while it runs",
    };
    format!("{schedule}{zone}{rule}")
}

fn restart(spec: &AppSpec) -> Section {
    let policy = &spec.restart;
    let mut rows = vec![
        ("restart policy", if policy.autorestart { "always" } else { "never" }.into()),
        ("restart delay", delay_text(policy.delay)),
        ("restart limit", restart_limit(policy)),
        ("stop", stop_text(spec)),
    ];
    if !policy.stop_exit_codes.is_empty() {
        let codes: Vec<String> = policy.stop_exit_codes.iter().map(i32::to_string).collect();
        rows.push(("no restart on", format!("exit code {}", codes.join(", "))));
    }
    rows.extend(spec.max_memory_restart.map(|bytes| ("memory limit", units::size(bytes))));
    rows.extend(spec.cron_restart.as_ref().map(|schedule| ("schedule", schedule_text(schedule, spec))));
    if !spec.depends_on.is_empty() {
        let text = |on: &Dependency| match on.condition {
            Condition::Started => format!("{} (started)", on.app),
            Condition::Ready => on.app.clone(),
            Condition::Completed => format!("{} (completed)", on.app),
        };
        rows.push(("depends on", spec.depends_on.iter().map(text).collect::<Vec<_>>().join(", ")));
    }
    if let Some(watch) = &spec.watch {
        let paths: Vec<String> = watch.paths.iter().map(|path| display_path(path)).collect();
        rows.push(("watch", paths.join(" ")));
    }
    if spec.readiness.wait_ready {
        rows.push((
            "ready",
            format!("on READY=1 or the message `ready`, within {}", duration_text(spec.readiness.timeout)),
        ));
    }
    if let Some(probe) = &spec.readiness.probe {
        let (every, within) = (duration_text(probe.interval), duration_text(spec.readiness.timeout));
        rows.push(("ready", format!("{}, every {every}, within {within}", probe.action)));
    }
    if let Some(probe) = &spec.health {
        let Probe { action: check, interval, timeout, retries, start_period } = probe;
        let times = format!("every {}, timeout {}", duration_text(*interval), duration_text(*timeout));
        let grace = if start_period.is_zero() {
            String::new()
        } else {
            format!(", start period {}", duration_text(*start_period))
        };
        rows.push((
            "health",
            format!("{check}, {times}, replaced after {retries} consecutive failures{grace}"),
        ));
    }
    rows.extend(spec.watchdog.map(|limit| {
        ("watchdog", format!("WATCHDOG=1 at least every {}", duration_text(Duration::from_millis(limit))))
    }));
    if let Some(Autoscale { min, max, cpu, .. }) = &spec.autoscale {
        rows.push(("autoscale", format!("{min} to {max} instances, scale up above {cpu}% CPU per instance")));
    }
    ("Restarts and limits", rows)
}

fn ports(detail: &InstanceDetail) -> Section {
    let Some(ports) = &detail.ports else { return ("Ports", Vec::new()) };
    let mut rows = Vec::new();
    if !ports.addresses.is_empty() || !ports.mechanism.is_empty() {
        rows.push(("addresses", ports.addresses.join(", ")));
    }
    if !ports.mechanism.is_empty() {
        rows.push(("port sharing", format!("{} ({})", ports.mechanism, ports.reason)));
    }
    rows.extend(detail.connections.map(|count| ("connections", count.to_string())));
    rows.extend(ports.warnings.iter().map(|warning| ("warning", warning.clone())));
    ("Ports", rows)
}

fn limits(detail: &InstanceDetail) -> Section {
    let row = |limit: &LimitView| {
        let (key, value) = match limit.limit.as_str() {
            "memory_max" => ("memory", units::size(limit.value)),
            "cpu_max" => ("cpu", format!("{}% of one core", limit.value)),
            _ => ("processes", limit.value.to_string()),
        };
        let note = limit.note.iter().map(|note| format!("; {note}")).collect::<String>();
        let by = match limit.enforced_by.as_str() {
            "nothing" => "not enforced".to_owned(),
            by => format!("enforced by {by}"),
        };
        (key, format!("{value}, {by}{note}"))
    };
    ("Hard limits", detail.limits.iter().map(row).collect())
}

fn logs(detail: &InstanceDetail) -> Section {
    let file = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or_else(|| "none".into(), |path| display_path(path))
    };
    let mut rows = vec![("stdout", file(&detail.out_file)), ("stderr", file(&detail.error_file))];
    rows.extend(detail.log_file.as_ref().map(|path| ("combined", display_path(path))));
    rows.extend(detail.log_notes.iter().map(|note| ("note", note.clone())));
    rows.push(("pid file", display_path(&detail.pid_file)));
    ("Files", rows)
}

fn delay_text(delay: RestartDelay) -> String {
    match delay {
        RestartDelay::Fixed(delay) => format!("fixed {}", duration_text(delay)),
        RestartDelay::Backoff { initial } => {
            format!(
                "none after the first unstable exit, then exponential from {} to 15 s",
                duration_text(initial)
            )
        }
        RestartDelay::Pm2Backoff { initial } => {
            format!("exponential from {} to 15 s", duration_text(initial))
        }
    }
}

fn restart_limit(policy: &RestartPolicy) -> String {
    let RestartPolicy { max_restarts, min_uptime, window, .. } = policy;
    format!(
        "{} (uptime below {}) within {}",
        units::pluralize(usize::try_from(*max_restarts).unwrap_or(usize::MAX), "unstable exit"),
        duration_text(*min_uptime),
        duration_text(*window)
    )
}

fn stop_text(app: &AppSpec) -> String {
    let stop = &app.stop;
    let source = match known_program(app) {
        Some((program, signal)) if signal == stop.signal => format!(" (graceful stop of {program})"),
        _ => String::new(),
    };
    let target = match stop.mode {
        KillMode::Topmost => "to the process tree, topmost processes first",
        KillMode::All => "to the whole process tree at once",
        KillMode::Main => "to the main process",
    };
    format!("{}{source} {target}, SIGKILL after {}", stop.signal, duration_text(stop.timeout))
}

/// The exit history, newest first: time, run, uptime, exit and its reason.
fn exit_table(exits: &[ExitView], zone: &TimeZone) -> String {
    let rows: Vec<[String; 4]> = exits.iter().rev().map(|exit| exit_row(exit, zone)).collect();
    if rows.is_empty() {
        return "  none\n".into();
    }
    let widest = |column: usize| rows.iter().map(|row| width(&row[column])).max().unwrap_or(0);
    let (run_width, uptime_width) = (widest(1), widest(2));
    let line = |[time, run, uptime, exit]: &[String; 4]| {
        format!("  {time}  {run:<run_width$}  {uptime:<uptime_width$}  {exit}\n")
    };
    rows.iter().map(line).collect()
}

fn exit_row(exit: &ExitView, zone: &TimeZone) -> [String; 4] {
    let reason = match (&exit.reason, exit.requested) {
        (Some(reason), _) => format!(", reason: {}", tame(reason)),
        (None, true) => ", requested".into(),
        (None, false) => String::new(),
    };
    let killed = if exit.killed { ", killed after the grace period" } else { "" };
    [
        units::local_time(exit.at, zone),
        format!("run {}", exit.run),
        format!("after {}", units::duration(exit.uptime)),
        format!("{}{reason}{killed}", tame(&exit.exit.to_string())),
    ]
}

fn duration_text(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}

fn display_path(path: &Path) -> String {
    path.display().to_string()
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), std::borrow::Cow::into_owned)
}

/// Whether to show the last lines of standard error.
pub(crate) fn needs_stderr(detail: &InstanceDetail) -> bool {
    detail.view.status == DisplayStatus::Errored
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::exit::Exit;

    pub(crate) fn detail() -> InstanceDetail {
        let mut spec = AppSpec::new("api", "/srv/api.js", "/srv");
        spec.env.insert("TOKEN".into(), "hunter2".into());
        let mut view = view(3, "api", DisplayStatus::Errored);
        view.reason = Some("2 unstable restarts".into());
        let end = |run, exit| ExitView {
            at: 1_700_000_000_000,
            run,
            pid: Some(40),
            uptime: 12,
            exit,
            requested: run == 1,
            killed: run == 1,
            reason: (run == 1).then(|| "memory limit".into()),
        };
        InstanceDetail {
            view,
            spec,
            command: vec!["node".into(), "/srv/api.js".into(), "a b".into()],
            out_file: Some("/h/logs/api-out.log".into()),
            error_file: None,
            log_file: None,
            log_notes: vec![],
            pid_file: "/h/pids/api-3.pid".into(),
            created_at: 1_700_000_000_000,
            exits: vec![end(1, Exit::Signal { number: 9, core: false, oom: false }), end(10, Exit::Code(1))],
            processes: vec![],
            connections: None,
            ports: None,
            limits: vec![],
        }
    }

    #[test]
    fn renders_all_sections() {
        let page = describe(&detail(), &["Error: no port".into()], &TimeZone::UTC, Style::plain());
        let want = "\
api (id 3)

Identity
  name           api
  namespace      default
  instance       0 (number within the app)
  version        N/A
  mode           fork

Command
  command        node /srv/api.js 'a b'
  directory      /srv
  user           ada
  environment    TOKEN
                 see `rsm env 3` for values

State
  status         errored: 2 unstable restarts
  runs           0
  restarts       0 (0 unstable)
  crashes        0
  added          2023-11-14 22:13:20

Restarts and limits
  restart policy always
  restart delay  none after the first unstable exit, then exponential from 100 ms to 15 s
  restart limit  16 unstable exits (uptime below 1 s) within 600 s
  stop           SIGINT to the process tree, topmost processes first, SIGKILL after 10 s

Files
  stdout         /h/logs/api-out.log
  stderr         none
  pid file       /h/pids/api-3.pid

Exit history
  2023-11-14 22:13:20  run 10  after 12 ms  exit code 1
  2023-11-14 22:13:20  run 1   after 12 ms  killed by SIGKILL, reason: memory limit, killed after the grace period

Last lines of stderr
  Error: no port
";
        assert_eq!(page, want);
    }

    #[test]
    fn hides_values_of_environment_variables() {
        assert!(!describe(&detail(), &[], &TimeZone::UTC, Style::plain()).contains("hunter2"));
    }

    #[test]
    fn online_instance_shows_its_process() {
        let mut online = detail();
        online.view = view(3, "api", DisplayStatus::Online);
        online.processes = vec![4003, 4004, 4005];
        let page = describe(&online, &[], &TimeZone::UTC, Style::plain());
        assert!(page.contains("process        4003 (+2 child processes)\n"), "{page}");
        assert!(page.contains("cpu, memory    1.5%, 51.4 MB\n"), "{page}");
        assert!(page.contains("uptime         2h, since 2023-11-14 22:13:20\n"), "{page}");
    }
}
