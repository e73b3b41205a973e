//! What follows from checks: an instance that does not work gets no new connections, and is replaced or
//! restarted, never two of an app at a time.

use super::supervisor::{ProbeReport, Supervisor};
use super::views;
use super::world::World;
use crate::instance::Instance;
use crate::instance::life::RunId;
use crate::instance::state::{State, Want};
use crate::ipc::message::EventKind;

impl<W: World> Supervisor<W> {
    /// A check has found something out. News of a former run is none.
    pub(super) fn checked(&mut self, run: RunId, finding: ProbeReport) {
        let listed = self.instances.get_mut(&run.instance);
        let beside = self.beside.get_mut(&run.instance).map(|beside| &mut beside.instance);
        let mut both = listed.into_iter().chain(beside);
        let Some(instance) = both.find(|it| it.life.state.run() == Some(run.number)) else { return };
        let online = matches!(instance.life.state, State::Online { .. });
        match finding {
            ProbeReport::NotReady(why) if matches!(instance.life.state, State::Starting { .. }) => {
                instance.life.problem = Some(why);
            }
            ProbeReport::Works if online => self.works(run),
            ProbeReport::Fails(why) if online => self.fails(run, why),
            // It is on its way out, or has not come that far.
            ProbeReport::NotReady(_) | ProbeReport::Works | ProbeReport::Fails(_) => {}
        }
    }

    fn works(&mut self, run: RunId) {
        let now = self.world.now();
        let Some(instance) = self.listed(run) else { return };
        if instance.life.problem.take().is_some() {
            let event = views::event(instance, EventKind::Healthy, now);
            self.world.tell(event);
            self.world.ready(run);
            self.unsaved = true;
        }
    }

    fn fails(&mut self, run: RunId, why: String) {
        let now = self.world.now();
        let Some(instance) = self.listed(run) else { return };
        if instance.life.problem.replace(why.clone()).is_none() {
            let event = views::detailed(instance, EventKind::Unhealthy, why.clone(), now);
            self.world.tell(event);
            self.world.aside(run);
            self.unsaved = true;
        }
        // Else the next failure asks again.
        if self.instances.get(&run.instance).is_some_and(|instance| self.may_go_down(instance)) {
            self.renew(run.instance, format!("unhealthy: {why}"));
        }
    }

    fn listed(&mut self, run: RunId) -> Option<&mut Instance> {
        self.instances.get_mut(&run.instance).filter(|it| it.life.state.run() == Some(run.number))
    }

    /// Whether an instance that is online may be taken down for a reason of ours: not while another one of
    /// its app is down or about to be.
    pub(super) fn may_go_down(&self, instance: &Instance) -> bool {
        let others = self.instances.values().filter(|other| other.spec.name == instance.spec.name);
        let mut others = others.filter(|other| other.life.want == Want::Up);
        let stays = |instance: &Instance| {
            matches!(instance.life.state, State::Online { .. }) && !self.beside.contains_key(&instance.id)
        };
        stays(instance) && others.all(stays)
    }
}
