//! (method, path, query, body) <-> [`Request`]: the only place that knows both. Used by both ends.

use std::path::PathBuf;

use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::query::Query;
use super::message::{Action, ApiError, ErrorCode, Request, Selectors};

mod query;
#[cfg(test)]
mod tests;

/// Longest body that the server takes and the client sends, in bytes: ten thousand apps with
/// their environments.
pub const LONGEST_BODY: usize = 32 << 20;

/// All that a URL may hold as it is (RFC 3986, "unreserved"); the rest is escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The methods in use.
const METHODS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::DELETE];

/// A request as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// JSON, or empty.
    pub body: Vec<u8>,
}

/// The header with the daemon's version.
pub const VERSION: &str = "x-rsm-version";

/// The header with the client's word for a request that changes something. Asked again by the same
/// word, also of another daemon after the first one died, it is answered and not carried out twice.
pub const KEY: &str = "idempotency-key";

/// Longest such word, in bytes.
pub const LONGEST_KEY: usize = 64;

/// Body of `POST /v1/instances/signal`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalBody {
    /// Which instances.
    pub select: Selectors,
    /// By name, `SIGUSR2` or `USR2`.
    pub signal: String,
}

/// Body of `POST /v1/instances/input`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputBody {
    /// Which instances.
    pub select: Selectors,
    /// As it shall be written, the newline included.
    pub text: String,
}

/// Body of `POST /v1/instances/message`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageBody {
    /// Which instances.
    pub select: Selectors,
    /// What `process.on('message')` gets.
    pub message: serde_json::Value,
}

/// Body of `PUT /v1/dump`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SaveBody {
    /// Also when the list is empty.
    pub force: bool,
}

/// Body of `POST /v1/logs/flush`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlushBody {
    /// Which instances; none: all.
    pub select: Selectors,
}

/// Body of `POST /v1/upgrade`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeBody {
    /// The new binary, by its absolute path.
    pub binary: PathBuf,
}

/// The body of every refusal.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// Why.
    pub error: ApiError,
}

