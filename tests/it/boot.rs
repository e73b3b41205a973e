//! Being started with the machine: units that are written, and the process that they start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use crate::harness::{DEADLINE, Rsm, alive, environ, need_root, read, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `rsm foreground` as systemd starts it: a bare environment, and a socket to tell that it is ready.
struct Unit {
    child: Child,
    socket: UnixDatagram,
}

impl Unit {
    fn start(rsm: &Rsm) -> Self {
        let path = rsm.dir().join("notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = rsm.command(&["foreground"]);
        command.env_clear().env("RSM_HOME", rsm.home()).env("NOTIFY_SOCKET", &path);
        command
            .env("PATH", "/usr/bin:/bin")
            .stdout(Stdio::null())
            .stderr(fs::File::create(rsm.dir().join("said")).unwrap());
        Self { child: command.spawn().unwrap(), socket }
    }

    /// Waits until it says so.
    fn says(&self, what: &str) {
        let mut said = [0; 1024];
        loop {
            let length = self.socket.recv(&mut said).unwrap();
            if String::from_utf8_lossy(&said[..length]).contains(what) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// How it ended.
    fn end(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

/// Apps that were saved before the machine went down.
fn saved(rsm: &Rsm) {
    rsm.ok(&["start", "sleep 1000", "--name", "one"]);
    rsm.ok(&["start", "sleep 1000", "--name", "two", "-i", "2"]);
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
}

#[test]
fn service_starts_saved_apps_and_stops_all() {
    let rsm = Rsm::new();
    saved(&rsm);
    let unit = Unit::start(&rsm);
    unit.says("READY=1");
    assert_eq!((rsm.statuses("one").len(), rsm.statuses("two")), (1, vec!["online".into(), "online".into()]));
    let (pids, (daemon, keeper)) = ([rsm.pids("one"), rsm.pids("two")].concat(), rsm.managers());
    unit.signal(Signal::SIGTERM);
    unit.says("STOPPING=1");
    assert_eq!(unit.end(), Some(0));
    assert!(pids.into_iter().chain([daemon, keeper]).all(|pid| !alive(pid)));
    rsm.run(&["ping"]).code(3);
}

#[test]
fn service_survives_killing_daemon_or_keeper() {
    let rsm = Rsm::new();
    saved(&rsm);
    let unit = Unit::start(&rsm);
    unit.says("READY=1");
    let app = rsm.pids("one");
    let shot = |pid| kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let (daemon, _) = rsm.managers();
    shot(daemon);
    rsm.wait_until("another daemon", |rsm| (rsm.managers().0 != daemon).then_some(()));
    let (_, keeper) = rsm.managers();
    shot(keeper);
    rsm.wait_until("another keeper", |rsm| (rsm.managers().1 != keeper).then_some(()));
    let (daemon, keeper) = rsm.managers();
    shot(keeper);
    shot(daemon);
    // Nobody types a command: the unit itself starts others.
    wait_until("both are there again", || {
        let pid: i32 = read(rsm.home().join("run/keeper.lock")).trim().parse().ok()?;
        (pid != keeper && alive(pid)).then_some(())
    });
    rsm.wait_until("rsm answers", |rsm| (rsm.managers().0 != daemon).then_some(()));
    assert_eq!(rsm.pids("one"), app);
    unit.signal(Signal::SIGTERM);
    assert_eq!(unit.end(), Some(0));
    assert!(app.iter().all(|pid| !alive(*pid)));
}

#[test]
fn restarted_service_adopts_running_apps() {
    let rsm = Rsm::new();
    saved(&rsm);
    rsm.ok(&["start", "sleep 1000", "--name", "by-hand"]);
    let by_hand = rsm.pids("by-hand");
    let unit = Unit::start(&rsm);
    unit.says("READY=1");
    assert_eq!((rsm.list().len(), rsm.pids("by-hand")), (1, by_hand.clone()), "what runs is all there is");
    unit.signal(Signal::SIGKILL);
    assert_eq!(unit.end(), None);
    assert_eq!(rsm.pids("by-hand"), by_hand);
    let unit = Unit::start(&rsm);
    unit.says("READY=1");
    rsm.ok(&["kill"]);
    assert_eq!(unit.end(), Some(0), "an end that somebody wanted is no failure");
}

#[test]
fn moved_interpreter_is_found_by_login_path() {
    need_root(); // for a user whose profile is the test's
    let rsm = Rsm::new();
    let tool = |version: &str| rsm.write(&format!("versions/{version}/tool"), "#!/bin/sh\nexec sleep 1000\n");
    let old = tool("1").parent().unwrap().to_owned();
    let path = format!("{}:/usr/bin:/bin", old.display());
    let mut start = rsm.command(&["start", "tool", "--name", "app"]);
    assert!(start.env("PATH", &path).output().unwrap().status.success());
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    fs::remove_dir_all(&old).unwrap();
    let new = tool("2").parent().unwrap().to_owned();
    let mut boot = rsm.command(&["foreground", "--once"]);
    // The profile has been read: that is what this variable says.
    boot.env_clear().env("RSM_HOME", rsm.home()).env("RSM_LOGIN_PATH", "1");
    boot.env("PATH", format!("{}:/usr/bin:/bin", new.display()));
    assert!(boot.output().unwrap().status.success());
    rsm.wait_status("app", "online");
    let path = environ(rsm.pids("app")[0])["PATH"].clone();
    assert!(path.contains(&new.display().to_string()), "{path}");
}

/// Has `rsm startup` find this directory's programs, and see the machine as `root`.
fn in_image(rsm: &Rsm, args: &[&str]) -> crate::harness::Ran {
    let mut command = rsm.command(args);
    command.env("PATH", format!("{}:/usr/bin:/bin", rsm.dir().display()));
    crate::harness::Ran::new(args, &command.output().unwrap())
}

#[test]
fn startup_prints_unit_before_writing() {
    let rsm = Rsm::new();
    let home = rsm.home().display().to_string();
    let ran = rsm.ok(&["startup", "systemd", "--print"]);
    for line in ["Type=notify", "Delegate=yes", "KillMode=process", "foreground", "reload all", &home] {
        assert!(ran.stdout.contains(line), "{line}: {}", ran.stdout);
    }
    let removal = rsm
        .ok(&["unstartup", "systemd", "--print", "--service-name", "absent"])
        .says("nothing to remove")
        .stdout;
    assert!(removal.contains("run: ") && removal.contains("\nremove: "), "{removal}");
    assert!(!removal.contains("Type=notify"), "{removal}");
    for system in ["openrc", "sysv", "runit"] {
        rsm.ok(&["startup", system, "--print"]).shows("foreground").shows(&home);
    }
    rsm.run(&["startup", "systemd", "--print", "--user", "no-such-user"])
        .code(1)
        .says("startup: user \"no-such-user\" does not exist");
    rsm.run(&["startup", "launchd", "--print"]).code(2).says("openrc");
    rsm.run(&["startup", "systemd", "--print", "--service-name", "../x"])
        .code(1)
        .says("invalid service name");
}

#[test]
fn startup_rejects_binary_user_cannot_execute() {
    need_root();
    let rsm = Rsm::new();
    fs::set_permissions(rsm.dir(), fs::Permissions::from_mode(0o700)).unwrap();
    let program = rsm.dir().join("rsm");
    fs::copy(env!("CARGO_BIN_EXE_rsm"), &program).unwrap();
    let home = rsm.home().display().to_string();
    let args = ["startup", "systemd", "--user", "nobody", "--home", &home];
    let output = rsm.command_of(&program.display().to_string(), &args).output().unwrap();
    crate::harness::Ran::new(&args, &output).code(1).says("cannot execute").says("/usr/local/bin");
    rsm.run(&["startup", "systemd", "--user", "nobody"]).code(1).says("--home");
    assert!(!std::path::Path::new("/etc/systemd/system/rsm-nobody.service").exists());
}

#[test]
fn user_units_are_written_once_and_removed() {
    let rsm = Rsm::new();
    // A systemctl that only notes what it is asked.
    rsm.write("systemctl", "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/asked\"\n");
    let name = "rsm-test-of-startup";
    let file = format!("/etc/systemd/system/{name}.service");
    need_root();
    let args = ["startup", "systemd", "--service-name", name];
    in_image(&rsm, &args).code(0).says(&format!("wrote {file}"));
    let text = read(&file);
    in_image(&rsm, &args).code(0).says("unchanged: ");
    assert_eq!(read(&file), text);
    in_image(&rsm, &["unstartup", "systemd", "--service-name", name]).code(0).says("removed");
    assert!(!std::path::Path::new(&file).exists());
    in_image(&rsm, &["unstartup", "systemd", "--service-name", name]).code(0).says("nothing to remove");
    let asked = read(rsm.dir().join("asked"));
    assert!(
        asked.contains(&format!("enable {name}.service"))
            && asked.contains(&format!("disable {name}.service")),
        "{asked}"
    );
    assert!(!asked.contains("stop"), "apps are left alone: {asked}");
}

#[test]
fn unit_passes_systemd_analyze_verify() {
    let rsm = Rsm::new();
    let unit = rsm.write("rsm-check.service", &rsm.ok(&["startup", "systemd", "--print"]).stdout);
    let checked = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("rsm-check")).collect();
    assert!(checked.status.success() && ours.is_empty(), "{said}");
}
