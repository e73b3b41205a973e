//! rsm.
pub mod config;
pub mod instance;
pub mod ipc;
pub mod paths;
pub mod spec;
