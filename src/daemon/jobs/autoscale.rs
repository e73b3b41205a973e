//! As many instances as the load needs, for apps that want it so.
//!
//! Looks about once a second at what the instances use and at who waits in their accept queues, which only the
//! holder of the sockets can see. One instance is added or taken at a time, as `rsm scale` does it, and only
//! while all are online: so the load is judged with each, and never during a reload.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::daemon::jobs::reload::Reloads;
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::views;
use crate::instance::Instance;
use crate::instance::state::{State, Want};
use crate::ipc::message::{EventKind, EventView, ScaleTo};
use crate::metrics::Usage;
use crate::spec::Autoscale;
use crate::time::Moment;

/// Between two looks: as often as there are samples.
const EVAL_INTERVAL: Duration = Duration::from_secs(1);

/// What it takes.
pub struct AutoscaleParts {
    /// To the loop.
    pub handle: SupervisorHandle,
    /// Knows the queues.
    pub cluster: Cluster,
    /// Knows what is being reloaded.
    pub reloads: Reloads,
    /// Who wants to know what happens.
    pub events: broadcast::Sender<EventView>,
}

/// What one app has to bear.
#[derive(Clone, Copy, Debug, PartialEq)]
struct AppLoad {
    /// Instances, all of them online.
    instances: u32,
    /// CPU of all together. Percent of one core.
    cpu: f32,
    /// Connections that wait to be accepted.
    queued: u32,
}

/// Since when an app has had too few or too many instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LoadTrend {
    high: Option<Moment>,
    low: Option<Moment>,
}

/// Runs for as long as the daemon does.
pub async fn follow(parts: AutoscaleParts) {
    let parts = Rc::new(parts);
    let mut trends: BTreeMap<String, LoadTrend> = BTreeMap::new();
    let mut steps: JoinSet<String> = JoinSet::new();
    let mut busy: BTreeSet<String> = BTreeSet::new();
    let mut ticks = tokio::time::interval(EVAL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while let Some(done) = steps.try_join_next() {
            busy.retain(|name| done.as_ref().ok() != Some(name));
        }
        let Ok(all) = parts.handle.autoscaled().await else { return };
        let apps = group_by_app(&all);
        trends.retain(|name, _| apps.contains_key(name));
        for (name, instances) in apps {
            let trend = trends.entry(name.clone()).or_default();
            let Some((rules, load)) = parts.load(&name, &instances).await.filter(|_| !busy.contains(&name))
            else {
                *trend = LoadTrend::default(); // what is seen on the way says nothing about after
                continue;
            };
            let Some((count, why)) = trend.decide(&rules, load, crate::time::now()) else { continue };
            let (parts, first) = (parts.clone(), instances[0].0.clone());
            busy.insert(name);
            steps.spawn_local(async move { parts.scale(&first, count, why).await });
        }
    }
}

/// Those that are not stopped, by app.
fn group_by_app(all: &[(Instance, Usage)]) -> BTreeMap<String, Vec<&(Instance, Usage)>> {
    let mut apps: BTreeMap<String, Vec<&(Instance, Usage)>> = BTreeMap::new();
    for pair in all.iter().filter(|(it, _)| it.status().want == Want::Up) {
        apps.entry(pair.0.spec().name.clone()).or_default().push(pair);
    }
    apps
}

impl AutoscaleParts {
    /// The rules of an app, and its load; `None` while anything of it is on the way.
    async fn load(&self, name: &str, instances: &[&(Instance, Usage)]) -> Option<(Autoscale, AppLoad)> {
        let rules = instances.first()?.0.spec().autoscale.clone()?;
        let online =
            |(instance, _): &&(Instance, Usage)| matches!(instance.status().state, State::Online { .. });
        if self.reloads.is_reloading(name) || !instances.iter().all(online) {
            return None;
        }
        let ports = self.cluster.ports(name).await.ok()?;
        let waiting = ports.iter().filter_map(|port| port.queued).sum();
        let cpu = instances.iter().map(|(_, usage)| usage.cpu_percent).sum();
        Some((rules, AppLoad { instances: u32::try_from(instances.len()).ok()?, cpu, queued: waiting }))
    }

