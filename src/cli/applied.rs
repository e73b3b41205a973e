//! Noting what commands have done to apps and their files, for the mark in the list.

use crate::config::Applied;
use crate::ipc::message::{ActOn, Action, Report, Request};
use crate::spec::AppSpec;

use super::session::Session;

/// Notes what a request has changed. A mark that cannot be kept is no reason to fail.
pub(super) fn note(session: &Session, request: &Request, report: &Report) {
    let names = || report.instances.iter().map(|outcome| outcome.name.as_str());
    match request {
        Request::Start(start) => note_files(session, &start.apps),
        Request::Reload(reload) if !reload.apps.is_empty() => note_files(session, &reload.apps),
        Request::Reload(reload) if reload.changes.is_some() => note_changes(session, names(), "rsm reload"),
        Request::Act(Action::Restart | Action::Start, ActOn { changes: Some(_), .. }) => {
            note_changes(session, names(), "rsm restart");
        }
        Request::Scale { name, .. } => note_changes(session, std::iter::once(name.as_str()), "rsm scale"),
        _ => {}
    }
}

/// Notes that these apps are as their files say.
pub(super) fn note_files(session: &Session, apps: &[AppSpec]) {
    if apps.iter().any(|app| app.source.is_some()) {
        update(session, |applied| applied.note_files(apps));
    }
}

fn note_changes<'a>(session: &Session, apps: impl Iterator<Item = &'a str>, command: &str) {
    update(session, |applied| apps.for_each(|app| applied.note_change(app, command)));
}

fn update(session: &Session, change: impl FnOnce(&mut Applied)) {
    let path = session.home.applied();
    let mut applied = Applied::load(&path);
    let before = applied.clone();
    change(&mut applied);
    if applied != before {
        let _ = applied.save(&path);
    }
}
