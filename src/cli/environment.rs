//! The environment that apps inherit: that of the shell, without what rsm itself put there.

use std::ffi::OsString;

use crate::ipc::message::Inherited;
use crate::spec::Vars;

use super::session::Session;

/// Never the app's business: they tell one process what it was handed by its own parent.
const HANDED_OVER: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "NOTIFY_SOCKET",
];

/// Set by rsm for each managed app. Left alone in a shell that is no managed app, where a user
/// may have a `name` of his own.
const IDENTITY: [&str; 5] = ["NODE_APP_INSTANCE", "PM2_HOME", "name", "namespace", "pm_id"];

/// This process's environment as an app may inherit it; says which variables cannot be.
pub(super) fn inherited(session: &Session) -> Inherited {
    let (vars, dropped) = clean(std::env::vars_os());
    for name in dropped {
        let name = name.to_string_lossy();
        session.note(format_args!(
            "note: environment variable {name} is not valid UTF-8, not passed to the app"
        ));
    }
    Inherited(vars)
}

/// What may be inherited, and the names of those that are not UTF-8.
fn clean(all: impl Iterator<Item = (OsString, OsString)>) -> (Vars, Vec<OsString>) {
    let (mut vars, mut dropped) = (Vars::new(), Vec::new());
    for (name, value) in all {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => drop(vars.insert(name, value)),
            (Ok(name), Err(_)) => dropped.push(name.into()),
            (Err(name), _) => dropped.push(name),
        }
    }
    let managed = vars.contains_key("RSM_RUN") || vars.contains_key("pm_id");
    vars.retain(|name, _| {
        let identity = managed && IDENTITY.contains(&name.as_str());
        !identity && !name.starts_with("RSM_") && !HANDED_OVER.contains(&name.as_str())
    });
    (vars, dropped)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn names(vars: &[(&str, &str)]) -> Vec<String> {
        let (vars, dropped) = clean(vars.iter().map(|(name, value)| (name.into(), value.into())));
        assert!(dropped.is_empty());
        vars.into_keys().collect()
    }

    #[test]
    fn a_plain_shell_keeps_its_names() {
        assert_eq!(names(&[("name", "ada"), ("RSM_HOME", "/h"), ("PATH", "/bin")]), ["PATH", "name"]);
        assert_eq!(names(&[("NODE_CHANNEL_FD", "3"), ("NODE_ENV", "test")]), ["NODE_ENV"]);
    }

    #[test]
    fn a_managed_app_does_not_hand_on_who_it_is() {
        let inside =
            [("name", "api"), ("pm_id", "0"), ("NODE_APP_INSTANCE", "1"), ("RSM_RUN", "9"), ("LANG", "C")];
        assert_eq!(names(&inside), ["LANG"]);
    }

    #[test]
    fn what_is_not_utf8_is_named() {
        let odd = OsString::from_vec(vec![0xff]);
        let (vars, dropped) = clean([("ODD".into(), odd.clone()), (odd.clone(), "x".into())].into_iter());
        assert!(vars.is_empty());
        assert_eq!(dropped, [OsString::from("ODD"), odd]);
    }
}
