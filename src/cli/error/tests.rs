//! Texts and exit codes of errors.

use crate::cli::error::*;
use crate::ipc::message::{ApiError, ErrorCode};

fn text(error: Error) -> String {
    error.render(false)
}

fn client_error(error: ClientError) -> Error {
    Error::Client { error, log: "/h/rsm.log".into() }
}

#[test]
fn text_of_unreachable_daemon() {
    let error = client_error(ClientError::NotRunning { socket: "/h/rsm.sock".into() });
    assert_eq!(error.exit_code(), 3);
    assert_eq!(
        text(error),
        "error: the daemon is not running (no listener on /h/rsm.sock)\n\
         help: `rsm start` and `rsm resurrect` start it\n"
    );
    let denied = client_error(ClientError::PermissionDenied { socket: "/h/rsm.sock".into() });
    assert_eq!(
        text(denied),
        "error: permission denied: /h/rsm.sock\n\
         help: the daemon belongs to another user; switch to that user or set RSM_HOME\n"
    );
}

#[test]
fn text_of_lost_connection() {
    let lost = client_error(ClientError::ConnectionLost("the daemon exited".into()));
    assert_eq!(lost.exit_code(), 3);
    assert_eq!(
        text(lost),
        "error: connection to the daemon lost before it responded (the daemon exited)\n\
         help: the operation may have been executed, see `rsm list`; see /h/rsm.log\n"
    );
    let error = StartDaemonError::Failed("no space".into());
    assert_eq!(
        text(Error::DaemonStartFailed { error, log: "/h/rsm.log".into() }),
        "error: failed to start the daemon: no space\nhelp: see /h/rsm.log\n"
    );
    assert_eq!(
        text(Error::StreamEnded),
        "error: the daemon closed the stream\nhelp: run the command again\n"
    );
}

#[test]
fn text_of_rejection_is_that_of_daemon() {
    let rejected = |message: &str, hint: Option<&str>| {
        let (message, hint) = (message.into(), hint.map(str::to_owned));
        client_error(ClientError::Rejected(ApiError { code: ErrorCode::Conflict, message, hint }))
    };
    let running = rejected("app \"api\" is already running", Some("restart it"));
    assert_eq!(running.exit_code(), 1);
    assert_eq!(text(running), "error: app \"api\" is already running\nhelp: restart it\n");
    assert_eq!(text(rejected("no", None)), "error: no\n");
}

#[test]
fn text_of_missing_targets() {
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
fn text_of_wrong_usage() {
    assert_eq!(Error::NameForSeveralApps { apps: 2 }.exit_code(), 2);
    assert_eq!(
        text(Error::NameForSeveralApps { apps: 2 }),
        "error: --name cannot be used with 2 apps\n\
         help: start them separately\n"
    );
}

#[test]
fn each_config_error_has_its_label() {
    let error = Error::InvalidConfig(vec!["e.toml:1:1: a\nhelp: b\n".into(), "e.toml:2:1: c\n".into()]);
    assert_eq!(text(error), "error: e.toml:1:1: a\nhelp: b\nerror: e.toml:2:1: c\n");
}

#[test]
fn text_of_failed_instances() {
    let failure = |id, name: &str, reason: &str| InstanceFailure {
        id,
        name: name.into(),
        reason: reason.into(),
        output: Vec::new(),
    };
    let error = Error::InstancesFailed(vec![
        failure(3, "api", "exit code 1"),
        failure(4, "api", "exit code 1"),
        failure(5, "web", "killed by SIGSEGV"),
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
fn text_of_system_errors() {
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
fn closed_pipe_exits_0() {
    assert_eq!(Error::Stdout(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), 0);
}
