//! Answers requests: the only place where the wire's words meet the supervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, broadcast, mpsc};

use super::autosave::Autosave;
use super::drift::Drift;
use super::handle::Handle;
use super::keeper_link::KeeperLink;
use super::limits::Limiter;
use super::log_stream::line;
use super::node::Channels;
use super::ports::Record;
use super::reload::Reloads;
use super::saver::Saver;
use super::{dump, info, jlist, log_stream, reload, speak, steps, upgrade, views};
use crate::instance::Instance;
use crate::instance::life::RunId;
use crate::ipc::message::{
    ApiError, DescribeQuery, ErrorCode, EventView, ExitView, FlushRequest, InputRequest, InstanceDetail,
    InstanceView, MessageRequest, Pong, Report, Request, SaveRequest, Selectors, SignalRequest,
    UpgradeRequest,
};
use crate::ipc::openapi;
use crate::ipc::server::{Answer, Service};
use crate::keeper::protocol::{FdRole, KeeperRequest, UpgradeResult};
use crate::logs::{self, Logs};
use crate::metrics::{self, Usage};
use crate::paths::Home;
use crate::process::proc::net;
use crate::process::signal;
use crate::settings::RsmSettings;
use crate::version::version;

/// How long a change may take to be saved before it is answered all the same.
const SAVE_TIME: Duration = Duration::from_secs(2);

/// What answering needs.
#[derive(Clone)]
pub struct Api(Rc<Parts>);

/// The parts.
pub(super) struct Parts {
    /// Where files lie.
    pub home: Home,
    /// The supervisor.
    pub handle: Handle,
    /// The log thread.
    pub logs: Logs,
    /// Writes files.
    pub saver: Saver,
    /// What happens.
    pub events: broadcast::Sender<EventView>,
    /// Saves the list, if it is to.
    pub autosave: Autosave,
    /// The keeper.
    pub link: KeeperLink,
    /// The keeper's pid.
    pub keeper: i32,
    /// What came of the upgrade that led to this daemon.
    pub upgrade: UpgradeResult,
    /// How ports are shared.
    pub ports: Record,
    /// Node's channels.
    pub channels: Channels,
    /// Hard limits.
    pub limiter: Limiter,
    /// The apps that are being reloaded.
    pub reloads: Reloads,
    /// What the dump is known to hold.
    pub known_dump: dump::Known,
    /// Who the daemon runs as.
    pub user: String,
    /// Told when the shutdown is done.
    pub closed: Notify,
    /// Told when another daemon is to follow.
    pub replaced: Notify,
}

impl Api {
    /// An API of these parts.
    pub(super) fn new(parts: Parts) -> Self {
        Self(Rc::new(parts))
    }

    /// Resolves once a shutdown has stopped everything.
    pub async fn closed(&self) {
        self.0.closed.notified().await;
    }

    /// Resolves once another daemon is to follow this one.
    pub async fn replaced(&self) {
        self.0.replaced.notified().await;
    }

    /// Makes place for a daemon of another binary, which is tried before anything is changed. Does not
    /// come back from that: the other one answers who asks then.
    async fn upgrade(&self, binary: &Path) -> Result<Answer, ApiError> {
        let (_, state) = self.0.handle.snapshot().await?;
        let checked = upgrade::check(binary, &state).await?;
        if self.0.handle.is_closing() {
            return Err(ApiError::new(ErrorCode::Conflict, "the daemon is shutting down"));
        }
        tracing::info!(version = checked.version, "upgrading to {}", binary.display());
        self.0.handle.freeze().await;
        self.0.link.send(KeeperRequest::Upgrade, vec![(FdRole::Binary, checked.file.into())]);
        self.0.replaced.notify_one();
        std::future::pending().await
    }

    /// Stops every app and lets the daemon end.
    ///
    /// # Errors
    /// A shutdown is under way already.
    pub async fn shut_down(&self) -> Result<Answer, ApiError> {
        self.0.autosave.now().await;
        if !self.0.handle.close() {
            return Err(ApiError::new(ErrorCode::Conflict, "the daemon is already shutting down"));
        }
        self.0.link.send(KeeperRequest::BeginShutdown, Vec::new());
        let report = steps::stop_all(&self.0.handle).await?;
        self.0.closed.notify_one();
        json(&report)
    }

    /// A change is vouched for once it would survive the daemon. A disk that hangs is not waited
    /// for longer than this: the apps are as the report says.
    async fn saved(&self, report: Result<Report, ApiError>) -> Result<Answer, ApiError> {
        let mut report = report?;
        match tokio::time::timeout(SAVE_TIME, self.0.saver.written()).await {
            Ok(None) => {}
            Ok(Some(error)) => report.notes.push(unsaved(&error)),
            Err(_) => report.notes.push(unsaved("writing to disk timed out")),
        }
        json(&report)
    }

