//! Why an instance is not online, in words.

use super::Instance;
use super::state::{State, StopPhase, Want};
use crate::exit::{StartFailure, StartStep};
use crate::spec::{Launcher, ReadySignal};

impl Instance {
    /// Why it is not online, in words.
    pub fn status_reason(&self) -> Option<String> {
        let last = || self.status.history.back().map(|ended| ended.exit.to_string());
        match &self.status.state {
            State::Errored { reason: why } => Some(why.clone()),
            State::Waiting { .. } => last(),
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
                self.status.health_problem.as_ref().map(|why| format!("unhealthy: {why}"))
            }
            State::Stopped if self.status.want == Want::Up => last(),
            State::Stopped
            | State::Spawning { .. }
            | State::Starting { .. }
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::CleaningUp { .. } => None,
        }
    }

    /// That it has not become ready in the time given.
    pub fn not_ready_reason(&self) -> String {
        let seconds = self.spec.readiness.timeout.as_secs_f64();
        match (self.spec.ready_signal(), &self.status.health_problem) {
            (ReadySignal::ProbePassed, Some(why)) => {
                format!("readiness probe did not succeed within {seconds} s (listen_timeout): {why}")
            }
            (ReadySignal::ProbePassed, None) => format!(
                "readiness probe did not succeed within {seconds} s \
                (listen_timeout)"
            ),
            (ReadySignal::Notified | ReadySignal::Listening | ReadySignal::Running, _) => {
                format!("no readiness notification within {seconds} s (listen_timeout)")
            }
        }
    }

    /// The keeper names the step and the error; what it was about stands in the spec.
    pub fn with_subject(&self, failure: StartFailure) -> StartFailure {
        let spec = &self.spec;
        let account = || spec.account.as_ref().map_or_else(String::new, |account| account.user.clone());
        let program = || match &spec.launcher {
            Launcher::Interpreter { program, .. } => program.clone(),
            Launcher::Direct | Launcher::Shell | Launcher::Serve => spec.script.clone(),
        };
        let what = match failure.step {
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
        StartFailure { subject: what, ..failure }
    }
}
