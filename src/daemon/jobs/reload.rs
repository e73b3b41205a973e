//! Reload: replaces the processes of apps without downtime, instance by instance. The first failure ends the
//! reload of its app.
//!
//! Each replacement is one operation of the supervisor with its own idempotency key. If the daemon dies, the client
//! sends the request to the next daemon, which continues with the next instance.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tokio::task::JoinSet;

use crate::daemon::jobs::layers;
use crate::daemon::supervisor::NewSettings;
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::replacement::replacement_exit;
use crate::daemon::supervisor::views;
use crate::instance::Instance;
use crate::instance::state::Want;
use crate::instance::status::RunId;
use crate::ipc::message::{
    ActionReport, ApiError, ErrorCode, Existing, InheritedEnv, ReloadRequest, ScaleTo, StartRequest,
};
use crate::spec::AppSpec;

/// The apps that are being reloaded. A second reload of the same app is refused.
#[derive(Clone, Debug, Default)]
pub struct Reloads(Rc<RefCell<BTreeSet<String>>>);

/// The apps of one reload, until it is dropped.
struct ReloadGuard {
    reloads: Reloads,
    names: Vec<String>,
}

impl Reloads {
    pub fn is_reloading(&self, app: &str) -> bool {
        self.0.borrow().contains(app)
    }

    fn acquire(&self, names: Vec<String>) -> Result<ReloadGuard, ApiError> {
        if let Some(name) = names.iter().find(|name| self.is_reloading(name)) {
            return Err(ApiError::new(ErrorCode::Conflict, format!("{name} is already being reloaded"))
                .hint("wait for it to finish, then reload again"));
        }
        self.0.borrow_mut().extend(names.iter().cloned());
        Ok(ReloadGuard { reloads: self.clone(), names })
    }
}

impl Drop for ReloadGuard {
    fn drop(&mut self) {
        self.reloads.0.borrow_mut().retain(|name| !self.names.contains(name));
    }
}

/// The plan for one app.
#[derive(Default)]
struct AppReload {
    /// The ids of its instances in the order of their numbers, with new settings.
    instances: Vec<(u32, Option<Box<NewSettings>>)>,
    /// The number of instances after the reload, if it changes.
    count: Option<u32>,
}

/// Replaces the processes of apps. Returns when the old ones have exited; failures are in the report.
///
/// # Errors
/// A selector matches nothing, settings are invalid, or an app is already being reloaded; nothing is changed.
pub async fn reload(
    handle: &SupervisorHandle,
    reloads: &Reloads,
    request: ReloadRequest,
) -> Result<ActionReport, ApiError> {
    if request.parallel == 0 {
        return Err(ApiError::new(ErrorCode::Invalid, "`parallel` must be at least 1"));
    }
    if request.select.is_empty() && request.apps.is_empty() {
        return Err(ApiError::new(ErrorCode::Invalid, "no app selected"));
    }
    let (plan, new_apps) = plan(handle, &request).await?;
    let guard = reloads.acquire(plan.keys().cloned().collect())?;
    let mut report = ActionReport::default();
    let parallel = usize::try_from(request.parallel).unwrap_or(usize::MAX);
    let mut apps = JoinSet::new();
    for (name, app) in plan {
        let handle = handle.clone();
        apps.spawn_local(async move { reload_app(&handle, &name, app, parallel).await });
    }
    while let Some(app_report) = apps.join_next().await {
        report.add(app_report.map_err(join_error)??);
    }
    drop(guard);
    if !new_apps.is_empty() {
        let inherited = request.inherited.unwrap_or_default();
        let start = StartRequest { apps: new_apps, inherited, existing: Existing::Restart, no_wait: false };
        report.add(layers::start(&handle.with_step("new"), start).await?);
    }
    Ok(report)
}

fn join_error(error: tokio::task::JoinError) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("reload aborted: {error}"))
}

/// The plan by app, and the apps that are not in the list yet.
async fn plan(
    handle: &SupervisorHandle,
    request: &ReloadRequest,
) -> Result<(BTreeMap<String, AppReload>, Vec<AppSpec>), ApiError> {
    let mut plan: BTreeMap<String, AppReload> = BTreeMap::new();
    if !request.select.is_empty() {
        for (instance, _) in handle.get(Some(request.select.clone())).await? {
            let settings = new_settings(&instance, request)?;
            plan.entry(instance.spec().name.clone()).or_default().instances.push((instance.id(), settings));
        }
    }
    let mut new_apps = Vec::new();
    for app in &request.apps {
        let ids = instance_ids(handle, app.name.clone()).await?;
        if ids.is_empty() {
            new_apps.push(app.clone());
            continue;
        }
        let target = app.target_instances(ids.len());
        let count = (target != ids.len()).then(|| u32::try_from(target).unwrap_or(u32::MAX));
        let with_settings = |id| {
            let inherited = request.inherited.clone().unwrap_or_default();
            (id, Some(Box::new(NewSettings { spec: app.clone(), inherited })))
        };
        // Instances that the new number makes superfluous are not replaced.
        let instances = ids.into_iter().take(target).map(with_settings).collect();
        plan.insert(app.name.clone(), AppReload { instances, count });
    }
    Ok((plan, new_apps))
}

