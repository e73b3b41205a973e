//! The ports that apps share: what the cluster engine tells, and what runs are started with.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::keeper_link::{DirectChannel, KeeperLink};
use super::launch;
use super::supervisor::Input;
use crate::cluster::path::{Wanted, choose, gains_rights};
use crate::cluster::{self, Address, Began, Cluster, Keep, Opening, Outside, Passed, Path, Settings, Way};
use crate::exit::{StartFailure, StartStep};
use crate::instance::Instance;
use crate::instance::event::Event;
use crate::instance::life::RunId;
use crate::ipc::message::SharedPorts;
use crate::keeper::protocol::{FdRole, KeeperRequest};
use crate::paths::Home;
use crate::process::process_ref::ProcessRef;
use crate::process::seccomp::{Support, detect};
use crate::process::spawn::LaunchSpec;
use crate::spec::{AppSpec, Check, Launcher, PortRules, Runtime, runtime_of};

/// Where what apps of other users load is written by root: nobody else may write there.
const PUBLIC: &str = "/run/rsm";

/// What is known of the ports of runs, for people.
#[derive(Clone, Debug, Default)]
pub struct Record(Arc<Mutex<BTreeMap<u64, SharedPorts>>>);

impl Record {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<u64, SharedPorts>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of a run's.
    pub fn of(&self, run: RunId) -> Option<SharedPorts> {
        self.with(|runs| runs.get(&run.to_u64()).cloned())
    }

    /// A run is over. What people should know of it stays until the instance's next run begins.
    fn over(&self, run: RunId) {
        self.with(|runs| match runs.get_mut(&run.to_u64()) {
            Some(known) if !known.warnings.is_empty() => known.addresses.clear(),
            _ => drop(runs.remove(&run.to_u64())),
        });
    }

