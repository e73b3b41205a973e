//! Results of an operation for its instances, and instances in transition.

use std::collections::BTreeMap;

use super::style::tame;
use crate::ipc::message::{Action, ActionReport, DisplayStatus, InstanceOutcome, Request};

/// Maximum number of ids or apps that are listed; more are counted.
const MAX_IDS: usize = 8;

/// What a request has done to the instances in its report; empty if that is not one thing.
pub(crate) fn participle(request: &Request) -> &'static str {
    match request {
        Request::Start(_) | Request::Scale(..) | Request::Act(Action::Start, _) => "started",
        Request::Act(Action::Stop, _) => "stopped",
        Request::Act(Action::Restart, _) => "restarted",
        Request::Act(Action::Delete, _) => "deleted",
        Request::Act(Action::Reset, _) => "reset",
        Request::Reload(_) => "reloaded",
        Request::Resurrect => "restored",
        _ => "",
    }
}

/// One line for all instances of an app with the same result, then the notes of the daemon. `participle` is what was
/// done to the instances.
pub(crate) fn outcomes(report: &ActionReport, participle: &str) -> Vec<String> {
    let mut groups: Vec<(&InstanceOutcome, Vec<u32>)> = Vec::new();
    for outcome in report.instances.iter().filter(|outcome| outcome.problem.is_none()) {
        match groups.iter_mut().find(|(first, _)| is_same_outcome(first, outcome)) {
            Some((_, ids)) => ids.push(outcome.id),
            None => groups.push((outcome, vec![outcome.id])),
        }
    }
    let mut lines: Vec<String> = groups.iter().map(|(first, ids)| line(first, ids, participle)).collect();
    lines.extend(report.notes.iter().map(|note| format!("note: {}", tame(note))));
    lines
}

fn is_same_outcome(a: &InstanceOutcome, b: &InstanceOutcome) -> bool {
    (&a.name, a.status, a.killed) == (&b.name, b.status, b.killed)
}

fn line(outcome: &InstanceOutcome, ids: &[u32], participle: &str) -> String {
    let ids = format_ids(ids);
    let status = outcome.status.map_or("deleted", |status| status.as_str());
    // An app that is only added is not started.
    let is_only_added = participle == "started"
        && matches!(outcome.status, None | Some(DisplayStatus::Stopped | DisplayStatus::Scheduled));
    let status = match participle {
        "" => status.to_owned(),
        _ if participle == status || is_only_added => status.to_owned(),
        _ => format!("{participle}, {status}"),
    };
    let killed = if outcome.killed { " (killed after the grace period)" } else { "" };
    format!("{} ({ids}): {status}{killed}", tame(&outcome.name))
}

/// The instances in transition, by status and app: `: stopping api (0, 1), web (2)`.
pub(crate) fn in_transition(instances: &BTreeMap<u32, (String, DisplayStatus)>) -> String {
    let mut apps: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
    for (id, (name, status)) in instances {
        apps.entry((status.as_str(), name)).or_default().push(*id);
    }
    let (mut text, mut last) = (String::new(), "");
    for ((status, name), ids) in apps.iter().take(MAX_IDS) {
        let separator = if last.is_empty() { ": " } else { ", " };
        let word = if *status == last { String::new() } else { format!("{status} ") };
        text.push_str(&format!("{separator}{word}{} ({})", tame(name), format_ids(ids)));
        last = status;
    }
    if apps.len() > MAX_IDS {
        text.push_str(&format!(" and {} more apps", apps.len() - MAX_IDS));
    }
    text
}

/// The ids, or their number.
fn format_ids(ids: &[u32]) -> String {
    match ids.len() {
        0..=MAX_IDS => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
        count => format!("{count} instances"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: u32, name: &str, status: Option<DisplayStatus>) -> InstanceOutcome {
        InstanceOutcome { id, name: name.into(), status, problem: None, killed: false }
    }

    #[test]
    fn equal_results_share_a_line() {
        let mut killed = outcome(3, "slow", Some(DisplayStatus::Stopped));
        killed.killed = true;
        let mut failed = outcome(4, "bad", Some(DisplayStatus::Errored));
        failed.problem = Some("exit code 1".into());
        let instances = vec![
            outcome(0, "api", Some(DisplayStatus::Online)),
            outcome(1, "api", Some(DisplayStatus::Online)),
            outcome(2, "old", None),
            killed,
            failed,
        ];
        let report = ActionReport {
            instances,
            notes: vec!["the port is free again".into()],
            ..ActionReport::default()
        };
        let want = [
            "api (0, 1): online",
            "old (2): deleted",
            "slow (3): stopped (killed after the grace period)",
            "note: the port is free again",
        ];
        assert_eq!(outcomes(&report, ""), want);
        assert_eq!(
            outcomes(&report, "stopped")[..3],
            [
                "api (0, 1): stopped, online",
                "old (2): stopped, deleted",
                "slow (3): stopped (killed after the grace period)",
            ]
        );
        assert_eq!(outcomes(&report, "started")[..2], ["api (0, 1): started, online", "old (2): deleted"]);
    }

    #[test]
    fn many_instances_are_counted() {
        let instances = (0..500).map(|id| outcome(id, "api", Some(DisplayStatus::Online))).collect();
        assert_eq!(
            outcomes(&ActionReport { instances, ..ActionReport::default() }, ""),
            ["api (500 instances): online"]
        );
    }

    #[test]
    fn transition_is_grouped_by_status_and_app() {
        let row = |id, name: &str, status| (id, (name.to_owned(), status));
        let moving = [
            row(0, "web", DisplayStatus::Stopping),
            row(1, "api", DisplayStatus::Stopping),
            row(2, "api", DisplayStatus::Stopping),
            row(3, "job", DisplayStatus::Launching),
        ];
        assert_eq!(in_transition(&moving.into()), ": launching job (3), stopping api (1, 2), web (0)");
        assert_eq!(in_transition(&BTreeMap::new()), "");
        let many = (0..30).map(|id| row(id, &format!("app-{id:02}"), DisplayStatus::Launching)).collect();
        assert!(in_transition(&many).ends_with("app-07 (7) and 22 more apps"), "{}", in_transition(&many));
    }
}
