//! How instances came out of a request, and what is being waited for.

use std::time::Duration;

use super::style::{cut, tame};
use crate::ipc::message::{Outcome, Report};

/// More ids than these are counted instead of listed.
const MOST_IDS: usize = 8;

/// One line for all instances of an app that came out alike, then the daemon's notes.
pub(in crate::cli) fn outcomes(report: &Report) -> Vec<String> {
    let mut groups: Vec<(&Outcome, Vec<u32>)> = Vec::new();
    for outcome in report.instances.iter().filter(|outcome| outcome.problem.is_none()) {
        match groups.iter_mut().find(|(first, _)| alike(first, outcome)) {
            Some((_, ids)) => ids.push(outcome.id),
            None => groups.push((outcome, vec![outcome.id])),
        }
    }
    let mut lines: Vec<String> = groups.iter().map(|(first, ids)| line(first, ids)).collect();
    lines.extend(report.notes.iter().map(|note| format!("note: {}", tame(note))));
    lines
}

fn alike(one: &Outcome, other: &Outcome) -> bool {
    (&one.name, one.status, one.killed) == (&other.name, other.status, other.killed)
}

fn line(outcome: &Outcome, ids: &[u32]) -> String {
    let ids = match ids.len() {
        0..=MOST_IDS => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
        many => format!("{many} instances"),
    };
    let status = outcome.status.map_or("deleted", |status| status.as_str());
    let killed = if outcome.killed { " (did not end in its grace and was killed)" } else { "" };
    format!("{} ({ids}): {status}{killed}", tame(&outcome.name))
}

/// What is being waited for and for how long, in one line of a terminal.
pub(in crate::cli) fn progress(what: &str, waited: Duration, columns: usize) -> String {
    let line = format!("waiting for {what} … {} s", waited.as_secs());
    // The last column stays free: some terminals wrap when it is filled.
    cut(&line, columns.saturating_sub(1)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::message::Status;

    fn outcome(id: u32, name: &str, status: Option<Status>) -> Outcome {
        Outcome { id, name: name.into(), status, problem: None, killed: false }
    }

    #[test]
    fn instances_alike_share_a_line() {
        let mut killed = outcome(3, "slow", Some(Status::Stopped));
        killed.killed = true;
        let mut failed = outcome(4, "bad", Some(Status::Errored));
        failed.problem = Some("exit code 1".into());
        let instances = vec![
            outcome(0, "api", Some(Status::Online)),
            outcome(1, "api", Some(Status::Online)),
            outcome(2, "old", None),
            killed,
            failed,
        ];
        let report = Report { instances, notes: vec!["the port is free again".into()] };
        let want = [
            "api (0, 1): online",
            "old (2): deleted",
            "slow (3): stopped (did not end in its grace and was killed)",
            "note: the port is free again",
        ];
        assert_eq!(outcomes(&report), want);
    }

    #[test]
    fn crowds_are_counted() {
        let instances = (0..500).map(|id| outcome(id, "api", Some(Status::Online))).collect();
        assert_eq!(outcomes(&Report { instances, notes: vec![] }), ["api (500 instances): online"]);
    }

    #[test]
    fn progress_stays_on_its_line() {
        assert_eq!(progress("api to stop", Duration::from_millis(2900), 80), "waiting for api to stop … 2 s");
        assert_eq!(progress("api to stop", Duration::from_secs(3), 20), "waiting for api to…");
    }
}
