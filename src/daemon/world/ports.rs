//! The ports that apps share: what the cluster engine tells, and what runs are started with.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::cluster::mechanism::{ProgramTraits, choose_mechanism, privilege_source};
use crate::cluster::{
    self, Address, Cluster, ClusterHost, FdStoreOp, Mechanism, OpenRequest, PassedSockets, PortSettings,
    ProbeTarget, RunStarted,
};
use crate::daemon::supervisor::Input;
use crate::daemon::world::keeper_link::{DirectChannel, KeeperLink};
use crate::exit::{StartFailure, StartStep};
use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::launch;
use crate::instance::status::RunId;
use crate::ipc::message::SharedPorts;
use crate::keeper::protocol::{FdRole, KeeperRequest};
use crate::paths::Home;
use crate::process::process_ref::ProcessRef;
use crate::process::seccomp::{Support, detect};
use crate::process::spawn::LaunchSpec;
use crate::spec::{AppSpec, Launcher, PortOptions, ProbeAction, Runtime, runtime_of};

/// Where what apps of other users load is written by root: nobody else may write there.
const SHARED_RUN_DIR: &str = "/run/rsm";

/// What is known of the ports of runs, for people.
#[derive(Clone, Debug, Default)]
pub struct PortRegistry(Arc<Mutex<BTreeMap<u64, SharedPorts>>>);

impl PortRegistry {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<u64, SharedPorts>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of a run's.
    pub fn of(&self, run: RunId) -> Option<SharedPorts> {
        self.with(|runs| runs.get(&run.to_u64()).cloned())
    }

    /// A run is over. What people should know of it stays until the instance's next run begins.
    fn mark_ended(&self, run: RunId) {
        self.with(|runs| match runs.get_mut(&run.to_u64()) {
            Some(known) if !known.warnings.is_empty() => known.addresses.clear(),
            _ => drop(runs.remove(&run.to_u64())),
        });
    }

    fn retain_recent(&self, over: impl Fn(RunId) -> bool) {
        self.with(|runs| runs.retain(|run, _| !over(RunId::from_u64(*run))));
    }

    /// What people should know of an instance's runs from this number on.
    pub fn warnings(&self, instance: u32, from: u32) -> Vec<String> {
        let first = RunId { instance, number: from }.to_u64();
        let last = RunId { instance, number: u32::MAX }.to_u64();
        self.with(|runs| runs.range(first..=last).flat_map(|(_, ports)| ports.warnings.clone()).collect())
    }

    /// Where `old` listens and `new` does not.
    pub fn missing(&self, old: RunId, new: RunId) -> Vec<String> {
        let (old, new) = (self.of(old).unwrap_or_default(), self.of(new).unwrap_or_default());
        old.addresses.into_iter().filter(|address| !new.addresses.contains(address)).collect()
    }
}

/// Hears the engine, on its thread.
struct ClusterEvents {
    queue: mpsc::UnboundedSender<Input>,
    /// Orders, and whether the keeper has them already.
    fd_ops: mpsc::UnboundedSender<(FdStoreOp, bool)>,
    /// To the keeper, past the daemon's loop: what the engine has answered must not be lost with it.
    channel: Option<DirectChannel>,
    record: PortRegistry,
}

impl ClusterHost for ClusterEvents {
    fn publish(&mut self, event: cluster::ClusterEvent) {
        match event {
            cluster::ClusterEvent::Listening { run, address } => {
                let text = address.to_string();
                self.record.with(|runs| {
                    let addresses = &mut runs.entry(run).or_default().addresses;
                    addresses.extend((!addresses.contains(&text)).then_some(text));
                });
                let RunId { instance, number } = RunId::from_u64(run);
                let _ = self
                    .queue
                    .send(Input::InstanceEvent { instance, event: InstanceEvent::Listening { run: number } });
            }
            cluster::ClusterEvent::Closed { run, address } => {
                let text = address.to_string();
                self.record.with(|runs| {
                    runs.get_mut(&run).into_iter().for_each(|known| known.addresses.retain(|it| *it != text));
                });
            }
            cluster::ClusterEvent::Mechanism { run, mechanism: path, reason: why } => {
                self.record.with(|runs| {
                    let known = runs.entry(run).or_default();
                    (known.mechanism, known.reason) = (path.to_string(), why);
                })
            }
            cluster::ClusterEvent::Warning { run, warning } => {
                tracing::warn!(run, "{warning}");
                self.record.with(|runs| {
                    let warnings = &mut runs.entry(run).or_default().warnings;
                    let text = warning.to_string();
                    warnings.extend((!warnings.contains(&text)).then_some(text));
                });
            }
        }
    }

