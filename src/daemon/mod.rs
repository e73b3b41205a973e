//! The daemon's parts.

pub mod cron;
pub mod watch;
