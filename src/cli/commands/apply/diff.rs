//! The steps that make the running apps match a file. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::cli::render::plan::{FieldDiff, PlanAction, PlanStep};
use crate::config;
use crate::ipc::message::{DisplayStatus, InstanceDetail};
use crate::spec::{AppSpec, EnvVars};

/// The steps for the apps of the file, in their order, then for apps that are no longer in it.
pub(crate) fn plan_steps(
    apps: &[AppSpec],
    current: &[InstanceDetail],
    file: Option<&PathBuf>,
    prune: bool,
) -> Vec<PlanStep> {
    let mut steps: Vec<PlanStep> = apps.iter().flat_map(|app| app_steps(app, current)).collect();
    let removed = current.iter().filter(|detail| {
        let is_from_file = file.is_some() && detail.spec.source.as_ref() == file;
        is_from_file && !apps.iter().any(|app| app.name == detail.view.name)
    });
    for name in removed.map(|detail| &detail.view.name).collect::<BTreeSet<_>>() {
        let instances: Vec<&InstanceDetail> =
            current.iter().filter(|detail| detail.view.name == *name).collect();
        let action = if prune { PlanAction::Delete(name.clone()) } else { PlanAction::Keep(name.clone()) };
        steps.push(step(action, &instances));
    }
    steps
}

fn step(action: PlanAction, instances: &[&InstanceDetail]) -> PlanStep {
    PlanStep { action, ids: instances.iter().map(|detail| detail.view.id).collect(), changes: Vec::new() }
}

fn app_steps(app: &AppSpec, current: &[InstanceDetail]) -> Vec<PlanStep> {
    let instances: Vec<&InstanceDetail> =
        current.iter().filter(|detail| detail.view.name == app.name).collect();
    let Some(changes) = instances.iter().map(|detail| spec_diff(&detail.spec, app)).max_by_key(Vec::len)
    else {
        return vec![step(PlanAction::Start(Box::new(app.clone())), &[])];
    };
    let (from, to) = (instances.len(), app.target_instances(instances.len()));
    let to = u32::try_from(to).unwrap_or(u32::MAX);
    if !changes.is_empty() {
        let mut step = step(changed_action(app, &instances), &instances);
        step.changes = changes;
        if to as usize != from {
            let values = Some((from.into(), to.into()));
            step.changes.push(FieldDiff { name: "instances".into(), values, note: "changed" });
        }
        return vec![step];
    }
    let mut steps = Vec::new();
    if to as usize != from {
        steps.push(step(PlanAction::Scale { name: app.name.clone(), from, to }, &instances));
    }
    // A smaller number of instances deletes first those that do not run.
    let surplus = from.saturating_sub(to as usize);
    let down = instances.iter().copied().filter(|detail| detail.view.status.is_down()).collect::<Vec<_>>();
    let remaining = down.len().saturating_sub(surplus);
    let stopped: Vec<&InstanceDetail> =
        by_number(down).into_iter().take(remaining).filter(must_start).collect();
    if app.autostart && !stopped.is_empty() {
        steps.push(step(PlanAction::StartStopped(app.name.clone()), &stopped));
    }
    if steps.is_empty() { vec![step(PlanAction::Unchanged(app.name.clone()), &instances)] } else { steps }
}

fn by_number(mut instances: Vec<&InstanceDetail>) -> Vec<&InstanceDetail> {
    instances.sort_by_key(|detail| detail.view.number);
    instances
}

/// The action that applies changed settings with the least disruption.
fn changed_action(app: &AppSpec, instances: &[&InstanceDetail]) -> PlanAction {
    let online = |detail: &&InstanceDetail| detail.view.status == DisplayStatus::Online;
    let shares_ports = app.shares_ports() && instances.iter().all(|detail| detail.spec.shares_ports());
    let app = Box::new(app.clone());
    match instances.iter().all(is_stopped) {
        true if !app.autostart => PlanAction::Update(app),
        true => PlanAction::Restart(app),
        false if shares_ports && instances.iter().any(online) => PlanAction::Reload(app),
        false => PlanAction::Restart(app),
    }
}

fn is_stopped(detail: &&InstanceDetail) -> bool {
    detail.view.status.is_down()
}

/// Whether an instance does not run although it should. A job that has completed is not run again.
fn must_start(detail: &&InstanceDetail) -> bool {
    match detail.view.status {
        DisplayStatus::Stopped | DisplayStatus::Errored | DisplayStatus::Failed => true,
        DisplayStatus::Completed
        | DisplayStatus::Scheduled
        | DisplayStatus::Launching
        | DisplayStatus::Online
        | DisplayStatus::Stopping
        | DisplayStatus::Waiting => false,
    }
}

