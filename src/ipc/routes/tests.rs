//! The server decodes what the client encodes, and rejects everything else with an error.

use proptest::prelude::*;

use super::*;
use crate::ipc::request::{Existing, InheritedEnv, ScaleTo};
use crate::ipc::response::LogPosition;
use crate::spec::{AppSpec, RestartDelay};

fn texts(least: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(any::<String>(), least..4)
}

fn scales() -> impl Strategy<Value = ScaleRequest> {
    (scale_targets(), any::<bool>()).prop_map(|(to, no_wait)| ScaleRequest { to, no_wait })
}

fn scale_targets() -> impl Strategy<Value = ScaleTo> {
    prop_oneof![
        any::<u32>().prop_map(ScaleTo::Exactly),
        any::<u32>().prop_map(ScaleTo::Add),
        any::<u32>().prop_map(ScaleTo::Remove)
    ]
}

fn starts() -> impl Strategy<Value = Request> {
    let existing = prop_oneof![
        Just(Existing::Restart),
        Just(Existing::Refuse),
        Just(Existing::Duplicate),
        Just(Existing::Keep)
    ];
    (any::<[String; 4]>(), texts(0), any::<u32>(), existing).prop_map(|(words, args, n, existing)| {
        let [name, script, key, value] = words;
        let mut app = AppSpec::new(name, script, "/srv/é x");
        app.args = args;
        app.env.insert(key.clone(), value.clone());
        app.instances = n;
        app.restart.delay = RestartDelay::Pm2Backoff { initial: std::time::Duration::from_millis(n.into()) };
        let inherited = InheritedEnv([(value, key)].into());
        Request::Start(StartRequest { apps: vec![app], inherited, existing, no_wait: false })
    })
}

fn acts() -> impl Strategy<Value = Request> {
    let changes = prop::option::of((any::<String>(), any::<i64>()));
    let inherited = prop::option::of(any::<[String; 2]>());
    (prop::sample::select(Action::ALL.to_vec()), texts(0), inherited, changes).prop_map(
        |(action, select, inherited, changes)| {
            let inherited = inherited.map(|[key, value]| InheritedEnv([(key, value)].into()));
            let changes = changes.map(|(key, value)| [(key, value.into())].into_iter().collect());
            Request::Act(action, ActionRequest { select, inherited, changes, no_wait: false })
        },
    )
}

fn reloads() -> impl Strategy<Value = Request> {
    (texts(0), any::<u32>(), prop::option::of(any::<[String; 2]>())).prop_map(
        |(select, parallel, inherited)| {
            let inherited = inherited.map(|[key, value]| InheritedEnv([(key, value)].into()));
            Request::Reload(ReloadRequest { select, parallel, inherited, ..ReloadRequest::default() })
        },
    )
}

fn log_queries() -> impl Strategy<Value = Request> {
    let positions = prop::option::of(prop::collection::vec(positions(), 0..3));
    let more = (any::<[Option<u64>; 2]>(), any::<Option<String>>(), positions);
    (texts(0), any::<usize>(), any::<[bool; 3]>(), more).prop_map(
        |(select, lines, [follow, out, err], ([since, until], grep, positions))| {
            let as_body = positions.is_some();
            let query = LogQuery { select, lines, follow, out, err, since, until, grep, positions };
            if as_body { Request::LogsFrom(query) } else { Request::Logs(query) }
        },
    )
}

fn positions() -> impl Strategy<Value = LogPosition> {
    let known = (any::<Option<(u64, u64)>>(), any::<[Option<u64>; 2]>());
    (any::<String>(), any::<u64>(), known).prop_map(|(path, offset, (file, [began, line]))| LogPosition {
        path: path.into(),
        file,
        created_at: began,
        offset,
        line,
    })
}

fn requests() -> impl Strategy<Value = Request> {
    let bare = prop::sample::select(vec![
        Request::Ping,
        Request::Info,
        Request::List,
        Request::Jlist,
        Request::Resurrect,
        Request::ClearDump,
        Request::ReopenLogs,
        Request::Events,
        Request::Shutdown,
        Request::OpenApi,
    ]);
    prop_oneof![
        bare,
        any::<bool>().prop_map(|force| Request::Save(SaveRequest { force })),
        any::<u32>().prop_map(Request::Env),
        (texts(1), any::<bool>()).prop_map(|(select, env)| Request::Describe(DescribeQuery { select, env })),
        texts(0).prop_map(|select| Request::Flush(FlushRequest { select })),
        (texts(0), any::<String>())
            .prop_map(|(select, signal)| Request::Signal(SignalRequest { select, signal })),
        (texts(0), any::<String>()).prop_map(|(select, text)| Request::Input(InputRequest { select, text })),
        (texts(0), any::<String>()).prop_map(|(select, text)| {
            Request::Message(MessageRequest { select, message: serde_json::json!({ "topic": text }) })
        }),
        (texts(0), any::<String>(), prop::option::of(any::<i64>())).prop_map(|(select, action, param)| {
            Request::Trigger(TriggerRequest { select, action, param: param.map(Into::into) })
        }),
        (any::<String>(), scales()).prop_map(|(name, to)| Request::Scale(name, to)),
        any::<String>().prop_map(|binary| Request::Upgrade(UpgradeRequest { binary: binary.into() })),
        acts(),
        reloads(),
        log_queries(),
        starts(),
    ]
}

