//! The interface of the supervisor to the outside, as small traits; [`World`] is their sum.
//!
//! `daemon::world` implements it for the system; `tests/simulation` implements a simulated world. No method may block
//! or fail: results come back as an [`Input`](super::Input).

use std::collections::BTreeMap;

use crate::instance::Instance;
use crate::instance::state::{CleanUp, RunProcess};
use crate::instance::status::RunId;
use crate::ipc::message::EventView;
use crate::process::tree::Activity;
use crate::spec::StopPolicy;
use crate::time::Moment;

/// Everything that a supervisor needs of the outside.
pub trait World: Clock + ProcessControl + PortControl + Persistence + EventSink {}

impl<T: Clock + ProcessControl + PortControl + Persistence + EventSink> World for T {}

/// Time and timers.
pub trait Clock {
    /// The current time.
    fn now(&self) -> Moment;

    /// Sends `TimerFired` to an instance at this time of the monotonic clock, in milliseconds.
    fn set_timer(&mut self, instance: u32, at: u64);
}

/// Processes of runs.
pub trait ProcessControl {
    /// Starts a process. Answered by `Spawned` or `SpawnFailed`, later by `Exited`.
    fn spawn(&mut self, run: RunId, instance: &Instance);

    /// Sends the app's stop signal to the processes that the spec says.
    fn stop(&mut self, run: RunId, process: RunProcess, instance: &Instance);

    /// Sends SIGKILL to the tree.
    fn kill(&mut self, run: RunId, process: RunProcess, policy: &StopPolicy);

    /// Ends the remaining processes of a tree. Answered by `TreeChecked`.
    fn clean_up_tree(&mut self, run: RunId, process: RunProcess, mode: CleanUp, policy: &StopPolicy);

    /// Sends a signal to the first process.
    fn signal(&mut self, run: RunId, number: i32);

    /// What the processes of a run do.
    fn activity(&self, process: RunProcess) -> Activity;

    /// The run is over and recorded: releases its resources once that is saved.
    fn release_run(&mut self, run: RunId);

    /// An instance has a process now.
    fn on_run_started(&mut self, instance: &Instance);

    /// All inputs at hand are handled: performs the clean-ups that were collected.
    fn flush(&mut self);
}

/// Shared ports, and which runs get connections.
pub trait PortControl {
    /// Routes no new connections to a run. Answered by `Drained` once it has no open ones.
    fn drain(&mut self, run: RunId);

    /// Routes no new connections to a run while another one can take them. [`PortControl::on_ready`] undoes it.
    fn pause_traffic(&mut self, run: RunId);

    /// A run is ready: it may get connections.
    fn on_ready(&mut self, run: RunId);

    /// The shared ports on which the old run of an instance listens and the new one does not.
    fn missing_ports(&self, old: RunId, new: RunId) -> Vec<String>;

    /// Whether a run listens on Unix sockets and nowhere else: they cannot be shared with a replacement.
    fn has_only_unix_sockets(&self, run: RunId) -> bool;

    /// Warnings for users about the ports of runs after this one of the same instance.
    fn port_warnings(&self, last: RunId) -> Vec<String>;

    /// Nothing runs for an instance, and no start follows soon.
    fn on_slot_idle(&mut self, instance: &Instance);
}

/// Files.
pub trait Persistence {
    /// Saves the state. An urgent one is saved now; another may be put off: then the result is false, and
    /// `Input::SaveDue` follows.
    fn save(&mut self, urgent: bool, state: &dyn Fn() -> Vec<u8>) -> bool;

    /// Writes the pid file of an instance, or removes it.
    fn write_pid_file(&mut self, instance: &Instance, pid: Option<i32>);
}

/// Notifications.
pub trait EventSink {
    /// Publishes an event to subscribers.
    fn publish(&mut self, event: EventView);

    /// Apps were added, removed or changed.
    fn on_apps_changed(&mut self, instances: &BTreeMap<u32, Instance>);
}
