//! The exit code of `rsm runtime`.

use std::collections::BTreeMap;

use crate::exit::Exit;
use crate::ipc::message::{DisplayStatus, InstanceDetail};
use crate::process::signal;

/// The exit code after no app can run: that of the first errored app, or else the first other than 0.
pub(crate) fn exit_code(instances: &[InstanceDetail]) -> u8 {
    let last_code =
        |instance: &InstanceDetail| instance.exits.last().map_or(0, |exit| shell_code(&exit.exit));
    let errored = instances.iter().find(|instance| instance.view.status == DisplayStatus::Errored);
    if let Some(instance) = errored {
        return last_code(instance).max(1); // a failure, even if it exits with 0
    }
    instances.iter().map(last_code).find(|code| *code != 0).unwrap_or(0)
}

/// The exit code after all apps were stopped by a signal: 0 if each exited with 0 or by its stop signal, or else that of
/// the first that did not.
pub(crate) fn exit_code_after_stop(instances: &[InstanceDetail], exits: &BTreeMap<u32, Exit>) -> u8 {
    let code = |instance: &InstanceDetail| {
        let stop_signal = signal::parse(&instance.spec.stop.signal).unwrap_or(libc::SIGINT);
        match exits.get(&instance.view.id) {
            Some(Exit::Signal { number, .. })
                if [stop_signal, libc::SIGINT, libc::SIGTERM].contains(number) =>
            {
                0
            }
            Some(exit) => shell_code(exit),
            None => 0,
        }
    };
    // Apps that exited before the stop do not count.
    let was_running = |instance: &&InstanceDetail| !instance.view.status.is_down();
    instances.iter().filter(was_running).map(code).find(|code| *code != 0).unwrap_or(0)
}

/// The app that determined the exit code, and how it exited.
pub(crate) fn exit_reason(instances: &[InstanceDetail], exits: &BTreeMap<u32, Exit>, code: u8) -> String {
    let last_exit = |instance: &InstanceDetail| {
        let observed = exits.get(&instance.view.id).cloned();
        observed.or_else(|| instance.exits.last().map(|exit| exit.exit.clone()))
    };
    let reason = instances.iter().find_map(|instance| {
        let exit = last_exit(instance)?;
        let determines_code = shell_code(&exit) == code
            || (shell_code(&exit) == 0 && instance.view.status == DisplayStatus::Errored);
        determines_code
            .then(|| format!("app \"{}\" (id {}) exited: {exit}", instance.view.name, instance.view.id))
    });
    reason.unwrap_or_else(|| "all apps have exited".into())
}

/// The exit code as reported by a shell: 128 plus the number of a signal, 127 if the program was not found, 126 if it
/// cannot be executed.
fn shell_code(exit: &Exit) -> u8 {
    match exit {
        Exit::Code(0) => 0,
        // The kernel reports eight bits of an exit code.
        Exit::Code(code) => u8::try_from(code & 0xff).unwrap_or(1).max(1),
        Exit::Signal { number, .. } => u8::try_from(128 + number).unwrap_or(u8::MAX),
        Exit::Unknown => 1,
        Exit::NotStarted(failure) if failure.errno == libc::ENOENT => 127,
        Exit::NotStarted(_) => 126,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{StartFailure, StartStep};

    #[test]
    fn codes_match_shell() {
        let not_started =
            |errno| Exit::NotStarted(StartFailure { step: StartStep::Exec, errno, subject: String::new() });
        for (exit, code) in [
            (Exit::Code(0), 0),
            (Exit::Code(7), 7),
            (Exit::Code(256), 1),
            (Exit::Signal { number: 9, core: false, oom: false }, 137),
            (Exit::Unknown, 1),
            (not_started(libc::ENOENT), 127),
            (not_started(libc::EACCES), 126),
        ] {
            assert_eq!(shell_code(&exit), code, "{exit:?}");
        }
    }
}
