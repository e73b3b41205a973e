//! The table of routes. The enum [`Request`], its encoding and decoding, the methods of the client and the
//! OpenAPI document follow from it: a new route is one row here, and one arm in the daemon's handler.

use std::path::PathBuf;

use hyper::Method;
use percent_encoding::utf8_percent_encode;
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::query::{PATH_ENCODE_SET, Query, QueryParameter, QueryString, parse_value, percent_decode};
use super::request::{
    Action, ActionRequest, ApiError, DescribeQuery, ErrorCode, FlushRequest, InputRequest, LogQuery,
    MessageRequest, ReloadRequest, SaveRequest, ScaleRequest, SignalRequest, StartRequest, TriggerRequest,
    UpgradeRequest, invalid,
};
use super::response::{
    ActionReport, DaemonInfo, DumpInfo, EventView, InstanceDetail, InstanceView, LogItem, Pong, TriggerReply,
};
use crate::spec::EnvVars;

#[cfg(test)]
mod tests;

/// Maximum length of a body in bytes, in the server and in the client: enough for ten thousand apps with
/// their environments.
pub const MAX_BODY: usize = 32 << 20;

/// The methods in use.
const METHODS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::DELETE];

/// Whether a client may send a request again when the connection broke before the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Yes: it changes nothing.
    Safe,
    /// Yes: the daemon recognizes the request by its idempotency key.
    Keyed,
    /// No: it ends the daemon, or reaches an app, which would receive it twice.
    Never,
}

/// The table. Passes all rows to another macro: to `declare_requests` below, and to `declare_methods` of the
/// client. A row is `Variant(field: source Type, …): METHOD "path" as client_method => kind Type, Retry`,
/// where a source is `path`, `query` or `body` (with an example), and a kind is `json` or `lines` (a stream).
macro_rules! with_routes {
    ($callback:ident) => {
        $callback! {
            /// Get the version and pid of the daemon
            Ping: GET "/v1/ping" as ping => json Pong, Safe;
            /// Get versions, processes, memory and paths of the daemon and the keeper
            Info: GET "/v1/info" as info => json DaemonInfo, Safe;
            /// List all instances
            List: GET "/v1/instances" as list => json Vec<InstanceView>, Safe;
            /// List all instances in the format of PM2
            Jlist: GET "/v1/jlist" as jlist => json Vec<Map<String, Value>>, Safe;
            /// Get everything about the selected instances
            Describe(query: query DescribeQuery): GET "/v1/instances/describe" as describe
                => json Vec<InstanceDetail>, Safe;
            /// Get the variables of an instance from its file and flags, with their values
            Env(id: path u32): GET "/v1/instances/{id}/env" as env => json EnvVars, Safe;
            /// Add apps, or update those that exist; the response is sent when all have started or failed
            Start(apps: body StartRequest): POST "/v1/apps"
                example r#"{"apps":[{"name":"api","script":"/srv/api/run","cwd":"/srv/api"}]}"# as start_apps
                => json ActionReport, Keyed;
            /// Change the number of instances of an app
            Scale(name: path String, to: body ScaleRequest): POST "/v1/apps/{name}/scale" example r#"{"exactly":4}"# as scale
                => json ActionReport, Keyed;
            /// Start, stop, restart, delete or reset the selected instances
            Act(action: path Action, on: body ActionRequest): POST "/v1/instances/{action}" example r#"{"select":["api"]}"# as act
                => json ActionReport, Keyed;
            /// Replace the processes of apps one by one; each old process stops when the new one is ready
            Reload(request: body ReloadRequest): POST "/v1/reload" example r#"{"select":["api"],"parallel":1}"# as reload
                => json ActionReport, Keyed;
            /// Send a signal to the processes of the selected instances
            Signal(request: body SignalRequest): POST "/v1/instances/signal"
                example r#"{"select":["api"],"signal":"SIGUSR2"}"# as signal
                => json ActionReport, Keyed;
            /// Write to the standard input of the selected instances
            Input(request: body InputRequest): POST "/v1/instances/input"
                example r#"{"select":["api"],"text":"reload\n"}"# as input
                => json ActionReport, Never;
            /// Send a message over the Node.js channel to the selected instances
            Message(request: body MessageRequest): POST "/v1/instances/message"
                example r#"{"select":["api"],"message":{"topic":"refresh"}}"# as message
                => json ActionReport, Never;
            /// Run an action that the selected instances offer over the Node.js channel
            Trigger(request: body TriggerRequest): POST "/v1/instances/trigger"
                example r#"{"select":["api"],"action":"refresh","param":"all"}"# as trigger
                => json Vec<TriggerReply>, Never;
            /// Save the list of apps to the dump file
            Save(request: body SaveRequest): PUT "/v1/dump" example r#"{"force":false}"# as save => json DumpInfo, Keyed;
            /// Delete all apps from the dump file
            ClearDump: DELETE "/v1/dump" as clear_dump => json DumpInfo, Keyed;
            /// Start the apps of the dump file that are not in the list
            Resurrect: POST "/v1/dump/resurrect" as resurrect => json ActionReport, Keyed;
            /// Read the last log lines, and follow new ones
            Logs(query: query LogQuery): GET "/v1/logs" as logs => lines LogItem, Safe;
            /// Read log lines with positions in between, from which another request continues the stream
            LogsFrom(query: body LogQuery): POST "/v1/logs" example r#"{"select":["api"],"follow":true,"positions":[]}"#
                as logs_from => lines LogItem, Safe;
            /// Empty the log files of the selected instances, and list them
            Flush(request: body FlushRequest): POST "/v1/logs/flush" example r#"{"select":["api"]}"# as flush
                => json Vec<PathBuf>, Keyed;
            /// Reopen all log files
            ReopenLogs: POST "/v1/logs/reopen" as reopen_logs => json Map<String, Value>, Keyed;
            /// Follow events; `{"missed": n}` stands for n events that a slow reader did not get
            Events: GET "/v1/events" as events => lines EventView, Safe;
            /// Replace the daemon with another binary; the connection closes when the new daemon takes over
            Upgrade(request: body UpgradeRequest): POST "/v1/upgrade" example r#"{"binary":"/usr/local/bin/rsm"}"# as upgrade
                => json Map<String, Value>, Never;
            /// Stop all apps, the daemon and the keeper
            Shutdown: POST "/v1/shutdown" as shutdown => json ActionReport, Never;
            /// Get this document
            OpenApi: GET "/v1/openapi.json" as openapi => json Map<String, Value>, Safe;
        }
    };
}
pub(super) use with_routes;

