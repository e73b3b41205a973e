//! Asks each run how it is, as its spec says: until it is ready, and then whether it still works.
//!
//! A task for each run; what it finds out goes into the loop, which decides. In a cluster a connection goes to
//! the run that is meant, past the balancing: see [`cluster::Way`](crate::cluster::Way).

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
use crate::time::Moment;

/// The checks of all runs.
pub struct Probes {
    home: Home,
    queue: mpsc::UnboundedSender<Input>,
    ports: Rc<RefCell<PortSharing>>,
    tasks: HashMap<RunId, Vec<JoinHandle<()>>>,
}

impl Probes {
    /// Of no run yet.
    pub fn new(home: Home, queue: mpsc::UnboundedSender<Input>, ports: Rc<RefCell<PortSharing>>) -> Self {
        Self { home, queue, ports, tasks: HashMap::new() }
    }

    /// A run's process is there: checks it from now on, if its spec says so. `beats` tells when it says that it
    /// works.
    pub fn start(&mut self, run: RunId, instance: &Instance, beats: Option<Rc<Notify>>) {
        let spec = instance.spec();
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
            let check = RunProbe {
                run,
                since: process.since,
                exec_context: ExecContext {
                    account: spec.account.clone(),
                    cwd: spec.cwd.clone(),
                    env: launch::environment(run, instance, &self.home),
                },
                queue: self.queue.clone(),
                ports: self.ports.clone(),
            };
            tasks.push(tokio::task::spawn_local(check.run(ready, spec.health.clone())));
        }
        if let (Some(limit), Some(beats)) = (spec.watchdog.map(Duration::from_millis), beats) {
            let queue = self.queue.clone();
            tasks.push(tokio::task::spawn_local(watchdog(run, limit, beats, queue)));
        }
        if !tasks.is_empty() {
            self.tasks.insert(run, tasks);
        }
    }

    /// Nothing of a run is left.
    pub fn stop(&mut self, run: RunId) {
        self.tasks.remove(&run).into_iter().flatten().for_each(|task| task.abort());
    }
}

/// The checks of one run.
struct RunProbe {
    run: RunId,
    since: Moment,
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

    /// Asks until the first good answer.
    async fn run_readiness(&self, probe: &Probe) {
        let mut told = String::new();
        while let Err(why) = self.probe_once(probe).await {
            if why != told {
                self.send_report(ProbeReport::NotReady(why.clone()));
                told = why;
            }
            tokio::time::sleep(probe.interval).await;
        }
        let event = InstanceEvent::Ready { run: self.run.number };
        let _ = self.queue.send(Input::InstanceEvent { instance: self.run.instance, event });
    }

    async fn run_liveness(&self, probe: &Probe) {
        let (mut failures, mut has_worked) = (0, false);
        loop {
            tokio::time::sleep(probe.interval).await;
            match self.probe_once(probe).await {
                Ok(()) => {
                    // The first one, too: a daemon before this one may have found it failing.
                    if failures >= probe.retries || !has_worked {
                        self.send_report(ProbeReport::Healthy);
                    }
                    (failures, has_worked) = (0, true);
                }
                Err(_) if !has_worked && crate::time::now().since(self.since) < probe.start_period => {}
                Err(why) => {
                    failures = failures.saturating_add(1);
                    if failures >= probe.retries {
                        self.send_report(ProbeReport::Unhealthy(why));
                    }
                }
            }
        }
    }

    async fn probe_once(&self, probe: &Probe) -> Result<(), String> {
        let resolved = ResolvedProbe::new(&probe.action, &self.exec_context.env)?;
        let from = match resolved.port() {
            None => None,
            Some(port) => {
                let asked = self.ports.borrow().probe_target(self.run, port);
                match asked.await.unwrap_or(ProbeTarget::Direct) {
                    ProbeTarget::Via(address) => Some(address),
                    ProbeTarget::Direct => None,
                    ProbeTarget::NotListening => return Err(format!("not listening on port {port}")),
                }
            }
        };
        resolved.run(probe.timeout, from, &self.exec_context).await
    }

    fn send_report(&self, finding: ProbeReport) {
        let _ = self.queue.send(Input::ProbeResult(self.run, finding));
    }
}

/// Waits for the words of a run that says by itself that it works; counts from the first one on, or from now.
async fn watchdog(run: RunId, limit: Duration, beats: Rc<Notify>, queue: mpsc::UnboundedSender<Input>) {
    let mut fails = false;
    loop {
        let finding = match tokio::time::timeout(limit, beats.notified()).await {
            Ok(()) if !std::mem::take(&mut fails) => continue,
            Ok(()) => ProbeReport::Healthy,
            Err(_) => {
                fails = true;
                let seconds = limit.as_secs_f64();
                ProbeReport::Unhealthy(format!("no WATCHDOG=1 within {seconds} s (watchdog)"))
            }
        };
        let _ = queue.send(Input::ProbeResult(run, finding));
    }
}
