//! Reasons for users: why an instance is not online.

use super::Instance;
use super::state::{State, StopPhase, Want};
use crate::exit::{StartFailure, StartStep};
use crate::spec::{Launcher, ReadySignal};

impl Instance {
    /// Why the instance is not online, for users.
    pub fn status_reason(&self) -> Option<String> {
        let last_exit = || self.status.history.back().map(|run| run.exit.to_string());
        match &self.status.state {
            State::Errored { reason } => Some(reason.clone()),
            State::Waiting { .. } => last_exit(),
            State::Stopping { process, phase: StopPhase::Stuck } => {
                Some(format!("process {} cannot be killed", process.pid))
            }
            State::CleaningUp { phase: StopPhase::Stuck, .. } => {
                Some("some processes cannot be killed".into())
            }
            State::Starting { overdue: true, .. } => {
                Some(format!("running but not ready: {}", self.not_ready_reason()))
            }
            State::Online { .. } => {
                self.status.health_problem.as_ref().map(|problem| format!("unhealthy: {problem}"))
            }
            State::Stopped if self.status.want == Want::Up => last_exit(),
            State::Stopped
            | State::Spawning { .. }
            | State::Starting { .. }
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::CleaningUp { .. } => None,
        }
    }

    /// Why the process has not become ready within `listen_timeout`.
    pub fn not_ready_reason(&self) -> String {
        let seconds = self.ready_timeout().as_secs_f64();
        match (self.spec.ready_signal(), &self.status.health_problem) {
            (ReadySignal::ProbePassed, Some(problem)) => {
                format!("readiness probe did not succeed within {seconds} s (listen_timeout): {problem}")
            }
            (ReadySignal::ProbePassed, None) => {
                format!("readiness probe did not succeed within {seconds} s (listen_timeout)")
            }
            (ReadySignal::Notified | ReadySignal::Listening | ReadySignal::Running, _) => {
                format!("no readiness notification within {seconds} s (listen_timeout)")
            }
        }
    }

    /// Adds the subject of the failed step, such as a path: the keeper reports only the step and the error.
    pub fn with_subject(&self, failure: StartFailure) -> StartFailure {
        let spec = &self.spec;
        let account = || spec.account.as_ref().map_or_else(String::new, |account| account.user.clone());
        let program = || match &spec.launcher {
            Launcher::Interpreter { program, .. } => program.clone(),
            Launcher::Direct | Launcher::Shell | Launcher::Serve => spec.script.clone(),
        };
        let subject = match failure.step {
            _ if !failure.subject.is_empty() => failure.subject,
            StartStep::Chdir => spec.cwd.display().to_string(),
            StartStep::Group | StartStep::User => account(),
            StartStep::Exec | StartStep::LookUp => program(),
            StartStep::Logs
            | StartStep::Pipes
            | StartStep::Fork
            | StartStep::Session
            | StartStep::Stdio
            | StartStep::Limits
            | StartStep::Seccomp => String::new(),
        };
        StartFailure { subject, ..failure }
    }
}
