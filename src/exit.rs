//! How a run ended. Death by signal is never an exit code.

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
    /// Subject of the step: program, directory, …
    pub what: String,
}

/// Steps of a start, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartStep {
    /// Looking up the program in `PATH`.
    Find,
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
    /// Changing directory.
    Directory,
    /// Changing groups.
    Group,
    /// Changing the user.
    User,
    /// Executing the program.
    Exec,
    /// The filter that shares its ports. Comes before the group; last here, as an older keeper's
    /// numbers must keep their meaning.
    Filter,
}

impl StartStep {
    /// The steps that happen in the child, by the number it reports.
    pub const ALL: [Self; 12] = [
        Self::Find,
        Self::Logs,
        Self::Pipes,
        Self::Fork,
        Self::Session,
        Self::Stdio,
        Self::Limits,
        Self::Directory,
        Self::Group,
        Self::User,
        Self::Exec,
        Self::Filter,
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
        let what = &self.what;
        match self.step {
            StartStep::Find => write!(out, "cannot find {what} in the PATH of the app")?,
            StartStep::Logs => write!(out, "cannot open log file {what}")?,
            StartStep::Pipes => write!(out, "cannot create output pipes")?,
            StartStep::Fork => write!(out, "cannot fork")?,
            StartStep::Session => write!(out, "cannot create a session")?,
            StartStep::Stdio => write!(out, "cannot set up stdin and stdout")?,
            StartStep::Limits => write!(out, "cannot set resource limits")?,
            StartStep::Directory => write!(out, "cannot change to directory {what}")?,
            StartStep::Group => write!(out, "cannot change group to {what}")?,
            StartStep::User => write!(out, "cannot change user to {what}")?,
            StartStep::Exec => write!(out, "cannot execute {what}")?,
            StartStep::Filter if what.is_empty() => write!(out, "cannot install the seccomp filter")?,
            StartStep::Filter => write!(out, "cannot share ports: {what}")?,
        }
        match self.errno {
            0 => Ok(()),
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
    fn wording() {
        assert_eq!(Exit::Code(3).to_string(), "exit code 3");
        assert_eq!(Exit::Signal { number: 9, core: false, oom: false }.to_string(), "killed by SIGKILL");
        let oom = Exit::Signal { number: 9, core: false, oom: true };
        assert_eq!(oom.to_string(), "killed by SIGKILL (out of memory)");
        assert_eq!(
            Exit::Signal { number: 11, core: true, oom: false }.to_string(),
            "killed by SIGSEGV (core dumped)"
        );
        assert_eq!(Exit::Signal { number: 40, core: false, oom: false }.to_string(), "killed by signal 40");
        let failure = |step, errno| StartFailure { step, errno, what: "/srv/apii".into() }.to_string();
        assert_eq!(
            failure(StartStep::Directory, libc::ENOENT),
            "cannot change to directory /srv/apii: No such file or directory"
        );
        assert!(failure(StartStep::Exec, libc::ENOEXEC).contains("#! line"));
    }
}