/// Declares the enum of requests and the table for lookups.
macro_rules! declare_requests {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident $(($($field:ident: $source:ident $type:ty),+))?:
            $method:ident $path:literal $(example $example:literal)? as $name:ident
            => $kind:ident $response:ty, $retry:ident;
    )+) => {
        /// A request of the API.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Request {
            $( $(#[doc = $doc])+ $variant $(($($type),+))?, )+
        }

        impl Request {
            /// The request as HTTP.
            ///
            /// # Errors
            /// A path in it is not UTF-8, so JSON cannot hold it.
            pub fn encode(&self) -> Result<HttpRequest, ApiError> {
                Ok(match self {
                    $( Self::$variant $(($($field),+))? =>
                        HttpRequest::new(Method::$method, $path, Retry::$retry) $($(.$source($field)?)+)?, )+
                })
            }

            /// Whether a client may send it again.
            pub fn retry(&self) -> Retry {
                match self {
                    $( Self::$variant { .. } => Retry::$retry, )+
                }
            }
        }

        /// All routes, in the order of the OpenAPI document.
        pub(super) static ROUTES: &[Route] = &[$( Route {
            method: stringify!($method),
            path: $path,
            name: stringify!($name),
            summary: concat!($($doc),+),
            inputs: &[$($( Input::$source::<$type>() ),+)?],
            example: declare_requests!(@optional $($example)?),
            response: Response::$kind::<$response>(),
            decode: |_parts| Ok(Request::$variant $(($( _parts.$source::<$type>()? ),+))?),
        }, )+];
    };
    (@optional) => { None };
    (@optional $value:literal) => { Some($value) };
}

