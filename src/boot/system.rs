//! Which init system starts this machine.

use std::path::Path;

use clap::ValueEnum;

/// An init system that rsm can be started by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// systemd: system units for root, user units for other users.
    #[value(alias = "ubuntu", alias = "debian", alias = "centos", alias = "arch")]
    Systemd,
    /// OpenRC, as on Alpine and Gentoo.
    Openrc,
    /// Scripts in `/etc/init.d` with links made by `update-rc.d` or `chkconfig`.
    #[value(alias = "systemv", alias = "sysv-init", alias = "upstart", alias = "amazon")]
    Sysv,
    /// runit, as on Void.
    Runit,
}

impl System {
    /// The one that runs; where none does, as in an image that is being built, the one whose tools
    /// are there. `root` is `/` but in tests.
    pub fn detect(root: &Path) -> Option<Self> {
        // What lies in /run was put there by the one that started the machine.
        let running =
            [(Self::Systemd, "run/systemd/system"), (Self::Openrc, "run/openrc"), (Self::Runit, "run/runit")];
        let tools = [
            (Self::Systemd, "systemctl"),
            (Self::Openrc, "rc-update"),
            (Self::Runit, "runsvdir"),
            (Self::Sysv, "update-rc.d"),
            (Self::Sysv, "chkconfig"),
        ];
        let has_tool = |tool: &str| {
            ["bin", "sbin", "usr/bin", "usr/sbin"].iter().any(|dir| root.join(dir).join(tool).exists())
        };
        running
            .iter()
            .find(|(_, sign)| root.join(sign).exists())
            .or_else(|| tools.iter().find(|(_, tool)| has_tool(tool)))
            .map(|(system, _)| *system)
    }

    /// Its name, as given on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Openrc => "openrc",
            Self::Sysv => "sysv",
            Self::Runit => "runit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: &[&str]) -> Option<System> {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            std::fs::create_dir_all(root.path().join(path)).unwrap();
        }
        System::detect(root.path())
    }

    #[test]
    fn what_runs_counts_for_more_than_what_is_installed() {
        assert_eq!(found(&["usr/bin/systemctl", "usr/sbin/update-rc.d"]), Some(System::Systemd));
        assert_eq!(found(&["usr/sbin/update-rc.d"]), Some(System::Sysv));
        assert_eq!(found(&["usr/bin/systemctl", "run/openrc"]), Some(System::Openrc));
        assert_eq!(found(&["run/systemd/system", "sbin/rc-update"]), Some(System::Systemd));
        assert_eq!(found(&["usr/bin/runsvdir"]), Some(System::Runit));
        assert_eq!(found(&["etc/init.d"]), None);
    }
}
