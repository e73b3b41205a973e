//! Changes of a spec, as a JSON merge patch (RFC 7396).

use serde_json::{Map, Value};

use super::AppSpec;

impl AppSpec {
    /// The spec with `changes` applied; `null` restores the default of a setting.
    ///
    /// # Errors
    /// A value has the wrong type, or a setting does not exist.
    pub fn patched(&self, changes: &Map<String, Value>) -> Result<Self, serde_json::Error> {
        if changes.is_empty() {
            return Ok(self.clone());
        }
        let mut value = serde_json::to_value(self)?;
        merge_json(&mut value, changes);
        let mut app: Self = serde_json::from_value(value)?;
        let fingerprint = app.fingerprint();
        app.origin.iter_mut().for_each(|origin| origin.modified = origin.app_fingerprint != fingerprint);
        Ok(app)
    }
}

fn merge_json(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.remove(key)),
            Value::Object(inner) => merge_json(target.entry(key).or_insert(Value::Null), inner),
            value => drop(target.insert(key.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::spec::Launcher;

    fn patched(app: &AppSpec, changes: Value) -> Result<AppSpec, serde_json::Error> {
        app.patched(changes.as_object().unwrap())
    }

    #[test]
    fn merges_changes() {
        let mut app = AppSpec::new("api", "/srv/api", "/srv");
        app.cron_restart = Some("0 3 * * *".into());
        let changes = json!({
            "stop": { "timeout": 5 }, "cron_restart": null, "watch": { "paths": ["/srv"], "delay": 1 },
            "launcher": { "shell": null, "interpreter": { "program": "node", "args": [] } },
        });
        let app = patched(&app, changes).unwrap();
        assert_eq!((app.stop.timeout.as_millis(), app.stop.signal.as_str()), (5, "SIGINT"));
        assert_eq!(app.cron_restart, None);
        assert_eq!(app.watch.unwrap().paths, [PathBuf::from("/srv")]);
        assert_eq!(app.launcher, Launcher::Interpreter { program: "node".into(), args: vec![] });
    }

    #[test]
    fn rejects_unknown_and_invalid_settings() {
        let app = AppSpec::new("api", "/srv/api", "/srv");
        assert!(patched(&app, json!({ "instanses": 3 })).unwrap_err().to_string().contains("instanses"));
        assert!(patched(&app, json!({ "instances": "many" })).is_err());
    }
}
