//! rsm.
pub mod cli;
pub mod config;
pub mod daemon;
pub mod error;
pub mod instance;
pub mod ipc;
pub mod keeper;
pub mod logs;
pub mod metrics;
pub mod moment;
pub mod paths;
pub mod process;
pub mod serve;
pub mod spec;