    /// The selected instances and what they use; of one that was just started, and not sampled yet,
    /// at least the memory.
    async fn look(&self, select: Option<Selectors>) -> Result<Vec<(Instance, Usage)>, ApiError> {
        let mut chosen = self.0.handle.look(select).await?;
        for (instance, usage) in &mut chosen {
            if let (Some(process), true) = (instance.life.state.process(), usage.processes.is_empty()) {
                *usage = metrics::first_glance(process.pid);
            }
        }
        Ok(chosen)
    }

    async fn list(&self) -> Result<Vec<InstanceView>, ApiError> {
        let all = self.look(None).await?;
        let drift = Drift::look(all.iter().map(|(instance, _)| instance)).await;
        let now = crate::time::now();
        let view = |(instance, usage): &(Instance, Usage)| {
            let view = views::instance(instance, Some(usage), &self.0.user, now);
            InstanceView { drift: drift.of(instance), ..view }
        };
        Ok(all.iter().map(view).collect())
    }

    async fn describe(&self, query: DescribeQuery) -> Result<Vec<InstanceDetail>, ApiError> {
        let chosen = self.look(Some(query.select)).await?;
        let all = self.0.handle.look(None).await?;
        let drift = Drift::look(all.iter().map(|(instance, _)| instance)).await;
        let mut details: Vec<InstanceDetail> = chosen
            .into_iter()
            .map(|(instance, usage)| self.detail(instance, usage, &drift, query.env))
            .collect();
        count_connections(&mut details).await;
        Ok(details)
    }

    fn detail(&self, instance: Instance, usage: Usage, drift: &Drift, env: bool) -> InstanceDetail {
        let mut view = views::instance(&instance, Some(&usage), &self.0.user, crate::time::now());
        view.drift = drift.of(&instance);
        let files = logs::files(&instance.spec, instance.id, &self.0.home);
        let mut spec = (*instance.spec).clone();
        if !env {
            spec.env.values_mut().for_each(String::clear); // names may be shown, values may be secrets
        }
        spec.origin = None;
        InstanceDetail {
            view,
            command: super::launch::command(&instance.spec),
            spec,
            out_file: files.out,
            error_file: files.err,
            log_file: files.combined,
            pid_file: super::effects::pid_file(&instance, &self.0.home),
            created_at: instance.life.created.wall,
            exits: instance.life.exits.iter().map(views::exit).collect::<Vec<ExitView>>(),
            processes: usage.processes,
            connections: None,
            limits: self.0.limiter.view(&instance),
            ports: instance
                .life
                .state
                .run()
                .and_then(|number| self.0.ports.of(RunId { instance: instance.id, number })),
        }
    }

    async fn info(&self) -> Result<Answer, ApiError> {
        let Parts { home, keeper, known_dump, .. } = &*self.0;
        let (instances, _): (Vec<Instance>, Vec<Usage>) = self.0.handle.look(None).await?.into_iter().unzip();
        let unsaved = !instances.is_empty() && !known_dump.holds(&instances, home);
        json(&info::info(&instances, unsaved, *keeper, home))
    }

    async fn env(&self, id: u32) -> Result<Answer, ApiError> {
        let env = self.0.handle.inspect(move |instances| instances.get(&id).map(|it| it.spec.env.clone()));
        match env.await? {
            Some(env) => json(&env),
            None => Err(ApiError::new(ErrorCode::NotFound, format!("no instance with id {id}"))
                .hint("see `rsm list`")),
        }
    }

    async fn flush(&self, select: Selectors) -> Result<Answer, ApiError> {
        let select = (!select.is_empty()).then_some(select);
        let chosen = self.0.handle.look(select).await?;
        let mut files = Vec::new();
        for (instance, _) in &chosen {
            let of = logs::files(&instance.spec, instance.id, &self.0.home);
            files.extend([of.out, of.err, of.combined].into_iter().flatten());
        }
        files.sort();
        files.dedup();
        done(self.0.logs.flush(files.clone()).await, "truncate")?;
        json(&files)
    }

