//! The operations as the document lists them. A test holds them against the routes.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{SchemaOf, schema_of};
use crate::ipc::message::{
    ActOn, EventView, Info, InstanceDetail, InstanceView, LogItem, LogQuery, Pong, Reload, Report, Saved,
    ScaleTo, Selectors, StartApps, Trigger, TriggerReply,
};
use crate::ipc::route::{FlushBody, InputBody, MessageBody, SaveBody, SignalBody, UpgradeBody};
use crate::spec::Vars;

/// One method on one path.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// A name for code generators.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) parameters: &'static [Parameter],
    pub(super) body: Option<Body>,
    pub(super) reply: Reply,
}

/// A part of the path, or of the query.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) in_path: bool,
    pub(super) required: bool,
    pub(super) description: &'static str,
    pub(super) schema: SchemaOf,
    /// JSON.
    pub(super) default: Option<&'static str>,
}

/// What is sent along.
pub(super) struct Body {
    pub(super) schema: SchemaOf,
    pub(super) required: bool,
    /// JSON.
    pub(super) example: &'static str,
}

/// What comes back.
pub(super) enum Reply {
    /// One document.
    Json(SchemaOf),
    /// One document a line.
    Lines(SchemaOf),
}

const fn query(
    name: &'static str,
    schema: SchemaOf,
    default: Option<&'static str>,
    description: &'static str,
) -> Parameter {
    Parameter { name, in_path: false, required: default.is_none(), description, schema, default }
}

const fn in_path(name: &'static str, schema: SchemaOf, description: &'static str) -> Parameter {
    Parameter { name, in_path: true, required: true, description, schema, default: None }
}

const fn body(schema: SchemaOf, example: &'static str) -> Option<Body> {
    Some(Body { schema, required: true, example })
}

const fn optional(schema: SchemaOf, example: &'static str) -> Option<Body> {
    Some(Body { schema, required: false, example })
}

const fn operation(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    reply: Reply,
) -> Operation {
    Operation { method, path, id, summary, parameters: &[], body: None, reply }
}

const fn get(path: &'static str, id: &'static str, summary: &'static str, reply: Reply) -> Operation {
    operation("GET", path, id, summary, reply)
}

const fn post(path: &'static str, id: &'static str, summary: &'static str, body: Option<Body>) -> Operation {
    Operation { body, ..operation("POST", path, id, summary, REPORT) }
}

