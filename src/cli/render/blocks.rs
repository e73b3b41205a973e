//! `list -m`: one block of `key : value` lines for each instance, as in PM2.

use std::fmt::Write;

use crate::cli::render::list::{mode, uptime};
use crate::cli::render::style::tame;
use crate::cli::render::units;
use crate::ipc::message::InstanceDetail;

/// Renders the blocks, each followed by an empty line.
pub(crate) fn blocks(instances: &[InstanceDetail]) -> String {
    instances.iter().map(block).collect()
}

fn block(detail: &InstanceDetail) -> String {
    let view = &detail.view;
    let error_log =
        detail.error_file.as_ref().map_or_else(|| "N/A".into(), |file| file.display().to_string());
    let rows = [
        ("namespace", view.namespace.clone()),
        ("version", view.version.clone().unwrap_or_else(|| "N/A".into())),
        ("pid", view.pid.map_or_else(|| "N/A".into(), |pid| pid.to_string())),
        ("pm2 id", view.id.to_string()),
        ("status", view.status.as_str().into()),
        ("mode", mode(view.mode).into()),
        ("restarted", view.restarts.to_string()),
        ("uptime", uptime(view)),
        ("memory usage", units::size(view.memory)),
        ("error log", error_log),
        ("watching", if view.watching { "yes" } else { "no" }.into()),
        ("PID file", detail.pid_file.display().to_string()),
    ];
    let mut text = format!("+--- {}\n", tame(&view.name));
    for (key, value) in rows {
        let _ = writeln!(text, "{key} : {}", tame(&value));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::describe::tests::detail;

    #[test]
    fn block_has_keys_of_pm2() {
        let text = blocks(&[detail()]);
        assert!(text.starts_with("+--- api\nnamespace : default\nversion : N/A\n"), "{text}");
        assert!(text.ends_with("watching : no\nPID file : /h/pids/api-3.pid\n\n"), "{text}");
    }
}
