//! Which program has a port that another one could not bind, as told by the output of that one.

use regex::Regex;

use super::render::style::tame;
use crate::ipc::message::InstanceView;
use crate::process::proc::net;
use crate::process::proc::stat::Stat;

/// The longest command line that is shown, in characters.
const MAX_COMMAND: usize = 60;

/// The number of parents of a process that are compared with the processes of apps.
const MAX_ANCESTORS: usize = 32;

/// A sentence about the holder of the port that is named in an error about a used address. None if there is no such
/// error, or nothing listens on the port any more.
pub(super) fn describe(output: &[String], failed: u32, instances: &[InstanceView]) -> Option<String> {
    let port = output.iter().find_map(|line| used_port(line))?;
    let pids = net::listeners(port);
    if pids.is_empty() {
        return net::is_listening(port).then(|| {
            format!("port {port} is used by a program of another user (see `ss -ltnp 'sport = :{port}'`)")
        });
    }
    let owner = pids.iter().find_map(|pid| owner(*pid, instances)).filter(|view| view.id != failed);
    let pid = pids.first()?;
    let command = command_line(*pid);
    Some(match owner {
        Some(view) => format!(
            "port {port} is used by app \"{}\" (id {}), {command} (pid {pid})",
            tame(&view.name),
            view.id
        ),
        None => format!("port {port} is used by {command} (pid {pid})"),
    })
}

/// The port in a message such as `listen EADDRINUSE: address already in use :::3000`,
/// `bind: address already in use` after `listen tcp :8080`, or `Port 8080 was already in use`.
fn used_port(line: &str) -> Option<u16> {
    let lower = line.to_ascii_lowercase();
    let is_about_port = lower.contains("eaddrinuse")
        || lower.contains("address already in use")
        || lower.contains("address in use")
        || (lower.contains("port") && lower.contains("already in use"));
    if !is_about_port {
        return None;
    }
    // After a colon, the word `port` or the host of a tuple; not the error number of `[Errno 98]` or `(98: …)`.
    let pattern = Regex::new(r#"(?:port\W{1,3}|['"\])]\s*,\s*|:)(\d{1,5})\b"#).ok()?;
    let ports = pattern.captures_iter(&lower).filter_map(|found| found.get(1)?.as_str().parse::<u16>().ok());
    ports.filter(|port| *port > 0).last()
}

/// The app to which a process belongs.
fn owner(pid: i32, instances: &[InstanceView]) -> Option<&InstanceView> {
    let parent = |pid: &i32| Stat::of(*pid).ok().map(|stat| stat.parent).filter(|parent| *parent > 1);
    let mut ancestors = std::iter::successors(Some(pid), parent).take(MAX_ANCESTORS);
    ancestors.find_map(|pid| instances.iter().find(|view| view.pid == Some(pid)))
}

fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    let words: String = tame(text.trim()).chars().take(MAX_COMMAND).collect();
    if words.is_empty() { "a program".into() } else { format!("`{words}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_found_in_messages_of_runtimes() {
        for (line, port) in [
            ("Error: listen EADDRINUSE: address already in use :::3000", Some(3000)),
            ("Error: listen EADDRINUSE: address already in use 127.0.0.1:3001", Some(3001)),
            ("listen tcp :8080: bind: address already in use", Some(8080)),
            ("nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)", Some(80)),
            (
                "[Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
                Some(8000),
            ),
            ("Web server failed to start. Port 8081 was already in use.", Some(8081)),
            ("OSError: [Errno 98] Address already in use", None),
            ("listening on port 3000", None),
        ] {
            assert_eq!(used_port(line), port, "{line}");
        }
    }

    #[test]
    fn holder_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let output =
            vec!["x".to_owned(), format!("Error: listen EADDRINUSE: address already in use :::{port}")];
        let text = describe(&output, 0, &[]).unwrap();
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
        drop(taken);
        assert_eq!(describe(&output, 0, &[]), None);
    }
}
