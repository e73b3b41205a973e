//! What it takes to be started with the machine: files to write and commands to run.

use std::path::{Path, PathBuf};

use super::system::System;
use super::{scripts, systemd};

/// What is to be started with the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name it has with the init system, without an ending.
    pub name: String,
    /// The rsm to run. Absolute.
    pub program: PathBuf,
    /// Whose apps they are; none for a unit of the user's own.
    pub user: Option<String>,
    /// That user's home directory.
    pub user_dir: PathBuf,
    /// The rsm home whose saved list is brought back. Absolute.
    pub home: PathBuf,
}

/// A file of an init system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFile {
    /// Where.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// A script, to be executed.
    pub executable: bool,
}

/// A command of an init system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// It talks to the running init system, so that it can do nothing in an image.
    pub live: bool,
}

impl Step {
    fn new(words: &[&str], live: bool) -> Self {
        Self { words: words.iter().map(ToString::to_string).collect(), live }
    }

    /// The command as it would be typed.
    pub fn line(&self) -> String {
        self.words.join(" ")
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The files, the first one the unit itself.
    pub files: Vec<UnitFile>,
    /// After the files are written.
    pub install: Vec<Step>,
    /// Before the files are removed.
    pub remove: Vec<Step>,
    /// After they are.
    pub removed: Vec<Step>,
    /// A directory that is removed, too, when it is empty.
    pub directory: Option<PathBuf>,
    /// What tells that this init system runs here and now.
    pub sign: &'static str,
}

impl Plan {
    /// The plan for a service. `config` is the directory of the user's own configuration,
    /// `~/.config` mostly, for units of the user.
    pub fn new(system: System, service: &Service, config: &Path) -> Self {
        match system {
            System::Systemd => Self::systemd(service, config),
            System::Openrc => Self::openrc(service),
            System::Sysv => Self::sysv(service),
            System::Runit => Self::runit(service),
        }
    }

    fn systemd(service: &Service, config: &Path) -> Self {
        let unit = format!("{}.service", service.name);
        let (dir, systemctl) = match service.user {
            Some(_) => (PathBuf::from("/etc/systemd/system"), vec!["systemctl"]),
            None => (config.join("systemd/user"), vec!["systemctl", "--user"]),
        };
        let step = |words: &[&str], live| Step::new(&[&systemctl, words].concat(), live);
        let file = UnitFile { path: dir.join(&unit), text: systemd::unit(service), executable: false };
        Self {
            files: vec![file],
            install: vec![
                step(&["daemon-reload"], true),
                step(&["enable", &unit], false),
                step(&["start", &unit], true),
            ],
            // Not `--now`: that it is not started with the machine is no reason to stop the apps.
            remove: vec![step(&["disable", &unit], false)],
            removed: vec![step(&["daemon-reload"], true)],
            directory: None,
            sign: "/run/systemd/system",
        }
    }

    fn openrc(service: &Service) -> Self {
        let name = &*service.name;
        Self {
            files: vec![init_script(name, scripts::openrc(service))],
            install: vec![
                Step::new(&["rc-update", "add", name, "default"], false),
                Step::new(&["rc-service", name, "start"], true),
            ],
            remove: vec![Step::new(&["rc-update", "del", name, "default"], false)],
            removed: Vec::new(),
            directory: None,
            sign: "/run/openrc",
        }
    }

    fn sysv(service: &Service) -> Self {
        let name = &*service.name;
        // Red Hat's tool where Debian's is not.
        let chkconfig = !Path::new("/usr/sbin/update-rc.d").exists() && Path::new("/sbin/chkconfig").exists();
        let (add, del) = match chkconfig {
            true => (vec!["chkconfig", "--add", name], vec!["chkconfig", "--del", name]),
            false => (vec!["update-rc.d", name, "defaults"], vec!["update-rc.d", "-f", name, "remove"]),
        };
        let (del, after) = match chkconfig {
            true => (vec![Step::new(&del, false)], Vec::new()),
            // It wants the script to be gone.
            false => (Vec::new(), vec![Step::new(&del, false)]),
        };
        let script = format!("/etc/init.d/{name}");
        Self {
            files: vec![init_script(name, scripts::sysv(service))],
            install: vec![Step::new(&add, false), Step::new(&[&script, "start"], true)],
            remove: del,
            removed: after,
            directory: None,
            sign: "/etc/inittab",
        }
    }

