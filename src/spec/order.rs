//! The order in which apps are started: what an app depends on comes first.

use std::collections::BTreeMap;

/// Apps that depend on each other in a circle, each on the one after it, the last on the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dependency cycle: {} → {}", .0.join(" → "), .0[0])]
pub struct DependencyCycle(pub Vec<String>);

/// Puts names into steps: each depends on names in steps before its own only. A dependency that is not
/// among the names counts as there.
///
/// # Errors
/// A circle.
pub fn start_layers(apps: &BTreeMap<String, Vec<String>>) -> Result<Vec<Vec<String>>, DependencyCycle> {
    let mut left: BTreeMap<&str, Vec<&str>> =
        apps.iter().map(|(name, on)| (name.as_str(), on.iter().map(String::as_str).collect())).collect();
    let mut steps = Vec::new();
    while !left.is_empty() {
        let free: Vec<&str> = left
            .iter()
            .filter(|(_, on)| on.iter().all(|on| !left.contains_key(on)))
            .map(|(name, _)| *name)
            .collect();
        if free.is_empty() {
            return Err(find_cycle(&left));
        }
        left.retain(|name, _| !free.contains(name));
        steps.push(free.into_iter().map(str::to_owned).collect());
    }
    Ok(steps)
}

/// Some circle among apps each of which waits for another of them.
fn find_cycle(left: &BTreeMap<&str, Vec<&str>>) -> DependencyCycle {
    let mut way: Vec<&str> = Vec::new();
    let mut here = left.keys().next().copied();
    while let Some(name) = here {
        if let Some(start) = way.iter().position(|seen| *seen == name) {
            way.drain(..start);
            break;
        }
        way.push(name);
        here = left.get(name).and_then(|on| on.iter().find(|on| left.contains_key(**on)).copied());
    }
    DependencyCycle(way.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(of: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        of.iter().map(|(name, on)| (name.to_string(), on.iter().map(ToString::to_string).collect())).collect()
    }

    #[test]
    fn what_is_needed_comes_first() {
        let apps =
            apps(&[("api", &["redis", "db"]), ("db", &[]), ("redis", &[]), ("web", &["api", "elsewhere"])]);
        assert_eq!(start_layers(&apps).unwrap(), [vec!["db", "redis"], vec!["api"], vec!["web"]]);
        assert!(start_layers(&BTreeMap::new()).unwrap().is_empty());
    }

    #[test]
    fn a_circle_is_named() {
        let round = apps(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
        assert_eq!(start_layers(&round).unwrap_err().to_string(), "dependency cycle: b → c → b");
        assert_eq!(start_layers(&apps(&[("a", &["a"])])).unwrap_err().0, ["a"]);
    }
}
