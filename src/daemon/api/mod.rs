//! Answers requests: the only place where the wire's words meet the supervisor.

pub(super) mod info;
pub(super) mod jlist;
pub(super) mod logs;
pub(super) mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, broadcast, mpsc};

use crate::daemon::api::logs::json_line;
use crate::daemon::jobs::autosave::Autosave;
use crate::daemon::jobs::drift::Drift;
use crate::daemon::jobs::reload::Reloads;
use crate::daemon::jobs::{dump, layers, reload, upgrade};
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::world::keeper_link::KeeperLink;
use crate::daemon::world::limits::ResourceLimiter;
use crate::daemon::world::node_channel::NodeChannels;
use crate::daemon::world::ports::PortRegistry;
use crate::daemon::world::state_writer::StateWriter;

use crate::daemon::supervisor::views;
use crate::instance::Instance;
use crate::instance::status::RunId;
use crate::ipc::message::{
    ApiError, DescribeQuery, ErrorCode, EventView, ExitView, FlushRequest, InputRequest, InstanceDetail,
    InstanceView, MessageRequest, Pong, Report, Request, SaveRequest, Selectors, SignalRequest,
    UpgradeRequest,
};
use crate::ipc::openapi;
use crate::ipc::server::{HandlerResponse, RequestHandler};
use crate::keeper::protocol::{FdRole, KeeperRequest, UpgradeResult};
use crate::logs::{LogHandle, log_files};
use crate::metrics::{self, Usage};
use crate::paths::Home;
use crate::process::proc::net;
use crate::process::signal;
use crate::settings::RsmSettings;
use crate::version::version;

/// How long a change may take to be saved before it is answered all the same.
const SAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What answering needs.
#[derive(Clone)]
pub struct Api(Rc<ApiParts>);

/// The parts.
pub(super) struct ApiParts {
    /// Where files lie.
    pub home: Home,
    /// The supervisor.
    pub handle: SupervisorHandle,
    /// The log thread.
    pub logs: LogHandle,
    /// Writes files.
    pub state_writer: StateWriter,
    /// What happens.
    pub events: broadcast::Sender<EventView>,
    /// Saves the list, if it is to.
    pub autosave: Autosave,
    /// The keeper.
    pub keeper_link: KeeperLink,
    /// The keeper's pid.
    pub keeper: i32,
    /// What came of the upgrade that led to this daemon.
    pub upgrade: UpgradeResult,
    /// How ports are shared.
    pub port_registry: PortRegistry,
    /// Node's channels.
    pub node_channels: NodeChannels,
    /// Hard limits.
    pub limiter: ResourceLimiter,
    /// The apps that are being reloaded.
    pub reloads: Reloads,
    /// What the dump is known to hold.
    pub known_dump: dump::DumpFingerprint,
    /// Who the daemon runs as.
    pub user: String,
    /// Told when the shutdown is done.
    pub shutdown_done: Notify,
    /// Told when another daemon is to follow.
    pub upgrade_done: Notify,
}

impl Api {
    /// An API of these parts.
    pub(super) fn new(parts: ApiParts) -> Self {
        Self(Rc::new(parts))
    }

    /// Resolves once a shutdown has stopped everything.
    pub async fn wait_shutdown(&self) {
        self.0.shutdown_done.notified().await;
    }

    /// Resolves once another daemon is to follow this one.
    pub async fn wait_upgrade(&self) {
        self.0.upgrade_done.notified().await;
    }

    /// Makes place for a daemon of another binary, which is tried before anything is changed. Does not
    /// come back from that: the other one answers who asks then.
    async fn upgrade(&self, binary: &Path) -> Result<HandlerResponse, ApiError> {
        let (_, state) = self.0.handle.snapshot().await?;
        let checked = upgrade::check_binary(binary, &state).await?;
        if self.0.handle.is_closing() {
            return Err(ApiError::new(ErrorCode::Conflict, "the daemon is shutting down"));
        }
        tracing::info!(version = checked.version, "upgrading to {}", binary.display());
        self.0.handle.freeze().await;
        self.0.keeper_link.send(KeeperRequest::Upgrade, vec![(FdRole::Binary, checked.file.into())]);
        self.0.upgrade_done.notify_one();
        std::future::pending().await
    }

    /// Stops every app and lets the daemon end.
    ///
    /// # Errors
    /// A shutdown is under way already.
    pub async fn shut_down(&self) -> Result<HandlerResponse, ApiError> {
        self.0.autosave.save_now().await;
        if !self.0.handle.begin_close() {
            return Err(ApiError::new(ErrorCode::Conflict, "the daemon is already shutting down"));
        }
        self.0.keeper_link.send(KeeperRequest::BeginShutdown, Vec::new());
        let report = layers::stop_all(&self.0.handle).await?;
        self.0.shutdown_done.notify_one();
        json_response(&report)
    }

