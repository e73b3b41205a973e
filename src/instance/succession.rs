//! What an instance does when another daemon takes it up.

use super::Instance;
use super::event::Effect;
use super::state::{State, StopPhase};
use crate::exit::Exit;
use crate::time::Moment;

impl Instance {
    /// After a daemon of ours died and another read the state: what must be set going again.
    /// `alive`: the keeper still has the run.
    pub fn resume(&mut self, alive: bool, now: Moment) -> Vec<Effect> {
        let mut out = Vec::new();
        match self.life.state {
            State::Spawning { asked, .. } if !alive => self.launch(asked, now, &mut out),
            State::Starting { process, .. }
            | State::Online { process }
            | State::Leaving { process }
            | State::Stopping { process, .. }
                if !alive =>
            {
                self.exited(process.run, Exit::Unknown, now, &mut out);
            }
            State::Leaving { process } => {
                out.push(Effect::Quiet { run: process.run });
                out.extend(self.life.timer.map(|at| Effect::Timer { at }));
            }
            State::Clearing { process, phase, .. } => {
                out.push(Effect::Sweep { process, kill: phase != StopPhase::Grace });
                out.extend(self.life.timer.map(|at| Effect::Timer { at }));
            }
            // The order may have been lost with the keeper that it was given to.
            State::Stopping { process, phase: StopPhase::Killed | StopPhase::Stuck } => {
                out.push(Effect::Kill { process });
                out.extend(self.life.timer.map(|at| Effect::Timer { at }));
            }
            State::Spawning { .. }
            | State::Starting { .. }
            | State::Online { .. }
            | State::Stopping { .. }
            | State::Stopped
            | State::Waiting { .. }
            | State::Errored { .. } => out.extend(self.life.timer.map(|at| Effect::Timer { at })),
        }
        out
    }

    /// The keeper has a later run than the saved state knows: the state was not saved in time, and
    /// the keeper's word on what runs wins. What became of the run is told next.
    pub fn catch_up(&mut self, run: u32, now: Moment) {
        self.life.state = State::Spawning { run, since: now, asked: false, stale: false };
        self.life.last_run = run;
        self.life.timer = None;
    }
}
