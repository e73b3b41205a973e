//! Apps that run as another user. All of it needs root, and fails without.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::harness::{Rsm, environ, need_root, read, wait_until};

/// A field of `/proc/PID/status`, its words.
fn status(pid: i32, field: &str) -> Vec<String> {
    let text = read(format!("/proc/{pid}/status"));
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}: {text}")).split_whitespace().map(str::to_owned).collect()
}

fn id(flags: &str, user: &str) -> Vec<String> {
    let output = Command::new("id").args([flags, user]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
}

fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words
}

#[test]
fn user_sets_uid_groups_and_home() {
    need_root();
    let file =
        "[[apps]]\nname = \"app\"\nscript = \"echo out; echo err >&2; exec sleep 1000\"\nuser = \"nobody\"\n";
    let rsm = Rsm::new().file("ecosystem.toml", file);
    rsm.open_to_all();
    rsm.ok(&["start"]);
    let pid = rsm.pids("app")[0];
    let (uid, gid) = (id("-u", "nobody"), id("-g", "nobody"));
    assert_eq!(status(pid, "Uid"), [&*uid[0]; 4], "real, effective, saved, of files");
    assert_eq!(status(pid, "Gid"), [&*gid[0]; 4]);
    assert_eq!(sorted(status(pid, "Groups")), sorted(id("-G", "nobody")), "none of root's is left");
    assert!(status(pid, "CapEff")[0].bytes().all(|digit| digit == b'0'), "no capability is left");
    let env = environ(pid);
    assert_eq!((&*env["USER"], &*env["LOGNAME"]), ("nobody", "nobody"));
    assert_ne!(env["HOME"], rsm.dir().parent().unwrap().to_str().unwrap());
    assert_eq!(rsm.list()[0]["user"], "nobody");
    // The files are the daemon's: the app needs no access to the directory they lie in.
    for (file, says) in [("logs/app-out.log", "out\n"), ("logs/app-error.log", "err\n")] {
        let path = rsm.home().join(file);
        wait_until(file, || (read(&path) == says).then_some(()));
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.permissions().mode() & 0o007), (0, 0), "{file}");
    }
}

#[test]
fn accepts_user_and_group_names_and_numbers() {
    need_root();
    let rsm = Rsm::new();
    rsm.open_to_all();
    let ids = |name: &str| {
        let pid = rsm.pids(name)[0];
        (status(pid, "Uid")[0].clone(), status(pid, "Gid")[0].clone(), sorted(status(pid, "Groups")))
    };
    rsm.ok(&["start", "sleep 1000", "--name", "number", "--uid", "65534"]);
    rsm.ok(&["start", "sleep 1000", "--name", "group", "--uid", "nobody", "--gid", "daemon"]);
    rsm.ok(&["start", "sleep 1000", "--name", "unknown", "--uid", "54321", "--gid", "12345"]);
    let (nobody, daemon) = (id("-u", "nobody").remove(0), id("-g", "daemon").remove(0));
    assert_eq!(ids("number").0, nobody);
    let (uid, gid, groups) = ids("group");
    assert_eq!((&uid, &gid), (&nobody, &daemon));
    assert!(groups.contains(&daemon) && !groups.contains(&"0".into()), "{groups:?}");
    assert_eq!(ids("unknown"), ("54321".into(), "12345".into(), vec!["12345".into()]));
}

#[test]
fn user_survives_crash_restart_and_resurrect() {
    need_root();
    let rsm = Rsm::new();
    rsm.open_to_all();
    rsm.ok(&["start", "sleep 1000", "--name", "app", "--uid", "nobody"]);
    let nobody = id("-u", "nobody");
    let first = rsm.pids("app")[0];
    rsm.ok(&["sendSignal", "SIGKILL", "app"]);
    let again =
        rsm.wait_until("a new process", |rsm| rsm.pids("app").first().copied().filter(|pid| *pid != first));
    assert_eq!(status(again, "Uid")[0], nobody[0]);
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    rsm.ok(&["resurrect"]);
    assert_eq!(status(rsm.pids("app")[0], "Uid")[0], nobody[0]);
}

#[test]
fn enters_directory_before_changing_user() {
    need_root();
    let rsm = Rsm::new(); // private to root
    rsm.ok(&["start", "sleep 1000", "--name", "app", "--uid", "nobody"]);
    let pid = rsm.pids("app")[0];
    assert_eq!(status(pid, "Uid")[0], id("-u", "nobody")[0]);
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), rsm.dir().canonicalize().unwrap());
}

#[test]
fn reports_script_user_cannot_execute() {
    need_root();
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\nexec sleep 1000\n");
    rsm.open_to_all();
    std::fs::set_permissions(rsm.dir().join("app.sh"), std::fs::Permissions::from_mode(0o700)).unwrap();
    rsm.run(&["start", "./app.sh", "--interpreter", "none", "--uid", "nobody"])
        .code(1)
        .says("cannot execute")
        .says("Permission denied");
    assert_eq!(rsm.statuses("app"), ["errored"]);
}

#[test]
fn rejects_unknown_users_and_groups() {
    need_root();
    let file = "[[apps]]\nname = \"a\"\nscript = \"sleep 1\"\nuid = \"no-such-user\"\n\
                [[apps]]\nname = \"b\"\nscript = \"sleep 1\"\ngid = \"no-such-group\"\n";
    let rsm = Rsm::new().file("ecosystem.toml", file);
    let ran = rsm.run(&["start"]).code(1);
    ran.says("ecosystem.toml:4:7: ").says("no-such-user").says("ecosystem.toml:8:7: ").says("no-such-group");
    rsm.run(&["start", "sleep 1", "--uid", "no-such-user"]).code(1).says("--uid").says("no-such-user");
    assert!(!rsm.home().exists());
}
