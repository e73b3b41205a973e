//! Work of several steps, done as clients of the supervisor.

pub(super) mod autosave;
pub(super) mod autoscale;
pub(super) mod drift;
pub mod dump;
pub(super) mod layers;
pub(super) mod reload;
pub mod upgrade;
