//! Detection of the init system.

use std::path::Path;

use clap::ValueEnum;

/// A supported init system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitSystem {
    /// systemd: system units for root, user units for other users.
    #[value(alias = "ubuntu", alias = "debian", alias = "centos", alias = "arch")]
    Systemd,
    /// OpenRC, as on Alpine and Gentoo.
    Openrc,
    /// Scripts in `/etc/init.d`, enabled with `update-rc.d` or `chkconfig`.
    #[value(alias = "systemv", alias = "sysv-init", alias = "upstart", alias = "amazon")]
    Sysv,
    /// runit, as on Void.
    Runit,
}

impl InitSystem {
    /// The running init system. If none is running, as during the build of an image, the one whose tools
    /// are installed. `root` is `/` except in tests.
    pub fn detect(root: &Path) -> Option<Self> {
        // Only the running init system creates its files in /run.
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
            .find(|(_, marker)| root.join(marker).exists())
            .or_else(|| tools.iter().find(|(_, tool)| has_tool(tool)))
            .map(|(system, _)| *system)
    }

    /// The name on the command line.
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

    fn detect(paths: &[&str]) -> Option<InitSystem> {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            std::fs::create_dir_all(root.path().join(path)).unwrap();
        }
        InitSystem::detect(root.path())
    }

    #[test]
    fn prefers_running_over_installed() {
        assert_eq!(detect(&["usr/bin/systemctl", "usr/sbin/update-rc.d"]), Some(InitSystem::Systemd));
        assert_eq!(detect(&["usr/sbin/update-rc.d"]), Some(InitSystem::Sysv));
        assert_eq!(detect(&["usr/bin/systemctl", "run/openrc"]), Some(InitSystem::Openrc));
        assert_eq!(detect(&["run/systemd/system", "sbin/rc-update"]), Some(InitSystem::Systemd));
        assert_eq!(detect(&["usr/bin/runsvdir"]), Some(InitSystem::Runit));
        assert_eq!(detect(&["etc/init.d"]), None);
    }
}