with_routes!(declare_requests);

/// Builds the JSON Schema of a type and of the types that it uses.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// One row of the table.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) inputs: &'static [Input],
    /// A body, as JSON.
    pub(super) example: Option<&'static str>,
    pub(super) response: Response,
    decode: fn(&RequestParts<'_>) -> Result<Request, ApiError>,
}

/// Where a field of a request comes from.
pub(super) enum Input {
    Path { schema: SchemaOf, description: &'static str, words: &'static [&'static str] },
    Query(fn() -> Vec<QueryParameter>),
    Body { schema: SchemaOf, is_required: fn() -> bool },
}

impl Input {
    const fn path<T: PathParameter>() -> Self {
        Self::Path { schema: schema_of::<T>, description: T::DESCRIPTION, words: T::WORDS }
    }

    const fn query<T: QueryString>() -> Self {
        Self::Query(T::parameters)
    }

    const fn body<T: DeserializeOwned + JsonSchema>() -> Self {
        Self::Body { schema: schema_of::<T>, is_required: || parse_json::<T>(b"").is_err() }
    }
}

/// What a route responds with.
pub(super) enum Response {
    /// One JSON document.
    Json(SchemaOf),
    /// One JSON document per line.
    Lines(SchemaOf),
}

impl Response {
    const fn json<T: JsonSchema>() -> Self {
        Self::Json(schema_of::<T>)
    }

    const fn lines<T: JsonSchema>() -> Self {
        Self::Lines(schema_of::<T>)
    }
}

/// A segment of a path that carries a value.
trait PathParameter: JsonSchema + Sized {
    const DESCRIPTION: &'static str;
    /// All values, if there are few. A path with another one does not exist.
    const WORDS: &'static [&'static str] = &[];

    fn to_segment(&self) -> String;

    fn from_segment(text: &str) -> Result<Self, ApiError>;
}

impl PathParameter for u32 {
    const DESCRIPTION: &'static str = "The id of the instance.";

    fn to_segment(&self) -> String {
        self.to_string()
    }

    fn from_segment(text: &str) -> Result<Self, ApiError> {
        parse_value("id", text)
    }
}

impl PathParameter for String {
    const DESCRIPTION: &'static str = "The name of the app.";

    fn to_segment(&self) -> String {
        self.clone()
    }

    fn from_segment(text: &str) -> Result<Self, ApiError> {
        Ok(text.to_owned())
    }
}

impl PathParameter for Action {
    const DESCRIPTION: &'static str = "The action.";
    const WORDS: &'static [&'static str] = &Self::WORDS;

    fn to_segment(&self) -> String {
        self.as_str().to_owned()
    }

    fn from_segment(text: &str) -> Result<Self, ApiError> {
        Self::parse(text).ok_or_else(|| invalid(format!("\"{text}\" is not an action")))
    }
}

/// A request as it is sent.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// JSON, or empty.
    pub body: Vec<u8>,
    /// Whether it may be sent again.
    pub retry: Retry,
}

impl HttpRequest {
    fn new(method: Method, path: &str, retry: Retry) -> Self {
        Self { method, target: path.to_owned(), body: Vec::new(), retry }
    }

    fn path(mut self, value: &impl PathParameter) -> Result<Self, ApiError> {
        let value = utf8_percent_encode(&value.to_segment(), PATH_ENCODE_SET).to_string();
        if let (Some(start), Some(end)) = (self.target.find('{'), self.target.find('}')) {
            self.target.replace_range(start..=end, &value);
        }
        Ok(self)
    }

    fn query(mut self, value: &impl QueryString) -> Result<Self, ApiError> {
        self.target.push_str(&value.encode());
        Ok(self)
    }

    fn body(mut self, value: &impl Serialize) -> Result<Self, ApiError> {
        self.body = serde_json::to_vec(value).map_err(|error| {
            invalid(format!("cannot encode the request: {error}"))
                .hint("use names and paths that are valid UTF-8")
        })?;
        Ok(self)
    }
}