    fn store_fd(&mut self, order: FdStoreOp) {
        let sent = self.channel.as_ref().is_some_and(|channel| {
            let (order, fd) = match &order {
                FdStoreOp::Store(name, fd) => {
                    (KeeperRequest::StoreFd { name: name.clone() }, Some(fd.as_fd()))
                }
                FdStoreOp::Remove(name) => (KeeperRequest::RemoveFd { name: name.clone() }, None),
            };
            channel.send(&order, fd.map(|fd| (FdRole::Stored, fd)).as_slice())
        });
        let _ = self.fd_ops.send((order, sent));
    }
}

/// The engine's outside, and a task that passes its orders on to the keeper.
pub fn cluster_host(
    queue: mpsc::UnboundedSender<Input>,
    record: PortRegistry,
    link: KeeperLink,
) -> Box<dyn ClusterHost> {
    let (orders, mut passed) = mpsc::unbounded_channel();
    let channel = link.duplicate();
    tokio::task::spawn_local(async move {
        while let Some((order, sent)) = passed.recv().await {
            let (order, fds) = match order {
                FdStoreOp::Store(name, fd) => (KeeperRequest::StoreFd { name }, vec![(FdRole::Stored, fd)]),
                FdStoreOp::Remove(name) => (KeeperRequest::RemoveFd { name }, Vec::new()),
            };
            match sent {
                true => link.record_sent(&order, &fds),
                false => link.send(order, fds),
            }
        }
    });
    Box::new(ClusterEvents { queue, fd_ops: orders, channel, record })
}

/// Notifiers that came with the news of a start, until the start is handled.
pub type Notifiers = Rc<RefCell<HashMap<u64, OwnedFd>>>;

/// The daemon's part in sharing ports.
pub struct PortSharing {
    cluster: Cluster,
    record: PortRegistry,
    notifiers: Notifiers,
    home: Home,
    /// What the kernel allows, by user; asked once.
    support: HashMap<Option<(u32, u32)>, Support>,
    apps: BTreeSet<String>,
    /// Runs that share ports, and have not ended.
    runs: HashSet<RunId>,
    /// The ways that were chosen for runs which are being started.
    mechanisms: HashMap<RunId, (Mechanism, String)>,
}

impl PortSharing {
    /// With an engine that runs.
    pub fn new(cluster: Cluster, record: PortRegistry, notifiers: Notifiers, home: Home) -> Self {
        let (support, apps, runs, ways) = (HashMap::new(), BTreeSet::new(), HashSet::new(), HashMap::new());
        Self { cluster, record, notifiers, home, support, apps, runs, mechanisms: ways }
    }

    /// Makes the engine know the apps that share ports, and forget those that are gone.
    pub fn follow(&mut self, instances: &BTreeMap<u32, Instance>) {
        let mut wanted: BTreeMap<&str, PortSettings> = BTreeMap::new();
        for instance in instances.values().filter(|instance| instance.spec().shares_ports()) {
            let settings = port_settings(instance.spec());
            let settings = wanted.entry(&instance.spec().name).or_insert(settings);
            settings.slots.push(instance.number());
        }
        let gone: Vec<String> =
            self.apps.iter().filter(|app| !wanted.contains_key(app.as_str())).cloned().collect();
        for app in gone {
            self.cluster.remove_app(&*app);
            self.apps.remove(&app);
        }
        self.record.retain_recent(|run| !instances.contains_key(&run.instance) && !self.runs.contains(&run));
        for (app, settings) in wanted {
            self.cluster.set_app(app, settings);
            self.apps.insert(app.to_owned());
        }
    }

