//! What follows from checks: an instance that does not work gets no new connections, and is replaced or
//! restarted, never two of an app at a time.

use crate::daemon::supervisor::views;
use crate::daemon::supervisor::world::World;
use crate::daemon::supervisor::{ProbeReport, Supervisor};
use crate::instance::Instance;
use crate::instance::state::{State, Want};
use crate::instance::status::RunId;
use crate::ipc::message::EventKind;

impl<W: World> Supervisor<W> {
    /// A check has found something out. News of a former run is none.
    pub(in crate::daemon) fn record_probe(&mut self, run: RunId, finding: ProbeReport) {
        let listed = self.instances.get_mut(&run.instance);
        let beside = self.replacements.get_mut(&run.instance).map(|beside| &mut beside.instance);
        let mut both = listed.into_iter().chain(beside);
        let Some(instance) = both.find(|it| it.status.state.run() == Some(run.number)) else { return };
        let online = matches!(instance.status.state, State::Online { .. });
        match finding {
            ProbeReport::NotReady(why) if matches!(instance.status.state, State::Starting { .. }) => {
                instance.status.health_problem = Some(why);
            }
            ProbeReport::Healthy if online => self.mark_healthy(run),
            ProbeReport::Unhealthy(why) if online => self.mark_unhealthy(run, why),
            // It is on its way out, or has not come that far.
            ProbeReport::NotReady(_) | ProbeReport::Healthy | ProbeReport::Unhealthy(_) => {}
        }
    }

    fn mark_healthy(&mut self, run: RunId) {
        let now = self.world.now();
        let Some(instance) = self.current_instance(run) else { return };
        if instance.status.health_problem.take().is_some() {
            let event = views::event_view(instance, EventKind::Healthy, now);
            self.world.publish(event);
            self.world.on_ready(run);
            self.dirty = true;
        }
    }

    fn mark_unhealthy(&mut self, run: RunId, why: String) {
        let now = self.world.now();
        let Some(instance) = self.current_instance(run) else { return };
        if instance.status.health_problem.replace(why.clone()).is_none() {
            let event = views::event_with_detail(instance, EventKind::Unhealthy, why.clone(), now);
            self.world.publish(event);
            self.world.pause_traffic(run);
            self.dirty = true;
        }
        // Else the next failure asks again.
        if self.instances.get(&run.instance).is_some_and(|instance| self.can_replace_now(instance)) {
            self.replace_or_restart(run.instance, format!("unhealthy: {why}"));
        }
    }

    fn current_instance(&mut self, run: RunId) -> Option<&mut Instance> {
        self.instances.get_mut(&run.instance).filter(|it| it.status.state.run() == Some(run.number))
    }

    /// Whether an instance that is online may be taken down for a reason of ours: not while another one of
    /// its app is down or about to be.
    pub(in crate::daemon) fn can_replace_now(&self, instance: &Instance) -> bool {
        let others = self.instances.values().filter(|other| other.spec.name == instance.spec.name);
        let mut others = others.filter(|other| other.status.want == Want::Up);
        let stays = |instance: &Instance| {
            matches!(instance.status.state, State::Online { .. })
                && !self.replacements.contains_key(&instance.id)
        };
        stays(instance) && others.all(stays)
    }
}
