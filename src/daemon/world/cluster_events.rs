//! The cluster's connection to the daemon: its events become inputs and registry entries, its fd store
//! operations become requests to the keeper.
//!
//! The cluster calls this on its own thread. An operation is sent to the keeper before the app's system call
//! is answered, so that a crash of the daemon does not lose a socket that the app believes it has.

use std::os::fd::AsFd;

use tokio::sync::mpsc;

use crate::cluster::{ClusterEvent, ClusterHost, FdStoreOp};
use crate::daemon::supervisor::Input;
use crate::daemon::world::keeper_link::{DirectChannel, KeeperLink};
use crate::daemon::world::port_registry::PortRegistry;
use crate::instance::event::InstanceEvent;
use crate::instance::status::RunId;
use crate::keeper::protocol::{FdRole, KeeperRequest};

struct ClusterEvents {
    queue: mpsc::UnboundedSender<Input>,
    /// Operations for the loop, and whether the keeper already has them.
    fd_ops: mpsc::UnboundedSender<(FdStoreOp, bool)>,
    /// Sends to the keeper from this thread.
    channel: Option<DirectChannel>,
    registry: PortRegistry,
}

impl ClusterHost for ClusterEvents {
    fn publish(&mut self, event: ClusterEvent) {
        match event {
            ClusterEvent::Listening { run, address } => {
                let run = RunId::from_u64(run);
                self.registry.add_address(run, address.to_string());
                let event = InstanceEvent::Listening { run: run.number };
                let _ = self.queue.send(Input::InstanceEvent { instance: run.instance, event });
            }
            ClusterEvent::ListeningOnUnixSocket { run, path } => {
                let run = RunId::from_u64(run);
                // No sign of readiness: wrappers such as tsx listen on Unix sockets of their own before the app starts.
                self.registry.add_unix_socket(run, &path);
            }
            ClusterEvent::Closed { run, address } => {
                self.registry.remove_address(RunId::from_u64(run), &address.to_string());
            }
            ClusterEvent::Mechanism { run, mechanism, reason } => {
                self.registry.set_mechanism(RunId::from_u64(run), mechanism.to_string(), reason);
            }
            ClusterEvent::Warning { run, warning } => {
                tracing::warn!(run, "{warning}");
                self.registry.add_warning(RunId::from_u64(run), warning.to_string());
            }
        }
    }

    fn store_fd(&mut self, operation: FdStoreOp) {
        let sent = self.channel.as_ref().is_some_and(|channel| {
            let (request, fd) = match &operation {
                FdStoreOp::Store(name, fd) => {
                    (KeeperRequest::StoreFd { name: name.clone() }, Some(fd.as_fd()))
                }
                FdStoreOp::Remove(name) => (KeeperRequest::RemoveFd { name: name.clone() }, None),
            };
            channel.send(&request, fd.map(|fd| (FdRole::Stored, fd)).as_slice())
        });
        let _ = self.fd_ops.send((operation, sent));
    }
}

/// The host for the cluster's thread. Also starts the task that records the operations, or sends those that
/// the thread could not send.
pub fn cluster_host(
    queue: mpsc::UnboundedSender<Input>,
    registry: PortRegistry,
    link: KeeperLink,
) -> Box<dyn ClusterHost> {
    let (fd_ops, mut operations) = mpsc::unbounded_channel();
    let channel = link.duplicate();
    tokio::task::spawn_local(async move {
        while let Some((operation, sent)) = operations.recv().await {
            let (request, fds) = match operation {
                FdStoreOp::Store(name, fd) => (KeeperRequest::StoreFd { name }, vec![(FdRole::Stored, fd)]),
                FdStoreOp::Remove(name) => (KeeperRequest::RemoveFd { name }, Vec::new()),
            };
            match sent {
                true => link.record_sent(&request, &fds),
                false => link.send(request, fds),
            }
        }
    });
    Box::new(ClusterEvents { queue, fd_ops, channel, registry })
}
