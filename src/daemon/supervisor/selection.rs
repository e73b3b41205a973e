//! Selectors: an app name, a namespace, an id, `/regex/` or `all`, in the precedence of PM2.

use std::collections::{BTreeMap, BTreeSet};

use regex::{Regex, RegexBuilder};

use crate::instance::Instance;
use crate::instance::state::Want;
use crate::ipc::message::{ApiError, ErrorCode};
use crate::text::closest_match;

/// Maximum number of selectors of a request.
const MAX_SELECTORS: usize = 5000;
/// Maximum number of regular expressions of a request.
const MAX_PATTERNS: usize = 32;
/// Maximum size of a compiled regular expression, in bytes.
const MAX_PATTERN_SIZE: usize = 256 << 10;

/// The ids of all instances that any of the selectors matches.
///
/// # Errors
/// A selector matches nothing, or its regex is malformed. Nothing is selected then.
pub fn select(instances: &BTreeMap<u32, Instance>, selectors: &[String]) -> Result<BTreeSet<u32>, ApiError> {
    let mut ids = BTreeSet::new();
    for selector in selectors {
        let matches = select_one(instances, selector)?;
        if matches.is_empty() {
            return Err(not_found(instances, selector));
        }
        ids.extend(matches);
    }
    Ok(ids)
}

fn select_one(instances: &BTreeMap<u32, Instance>, selector: &str) -> Result<Vec<u32>, ApiError> {
    let matching = |predicate: &dyn Fn(&Instance) -> bool| -> Vec<u32> {
        let instances = instances.values().filter(|instance| instance.status().want != Want::Gone);
        instances.filter(|instance| predicate(instance)).map(Instance::id).collect()
    };
    if selector == "all" {
        return Ok(matching(&|_| true));
    }
    if selector == "//" {
        return Err(ApiError::new(ErrorCode::Invalid, "empty regular expression \"//\"")
            .hint("use `all` to select all apps"));
    }
    if let Some(pattern) = selector.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        let regex = compile(selector, pattern)?;
        return Ok(matching(&|instance| regex.is_match(&instance.spec().name)));
    }
    let by_name = matching(&|instance| instance.spec().name == selector);
    if !by_name.is_empty() {
        return Ok(by_name);
    }
    let by_namespace = matching(&|instance| instance.spec().namespace == selector);
    if !by_namespace.is_empty() {
        return Ok(by_namespace);
    }
    let id = selector.parse::<u32>().ok();
    Ok(matching(&|instance| Some(instance.id()) == id))
}

/// Whether a selector is a regular expression.
fn pattern_of(selector: &str) -> Option<&str> {
    let pattern = selector.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
    pattern.filter(|pattern| !pattern.is_empty())
}

fn compile(selector: &str, pattern: &str) -> Result<Regex, ApiError> {
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(MAX_PATTERN_SIZE).dfa_size_limit(MAX_PATTERN_SIZE).build().map_err(|error| {
        // The other lines repeat the expression.
        let message = error.to_string();
        let reason = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
        ApiError::new(ErrorCode::Invalid, format!("invalid regular expression \"{selector}\": {reason}"))
    })
}

/// Whether selectors contain a regular expression, which must be [resolved](resolve_patterns) first.
///
/// # Errors
/// There are too many selectors.
pub fn has_patterns(selectors: &[String]) -> Result<bool, ApiError> {
    let patterns = selectors.iter().filter(|selector| pattern_of(selector).is_some()).count();
    let (number, max, what) = match selectors.len() > MAX_SELECTORS {
        true => (selectors.len(), MAX_SELECTORS, "selectors"),
        false => (patterns, MAX_PATTERNS, "regular expressions as selectors"),
    };
    if number > max {
        let text = format!("too many {what}: {number}; the maximum is {max}");
        return Err(ApiError::new(ErrorCode::Invalid, text).hint("select fewer apps at a time"));
    }
    Ok(patterns > 0)
}

/// Replaces regular expressions by the names that they match. Takes long for complex expressions, so it must not run
/// in the loop.
///
/// # Errors
/// An expression is malformed or too large, or matches nothing.
pub fn resolve_patterns(
    selectors: &[String],
    names: &BTreeMap<u32, String>,
) -> Result<Vec<String>, ApiError> {
    let mut resolved = Vec::new();
    for selector in selectors {
        let Some(pattern) = pattern_of(selector) else {
            resolved.push(selector.clone());
            continue;
        };
        let regex = compile(selector, pattern)?;
        let matches: BTreeSet<&String> = names.values().filter(|name| regex.is_match(name)).collect();
        if matches.is_empty() {
            let text = format!("no app, namespace or id matches \"{selector}\"");
            return Err(ApiError::new(ErrorCode::NotFound, text).hint("see `rsm list`"));
        }
        resolved.extend(matches.into_iter().cloned());
    }
    Ok(resolved)
}

