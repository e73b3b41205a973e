//! Programs that put themselves into the background: they cannot be supervised, and a restart only repeats it.

use std::time::Duration;

use crate::exit::Exit;

/// An exit after a longer time is not the end of a start in the background.
const MAX_START_TIME: Duration = Duration::from_secs(30);

/// How to run known programs in the foreground.
const FOREGROUND: &[(&str, &str)] = &[
    ("apache2", "-D FOREGROUND"),
    ("cron", "-f"),
    ("dnsmasq", "--keep-in-foreground"),
    ("httpd", "-D FOREGROUND"),
    ("nginx", "-g 'daemon off;'"),
    ("php-fpm", "--nodaemonize"),
    ("redis-server", "--daemonize no"),
    ("rsyslogd", "-n"),
    ("squid", "-N"),
    ("sshd", "-D"),
    ("supervisord", "-n"),
    ("valkey-server", "--daemonize no"),
];

/// Whether the exit of a first process that left a process in another session means that the program has put itself
/// into the background.
pub(super) fn is_background_start(exit: &Exit, uptime: Duration) -> bool {
    *exit == Exit::Code(0) && uptime < MAX_START_TIME
}

/// Why such an app is errored. `program` is the name of the process in the background.
pub(super) fn reason(program: &str) -> String {
    let known = FOREGROUND.iter().find(|(name, _)| program.starts_with(name));
    let advice = match known {
        Some((_, option)) => format!("start it with `{option}`"),
        None => "start it in the foreground, without an option such as `--daemon`".to_owned(),
    };
    format!(
        "{program} put itself into the background, where rsm cannot supervise it, and was stopped; {advice}"
    )
}
