//! Starting a run: its log files, pipes, ports and voices, then the order to the keeper.
//!
//! It waits for the disk of the logs and for sockets, so it goes on beside the loop.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use crate::daemon::supervisor::Input;
use crate::daemon::world::keeper_link::KeeperLink;
use crate::daemon::world::limits::ResourceLimiter;
use crate::daemon::world::node_channel;
use crate::daemon::world::node_channel::NodeChannels;
use crate::daemon::world::notify_socket;
use crate::daemon::world::notify_socket::NotifyListener;
use crate::daemon::world::ports::PortSharing;
use crate::exit::{StartFailure, StartStep};
use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::launch;
use crate::instance::status::RunId;
use crate::keeper::protocol::{FdRole, KeeperRequest, RoleFd};
use crate::logs::{self, LogHandle, RunOutput};
use crate::paths::Home;
use crate::process::memfd;
use crate::process::spawn::LaunchSpec;
use crate::process::spawn::stdio;

/// What starting a run takes. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct RunStarter {
    /// Where files lie.
    pub home: Home,
    /// The keeper.
    pub keeper: KeeperLink,
    /// The log thread.
    pub logs: LogHandle,
    /// Back into the loop.
    pub queue: mpsc::UnboundedSender<Input>,
    /// Shared ports.
    pub ports: Rc<RefCell<PortSharing>>,
    /// Runs that are heard through a notify socket.
    pub notify_listeners: Rc<RefCell<HashMap<RunId, NotifyListener>>>,
    /// Node's channels.
    pub channels: NodeChannels,
    /// Hard limits.
    pub limiter: ResourceLimiter,
}

impl RunStarter {
    /// Reads a run's output from now on.
    pub fn attach_logs(&self, instance: &Instance, run: RunId, out: OwnedFd, err: OwnedFd) {
        self.logs.attach(self.run_output(instance, run, out, err));
    }

    fn run_output(&self, instance: &Instance, run: RunId, out: OwnedFd, err: OwnedFd) -> RunOutput {
        let spec = instance.spec();
        RunOutput {
            id: instance.id(),
            name: spec.name.clone(),
            run: run.to_u64(),
            out,
            err,
            files: logs::log_files(spec, instance.id(), &self.home),
            format: spec.logs.format,
            date_format: spec.logs.date_format.clone(),
            rotation: Arc::new(spec.logs.rotation.clone()),
        }
    }

    /// Hears from now on what a run says through one of these: a notify socket or Node's channel.
    pub fn attach_control_socket(&self, run: RunId, instance: &Instance, role: FdRole, voice: OwnedFd) {
        // To one that is not waited for, `ready` is a word between programs.
        let waits = instance.spec().readiness.wait_ready;
        let queue = self.queue.clone();
        let ready = move || {
            let event = InstanceEvent::Ready { run: run.number };
            if waits {
                let _ = queue.send(Input::InstanceEvent { instance: run.instance, event });
            }
        };
        if role == FdRole::NodeChannel {
            return self.channels.open(run, voice, ready);
        }
        let former = self.notify_listeners.borrow_mut().insert(run, notify_socket::listen(voice, ready));
        former.into_iter().for_each(|hearing| hearing.task.abort());
    }

    /// Tells when a run says that it works.
    pub fn watchdog_pings(&self, run: RunId) -> Option<Rc<Notify>> {
        self.notify_listeners.borrow().get(&run).map(|hearing| hearing.watchdog_pings.clone())
    }

    /// Hears a run no more.
    pub fn detach_control_socket(&self, run: RunId) {
        self.channels.close(run);
        let hearing = self.notify_listeners.borrow_mut().remove(&run);
        hearing.into_iter().for_each(|hearing| hearing.task.abort());
    }

