//! The environment that apps inherit: that of the shell, without what rsm itself put there.

use super::session::Session;
use crate::ipc::message::Inherited;

/// This process's environment as an app may inherit it; says which variables cannot be.
pub(super) fn collect_env(session: &Session) -> Inherited {
    let (inherited, dropped) = Inherited::from_current();
    for name in dropped {
        let name = name.to_string_lossy();
        session.notice(format_args!(
            "note: environment variable {name} is not valid UTF-8, not passed to the app"
        ));
    }
    inherited
}