    fn events(&self) -> Answer {
        let mut events = self.0.events.subscribe();
        let (send, lines) = mpsc::channel(64);
        tokio::task::spawn_local(async move {
            loop {
                let line = tokio::select! {
                    event = events.recv() => match event {
                        Ok(event) => line(&event),
                        Err(broadcast::error::RecvError::Lagged(missed)) => line(&serde_json::json!({ "missed": missed })),
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                    () = send.closed() => return,
                };
                if send.send(line).await.is_err() {
                    return;
                }
            }
        });
        Answer::Stream(lines)
    }

    async fn signal(&self, handle: &Handle, select: Selectors, name: &str) -> Result<Answer, ApiError> {
        let Some(number) = signal::parse(name) else {
            return Err(ApiError::new(ErrorCode::Invalid, format!("unknown signal \"{name}\""))
                .hint("use a name such as SIGUSR2 or HUP (see `kill -l`)"));
        };
        json(&handle.signal(select, number).await?)
    }
}

impl Service for Api {
    async fn answer(&self, request: Request, key: Option<String>) -> Result<Answer, ApiError> {
        let Parts { home, handle, logs, saver, .. } = &*self.0;
        let handle = &handle.keyed(key);
        match request {
            Request::Ping => json(&Pong {
                version: version().to_owned(),
                pid: std::process::id().cast_signed(),
                upgrade: upgrade::outcome(self.0.upgrade),
            }),
            Request::Info => self.info().await,
            Request::List => json(&self.list().await?),
            Request::Jlist => {
                json(&jlist::jlist(&self.look(None).await?, &self.0.channels, home, &self.0.user))
            }
            Request::Describe(query) => json(&self.describe(query).await?),
            Request::Env(id) => self.env(id).await,
            Request::Start(apps) => self.saved(steps::start(handle, apps).await).await,
            Request::Act(action, on) => self.saved(steps::act(handle, action, on).await).await,
            Request::Reload(reload) => {
                self.saved(reload::reload(handle, &self.0.reloads, reload).await).await
            }
            Request::Scale(name, to) => self.saved(handle.scale(name, to).await).await,
            Request::Signal(SignalRequest { select, signal }) => self.signal(handle, select, &signal).await,
            Request::Input(InputRequest { select, text }) => {
                json(&speak::input(handle, select, &text).await?)
            }
            Request::Message(MessageRequest { select, message }) => {
                json(&speak::message(handle, &self.0.channels, select, &message).await?)
            }
            Request::Trigger(wanted) => json(&speak::trigger(handle, &self.0.channels, &wanted).await?),
            Request::Save(SaveRequest { force }) => json(&dump::save(handle, saver, home, force).await?),
            Request::Resurrect => {
                let _whole = self.0.autosave.hold();
                let (saved, note) = dump::load(home)?;
                let mut report = steps::resurrect(handle, saved).await?;
                report.notes.extend(note);
                self.saved(Ok(report)).await
            }
            Request::ClearDump => json(&dump::clear(saver, home).await?),
            Request::Flush(FlushRequest { select }) => self.flush(select).await,
            Request::ReopenLogs => {
                match RsmSettings::load(home) {
                    Ok(settings) => logs.set_budget(settings.log_budget()),
                    Err(error) => tracing::warn!("{error}"),
                }
                done(logs.reopen().await, "reopen")?;
                json(&serde_json::json!({}))
            }
            Request::Logs(query) | Request::LogsFrom(query) => {
                log_stream::open(handle, logs, home, query).await
            }
            Request::Events => Ok(self.events()),
            Request::Upgrade(UpgradeRequest { binary }) => self.upgrade(&binary).await,
            Request::Shutdown => self.shut_down().await,
            Request::OpenApi => json(&openapi::document()),
        }
    }
}

/// Counts the connections of those that share ports, where tables of many thousand keep nobody waiting.
async fn count_connections(details: &mut [InstanceDetail]) {
    let port = |address: &String| address.rsplit(':').next()?.parse().ok();
    let groups: BTreeMap<u32, (Vec<i32>, BTreeSet<u16>)> = details
        .iter()
        .filter_map(|detail| {
            let ports: BTreeSet<u16> = detail.ports.as_ref()?.addresses.iter().filter_map(port).collect();
            (!ports.is_empty()).then(|| (detail.view.id, (detail.processes.clone(), ports)))
        })
        .collect();
    if groups.is_empty() {
        return;
    }
    let counted = tokio::task::spawn_blocking(move || net::count_established(&groups)).await;
    let counted = counted.unwrap_or_default();
    for detail in details {
        detail.connections = counted.get(&detail.view.id).copied();
    }
}

/// Waits until the log thread has done it, and words what it could not do.
fn done(failures: logs::thread::Failures, what: &str) -> Result<(), ApiError> {
    if failures.is_empty() {
        return Ok(());
    }
    let each: Vec<String> =
        failures.iter().map(|(path, error)| format!("{}: {error}", path.display())).collect();
    Err(ApiError::new(ErrorCode::Internal, format!("cannot {what} log files: {}", each.join("; "))))
}

fn unsaved(error: &str) -> String {
    format!("the change is active but could not be saved: {error}")
}

/// A JSON answer.
fn json(value: &impl Serialize) -> Result<Answer, ApiError> {
    let bytes = serde_json::to_vec(value);
    bytes
        .map(Answer::Json)
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("cannot encode the response: {error}")))
}