proptest! {
    #[test]
    fn decodes_what_was_encoded(request in requests()) {
        let HttpRequest { method, target, body, .. } = request.encode().unwrap();
        let uri: hyper::Uri = target.parse().unwrap();
        let decoded = Request::decode(&method, uri.path(), uri.query().unwrap_or_default(), &body).unwrap();
        prop_assert_eq!(request, decoded);
    }

    #[test]
    fn decodes_arbitrary_input_without_panic(path in ".*", query in ".*", body in prop::collection::vec(any::<u8>(), 0..200)) {
        for method in METHODS {
            let _ = Request::decode(&method, &format!("/v1/{path}"), &query, &body);
        }
    }
}

fn rejected(method: &Method, path: &str, query: &str, body: &str) -> ApiError {
    Request::decode(method, path, query, body.as_bytes()).unwrap_err()
}

#[test]
fn rejects_unknown_paths() {
    for path in ["", "/", "/v1", "/v2/ping", "/v1/ping/", "//v1/ping", "/v1/instances/explode", "/nothing"] {
        assert_eq!(rejected(&Method::GET, path, "", "").code, ErrorCode::NotFound, "{path}");
        assert_eq!(allowed_methods(path), "", "{path}");
    }
}

#[test]
fn rejects_wrong_method_and_names_allowed_ones() {
    let error = rejected(&Method::GET, "/v1/dump", "", "");
    assert_eq!(error.code, ErrorCode::MethodNotAllowed);
    assert_eq!(error.hint.as_deref(), Some("use PUT, DELETE"));
    assert_eq!(allowed_methods("/v1/dump"), "PUT, DELETE");
    assert_eq!(allowed_methods("/v1/instances/stop"), "POST");
    assert_eq!(allowed_methods("/v1/instances/3/env"), "GET");
    assert_eq!(rejected(&Method::HEAD, "/v1/ping", "", "").code, ErrorCode::MethodNotAllowed);
}

#[test]
fn names_the_position_of_an_invalid_body() {
    let message = |path, body| rejected(&Method::POST, path, "", body).message;
    assert!(message("/v1/apps", "{\"apps\":3}").contains("line 1 column 9"));
    assert!(message("/v1/instances/stop", r#"{"select":[],"selct":1}"#).contains("`selct`"));
    assert!(message("/v1/instances/stop", "").contains("missing field `select`"));
    assert!(message("/v1/shutdown", r#"{"now":true}"#).contains("`now`"));
    let deep = format!(r#"{{"select":[],"changes":{{"a":{}"#, "[".repeat(100_000));
    assert!(message("/v1/instances/stop", &deep).contains("recursion limit"));
}

#[test]
fn accepts_empty_bodies_with_defaults() {
    let decoded = |method, path| Request::decode(method, path, "", b" \n").unwrap();
    assert_eq!(decoded(&Method::PUT, "/v1/dump"), Request::Save(SaveRequest { force: false }));
    assert_eq!(decoded(&Method::POST, "/v1/logs/flush"), Request::Flush(FlushRequest::default()));
    assert_eq!(Request::decode(&Method::POST, "/v1/shutdown", "", b"{}").unwrap(), Request::Shutdown);
}

#[test]
fn names_the_invalid_parameter() {
    let message = |path, query| rejected(&Method::GET, path, query, "").message;
    assert!(message("/v1/logs", "line=3").contains("unknown parameter \"line\""));
    assert!(message("/v1/logs", "lines=-1").contains("invalid lines \"-1\""));
    assert!(message("/v1/logs", "follow=yes").contains("invalid follow \"yes\""));
    assert!(message("/v1/ping", "x").contains("unknown parameter \"x\""));
    assert!(message("/v1/instances/x/env", "").contains("\"x\""));
    assert!(message("/v1/instances/describe", "").contains("missing parameter `select`"));
    assert!(message("/v1/logs", "select=%ff").contains("invalid UTF-8"));
}

#[test]
fn decodes_plus_as_space() {
    let decoded = Request::decode(&Method::GET, "/v1/instances/describe", "select=a+b%2Bc", b"").unwrap();
    assert_eq!(decoded, Request::Describe(vec!["a b+c".into()].into()));
}

#[test]
fn does_not_encode_paths_that_are_not_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let cwd = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
    let apps = vec![AppSpec::new("a", "/bin/a", cwd)];
    let start =
        StartRequest { apps, inherited: InheritedEnv::default(), existing: Existing::Restart, no_wait: true };
    let error = Request::Start(start).encode().unwrap_err();
    assert!(error.message.contains("UTF-8"), "{error}");
}
