//! Alerts: conditions that need attention, each with the command for it. Shown below the list, and at the top of
//! `rsm monit`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::cli::render::drift;
use crate::cli::render::style::{Tone, tame, truncate, width};
use crate::cli::render::units;
use crate::ipc::message::{DisplayStatus, HostInfo, InstanceView};

/// What alerts depend on besides the instances.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlertContext {
    pub(crate) host: HostInfo,
    /// The version of the daemon, if it is not that of this binary.
    pub(crate) daemon_version: Option<String>,
    /// Whether the saved list differs from the list.
    pub(crate) unsaved: bool,
}

/// A condition that needs attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    tone: Tone,
    /// The condition in a few words.
    summary: String,
    /// Details, and the purpose of the command.
    detail: String,
    /// The command to run.
    command: String,
}

/// All alerts, the most severe first.
pub(crate) fn alerts(instances: &[InstanceView], context: &AlertContext) -> Vec<Alert> {
    let other_version = context.daemon_version.as_ref().map(|version| {
        let what = format!("the daemon runs rsm {}, this is another version", tame(version));
        warning(what, ". To upgrade it", "rsm upgrade".into())
    });
    // Less important than all others.
    let unsaved = context.unsaved.then(|| Alert {
        tone: Tone::Dim,
        ..warning(
            "the list is not saved".into(),
            " (to start it at boot, also rsm startup)",
            "rsm save".into(),
        )
    });
    let apps = errored_alert(instances).into_iter().chain(crash_loop_alert(instances));
    let apps = apps.chain(failed_job_alert(instances));
    apps.chain(other_version).chain(unsaved).collect()
}

/// Alerts for ecosystem files that differ from the running apps. The list shows differences for each app instead.
pub(crate) fn drift_alerts(instances: &[InstanceView]) -> Vec<Alert> {
    let files = instances.iter().filter(|view| view.drift.is_some()).filter_map(|view| view.source.as_ref());
    let alert = |file: &PathBuf| {
        let what = format!("{} differs from the running apps", tame(&file.display().to_string()));
        warning(what, ". For details", drift::plan(file))
    };
    files.collect::<BTreeSet<_>>().into_iter().map(alert).collect()
}

fn warning(what: String, more: &str, command: String) -> Alert {
    Alert { tone: Tone::Warning, summary: what, detail: more.into(), command }
}

/// The alert for errored instances.
fn errored_alert(instances: &[InstanceView]) -> Option<Alert> {
    let mut errored = instances.iter().filter(|instance| instance.status == DisplayStatus::Errored);
    let first = errored.next()?;
    let what = match errored.count() {
        0 => format!("{} (id {}) is errored", tame(&first.name), first.id),
        more => format!("{} (id {}) and {more} more are errored", tame(&first.name), first.id),
    };
    let why = first.reason.as_deref().map(|reason| format!(": {}", tame(reason))).unwrap_or_default();
    let more = format!("{why}. For details");
    Some(Alert {
        tone: Tone::Error,
        summary: what,
        detail: more,
        command: format!("rsm describe {}", first.id),
    })
}

/// From this number of unexpected exits on, without a healthy run in between, an instance is crash-looping.
const CRASH_LOOP: u32 = 3;

/// The alert for instances that are restarted again and again.
fn crash_loop_alert(instances: &[InstanceView]) -> Option<Alert> {
    let is_looping = |view: &&InstanceView| {
        view.failed_runs >= CRASH_LOOP
            && matches!(
                view.status,
                DisplayStatus::Launching | DisplayStatus::Online | DisplayStatus::Waiting
            )
    };
    let mut looping = instances.iter().filter(is_looping);
    let first = looping.next()?;
    let name = tame(&first.name);
    // The last exit is not followed by a restart yet.
    let waiting = u32::from(first.status == DisplayStatus::Waiting);
    let restarts = units::pluralize(first.failed_runs.saturating_sub(waiting) as usize, "restart");
    let exit = first.last_exit.as_ref().map(|exit| format!(", {exit}")).unwrap_or_default();
    let summary = match looping.count() {
        0 => format!("{name} (id {}) is crash-looping: {restarts}{exit}", first.id),
        more => format!("{name} (id {}) and {more} more are crash-looping: {restarts}{exit}", first.id),
    };
    let detail = ". For its output".to_owned();
    Some(Alert { tone: Tone::Error, summary, detail, command: format!("rsm logs {} --err", first.id) })
}

