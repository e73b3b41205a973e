//! Autoscaling: adapts the number of instances of an app to its load.
//!
//! Once a second, compares the CPU usage of the instances and the length of their accept queues with the limits.
//! Adds or removes one instance at a time, like `rsm scale`, and only while all are online, so that the load is
//! measured again after each step and never during a reload.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::cluster::Cluster;
use crate::daemon::jobs::reload::Reloads;
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::views;
use crate::instance::Instance;
use crate::instance::state::{State, Want};
use crate::ipc::message::{EventKind, EventView, ScaleTo};
use crate::metrics::Usage;
use crate::spec::Autoscale;
use crate::time::{self, Moment};

/// Time between two decisions: there is one sample per second.
const EVAL_INTERVAL: Duration = Duration::from_secs(1);

/// Scales apps with `autoscale`.
pub struct Autoscaler {
    pub handle: SupervisorHandle,
    pub cluster: Cluster,
    pub reloads: Reloads,
    pub events: broadcast::Sender<EventView>,
}

/// The load of one app.
#[derive(Clone, Copy, Debug, PartialEq)]
struct AppLoad {
    /// Number of instances, all of them online.
    instances: u32,
    /// CPU usage of all instances together, in percent of one core.
    cpu: f32,
    /// Connections that are not accepted yet.
    queued: u32,
}

/// Since when the load of an app is too high or too low.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LoadTrend {
    high: Option<Moment>,
    low: Option<Moment>,
}

/// The instances that are not stopped, by app.
fn group_by_app(all: &[(Instance, Usage)]) -> BTreeMap<String, Vec<&(Instance, Usage)>> {
    let mut apps: BTreeMap<String, Vec<&(Instance, Usage)>> = BTreeMap::new();
    for pair in all.iter().filter(|(it, _)| it.status().want == Want::Up) {
        apps.entry(pair.0.spec().name.clone()).or_default().push(pair);
    }
    apps
}

impl Autoscaler {
    /// Runs until the loop ends.
    pub async fn run(self) {
        let scaler = Rc::new(self);
        let mut trends: BTreeMap<String, LoadTrend> = BTreeMap::new();
        let mut steps: JoinSet<String> = JoinSet::new();
        let mut busy: BTreeSet<String> = BTreeSet::new();
        let mut ticks = tokio::time::interval(EVAL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            while let Some(done) = steps.try_join_next() {
                busy.retain(|name| done.as_ref().ok() != Some(name));
            }
            let Ok(all) = scaler.handle.autoscaled().await else { return };
            let apps = group_by_app(&all);
            trends.retain(|name, _| apps.contains_key(name));
            for (name, instances) in apps {
                let trend = trends.entry(name.clone()).or_default();
                let load = scaler.load(&name, &instances).await.filter(|_| !busy.contains(&name));
                let Some((rules, load)) = load else {
                    *trend = LoadTrend::default(); // the load during a change is no measure for later
                    continue;
                };
                let Some((count, reason)) = trend.decide(&rules, load, time::now()) else { continue };
                let (scaler, first) = (scaler.clone(), instances[0].0.clone());
                busy.insert(name);
                steps.spawn_local(async move { scaler.scale(&first, count, reason).await });
            }
        }
    }

    /// The rules and the load of an app; `None` unless all of its instances are online.
    async fn load(&self, name: &str, instances: &[&(Instance, Usage)]) -> Option<(Autoscale, AppLoad)> {
        let rules = instances.first()?.0.spec().autoscale.clone()?;
        let online =
            |(instance, _): &&(Instance, Usage)| matches!(instance.status().state, State::Online { .. });
        if self.reloads.is_reloading(name) || !instances.iter().all(online) {
            return None;
        }
        let ports = self.cluster.ports(name).await.ok()?;
        let queued = ports.iter().filter_map(|port| port.queued).sum();
        let cpu = instances.iter().map(|(_, usage)| usage.cpu_percent).sum();
        Some((rules, AppLoad { instances: u32::try_from(instances.len()).ok()?, cpu, queued }))
    }

    /// Scales the app of this instance; returns its name.
    async fn scale(&self, first: &Instance, count: u32, reason: String) -> String {
        let name = first.spec().name.clone();
        tracing::info!(app = %name, "{reason}");
        let event = views::event_with_detail(first, EventKind::Scaled, reason, time::now());
        let _ = self.events.send(event); // fails without subscribers
        if let Err(error) = self.handle.scale(name.clone(), ScaleTo::Exactly(count).into()).await {
            tracing::warn!(app = %name, "autoscale failed: {error}");
        }
        name
    }
}