    async fn scale(&self, first: &Instance, count: u32, why: String) -> String {
        let name = first.spec().name.clone();
        tracing::info!(app = %name, "{why}");
        let event = views::event_with_detail(first, EventKind::Scaled, why, crate::time::now());
        let _ = self.events.send(event); // nobody may be listening
        if let Err(error) = self.handle.scale(name.clone(), ScaleTo::Exactly(count)).await {
            tracing::warn!(app = %name, "autoscale failed: {error}");
        }
        name
    }
}

impl LoadTrend {
    /// How many instances there shall be and why, if not as many as there are.
    fn decide(&mut self, rules: &Autoscale, load: AppLoad, now: Moment) -> Option<(u32, String)> {
        let AppLoad { instances, cpu, queued: waiting } = load;
        if instances != instances.clamp(rules.min, rules.max) {
            let count = instances.clamp(rules.min, rules.max);
            return Some((count, format!("{instances} to {count} instances: outside min and max")));
        }
        #[allow(clippy::cast_precision_loss, reason = "counts and percents are small")]
        let (count, limit) = (instances as f32, rules.cpu as f32);
        let high = cpu > limit * count || waiting > rules.queue.saturating_mul(instances);
        // With one fewer it must be far from high, or it would go up and down for ever.
        let low = waiting == 0 && cpu * 2.0 < limit * (count - 1.0);
        let lasting = |since: &mut Option<Moment>, is: bool, long: Duration| {
            *since = is.then(|| since.unwrap_or(now));
            since.is_some_and(|since| now.since(since) >= long)
        };
        let up = lasting(&mut self.high, high && instances < rules.max, rules.up_after);
        let down = lasting(&mut self.low, low && instances > rules.min, rules.down_after);
        let wanted = match (up, down) {
            (true, _) => instances + 1,
            (false, true) => instances - 1,
            (false, false) => return None,
        };
        *self = Self::default();
        Some((
            wanted,
            format!(
                "{instances} to {wanted} instances: {:.0}% CPU per instance, {waiting} connections queued",
                cpu / count
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::daemon::jobs::autoscale::*;

    fn rules() -> Autoscale {
        Autoscale {
            cpu: 60,
            up_after: Duration::from_secs(5),
            down_after: Duration::from_secs(30),
            ..Autoscale::new(1, 3)
        }
    }

    /// What is decided at each second under the same load.
    fn decide(trend: &mut LoadTrend, load: AppLoad, seconds: std::ops::Range<u64>) -> Option<(u64, u32)> {
        seconds.into_iter().find_map(|second| {
            let now = Moment { mono: second * 1000, wall: 0 };
            trend.decide(&rules(), load, now).map(|(count, _)| (second, count))
        })
    }

    fn load(instances: u32, cpu: f32, waiting: u32) -> AppLoad {
        AppLoad { instances, cpu, queued: waiting }
    }

    #[test]
    fn load_that_lasts_adds_one() {
        let mut trend = LoadTrend::default();
        assert_eq!(decide(&mut trend, load(1, 90.0, 0), 0..20), Some((5, 2)));
        assert_eq!(decide(&mut trend, load(2, 180.0, 0), 6..9), None, "it begins anew");
        assert_eq!(decide(&mut trend, load(2, 100.0, 0), 9..10), None, "a pause");
        assert_eq!(decide(&mut trend, load(2, 180.0, 0), 10..20), Some((15, 3)));
        assert_eq!(decide(&mut trend, load(3, 300.0, 1000), 20..200), None, "no more than `max`");
    }

    #[test]
    fn who_waits_counts_too() {
        assert_eq!(decide(&mut LoadTrend::default(), load(2, 1.0, 33), 0..20), Some((5, 3)));
        assert_eq!(decide(&mut LoadTrend::default(), load(2, 1.0, 32), 0..200), None);
    }

    #[test]
    fn one_goes_only_when_the_rest_would_have_little_to_do() {
        assert_eq!(decide(&mut LoadTrend::default(), load(3, 59.0, 0), 0..100), Some((30, 2)));
        assert_eq!(decide(&mut LoadTrend::default(), load(3, 61.0, 0), 0..100), None);
        assert_eq!(decide(&mut LoadTrend::default(), load(3, 1.0, 1), 0..100), None, "someone waits");
        assert_eq!(decide(&mut LoadTrend::default(), load(1, 0.0, 0), 0..100), None, "no fewer than `min`");
    }

    #[test]
    fn what_is_out_of_bounds_is_brought_back_at_once() {
        assert_eq!(decide(&mut LoadTrend::default(), load(9, 900.0, 0), 0..1), Some((0, 3)));
    }
}