const fn act(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    post(path, id, summary, body(schema_of::<ActOn>, r#"{"select":["api"]}"#))
}

const REPORT: Reply = Reply::Json(schema_of::<Report>);
const OBJECT: SchemaOf = schema_of::<Map<String, Value>>;
const SELECT: &str = "An id, a name, a namespace, `/regex/` or `all`; may be given several times.";

/// All of them, in the order of the document.
pub(super) static OPERATIONS: &[Operation] = &[
    get("/v1/ping", "ping", "Is the daemon there?", Reply::Json(schema_of::<Pong>)),
    get("/v1/info", "info", "Versions, pids, memory, paths", Reply::Json(schema_of::<Info>)),
    get("/v1/instances", "list", "All instances", Reply::Json(schema_of::<Vec<InstanceView>>)),
    get(
        "/v1/jlist",
        "jlist",
        "All instances in PM2's shape",
        Reply::Json(schema_of::<Vec<Map<String, Value>>>),
    ),
    Operation {
        parameters: &[query("select", schema_of::<Selectors>, None, SELECT)],
        ..get(
            "/v1/instances/describe",
            "describe",
            "Everything about the selected instances",
            Reply::Json(schema_of::<Vec<InstanceDetail>>),
        )
    },
    Operation {
        parameters: &[in_path("id", schema_of::<u32>, "The instance's id.")],
        ..get(
            "/v1/instances/{id}/env",
            "env",
            "The variables given to an instance (file, flags), with their values",
            Reply::Json(schema_of::<Vars>),
        )
    },
    post(
        "/v1/apps",
        "startApps",
        "Adds apps, or brings those that are there up to date",
        body(schema_of::<StartApps>, r#"{"apps":[{"name":"api","script":"/srv/api/run","cwd":"/srv/api"}]}"#),
    ),
    Operation {
        parameters: &[in_path("name", schema_of::<String>, "The app's name.")],
        ..post(
            "/v1/apps/{name}/scale",
            "scale",
            "Changes the number of instances",
            body(schema_of::<ScaleTo>, r#"{"exactly":4}"#),
        )
    },
    act("/v1/instances/start", "start", "Starts those that do not run, restarts those that do"),
    act("/v1/instances/stop", "stop", "Stops, and keeps in the list"),
    act("/v1/instances/restart", "restart", "Stops if it runs, then starts"),
    act("/v1/instances/delete", "delete", "Stops and forgets"),
    post(
        "/v1/reload",
        "reload",
        "Gives apps new processes, slot by slot, each proven before the old one goes",
        optional(schema_of::<Reload>, r#"{"select":["api"],"parallel":1}"#),
    ),
    act("/v1/instances/reset", "reset", "Counters to zero"),
    post(
        "/v1/instances/signal",
        "signal",
        "Sends a signal to the selected instances' processes",
        body(schema_of::<SignalBody>, r#"{"select":["api"],"signal":"SIGUSR2"}"#),
    ),
    post(
        "/v1/instances/input",
        "input",
        "Writes to the selected instances' standard input",
        body(schema_of::<InputBody>, r#"{"select":["api"],"text":"reload\n"}"#),
    ),
    post(
        "/v1/instances/message",
        "message",
        "Sends a message through Node's channel to the selected instances",
        body(schema_of::<MessageBody>, r#"{"select":["api"],"message":{"topic":"refresh"}}"#),
    ),
    Operation {
        reply: Reply::Json(schema_of::<Vec<TriggerReply>>),
        ..post(
            "/v1/instances/trigger",
            "trigger",
            "Has the selected instances do what they offer through Node's channel",
            body(schema_of::<Trigger>, r#"{"select":["api"],"action":"refresh","param":"all"}"#),
        )
    },
    Operation {
        body: optional(schema_of::<SaveBody>, r#"{"force":false}"#),
        ..operation("PUT", "/v1/dump", "save", "Writes the dump", Reply::Json(schema_of::<Saved>))
    },
    operation("DELETE", "/v1/dump", "clearDump", "Empties the dump", Reply::Json(schema_of::<Saved>)),
    post("/v1/dump/resurrect", "resurrect", "Starts what the dump holds and is not in the list", None),
    Operation {
        parameters: &[
            query("select", schema_of::<Selectors>, Some("[]"), SELECT),
            query("lines", schema_of::<usize>, Some("15"), "How many of the last lines, of each stream."),
            query("follow", schema_of::<bool>, Some("false"), "Go on with those to come."),
            query("out", schema_of::<bool>, Some("true"), "Standard output."),
            query("err", schema_of::<bool>, Some("true"), "Standard error."),
            query("since", schema_of::<u64>, None, "Not before this, in milliseconds since the epoch."),
            query("until", schema_of::<u64>, None, "Not after this, in milliseconds since the epoch."),
            query("grep", schema_of::<String>, None, "Only lines that match this regular expression."),
        ],
        ..get("/v1/logs", "logs", "Log lines, then those to come", Reply::Lines(schema_of::<LogItem>))
    },
    Operation {
        reply: Reply::Lines(schema_of::<LogItem>),
        ..post(
            "/v1/logs",
            "logsFrom",
            "The same with places in between, from which another request goes on when this one breaks",
            optional(schema_of::<LogQuery>, r#"{"select":["api"],"follow":true,"places":[]}"#),
        )
    },
    Operation {
        body: optional(schema_of::<FlushBody>, r#"{"select":["api"]}"#),
        reply: Reply::Json(schema_of::<Vec<PathBuf>>),
        ..post("/v1/logs/flush", "flush", "Empties log files, and names them", None)
    },
    Operation {
        reply: Reply::Json(OBJECT),
        ..post("/v1/logs/reopen", "reopenLogs", "Opens all log files anew", None)
    },
    get(
        "/v1/events",
        "events",
        "What happens, as it happens; `{\"missed\": n}` where a slow reader lost n events",
        Reply::Lines(schema_of::<EventView>),
    ),
    Operation {
        reply: Reply::Json(OBJECT),
        ..post(
            "/v1/upgrade",
            "upgrade",
            "Lets a daemon of another binary take over; the connection breaks when it does",
            body(schema_of::<UpgradeBody>, r#"{"binary":"/usr/local/bin/rsm"}"#),
        )
    },
    post("/v1/shutdown", "shutdown", "Stops every app, then daemon and keeper", None),
    get("/v1/openapi.json", "openapi", "This document", Reply::Json(OBJECT)),
];
