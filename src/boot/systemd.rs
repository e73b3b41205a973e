//! The systemd unit.

use std::path::Path;

use super::service::Service;

/// The text of the unit.
///
/// Its main process, `rsm foreground`, only monitors rsm: daemon and keeper can be replaced while the main
/// process that systemd sees stays the same. `KillMode=process` keeps the apps running if the main process is
/// killed; the next one finds them. A stop sends SIGTERM to the main process, which stops all apps and then
/// kills what remains in the cgroup of the unit.
pub fn unit(service: &Service) -> String {
    // Only in command lines, `$` starts a variable.
    let program = quote_systemd(&service.program.display().to_string()).replace('$', "$$");
    let home = quote_systemd(&format!("RSM_HOME={}", service.home.display()));
    let user = service.user.as_ref().map(|user| format!("User={user}\n")).unwrap_or_default();
    let (network, target) = match &service.user {
        Some(_) => ("Wants=network-online.target\nAfter=network-online.target\n", "multi-user.target"),
        None => ("", "default.target"), // a user manager has no network targets
    };
    let owner = service.user.as_deref().unwrap_or("this user");
    let mounts = requires_mounts(&service.home);
    format!(
        "\
# Written by `rsm startup`; `rsm unstartup` removes it.
[Unit]
Description=rsm: apps of {owner}
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

/// `RSM_HOME` can be on a file system of its own, which must be mounted first.
fn requires_mounts(home: &Path) -> String {
    format!("RequiresMountsFor={}\n", quote_systemd(&home.display().to_string()))
}

/// A word for systemd: `%` starts a specifier, and quotes keep spaces.
fn quote_systemd(word: &str) -> String {
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
    use super::super::service::tests::service;
    use super::*;

    #[test]
    fn quotes_only_words_that_need_it() {
        assert_eq!(quote_systemd("/srv/rsm"), "/srv/rsm");
        assert_eq!(quote_systemd("/srv/50%"), "/srv/50%%");
        assert_eq!(quote_systemd("/srv/my apps"), "\"/srv/my apps\"");
        assert_eq!(quote_systemd("a\"b\\"), "\"a\\\"b\\\\\"");
    }

    #[test]
    fn unit_sets_no_path() {
        let text = unit(&service());
        assert!(!text.contains("PATH=") && text.contains("User=bob\n"), "{text}");
        assert!(text.contains("Type=notify") && !text.contains("PIDFile"), "{text}");
        let own = unit(&Service { user: None, ..service() });
        assert!(!own.contains("User=") && own.contains("WantedBy=default.target"), "{own}");
    }
}