/// What a method and a path name, before query and body are read.
enum Endpoint<'a> {
    Ping,
    Info,
    List,
    Jlist,
    Describe,
    Env(&'a str),
    Start,
    Act(Action),
    Reload,
    Scale(&'a str),
    Signal,
    Input,
    Message,
    Trigger,
    Save,
    Resurrect,
    ClearDump,
    Flush,
    ReopenLogs,
    Logs,
    LogsFrom,
    Events,
    Upgrade,
    Shutdown,
    OpenApi,
}

/// How a request is said.
///
/// # Errors
/// JSON cannot say it: a path in it is not UTF-8.
pub fn to_http(request: &Request) -> Result<Parts, ApiError> {
    let said = match request {
        Request::Ping => get("/v1/ping"),
        Request::Info => get("/v1/info"),
        Request::List => get("/v1/instances"),
        Request::Jlist => get("/v1/jlist"),
        Request::Describe(select) => get(format!("/v1/instances/describe{}", query::selected(select))),
        Request::Env(id) => get(format!("/v1/instances/{id}/env")),
        Request::Start(apps) => post("/v1/apps").with(apps)?,
        Request::Act(action, on) => post(format!("/v1/instances/{}", action_word(*action))).with(on)?,
        Request::Reload(reload) => post("/v1/reload").with(reload)?,
        Request::Scale { name, to } => post(format!("/v1/apps/{}/scale", escape(name))).with(to)?,
        Request::Signal { select, signal } => {
            let body = SignalBody { select: select.clone(), signal: signal.clone() };
            post("/v1/instances/signal").with(&body)?
        }
        Request::Input { select, text } => {
            let body = InputBody { select: select.clone(), text: text.clone() };
            post("/v1/instances/input").with(&body)?
        }
        Request::Message { select, message } => {
            let body = MessageBody { select: select.clone(), message: message.clone() };
            post("/v1/instances/message").with(&body)?
        }
        Request::Trigger(trigger) => post("/v1/instances/trigger").with(trigger)?,
        Request::Save { force } => say(Method::PUT, "/v1/dump").with(&SaveBody { force: *force })?,
        Request::Resurrect => post("/v1/dump/resurrect"),
        Request::ClearDump => say(Method::DELETE, "/v1/dump"),
        Request::Flush(select) => post("/v1/logs/flush").with(&FlushBody { select: select.clone() })?,
        Request::ReopenLogs => post("/v1/logs/reopen"),
        Request::Logs(query) if query.places.is_some() => post("/v1/logs").with(query)?,
        Request::Logs(query) => get(format!("/v1/logs{}", query::of_logs(query))),
        Request::Events => get("/v1/events"),
        Request::Upgrade { binary } => post("/v1/upgrade").with(&UpgradeBody { binary: binary.clone() })?,
        Request::Shutdown => post("/v1/shutdown"),
        Request::OpenApi => get("/v1/openapi.json"),
    };
    Ok(said)
}

fn say(method: Method, target: impl Into<String>) -> Parts {
    Parts { method, target: target.into(), body: Vec::new() }
}

fn get(target: impl Into<String>) -> Parts {
    say(Method::GET, target)
}

fn post(target: impl Into<String>) -> Parts {
    say(Method::POST, target)
}

impl Parts {
    fn with(mut self, body: &impl Serialize) -> Result<Self, ApiError> {
        self.body = serde_json::to_vec(body).map_err(|error| {
            invalid(format!("the request cannot be written as JSON: {error}"))
                .hint("Use names and paths that are valid UTF-8.")
        })?;
        Ok(self)
    }
}

/// What a request says.
///
/// # Errors
/// No such path, another method, or a body or query that makes no sense; the message says which.
pub fn from_http(method: &Method, path: &str, query: &str, body: &[u8]) -> Result<Request, ApiError> {
    let segments = segments(path)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let endpoint = find(method, &segments).ok_or_else(|| lost_way(method, path, &segments))?;
    endpoint.request(&Query::parse(query)?, body)
}

/// The routes.
fn find<'a>(method: &Method, segments: &[&'a str]) -> Option<Endpoint<'a>> {
    let ["v1", rest @ ..] = segments else { return None };
    Some(match (method.as_str(), rest) {
        ("GET", ["ping"]) => Endpoint::Ping,
        ("GET", ["info"]) => Endpoint::Info,
        ("GET", ["instances"]) => Endpoint::List,
        ("GET", ["jlist"]) => Endpoint::Jlist,
        ("GET", ["instances", "describe"]) => Endpoint::Describe,
        ("GET", ["instances", id, "env"]) => Endpoint::Env(id),
        ("POST", ["apps"]) => Endpoint::Start,
        ("POST", ["apps", name, "scale"]) => Endpoint::Scale(name),
        ("POST", ["reload"]) => Endpoint::Reload,
        ("POST", ["instances", "signal"]) => Endpoint::Signal,
        ("POST", ["instances", "input"]) => Endpoint::Input,
        ("POST", ["instances", "message"]) => Endpoint::Message,
        ("POST", ["instances", "trigger"]) => Endpoint::Trigger,
        ("POST", ["instances", word]) => Endpoint::Act(action(word)?),
        ("PUT", ["dump"]) => Endpoint::Save,
        ("DELETE", ["dump"]) => Endpoint::ClearDump,
        ("POST", ["dump", "resurrect"]) => Endpoint::Resurrect,
        ("POST", ["logs", "flush"]) => Endpoint::Flush,
        ("POST", ["logs", "reopen"]) => Endpoint::ReopenLogs,
        ("GET", ["logs"]) => Endpoint::Logs,
        ("POST", ["logs"]) => Endpoint::LogsFrom,
        ("GET", ["events"]) => Endpoint::Events,
        ("POST", ["upgrade"]) => Endpoint::Upgrade,
        ("POST", ["shutdown"]) => Endpoint::Shutdown,
        ("GET", ["openapi.json"]) => Endpoint::OpenApi,
        _ => return None,
    })
}