    /// A change is vouched for once it would survive the daemon. A disk that hangs is not waited
    /// for longer than this: the apps are as the report says.
    async fn after_save(&self, report: Result<Report, ApiError>) -> Result<HandlerResponse, ApiError> {
        let mut report = report?;
        match tokio::time::timeout(SAVE_TIMEOUT, self.0.state_writer.flush()).await {
            Ok(None) => {}
            Ok(Some(error)) => report.notes.push(unsaved_note(&error)),
            Err(_) => report.notes.push(unsaved_note("writing to disk timed out")),
        }
        json_response(&report)
    }

    /// The selected instances and what they use; of one that was just started, and not sampled yet,
    /// at least the memory.
    async fn get(&self, select: Option<Selectors>) -> Result<Vec<(Instance, Usage)>, ApiError> {
        let mut chosen = self.0.handle.get(select).await?;
        for (instance, usage) in &mut chosen {
            if let (Some(process), true) = (instance.status.state.process(), usage.processes.is_empty()) {
                *usage = metrics::initial_usage(process.pid);
            }
        }
        Ok(chosen)
    }

    async fn list(&self) -> Result<Vec<InstanceView>, ApiError> {
        let all = self.get(None).await?;
        let drift = Drift::inspect(all.iter().map(|(instance, _)| instance)).await;
        let now = crate::time::now();
        let view = |(instance, usage): &(Instance, Usage)| {
            let view = views::instance_view(instance, Some(usage), &self.0.user, now);
            InstanceView { drift: drift.describe(instance), ..view }
        };
        Ok(all.iter().map(view).collect())
    }

    async fn describe(&self, query: DescribeQuery) -> Result<Vec<InstanceDetail>, ApiError> {
        let chosen = self.get(Some(query.select)).await?;
        let all = self.0.handle.get(None).await?;
        let drift = Drift::inspect(all.iter().map(|(instance, _)| instance)).await;
        let mut details: Vec<InstanceDetail> = chosen
            .into_iter()
            .map(|(instance, usage)| self.detail(instance, usage, &drift, query.env))
            .collect();
        count_connections(&mut details).await;
        Ok(details)
    }

    fn detail(&self, instance: Instance, usage: Usage, drift: &Drift, env: bool) -> InstanceDetail {
        let mut view = views::instance_view(&instance, Some(&usage), &self.0.user, crate::time::now());
        view.drift = drift.describe(&instance);
        let files = log_files(&instance.spec, instance.id, &self.0.home);
        let mut spec = (*instance.spec).clone();
        if !env {
            spec.env.values_mut().for_each(String::clear); // names may be shown, values may be secrets
        }
        spec.origin = None;
        InstanceDetail {
            view,
            command: crate::instance::launch::argv(&instance.spec),
            spec,
            out_file: files.out,
            error_file: files.err,
            log_file: files.combined,
            pid_file: crate::daemon::world::pid_file(&instance, &self.0.home),
            created_at: instance.status.created.wall,
            exits: instance.status.history.iter().map(views::exit_view).collect::<Vec<ExitView>>(),
            processes: usage.processes,
            connections: None,
            limits: self.0.limiter.view(&instance),
            ports: instance
                .status
                .state
                .run()
                .and_then(|number| self.0.port_registry.of(RunId { instance: instance.id, number })),
        }
    }

    async fn info(&self) -> Result<HandlerResponse, ApiError> {
        let ApiParts { home, keeper, known_dump, .. } = &*self.0;
        let (instances, _): (Vec<Instance>, Vec<Usage>) = self.0.handle.get(None).await?.into_iter().unzip();
        let unsaved = !instances.is_empty() && !known_dump.is_up_to_date(&instances, home);
        json_response(&info::daemon_info(&instances, unsaved, *keeper, home))
    }

    async fn env(&self, id: u32) -> Result<HandlerResponse, ApiError> {
        let env = self.0.handle.inspect(move |instances| instances.get(&id).map(|it| it.spec.env.clone()));
        match env.await? {
            Some(env) => json_response(&env),
            None => Err(ApiError::new(ErrorCode::NotFound, format!("no instance with id {id}"))
                .hint("see `rsm list`")),
        }
    }

    async fn flush(&self, select: Selectors) -> Result<HandlerResponse, ApiError> {
        let select = (!select.is_empty()).then_some(select);
        let chosen = self.0.handle.get(select).await?;
        let mut files = Vec::new();
        for (instance, _) in &chosen {
            let of = log_files(&instance.spec, instance.id, &self.0.home);
            files.extend([of.out, of.err, of.combined].into_iter().flatten());
        }
        files.sort();
        files.dedup();
        file_errors(self.0.logs.flush(files.clone()).await, "truncate")?;
        json_response(&files)
    }