    /// Starts a run, as far as that is ours to do.
    ///
    /// # Errors
    /// A step failed; nothing is left of it.
    pub async fn start(&self, run: RunId, instance: &Instance) -> Result<(), StartFailure> {
        let numbers = vec![libc::STDOUT_FILENO, libc::STDERR_FILENO];
        let launch = launch::launch_spec(run, instance, &self.home, numbers)?;
        let (mut launch, sockets) = self.with_ports(run, instance, launch).await?;
        let no_pipe =
            |errno| StartFailure { step: StartStep::Pipes, errno: errno as i32, subject: String::new() };
        let uid = instance.spec().account.as_ref().map(|account| account.uid);
        let out = stdio::output_pipe(uid).map_err(no_pipe)?;
        let err = stdio::output_pipe(uid).map_err(no_pipe)?;
        let kept = |fd: &OwnedFd| fd.try_clone().map_err(|_| no_pipe(nix::Error::EMFILE));
        let mut keep = vec![(FdRole::Stdout, kept(&out.0)?), (FdRole::Stderr, kept(&err.0)?)];
        let mut given = vec![(FdRole::Stdout, out.1), (FdRole::Stderr, err.1)];
        given.extend(sockets.into_iter().map(|socket| (FdRole::Activation, socket)));
        launch.limits = self.limiter.enforcement_for(run, instance);
        for (role, voice) in control_sockets(instance, &mut launch, &mut given).map_err(no_pipe)? {
            keep.push((role, kept(&voice)?));
            self.attach_control_socket(run, instance, role, voice);
        }
        launch.fds.push(libc::STDIN_FILENO);
        given.push((FdRole::Stdin, stdio::input_pipe(uid).map_err(no_pipe)?));
        self.logs.attach_checked(self.run_output(instance, run, out.0, err.0)).await.map_err(
            |(path, error)| {
                self.detach_control_socket(run);
                let (what, errno) = (path.display().to_string(), error.raw_os_error().unwrap_or(0));
                StartFailure { step: StartStep::Logs, errno, subject: what }
            },
        )?;
        self.send_spawn(run, &launch, given, keep)
    }

    /// How its ports are shared, if they are: the launch as that wants it, and sockets to go with it.
    async fn with_ports(
        &self,
        run: RunId,
        instance: &Instance,
        mut launch: LaunchSpec,
    ) -> Result<(LaunchSpec, Vec<OwnedFd>), StartFailure> {
        if !instance.spec().shares_ports() {
            return Ok((launch, Vec::new()));
        }
        let way = self.ports.borrow_mut().choose_mechanism(run, instance.spec(), &launch)?;
        launch.supervised_calls = way.supervised_calls();
        if launch.supervised_calls.is_some() {
            return Ok((launch, Vec::new()));
        }
        let passing = self.ports.borrow().prepare_activation(run, instance, way, launch);
        passing.open().await
    }

    /// Asks the keeper for a process: with the descriptors `given` to it, and those to `keep` for the
    /// next daemon.
    fn send_spawn(
        &self,
        run: RunId,
        launch: &LaunchSpec,
        given: Vec<RoleFd>,
        keep: Vec<RoleFd>,
    ) -> Result<(), StartFailure> {
        // The keeper's child decodes it; a file, since it may be longer than any packet.
        let bytes = serde_json::to_vec(launch).unwrap_or_default();
        let failed =
            |errno| StartFailure { step: StartStep::Fork, errno: errno as i32, subject: String::new() };
        let file = memfd::with_contents(c"rsm-launch", &bytes).map_err(failed)?;
        let order = KeeperRequest::Spawn { run: run.to_u64(), child_fds: given.len() as u64 };
        self.keeper
            .send(order, [(FdRole::Launch, file.into())].into_iter().chain(given).chain(keep).collect());
        Ok(())
    }
}

/// Our ends of what a run can say through; the app's go with its launch.
fn control_sockets(
    instance: &Instance,
    launch: &mut LaunchSpec,
    given: &mut Vec<RoleFd>,
) -> nix::Result<Vec<RoleFd>> {
    let spec = instance.spec();
    let mut voices = Vec::new();
    if spec.readiness.wait_ready || spec.watchdog.is_some() {
        let (socket, name) = notify_socket::new_notify_socket()?;
        launch.env.push(format!("NOTIFY_SOCKET={name}"));
        let limit = spec.watchdog.map(|limit| format!("WATCHDOG_USEC={}", limit.saturating_mul(1000)));
        launch.env.extend(limit);
        voices.push((FdRole::NotifySocket, socket));
    }
    if spec.readiness.wait_ready || spec.stop.by_message || node_channel::uses_node_channel(spec) {
        let (ours, theirs) = node_channel::channel_pair()?;
        // The lowest free number: Node closes only low ones in the programs that it starts.
        let number = launch.fds.iter().fold(libc::STDERR_FILENO, |most, fd| most.max(*fd)) + 1;
        launch.env.push(format!("NODE_CHANNEL_FD={number}"));
        launch.env.push("NODE_CHANNEL_SERIALIZATION_MODE=json".to_owned());
        // With our end beside its own the app never sees the channel break, whoever of us dies.
        launch.fds.extend([number, number + 1]);
        let copy = ours.try_clone().map_err(|_| nix::Error::EMFILE)?;
        given.extend([(FdRole::NodeChannel, theirs), (FdRole::NodeChannel, copy)]);
        voices.push((FdRole::NodeChannel, ours));
    }
    Ok(voices)
}
