//! (method, path, query, body) <-> [`Request`]: the only place that knows both. Used by both ends.

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::message::{ActOn, Action, ApiError, ErrorCode, LogQuery, Request, Selectors};

/// A request as it goes over the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// JSON, or empty.
    pub body: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signal {
    select: Selectors,
    signal: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Save {
    force: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Select {
    select: Selectors,
}

/// How a request is said.
pub fn to_http(request: &Request) -> Parts {
    let get = |target: &str| Parts { method: Method::GET, target: target.into(), body: Vec::new() };
    let post = |target: &str| Parts { method: Method::POST, target: target.into(), body: Vec::new() };
    match request {
        Request::Ping => get("/v1/ping"),
        Request::Info => get("/v1/info"),
        Request::List => get("/v1/instances"),
        Request::Jlist => get("/v1/jlist"),
        Request::Describe(select) => get(&with_query("/v1/instances/describe", selected(select))),
        Request::Env(id) => get(&format!("/v1/instances/{id}/env")),
        Request::Start(apps) => post("/v1/apps").with(apps),
        Request::Act(action, on) => post(&format!("/v1/instances/{}", action_word(*action))).with(on),
        Request::Scale { name, to } => {
            post(&format!("/v1/apps/{}/scale", utf8_percent_encode(name, NON_ALPHANUMERIC))).with(to)
        }
        Request::Signal { select, signal } => {
            post("/v1/instances/signal").with(&Signal { select: select.clone(), signal: signal.clone() })
        }
        Request::Save { force } => {
            Parts { method: Method::PUT, ..get("/v1/dump") }.with(&Save { force: *force })
        }
        Request::Resurrect => post("/v1/dump/resurrect"),
        Request::ClearDump => Parts { method: Method::DELETE, ..get("/v1/dump") },
        Request::Flush(select) => post("/v1/logs/flush").with(&Select { select: select.clone() }),
        Request::ReopenLogs => post("/v1/logs/reopen"),
        Request::Logs(query) => get(&with_query("/v1/logs", log_query(query))),
        Request::Events => get("/v1/events"),
        Request::Shutdown => post("/v1/shutdown"),
        Request::OpenApi => get("/v1/openapi.json"),
    }
}

impl Parts {
    fn with(mut self, body: &impl Serialize) -> Self {
        // Strings, numbers and maps with string keys: nothing that JSON could not say.
        self.body = serde_json::to_vec(body).unwrap_or_default();
        self
    }
}

/// What a request says.
///
/// # Errors
/// No such path, another method, or a body or query that makes no sense; the message says which.
pub fn from_http(method: &Method, path: &str, query: &str, body: &[u8]) -> Result<Request, ApiError> {
    let segments: Vec<String> = path.split('/').skip(1).map(decode).collect::<Result<_, _>>()?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let ["v1", rest @ ..] = &segments[..] else { return Err(no_such_path(path)) };
    let request = match (method.as_str(), rest) {
        ("GET", ["ping"]) => Request::Ping,
        ("GET", ["info"]) => Request::Info,
        ("GET", ["instances"]) => Request::List,
        ("GET", ["jlist"]) => Request::Jlist,
        ("GET", ["instances", "describe"]) => Request::Describe(selectors(query)?),
        ("GET", ["instances", id, "env"]) => Request::Env(parse(id, "the id")?),
        ("POST", ["apps"]) => Request::Start(json(body)?),
        ("POST", ["apps", name, "scale"]) => Request::Scale { name: (*name).to_owned(), to: json(body)? },
        ("POST", ["instances", "signal"]) => {
            let Signal { select, signal } = json(body)?;
            Request::Signal { select, signal }
        }
        ("POST", ["instances", word]) if action(word).is_some() => {
            let on: ActOn = json(body)?;
            Request::Act(action(word).unwrap_or(Action::Stop), on)
        }
        ("PUT", ["dump"]) => Request::Save { force: json_or_default::<Save>(body)?.force },
        ("DELETE", ["dump"]) => Request::ClearDump,
        ("POST", ["dump", "resurrect"]) => Request::Resurrect,
        ("POST", ["logs", "flush"]) => Request::Flush(json_or_default::<Select>(body)?.select),
        ("POST", ["logs", "reopen"]) => Request::ReopenLogs,
        ("GET", ["logs"]) => Request::Logs(read_log_query(query)?),
        ("GET", ["events"]) => Request::Events,
        ("POST", ["shutdown"]) => Request::Shutdown,
        ("GET", ["openapi.json"]) => Request::OpenApi,
        _ => return Err(wrong_method(path, rest)),
    };
    Ok(request)
}

/// The methods that a known path takes; none for an unknown path.
pub fn allowed(rest: &[&str]) -> &'static str {
    match rest {
        ["ping" | "info" | "instances" | "jlist" | "logs" | "events" | "openapi.json"]
        | ["instances", "describe"]
        | ["instances", _, "env"] => "GET",
        ["apps" | "shutdown"]
        | ["apps", _, "scale"]
        | ["dump", "resurrect"]
        | ["logs", "flush" | "reopen"] => "POST",
        ["instances", word] if *word == "signal" || action(word).is_some() => "POST",
        ["dump"] => "PUT, DELETE",
        _ => "",
    }
}

fn wrong_method(path: &str, rest: &[&str]) -> ApiError {
    match allowed(rest) {
        "" => no_such_path(path),
        methods => ApiError::new(ErrorCode::MethodNotAllowed, format!("{path} takes {methods} only")),
    }
}

fn no_such_path(path: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no {path}"))
        .hint("GET /v1/openapi.json describes the API.")
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
    ACTIONS.iter().find(|(_, listed)| *listed == action).map_or("", |(name, _)| name)
}

fn decode(text: &str) -> Result<String, ApiError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid(format!("\"{text}\" is not UTF-8")))
}

