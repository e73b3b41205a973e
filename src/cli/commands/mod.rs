//! One file for each command: arguments to request, response to text.

pub(super) mod apply;
pub(super) mod config;
pub(super) mod convert;
pub(super) mod daemon;
pub(super) mod describe;
pub(super) mod doctor;
pub(super) mod foreground;
pub(super) mod lifecycle;
pub(super) mod list;
pub(super) mod load_check;
pub(super) mod logs;
pub(super) mod reload;
pub(super) mod report;
pub(super) mod runtime;
pub(super) mod save;
pub(super) mod serve;
pub(super) mod start;
pub(super) mod startup;
pub(super) mod stdin;
pub(super) mod upgrade;