    /// What is known of the ports of runs.
    pub fn registry(&self) -> &PortRegistry {
        &self.record
    }

    /// The way for a run of this app.
    ///
    /// # Errors
    /// There is none; in words for the user.
    pub fn choose_mechanism(
        &mut self,
        run: RunId,
        spec: &AppSpec,
        launch: &LaunchSpec,
    ) -> Result<Mechanism, StartFailure> {
        let failed = |what| StartFailure { step: StartStep::Seccomp, errno: 0, subject: what };
        let (path, why) =
            self.supported_mechanism(spec, privilege_source(&launch.program)).map_err(failed)?;
        self.mechanisms.insert(run, (path, why));
        Ok(path)
    }

    /// The way that was chosen when a run was started; found again if another daemon did that.
    fn mechanism_of(&mut self, run: RunId, instance: &Instance) -> Option<(Mechanism, String)> {
        if let Some(way) = self.mechanisms.remove(&run) {
            return Some(way);
        }
        let launch = launch::launch_spec(run, instance, &self.home, Vec::new());
        let rights = launch.ok().and_then(|launch| privilege_source(&launch.program));
        self.supported_mechanism(instance.spec(), rights).ok()
    }

    /// What the kernel allows the app's user is asked for once.
    fn supported_mechanism(
        &mut self,
        spec: &AppSpec,
        gains_rights: Option<&'static str>,
    ) -> Result<(Mechanism, String), String> {
        let user = spec.account.as_ref().map(|account| (account.uid, account.gid));
        let support = self.support.entry(user).or_insert_with(|| detect(user));
        let runtime = match &spec.launcher {
            Launcher::Interpreter { program, .. } => runtime_of(program),
            Launcher::Direct | Launcher::Shell | Launcher::Serve => None,
        };
        let node = matches!(runtime, Some(Runtime::Node | Runtime::NodeWrapper | Runtime::Tsx));
        choose_mechanism(
            support,
            &ProgramTraits {
                privilege_source: gains_rights,
                has_listen_addresses: !spec.listen.is_empty(),
                node,
            },
        )
    }

