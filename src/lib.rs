//! rsm.
pub mod instance;
pub mod ipc;
pub mod logs;
pub mod paths;
pub mod spec;