/// The names of all instances that can be selected.
pub fn selectable_names(instances: &BTreeMap<u32, Instance>) -> BTreeMap<u32, String> {
    let instances = instances.values().filter(|instance| instance.status().want != Want::Gone);
    instances.map(|instance| (instance.id(), instance.spec().name.clone())).collect()
}

fn not_found(instances: &BTreeMap<u32, Instance>, selector: &str) -> ApiError {
    if selector == "all" {
        return ApiError::new(ErrorCode::NotFound, "no apps").hint("start one: rsm start ecosystem.toml");
    }
    let error = ApiError::new(ErrorCode::NotFound, format!("no app, namespace or id matches \"{selector}\""));
    if selector.contains(',') {
        return error.hint(format!(
            "separate several by spaces: {}",
            selector.split(',').collect::<Vec<_>>().join(" ")
        ));
    }
    let names = instances.values().map(|instance| instance.spec().name.as_str());
    match closest_match(selector, names) {
        Some(name) => error.hint(format!("did you mean \"{name}\"?")),
        None => error.hint("see `rsm list`"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::instance::event::InstanceEvent;
    use crate::spec::AppSpec;
    use crate::time::Moment;

    fn instances() -> BTreeMap<u32, Instance> {
        let rows = [
            (0, "api", "web"),
            (1, "api", "web"),
            (2, "7", "default"),
            (3, "worker", "jobs"),
            (7, "x", "web"),
        ];
        let make = |(id, name, namespace): (u32, &str, &str)| {
            let mut spec = AppSpec::new(name, "/bin/x", "/");
            spec.namespace = namespace.into();
            (id, Instance::new(id, 0, Arc::new(spec), Arc::default(), 0, Moment::default()))
        };
        rows.into_iter().map(make).collect()
    }

    fn ids(selectors: &[&str]) -> Vec<u32> {
        let selectors: Vec<String> = selectors.iter().map(ToString::to_string).collect();
        select(&instances(), &selectors).unwrap().into_iter().collect()
    }

    #[test]
    fn selector_matches_names_then_namespaces_then_ids() {
        assert_eq!(ids(&["api"]), [0, 1]);
        assert_eq!(ids(&["web"]), [0, 1, 7]);
        assert_eq!(ids(&["7"]), [2], "an app called 7 comes before the id 7");
        assert_eq!(ids(&["3", "api"]), [0, 1, 3]);
        assert_eq!(ids(&["/^(api|w)/"]), [0, 1, 3]);
        assert_eq!(ids(&["all"]).len(), 5);
    }

    #[test]
    fn unknown_selector_is_reported_with_suggestion() {
        let error = select(&instances(), &["wroker".into()]).unwrap_err();
        assert!(error.message.contains("wroker") && error.hint.unwrap().contains("\"worker\""));
        assert!(select(&instances(), &["/(/".into()]).unwrap_err().message.contains("regular expression"));
        assert!(select(&BTreeMap::new(), &["all".into()]).is_err());
        assert!(select(&instances(), &["//".into()]).is_err(), "an empty pattern does not select all");
    }

    #[test]
    fn patterns_are_resolved_to_names() {
        let names = selectable_names(&instances());
        let resolve = |selectors: &[&str]| {
            let selectors: Vec<String> = selectors.iter().map(ToString::to_string).collect();
            resolve_patterns(&selectors, &names)
        };
        assert_eq!(resolve(&["/^(api|w)/", "7"]).unwrap(), ["api", "worker", "7"]);
        assert_eq!(resolve(&["/nothing/"]).unwrap_err().code, ErrorCode::NotFound);
        assert!(resolve(&["/(/"]).unwrap_err().message.contains("invalid regular expression"));
        assert!(resolve(&["/(\\w{90}){90}/"]).unwrap_err().message.contains("size limit"));
    }

    #[test]
    fn number_of_selectors_is_limited() {
        assert_eq!(has_patterns(&["a".into(), "//".into()]), Ok(false));
        assert_eq!(has_patterns(&["/a/".into()]), Ok(true));
        assert!(has_patterns(&vec!["/a/".into(); MAX_PATTERNS + 1]).is_err());
        assert!(has_patterns(&vec!["a".into(); MAX_SELECTORS + 1]).is_err());
    }

    #[test]
    fn selector_skips_instances_being_deleted() {
        let mut all = instances();
        all.get_mut(&3).unwrap().handle(InstanceEvent::Delete, Moment::default());
        assert!(select(&all, &["worker".into()]).is_err());
    }
}
