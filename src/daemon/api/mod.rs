//! The API: answers the requests of clients.
//!
//! Operations on apps go to the supervisor through its handle or a job. Their replies wait until the change is
//! saved. Everything else only reads.

mod encode;
mod events;
pub(super) mod instances;
mod jlist;
mod logs;
mod messages;

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::daemon::api::encode::json_response;
use crate::daemon::api::instances::InstanceQueries;
use crate::daemon::jobs::autosave::Autosave;
use crate::daemon::jobs::reload::Reloads;
use crate::daemon::jobs::{dump, layers, reload, upgrade};
use crate::daemon::shutdown::Shutdown;
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::world::node_channel::NodeChannels;
use crate::daemon::world::state_writer::StateWriter;
use crate::ipc::message::{
    ActionReport, ApiError, EventView, FlushRequest, InputRequest, MessageRequest, Pong, Request,
    SaveRequest, SignalRequest, UpgradeRequest,
};
use crate::ipc::openapi;
use crate::ipc::server::{HandlerResponse, RequestHandler};
use crate::keeper::protocol::UpgradeResult;
use crate::logs::LogHandle;
use crate::paths::Home;
use crate::version::version;

/// How long a reply waits for the change to be saved.
const SAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The handler of all requests. All clones share one state.
#[derive(Clone)]
pub struct Api(Rc<ApiParts>);

/// What the API uses.
pub struct ApiParts {
    pub home: Home,
    pub handle: SupervisorHandle,
    pub instances: InstanceQueries,
    pub logs: LogHandle,
    pub state_writer: StateWriter,
    pub events: broadcast::Sender<EventView>,
    pub node_channels: NodeChannels,
    pub keeper_pid: i32,
    pub upgrade: UpgradeResult,
    pub autosave: Autosave,
    pub reloads: Reloads,
    pub shutdown: Shutdown,
}

impl Api {
    pub fn new(parts: ApiParts) -> Self {
        Self(Rc::new(parts))
    }

    fn ping(&self) -> Pong {
        Pong {
            version: version().to_owned(),
            pid: std::process::id().cast_signed(),
            upgrade: upgrade::outcome(self.0.upgrade),
        }
    }

    async fn resurrect(&self, handle: &SupervisorHandle) -> Result<HandlerResponse, ApiError> {
        let _pause = self.0.autosave.pause();
        let (snapshot, note) = dump::load(&self.0.home)?;
        let mut report = layers::resurrect(handle, snapshot).await?;
        report.notes.extend(note);
        self.after_save(Ok(report)).await
    }

    /// Replies when the change would survive a crash of the daemon. The apps are as the report says even if the
    /// disk is too slow or fails, which a note reports.
    async fn after_save(&self, report: Result<ActionReport, ApiError>) -> Result<HandlerResponse, ApiError> {
        let mut report = report?;
        match tokio::time::timeout(SAVE_TIMEOUT, self.0.state_writer.flush()).await {
            Ok(None) => {}
            Ok(Some(error)) => report.notes.push(unsaved_note(&error)),
            Err(_) => report.notes.push(unsaved_note("writing to disk timed out")),
        }
        json_response(&report)
    }
}

impl RequestHandler for Api {
    async fn handle(&self, request: Request, key: Option<String>) -> Result<HandlerResponse, ApiError> {
        let ApiParts { home, instances, logs, state_writer, node_channels, shutdown, .. } = &*self.0;
        let handle = &self.0.handle.with_key(key);
        match request {
            Request::Ping => json_response(&self.ping()),
            Request::Info => json_response(&instances.info(self.0.keeper_pid).await?),
            Request::List => json_response(&instances.list().await?),
            Request::Jlist => instances.jlist().await,
            Request::Describe(query) => json_response(&instances.describe(query).await?),
            Request::Env(id) => json_response(&instances.env(id).await?),
            Request::Start(apps) => self.after_save(layers::start(handle, apps).await).await,
            Request::Act(action, on) => self.after_save(layers::act(handle, action, on).await).await,
            Request::Reload(request) => {
                self.after_save(reload::reload(handle, &self.0.reloads, request).await).await
            }
            Request::Scale(name, to) => self.after_save(handle.scale(name, to).await).await,
            Request::Signal(SignalRequest { select, signal }) => {
                json_response(&messages::send_signal(handle, select, &signal).await?)
            }
            Request::Input(InputRequest { select, text }) => {
                json_response(&messages::write_stdin(handle, select, &text).await?)
            }
            Request::Message(MessageRequest { select, message }) => {
                json_response(&messages::send_message(handle, node_channels, select, &message).await?)
            }
            Request::Trigger(trigger) => {
                json_response(&messages::trigger_action(handle, node_channels, &trigger).await?)
            }
            Request::Save(SaveRequest { force }) => {
                let saved = dump::save(handle, state_writer, home, force).await?;
                self.0.autosave.release();
                json_response(&saved)
            }
            Request::Resurrect => self.resurrect(handle).await,
            Request::ClearDump => {
                let cleared = dump::clear_dump(state_writer, home).await?;
                self.0.autosave.release();
                json_response(&cleared)
            }
            Request::Flush(FlushRequest { select }) => {
                json_response(&logs::truncate_files(handle, logs, home, select).await?)
            }
            Request::ReopenLogs => {
                logs::reopen_files(logs, home).await?;
                json_response(&serde_json::json!({}))
            }
            Request::Logs(query) | Request::LogsFrom(query) => {
                logs::open_log_stream(handle, logs, home, query).await
            }
            Request::Events => Ok(events::stream_events(self.0.events.subscribe())),
            Request::Upgrade(UpgradeRequest { binary }) => match shutdown.upgrade(&binary).await? {},
            Request::Shutdown => json_response(&shutdown.shut_down().await?),
            Request::OpenApi => json_response(&openapi::document()),
        }
    }
}

fn unsaved_note(error: &str) -> String {
    format!("the change is active but could not be saved: {error}")
}