/// The alert for jobs that have failed.
fn failed_job_alert(instances: &[InstanceView]) -> Option<Alert> {
    let has_failed = |view: &&InstanceView| {
        view.status == DisplayStatus::Failed
            || (view.status == DisplayStatus::Scheduled && view.last_run_failed)
    };
    let mut failed = instances.iter().filter(has_failed);
    let first = failed.next()?;
    let name = tame(&first.name);
    let exit = first.last_exit.as_ref().map(|exit| format!(": {exit}")).unwrap_or_default();
    let summary = match failed.count() {
        0 => format!("{name} (id {}) has failed{exit}", first.id),
        more => format!("{name} (id {}) and {more} more have failed{exit}", first.id),
    };
    let detail = ". For its output".to_owned();
    Some(Alert { tone: Tone::Error, summary, detail, command: format!("rsm logs {} --err", first.id) })
}

/// All alerts on one line, with details if they fit; one line for each if even the summaries do not fit.
pub(crate) fn line(alerts: &[Alert], columns: usize) -> Option<(Tone, String)> {
    let brief: Vec<String> =
        alerts.iter().map(|alert| format!("{}: {}", alert.summary, alert.command)).collect();
    let full: Vec<String> =
        alerts.iter().map(|alert| format!("{}{}: {}", alert.summary, alert.detail, alert.command)).collect();
    let lines = [full.join("; "), brief.join("; ")];
    let line = lines.into_iter().find(|line| width(line) <= columns).unwrap_or_else(|| brief.join("\n"));
    alerts.first().map(|worst| (worst.tone, line))
}