impl Endpoint<'_> {
    /// Reads query and body as this endpoint wants them; whatever it does not want is an error.
    fn request(self, query: &Query, body: &[u8]) -> Result<Request, ApiError> {
        if !matches!(self, Self::Describe | Self::Logs) {
            query.is_empty()?;
        }
        let bare = |request| nothing(body).map(|()| request);
        match self {
            Self::Ping => bare(Request::Ping),
            Self::Info => bare(Request::Info),
            Self::List => bare(Request::List),
            Self::Jlist => bare(Request::Jlist),
            Self::Describe => bare(Request::Describe(query.selectors()?)),
            Self::Env(id) => bare(Request::Env(query::value("the id", id)?)),
            Self::Start => json(body).map(Request::Start),
            Self::Act(action) => json(body).map(|on| Request::Act(action, on)),
            Self::Reload => json(body).map(|reload| Request::Reload(Box::new(reload))),
            Self::Scale(name) => json(body).map(|to| Request::Scale { name: name.to_owned(), to }),
            Self::Signal => {
                json(body).map(|SignalBody { select, signal }| Request::Signal { select, signal })
            }
            Self::Input => json(body).map(|InputBody { select, text }| Request::Input { select, text }),
            Self::Message => {
                json(body).map(|MessageBody { select, message }| Request::Message { select, message })
            }
            Self::Trigger => json(body).map(Request::Trigger),
            Self::Save => json(body).map(|SaveBody { force }| Request::Save { force }),
            Self::Resurrect => bare(Request::Resurrect),
            Self::ClearDump => bare(Request::ClearDump),
            Self::Flush => json(body).map(|FlushBody { select }| Request::Flush(select)),
            Self::ReopenLogs => bare(Request::ReopenLogs),
            Self::Logs => bare(Request::Logs(query.logs()?)),
            Self::LogsFrom => json(body).map(Request::Logs),
            Self::Events => bare(Request::Events),
            Self::Upgrade => json(body).map(|UpgradeBody { binary }| Request::Upgrade { binary }),
            Self::Shutdown => bare(Request::Shutdown),
            Self::OpenApi => bare(Request::OpenApi),
        }
    }
}

/// The methods that a path takes, as the `Allow` header wants them; empty for an unknown path.
pub fn allowed(path: &str) -> String {
    let Ok(segments) = segments(path) else { return String::new() };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    methods(&segments)
}

fn methods(segments: &[&str]) -> String {
    let taken: Vec<&str> =
        METHODS.iter().filter(|method| find(method, segments).is_some()).map(Method::as_str).collect();
    taken.join(", ")
}

/// Why nothing was found: the path, or only the method.
fn lost_way(method: &Method, path: &str, segments: &[&str]) -> ApiError {
    let methods = methods(segments);
    if methods.is_empty() {
        return ApiError::new(ErrorCode::NotFound, format!("there is no {path}"))
            .hint("GET /v1/openapi.json describes the API.");
    }
    ApiError::new(ErrorCode::MethodNotAllowed, format!("{path} does not take {method}"))
        .hint(format!("Use {methods}."))
}

const ACTIONS: [(&str, Action); 5] = [
    ("start", Action::Start),
    ("stop", Action::Stop),
    ("restart", Action::Restart),
    ("delete", Action::Delete),
    ("reset", Action::Reset),
];

fn action(word: &str) -> Option<Action> {
    ACTIONS.iter().find(|(name, _)| *name == word).map(|(_, action)| *action)
}

fn action_word(action: Action) -> &'static str {
    match action {
        Action::Start => "start",
        Action::Stop => "stop",
        Action::Restart => "restart",
        Action::Delete => "delete",
        Action::Reset => "reset",
    }
}

/// The parts of a path, unescaped only after it was cut: a name may hold a slash.
fn segments(path: &str) -> Result<Vec<String>, ApiError> {
    path.strip_prefix('/').unwrap_or(path).split('/').map(query::unescape).collect()
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

fn invalid(message: String) -> ApiError {
    ApiError::new(ErrorCode::Invalid, message)
}

/// Reads a JSON body. None at all reads as `{}`, so that an endpoint whose fields all have
/// defaults needs none, and another names the field it misses.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        invalid(format!("the body makes no sense here: {error}"))
            .hint("GET /v1/openapi.json says what each path takes.")
    })
}

/// An endpoint without body takes none, or the empty object that some clients always send.
fn nothing(body: &[u8]) -> Result<(), ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    json::<Nothing>(body).map(|Nothing {}| ())
}
