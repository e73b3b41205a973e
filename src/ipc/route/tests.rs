//! What one end says, the other understands; what nobody would say does no harm.

use proptest::prelude::*;

use super::*;
use crate::ipc::message::{
    ActOn, Existing, Inherited, LogPlace, LogQuery, Reload, ScaleTo, StartApps, Trigger,
};
use crate::spec::{AppSpec, RestartDelay};

fn texts(least: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(any::<String>(), least..4)
}

fn scales() -> impl Strategy<Value = ScaleTo> {
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
        app.restart.delay = RestartDelay::FromFirst { initial: std::time::Duration::from_millis(n.into()) };
        let inherited = Inherited([(value, key)].into());
        Request::Start(StartApps { apps: vec![app], inherited, existing })
    })
}

fn acts() -> impl Strategy<Value = Request> {
    let changes = prop::option::of((any::<String>(), any::<i64>()));
    let inherited = prop::option::of(any::<[String; 2]>());
    (0..ACTIONS.len(), texts(0), inherited, changes).prop_map(|(at, select, inherited, changes)| {
        let inherited = inherited.map(|[key, value]| Inherited([(key, value)].into()));
        let changes = changes.map(|(key, value)| [(key, value.into())].into_iter().collect());
        Request::Act(ACTIONS[at].1, ActOn { select, inherited, changes })
    })
}

fn reloads() -> impl Strategy<Value = Request> {
    (texts(0), any::<u32>(), prop::option::of(any::<[String; 2]>())).prop_map(
        |(select, parallel, inherited)| {
            let inherited = inherited.map(|[key, value]| Inherited([(key, value)].into()));
            Request::Reload(Box::new(Reload { select, parallel, inherited, ..Reload::default() }))
        },
    )
}

fn log_queries() -> impl Strategy<Value = Request> {
    let places = prop::option::of(prop::collection::vec(places(), 0..3));
    let more = (any::<[Option<u64>; 2]>(), any::<Option<String>>(), places);
    (texts(0), any::<usize>(), any::<[bool; 3]>(), more).prop_map(
        |(select, lines, [follow, out, err], ([since, until], grep, places))| {
            Request::Logs(LogQuery { select, lines, follow, out, err, since, until, grep, places })
        },
    )
}

