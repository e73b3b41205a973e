//! The outside as the supervisor sees it: one trait.
//!
//! `daemon/effects.rs` performs it for real; the simulation in `tests/simulation` plays it. Nothing
//! here may block or fail: what comes of a call comes back as an [`Input`](super::supervisor::Input).

use std::collections::BTreeMap;

use crate::instance::Instance;
use crate::instance::state::RunProcess;
use crate::instance::status::RunId;
use crate::ipc::message::EventView;

/// What a supervisor can do to the outside.
pub trait World {
    /// The time.
    fn now(&self) -> crate::time::Moment;

    /// Starts a process for a run. Comes back as `Spawned` or `SpawnFailed`, later as `Exited`.
    fn spawn(&mut self, run: RunId, instance: &Instance);

    /// Sends the app's stop signal to the run's tree, or its first process, as its spec says.
    fn stop(&mut self, run: RunId, process: RunProcess, instance: &Instance);

    /// Lets a run have no new connections. Comes back as `Drained` once nobody waits for it.
    fn drain(&mut self, run: RunId);

    /// Lets a run have no new connections while there is another that may; [`World::ready`] takes it back.
    fn pause_traffic(&mut self, run: RunId);

    /// SIGKILLs the run's whole tree.
    fn kill(&mut self, run: RunId, process: RunProcess);

    /// Looks for what is left of a run's tree and ends it, by SIGKILL or SIGTERM. Comes back as
    /// `Swept`.
    fn clean_up_tree(&mut self, run: RunId, process: RunProcess, kill: bool);

    /// Sends any signal to the first process of a run.
    fn signal(&mut self, run: RunId, number: i32);

    /// The run is over and recorded: lets go of what is kept for it, once that is saved.
    fn release_run(&mut self, run: RunId);

    /// Sends `Due` to this instance at this time of the monotonic clock.
    fn set_timer(&mut self, instance: u32, at: u64);

    /// A run is ready: it may get connections.
    fn on_ready(&mut self, run: RunId);

    /// Where an instance's run listens at a port it shares, and another does not.
    fn missing_ports(&self, old: RunId, new: RunId) -> Vec<String>;

    /// What people should know of the ports of an instance's runs after this one.
    fn port_warnings(&self, last: RunId) -> Vec<String>;

    /// Nothing runs for this instance, and nothing will soon.
    fn on_slot_idle(&mut self, instance: &Instance);

    /// An instance has a process now.
    fn on_run_started(&mut self, instance: &Instance);

    /// The process that an instance is known by is this one now, or none any more.
    fn write_pid_file(&mut self, instance: &Instance, pid: Option<i32>);

    /// Publishes what happened.
    fn publish(&mut self, event: EventView);

    /// Apps were added, removed or changed.
    fn on_apps_changed(&mut self, instances: &BTreeMap<u32, Instance>);

    /// Saves what must be known after a crash. An `urgent` one is taken at once; another may be put
    /// off (false), and is asked for again by `Input::SaveDue`.
    fn save(&mut self, urgent: bool, state: &dyn Fn() -> Vec<u8>) -> bool;

    /// All inputs at hand are handled: does what was put together meanwhile.
    fn flush(&mut self);
}
