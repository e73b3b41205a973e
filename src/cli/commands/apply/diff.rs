//! What is to be done so that apps are as a file says. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::cli::render::plan::{FieldDiff, PlanAction, PlanStep};
use crate::config;
use crate::ipc::message::{InstanceDetail, Status};
use crate::spec::{AppSpec, EnvVars};

/// What is to be done, in the order of the file; then what is not in it.
pub(crate) fn plan_steps(
    wanted: &[AppSpec],
    there: &[InstanceDetail],
    file: Option<&PathBuf>,
    prune: bool,
) -> Vec<PlanStep> {
    let mut steps: Vec<PlanStep> = wanted.iter().flat_map(|app| app_step(app, there)).collect();
    let gone = there.iter().filter(|detail| {
        let from_here = file.is_some() && detail.spec.source.as_ref() == file;
        from_here && !wanted.iter().any(|app| app.name == detail.view.name)
    });
    for name in gone.map(|detail| &detail.view.name).collect::<BTreeSet<_>>() {
        let of_name: Vec<&InstanceDetail> = there.iter().filter(|detail| detail.view.name == *name).collect();
        let work = if prune { PlanAction::Delete(name.clone()) } else { PlanAction::Keep(name.clone()) };
        steps.push(step(work, &of_name));
    }
    steps
}

fn step(work: PlanAction, about: &[&InstanceDetail]) -> PlanStep {
    PlanStep { action: work, ids: about.iter().map(|detail| detail.view.id).collect(), changes: Vec::new() }
}

fn app_step(app: &AppSpec, there: &[InstanceDetail]) -> Vec<PlanStep> {
    let of_name: Vec<&InstanceDetail> = there.iter().filter(|detail| detail.view.name == app.name).collect();
    let Some(changes) = of_name.iter().map(|detail| spec_diff(&detail.spec, app)).max_by_key(Vec::len) else {
        return vec![step(PlanAction::Start(Box::new(app.clone())), &[])];
    };
    let (from, to) = (of_name.len(), app.target_instances(of_name.len()));
    let to = u32::try_from(to).unwrap_or(u32::MAX);
    if !changes.is_empty() {
        let mut step = step(changed_action(app, &of_name), &of_name);
        step.changes = changes;
        if to as usize != from {
            let values = Some((from.into(), to.into()));
            step.changes.push(FieldDiff { name: "instances".into(), values, note: "changed" });
        }
        return vec![step];
    }
    let mut steps = Vec::new();
    if to as usize != from {
        steps.push(step(PlanAction::Scale { name: app.name.clone(), from, to }, &of_name));
    }
    let resting: Vec<&InstanceDetail> = of_name.iter().copied().filter(is_stopped).collect();
    if app.autostart && !resting.is_empty() {
        steps.push(step(PlanAction::StartStopped(app.name.clone()), &resting));
    }
    if steps.is_empty() { vec![step(PlanAction::Unchanged(app.name.clone()), &of_name)] } else { steps }
}

/// How an app gets other settings: as gently as it can be.
fn changed_action(app: &AppSpec, there: &[&InstanceDetail]) -> PlanAction {
    let online = |detail: &&InstanceDetail| detail.view.status == Status::Online;
    let shares = app.shares_ports() && there.iter().all(|detail| detail.spec.shares_ports());
    let app = Box::new(app.clone());
    match there.iter().all(is_stopped) {
        true if !app.autostart => PlanAction::Update(app),
        true => PlanAction::Restart(app),
        false if shares && there.iter().any(online) => PlanAction::Reload(app),
        false => PlanAction::Restart(app),
    }
}

fn is_stopped(detail: &&InstanceDetail) -> bool {
    matches!(detail.view.status, Status::Stopped | Status::Errored)
}

/// What differs. Not the number of instances, which is changed without new processes; nor what only tells
/// where the app is from.
fn spec_diff(is: &AppSpec, wanted: &AppSpec) -> Vec<FieldDiff> {
    let neutral = |spec: &AppSpec| {
        let vars = EnvVars::new();
        let bare =
            AppSpec { instances: 1, version: None, source: None, origin: None, env: vars, ..spec.clone() };
        serde_json::to_value(bare).unwrap_or_default()
    };
    let mut changes = Vec::new();
    collect_diff("", &neutral(is), &neutral(wanted), &mut changes);
    let names: BTreeSet<&String> = is.env.keys().chain(wanted.env.keys()).collect();
    for name in names {
        let how = match (is.env.get(name), wanted.env.get(name)) {
            (None, _) => "added",
            (_, None) => "removed",
            (before, after) if before != after => "changed",
            _ => continue,
        };
        changes.push(FieldDiff { name: format!("env.{name}"), values: None, note: how });
    }
    changes
}

/// Compares what lies at a place (a JSON pointer), down to what files have a key for.
fn collect_diff(at: &str, is: &Value, wanted: &Value, changes: &mut Vec<FieldDiff>) {
    if is == wanted {
        return;
    }
    let name = config::key_for_pointer(at);
    if let (None, Value::Object(one), Value::Object(other)) = (name, is, wanted) {
        let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
        for key in keys {
            collect_diff(&format!("{at}/{key}"), &one[key.as_str()], &other[key.as_str()], changes);
        }
        return;
    }
    let name = name.map_or_else(|| at.trim_start_matches('/').replace('/', "."), str::to_owned);
    changes.push(FieldDiff { name, values: Some((is.clone(), wanted.clone())), note: "changed" });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::cli::commands::apply::diff::*;
    use crate::spec::RestartDelay;

    #[test]
    fn what_differs_is_named_as_in_files_and_without_values_of_variables() {
        let mut is = AppSpec::new("api", "/a", "/");
        is.env = [("KEPT", "1"), ("GONE", "hunter2"), ("OTHER", "hunter2")]
            .map(|(a, b)| (a.into(), b.into()))
            .into();
        let mut wanted = is.clone();
        assert!(spec_diff(&is, &wanted).is_empty());
        (wanted.instances, wanted.version) = (4, Some("2".into()));
        assert!(spec_diff(&is, &wanted).is_empty());
        wanted.stop.timeout = Duration::from_secs(1);
        wanted.hold_port = true;
        wanted.limits.memory = Some(1 << 20);
        wanted.restart.delay = RestartDelay::Fixed(Duration::from_secs(1));
        wanted.env =
            [("KEPT", "1"), ("NEW", "hunter2"), ("OTHER", "x")].map(|(a, b)| (a.into(), b.into())).into();
        let changes = spec_diff(&is, &wanted);
        let told: Vec<String> =
            changes.iter().map(|change| format!("{} {}", change.name, change.note)).collect();
        let want = [
            "hold_port changed",
            "memory_max changed",
            "restart_delay changed",
            "kill_timeout changed",
            "env.GONE removed",
            "env.NEW added",
            "env.OTHER changed",
        ];
        assert_eq!(told, want);
        assert!(!format!("{changes:?}").contains("hunter2"));
    }
}