fn invalid(message: String) -> ApiError {
    ApiError::new(ErrorCode::Invalid, message)
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| invalid(format!("the body: {error}")))
}

fn json_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() { Ok(T::default()) } else { json(body) }
}

fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| invalid(format!("{what}: \"{text}\" makes no sense here")))
}

fn with_query(path: &str, pairs: Vec<(&str, String)>) -> String {
    let pair =
        |(key, value): (&str, String)| format!("{key}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC));
    let pairs: Vec<String> = pairs.into_iter().map(pair).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

fn pairs(query: &str) -> impl Iterator<Item = Result<(String, String), ApiError>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(key)?, decode(value)?))
    })
}

fn selected(select: &[String]) -> Vec<(&'static str, String)> {
    select.iter().map(|selector| ("select", selector.clone())).collect()
}

fn selectors(query: &str) -> Result<Selectors, ApiError> {
    let one = |pair: Result<(String, String), ApiError>| match pair? {
        (key, value) if key == "select" => Ok(value),
        (key, _) => Err(unknown(&key, "select")),
    };
    let select: Selectors = pairs(query).map(one).collect::<Result<_, _>>()?;
    if select.is_empty() {
        return Err(invalid("select is missing: say which instances, `?select=all` for all".into()));
    }
    Ok(select)
}

fn unknown(key: &str, known: &str) -> ApiError {
    invalid(format!("\"{key}\" is no parameter here; there is {known}"))
}

fn log_query(query: &LogQuery) -> Vec<(&'static str, String)> {
    let LogQuery { select, lines, follow, out, err } = query;
    let mut all = selected(select);
    all.extend([
        ("lines", lines.to_string()),
        ("follow", follow.to_string()),
        ("out", out.to_string()),
        ("err", err.to_string()),
    ]);
    all
}

fn read_log_query(query: &str) -> Result<LogQuery, ApiError> {
    let mut read = LogQuery::default();
    for pair in pairs(query) {
        let (key, value) = pair?;
        match key.as_str() {
            "select" => read.select.push(value),
            "lines" => read.lines = parse(&value, "lines")?,
            "follow" => read.follow = parse(&value, "follow")?,
            "out" => read.out = parse(&value, "out")?,
            "err" => read.err = parse(&value, "err")?,
            _ => return Err(unknown(&key, "select, lines, follow, out, err")),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipc::message::{Existing, Inherited, ScaleTo, StartApps};
    use crate::spec::AppSpec;

    fn texts() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(any::<String>(), 1..4)
    }

    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            Just(Request::Ping),
            Just(Request::Shutdown),
            Just(Request::ClearDump),
            Just(Request::Resurrect),
            Just(Request::Events),
            any::<bool>().prop_map(|force| Request::Save { force }),
            any::<u32>().prop_map(Request::Env),
            texts().prop_map(Request::Describe),
            texts().prop_map(Request::Flush),
            (texts(), any::<String>()).prop_map(|(select, signal)| Request::Signal { select, signal }),
            (any::<String>(), any::<u32>())
                .prop_map(|(name, n)| Request::Scale { name, to: ScaleTo::Remove(n) }),
            (texts(), 0..5usize).prop_map(|(select, at)| {
                Request::Act(ACTIONS[at].1, ActOn { select, ..ActOn::default() })
            }),
            (texts(), any::<usize>(), any::<bool>(), any::<bool>()).prop_map(
                |(select, lines, follow, out)| {
                    Request::Logs(LogQuery { select, lines, follow, out, err: !out })
                }
            ),
            (any::<String>(), any::<String>()).prop_map(|(name, script)| {
                let inherited = Inherited([(name.clone(), script.clone())].into());
                let apps = vec![AppSpec::new(name, script, "/")];
                Request::Start(StartApps { apps, inherited, existing: Existing::Duplicate })
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood(request in requests()) {
            let Parts { method, target, body } = to_http(&request);
            let uri: hyper::Uri = target.parse().unwrap();
            let heard = from_http(&method, uri.path(), uri.query().unwrap_or_default(), &body).unwrap();
            prop_assert_eq!(format!("{request:?}"), format!("{heard:?}"));
        }

        #[test]
        fn nothing_said_can_hurt(path in ".*", query in ".*", body in prop::collection::vec(any::<u8>(), 0..200)) {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
                let _ = from_http(&method, &format!("/v1/{path}"), &query, &body);
            }
        }
    }

    #[test]
    fn what_makes_no_sense_says_why() {
        let code = |method: Method, path: &str, query: &str, body: &str| {
            from_http(&method, path, query, body.as_bytes()).unwrap_err()
        };
        assert_eq!(code(Method::GET, "/nothing", "", "").code, ErrorCode::NotFound);
        assert_eq!(code(Method::GET, "/v1/shutdown", "", "").code, ErrorCode::MethodNotAllowed);
        assert!(code(Method::POST, "/v1/apps", "", "{\"apps\":3}").message.contains("line 1"));
        assert!(
            code(Method::POST, "/v1/instances/stop", "", r#"{"select":[],"selct":1}"#)
                .message
                .contains("selct")
        );
        assert!(code(Method::GET, "/v1/logs", "line=3", "").message.contains("\"line\" is no parameter"));
        assert!(code(Method::GET, "/v1/instances/x/env", "", "").message.contains("\"x\""));
        assert!(code(Method::GET, "/v1/instances/describe", "", "").message.contains("select is missing"));
    }
}