/// As many alerts as fit in `columns`, and the number of the others. If the first does not fit, its summary is
/// truncated, not its command.
pub(crate) fn compact_line(alerts: &[Alert], columns: usize) -> Option<(Tone, String)> {
    let (first, others) = alerts.split_first()?;
    let more = |count: usize| if count > 0 { format!("; {count} more: rsm list") } else { String::new() };
    let brief =
        |alert: &Alert, columns: usize| format!("{}: {}", truncate(&alert.summary, columns), alert.command);
    let fits = |text: &str, left: usize| width(text) + width(&more(left)) <= columns;
    let mut text = brief(first, usize::MAX);
    if !fits(&text, others.len()) {
        let fixed = width(&brief(first, 0)) + width(&more(others.len()));
        let text = brief(first, columns.saturating_sub(fixed).max(8)) + &more(others.len());
        return Some((first.tone, truncate(&text, columns).into_owned()));
    }
    for (at, other) in others.iter().enumerate() {
        let longer = format!("{text}; {}", brief(other, usize::MAX));
        let left = others.len() - at;
        if !fits(&longer, left - 1) {
            return Some((first.tone, text + &more(left)));
        }
        text = longer;
    }
    Some((first.tone, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::exit::Exit;

    fn rendered(instances: &[InstanceView], context: &AlertContext) -> Option<(Tone, String)> {
        line(&alerts(instances, context), 300)
    }

    fn full_context() -> AlertContext {
        AlertContext { daemon_version: Some("0.0.9".into()), unsaved: true, ..AlertContext::default() }
    }

    #[test]
    fn drift_names_each_file_once() {
        let of = |id, drift: Option<&str>| InstanceView {
            source: Some("/srv/my app/ecosystem.toml".into()),
            drift: drift.map(str::to_owned),
            ..view(id, "api", DisplayStatus::Online)
        };
        assert_eq!(drift_alerts(&[of(0, None)]), []);
        let all = drift_alerts(&[of(0, Some("changed")), of(1, Some("changed"))]);
        let want =
            "/srv/my app/ecosystem.toml differs from the running apps: rsm plan '/srv/my app/ecosystem.toml'";
        assert_eq!(line(&all, width(want)).unwrap().1, want);
    }

    #[test]
    fn errored_instances_are_counted() {
        let instances = [view(4, "a", DisplayStatus::Errored), view(5, "b", DisplayStatus::Errored)];
        let want = "a (id 4) and 1 more are errored. For details: rsm describe 4";
        assert_eq!(rendered(&instances, &AlertContext::default()), Some((Tone::Error, want.into())));
    }

    #[test]
    fn crash_loop_is_an_alert_until_a_run_is_healthy() {
        let looping = |status, failed_runs| InstanceView {
            failed_runs,
            last_exit: Some(Exit::Code(1)),
            ..view(0, "api", status)
        };
        let shown = |status, runs| rendered(&[looping(status, runs)], &AlertContext::default());
        let want = |count| {
            let text = format!(
                "api (id 0) is crash-looping: {count} restarts, exit code 1. For its output: rsm logs 0 --err"
            );
            Some((Tone::Error, text))
        };
        assert_eq!(shown(DisplayStatus::Online, 11), want(11));
        assert_eq!(
            shown(DisplayStatus::Waiting, 12),
            want(11),
            "the last exit is not followed by a restart yet"
        );
        assert_eq!(shown(DisplayStatus::Online, 2), None);
        assert_eq!(shown(DisplayStatus::Stopped, 11), None);
    }

    #[test]
    fn each_alert_names_a_command() {
        let online = [view(0, "api", DisplayStatus::Online)];
        assert_eq!(rendered(&online, &AlertContext::default()), None);
        let (tone, line) = rendered(&online, &full_context()).unwrap();
        assert_eq!(tone, Tone::Warning);
        for command in ["rsm upgrade", "rsm save"] {
            assert!(line.contains(command), "{line}");
        }
        let errored = [view(2, "网关", DisplayStatus::Errored)];
        assert!(rendered(&errored, &full_context()).unwrap().1.starts_with("网关 (id 2) is errored"));
    }

    #[test]
    fn narrow_terminal_omits_details() {
        let mut errored = view(2, "网关", DisplayStatus::Errored);
        errored.reason = Some("16 unstable restarts, last exit: exit code 1".into());
        let all = alerts(&[errored], &AlertContext { unsaved: true, ..AlertContext::default() });
        let rendered = |columns| line(&all, columns).unwrap().1;
        assert!(
            rendered(200).contains("exit code 1. For details: rsm describe 2; the list is not saved"),
            "{}",
            rendered(200)
        );
        let brief = "网关 (id 2) is errored: rsm describe 2; the list is not saved: rsm save";
        assert_eq!((rendered(width(brief)).as_str(), rendered(70)), (brief, brief.replacen("; ", "\n", 1)));
    }

    #[test]
    fn compact_line_keeps_first_command() {
        let errored = [view(2, "网关", DisplayStatus::Errored)];
        let all = alerts(&errored, &full_context());
        let row = |columns| compact_line(&all, columns).unwrap().1;
        assert!(row(400).ends_with("the list is not saved: rsm save"), "{}", row(400));
        assert_eq!(row(60), "网关 (id 2) is errored: rsm describe 2; 2 more: rsm list");
        assert_eq!(row(50), "网关 (id 2) is …: rsm describe 2; 2 more: rsm list");
        for columns in 0..200 {
            assert!(width(&row(columns)) <= columns.max(1), "{columns}: {}", row(columns));
        }
        assert_eq!(compact_line(&[], 80), None);
    }
}
