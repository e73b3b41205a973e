//! Operations in dependency order: apps start after their dependencies are ready or have completed, and stop before
//! them.
//!
//! Each layer is one operation of the supervisor with its own idempotency key, derived from that of the request.
//! If the daemon dies, the client sends the request to the next daemon, which continues with the next layer.

use std::collections::{BTreeMap, BTreeSet};

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::instance::Instance;
use crate::instance::snapshot::Snapshot;
use crate::instance::state::{State, Want};
use crate::ipc::message::{
    Action, ActionReport, ActionRequest, ApiError, ErrorCode, Selectors, StartRequest,
};
use crate::spec::dependencies::{DependencyCycle, start_layers};
use crate::spec::{AppSpec, Condition, Dependency};

type Dependencies = BTreeMap<String, Vec<String>>;

/// Starts apps, each after its dependencies have reached their conditions. The report contains apps that do not, and
/// those that depend on them.
///
/// # Errors
/// There is a dependency cycle, a dependency is neither in the request nor in the list, or an app that is always
/// restarted is to complete; nothing is changed.
pub async fn start(handle: &SupervisorHandle, request: StartRequest) -> Result<ActionReport, ApiError> {
    let dependencies: Dependencies =
        request.apps.iter().map(|app| (app.name.clone(), app.dependency_names())).collect();
    if dependencies.values().all(Vec::is_empty) {
        return handle.start(request).await;
    }
    let layers = start_layers(&dependencies).map_err(cycle_error)?;
    check_known(handle, &dependencies).await?;
    check_jobs(handle, &request.apps).await?;
    let StartRequest { apps, inherited, existing, no_wait } = request;
    let mut report = ActionReport::default();
    for (number, layer) in layers.iter().enumerate() {
        let mut layer: Vec<_> = apps.iter().filter(|app| layer.contains(&app.name)).cloned().collect();
        let mut unmet = BTreeMap::new();
        wait_for(handle, layer.iter().flat_map(|app| &app.depends_on), number).await?;
        for app in &mut layer {
            if let Some(problem) = unmet_dependency(handle, &app.depends_on).await? {
                app.autostart = false;
                unmet.insert(app.name.clone(), problem);
            }
        }
        let request = StartRequest { apps: layer, inherited: inherited.clone(), existing, no_wait };
        let mut layer_report = handle.with_step(number).start(request).await?;
        for outcome in &mut layer_report.instances {
            if let Some(problem) = unmet.get(&outcome.name) {
                outcome.problem = Some(format!("not started: dependency {problem}"));
            }
        }
        report.add(layer_report);
    }
    Ok(report)
}

/// Waits until these dependencies have reached their conditions, or cannot reach them without another command.
async fn wait_for(
    handle: &SupervisorHandle,
    dependencies: impl Iterator<Item = &Dependency>,
    layer: usize,
) -> Result<(), ApiError> {
    let mut conditions: BTreeMap<String, Condition> = BTreeMap::new();
    for Dependency { app, condition } in dependencies {
        let strictest = conditions.entry(app.clone()).or_insert(*condition);
        *strictest = (*strictest).max(*condition);
    }
    if !conditions.is_empty() {
        handle.with_step(format_args!("{layer}/wait")).wait_for(conditions).await?;
    }
    Ok(())
}

/// Checks that apps that are to complete are not restarted whenever they exit.
async fn check_jobs(handle: &SupervisorHandle, apps: &[AppSpec]) -> Result<(), ApiError> {
    let names = |instances: &BTreeMap<u32, Instance>| -> BTreeSet<String> {
        let services = instances.values().filter(|instance| !instance.spec().is_job());
        services.map(|instance| instance.spec().name.clone()).collect()
    };
    let listed = handle.inspect(names).await?;
    let is_service = |name: &String| match apps.iter().find(|app| app.name == *name) {
        Some(app) => !app.is_job(),
        None => listed.contains(name),
    };
    for app in apps {
        let completed = app.depends_on.iter().filter(|on| on.condition == Condition::Completed);
        if let Some(service) = completed.map(|on| &on.app).find(|name| is_service(name)) {
            let message = format!(
                "app \"{}\" waits until \"{service}\" has completed, but that app is restarted whenever it exits",
                app.name
            );
            let hint = format!("set `autorestart = false` or `stop_exit_codes = [0]` for \"{service}\"");
            return Err(ApiError::new(ErrorCode::Invalid, message).hint(hint));
        }
    }
    Ok(())
}

/// Acts on instances. Dependencies are stopped after the apps that depend on them.
///
/// # Errors
/// A selector matches nothing; nothing is changed.
pub async fn act(
    handle: &SupervisorHandle,
    action: Action,
    on: ActionRequest,
) -> Result<ActionReport, ApiError> {
    match action {
        Action::Stop | Action::Delete => {}
        Action::Start | Action::Restart | Action::Reset => return handle.act(action, on).await,
    }
    let selected = handle.get(Some(on.select.clone())).await?;
    let names: BTreeSet<String> = selected.iter().map(|(instance, _)| instance.spec().name.clone()).collect();
    let layers = stop_layers(&selected);
    drop(selected);
    let mut report = match layers {
        Some(layers) => act_in_layers(handle, action, layers).await?,
        None => handle.act(action, on).await?,
    };
    report.notes.extend(dependents(handle, names).await?);
    Ok(report)
}

