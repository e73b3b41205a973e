//! Work of several steps: apps that depend on others are started after these are online, and stopped
//! before them. A client of the loop like any other; each step is asked for under the key of the whole,
//! so that a client who asks the next daemon again has it go on where this one died.

use std::collections::{BTreeMap, BTreeSet};

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::instance::Instance;
use crate::instance::snapshot::Snapshot;
use crate::instance::state::State;
use crate::ipc::message::{ActOn, Action, ApiError, ErrorCode, Report, Selectors, StartApps};
use crate::spec::dependencies::{DependencyCycle, start_layers};

type Dependencies = BTreeMap<String, Vec<String>>;

/// Starts apps, each after those that it depends on are online.
///
/// # Errors
/// A circle, or a dependency that is neither asked for nor in the list; nothing is changed. What fails to
/// come online is told in the report, as are those that wait for it.
pub async fn start(handle: &SupervisorHandle, request: StartApps) -> Result<Report, ApiError> {
    let wanted: Dependencies =
        request.apps.iter().map(|app| (app.name.clone(), app.depends_on.clone())).collect();
    if wanted.values().all(Vec::is_empty) {
        return handle.start(request).await;
    }
    let steps = start_layers(&wanted).map_err(cycle_error)?;
    check_known(handle, &wanted).await?;
    let StartApps { apps, inherited, existing } = request;
    let mut report = Report::default();
    for (number, step) in steps.iter().enumerate() {
        let mut now: Vec<_> = apps.iter().filter(|app| step.contains(&app.name)).cloned().collect();
        let mut waiting = BTreeMap::new();
        for app in &mut now {
            if let Some(why) = unmet_dependency(handle, &app.depends_on).await? {
                app.autostart = false;
                waiting.insert(app.name.clone(), why);
            }
        }
        let part = StartApps { apps: now, inherited: inherited.clone(), existing };
        let mut part = handle.with_step(number).start(part).await?;
        for outcome in &mut part.instances {
            if let Some(why) = waiting.get(&outcome.name) {
                outcome.problem = Some(format!("not started: dependency {why}"));
            }
        }
        report.add(part);
    }
    Ok(report)
}

/// Acts on instances; those that others depend on are stopped after these.
///
/// # Errors
/// A selector matches nothing; nothing is changed.
pub async fn act(handle: &SupervisorHandle, action: Action, on: ActOn) -> Result<Report, ApiError> {
    match action {
        Action::Stop | Action::Delete => {}
        Action::Start | Action::Restart | Action::Reset => return handle.act(action, on).await,
    }
    let Some(steps) = stop_layers(&handle.get(Some(on.select.clone())).await?) else {
        return handle.act(action, on).await;
    };
    let mut report = Report::default();
    for (number, select) in steps.into_iter().enumerate() {
        match handle.with_step(number).act(action, ActOn { select, ..ActOn::default() }).await {
            Ok(part) => report.add(part),
            // Gone meanwhile, as somebody else wanted.
            Err(error) if error.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(report)
}

/// Adds what a saved list holds, in order.
///
/// # Errors
/// The daemon is shutting down.
pub async fn resurrect(handle: &SupervisorHandle, saved: Snapshot) -> Result<Report, ApiError> {
    let wanted = dependencies(saved.instances().iter());
    // A circle was refused before it was saved; a damaged list starts all at once.
    let steps = start_layers(&wanted).unwrap_or_else(|_| vec![wanted.into_keys().collect()]);
    let mut report = Report::default();
    for (number, step) in steps.iter().enumerate() {
        let part = saved.filtered(|instance| step.contains(&instance.spec().name));
        report.add(handle.with_step(number).resurrect(part).await?);
    }
    Ok(report)
}

/// Stops everything, for good. For who has called [`SupervisorHandle::close`].
///
/// # Errors
/// The loop has ended.
pub async fn stop_all(handle: &SupervisorHandle) -> Result<Report, ApiError> {
    let all = handle.get(None).await?;
    let steps = stop_layers(&all).unwrap_or_else(|| vec![vec!["all".into()]]);
    let mut report = Report::default();
    for select in steps {
        report.add(handle.stop_finally(select).await?);
    }
    Ok(report)
}

fn cycle_error(circle: DependencyCycle) -> ApiError {
    ApiError::new(ErrorCode::Invalid, circle.to_string()).hint("remove one of them from `depends_on`")
}

fn dependencies<'a>(instances: impl Iterator<Item = &'a Instance>) -> Dependencies {
    instances.map(|instance| (instance.spec().name.clone(), instance.spec().depends_on.clone())).collect()
}

/// Ids to stop, step by step; nothing if their order does not matter.
fn stop_layers<U>(chosen: &[(Instance, U)]) -> Option<Vec<Selectors>> {
    let apps = dependencies(chosen.iter().map(|(instance, _)| instance));
    let mut steps = start_layers(&apps).ok().filter(|steps| steps.len() > 1)?;
    steps.reverse();
    let ids = |step: Vec<String>| {
        let of_it = chosen.iter().filter(|(instance, _)| step.contains(&instance.spec().name));
        of_it.map(|(instance, _)| instance.id().to_string()).collect()
    };
    Some(steps.into_iter().map(ids).collect())
}

async fn check_known(handle: &SupervisorHandle, wanted: &Dependencies) -> Result<(), ApiError> {
    let listed = |instances: &BTreeMap<u32, Instance>| -> BTreeSet<String> {
        instances.values().map(|instance| instance.spec().name.clone()).collect()
    };
    let listed = handle.inspect(listed).await?;
    for (name, on) in wanted {
        let unknown = on.iter().find(|on| !wanted.contains_key(*on) && !listed.contains(on.as_str()));
        if let Some(unknown) = unknown {
            let what = format!("app \"{name}\" depends on \"{unknown}\", which does not exist");
            return Err(
                ApiError::new(ErrorCode::Invalid, what).hint("start that app first, or fix `depends_on`")
            );
        }
    }
    Ok(())
}

/// The first of these apps that is not online, and how it is.
async fn unmet_dependency(handle: &SupervisorHandle, on: &[String]) -> Result<Option<String>, ApiError> {
    if on.is_empty() {
        return Ok(None);
    }
    let on = on.to_vec();
    handle
        .inspect(move |instances| {
            let online = |name: &&String| {
                let mut of_it = instances.values().filter(|it| it.spec().name == **name).peekable();
                of_it.peek().is_some() && of_it.all(|it| matches!(it.status().state, State::Online { .. }))
            };
            on.iter().find(|name| !online(name)).map(|name| format!("\"{name}\" is not online"))
        })
        .await
}
