//! `info`: processes and files of rsm, and the host.

use super::style::{Style, Tone};
use super::units;
use crate::ipc::message::{DaemonInfo, ProcessInfo};
use crate::text::sanitize;

/// Renders the page. `cli` is the version of this binary.
pub(crate) fn info(info: &DaemonInfo, cli: &str, style: Style) -> String {
    let process = |process: &ProcessInfo| {
        let (memory, uptime) = (units::size(process.memory), units::age(process.uptime));
        format!("pid {}, memory {memory}, uptime {uptime}", process.pid)
    };
    let host = &info.host;
    let memory = format!("{} of {}", units::size(host.memory_used), units::size(host.memory_total));
    let mut rows = vec![
        ("version", version(&info.version, cli)),
        ("daemon", process(&info.daemon)),
        ("keeper", process(&info.keeper)),
        ("apps", instances(info)),
        (
            "host",
            format!(
                "{}, {}, memory {memory} used",
                units::pluralize(host.cores, "core"),
                units::load_averages(host)
            ),
        ),
    ];
    rows.extend(info.paths.iter().map(|(name, path)| (name.as_str(), path.display().to_string())));
    rows.extend(info.stalled.iter().map(|stalled| {
        ("blocked", format!("{}, for {}", sanitize(&stalled.subject), units::age(stalled.duration)))
    }));
    rows.iter()
        .map(|(key, value)| format!("{} {value}\n", style.paint(Tone::Heading, &format!("{key:<8}"))))
        .collect()
}

/// The version of the daemon, and that of this command if it differs; `rsm upgrade` upgrades the daemon.
fn version(daemon: &str, cli: &str) -> String {
    match daemon == cli {
        true => daemon.to_owned(),
        false => format!("{daemon} (this command is {cli})"),
    }
}

fn instances(info: &DaemonInfo) -> String {
    let counts: Vec<String> =
        info.instances.iter().map(|(status, count)| format!("{count} {status}")).collect();
    if counts.is_empty() { "none".into() } else { counts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::message::{HostInfo, StalledOperation};

    #[test]
    fn renders_all_rows() {
        let process = |pid| ProcessInfo { pid, uptime: 180_000, memory: 3 << 20 };
        let shown = DaemonInfo {
            version: "0.1.0".into(),
            daemon: process(11),
            keeper: process(10),
            paths: [("home".into(), "/h".into()), ("socket".into(), "/h/rsm.sock".into())].into(),
            instances: [("online".into(), 2), ("stopped".into(), 1)].into(),
            host: HostInfo {
                cores: 2,
                load: [0.5, 0.25, 0.0],
                memory_total: 4 << 30,
                memory_used: 1 << 30,
                ..HostInfo::default()
            },
            unsaved: false,
            stalled: vec![StalledOperation { subject: "stdin of app a (pid 3)".into(), duration: 60_000 }],
        };
        let want = "\
version  0.1.0 (this command is 0.2.0)
daemon   pid 11, memory 3.0 MB, uptime 3m
keeper   pid 10, memory 3.0 MB, uptime 3m
apps     2 online, 1 stopped
host     2 cores, load 0.50 0.25 0.00, memory 1.0 GB of 4.0 GB used
home     /h
socket   /h/rsm.sock
blocked  stdin of app a (pid 3), for 60s
";
        assert_eq!(info(&shown, "0.2.0", Style::plain()), want);
    }
}
