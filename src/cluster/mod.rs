//! One port, many instances: kernel-balanced clustering of unmodified programs.
//!
//! Each slot of an app has sockets of its own, joined by the kernel in one `SO_REUSEPORT` group for
//! each address. A small program in the kernel chooses the socket for each new connection; no process of
//! ours is on the way. We hold a duplicate of each, so that connections wait for a slot's next run
//! instead of being refused.
//!
//! # How a program gets its socket
//!
//! Its `bind` and `listen` calls wait for our answer ([`seccomp`](crate::process::seccomp)). Without
//! a socket for that address in its slot, `bind` is done in its stead, in a way that lets other slots do the
//! same; `listen` too, so that the order of the group is known. A later run of the slot gets the same socket
//! put in place of its own. So `listen` is also an exact sign of readiness. [`Mechanism`] says which ways there
//! are, [`path::choose`] which one an app gets.
//!
//! # What the daemon does
//!
//! [`ClusterThread::start`] with what the keeper had stored; then, through the [`Cluster`] handle, whose
//! methods never wait:
//!
//! | when | call |
//! | --- | --- |
//! | an app is added or changed | [`Cluster::app`] |
//! | before a run starts | [`LaunchSpec::asks`](crate::process::spawn::LaunchSpec::asks) = [`Mechanism::calls`] |
//! | that has sockets passed ([`Mechanism::Listen`], [`Mechanism::Preload`]) | [`Cluster::open`], [`PassedSockets::new`] |
//! | it is spawned, or was there before this daemon | [`Cluster::began`] with the notifier that came with it |
//! | after its own start, once all runs were told | [`Cluster::all_began`] |
//! | it is ready | [`Cluster::ready`] |
//! | it is about to go | [`Cluster::quiet`], [`Cluster::drained`], then its signal |
//! | nothing of it is left | [`Cluster::ended`] |
//! | no replacement is coming | [`Cluster::abandon`] |
//! | the app is deleted | [`Cluster::forget`] |
//!
//! What happens comes back through [`ClusterHost::tell`] as an [`ClusterEvent`], what must outlive the daemon through
//! [`ClusterHost::keep`]: held sockets, the saved [`book`], and the calls that were heard of and not answered.
//! A call that comes while no daemon is there waits, as the keeper has the notifiers.
//!
//! # What is where
//!
//! Pure: `address` (what makes a group), `order` (its members as the kernel has them), `steer` (the
//! programs; `turns` for the privileged), `path`, `book` (all that is known). Acting: `engine` (commands), `bind`, `listen`
//! (answers), `adopt` (sockets of runs that nobody tells of), `passed` (sockets for those who cannot ask), `sweep` (sockets
//! that nobody uses), `even` (queues of different length), `thread` (the loop, the handle). `socket`, `look`,
//! `open` and `memory` are what they need of the system.

pub mod activation;
pub mod address;
mod adopt;
mod calls;
mod engine;
pub mod event;
pub mod group;
mod handle;
pub mod mechanism;
mod memfd_document;
mod open_sockets;
mod sockets;
pub mod state;
pub mod steering;
mod sys;
mod unused;

pub use crate::cluster::activation::{OpenError, OpenRequest, PassedSockets};
pub use crate::cluster::handle::{Cluster, ClusterThread};
pub use crate::cluster::mechanism::Mechanism;
pub use crate::cluster::open_sockets::TreeContext;
pub use crate::cluster::state::PortSettings;
pub use crate::spec::Balance;
pub use address::{Address, Protocol};
pub use engine::{ProbeTarget, RunStarted, SocketInfo};
pub use event::{ClusterEvent, ClusterHost, FdStoreOp, PortWarning};