    fn forget(&self, over: impl Fn(RunId) -> bool) {
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
struct Ear {
    queue: mpsc::UnboundedSender<Input>,
    /// Orders, and whether the keeper has them already.
    orders: mpsc::UnboundedSender<(Keep, bool)>,
    /// To the keeper, past the daemon's loop: what the engine has answered must not be lost with it.
    channel: Option<DirectChannel>,
    record: Record,
}

impl Outside for Ear {
    fn tell(&mut self, event: cluster::Event) {
        match event {
            cluster::Event::Listening { run, address } => {
                let text = address.to_string();
                self.record.with(|runs| {
                    let addresses = &mut runs.entry(run).or_default().addresses;
                    addresses.extend((!addresses.contains(&text)).then_some(text));
                });
                let RunId { instance, number } = RunId::from_u64(run);
                let _ = self.queue.send(Input::Fact { instance, event: Event::Listens { run: number } });
            }
            cluster::Event::Closed { run, address } => {
                let text = address.to_string();
                self.record.with(|runs| {
                    runs.get_mut(&run).into_iter().for_each(|known| known.addresses.retain(|it| *it != text));
                });
            }
            cluster::Event::Path { run, path, why } => self.record.with(|runs| {
                let known = runs.entry(run).or_default();
                (known.path, known.why) = (path.to_string(), why);
            }),
            cluster::Event::Warning { run, warning } => {
                tracing::warn!(run, "{warning}");
                self.record.with(|runs| {
                    let warnings = &mut runs.entry(run).or_default().warnings;
                    let text = warning.to_string();
                    warnings.extend((!warnings.contains(&text)).then_some(text));
                });
            }
        }
    }

    fn keep(&mut self, order: Keep) {
        let sent = self.channel.as_ref().is_some_and(|channel| {
            let (order, fd) = match &order {
                Keep::Store(name, fd) => (KeeperRequest::StoreFd { name: name.clone() }, Some(fd.as_fd())),
                Keep::Drop(name) => (KeeperRequest::RemoveFd { name: name.clone() }, None),
            };
            channel.send(&order, fd.map(|fd| (FdRole::Stored, fd)).as_slice())
        });
        let _ = self.orders.send((order, sent));
    }
}

/// The engine's outside, and a task that passes its orders on to the keeper.
pub fn outside(queue: mpsc::UnboundedSender<Input>, record: Record, link: KeeperLink) -> Box<dyn Outside> {
    let (orders, mut passed) = mpsc::unbounded_channel();
    let channel = link.duplicate();
    tokio::task::spawn_local(async move {
        while let Some((order, sent)) = passed.recv().await {
            let (order, fds) = match order {
                Keep::Store(name, fd) => (KeeperRequest::StoreFd { name }, vec![(FdRole::Stored, fd)]),
                Keep::Drop(name) => (KeeperRequest::RemoveFd { name }, Vec::new()),
            };
            match sent {
                true => link.sent(&order, &fds),
                false => link.send(order, fds),
            }
        }
    });
    Box::new(Ear { queue, orders, channel, record })
}

/// Notifiers that came with the news of a start, until the start is handled.
pub type Notifiers = Rc<RefCell<HashMap<u64, OwnedFd>>>;

/// The daemon's part in sharing ports.
pub struct Ports {
    cluster: Cluster,
    record: Record,
    notifiers: Notifiers,
    home: Home,
    /// What the kernel allows, by user; asked once.
    support: HashMap<Option<(u32, u32)>, Support>,
    apps: BTreeSet<String>,
    /// Runs that share ports, and have not ended.
    runs: HashSet<RunId>,
    /// The ways that were chosen for runs which are being started.
    ways: HashMap<RunId, (Path, String)>,
}

impl Ports {
    /// With an engine that runs.
    pub fn new(cluster: Cluster, record: Record, notifiers: Notifiers, home: Home) -> Self {
        let (support, apps, runs, ways) = (HashMap::new(), BTreeSet::new(), HashSet::new(), HashMap::new());
        Self { cluster, record, notifiers, home, support, apps, runs, ways }
    }

    /// Makes the engine know the apps that share ports, and forget those that are gone.
    pub fn follow(&mut self, instances: &BTreeMap<u32, Instance>) {
        let mut wanted: BTreeMap<&str, Settings> = BTreeMap::new();
        for instance in instances.values().filter(|instance| instance.spec.shares_ports()) {
            let settings = settings(&instance.spec);
            let settings = wanted.entry(&instance.spec.name).or_insert(settings);
            settings.slots.push(instance.number);
        }
        let gone: Vec<String> =
            self.apps.iter().filter(|app| !wanted.contains_key(app.as_str())).cloned().collect();
        for app in gone {
            self.cluster.forget(&*app);
            self.apps.remove(&app);
        }
        self.record.forget(|run| !instances.contains_key(&run.instance) && !self.runs.contains(&run));
        for (app, settings) in wanted {
            self.cluster.app(app, settings);
            self.apps.insert(app.to_owned());
        }
    }

    /// What is known of the ports of runs.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The way for a run of this app.
    ///
    /// # Errors
    /// There is none; in words for the user.
    pub fn way(&mut self, run: RunId, spec: &AppSpec, launch: &LaunchSpec) -> Result<Path, StartFailure> {
        let failed = |what| StartFailure { step: StartStep::Seccomp, errno: 0, subject: what };
        let (path, why) = self.choice(spec, gains_rights(&launch.program)).map_err(failed)?;
        self.ways.insert(run, (path, why));
        Ok(path)
    }

    /// The way that was chosen when a run was started; found again if another daemon did that.
    fn way_of(&mut self, run: RunId, instance: &Instance) -> Option<(Path, String)> {
        if let Some(way) = self.ways.remove(&run) {
            return Some(way);
        }
        let launch = launch::launch(run, instance, &self.home, Vec::new());
        let rights = launch.ok().and_then(|launch| gains_rights(&launch.program));
        self.choice(&instance.spec, rights).ok()
    }

    /// What the kernel allows the app's user is asked for once.
    fn choice(
        &mut self,
        spec: &AppSpec,
        gains_rights: Option<&'static str>,
    ) -> Result<(Path, String), String> {
        let user = spec.account.as_ref().map(|account| (account.uid, account.gid));
        let support = self.support.entry(user).or_insert_with(|| detect(user));
        let runtime = match &spec.launcher {
            Launcher::Interpreter { program, .. } => runtime_of(program),
            Launcher::Direct | Launcher::Shell | Launcher::Serve => None,
        };
        let node = matches!(runtime, Some(Runtime::Node | Runtime::NodeWrapper | Runtime::Tsx));
        choose(support, &Wanted { gains_rights, listens: !spec.listen.is_empty(), node })
    }

    /// Sockets for a run that cannot ask, to be passed with its start.
    pub fn passed(&self, run: RunId, instance: &Instance, way: Path, launch: LaunchSpec) -> Passing {
        let spec = &instance.spec;
        let uid =
            spec.account.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |account| account.uid);
        let (app, slot) = (spec.name.clone(), instance.number);
        // Another user cannot look into our home.
        let dir = if spec.account.is_some() { PathBuf::from(PUBLIC) } else { self.home.run() };
        let (cluster, listen) = (self.cluster.clone(), spec.listen.clone());
        Passing { cluster, dir, listen, way, launch, run: run.to_u64(), app, slot, uid }
    }

    /// A run's process is there.
    pub fn began(&mut self, run: RunId, instance: &Instance, notifier: Option<OwnedFd>) {
        let spec = &instance.spec;
        let Some(process) = instance.life.state.process().filter(|_| spec.shares_ports()) else { return };
        let notifier = notifier.or_else(|| self.notifiers.borrow_mut().remove(&run.to_u64()));
        let Some((path, why)) = self.way_of(run, instance) else { return };
        let leader = ProcessRef { pid: process.pid, start_time: process.start_time };
        let (app, slot) = (spec.name.clone(), instance.number);
        self.runs.insert(run);
        self.record.forget(|other| other.instance == run.instance && !self.runs.contains(&other));
        self.cluster.began(Began { run: run.to_u64(), app, slot, leader, path, why, notifier });
    }

    /// All runs that were there before this daemon have begun.
    pub fn all_began(&self) {
        self.cluster.all_began();
    }

    /// A run may get connections.
    pub fn ready(&self, run: RunId) {
        if self.runs.contains(&run) {
            self.cluster.ready(run.to_u64());
        }
    }

    /// A run is about to go.
    pub fn quiet(&self, run: RunId) {
        if self.runs.contains(&run) {
            self.cluster.quiet(run.to_u64());
        }
    }

    /// A run gets no new connections. Resolves once nobody waits for it any more.
    pub fn drained(&self, run: RunId) -> oneshot::Receiver<()> {
        self.quiet(run);
        self.cluster.drained(run.to_u64())
    }

    /// How checks come to a run's port.
    pub fn way_to(&self, run: RunId, port: u16) -> oneshot::Receiver<Way> {
        self.cluster.way_to(run.to_u64(), port)
    }

    /// Nothing of a run is left.
    pub fn ended(&mut self, run: RunId) {
        if self.runs.remove(&run) {
            self.cluster.ended(run.to_u64());
        }
        self.record.over(run);
        self.ways.remove(&run);
        self.notifiers.borrow_mut().remove(&run.to_u64());
    }

    /// No other run follows soon: clients are refused instead of waiting in vain.
    pub fn idle(&self, instance: &Instance) {
        if instance.spec.shares_ports() {
            self.cluster.abandon(&*instance.spec.name, instance.number);
        }
    }
}

/// What an app wants of its ports; the slots follow.
fn settings(spec: &AppSpec) -> Settings {
    let PortRules { udp, privileged } = spec.ports;
    let checks = spec.readiness.probe.iter().chain(&spec.health);
    let doors = checks.into_iter().any(|probe| !matches!(probe.check, Check::Exec(_)));
    Settings { balance: spec.balance, slots: Vec::new(), low_ports: privileged, udp, doors }
}

/// A start that waits for its sockets.
pub struct Passing {
    cluster: Cluster,
    dir: PathBuf,
    listen: Vec<String>,
    way: Path,
    launch: LaunchSpec,
    run: u64,
    app: String,
    slot: u32,
    uid: u32,
}

impl Passing {
    /// The launch with what was added to it, and the sockets that go with it.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub async fn open(self) -> Result<(LaunchSpec, Vec<OwnedFd>), StartFailure> {
        let failed = |what: String| StartFailure { step: StartStep::Seccomp, errno: 0, subject: what };
        let Self { cluster, dir, listen, way, mut launch, run, app, slot, uid } = self;
        let addresses: Result<Vec<Address>, String> = listen.iter().map(|text| text.parse()).collect();
        let addresses = addresses.map_err(failed)?;
        let opening = Opening { run, app, slot, uid, addresses: addresses.clone() };
        let sockets = match cluster.open(opening).await {
            Ok(opened) => opened.map_err(|failure| failed(failure.to_string()))?,
            Err(_) => return Err(failed("the daemon is shutting down".into())),
        };
        let script = cluster::passed::write_script(&dir).map_err(|error| failed(error.to_string()))?;
        let options =
            launch.env.iter().find_map(|pair| pair.strip_prefix("NODE_OPTIONS=")).unwrap_or_default();
        let passed = Passed::new(way, &addresses, &script, options);
        for (name, value) in passed.env {
            launch.env.retain(|pair| !pair.starts_with(&format!("{name}=")));
            launch.env.push(format!("{name}={value}"));
        }
        launch.fds.extend(passed.numbers);
        launch.listen_pid = way == Path::Listen;
        Ok((launch, sockets))
    }
}