/// A request as it was received.
struct RequestParts<'a> {
    segment: &'a str,
    query: &'a Query,
    body: &'a [u8],
}

impl RequestParts<'_> {
    fn path<T: PathParameter>(&self) -> Result<T, ApiError> {
        T::from_segment(self.segment)
    }

    fn query<T: QueryString>(&self) -> Result<T, ApiError> {
        T::decode(self.query)
    }

    fn body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        parse_json(self.body)
    }
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// The path does not exist, does not support the method, or the query or the body is invalid.
    pub fn decode(method: &Method, path: &str, query: &str, body: &[u8]) -> Result<Self, ApiError> {
        let segments = split_path(path)?;
        let found = ROUTES.iter().filter(|route| route.method == method.as_str());
        let found = found.filter_map(|route| Some((route, route.match_path(&segments)?))).next();
        let (route, segment) = found.ok_or_else(|| route_error(method, path, &segments))?;
        let query = &Query::parse(query)?;
        if !route.inputs.iter().any(|input| matches!(input, Input::Query(_))) {
            query.expect_empty()?;
        }
        if !route.inputs.iter().any(|input| matches!(input, Input::Body { .. })) {
            expect_empty(body)?;
        }
        (route.decode)(&RequestParts { segment, query, body })
    }
}

impl Request {
    /// Makes the daemon respond without waiting until started processes are ready.
    pub(crate) fn do_not_wait(&mut self) {
        match self {
            Self::Start(request) => request.no_wait = true,
            Self::Act(_, request) => request.no_wait = true,
            Self::Scale(_, request) => request.no_wait = true,
            _ => {}
        }
    }
}

impl Route {
    /// Whether these are the segments of a path of this route; the value in it, or an empty text.
    fn match_path<'a>(&self, segments: &'a [String]) -> Option<&'a str> {
        let mut template = self.path.trim_start_matches('/').split('/');
        let mut value = "";
        for segment in segments {
            match template.next()? {
                part if part.starts_with('{') && self.accepts(segment) => value = segment,
                part if part == segment => {}
                _ => return None,
            }
        }
        template.next().is_none().then_some(value)
    }

    fn accepts(&self, segment: &str) -> bool {
        self.inputs.iter().all(|input| match input {
            Input::Path { words, .. } => words.is_empty() || words.contains(&segment),
            Input::Query(_) | Input::Body { .. } => true,
        })
    }
}

/// The methods that a path supports, for the `Allow` header; empty for an unknown path.
pub fn allowed_methods(path: &str) -> String {
    split_path(path).map(|segments| methods_of(&segments)).unwrap_or_default()
}

fn methods_of(segments: &[String]) -> String {
    let has = |method: &&Method| {
        ROUTES.iter().any(|route| route.method == method.as_str() && route.match_path(segments).is_some())
    };
    METHODS.iter().filter(has).map(Method::as_str).collect::<Vec<_>>().join(", ")
}

/// The error for a request without a route: of the path, or only of the method.
fn route_error(method: &Method, path: &str, segments: &[String]) -> ApiError {
    let methods = methods_of(segments);
    if methods.is_empty() {
        return ApiError::new(ErrorCode::NotFound, format!("unknown path {path}"))
            .hint("see GET /v1/openapi.json");
    }
    ApiError::new(ErrorCode::MethodNotAllowed, format!("method {method} not allowed for {path}"))
        .hint(format!("use {methods}"))
}

/// Decodes the segments of a path only after the split, because a name may contain a slash.
fn split_path(path: &str) -> Result<Vec<String>, ApiError> {
    path.strip_prefix('/').unwrap_or(path).split('/').map(percent_decode).collect()
}

/// Reads a JSON body. No body reads as `{}`, so that a route whose fields all have defaults needs none,
/// and another one names the missing field.
fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| invalid(format!("invalid request body: {error}")).hint("see GET /v1/openapi.json"))
}

/// A route without a body accepts the empty object, which some clients always send.
fn expect_empty(body: &[u8]) -> Result<(), ApiError> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct EmptyBody {}
    parse_json::<EmptyBody>(body).map(|EmptyBody {}| ())
}
