//! Shared ports: which apps share them, and how each run gets its sockets.
//!
//! Decides the mechanism of a run before its start and tells the cluster when runs start, become ready, drain
//! and end. The sockets themselves belong to the [`cluster`](crate::cluster).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::cluster::activation::write_script;
use crate::cluster::mechanism::{ProgramTraits, choose_mechanism, privilege_source};
use crate::cluster::{
    Address, Cluster, Mechanism, OpenRequest, PassedSockets, PortSettings, ProbeTarget, RunStarted,
};
use crate::daemon::world::port_registry::PortRegistry;
use crate::exit::{StartFailure, StartStep};
use crate::instance::Instance;
use crate::instance::inspector::inspector_port;
use crate::instance::launch;
use crate::instance::status::RunId;
use crate::paths::Home;
use crate::process::detached::GuardedThread;
use crate::process::seccomp::{Support, detect};
use crate::process::spawn::LaunchSpec;
use crate::spec::{AppSpec, Launcher, PortOptions, ProbeAction, Runtime, runtime_of};

/// How long the look-up of the program of a running app may take.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// The directory for files that apps of other users load. Only root can write there.
const SHARED_RUN_DIR: &str = "/run/rsm";

/// Seccomp notifiers by run, from the keeper's notice of a start until the start is handled.
pub type Notifiers = Rc<RefCell<HashMap<u64, OwnedFd>>>;

/// The daemon's part of port sharing.
pub struct PortSharing {
    cluster: Cluster,
    registry: PortRegistry,
    notifiers: Notifiers,
    home: Home,
    /// What the kernel supports, by uid and gid. Detected once per user.
    support: HashMap<Option<(u32, u32)>, Support>,
    apps: BTreeSet<String>,
    /// Runs that share ports and have not ended.
    runs: HashSet<RunId>,
    /// Mechanism and its reason, for runs that are being started.
    mechanisms: HashMap<RunId, (Mechanism, String)>,
}

impl PortSharing {
    pub fn new(cluster: Cluster, registry: PortRegistry, notifiers: Notifiers, home: Home) -> Self {
        Self {
            cluster,
            registry,
            notifiers,
            home,
            support: HashMap::new(),
            apps: BTreeSet::new(),
            runs: HashSet::new(),
            mechanisms: HashMap::new(),
        }
    }

    /// Passes the apps that share ports to the cluster, and removes apps that no longer do.
    pub fn update(&mut self, instances: &BTreeMap<u32, Instance>) {
        let mut apps: BTreeMap<&str, PortSettings> = BTreeMap::new();
        for instance in instances.values().filter(|instance| instance.spec().shares_ports()) {
            let settings =
                apps.entry(&instance.spec().name).or_insert_with(|| port_settings(instance.spec()));
            settings.slots.push(instance.number());
        }
        self.apps.retain(|app| {
            let is_listed = apps.contains_key(app.as_str());
            if !is_listed {
                self.cluster.remove_app(&**app);
            }
            is_listed
        });
        self.registry
            .remove_outdated(|run| !instances.contains_key(&run.instance) && !self.runs.contains(&run));
        for (app, settings) in apps {
            self.cluster.set_app(app, settings);
            self.apps.insert(app.to_owned());
        }
    }

    pub fn registry(&self) -> &PortRegistry {
        &self.registry
    }

    /// Chooses the mechanism for a run that is about to start.
    ///
    /// # Errors
    /// No mechanism works for this app on this system.
    pub fn choose_mechanism(
        &mut self,
        run: RunId,
        spec: &AppSpec,
        privilege_source: Option<&'static str>,
    ) -> Result<Mechanism, StartFailure> {
        let (mechanism, reason) = self.supported_mechanism(spec, privilege_source).map_err(start_failure)?;
        self.mechanisms.insert(run, (mechanism, reason));
        Ok(mechanism)
    }

    /// The mechanism with which a run was started; determined again if the previous daemon started it.
    fn mechanism_of(&mut self, run: RunId, instance: &Instance) -> Option<(Mechanism, String)> {
        if let Some(chosen) = self.mechanisms.remove(&run) {
            return Some(chosen);
        }
        let subject = format!("looking up the program of app {}", instance.spec().name);
        let request = (run, instance.clone(), self.home.clone());
        let privileges = GuardedThread::new(look_up_privileges).call(&subject, LOOK_UP_TIMEOUT, request)?;
        self.supported_mechanism(instance.spec(), privileges).ok()
    }

    fn supported_mechanism(
        &mut self,
        spec: &AppSpec,
        privilege_source: Option<&'static str>,
    ) -> Result<(Mechanism, String), String> {
        let user = spec.account.as_ref().map(|account| (account.uid, account.gid));
        let support = self.support.entry(user).or_insert_with(|| detect(user));
        let runtime = match &spec.launcher {
            Launcher::Interpreter { program, .. } => runtime_of(program),
            Launcher::Direct | Launcher::Shell | Launcher::Serve => None,
        };
        let node = matches!(runtime, Some(Runtime::Node | Runtime::NodeWrapper | Runtime::Tsx));
        let has_listen_addresses = !spec.listen.is_empty();
        choose_mechanism(support, &ProgramTraits { privilege_source, has_listen_addresses, node })
    }

