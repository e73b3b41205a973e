//! The API of apps: its names, and that nothing is lost between it and the spec.

use serde_json::{Value, json};

use super::*;
use crate::spec::{KillMode, Probe, Rotation};

/// A spec that uses each renamed field.
fn spec() -> AppSpec {
    let mut spec = AppSpec::new("api", "/srv/api", "/srv");
    spec.restart.delay = RestartDelay::Pm2Backoff { initial: Duration::from_millis(5) };
    spec.stop = StopPolicy { mode: KillMode::Main, by_message: true, ..StopPolicy::default() };
    spec.readiness.probe = Some(Probe::readiness(ProbeAction::Tcp("3000".into())));
    spec.health = Some(Probe::liveness(ProbeAction::Exec("true".into())));
    spec.logs.out = LogPath::Discard;
    spec.logs.combined = Some(LogPath::File("/var/log/api.log".into()));
    spec.logs.rotation = Rotation { retain: Some(7), ..Rotation::default() };
    spec
}

#[test]
fn converts_specs_without_loss() {
    let app = App::from(spec());
    assert_eq!(AppSpec::from(app.clone()), spec());
    let json = serde_json::to_value(&app).unwrap();
    assert_eq!(json["restart"]["delay"], json!({ "pm2_backoff": { "initial": 5 } }));
    assert_eq!((&json["stop"]["mode"], &json["stop"]["by_message"]), (&json!("main"), &json!(true)));
    assert_eq!((&json["logs"]["out"], &json["logs"]["rotation"]["retain"]), (&json!("discard"), &json!(7)));
    assert_eq!(json["health"]["action"], json!({ "exec": "true" }));
    assert!(serde_json::from_value::<App>(json).unwrap() == app);
}

#[test]
fn fills_in_the_defaults_of_the_spec() {
    let app: App = serde_json::from_value(json!({ "name": "a", "script": "/bin/a", "cwd": "/" })).unwrap();
    assert_eq!(AppSpec::from(app), AppSpec::new("a", "/bin/a", "/"));
}

#[test]
fn patches_have_the_names_of_the_api() {
    // A merge patch of the API is applied to the JSON of a spec.
    assert_eq!(serde_json::to_value(App::from(spec())).unwrap(), serde_json::to_value(spec()).unwrap());
}

#[test]
fn rejects_names_of_previous_versions_in_patches() {
    let patched = |patch: Value| match patch {
        Value::Object(patch) => spec().patched(&patch),
        _ => unreachable!(),
    };
    assert!(patched(json!({ "stop": { "tree": true } })).is_err());
    assert!(patched(json!({ "stop": { "mode": null }, "health": null })).is_ok());
}
