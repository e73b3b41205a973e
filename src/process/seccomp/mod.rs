//! Supervised system calls of apps, with seccomp user notification.
//!
//! The child installs a filter between fork and exec ([`install`]). From then on, each `bind` and `listen`
//! call of the child and its descendants waits until the owner of the [`Notifier`] responds. All other calls
//! continue after a few nanoseconds. [`detect`] tests what kernel and container allow.
//!
//! Numbers and layouts are from `linux/seccomp.h`, `linux/audit.h` and the kernel's system call tables.

mod caller;
mod filter;
mod notify;
mod support;

pub use caller::{Caller, SocketFd, pidfd_getfd, read_memory};
pub use filter::{CallKind, SupervisedCalls, install};
pub use notify::{Notification, Notifier};
pub use support::{Support, detect};
