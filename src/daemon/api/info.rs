//! What `rsm info` shows of rsm itself and the machine.

use std::collections::BTreeMap;

use crate::daemon::supervisor::views;
use crate::instance::Instance;
use crate::ipc::message::Info;
use crate::metrics;
use crate::paths::Home;
use crate::version::version;

/// Gathers it.
pub fn daemon_info(instances: &[Instance], unsaved: bool, keeper: i32, home: &Home) -> Info {
    let now = crate::time::now().mono;
    let mut by_status = BTreeMap::new();
    for instance in instances {
        *by_status.entry(views::display_status(&instance.status().state).as_str().to_owned()).or_insert(0) +=
            1;
    }
    let paths = [
        ("home", home.path().to_path_buf()),
        ("socket", home.socket()),
        ("dump", home.dump()),
        ("state", home.state()),
        ("log", home.daemon_log()),
        ("logs", home.logs()),
        ("pids", home.pids()),
    ];
    Info {
        version: version().to_owned(),
        daemon: metrics::process_info(std::process::id().cast_signed(), now),
        keeper: metrics::process_info(keeper, now),
        paths: paths.into_iter().map(|(name, path)| (name.to_owned(), path)).collect(),
        instances: by_status,
        host: metrics::host_info(home.path()),
        unsaved,
    }
}
