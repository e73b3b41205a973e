//! Asking before a program binds and listens: seccomp's user notification.
//!
//! The child installs a filter between fork and exec ([`install`]). From then on its `bind` and
//! `listen` calls, and those of all its descendants, wait until whoever holds the [`Notifier`]
//! answers. All other calls pass at the cost of some nanoseconds. [`detect`] says how much of this the
//! kernel and the container we run in allow.
//!
//! Numbers and layouts are the kernel's: `linux/seccomp.h`, `linux/audit.h`, and the tables of system
//! calls.

mod caller;
mod filter;
mod notify;
mod support;

pub use caller::{Caller, SocketFd, pidfd_getfd, read_memory};
pub use filter::{CallKind, SupervisedCalls, install};
pub use notify::{Notification, Notifier};
pub use support::{Support, detect};
