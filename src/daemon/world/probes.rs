//! Readiness and liveness probes and watchdogs of runs.
//!
//! Each run has its own tasks. Results go to the loop, which decides. In cluster mode, a probe bypasses the
//! balancing and reaches its own run: see [`ProbeTarget`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::cluster::ProbeTarget;
use crate::daemon::supervisor::{Input, ProbeReport};
use crate::daemon::world::ports::PortSharing;
use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::launch;
use crate::instance::state::State;
use crate::instance::status::RunId;
use crate::paths::Home;
use crate::probes::{ExecContext, ResolvedProbe};
use crate::spec::{Probe, ReadySignal};
use crate::time::{self, Moment};

/// Why a probe cannot reach a run that listens on another address of the same port than the process it replaces.
const SUPERSEDED: &str = "its address is in use by the current process until it is ready: a probe cannot reach it; \
    use `rsm restart`";

/// The probe tasks of all runs.
pub struct Probes {
    home: Home,
    queue: mpsc::UnboundedSender<Input>,
    ports: Rc<RefCell<PortSharing>>,
    tasks: HashMap<RunId, Vec<JoinHandle<()>>>,
}

impl Probes {
    pub fn new(home: Home, queue: mpsc::UnboundedSender<Input>, ports: Rc<RefCell<PortSharing>>) -> Self {
        Self { home, queue, ports, tasks: HashMap::new() }
    }

    /// Starts the probes and the watchdog that the spec of a run configures, unless they are running.
    pub fn start(&mut self, run: RunId, instance: &Instance, watchdog_pings: Option<Rc<Notify>>) {
        let spec = &instance.spec();
        let Some(process) = instance.status().state.process().filter(|_| !self.tasks.contains_key(&run))
        else {
            return;
        };
        let starting = matches!(instance.status().state, State::Starting { .. });
        let ready = spec
            .readiness
            .probe
            .clone()
            .filter(|_| starting && spec.ready_signal() == ReadySignal::ProbePassed);
        let mut tasks = Vec::new();
        if ready.is_some() || spec.health.is_some() {
            let probe = RunProbe {
                run,
                started: process.since,
                exec_context: ExecContext {
                    app: spec.name.clone(),
                    account: spec.account.clone(),
                    cwd: spec.cwd.clone(),
                    env: launch::environment(run, instance, &self.home),
                },
                queue: self.queue.clone(),
                ports: self.ports.clone(),
            };
            tasks.push(tokio::task::spawn_local(probe.run(ready, spec.health.clone())));
        }
        if let (Some(limit), Some(pings)) = (spec.watchdog.map(Duration::from_millis), watchdog_pings) {
            let queue = self.queue.clone();
            tasks.push(tokio::task::spawn_local(run_watchdog(run, limit, pings, queue)));
        }
        if !tasks.is_empty() {
            self.tasks.insert(run, tasks);
        }
    }

    /// Stops the probes and the watchdog of a run.
    pub fn stop(&mut self, run: RunId) {
        self.tasks.remove(&run).into_iter().flatten().for_each(|task| task.abort());
    }
}

/// The readiness and liveness probes of one run.
struct RunProbe {
    run: RunId,
    started: Moment,
    exec_context: ExecContext,
    queue: mpsc::UnboundedSender<Input>,
    ports: Rc<RefCell<PortSharing>>,
}

impl RunProbe {
    async fn run(self, ready: Option<Probe>, health: Option<Probe>) {
        if let Some(probe) = ready {
            self.run_readiness(&probe).await;
        }
        if let Some(probe) = health {
            self.run_liveness(&probe).await;
        }
    }

    /// Probes until the first success. Repeated reasons are reported once.
    async fn run_readiness(&self, probe: &Probe) {
        let mut last_reason = String::new();
        while let Err(reason) = self.probe_once(probe).await {
            if reason != last_reason {
                self.send_report(ProbeReport::NotReady(reason.clone()));
                last_reason = reason;
            }
            tokio::time::sleep(probe.interval).await;
        }
        let event = InstanceEvent::Ready { run: self.run.number };
        let _ = self.queue.send(Input::InstanceEvent { instance: self.run.instance, event });
    }

    async fn run_liveness(&self, probe: &Probe) {
        let (mut failures, mut has_succeeded) = (0, false);
        loop {
            tokio::time::sleep(probe.interval).await;
            match self.probe_once(probe).await {
                // Not reachable before it is ready: neither healthy nor unhealthy.
                Err(reason) if reason == SUPERSEDED => {}
                Ok(()) => {
                    // The first success is reported too: the previous daemon may have reported a failure.
                    if failures >= probe.retries || !has_succeeded {
                        self.send_report(ProbeReport::Healthy);
                    }
                    (failures, has_succeeded) = (0, true);
                }
                Err(_) if !has_succeeded && time::now().since(self.started) < probe.start_period => {}
                Err(reason) => {
                    failures = failures.saturating_add(1);
                    if failures >= probe.retries {
                        self.send_report(ProbeReport::Unhealthy(reason));
                    }
                }
            }
        }
    }

    async fn probe_once(&self, probe: &Probe) -> Result<(), String> {
        let resolved = ResolvedProbe::new(&probe.action, &self.exec_context.env)?;
        let route = match resolved.port() {
            None => None,
            Some(port) => {
                let target = self.ports.borrow().probe_target(self.run, port);
                match target.await.unwrap_or(ProbeTarget::Direct) {
                    ProbeTarget::Via(address) => Some(address),
                    ProbeTarget::Direct => None,
                    ProbeTarget::Superseded => return Err(SUPERSEDED.to_owned()),
                    ProbeTarget::NotListening => return Err(format!("not listening on port {port}")),
                }
            }
        };
        resolved.run(probe.timeout, &probe.action, route, &self.exec_context).await
    }

    fn send_report(&self, report: ProbeReport) {
        let _ = self.queue.send(Input::ProbeResult(self.run, report));
    }
}

/// Reports a run that sends no `WATCHDOG=1` within the limit, and its recovery.
async fn run_watchdog(run: RunId, limit: Duration, pings: Rc<Notify>, queue: mpsc::UnboundedSender<Input>) {
    let mut is_late = false;
    loop {
        let report = match tokio::time::timeout(limit, pings.notified()).await {
            Ok(()) if !std::mem::take(&mut is_late) => continue,
            Ok(()) => ProbeReport::Healthy,
            Err(_) => {
                is_late = true;
                let seconds = limit.as_secs_f64();
                ProbeReport::Unhealthy(format!("no WATCHDOG=1 within {seconds} s (watchdog)"))
            }
        };
        let _ = queue.send(Input::ProbeResult(run, report));
    }
}