    fn events(&self) -> HandlerResponse {
        let mut events = self.0.events.subscribe();
        let (send, lines) = mpsc::channel(64);
        tokio::task::spawn_local(async move {
            loop {
                let line = tokio::select! {
                    event = events.recv() => match event {
                        Ok(event) => json_line(&event),
                        Err(broadcast::error::RecvError::Lagged(missed)) => json_line(&serde_json::json!({ "missed": missed })),
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                    () = send.closed() => return,
                };
                if send.send(line).await.is_err() {
                    return;
                }
            }
        });
        HandlerResponse::Stream(lines)
    }

    async fn send_signal(
        &self,
        handle: &SupervisorHandle,
        select: Selectors,
        name: &str,
    ) -> Result<HandlerResponse, ApiError> {
        let Some(number) = signal::parse(name) else {
            return Err(ApiError::new(ErrorCode::Invalid, format!("unknown signal \"{name}\""))
                .hint("use a name such as SIGUSR2 or HUP (see `kill -l`)"));
        };
        json_response(&handle.signal(select, number).await?)
    }
}

impl RequestHandler for Api {
    async fn answer(&self, request: Request, key: Option<String>) -> Result<HandlerResponse, ApiError> {
        let ApiParts { home, handle, logs, state_writer: saver, .. } = &*self.0;
        let handle = &handle.with_key(key);
        match request {
            Request::Ping => json_response(&Pong {
                version: version().to_owned(),
                pid: std::process::id().cast_signed(),
                upgrade: upgrade::outcome(self.0.upgrade),
            }),
            Request::Info => self.info().await,
            Request::List => json_response(&self.list().await?),
            Request::Jlist => json_response(&jlist::jlist(
                &self.get(None).await?,
                &self.0.node_channels,
                home,
                &self.0.user,
            )),
            Request::Describe(query) => json_response(&self.describe(query).await?),
            Request::Env(id) => self.env(id).await,
            Request::Start(apps) => self.after_save(layers::start(handle, apps).await).await,
            Request::Act(action, on) => self.after_save(layers::act(handle, action, on).await).await,
            Request::Reload(reload) => {
                self.after_save(reload::reload(handle, &self.0.reloads, reload).await).await
            }
            Request::Scale(name, to) => self.after_save(handle.scale(name, to).await).await,
            Request::Signal(SignalRequest { select, signal }) => {
                self.send_signal(handle, select, &signal).await
            }
            Request::Input(InputRequest { select, text }) => {
                json_response(&messages::write_stdin(handle, select, &text).await?)
            }
            Request::Message(MessageRequest { select, message }) => {
                json_response(&messages::send_message(handle, &self.0.node_channels, select, &message).await?)
            }
            Request::Trigger(wanted) => {
                json_response(&messages::trigger_action(handle, &self.0.node_channels, &wanted).await?)
            }
            Request::Save(SaveRequest { force }) => {
                json_response(&dump::save(handle, saver, home, force).await?)
            }
            Request::Resurrect => {
                let _whole = self.0.autosave.pause();
                let (saved, note) = dump::load(home)?;
                let mut report = layers::resurrect(handle, saved).await?;
                report.notes.extend(note);
                self.after_save(Ok(report)).await
            }
            Request::ClearDump => json_response(&dump::clear_dump(saver, home).await?),
            Request::Flush(FlushRequest { select }) => self.flush(select).await,
            Request::ReopenLogs => {
                match RsmSettings::load(home) {
                    Ok(settings) => logs.set_budget(settings.log_budget()),
                    Err(error) => tracing::warn!("{error}"),
                }
                file_errors(logs.reopen().await, "reopen")?;
                json_response(&serde_json::json!({}))
            }
            Request::Logs(query) | Request::LogsFrom(query) => {
                logs::open_log_stream(handle, logs, home, query).await
            }
            Request::Events => Ok(self.events()),
            Request::Upgrade(UpgradeRequest { binary }) => self.upgrade(&binary).await,
            Request::Shutdown => self.shut_down().await,
            Request::OpenApi => json_response(&openapi::document()),
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
fn file_errors(failures: crate::logs::FileErrors, what: &str) -> Result<(), ApiError> {
    if failures.is_empty() {
        return Ok(());
    }
    let each: Vec<String> =
        failures.iter().map(|(path, error)| format!("{}: {error}", path.display())).collect();
    Err(ApiError::new(ErrorCode::Internal, format!("cannot {what} log files: {}", each.join("; "))))
}

fn unsaved_note(error: &str) -> String {
    format!("the change is active but could not be saved: {error}")
}

/// A JSON answer.
fn json_response(value: &impl Serialize) -> Result<HandlerResponse, ApiError> {
    let bytes = serde_json::to_vec(value);
    bytes
        .map(HandlerResponse::Json)
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("cannot encode the response: {error}")))
}