    /// Sockets for a run that cannot ask, to be passed with its start.
    pub fn prepare_activation(
        &self,
        run: RunId,
        instance: &Instance,
        way: Mechanism,
        launch: LaunchSpec,
    ) -> PendingActivation {
        let spec = instance.spec();
        let uid =
            spec.account.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |account| account.uid);
        let (app, slot) = (spec.name.clone(), instance.number());
        // Another user cannot look into our home.
        let dir = if spec.account.is_some() { PathBuf::from(SHARED_RUN_DIR) } else { self.home.run_dir() };
        let (cluster, listen) = (self.cluster.clone(), spec.listen.clone());
        PendingActivation { cluster, dir, listen, mechanism: way, launch, run: run.to_u64(), app, slot, uid }
    }

    /// A run's process is there.
    pub fn run_started(&mut self, run: RunId, instance: &Instance, notifier: Option<OwnedFd>) {
        let spec = instance.spec();
        let Some(process) = instance.status().state.process().filter(|_| spec.shares_ports()) else { return };
        let notifier = notifier.or_else(|| self.notifiers.borrow_mut().remove(&run.to_u64()));
        let Some((path, why)) = self.mechanism_of(run, instance) else { return };
        let leader = ProcessRef { pid: process.pid, start_time: process.start_time };
        let (app, slot) = (spec.name.clone(), instance.number());
        self.runs.insert(run);
        self.record.retain_recent(|other| other.instance == run.instance && !self.runs.contains(&other));
        self.cluster.run_started(RunStarted {
            run: run.to_u64(),
            app,
            slot,
            leader,
            mechanism: path,
            reason: why,
            notifier,
        });
    }

    /// All runs that were there before this daemon have begun.
    pub fn recovery_complete(&self) {
        self.cluster.recovery_complete();
    }

    /// A run may get connections.
    pub fn ready(&self, run: RunId) {
        if self.runs.contains(&run) {
            self.cluster.set_ready(run.to_u64());
        }
    }

    /// A run is about to go.
    pub fn drain(&self, run: RunId) {
        if self.runs.contains(&run) {
            self.cluster.drain(run.to_u64());
        }
    }

    /// A run gets no new connections. Resolves once nobody waits for it any more.
    pub fn wait_drained(&self, run: RunId) -> oneshot::Receiver<()> {
        self.drain(run);
        self.cluster.wait_drained(run.to_u64())
    }

    /// How checks come to a run's port.
    pub fn probe_target(&self, run: RunId, port: u16) -> oneshot::Receiver<ProbeTarget> {
        self.cluster.probe_target(run.to_u64(), port)
    }

    /// Nothing of a run is left.
    pub fn run_ended(&mut self, run: RunId) {
        if self.runs.remove(&run) {
            self.cluster.run_ended(run.to_u64());
        }
        self.record.mark_ended(run);
        self.mechanisms.remove(&run);
        self.notifiers.borrow_mut().remove(&run.to_u64());
    }

    /// No other run follows soon: clients are refused instead of waiting in vain.
    pub fn on_slot_idle(&self, instance: &Instance) {
        if instance.spec().shares_ports() {
            self.cluster.retire_slot(&*instance.spec().name, instance.number());
        }
    }
}

/// What an app wants of its ports; the slots follow.
fn port_settings(spec: &AppSpec) -> PortSettings {
    let PortOptions { udp, privileged } = spec.ports;
    let checks = spec.readiness.probe.iter().chain(&spec.health);
    let doors = checks.into_iter().any(|probe| !matches!(probe.action, ProbeAction::Exec(_)));
    PortSettings {
        balance: spec.balance,
        slots: Vec::new(),
        privileged: privileged,
        udp,
        probe_routes: doors,
    }
}

/// A start that waits for its sockets.
pub struct PendingActivation {
    cluster: Cluster,
    dir: PathBuf,
    listen: Vec<String>,
    mechanism: Mechanism,
    launch: LaunchSpec,
    run: u64,
    app: String,
    slot: u32,
    uid: u32,
}

impl PendingActivation {
    /// The launch with what was added to it, and the sockets that go with it.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub async fn open(self) -> Result<(LaunchSpec, Vec<OwnedFd>), StartFailure> {
        let failed = |what: String| StartFailure { step: StartStep::Seccomp, errno: 0, subject: what };
        let Self { cluster, dir, listen, mechanism: way, mut launch, run, app, slot, uid } = self;
        let addresses: Result<Vec<Address>, String> = listen.iter().map(|text| text.parse()).collect();
        let addresses = addresses.map_err(failed)?;
        let opening = OpenRequest { run, app, slot, uid, addresses: addresses.clone() };
        let sockets = match cluster.open_sockets(opening).await {
            Ok(opened) => opened.map_err(|failure| failed(failure.to_string()))?,
            Err(_) => return Err(failed("the daemon is shutting down".into())),
        };
        let script =
            crate::cluster::activation::write_script(&dir).map_err(|error| failed(error.to_string()))?;
        let options =
            launch.env.iter().find_map(|pair| pair.strip_prefix("NODE_OPTIONS=")).unwrap_or_default();
        let passed = PassedSockets::new(way, &addresses, &script, options);
        for (name, value) in passed.env {
            launch.env.retain(|pair| !pair.starts_with(&format!("{name}=")));
            launch.env.push(format!("{name}={value}"));
        }
        launch.fds.extend(passed.fds);
        launch.listen_pid = way == Mechanism::SocketActivation;
        Ok((launch, sockets))
    }
}
