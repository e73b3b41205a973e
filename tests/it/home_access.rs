//! Homes that rsm refuses: another user could decide what the daemon executes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::harness::{Ran, Rsm, need_root, wait_until};

const NOBODY: u32 = 65534;

/// A state of a daemon that was killed: its app would be started.
const STATE: &str = include_str!("../states/v2.json");

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The command must refuse the home and create nothing in it.
fn refuses(rsm: &Rsm, args: &[&str]) -> Ran {
    let ran = rsm.run(args).code(3);
    assert!(!rsm.home().join("rsm.log").exists(), "rsm {args:?} started a daemon");
    ran
}

#[test]
fn root_refuses_home_of_another_user() {
    need_root();
    let rsm = Rsm::new();
    rsm.open_to_all();
    std::fs::create_dir(rsm.home()).unwrap();
    std::fs::write(rsm.home().join("state.json"), STATE).unwrap();
    chown(rsm.home(), Some(NOBODY), Some(NOBODY)).unwrap();
    for args in [&["list"][..], &["start", "sleep 1000"], &["kill"], &["foreground"], &["resurrect"]] {
        let ran = refuses(&rsm, args).says("belongs to user nobody, and this command runs as root");
        let command = format!("env RSM_HOME={} rsm {}", rsm.home().display(), args[0]);
        ran.says(&command).says("nobody");
    }
    // The keeper and the daemon check on their own: they may be started by a service.
    let keeper = rsm.run(&["keeper", "--foreground"]);
    assert_eq!(keeper.code, Some(1));
    keeper.says("belongs to user nobody");
    // With sudo, the user's own command is the right one.
    let mut sudo = rsm.command(&["list"]);
    sudo.env("SUDO_UID", NOBODY.to_string());
    Ran::new(&["list"], &sudo.output().unwrap()).code(3).says("run it without sudo: RSM_HOME=");
    std::fs::remove_dir_all(rsm.home()).unwrap();
}

#[test]
fn sudo_creates_no_home_of_root_in_directory_of_user() {
    need_root();
    let rsm = Rsm::new();
    chown(rsm.home().parent().unwrap(), Some(NOBODY), None).unwrap();
    let mut sudo = rsm.command(&["start", "sleep 1000"]);
    sudo.env("SUDO_UID", NOBODY.to_string());
    Ran::new(&["start"], &sudo.output().unwrap()).code(3).says("run it without sudo");
    assert!(!rsm.home().exists());
}

#[test]
fn files_of_other_users_in_home_are_refused() {
    need_root();
    for name in ["state.json", "state.json.prev", "dump.json", "settings.json", "rsm.log"] {
        let rsm = Rsm::new();
        std::fs::create_dir(rsm.home()).unwrap();
        let file = rsm.home().join(name);
        std::fs::write(&file, STATE).unwrap();
        chown(&file, Some(NOBODY), None).unwrap();
        let ran = rsm.run(&["start", "sleep 1000"]).code(3);
        ran.says(&format!("{} belongs to user nobody", file.display())).says("chown root");
        // A private home with a file that anybody may write had other permissions before.
        chown(&file, Some(0), None).unwrap();
        set_mode(&file, 0o666);
        rsm.run(&["start", "sleep 1000"]).code(3).says("can be written by other users").says("chmod 600");
        std::fs::remove_file(&file).unwrap();
        rsm.ok(&["start", "sleep 1000"]);
    }
}

#[test]
fn home_that_others_can_write_is_refused() {
    let rsm = Rsm::new();
    std::fs::create_dir(rsm.home()).unwrap();
    set_mode(&rsm.home(), 0o777);
    rsm.ok(&["start", "sleep 1000"]); // empty: it is made private
    assert_eq!(std::fs::metadata(rsm.home()).unwrap().permissions().mode() & 0o777, 0o700);
    rsm.ok(&["kill"]);
    set_mode(&rsm.home(), 0o757);
    let ran = rsm.run(&["start", "sleep 1000"]).code(3);
    ran.says("can be written by other users (mode 0757)").says("chmod 700");
    set_mode(&rsm.home(), 0o700);
    rsm.ok(&["start", "sleep 1000"]);
}

#[test]
fn root_sends_nothing_to_socket_of_another_user() {
    need_root();
    let rsm = Rsm::new();
    std::fs::create_dir(rsm.home()).unwrap();
    rsm.open_to_all();
    let socket = rsm.home().join("rsm.sock");
    // A process of the user accepts connections at the path of root's socket.
    let script = format!(
        "import os, socket\ns = socket.socket(socket.AF_UNIX)\nos.setuid({NOBODY})\n\
         s.bind({:?})\ns.listen()\nc, _ = s.accept()\nprint(c.recv(100))",
        socket.display()
    );
    set_mode(&rsm.home(), 0o777);
    let mut command = rsm.command_of("python3", &["-c", &script]);
    let mut other = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    wait_until("the socket", || socket.exists().then_some(()));
    set_mode(&rsm.home(), 0o700);
    let ran =
        wait_until("a listener", || Some(rsm.run(&["ping"])).filter(|ran| ran.stderr.contains("denied")));
    assert_eq!(ran.code, Some(3));
    other.kill().unwrap();
    let output = other.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("GET"), "{output:?}");
    std::fs::remove_file(&socket).unwrap();
}

#[test]
fn home_that_is_not_utf8_is_an_error() {
    let rsm = Rsm::new();
    let path = rsm.dir().join(OsStr::from_bytes(b"h\xff"));
    for (variable, args) in [("RSM_HOME", &["list"][..]), ("HOME", &["start", "sleep 1"])] {
        let mut command = rsm.command(args);
        command.env_remove("RSM_HOME").env(variable, &path);
        Ran::new(args, &command.output().unwrap()).code(1).says("is not valid UTF-8");
    }
    assert!(!path.exists());
}