/// The ids of an app's instances in the order of their numbers.
async fn instance_ids(handle: &SupervisorHandle, app: String) -> Result<Vec<u32>, ApiError> {
    let mut instances: Vec<(u32, u32)> = handle
        .inspect(move |instances| {
            let app = instances.values().filter(|it| it.spec().name == app && it.status().want != Want::Gone);
            app.map(|instance| (instance.number(), instance.id())).collect()
        })
        .await?;
    instances.sort_unstable();
    Ok(instances.into_iter().map(|(_, id)| id).collect())
}

fn new_settings(instance: &Instance, request: &ReloadRequest) -> Result<Option<Box<NewSettings>>, ApiError> {
    let changes = request.changes.as_ref().filter(|changes| !changes.is_empty());
    if changes.is_none() && request.inherited.is_none() {
        return Ok(None);
    }
    let spec = match changes {
        Some(changes) => instance
            .spec()
            .patched(changes)
            .map_err(|error| ApiError::new(ErrorCode::Invalid, format!("invalid settings: {error}")))?,
        None => (**instance.spec()).clone(),
    };
    let inherited =
        request.inherited.clone().unwrap_or_else(|| InheritedEnv((**instance.inherited()).clone()));
    Ok(Some(Box::new(NewSettings { spec, inherited })))
}

async fn reload_app(
    handle: &SupervisorHandle,
    name: &str,
    app: AppReload,
    parallel: usize,
) -> Result<ActionReport, ApiError> {
    let mut report = ActionReport::default();
    let mut instances = app.instances.into_iter();
    let mut replaced: Vec<RunId> = Vec::new();
    while instances.len() > 0 {
        let mut steps = JoinSet::new();
        let batch: Vec<(u32, Option<Box<NewSettings>>)> = instances.by_ref().take(parallel).collect();
        let old_runs = current_runs(handle, batch.iter().map(|(id, _)| *id)).await?;
        for (id, settings) in batch {
            let (handle, earlier_runs) = (handle.with_step(id), replaced.clone());
            steps.spawn_local(async move { handle.replace(id, settings, earlier_runs).await });
        }
        while let Some(step) = steps.join_next().await {
            match step.map_err(join_error)? {
                Ok(step_report) => report.add(step_report),
                // Another client deleted the instance.
                Err(error) if error.code == ErrorCode::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let done = replaced.len();
        replaced.extend(old_runs);
        add_failures(handle, &replaced, &mut report).await?;
        if report.instances.iter().any(|outcome| outcome.problem.is_some()) {
            let remaining = instances.len();
            if done > 0 || remaining > 0 {
                report.notes.push(format!("{name}: {done} instances reloaded, {remaining} not attempted"));
            }
            return Ok(report);
        }
    }
    if let Some(count) = app.count {
        report.add(handle.with_step(name).scale(name.to_owned(), ScaleTo::Exactly(count).into()).await?);
    }
    Ok(report)
}

/// The latest runs of these instances.
async fn current_runs(
    handle: &SupervisorHandle,
    ids: impl Iterator<Item = u32>,
) -> Result<Vec<RunId>, ApiError> {
    let ids: Vec<u32> = ids.collect();
    handle
        .inspect(move |instances| {
            let selected = ids.iter().filter_map(|id| instances.get(id));
            selected.map(|it| RunId { instance: it.id(), number: it.status().last_run }).collect()
        })
        .await
}

/// Adds to the report which new processes have exited since their replacement.
async fn add_failures(
    handle: &SupervisorHandle,
    replaced: &[RunId],
    report: &mut ActionReport,
) -> Result<(), ApiError> {
    let replaced = replaced.to_vec();
    let outcomes = handle
        .inspect(move |instances| {
            let selected = replaced.iter().filter_map(|run| Some((*run, instances.get(&run.instance)?)));
            let state = |(run, it): (RunId, &Instance)| {
                (run.instance, replacement_exit(it, run), views::display_status(it))
            };
            selected.map(state).collect::<Vec<_>>()
        })
        .await?;
    for (id, problem, status) in outcomes {
        let outcome = report.instances.iter_mut().find(|outcome| outcome.id == id);
        if let Some(outcome) = outcome
            && outcome.problem.is_none()
        {
            (outcome.problem, outcome.status) = (problem, Some(status));
        }
    }
    Ok(())
}
