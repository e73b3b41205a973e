//! How a run ended. Death by signal is never an exit code.
#![warn(missing_docs)]

use std::fmt;

use nix::sys::signal::Signal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exit of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Exited with this code.
    Code(i32),
    /// Killed by a signal.
    Signal {
        /// Signal number.
        number: i32,
        /// Whether a core was dumped.
        core: bool,
        /// Killed by the OOM killer, as far as known.
        #[serde(default)]
        oom: bool,
    },
    /// Exit status unknown: no process of rsm was there to collect it.
    Unknown,
    /// Failed to start.
    NotStarted(StartFailure),
}

/// Reason why a process failed to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartFailure {
    /// Failed step.
    pub step: StartStep,
    /// System error number; 0 if it was not a system error.
    pub errno: i32,
    /// What the step failed on: the directory, the program, the user.
    #[serde(alias = "what")]
    pub subject: String,
}

/// Steps of a start, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartStep {
    /// Looking up the program in `PATH`.
    #[serde(alias = "find")]
    LookUp,
    /// Opening or creating its log files.
    Logs,
    /// Creating the output pipes.
    Pipes,
    /// Forking.
    Fork,
    /// Creating a session.
    Session,
    /// Setting up standard input and output.
    Stdio,
    /// Setting resource limits.
    Limits,
    /// Changing the working directory.
    #[serde(alias = "directory")]
    Chdir,
    /// Supplementary groups and group.
    Group,
    /// Changing the user.
    User,
    /// Executing the program.
    Exec,
    /// Installing the seccomp filter that shares its ports. It happens before the group is changed; it is
    /// last here so that the step numbers of older keepers keep their meaning.
    #[serde(alias = "filter")]
    Seccomp,
}

impl StartFailure {
    /// Whether the system was short of a resource, or a disk did not respond: the same start may succeed later.
    pub fn is_transient(&self) -> bool {
        use libc::{EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, ETIMEDOUT};
        [EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, ETIMEDOUT].contains(&self.errno)
    }
}

impl StartStep {
    /// The steps that happen in the child, by the number it reports.
    pub const ALL: [Self; 12] = [
        Self::LookUp,
        Self::Logs,
        Self::Pipes,
        Self::Fork,
        Self::Session,
        Self::Stdio,
        Self::Limits,
        Self::Chdir,
        Self::Group,
        Self::User,
        Self::Exec,
        Self::Seccomp,
    ];
}

impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "exit code {code}"),
            Self::Signal { number, core, oom } => {
                match Signal::try_from(*number) {
                    Ok(signal) => write!(out, "killed by {}", signal.as_str())?,
                    Err(_) => write!(out, "killed by signal {number}")?,
                }
                if *oom {
                    write!(out, " (out of memory)")?;
                }
                if *core { write!(out, " (core dumped)") } else { Ok(()) }
            }
            Self::Unknown => write!(out, "exit code unknown"),
            Self::NotStarted(failure) => failure.fmt(out),
        }
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match self.step {
            StartStep::LookUp => write!(out, "cannot find {subject} in the PATH of the app")?,
            StartStep::Logs => write!(out, "cannot open log file {subject}")?,
            StartStep::Pipes => write!(out, "cannot create output pipes")?,
            StartStep::Fork => write!(out, "forking")?,
            StartStep::Session => write!(out, "cannot create a session")?,
            StartStep::Stdio => write!(out, "cannot set up stdin and stdout")?,
            StartStep::Limits => write!(out, "cannot set resource limits")?,
            StartStep::Chdir => write!(out, "cannot change to directory {subject}")?,
            StartStep::Group => write!(out, "cannot change group to {subject}")?,
            StartStep::User => write!(out, "cannot change user to {subject}")?,
            StartStep::Exec => write!(out, "cannot execute {subject}")?,
            StartStep::Seccomp if subject.is_empty() => write!(out, "cannot install the seccomp filter")?,
            StartStep::Seccomp => write!(out, "cannot share ports: {subject}")?,
        }
        match self.errno {
            0 => Ok(()),
            libc::ETIMEDOUT => write!(out, ": a disk does not respond"),
            libc::ENOEXEC => {
                write!(out, ": not executable on this machine; a script needs a #! line or `interpreter`")
            }
            errno => write!(out, ": {}", nix::errno::Errno::from_raw(errno).desc()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_step_and_cause() {
        assert_eq!(Exit::Code(3).to_string(), "exit code 3");
        assert_eq!(Exit::Signal { number: 9, core: false, oom: false }.to_string(), "killed by SIGKILL");
        let oom = Exit::Signal { number: 9, core: false, oom: true };
        assert_eq!(oom.to_string(), "killed by SIGKILL (out of memory)");
        assert_eq!(
            Exit::Signal { number: 11, core: true, oom: false }.to_string(),
            "killed by SIGSEGV (core dumped)"
        );
        assert_eq!(Exit::Signal { number: 40, core: false, oom: false }.to_string(), "killed by signal 40");
        let failure = |step, errno| StartFailure { step, errno, subject: "/srv/apii".into() }.to_string();
        assert_eq!(
            failure(StartStep::Chdir, libc::ENOENT),
            "cannot change to directory /srv/apii: No such file or directory"
        );
        assert!(failure(StartStep::Exec, libc::ENOEXEC).contains("#! line"));
    }
}
