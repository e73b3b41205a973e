//! What the installation of a service consists of: files to write and commands to run.

use std::path::{Path, PathBuf};

use super::init_system::InitSystem;
use super::service::{InitCommand, Service, UnitFile};
use super::{scripts, systemd};

/// The installation and the removal of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallPlan {
    /// The files; the first one is the unit itself.
    pub files: Vec<UnitFile>,
    /// Commands to run after the files are written.
    pub install: Vec<InitCommand>,
    /// Commands to run before the files are removed.
    pub before_removal: Vec<InitCommand>,
    /// Commands to run after the files are removed.
    pub after_removal: Vec<InitCommand>,
    /// A directory to remove too if it is empty.
    pub directory: Option<PathBuf>,
    /// A path that exists while this init system is running.
    pub running_marker: &'static str,
}

impl InstallPlan {
    /// The plan for a service. `config` is the configuration directory of the user, usually `~/.config`,
    /// where user units are stored.
    pub fn new(system: InitSystem, service: &Service, config: &Path) -> Self {
        match system {
            InitSystem::Systemd => Self::systemd(service, config),
            InitSystem::Openrc => Self::openrc(service),
            InitSystem::Sysv => Self::sysv(service),
            InitSystem::Runit => Self::runit(service),
        }
    }

    fn systemd(service: &Service, config: &Path) -> Self {
        let unit = format!("{}.service", service.name);
        let (dir, systemctl) = match service.user {
            Some(_) => (PathBuf::from("/etc/systemd/system"), vec!["systemctl"]),
            None => (config.join("systemd/user"), vec!["systemctl", "--user"]),
        };
        let online = |argv: &[&str]| InitCommand::online(&[&systemctl, argv].concat());
        let offline = |argv: &[&str]| InitCommand::offline(&[&systemctl, argv].concat());
        let file = UnitFile { path: dir.join(&unit), text: systemd::unit(service), executable: false };
        Self {
            files: vec![file],
            install: vec![online(&["daemon-reload"]), offline(&["enable", &unit]), online(&["start", &unit])],
            // Without `--now`: disabling the start at boot must not stop the apps.
            before_removal: vec![offline(&["disable", &unit])],
            after_removal: vec![online(&["daemon-reload"])],
            directory: None,
            running_marker: "/run/systemd/system",
        }
    }

    fn openrc(service: &Service) -> Self {
        let name = &*service.name;
        Self {
            files: vec![init_script(name, scripts::openrc(service))],
            install: vec![
                InitCommand::offline(&["rc-update", "add", name, "default"]),
                InitCommand::online(&["rc-service", name, "start"]),
            ],
            before_removal: vec![InitCommand::offline(&["rc-update", "del", name, "default"])],
            after_removal: Vec::new(),
            directory: None,
            running_marker: "/run/openrc",
        }
    }

    fn sysv(service: &Service) -> Self {
        let name = &*service.name;
        let script = format!("/etc/init.d/{name}");
        // Red Hat has chkconfig, Debian has update-rc.d.
        let has_chkconfig =
            !Path::new("/usr/sbin/update-rc.d").exists() && Path::new("/sbin/chkconfig").exists();
        let (add, before_removal, after_removal) = if has_chkconfig {
            let del = InitCommand::offline(&["chkconfig", "--del", name]);
            (InitCommand::offline(&["chkconfig", "--add", name]), vec![del], Vec::new())
        } else {
            // `remove` requires that the script is gone.
            let remove = InitCommand::offline(&["update-rc.d", "-f", name, "remove"]);
            (InitCommand::offline(&["update-rc.d", name, "defaults"]), Vec::new(), vec![remove])
        };
        Self {
            files: vec![init_script(name, scripts::sysv(service))],
            install: vec![add, InitCommand::online(&[&script, "start"])],
            before_removal,
            after_removal,
            directory: None,
            running_marker: "/etc/inittab",
        }
    }

    fn runit(service: &Service) -> Self {
        let dir = PathBuf::from("/etc/sv").join(&service.name);
        // Void has the directory of enabled services in /var, Debian and Artix in /etc.
        let enabled = match Path::new("/var/service").exists() {
            true => "/var/service",
            false => "/etc/service",
        };
        let link = format!("{enabled}/{}", service.name);
        let target = dir.display().to_string();
        let file = |name: &str, text| UnitFile { path: dir.join(name), text, executable: true };
        Self {
            files: vec![file("run", scripts::runit_run(service)), file("finish", scripts::runit_finish())],
            install: vec![InitCommand::offline(&["ln", "-sfn", &target, &link])],
            // runsvdir sends SIGTERM to a service whose link is removed, which would stop the apps. So the
            // `rsm foreground` process alone is killed first, without a restart.
            before_removal: vec![
                InitCommand::online(&["sh", "-c", &detach_runsv(&link)]),
                InitCommand::offline(&["rm", "-f", &link]),
            ],
            after_removal: Vec::new(),
            directory: Some(dir),
            running_marker: "/run/runit",
        }
    }
}

/// The check of `stat` is necessary: `sv once` starts a service that is not running.
fn detach_runsv(link: &str) -> String {
    format!("! grep -qs ^run {link}/supervise/stat || {{ sv once {link} && sv kill {link}; }}")
}

fn init_script(name: &str, text: String) -> UnitFile {
    UnitFile { path: PathBuf::from("/etc/init.d").join(name), text, executable: true }
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::service;
    use super::*;

    fn lines(commands: &[InitCommand]) -> Vec<String> {
        commands.iter().map(InitCommand::display).collect()
    }

    #[test]
    fn systemd_has_system_and_user_units() {
        let config = Path::new("/home/bob/.config");
        let plan = InstallPlan::new(InitSystem::Systemd, &service(), config);
        assert_eq!(plan.files[0].path, Path::new("/etc/systemd/system/rsm-bob.service"));
        assert_eq!(lines(&plan.install)[1], "systemctl enable rsm-bob.service");
        let own = Service { user: None, name: "rsm".into(), ..service() };
        let plan = InstallPlan::new(InitSystem::Systemd, &own, config);
        assert_eq!(plan.files[0].path, Path::new("/home/bob/.config/systemd/user/rsm.service"));
        assert_eq!(lines(&plan.install)[2], "systemctl --user start rsm.service");
        let removal = lines(&plan.before_removal);
        assert_eq!(removal, ["systemctl --user disable rsm.service"], "the apps keep running");
    }

    #[test]
    fn other_init_systems_have_scripts() {
        let plan = |system| InstallPlan::new(system, &service(), Path::new("/x"));
        let openrc = plan(InitSystem::Openrc);
        assert_eq!(openrc.files[0].path, Path::new("/etc/init.d/rsm-bob"));
        assert_eq!(lines(&openrc.install)[0], "rc-update add rsm-bob default");
        let runit = plan(InitSystem::Runit);
        assert_eq!(runit.files[0].path, Path::new("/etc/sv/rsm-bob/run"));
        assert!(runit.files.iter().all(|file| file.executable && file.text.starts_with("#!/bin/sh\n")));
        assert!(lines(&runit.before_removal)[0].contains("sv kill /"), "the apps keep running");
        let sysv = plan(InitSystem::Sysv);
        assert_eq!(lines(&sysv.install)[1], "/etc/init.d/rsm-bob start");
    }
}
