//! How a run ended. Death by signal is never an exit code.

use std::fmt;

use nix::sys::signal::Signal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited by itself with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// A core was dumped.
        core: bool,
        /// The kernel did it for want of memory, as far as can be told.
        #[serde(default)]
        oom: bool,
    },
    /// It ended while nobody was there to see how.
    Unknown,
    /// It never ran.
    NotStarted(StartFailure),
}

/// Why a process could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartFailure {
    /// The step that failed.
    pub step: StartStep,
    /// The system's error number; 0 if it was not the system.
    pub errno: i32,
    /// What the step failed on: the directory, the program, the user.
    #[serde(alias = "what")]
    pub subject: String,
}

/// The steps from a spec to a running program, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartStep {
    /// Looking up the program in `PATH`.
    #[serde(alias = "find")]
    LookUp,
    /// Opening or creating its log files.
    Logs,
    /// Making its output pipes.
    Pipes,
    /// Forking.
    Fork,
    /// Creating a session.
    Session,
    /// Standard input and output.
    Stdio,
    /// Resource limits.
    Limits,
    /// Changing the working directory.
    #[serde(alias = "directory")]
    Chdir,
    /// Supplementary groups and group.
    Group,
    /// User.
    User,
    /// Executing the program.
    Exec,
    /// Installing the seccomp filter that shares its ports. It happens before the group is changed; it is last
    /// here so that the step numbers of older keepers keep their meaning.
    #[serde(alias = "filter")]
    Seccomp,
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
                    write!(out, " (by the kernel, out of memory)")?;
                }
                if *core { write!(out, " (core dumped)") } else { Ok(()) }
            }
            Self::Unknown => write!(out, "ended unseen, exit code unknown"),
            Self::NotStarted(failure) => failure.fmt(out),
        }
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match self.step {
            StartStep::LookUp => write!(out, "looking up {subject} in the app's PATH")?,
            StartStep::Logs => write!(out, "opening log file {subject}")?,
            StartStep::Pipes => write!(out, "making output pipes")?,
            StartStep::Fork => write!(out, "forking")?,
            StartStep::Session => write!(out, "opening a session")?,
            StartStep::Stdio => write!(out, "setting up standard input and output")?,
            StartStep::Limits => write!(out, "setting resource limits")?,
            StartStep::Chdir => write!(out, "changing directory to {subject}")?,
            StartStep::Group => write!(out, "changing group to {subject}")?,
            StartStep::User => write!(out, "changing user to {subject}")?,
            StartStep::Exec => write!(out, "executing {subject}")?,
            StartStep::Seccomp if subject.is_empty() => {
                write!(out, "installing the filter that shares its ports")?
            }
            StartStep::Seccomp => write!(out, "sharing its ports: {subject}")?,
        }
        match self.errno {
            0 => Ok(()),
            libc::ENOEXEC => write!(
                out,
                ": not a program this machine can run; a script needs a #! line or an interpreter"
            ),
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
        assert_eq!(oom.to_string(), "killed by SIGKILL (by the kernel, out of memory)");
        assert_eq!(
            Exit::Signal { number: 11, core: true, oom: false }.to_string(),
            "killed by SIGSEGV (core dumped)"
        );
        assert_eq!(Exit::Signal { number: 40, core: false, oom: false }.to_string(), "killed by signal 40");
        let failure = |step, errno| StartFailure { step, errno, subject: "/srv/apii".into() }.to_string();
        assert_eq!(
            failure(StartStep::Chdir, libc::ENOENT),
            "changing directory to /srv/apii: No such file or directory"
        );
        assert!(failure(StartStep::Exec, libc::ENOEXEC).contains("#! line"));
    }
}