fn places() -> impl Strategy<Value = LogPlace> {
    let known = (any::<Option<(u64, u64)>>(), any::<[Option<u64>; 2]>());
    (any::<String>(), any::<u64>(), known).prop_map(|(path, offset, (file, [began, line]))| LogPlace {
        path: path.into(),
        file,
        began,
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
        any::<bool>().prop_map(|force| Request::Save { force }),
        any::<u32>().prop_map(Request::Env),
        texts(1).prop_map(Request::Describe),
        texts(0).prop_map(Request::Flush),
        (texts(0), any::<String>()).prop_map(|(select, signal)| Request::Signal { select, signal }),
        (texts(0), any::<String>()).prop_map(|(select, text)| Request::Input { select, text }),
        (texts(0), any::<String>()).prop_map(|(select, text)| {
            Request::Message { select, message: serde_json::json!({ "topic": text }) }
        }),
        (texts(0), any::<String>(), prop::option::of(any::<i64>())).prop_map(|(select, action, param)| {
            Request::Trigger(Trigger { select, action, param: param.map(Into::into) })
        }),
        (any::<String>(), scales()).prop_map(|(name, to)| Request::Scale { name, to }),
        any::<String>().prop_map(|binary| Request::Upgrade { binary: binary.into() }),
        acts(),
        reloads(),
        log_queries(),
        starts(),
    ]
}

proptest! {
    #[test]
    fn what_is_said_is_understood(request in requests()) {
        let Parts { method, target, body } = to_http(&request).unwrap();
        let uri: hyper::Uri = target.parse().unwrap();
        let heard = from_http(&method, uri.path(), uri.query().unwrap_or_default(), &body).unwrap();
        prop_assert_eq!(request, heard);
    }

    #[test]
    fn nothing_said_can_hurt(path in ".*", query in ".*", body in prop::collection::vec(any::<u8>(), 0..200)) {
        for method in METHODS {
            let _ = from_http(&method, &format!("/v1/{path}"), &query, &body);
        }
    }
}

fn refused(method: &Method, path: &str, query: &str, body: &str) -> ApiError {
    from_http(method, path, query, body.as_bytes()).unwrap_err()
}

#[test]
fn unknown_paths_are_not_found() {
    for path in ["", "/", "/v1", "/v2/ping", "/v1/ping/", "//v1/ping", "/v1/instances/explode", "/nothing"] {
        assert_eq!(refused(&Method::GET, path, "", "").code, ErrorCode::NotFound, "{path}");
        assert_eq!(allowed(path), "", "{path}");
    }
}

#[test]
fn another_method_names_those_that_work() {
    let error = refused(&Method::GET, "/v1/dump", "", "");
    assert_eq!(error.code, ErrorCode::MethodNotAllowed);
    assert_eq!(error.hint.as_deref(), Some("Use PUT, DELETE."));
    assert_eq!(allowed("/v1/dump"), "PUT, DELETE");
    assert_eq!(allowed("/v1/instances/stop"), "POST");
    assert_eq!(allowed("/v1/instances/3/env"), "GET");
    assert_eq!(refused(&Method::HEAD, "/v1/ping", "", "").code, ErrorCode::MethodNotAllowed);
}

#[test]
fn bad_bodies_say_where() {
    let message = |path, body| refused(&Method::POST, path, "", body).message;
    assert!(message("/v1/apps", "{\"apps\":3}").contains("line 1 column 9"));
    assert!(message("/v1/instances/stop", r#"{"select":[],"selct":1}"#).contains("`selct`"));
    assert!(message("/v1/instances/stop", "").contains("missing field `select`"));
    assert!(message("/v1/shutdown", r#"{"now":true}"#).contains("`now`"));
    let deep = format!(r#"{{"select":[],"changes":{{"a":{}"#, "[".repeat(100_000));
    assert!(message("/v1/instances/stop", &deep).contains("recursion limit"));
}

#[test]
fn bodies_that_may_be_left_out() {
    let heard = |method, path| from_http(method, path, "", b" \n").unwrap();
    assert_eq!(heard(&Method::PUT, "/v1/dump"), Request::Save { force: false });
    assert_eq!(heard(&Method::POST, "/v1/logs/flush"), Request::Flush(Vec::new()));
    assert_eq!(from_http(&Method::POST, "/v1/shutdown", "", b"{}").unwrap(), Request::Shutdown);
}

#[test]
fn bad_queries_say_what() {
    let message = |path, query| refused(&Method::GET, path, query, "").message;
    assert!(message("/v1/logs", "line=3").contains("\"line\" is no parameter"));
    assert!(message("/v1/logs", "lines=-1").contains("lines: \"-1\""));
    assert!(message("/v1/logs", "follow=yes").contains("follow: \"yes\""));
    assert!(message("/v1/ping", "x").contains("\"x\" is no parameter"));
    assert!(message("/v1/instances/x/env", "").contains("\"x\""));
    assert!(message("/v1/instances/describe", "").contains("select is missing"));
    assert!(message("/v1/logs", "select=%ff").contains("not UTF-8"));
}

#[test]
fn a_plus_is_a_space_as_in_forms() {
    let heard = from_http(&Method::GET, "/v1/instances/describe", "select=a+b%2Bc", b"").unwrap();
    assert_eq!(heard, Request::Describe(vec!["a b+c".into()]));
}

#[test]
fn a_path_that_is_not_text_is_refused_by_the_client() {
    use std::os::unix::ffi::OsStringExt;
    let cwd = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
    let apps = vec![AppSpec::new("a", "/bin/a", cwd)];
    let start = StartApps { apps, inherited: Inherited::default(), existing: Existing::Restart };
    let error = to_http(&Request::Start(start)).unwrap_err();
    assert!(error.message.contains("UTF-8"), "{error}");
}
