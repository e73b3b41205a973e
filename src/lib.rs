//! rsm.
pub mod config;
pub mod instance;
pub mod ipc;
pub mod keeper;
pub mod moment;
pub mod logs;
pub mod paths;
pub mod process;
pub mod spec;
