//! What is not as it should be, each with the command for it: a line below the list, and one at the top of
//! the whole screen.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::cli::render::drift;
use crate::cli::render::style::{Tone, tame, truncate, width};
use crate::ipc::message::{HostInfo, InstanceView, Status};

/// What the instances themselves do not tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlertContext {
    /// The machine.
    pub(crate) host: HostInfo,
    /// Version of the daemon, if it is not this binary's.
    pub(crate) daemon_version: Option<String>,
    /// The saved list is another one.
    pub(crate) unsaved: bool,
}

/// Something to be seen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    tone: Tone,
    /// In a few words.
    summary: String,
    /// More about it, and what the command is good for.
    detail: String,
    /// As it is typed.
    command: String,
}

/// All there is, the worst first.
pub(crate) fn alerts(instances: &[InstanceView], around: &AlertContext) -> Vec<Alert> {
    let older = around.daemon_version.as_ref().map(|version| {
        let what = format!("the daemon runs rsm {}, this is another version", tame(version));
        warning(what, ". To upgrade it", "rsm upgrade".into())
    });
    let unsaved =
        around.unsaved.then(|| warning("the list has unsaved changes".into(), "", "rsm save".into()));
    errored_alert(instances).into_iter().chain(older).chain(unsaved).collect()
}

/// The files that say something else than what runs. Below the list it is told app by app instead.
pub(crate) fn drift_alerts(instances: &[InstanceView]) -> Vec<Alert> {
    let files = instances.iter().filter(|view| view.drift.is_some()).filter_map(|view| view.source.as_ref());
    let concern = |file: &PathBuf| {
        let what = format!("{} differs from the running apps", tame(&file.display().to_string()));
        warning(what, ". For details", drift::plan(file))
    };
    files.collect::<BTreeSet<_>>().into_iter().map(concern).collect()
}

fn warning(what: String, more: &str, command: String) -> Alert {
    Alert { tone: Tone::Warning, summary: what, detail: more.into(), command }
}

/// What was given up, why, and how to learn more.
fn errored_alert(instances: &[InstanceView]) -> Option<Alert> {
    let mut errored = instances.iter().filter(|instance| instance.status == Status::Errored);
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

/// All of them in one line, as fully as there is room for; a line for each where there is none.
pub(crate) fn line(concerns: &[Alert], columns: usize) -> Option<(Tone, String)> {
    let brief: Vec<String> = concerns.iter().map(|of| format!("{}: {}", of.summary, of.command)).collect();
    let whole: Vec<String> =
        concerns.iter().map(|of| format!("{}{}: {}", of.summary, of.detail, of.command)).collect();
    let lines = [whole.join("; "), brief.join("; ")];
    let line = lines.into_iter().find(|line| width(line) <= columns).unwrap_or_else(|| brief.join("\n"));
    concerns.first().map(|worst| (worst.tone, line))
}

/// As many of them as one row of `columns` has room for, and how many there are besides. Of the first one
/// the command is kept whole where its words must be cut.
pub(crate) fn compact_line(concerns: &[Alert], columns: usize) -> Option<(Tone, String)> {
    let (first, others) = concerns.split_first()?;
    let besides = |count: usize| if count > 0 { format!("; {count} more: rsm list") } else { String::new() };
    let brief = |of: &Alert, room: usize| format!("{}: {}", truncate(&of.summary, room), of.command);
    let fits = |text: &str, left: usize| width(text) + width(&besides(left)) <= columns;
    let mut text = brief(first, usize::MAX);
    if !fits(&text, others.len()) {
        let fixed = width(&brief(first, 0)) + width(&besides(others.len()));
        let text = brief(first, columns.saturating_sub(fixed).max(8)) + &besides(others.len());
        return Some((first.tone, truncate(&text, columns).into_owned()));
    }
    for (at, other) in others.iter().enumerate() {
        let longer = format!("{text}; {}", brief(other, usize::MAX));
        let left = others.len() - at;
        if !fits(&longer, left - 1) {
            return Some((first.tone, text + &besides(left)));
        }
        text = longer;
    }
    Some((first.tone, text))
}

#[cfg(test)]
mod tests {
    use crate::cli::render::alerts::*;
    use crate::cli::render::list::tests::view;

    fn told(instances: &[InstanceView], around: &AlertContext) -> Option<(Tone, String)> {
        line(&alerts(instances, around), 300)
    }

    fn much() -> AlertContext {
        AlertContext { daemon_version: Some("0.0.9".into()), unsaved: true, ..AlertContext::default() }
    }

    #[test]
    fn files_that_differ_are_named_once() {
        let of = |id, drift: Option<&str>| InstanceView {
            source: Some("/srv/my app/ecosystem.toml".into()),
            drift: drift.map(str::to_owned),
            ..view(id, "api", Status::Online)
        };
        assert_eq!(drift_alerts(&[of(0, None)]), []);
        let all = drift_alerts(&[of(0, Some("changed")), of(1, Some("changed"))]);
        let want =
            "/srv/my app/ecosystem.toml differs from the running apps: rsm plan '/srv/my app/ecosystem.toml'";
        assert_eq!(line(&all, width(want)).unwrap().1, want);
    }

    #[test]
    fn several_given_up_are_counted() {
        let instances = [view(4, "a", Status::Errored), view(5, "b", Status::Errored)];
        let want = "a (id 4) and 1 more are errored. For details: rsm describe 4";
        assert_eq!(told(&instances, &AlertContext::default()), Some((Tone::Error, want.into())));
    }

    #[test]
    fn each_thing_to_mind_comes_with_its_command() {
        let online = [view(0, "api", Status::Online)];
        assert_eq!(told(&online, &AlertContext::default()), None);
        let (tone, line) = told(&online, &much()).unwrap();
        assert_eq!(tone, Tone::Warning);
        for command in ["rsm upgrade", "rsm save"] {
            assert!(line.contains(command), "{line}");
        }
        let errored = [view(2, "网关", Status::Errored)];
        assert!(told(&errored, &much()).unwrap().1.starts_with("网关 (id 2) is errored"));
    }

    #[test]
    fn a_narrow_terminal_is_told_less_of_each() {
        let mut errored = view(2, "网关", Status::Errored);
        errored.reason = Some("16 unstable restarts, last exit: exit code 1".into());
        let all = alerts(&[errored], &AlertContext { unsaved: true, ..AlertContext::default() });
        let told = |columns| line(&all, columns).unwrap().1;
        assert!(
            told(200).contains("exit code 1. For details: rsm describe 2; the list has"),
            "{}",
            told(200)
        );
        let brief = "网关 (id 2) is errored: rsm describe 2; the list has unsaved changes: rsm save";
        assert_eq!((told(width(brief)).as_str(), told(70)), (brief, brief.replacen("; ", "\n", 1)));
    }

    #[test]
    fn a_row_keeps_the_first_command_and_counts_the_rest() {
        let errored = [view(2, "网关", Status::Errored)];
        let all = alerts(&errored, &much());
        let row = |columns| compact_line(&all, columns).unwrap().1;
        assert!(row(400).ends_with("the list has unsaved changes: rsm save"), "{}", row(400));
        assert_eq!(row(60), "网关 (id 2) is errored: rsm describe 2; 2 more: rsm list");
        assert_eq!(row(50), "网关 (id 2) is …: rsm describe 2; 2 more: rsm list");
        for columns in 0..200 {
            assert!(width(&row(columns)) <= columns.max(1), "{columns}: {}", row(columns));
        }
        assert_eq!(crate::cli::render::alerts::compact_line(&[], 80), None);
    }
}