async fn act_in_layers(
    handle: &SupervisorHandle,
    action: Action,
    layers: Vec<Selectors>,
) -> Result<ActionReport, ApiError> {
    let mut report = ActionReport::default();
    for (number, select) in layers.into_iter().enumerate() {
        match handle.with_step(number).act(action, ActionRequest { select, ..ActionRequest::default() }).await
        {
            Ok(layer_report) => report.add(layer_report),
            // Another client deleted the instances of this layer.
            Err(error) if error.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(report)
}

/// Notes about running apps that depend on apps that no longer run.
async fn dependents(handle: &SupervisorHandle, stopped: BTreeSet<String>) -> Result<Vec<String>, ApiError> {
    handle
        .inspect(move |instances| {
            let running =
                |it: &&Instance| it.status().want == Want::Up && it.status().state != State::Stopped;
            let is_down = |name: &String| {
                let mut app = instances.values().filter(|it| it.spec().name == *name);
                stopped.contains(name) && !app.any(|it| running(&it))
            };
            let mut notes = BTreeSet::new();
            for instance in instances.values().filter(running) {
                let needed =
                    instance.spec().depends_on.iter().filter(|on| on.condition != Condition::Completed);
                for on in needed.filter(|on| is_down(&on.app)) {
                    let name = &instance.spec().name;
                    notes.insert(format!("{name} is still running and depends on {}", on.app));
                }
            }
            notes.into_iter().collect()
        })
        .await
}

/// Adds the instances of a saved list in dependency order. Apps start even if a dependency has failed: they did so
/// before.
///
/// # Errors
/// The daemon is shutting down.
pub async fn resurrect(handle: &SupervisorHandle, snapshot: Snapshot) -> Result<ActionReport, ApiError> {
    let dependencies = dependencies(snapshot.instances().iter());
    // Only an edited list can contain a cycle: its apps start all at once.
    let layers = start_layers(&dependencies).unwrap_or_else(|_| vec![dependencies.into_keys().collect()]);
    let mut report = ActionReport::default();
    for (number, layer) in layers.iter().enumerate() {
        let layer = snapshot.filtered(|instance| layer.contains(&instance.spec().name));
        let conditions = layer.instances().iter().flat_map(|instance| &instance.spec().depends_on);
        wait_for(handle, conditions, number).await?;
        report.add(handle.with_step(number).resurrect(layer).await?);
    }
    Ok(report)
}

/// Stops all instances during a shutdown, after [`SupervisorHandle::begin_close`].
///
/// # Errors
/// The loop has ended.
pub async fn stop_all(handle: &SupervisorHandle) -> Result<ActionReport, ApiError> {
    let all = handle.get(None).await?;
    let layers = stop_layers(&all).unwrap_or_else(|| vec![vec!["all".into()]]);
    let mut report = ActionReport::default();
    for select in layers {
        report.add(handle.stop_finally(select).await?);
    }
    Ok(report)
}

fn cycle_error(cycle: DependencyCycle) -> ApiError {
    ApiError::new(ErrorCode::Invalid, cycle.to_string()).hint("remove one of them from `depends_on`")
}

fn dependencies<'a>(instances: impl Iterator<Item = &'a Instance>) -> Dependencies {
    instances.map(|instance| (instance.spec().name.clone(), instance.spec().dependency_names())).collect()
}

/// The ids to stop, layer by layer; `None` if the order does not matter.
fn stop_layers<U>(selected: &[(Instance, U)]) -> Option<Vec<Selectors>> {
    let dependencies = dependencies(selected.iter().map(|(instance, _)| instance));
    let mut layers = start_layers(&dependencies).ok().filter(|layers| layers.len() > 1)?;
    layers.reverse();
    let ids = |layer: Vec<String>| {
        let instances = selected.iter().filter(|(instance, _)| layer.contains(&instance.spec().name));
        instances.map(|(instance, _)| instance.id().to_string()).collect()
    };
    Some(layers.into_iter().map(ids).collect())
}

/// Checks that each dependency is in the request or in the list.
async fn check_known(handle: &SupervisorHandle, requested: &Dependencies) -> Result<(), ApiError> {
    let names = |instances: &BTreeMap<u32, Instance>| -> BTreeSet<String> {
        instances.values().map(|instance| instance.spec().name.clone()).collect()
    };
    let listed = handle.inspect(names).await?;
    for (name, dependencies) in requested {
        let is_known = |name: &String| requested.contains_key(name) || listed.contains(name);
        if let Some(unknown) = dependencies.iter().find(|name| !is_known(name)) {
            let message = format!("app \"{name}\" depends on \"{unknown}\", which does not exist");
            return Err(
                ApiError::new(ErrorCode::Invalid, message).hint("start that app first, or fix `depends_on`")
            );
        }
    }
    Ok(())
}

/// Reports the first of these dependencies that has not reached its condition.
async fn unmet_dependency(
    handle: &SupervisorHandle,
    dependencies: &[Dependency],
) -> Result<Option<String>, ApiError> {
    if dependencies.is_empty() {
        return Ok(None);
    }
    let dependencies = dependencies.to_vec();
    handle
        .inspect(move |instances| {
            dependencies.iter().find_map(|Dependency { app: name, condition }| {
                let mut app = instances.values().filter(|it| it.spec().name == *name).peekable();
                let problem = match app.peek() {
                    Some(_) => app.find_map(|it| it.unmet_condition(*condition))?,
                    None => "is not in the list".to_owned(),
                };
                Some(format!("\"{name}\" {problem}"))
            })
        })
        .await
}
