//! `reload`: app by app, slot by slot, each instance gets another process; the first that fails ends it
//! for its app. A client of the loop like any other: should the daemon die in the middle of it, the
//! client asks the next one by the same key, and that goes on where this one was.

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
use crate::ipc::message::{ApiError, ErrorCode, Existing, Inherited, Reload, Report, ScaleTo, StartApps};
use crate::spec::AppSpec;

/// The apps that are being reloaded: a second reload of one is refused.
#[derive(Clone, Debug, Default)]
pub struct Reloads(Rc<RefCell<BTreeSet<String>>>);

/// The apps of one reload. Dropping it lets them be reloaded again.
struct ReloadGuard {
    reloads: Reloads,
    names: Vec<String>,
}

impl Reloads {
    /// Whether a reload of this app is under way.
    pub fn is_reloading(&self, app: &str) -> bool {
        self.0.borrow().contains(app)
    }

    fn acquire(&self, names: Vec<String>) -> Result<ReloadGuard, ApiError> {
        if let Some(name) = names.iter().find(|name| self.is_reloading(name)) {
            let what = format!("{name} is already being reloaded");
            return Err(
                ApiError::new(ErrorCode::Conflict, what).hint("wait for it to finish, then reload again")
            );
        }
        self.0.borrow_mut().extend(names.iter().cloned());
        Ok(ReloadGuard { reloads: self.clone(), names })
    }
}

impl Drop for ReloadGuard {
    fn drop(&mut self) {
        let mut taken = self.reloads.0.borrow_mut();
        taken.retain(|name| !self.names.contains(name));
    }
}

/// What is to be done to one app.
#[derive(Default)]
struct AppReload {
    /// Its instances in the order of their numbers, and what each shall become.
    slots: Vec<(u32, Option<Box<NewSettings>>)>,
    /// How many instances it shall have then, if not as many as it has.
    count: Option<u32>,
}

/// Gives apps new processes. Resolves when the old ones are gone. What failed is told in the report.
///
/// # Errors
/// A selector matches nothing, settings make no sense, or an app is being reloaded already; nothing is
/// changed.
pub async fn reload(
    handle: &SupervisorHandle,
    reloads: &Reloads,
    wanted: Reload,
) -> Result<Report, ApiError> {
    if wanted.parallel == 0 {
        return Err(ApiError::new(ErrorCode::Invalid, "`parallel` must be at least 1"));
    }
    if wanted.select.is_empty() && wanted.apps.is_empty() {
        return Err(ApiError::new(ErrorCode::Invalid, "no app selected"));
    }
    let (work, new) = plan(handle, &wanted).await?;
    let taken = reloads.acquire(work.keys().cloned().collect())?;
    let mut report = Report::default();
    let parallel = usize::try_from(wanted.parallel).unwrap_or(usize::MAX);
    let mut apps = JoinSet::new();
    for (name, work) in work {
        let handle = handle.clone();
        apps.spawn_local(async move { reload_app(&handle, &name, work, parallel).await });
    }
    while let Some(done) = apps.join_next().await {
        report.add(done.map_err(join_error)??);
    }
    drop(taken);
    if !new.is_empty() {
        let inherited = wanted.inherited.unwrap_or_default();
        let start = StartApps { apps: new, inherited, existing: Existing::Restart };
        report.add(layers::start(&handle.with_step("new"), start).await?);
    }
    Ok(report)
}

fn join_error(error: tokio::task::JoinError) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("reload aborted: {error}"))
}

/// What is to be done, by app, and the apps that are new.
async fn plan(
    handle: &SupervisorHandle,
    wanted: &Reload,
) -> Result<(BTreeMap<String, AppReload>, Vec<AppSpec>), ApiError> {
    let mut plan: BTreeMap<String, AppReload> = BTreeMap::new();
    if !wanted.select.is_empty() {
        for (instance, _) in handle.get(Some(wanted.select.clone())).await? {
            let with = new_settings(&instance, wanted)?;
            plan.entry(instance.spec().name.clone()).or_default().slots.push((instance.id(), with));
        }
    }
    let mut new = Vec::new();
    for app in &wanted.apps {
        let name = app.name.clone();
        let mut there: Vec<(u32, u32)> = handle
            .inspect(move |instances| {
                let of_app = instances.values();
                let of_app = of_app.filter(|it| it.spec().name == name && it.status().want != Want::Gone);
                of_app.map(|instance| (instance.number(), instance.id())).collect()
            })
            .await?;
        if there.is_empty() {
            new.push(app.clone());
            continue;
        }
        there.sort_unstable();
        let with = |id| {
            let inherited = wanted.inherited.clone().unwrap_or_default();
            (id, Some(Box::new(NewSettings { spec: app.clone(), inherited })))
        };
        let wanted = app.target_instances(there.len());
        let count = (wanted != there.len()).then(|| u32::try_from(wanted).unwrap_or(u32::MAX));
        // Those that will not be needed are not replaced first.
        let slots = there.into_iter().take(wanted).map(|(_, id)| with(id)).collect();
        plan.insert(app.name.clone(), AppReload { slots, count });
    }
    Ok((plan, new))
}

