//! The environment that apps inherit from the shell, without variables of rsm.

use super::session::Session;
use crate::ipc::message::InheritedEnv;

/// Collects the inherited environment. Reports variables that cannot be passed on.
pub(super) fn collect_env(session: &Session) -> InheritedEnv {
    let (inherited, dropped) = InheritedEnv::from_current();
    for name in dropped {
        let name = name.to_string_lossy();
        session.notice(format_args!(
            "note: environment variable {name} is not valid UTF-8, not passed to the app"
        ));
    }
    inherited
}
