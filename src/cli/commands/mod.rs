//! The commands, one file for each or for a few that belong together: arguments to requests, responses to text.

pub(super) mod apply;
pub(super) mod config;
pub(super) mod convert;
pub(super) mod daemon;
pub(super) mod describe;
pub(super) mod doctor;
pub(super) mod export;
pub(super) mod foreground;
pub(super) mod init;
pub(super) mod lifecycle;
pub(super) mod list;
mod load_check;
pub(super) mod logs;
pub(super) mod reload;
pub(super) mod report;
pub(super) mod runtime;
pub(super) mod save;
pub(super) mod scale;
pub(super) mod serve;
pub(super) mod signal;
pub(super) mod start;
pub(super) mod startup;
pub(super) mod stdin;
pub(super) mod trigger;
pub(super) mod upgrade;