/// The settings that differ, except the number of instances, which is changed without new processes, and the origin
/// of the app.
fn spec_diff(current: &AppSpec, planned: &AppSpec) -> Vec<FieldDiff> {
    let compared = |spec: &AppSpec| {
        let vars = EnvVars::new();
        let bare =
            AppSpec { instances: 1, version: None, source: None, origin: None, env: vars, ..spec.clone() };
        serde_json::to_value(bare).unwrap_or_default()
    };
    let mut changes = Vec::new();
    collect_diff("", &compared(current), &compared(planned), &mut changes);
    let names: BTreeSet<&String> = current.env.keys().chain(planned.env.keys()).collect();
    for name in names {
        let note = match (current.env.get(name), planned.env.get(name)) {
            (None, _) => "added",
            (_, None) => "removed",
            (before, after) if before != after => "changed",
            _ => continue,
        };
        changes.push(FieldDiff { name: format!("env.{name}"), values: None, note });
    }
    changes
}

/// Compares two values at a JSON pointer, recursively down to the values of keys in files.
fn collect_diff(pointer: &str, current: &Value, planned: &Value, changes: &mut Vec<FieldDiff>) {
    if current == planned {
        return;
    }
    let name = config::key_for_pointer(pointer);
    if let (None, Value::Object(a), Value::Object(b)) = (name, current, planned) {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        // Not indexed: indexing a map panics for a missing key, and optional settings are omitted if they are unset.
        let field = |map: &Map<String, Value>, key: &String| map.get(key).cloned().unwrap_or_default();
        for key in keys {
            collect_diff(&format!("{pointer}/{key}"), &field(a, key), &field(b, key), changes);
        }
        return;
    }
    let name = name.map_or_else(|| pointer.trim_start_matches('/').replace('/', "."), str::to_owned);
    changes.push(FieldDiff { name, values: Some((current.clone(), planned.clone())), note: "changed" });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::{Autoscale, Probe, ProbeAction, RestartDelay};

    #[test]
    fn names_differing_keys_and_hides_env_values() {
        let mut current = AppSpec::new("api", "/a", "/");
        current.env = [("KEPT", "1"), ("GONE", "hunter2"), ("OTHER", "hunter2")]
            .map(|(a, b)| (a.into(), b.into()))
            .into();
        let mut planned = current.clone();
        assert!(spec_diff(&current, &planned).is_empty());
        (planned.instances, planned.version) = (4, Some("2".into()));
        assert!(spec_diff(&current, &planned).is_empty());
        planned.stop.timeout = Duration::from_secs(1);
        planned.hold_port = true;
        planned.limits.memory = Some(1 << 20);
        planned.restart.delay = RestartDelay::Fixed(Duration::from_secs(1));
        planned.env =
            [("KEPT", "1"), ("NEW", "hunter2"), ("OTHER", "x")].map(|(a, b)| (a.into(), b.into())).into();
        let changes = spec_diff(&current, &planned);
        let lines: Vec<String> =
            changes.iter().map(|change| format!("{} {}", change.name, change.note)).collect();
        let expected = [
            "hold_port changed",
            "memory_max changed",
            "restart_delay changed",
            "kill_timeout changed",
            "env.GONE removed",
            "env.NEW added",
            "env.OTHER changed",
        ];
        assert_eq!(lines, expected);
        assert!(!format!("{changes:?}").contains("hunter2"));
    }

    #[test]
    fn optional_settings_can_be_added_removed_and_replaced() {
        let plain = AppSpec::new("api", "/a", "/");
        let with = |action: ProbeAction| {
            let mut app = plain.clone();
            app.health = Some(Probe::liveness(action.clone()));
            app.readiness.probe = Some(Probe::readiness(action));
            app.autoscale = Some(Autoscale::new(1, 2));
            app.watchdog = Some(1000);
            app
        };
        let names = |is: &AppSpec, wanted: &AppSpec| {
            spec_diff(is, wanted).into_iter().map(|change| change.name).collect::<Vec<_>>()
        };
        let (exec, tcp) = (with(ProbeAction::Exec("true".into())), with(ProbeAction::Tcp("80".into())));
        let all = ["autoscale", "health", "ready", "watchdog"];
        assert_eq!(names(&plain, &exec), all);
        assert_eq!(names(&exec, &plain), all);
        assert_eq!(names(&exec, &tcp), ["health", "ready"]);
    }
}
