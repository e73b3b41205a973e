//! rsm.
pub mod instance;
pub mod ipc;
pub mod keeper;
pub mod paths;
pub mod process;
pub mod spec;
