//! Instances after a restart of the daemon.

use super::Instance;
use super::event::Effect;
use super::state::{State, StopPhase};
use crate::exit::Exit;
use crate::time::Moment;

impl Instance {
    /// Resumes a saved instance, and returns the effects to repeat. `alive`: the keeper still has the run.
    pub fn resume(&mut self, alive: bool, now: Moment) -> Vec<Effect> {
        let mut out = Vec::new();
        match self.status.state {
            State::Spawning { requested, .. } if !alive => self.spawn(requested, now, &mut out),
            State::Starting { process, .. }
            | State::Online { process }
            | State::Draining { process }
            | State::Stopping { process, .. }
                if !alive =>
            {
                self.on_exited(process.run, Exit::Unknown, now, &mut out);
            }
            State::Draining { process } => {
                out.push(Effect::Drain { run: process.run });
                out.extend(self.status.timer.map(|at| Effect::SetTimer { at }));
            }
            State::CleaningUp { process, phase, .. } => {
                out.push(Effect::CleanUpTree { process, mode: phase.clean_up() });
                out.extend(self.status.timer.map(|at| Effect::SetTimer { at }));
            }
            // The signal may have been lost with the keeper that was to send it.
            State::Stopping { process, phase: StopPhase::Killed | StopPhase::Stuck } => {
                out.push(Effect::Kill { process });
                out.extend(self.status.timer.map(|at| Effect::SetTimer { at }));
            }
            State::Spawning { .. }
            | State::Starting { .. }
            | State::Online { .. }
            | State::Stopping { .. }
            | State::Stopped
            | State::Waiting { .. }
            | State::Errored { .. } => out.extend(self.status.timer.map(|at| Effect::SetTimer { at })),
        }
        out
    }

    /// Adopts a run that is later than the saved state: the state was not saved in time, and the keeper knows what
    /// runs. The next event of the keeper tells what became of the run.
    pub fn adopt_run(&mut self, run: u32, now: Moment) {
        self.status.state = State::Spawning { run, since: now, requested: false, stale: false };
        self.status.last_run = run;
        self.status.timer = None;
    }
}
