//! Jobs that have ended, and the conditions that apps wait for.

use super::Instance;
use super::state::{State, Want};
use super::status::RunRecord;
use crate::exit::Exit;
use crate::spec::Condition;

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// By exit code 0, or another one of `stop_exit_codes`.
    Completed,
    /// By any other exit.
    Failed,
}

impl Instance {
    /// How the app ended, if it ended by itself and is not started again, except by a schedule or a changed file.
    pub fn job_end(&self) -> Option<JobEnd> {
        let ended_by_itself = self.status.state == State::Stopped && self.status.want == Want::Up;
        let last = self.status.history.back().filter(|run| ended_by_itself && !run.requested)?;
        Some(self.run_end(last))
    }

    /// Whether a run ended as a job should.
    pub fn run_end(&self, run: &RunRecord) -> JobEnd {
        match run.exit {
            Exit::Code(code) if code == 0 || self.spec.restart.stop_exit_codes.contains(&code) => {
                JobEnd::Completed
            }
            Exit::Code(_) | Exit::Signal { .. } | Exit::Unknown | Exit::NotStarted(_) => JobEnd::Failed,
        }
    }

    /// Why the instance does not meet a condition, for users.
    pub fn unmet_condition(&self, condition: Condition) -> Option<String> {
        let ended = self.job_end();
        let is_met = match condition {
            Condition::Started => self.status.state.process().is_some() || ended.is_some(),
            Condition::Ready => self.is_online() || ended == Some(JobEnd::Completed),
            Condition::Completed => ended == Some(JobEnd::Completed),
        };
        if is_met {
            return None;
        }
        let reason = self.status_reason();
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        Some(match (ended, condition) {
            (Some(JobEnd::Failed), _) => format!("has failed{why}"),
            (_, Condition::Started) => format!("is not running{why}"),
            (_, Condition::Ready) => format!("is not online{why}"),
            (_, Condition::Completed) if !self.spec.is_job() => {
                "is restarted whenever it exits; set `autorestart = false`".into()
            }
            (_, Condition::Completed) => format!("has not completed{why}"),
        })
    }
}