    fn runit(service: &Service) -> Self {
        let dir = PathBuf::from("/etc/sv").join(&service.name);
        // Void has it in /var, Debian and Artix in /etc.
        let enabled = match Path::new("/var/service").exists() {
            true => "/var/service",
            false => "/etc/service",
        };
        let link = format!("{enabled}/{}", service.name);
        let target = dir.display().to_string();
        let file = |name: &str, text| UnitFile { path: dir.join(name), text, executable: true };
        Self {
            files: vec![file("run", scripts::runit_run(service)), file("finish", scripts::runit_finish())],
            install: vec![Step::new(&["ln", "-sfn", &target, &link], false)],
            // What is taken out of the supervised directory is told to end, and would end the apps: so the
            // watcher, and nothing but it, is killed first, and not started again.
            remove: vec![
                Step::new(&["sh", "-c", &let_go(&link)], true),
                Step::new(&["rm", "-f", &link], false),
            ],
            removed: Vec::new(),
            directory: Some(dir),
            sign: "/run/runit",
        }
    }
}

/// `sv once` would start one that does not run.
fn let_go(link: &str) -> String {
    format!("! grep -qs ^run {link}/supervise/stat || {{ sv once {link} && sv kill {link}; }}")
}

fn init_script(name: &str, text: String) -> UnitFile {
    UnitFile { path: PathBuf::from("/etc/init.d").join(name), text, executable: true }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::boot) fn service() -> Service {
        Service {
            name: "rsm-bob".into(),
            program: "/usr/local/bin/rsm".into(),
            user: Some("bob".into()),
            user_dir: "/home/bob".into(),
            home: "/home/bob/.rsm".into(),
        }
    }

    fn lines(steps: &[Step]) -> Vec<String> {
        steps.iter().map(Step::line).collect()
    }

    #[test]
    fn a_unit_of_the_system_and_one_of_the_user() {
        let config = Path::new("/home/bob/.config");
        let plan = Plan::new(System::Systemd, &service(), config);
        assert_eq!(plan.files[0].path, Path::new("/etc/systemd/system/rsm-bob.service"));
        assert_eq!(lines(&plan.install)[1], "systemctl enable rsm-bob.service");
        let own = Service { user: None, name: "rsm".into(), ..service() };
        let plan = Plan::new(System::Systemd, &own, config);
        assert_eq!(plan.files[0].path, Path::new("/home/bob/.config/systemd/user/rsm.service"));
        assert_eq!(lines(&plan.install)[2], "systemctl --user start rsm.service");
        assert_eq!(lines(&plan.remove), ["systemctl --user disable rsm.service"], "the apps run on");
    }

    #[test]
    fn other_systems() {
        let plan = |system| Plan::new(system, &service(), Path::new("/x"));
        let openrc = plan(System::Openrc);
        assert_eq!(openrc.files[0].path, Path::new("/etc/init.d/rsm-bob"));
        assert_eq!(lines(&openrc.install)[0], "rc-update add rsm-bob default");
        let runit = plan(System::Runit);
        assert_eq!(runit.files[0].path, Path::new("/etc/sv/rsm-bob/run"));
        assert!(runit.files.iter().all(|file| file.executable && file.text.starts_with("#!/bin/sh\n")));
        assert!(lines(&runit.remove)[0].contains("sv kill /"), "the watcher alone: the apps run on");
        let sysv = plan(System::Sysv);
        assert_eq!(lines(&sysv.install)[1], "/etc/init.d/rsm-bob start");
    }
}
