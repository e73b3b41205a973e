//! Capture: moves the output pipes of apps into log files.

pub(super) mod assign;
pub(super) mod dropped;
pub(super) mod format;
pub(super) mod journal;
pub(super) mod lines;
pub(super) mod partial;
pub(super) mod peek;
pub(super) mod pump;
pub(super) mod shared;
pub(super) mod stream;
pub(super) mod worker;
