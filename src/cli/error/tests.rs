//! The wording of errors.

use crate::cli::error::*;

fn text(error: Error) -> String {
    error.render(false)
}

#[test]
fn wording_of_a_daemon_that_is_not_there() {
    let error = Error::NotRunning { socket: "/h/rsm.sock".into() };
    assert_eq!(error.exit_code(), 3);
    assert_eq!(
        text(error),
        "error: the daemon is not running (no listener on /h/rsm.sock)\n\
         help: `rsm start` and `rsm resurrect` start it\n"
    );
    let denied = Error::PermissionDenied { socket: "/h/rsm.sock".into() };
    assert_eq!(
        text(denied),
        "error: permission denied: /h/rsm.sock\n\
         help: the daemon belongs to another user; switch to that user or set RSM_HOME\n"
    );
}

#[test]
fn wording_of_a_daemon_that_does_not_answer() {
    let (reason, log) = (String::from("the daemon exited"), PathBuf::from("/h/rsm.log"));
    let lost = Error::ConnectionLost { reason, log: log.clone() };
    assert_eq!(lost.exit_code(), 3);
    assert_eq!(text(lost), "error: the daemon exited\nhelp: see /h/rsm.log\n");
    assert_eq!(
        text(Error::DaemonStartFailed { reason: "no space".into(), log }),
        "error: failed to start the daemon: no space\nhelp: see /h/rsm.log\n"
    );
    assert_eq!(
        text(Error::StreamEnded),
        "error: the daemon closed the stream\nhelp: run the command again\n"
    );
}

#[test]
fn wording_of_a_refusal_is_the_daemons() {
    let refused =
        Error::Rejected { message: "app \"api\" is already running".into(), hint: Some("restart it".into()) };
    assert_eq!(refused.exit_code(), 1);
    assert_eq!(text(refused), "error: app \"api\" is already running\nhelp: restart it\n");
    assert_eq!(text(Error::Rejected { message: "no".into(), hint: None }), "error: no\n");
}

#[test]
fn wording_of_what_is_not_there() {
    assert_eq!(
        text(Error::NoDaemonForTarget { target: "api".into() }),
        "error: app \"api\" not found: the daemon is not running\n\
         help: start apps with `rsm start`, or restore the saved list with `rsm resurrect`\n"
    );
    assert_eq!(
        text(Error::NoAppOfFileListed { file: "e.toml".into(), names: vec!["a".into(), "b".into()] }),
        "error: no app of e.toml is in the list: a, b\nhelp: run `rsm start e.toml`\n"
    );
    assert_eq!(
        text(Error::NotOneInstance { name: "api".into(), ids: vec![1, 2] }),
        "error: \"api\" matches 2 instances\nhelp: use an id: 1, 2\n"
    );
    assert_eq!(
        text(Error::NotOneInstance { name: "api".into(), ids: vec![] }),
        "error: \"api\" does not match any app or id\nhelp: see `rsm list`\n"
    );
    assert_eq!(
        text(Error::NoConfigFile { directory: "/srv".into() }),
        "error: no ecosystem.toml in /srv\n\
         help: specify a script or a file: rsm start app.js\n"
    );
}

#[test]
fn wording_of_wrong_usage() {
    assert_eq!(Error::EnvWithoutFile.exit_code(), 2);
    assert_eq!(
        text(Error::EnvWithoutFile),
        "error: --env requires an ecosystem file argument\n\
         help: for example: rsm restart ecosystem.toml --env production\n"
    );
    assert_eq!(
        text(Error::NameForSeveralApps { apps: 2 }),
        "error: --name cannot be used with 2 apps\n\
         help: start them separately\n"
    );
}

#[test]
fn every_mistake_of_a_file_is_an_error_of_its_own() {
    let error = Error::InvalidConfig(vec!["e.toml:1:1: a\nhelp: b\n".into(), "e.toml:2:1: c\n".into()]);
    assert_eq!(text(error), "error: e.toml:1:1: a\nhelp: b\nerror: e.toml:2:1: c\n");
}

#[test]
fn wording_of_instances_that_did_not_start() {
    let problem =
        |id, name: &str, reason: &str| InstanceFailure { id, name: name.into(), reason: reason.into() };
    let error = Error::InstancesFailed(vec![
        problem(3, "api", "exit code 1"),
        problem(4, "api", "exit code 1"),
        problem(5, "web", "killed by SIGSEGV"),
    ]);
    assert_eq!(error.exit_code(), 1);
    assert_eq!(
        text(error),
        "error: app \"api\" (id 3 and 1 more): exit code 1\n\
         \x20      app \"web\" (id 5): killed by SIGSEGV\n\
         help: see `rsm describe 3` and `rsm logs 3 --err`\n"
    );
}

#[test]
fn wording_of_the_systems_refusals() {
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    assert_eq!(
        text(Error::HomeUnknown(denied())),
        "error: cannot determine the home directory: permission denied\n\
         help: set RSM_HOME to an absolute path\n"
    );
    assert_eq!(
        text(Error::CurrentDirUnreadable(denied())),
        "error: cannot read the current directory: permission denied\n\
         help: change to a directory that exists\n"
    );
    assert_eq!(text(Error::Stdout(denied())), "error: cannot write to stdout: permission denied\n");
    assert_eq!(
        text(Error::Io { context: "cannot start the async runtime", error: denied() }),
        "error: cannot start the async runtime: permission denied\n"
    );
    assert_eq!(
        text(Error::ComponentFailed { component: "keeper", reason: "another one is running".into() }),
        "error: keeper: another one is running\n"
    );
}

#[test]
fn a_closed_pipe_is_no_failure() {
    assert_eq!(Error::Stdout(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), 0);
}
