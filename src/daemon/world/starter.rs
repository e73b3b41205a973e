//! Starts runs: prepares log files, pipes, ports and control sockets, then requests the spawn from the keeper.
//!
//! Log disks and sockets can be slow, so a start is a task beside the loop. A failed start leaves nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::{Notify, mpsc};

use crate::cluster::mechanism::privilege_source;
use crate::daemon::supervisor::Input;
use crate::daemon::world::keeper_link::KeeperLink;
use crate::daemon::world::limits::ResourceLimiter;
use crate::daemon::world::node_channel::{self, NodeChannels};
use crate::daemon::world::notify_socket::{self, NotifyListener};
use crate::daemon::world::ports::PortSharing;
use crate::exit::{StartFailure, StartStep};
use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::launch;
use crate::instance::status::RunId;
use crate::keeper::protocol::{FdRole, KeeperRequest, RoleFd};
use crate::logs::{self, LogHandle, RunOutput};
use crate::paths::Home;
use crate::process::process_ref::ProcessRef;
use crate::process::spawn::{LaunchSpec, stdio};
use crate::process::{detached, memfd};
use crate::secure_fs::FileUser;

/// How long to wait between attempts to reopen the pipes of an app that blocks this.
const REOPEN_INTERVAL: Duration = Duration::from_secs(2);

/// How long looking up a program may take.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts runs and owns their control sockets. All clones share these.
#[derive(Clone)]
pub struct RunStarter {
    pub home: Home,
    pub keeper: KeeperLink,
    pub logs: LogHandle,
    pub queue: mpsc::UnboundedSender<Input>,
    pub ports: Rc<RefCell<PortSharing>>,
    pub notify_listeners: Rc<RefCell<HashMap<RunId, NotifyListener>>>,
    pub node_channels: NodeChannels,
    pub limiter: ResourceLimiter,
}

impl RunStarter {
    /// Captures the output of a run that is already started.
    pub fn attach_logs(&self, instance: &Instance, run: RunId, out: OwnedFd, err: OwnedFd) {
        self.logs.attach(self.run_output(instance, run, out, err));
    }

    fn run_output(&self, instance: &Instance, run: RunId, out: OwnedFd, err: OwnedFd) -> RunOutput {
        let spec = instance.spec();
        RunOutput {
            id: instance.id(),
            name: spec.name.clone(),
            run: run.to_u64(),
            out: Arc::new(out),
            err: Arc::new(err),
            files: logs::log_files(spec, instance.id(), &instance.file_name(), &self.home),
            fallback: logs::default_log_files(spec, instance.id(), &instance.file_name(), &self.home),
            user: FileUser::of(spec.account.as_ref()),
            format: spec.logs.format,
            date_format: spec.logs.date_format.clone(),
            rotation: Arc::new(spec.logs.rotation.clone()),
        }
    }

    /// Reopens the output pipes of a running process as soon as it does not block that any more.
    pub fn attach_logs_later(&self, instance: &Instance, run: RunId, process: ProcessRef) {
        let (starter, instance) = (self.clone(), instance.clone());
        let subject =
            format!("reopening the output pipes of app {} (pid {})", instance.spec().name, process.pid);
        tokio::task::spawn_local(async move {
            while process.is_running() {
                let reopen = move || stdio::reopen_output_pipes(process);
                if let Ok(pipes) = detached::run(subject.clone(), REOPEN_INTERVAL, reopen).await {
                    let [out, err] = pipes.map(|pipe| pipe.or_else(|| stdio::closed_pipe().ok()));
                    if let (Some(out), Some(err)) = (out, err) {
                        starter.attach_logs(&instance, run, out, err);
                    }
                    return;
                }
                tokio::time::sleep(REOPEN_INTERVAL).await;
            }
        });
    }

