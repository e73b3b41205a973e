//! rsm.
pub mod daemon;
pub mod instance;
pub mod ipc;
pub mod paths;
pub mod serve;
pub mod spec;
