//! The wording of errors.

use super::*;

fn text(error: Error) -> String {
    error.text(false)
}

#[test]
fn wording_of_a_daemon_that_is_not_there() {
    let error = Error::NotRunning { socket: "/h/rsm.sock".into() };
    assert_eq!(error.exit_code(), 3);
    assert_eq!(
        text(error),
        "error: the daemon is not running (nobody listens on /h/rsm.sock)\n\
         help: `rsm start` starts it together with an app, `rsm resurrect` with the saved ones\n"
    );
    let denied = Error::Denied { socket: "/h/rsm.sock".into() };
    assert_eq!(
        text(denied),
        "error: access to the daemon's socket /h/rsm.sock is denied\n\
         help: it belongs to another user: use that user, or another RSM_HOME\n"
    );
}

#[test]
fn wording_of_a_daemon_that_does_not_answer() {
    let (reason, log) = (String::from("the daemon went away"), PathBuf::from("/h/rsm.log"));
    let lost = Error::Lost { reason, log: log.clone() };
    assert_eq!(lost.exit_code(), 3);
    assert_eq!(text(lost), "error: the daemon went away\nhelp: see /h/rsm.log, then try again\n");
    assert_eq!(
        text(Error::Launch { reason: "no space".into(), log }),
        "error: the daemon did not start: no space\nhelp: see /h/rsm.log, then try again\n"
    );
    assert_eq!(
        text(Error::StreamEnded),
        "error: the daemon ended the stream\nhelp: run the command again to go on reading\n"
    );
}

#[test]
fn wording_of_a_refusal_is_the_daemons() {
    let refused =
        Error::Refused { message: "app \"api\" runs already".into(), hint: Some("restart it".into()) };
    assert_eq!(refused.exit_code(), 1);
    assert_eq!(text(refused), "error: app \"api\" runs already\nhelp: restart it\n");
    assert_eq!(text(Error::Refused { message: "no".into(), hint: None }), "error: no\n");
}

#[test]
fn wording_of_what_is_not_there() {
    assert_eq!(
        text(Error::NothingRuns { wanted: "api".into() }),
        "error: no app \"api\": the daemon is not running\n\
         help: `rsm start` starts an app, `rsm resurrect` the saved ones\n"
    );
    assert_eq!(
        text(Error::NoneOfFile { file: "e.toml".into(), names: vec!["a".into(), "b".into()] }),
        "error: none of the apps of e.toml is in the list: a, b\nhelp: start them: rsm start e.toml\n"
    );
    assert_eq!(
        text(Error::NotOne { name: "api".into(), ids: vec![1, 2] }),
        "error: \"api\" is 2 instances\nhelp: name one of their ids: 1, 2\n"
    );
    assert_eq!(
        text(Error::NotOne { name: "api".into(), ids: vec![] }),
        "error: \"api\" is no app or id\nhelp: `rsm list` shows what is there\n"
    );
    assert_eq!(
        text(Error::NoEcosystem { directory: "/srv".into() }),
        "error: nothing to start: no ecosystem.toml in /srv\n\
         help: name what to start, a script or a file: rsm start app.js, rsm start /srv/ecosystem.toml\n"
    );
}

#[test]
fn wording_of_wrong_usage() {
    assert_eq!(Error::EnvNeedsFile.exit_code(), 2);
    assert_eq!(
        text(Error::EnvNeedsFile),
        "error: --env chooses a block of an ecosystem file, and there is none among the arguments\n\
         help: name the file: rsm restart ecosystem.toml --env production\n"
    );
    assert_eq!(
        text(Error::NameForSeveral { apps: 2 }),
        "error: --name gives one name, but 2 apps are to be started\n\
         help: start them one by one, each with a name of its own\n"
    );
}

#[test]
fn every_mistake_of_a_file_is_an_error_of_its_own() {
    let error = Error::Mistakes(vec!["e.toml:1:1: a\nhelp: b\n".into(), "e.toml:2:1: c\n".into()]);
    assert_eq!(text(error), "error: e.toml:1:1: a\nhelp: b\nerror: e.toml:2:1: c\n");
}

#[test]
fn wording_of_instances_that_did_not_start() {
    let problem = |id, name: &str, reason: &str| Problem { id, name: name.into(), reason: reason.into() };
    let error = Error::Failed(vec![
        problem(3, "api", "exit code 1"),
        problem(4, "api", "exit code 1"),
        problem(5, "web", "killed by SIGSEGV"),
    ]);
    assert_eq!(error.exit_code(), 1);
    assert_eq!(
        text(error),
        "error: app \"api\" (id 3 and 1 more): exit code 1\n\
         \x20      app \"web\" (id 5): killed by SIGSEGV\n\
         help: rsm describe 3 shows its last ends, rsm logs 3 --err what it said\n"
    );
}

#[test]
fn wording_of_the_systems_refusals() {
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    assert_eq!(
        text(Error::NoHome(denied())),
        "error: rsm's home directory is not known: permission denied\n\
         help: set RSM_HOME to an absolute path\n"
    );
    assert_eq!(
        text(Error::NoDirectory(denied())),
        "error: the current directory cannot be read: permission denied\n\
         help: change to a directory that exists\n"
    );
    assert_eq!(text(Error::Output(denied())), "error: writing to standard output: permission denied\n");
    assert_eq!(
        text(Error::System { what: "starting up", error: denied() }),
        "error: starting up: permission denied\n"
    );
    assert_eq!(
        text(Error::Part { part: "keeper", reason: "another one runs".into() }),
        "error: keeper: another one runs\n"
    );
}

#[test]
fn a_closed_pipe_is_no_failure() {
    assert_eq!(Error::Output(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), 0);
}
