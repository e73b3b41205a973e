//! Jobs: work of several steps, as clients of the supervisor. They own no state of instances.

pub(super) mod autosave;
pub(super) mod autoscale;
pub(super) mod drift;
pub(crate) mod dump;
pub(super) mod layers;
pub(super) mod reload;
pub(crate) mod upgrade;