    /// Receives the messages of a run on a notify socket or Node channel.
    pub fn attach_control_socket(&self, run: RunId, instance: &Instance, role: FdRole, socket: OwnedFd) {
        let uid = instance.spec().account.as_ref().map(|account| account.uid);
        // Without `wait_ready`, `ready` is not meant for rsm.
        let wait_ready = instance.spec().readiness.wait_ready;
        let queue = self.queue.clone();
        let ready = move || {
            let event = InstanceEvent::Ready { run: run.number };
            if wait_ready {
                let _ = queue.send(Input::InstanceEvent { instance: run.instance, event });
            }
        };
        if role == FdRole::NodeChannel {
            return self.node_channels.open(run, socket, ready);
        }
        self.notify_listeners.borrow_mut().insert(run, NotifyListener::start(socket, uid, ready));
    }

    /// Notified at each `WATCHDOG=1` of a run.
    pub fn watchdog_pings(&self, run: RunId) -> Option<Rc<Notify>> {
        self.notify_listeners.borrow().get(&run).map(NotifyListener::watchdog_pings)
    }

    /// Closes the control sockets of a run.
    pub fn detach_control_socket(&self, run: RunId) {
        self.node_channels.close(run);
        self.notify_listeners.borrow_mut().remove(&run);
    }

    /// Prepares a run and requests its spawn.
    ///
    /// # Errors
    /// A step failed; everything that was created is closed.
    pub async fn start(&self, run: RunId, instance: &Instance) -> Result<(), StartFailure> {
        let numbers = vec![libc::STDOUT_FILENO, libc::STDERR_FILENO];
        let (launch, privileges) = self.look_up(run, instance, numbers).await?;
        let (mut launch, sockets) = self.with_ports(run, instance, launch, privileges).await?;
        let uid = instance.spec().account.as_ref().map(|account| account.uid);
        let out = stdio::output_pipe(uid).map_err(pipe_failure)?;
        let err = stdio::output_pipe(uid).map_err(pipe_failure)?;
        let duplicate = |fd: &OwnedFd| fd.try_clone().map_err(|_| pipe_failure(Errno::EMFILE));
        let mut keeper_fds = vec![(FdRole::Stdout, duplicate(&out.0)?), (FdRole::Stderr, duplicate(&err.0)?)];
        let mut child_fds = vec![(FdRole::Stdout, out.1), (FdRole::Stderr, err.1)];
        child_fds.extend(sockets.into_iter().map(|socket| (FdRole::Activation, socket)));
        launch.limits = self.limiter.enforcement_for(run, instance);
        for (role, socket) in
            create_control_sockets(instance, &mut launch, &mut child_fds).map_err(pipe_failure)?
        {
            keeper_fds.push((role, duplicate(&socket)?));
            self.attach_control_socket(run, instance, role, socket);
        }
        launch.fds.push(libc::STDIN_FILENO);
        child_fds.push((FdRole::Stdin, stdio::input_pipe(uid).map_err(pipe_failure)?));
        let attached = self.logs.attach_checked(self.run_output(instance, run, out.0, err.0)).await;
        attached.map_err(|(path, error)| {
            self.detach_control_socket(run);
            let (subject, errno) = (path.display().to_string(), error.raw_os_error().unwrap_or(0));
            StartFailure { step: StartStep::Logs, errno, subject }
        })?;
        self.send_spawn(run, &launch, child_fds, keeper_fds)
    }

    /// Looks up the program, and what gives it privileges. A directory of `PATH` may be on a disk that does not
    /// respond.
    async fn look_up(
        &self,
        run: RunId,
        instance: &Instance,
        fds: Vec<i32>,
    ) -> Result<(LaunchSpec, Option<&'static str>), StartFailure> {
        let (app, home, shares_ports) = (instance.clone(), self.home.clone(), instance.spec().shares_ports());
        let work = move || {
            let launch = launch::launch_spec(run, &app, &home, fds)?;
            let privileges = if shares_ports { privilege_source(&launch.program) } else { None };
            Ok((launch, privileges))
        };
        let subject = format!("looking up the program of app {}", instance.spec().name);
        let timed_out = |_| StartFailure {
            step: StartStep::LookUp,
            errno: libc::ETIMEDOUT,
            subject: launch::argv(instance.spec()).swap_remove(0),
        };
        detached::run(subject, LOOK_UP_TIMEOUT, work).await.map_err(timed_out)?
    }

