//! With which code `rsm runtime` ends.

use std::collections::BTreeMap;

use crate::exit::Exit;
use crate::ipc::message::{InstanceDetail, Status};
use crate::process::signal;

/// The code when nothing can run any more: that of the first app that was given up, else of the first that
/// ended with another code than 0.
pub(crate) fn exit_code(instances: &[InstanceDetail]) -> u8 {
    let last = |instance: &InstanceDetail| instance.exits.last().map_or(0, |last| shell_code(&last.exit));
    let errored = instances.iter().find(|instance| instance.view.status == Status::Errored);
    if let Some(instance) = errored {
        return last(instance).max(1); // given up is a failure, whatever it said
    }
    instances.iter().map(last).find(|code| *code != 0).unwrap_or(0)
}

/// The code after a signal had everything stopped: 0 where each app ended as it was asked to, by its code 0
/// or by the signal; else that of the first that did not.
pub(crate) fn exit_code_after_stop(instances: &[InstanceDetail], exits: &BTreeMap<u32, Exit>) -> u8 {
    let code = |instance: &InstanceDetail| {
        let asked = signal::parse(&instance.spec.stop.signal).unwrap_or(libc::SIGINT);
        match exits.get(&instance.view.id) {
            Some(Exit::Signal { number, .. }) if [asked, libc::SIGINT, libc::SIGTERM].contains(number) => 0,
            Some(exit) => shell_code(exit),
            None => 0,
        }
    };
    // One that had ended before is no matter of this stop.
    let ran = |instance: &&InstanceDetail| !matches!(instance.view.status, Status::Stopped | Status::Errored);
    instances.iter().filter(ran).map(code).find(|code| *code != 0).unwrap_or(0)
}

/// Whose code it is.
pub(crate) fn exit_reason(instances: &[InstanceDetail], exits: &BTreeMap<u32, Exit>, code: u8) -> String {
    let last = |instance: &InstanceDetail| {
        let told = exits.get(&instance.view.id).cloned();
        told.or_else(|| instance.exits.last().map(|last| last.exit.clone()))
    };
    let whose = instances.iter().find_map(|instance| {
        let exit = last(instance)?;
        let fits =
            shell_code(&exit) == code || (shell_code(&exit) == 0 && instance.view.status == Status::Errored);
        fits.then(|| format!("app \"{}\" (id {}) exited: {exit}", instance.view.name, instance.view.id))
    });
    whose.unwrap_or_else(|| "all apps have exited".into())
}

/// As a shell tells it: the code, 128 and the signal's number, 127 for what is not there, 126 for what cannot
/// be executed.
fn shell_code(exit: &Exit) -> u8 {
    match exit {
        Exit::Code(0) => 0,
        // Only eight bits of a code are told to anybody.
        Exit::Code(code) => u8::try_from(code & 0xff).unwrap_or(1).max(1),
        Exit::Signal { number, .. } => u8::try_from(128 + number).unwrap_or(u8::MAX),
        Exit::Unknown => 1,
        Exit::NotStarted(failure) if failure.errno == libc::ENOENT => 127,
        Exit::NotStarted(_) => 126,
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::commands::runtime::exit_code::*;
    use crate::exit::{StartFailure, StartStep};

    #[test]
    fn codes_are_those_of_a_shell() {
        let failed =
            |errno| Exit::NotStarted(StartFailure { step: StartStep::Exec, errno, subject: String::new() });
        for (exit, code) in [
            (Exit::Code(0), 0),
            (Exit::Code(7), 7),
            (Exit::Code(256), 1),
            (Exit::Signal { number: 9, core: false, oom: false }, 137),
            (Exit::Unknown, 1),
            (failed(libc::ENOENT), 127),
            (failed(libc::EACCES), 126),
        ] {
            assert_eq!(shell_code(&exit), code, "{exit:?}");
        }
    }
}