fn new_settings(instance: &Instance, wanted: &Reload) -> Result<Option<Box<NewSettings>>, ApiError> {
    let changes = wanted.changes.as_ref().filter(|changes| !changes.is_empty());
    if changes.is_none() && wanted.inherited.is_none() {
        return Ok(None);
    }
    let spec = match changes {
        Some(changes) => instance
            .spec()
            .patched(changes)
            .map_err(|error| ApiError::new(ErrorCode::Invalid, format!("invalid settings: {error}")))?,
        None => (**instance.spec()).clone(),
    };
    let inherited = wanted.inherited.clone().unwrap_or_else(|| Inherited((**instance.inherited()).clone()));
    Ok(Some(Box::new(NewSettings { spec, inherited })))
}

async fn reload_app(
    handle: &SupervisorHandle,
    name: &str,
    work: AppReload,
    parallel: usize,
) -> Result<Report, ApiError> {
    let mut report = Report::default();
    let mut slots = work.slots.into_iter();
    let mut replaced: Vec<RunId> = Vec::new();
    while slots.len() > 0 {
        let mut steps = JoinSet::new();
        let batch: Vec<_> = slots.by_ref().take(parallel).collect();
        let former = current_runs(handle, batch.iter().map(|(id, _)| *id)).await?;
        for (id, with) in batch {
            let (handle, after) = (handle.with_step(id), replaced.clone());
            steps.spawn_local(async move { handle.replace(id, with, after).await });
        }
        while let Some(step) = steps.join_next().await {
            match step.map_err(join_error)? {
                Ok(part) => report.add(part),
                // Gone meanwhile, as somebody else wanted.
                Err(error) if error.code == ErrorCode::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let done = replaced.len();
        replaced.extend(former);
        add_failures(handle, &replaced, &mut report).await?;
        if report.instances.iter().any(|outcome| outcome.problem.is_some()) {
            let left = slots.len();
            if done > 0 || left > 0 {
                report.notes.push(format!("{name}: {done} instances reloaded, {left} not attempted"));
            }
            return Ok(report);
        }
    }
    if let Some(count) = work.count {
        report.add(handle.with_step(name).scale(name.to_owned(), ScaleTo::Exactly(count)).await?);
    }
    Ok(report)
}

/// The last runs of these instances until now.
async fn current_runs(
    handle: &SupervisorHandle,
    ids: impl Iterator<Item = u32>,
) -> Result<Vec<RunId>, ApiError> {
    let ids: Vec<u32> = ids.collect();
    handle
        .inspect(move |instances| {
            let chosen = ids.iter().filter_map(|id| instances.get(id));
            chosen.map(|it| RunId { instance: it.id(), number: it.status().last_run }).collect()
        })
        .await
}

/// Notes in the report which new processes have ended since they took their places.
async fn add_failures(
    handle: &SupervisorHandle,
    replaced: &[RunId],
    report: &mut Report,
) -> Result<(), ApiError> {
    let replaced = replaced.to_vec();
    let now = handle
        .inspect(move |instances| {
            let chosen = replaced.iter().filter_map(|run| Some((*run, instances.get(&run.instance)?)));
            let state = |(run, it): (RunId, &Instance)| {
                (run.instance, replacement_exit(it, run), views::display_status(&it.status().state))
            };
            chosen.map(state).collect::<Vec<_>>()
        })
        .await?;
    for (id, problem, status) in now {
        let outcome = report.instances.iter_mut().find(|outcome| outcome.id == id);
        if let Some(outcome) = outcome
            && outcome.problem.is_none()
        {
            (outcome.problem, outcome.status) = (problem, Some(status));
        }
    }
    Ok(())
}
