//! The unit for systemd.

use std::path::Path;

use super::plan::Service;

/// The unit's text.
///
/// Its main process only watches (`rsm foreground`): daemon and keeper may follow one another as they
/// like, and systemd sees a main process that stays. Hence also `KillMode=process`: should the watcher be
/// killed, the apps go on, and the next one finds them. A stop is a SIGTERM to the watcher, which has every
/// app ended and then whatever else is left in the unit's cgroup.
pub fn unit(service: &Service) -> String {
    // In commands, and only there, `$` begins a variable.
    let program = quoted(&service.program.display().to_string()).replace('$', "$$");
    let home = quoted(&format!("RSM_HOME={}", service.home.display()));
    let user = service.user.as_ref().map(|user| format!("User={user}\n")).unwrap_or_default();
    let (network, target) = match &service.user {
        Some(_) => ("Wants=network-online.target\nAfter=network-online.target\n", "multi-user.target"),
        None => ("", "default.target"), // the user's systemd knows nothing of the network
    };
    let whose = service.user.as_deref().unwrap_or("this user");
    let mounts = mounts(&service.home);
    format!(
        "\
# Written by `rsm startup`; `rsm unstartup` removes it.
[Unit]
Description=rsm: the apps of {whose}
{network}{mounts}StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
{user}Environment={home}
ExecStart={program} foreground
ExecReload={program} reload all
Restart=on-failure
RestartSec=1
KillMode=process
TimeoutStartSec=10min
TimeoutStopSec=5min
Delegate=yes
OOMPolicy=continue
TasksMax=infinity

[Install]
WantedBy={target}
"
    )
}

/// Homes on a file system of its own are there before we are.
fn mounts(home: &Path) -> String {
    format!("RequiresMountsFor={}\n", quoted(&home.display().to_string()))
}

/// A word for systemd: `%` begins a specifier, and quotes keep blanks together.
fn quoted(word: &str) -> String {
    let mut text = String::with_capacity(word.len() + 2);
    let plain = word.chars().all(|c| c.is_alphanumeric() || "/._-=+:@,%$".contains(c));
    for c in word.chars() {
        match c {
            '%' => text.push_str("%%"),
            '"' | '\\' => text.extend(['\\', c]),
            c => text.push(c),
        }
    }
    if plain { text } else { format!("\"{text}\"") }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::service;
    use super::*;

    #[test]
    fn words_are_quoted_where_they_must_be() {
        assert_eq!(quoted("/srv/rsm"), "/srv/rsm");
        assert_eq!(quoted("/srv/50%"), "/srv/50%%");
        assert_eq!(quoted("/srv/my apps"), "\"/srv/my apps\"");
        assert_eq!(quoted("a\"b\\"), "\"a\\\"b\\\\\"");
    }

    #[test]
    fn the_unit_freezes_no_path() {
        let text = unit(&service());
        assert!(!text.contains("PATH=") && text.contains("User=bob\n"), "{text}");
        assert!(text.contains("Type=notify") && !text.contains("PIDFile"), "{text}");
        let own = unit(&Service { user: None, ..service() });
        assert!(!own.contains("User=") && own.contains("WantedBy=default.target"), "{own}");
    }
}