    /// Adapts the launch to how the ports of the app are shared; also returns the sockets to pass to the run.
    async fn with_ports(
        &self,
        run: RunId,
        instance: &Instance,
        mut launch: LaunchSpec,
        privilege_source: Option<&'static str>,
    ) -> Result<(LaunchSpec, Vec<OwnedFd>), StartFailure> {
        if !instance.spec().shares_ports() {
            return Ok((launch, Vec::new()));
        }
        let mechanism = self.ports.borrow_mut().choose_mechanism(run, instance.spec(), privilege_source)?;
        launch.supervised_calls = mechanism.supervised_calls();
        if launch.supervised_calls.is_some() {
            return Ok((launch, Vec::new()));
        }
        let activation = self.ports.borrow().prepare_activation(run, instance, mechanism, launch);
        activation.open().await
    }

    /// Requests a process from the keeper: `child_fds` are passed to the process, `keeper_fds` are kept for the
    /// next daemon.
    fn send_spawn(
        &self,
        run: RunId,
        launch: &LaunchSpec,
        child_fds: Vec<RoleFd>,
        keeper_fds: Vec<RoleFd>,
    ) -> Result<(), StartFailure> {
        // A file, because it can be larger than a packet. The keeper's child decodes it.
        let bytes = serde_json::to_vec(launch).unwrap_or_default();
        let fork_failure =
            |errno| StartFailure { step: StartStep::Fork, errno: errno as i32, subject: String::new() };
        let file = memfd::with_contents(c"rsm-launch", &bytes).map_err(fork_failure)?;
        let request = KeeperRequest::Spawn { run: run.to_u64(), child_fds: child_fds.len() as u64 };
        let fds = [(FdRole::Launch, file.into())].into_iter().chain(child_fds).chain(keeper_fds);
        self.keeper.send(request, fds.collect());
        Ok(())
    }
}

fn pipe_failure(errno: Errno) -> StartFailure {
    StartFailure { step: StartStep::Pipes, errno: errno as i32, subject: String::new() }
}

/// Creates the control sockets that an app needs. Returns the daemon's ends; the app's ends are added to
/// `child_fds`.
fn create_control_sockets(
    instance: &Instance,
    launch: &mut LaunchSpec,
    child_fds: &mut Vec<RoleFd>,
) -> nix::Result<Vec<RoleFd>> {
    let spec = &instance.spec();
    let mut sockets = Vec::new();
    if spec.readiness.wait_ready || spec.watchdog.is_some() {
        let (socket, name) = notify_socket::new_notify_socket()?;
        launch.env.push(format!("NOTIFY_SOCKET={name}"));
        let limit = spec.watchdog.map(|limit| format!("WATCHDOG_USEC={}", limit.saturating_mul(1000)));
        launch.env.extend(limit);
        sockets.push((FdRole::NotifySocket, socket));
    }
    if spec.readiness.wait_ready || spec.stop.by_message || node_channel::uses_node_channel(spec) {
        let (daemon_end, app_end) = node_channel::channel_pair()?;
        // The lowest free number: Node closes only low descriptors in the programs that it starts.
        let number = launch.fds.iter().fold(libc::STDERR_FILENO, |highest, fd| highest.max(*fd)) + 1;
        launch.env.push(format!("NODE_CHANNEL_FD={number}"));
        launch.env.push("NODE_CHANNEL_SERIALIZATION_MODE=json".to_owned());
        // The app also gets a copy of the daemon's end, so that it sees no disconnect if daemon and keeper die.
        launch.fds.extend([number, number + 1]);
        let copy = daemon_end.try_clone().map_err(|_| Errno::EMFILE)?;
        child_fds.extend([(FdRole::NodeChannel, app_end), (FdRole::NodeChannel, copy)]);
        sockets.push((FdRole::NodeChannel, daemon_end));
    }
    Ok(sockets)
}
