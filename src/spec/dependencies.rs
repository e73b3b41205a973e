//! Dependency layers: the order in which apps are started.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An app that must have reached a condition before another one starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "DependencyForm", into = "DependencyForm")]
#[schemars(with = "DependencyForm")]
pub struct Dependency {
    /// Name of the app.
    pub app: String,
    /// What it must have reached.
    pub condition: Condition,
}

/// What a dependency must have reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It runs.
    Started,
    /// It is ready. A job, which ends by itself, must not have failed.
    #[default]
    Ready,
    /// It has ended, successfully.
    Completed,
}

/// A dependency as it is written: a name, or a table with the condition.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum DependencyForm {
    /// The name of an app that must be ready.
    Name(String),
    /// An app and a condition.
    Table { app: String, condition: Condition },
}

impl From<DependencyForm> for Dependency {
    fn from(form: DependencyForm) -> Self {
        match form {
            DependencyForm::Name(app) => Self { app, condition: Condition::default() },
            DependencyForm::Table { app, condition } => Self { app, condition },
        }
    }
}

impl From<Dependency> for DependencyForm {
    fn from(Dependency { app, condition }: Dependency) -> Self {
        match condition {
            Condition::Ready => Self::Name(app),
            Condition::Started | Condition::Completed => Self::Table { app, condition },
        }
    }
}

/// Apps that depend on each other: each on the next one, the last one on the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dependency cycle: {} → {}", .0.join(" → "), .0.first().map_or("", String::as_str))]
pub struct DependencyCycle(pub Vec<String>);

/// Groups apps into layers: an app depends only on apps of earlier layers. Dependencies that are not in
/// `apps` are ignored.
///
/// # Errors
/// Apps depend on each other.
pub fn start_layers(apps: &BTreeMap<String, Vec<String>>) -> Result<Vec<Vec<String>>, DependencyCycle> {
    let mut remaining: BTreeMap<&str, Vec<&str>> =
        apps.iter().map(|(name, on)| (name.as_str(), on.iter().map(String::as_str).collect())).collect();
    let mut layers = Vec::new();
    while !remaining.is_empty() {
        let layer: Vec<&str> = remaining
            .iter()
            .filter(|(_, on)| on.iter().all(|on| !remaining.contains_key(on)))
            .map(|(name, _)| *name)
            .collect();
        if layer.is_empty() {
            return Err(find_cycle(&remaining));
        }
        remaining.retain(|name, _| !layer.contains(name));
        layers.push(layer.into_iter().map(str::to_owned).collect());
    }
    Ok(layers)
}

/// A cycle among apps each of which depends on another one of them.
fn find_cycle(apps: &BTreeMap<&str, Vec<&str>>) -> DependencyCycle {
    let mut path: Vec<&str> = Vec::new();
    let mut current = apps.keys().next().copied();
    while let Some(name) = current {
        if let Some(start) = path.iter().position(|seen| *seen == name) {
            path.drain(..start);
            break;
        }
        path.push(name);
        current = apps.get(name).and_then(|on| on.iter().find(|on| apps.contains_key(**on)).copied());
    }
    DependencyCycle(path.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(list: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        list.iter()
            .map(|(name, on)| (name.to_string(), on.iter().map(ToString::to_string).collect()))
            .collect()
    }

    #[test]
    fn dependencies_come_first() {
        let apps =
            apps(&[("api", &["redis", "db"]), ("db", &[]), ("redis", &[]), ("web", &["api", "elsewhere"])]);
        assert_eq!(start_layers(&apps).unwrap(), [vec!["db", "redis"], vec!["api"], vec!["web"]]);
        assert!(start_layers(&BTreeMap::new()).unwrap().is_empty());
    }

    #[test]
    fn ready_dependency_is_a_name() {
        let json = r#"["db",{"app":"migrate","condition":"completed"}]"#;
        let both: Vec<Dependency> = serde_json::from_str(json).unwrap();
        assert_eq!(both[0].condition, Condition::Ready);
        assert_eq!(both[1], Dependency { app: "migrate".into(), condition: Condition::Completed });
        assert_eq!(serde_json::to_string(&both).unwrap(), json);
    }

    #[test]
    fn reports_cycle() {
        let cyclic = apps(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
        assert_eq!(start_layers(&cyclic).unwrap_err().to_string(), "dependency cycle: b → c → b");
        assert_eq!(start_layers(&apps(&[("a", &["a"])])).unwrap_err().0, ["a"]);
    }
}
