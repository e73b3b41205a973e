//! What an instance does when another daemon takes it up.

use crate::exit::Exit;
use crate::instance::Instance;
use crate::instance::event::Effect;
use crate::instance::state::{State, StopPhase};
use crate::time::Moment;

impl Instance {
    /// After a daemon of ours died and another read the state: what must be set going again.
    /// `alive`: the keeper still has the run.
    pub fn resume(&mut self, alive: bool, now: Moment) -> Vec<Effect> {
        let mut out = Vec::new();
        match self.status.state {
            State::Spawning { requested: asked, .. } if !alive => self.spawn(asked, now, &mut out),
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
                out.push(Effect::CleanUpTree { process, force: phase != StopPhase::Grace });
                out.extend(self.status.timer.map(|at| Effect::SetTimer { at }));
            }
            // The order may have been lost with the keeper that it was given to.
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

    /// The keeper has a later run than the saved state knows: the state was not saved in time, and
    /// the keeper's word on what runs wins. What became of the run is told next.
    pub fn skip_run_numbers(&mut self, run: u32, now: Moment) {
        self.status.state = State::Spawning { run, since: now, requested: false, stale: false };
        self.status.last_run = run;
        self.status.timer = None;
    }
}
