//! Port sharing: several instances of an unmodified program on one port, balanced by the kernel.
//!
//! Each slot of an app has its own sockets, which the kernel joins to one `SO_REUSEPORT` group per address. A BPF
//! program chooses the socket for each new connection; no process of rsm handles connections. rsm holds a duplicate of
//! each socket, so that connections wait for the next run of a slot instead of being refused.
//!
//! # How a program gets its socket
//!
//! Its `bind` and `listen` calls wait for an answer of rsm ([`seccomp`](crate::process::seccomp)). If the slot has no
//! socket for the address, rsm binds one in a way that allows other slots to bind the address, too. It also calls
//! `listen`, so that the order of the group is known. A later run of the slot gets the held socket instead of its own.
//! `listen` is therefore an exact sign of readiness. [`Mechanism`] lists the mechanisms,
//! [`mechanism::choose_mechanism`] chooses one.
//!
//! # Calls of the daemon
//!
//! [`ClusterThread::start`] with what the keeper has stored, then the methods of [`Cluster`], which never block:
//!
//! | when | call |
//! | --- | --- |
//! | an app is added or changed | [`Cluster::set_app`] |
//! | before a run starts | [`Mechanism::supervised_calls`] for its [`LaunchSpec`](crate::process::spawn::LaunchSpec) |
//! | … with socket activation | [`Cluster::open_sockets`], [`PassedSockets::new`] |
//! | a run has started, or continues from a previous daemon | [`Cluster::run_started`] with its notifier |
//! | all runs from a previous daemon are registered | [`Cluster::recovery_complete`] |
//! | a run is ready | [`Cluster::set_ready`] |
//! | before a run is stopped | [`Cluster::drain`], [`Cluster::wait_drained`], then its signal |
//! | a run and all its processes have ended | [`Cluster::run_ended`] |
//! | no other run of the slot follows | [`Cluster::retire_slot`] |
//! | an app is deleted | [`Cluster::remove_app`] |
//!
//! [`ClusterHost::publish`] receives [`ClusterEvent`]s; [`ClusterHost::store_fd`] receives what must outlive the daemon:
//! held sockets, the saved state, and pending calls. A call that arrives without a daemon waits, because the keeper has
//! the notifiers.
//!
//! # Files
//!
//! | | |
//! | --- | --- |
//! | pure | `state` (saved), `group`, `address`, `mechanism`, `event`, `steering::cbpf`, programs of `steering::round_robin` |
//! | owners | `sockets` (descriptors), `runs` (live runs), `unused` (schedule of checks), `watch` (closed listeners), `steering::attach` (groups served in turns), `calls::pending` |
//! | acting | `engine` (commands), `calls` (answers), `activation`, `handle` (thread and event loop) |
//! | system | `sys`, `memfd_document`, `stored` (names in the fd store) |

pub mod activation;
mod address;
mod calls;
mod engine;
mod event;
mod group;
mod handle;
pub mod mechanism;
mod memfd_document;
mod runs;
mod sockets;
mod state;
mod steering;
mod stored;
mod sys;
mod unused;
mod watch;

pub use crate::cluster::activation::{OpenError, OpenRequest, PassedSockets};
pub use crate::cluster::address::{Address, Protocol};
pub use crate::cluster::engine::SocketInfo;
pub use crate::cluster::event::{ClusterEvent, ClusterHost, FdStoreOp, PortWarning};
pub use crate::cluster::handle::{Cluster, ClusterThread};
pub use crate::cluster::mechanism::Mechanism;
pub use crate::cluster::runs::{RunStarted, TreeContext};
pub use crate::cluster::state::PortSettings;
pub use crate::cluster::steering::ProbeTarget;
pub use crate::spec::Balance;