impl LoadTrend {
    /// The new number of instances and the reason; `None` to keep the number.
    fn decide(&mut self, rules: &Autoscale, load: AppLoad, now: Moment) -> Option<(u32, String)> {
        let AppLoad { instances, cpu, queued } = load;
        if instances != instances.clamp(rules.min, rules.max) {
            let count = instances.clamp(rules.min, rules.max);
            return Some((count, format!("{instances} to {count} instances: outside min and max")));
        }
        #[allow(clippy::cast_precision_loss, reason = "counts and percents are small")]
        let (count, limit) = (instances as f32, rules.cpu as f32);
        let high = cpu > limit * count || queued > rules.queue.saturating_mul(instances);
        // With one instance less, the load must be far below the limit, or the number would oscillate.
        let low = queued == 0 && cpu * 2.0 < limit * (count - 1.0);
        let has_lasted = |since: &mut Option<Moment>, is_met: bool, duration: Duration| {
            *since = is_met.then(|| since.unwrap_or(now));
            since.is_some_and(|since| now.since(since) >= duration)
        };
        let up = has_lasted(&mut self.high, high && instances < rules.max, rules.up_after);
        let down = has_lasted(&mut self.low, low && instances > rules.min, rules.down_after);
        let target = match (up, down) {
            (true, _) => instances + 1,
            (false, true) => instances - 1,
            (false, false) => return None,
        };
        *self = Self::default();
        let reason = format!(
            "{instances} to {target} instances: {:.0}% CPU per instance, {queued} connections queued",
            cpu / count
        );
        Some((target, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Autoscale {
        Autoscale {
            cpu: 60,
            up_after: Duration::from_secs(5),
            down_after: Duration::from_secs(30),
            ..Autoscale::new(1, 3)
        }
    }

    /// The second of the first decision under a constant load, and the new number of instances.
    fn decide(trend: &mut LoadTrend, load: AppLoad, seconds: std::ops::Range<u64>) -> Option<(u64, u32)> {
        seconds.into_iter().find_map(|second| {
            let now = Moment { mono: second * 1000, wall: 0 };
            trend.decide(&rules(), load, now).map(|(count, _)| (second, count))
        })
    }

    fn load(instances: u32, cpu: f32, queued: u32) -> AppLoad {
        AppLoad { instances, cpu, queued }
    }

    #[test]
    fn lasting_load_adds_one_instance() {
        let mut trend = LoadTrend::default();
        assert_eq!(decide(&mut trend, load(1, 90.0, 0), 0..20), Some((5, 2)));
        assert_eq!(decide(&mut trend, load(2, 180.0, 0), 6..9), None, "the trend starts again");
        assert_eq!(decide(&mut trend, load(2, 100.0, 0), 9..10), None, "the load is interrupted");
        assert_eq!(decide(&mut trend, load(2, 180.0, 0), 10..20), Some((15, 3)));
        assert_eq!(decide(&mut trend, load(3, 300.0, 1000), 20..200), None, "at `max`");
    }

    #[test]
    fn queued_connections_trigger_scale_up() {
        assert_eq!(decide(&mut LoadTrend::default(), load(2, 1.0, 33), 0..20), Some((5, 3)));
        assert_eq!(decide(&mut LoadTrend::default(), load(2, 1.0, 32), 0..200), None);
    }

    #[test]
    fn scales_down_only_below_half_load() {
        assert_eq!(decide(&mut LoadTrend::default(), load(3, 59.0, 0), 0..100), Some((30, 2)));
        assert_eq!(decide(&mut LoadTrend::default(), load(3, 61.0, 0), 0..100), None);
        assert_eq!(
            decide(&mut LoadTrend::default(), load(3, 1.0, 1), 0..100),
            None,
            "a connection is queued"
        );
        assert_eq!(decide(&mut LoadTrend::default(), load(1, 0.0, 0), 0..100), None, "at `min`");
    }

    #[test]
    fn number_outside_bounds_is_corrected_immediately() {
        assert_eq!(decide(&mut LoadTrend::default(), load(9, 900.0, 0), 0..1), Some((0, 3)));
    }
}