    /// Prepares the sockets of a run whose system calls are not supervised.
    pub fn prepare_activation(
        &self,
        run: RunId,
        instance: &Instance,
        mechanism: Mechanism,
        launch: LaunchSpec,
    ) -> PendingActivation {
        let spec = &instance.spec();
        let own_uid = || nix::unistd::geteuid().as_raw();
        PendingActivation {
            cluster: self.cluster.clone(),
            // Other users cannot read the home directory of rsm.
            dir: if spec.account.is_some() { PathBuf::from(SHARED_RUN_DIR) } else { self.home.run_dir() },
            listen: spec.listen.clone(),
            mechanism,
            launch,
            run: run.to_u64(),
            app: spec.name.clone(),
            slot: instance.number(),
            uid: spec.account.as_ref().map_or_else(own_uid, |account| account.uid),
        }
    }

    /// Reports to the cluster that the process of a run exists.
    pub fn run_started(&mut self, run: RunId, instance: &Instance, notifier: Option<OwnedFd>) {
        let spec = instance.spec();
        let Some(process) = instance.status().state.process().filter(|_| spec.shares_ports()) else { return };
        let notifier = notifier.or_else(|| self.notifiers.borrow_mut().remove(&run.to_u64()));
        let Some((mechanism, reason)) = self.mechanism_of(run, instance) else { return };
        let inspector_port = inspector_port(instance, &launch::environment(run, instance, &self.home));
        self.runs.insert(run);
        self.registry.remove_outdated(|other| other.instance == run.instance && !self.runs.contains(&other));
        self.cluster.run_started(RunStarted {
            run: run.to_u64(),
            app: spec.name.clone(),
            slot: instance.number(),
            leader: process.reference(),
            mechanism,
            reason,
            notifier,
            inspector_port,
        });
    }

    /// Reports that all runs of the previous daemon were passed to [`run_started`](Self::run_started).
    pub fn recovery_complete(&self) {
        self.cluster.recovery_complete();
    }

    /// Lets a run accept connections.
    pub fn set_ready(&self, run: RunId) {
        if self.runs.contains(&run) {
            self.cluster.set_ready(run.to_u64());
        }
    }

    /// Sends no new connections to a run.
    pub fn drain(&self, run: RunId) {
        if self.runs.contains(&run) {
            self.cluster.drain(run.to_u64());
        }
    }

    /// Drains a run. Resolves when its queues are empty.
    pub fn wait_drained(&self, run: RunId) -> oneshot::Receiver<()> {
        self.drain(run);
        self.cluster.wait_drained(run.to_u64())
    }

    /// How a probe reaches the port of this run, and not that of another.
    pub fn probe_target(&self, run: RunId, port: u16) -> oneshot::Receiver<ProbeTarget> {
        self.cluster.probe_target(run.to_u64(), port)
    }

    /// Releases everything of a run that has ended.
    pub fn run_ended(&mut self, run: RunId) {
        if self.runs.remove(&run) {
            self.cluster.run_ended(run.to_u64());
        }
        self.registry.mark_ended(run);
        self.mechanisms.remove(&run);
        self.notifiers.borrow_mut().remove(&run.to_u64());
    }

    /// Closes the sockets of an instance that has no run and starts none soon: clients are refused instead of
    /// waiting in its queues.
    pub fn on_slot_idle(&self, instance: &Instance) {
        if instance.spec().shares_ports() {
            self.cluster.retire_slot(&*instance.spec().name, instance.number());
        }
    }
}

/// The settings of an app, without slots.
fn port_settings(spec: &AppSpec) -> PortSettings {
    let PortOptions { udp, privileged } = spec.ports;
    let mut probes = spec.readiness.probe.iter().chain(&spec.health);
    let probe_routes = probes.any(|probe| !matches!(probe.action, ProbeAction::Exec(_)));
    PortSettings { balance: spec.balance, slots: Vec::new(), privileged, udp, probe_routes }
}

fn look_up_privileges((run, instance, home): (RunId, Instance, Home)) -> Option<&'static str> {
    let launch = launch::launch_spec(run, &instance, &home, Vec::new());
    launch.ok().and_then(|launch| privilege_source(&launch.program))
}

fn start_failure(subject: String) -> StartFailure {
    StartFailure { step: StartStep::Seccomp, errno: 0, subject }
}

/// A start that needs sockets from the cluster.
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
    /// Opens the sockets; returns them with the launch changed to use them.
    ///
    /// # Errors
    /// An address is invalid or cannot be listened on.
    pub async fn open(self) -> Result<(LaunchSpec, Vec<OwnedFd>), StartFailure> {
        let Self { cluster, dir, listen, mechanism, mut launch, run, app, slot, uid } = self;
        let addresses: Result<Vec<Address>, String> = listen.iter().map(|text| text.parse()).collect();
        let addresses = addresses.map_err(start_failure)?;
        let request = OpenRequest { run, app, slot, uid, addresses: addresses.clone() };
        let sockets = match cluster.open_sockets(request).await {
            Ok(opened) => opened.map_err(|error| start_failure(error.to_string()))?,
            Err(_) => return Err(start_failure("the daemon is shutting down".into())),
        };
        let script = write_script(&dir).map_err(|error| start_failure(error.to_string()))?;
        let options =
            launch.env.iter().find_map(|pair| pair.strip_prefix("NODE_OPTIONS=")).unwrap_or_default();
        let passed = PassedSockets::new(mechanism, &addresses, &script, options);
        for (name, value) in passed.env {
            launch.env.retain(|pair| !pair.starts_with(&format!("{name}=")));
            launch.env.push(format!("{name}={value}"));
        }
        launch.fds.extend(passed.fds);
        launch.listen_pid = mechanism == Mechanism::SocketActivation;
        Ok((launch, sockets))
    }
}
