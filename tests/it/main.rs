//! Tests of the real binary and of the library's public functions: one module for each area.
//!
//! All modules run in one process, on several threads: a test never changes the process itself (its
//! environment, directory, user or signals) and has files, ports and an `RSM_HOME` of its own.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod autosave;
mod boot;
mod commands;
mod config_errors;
mod config_files;
mod daemon_lifecycle;
mod docs;
mod doctor;
mod environment;
mod examples;
mod export;
mod faults;
mod from_pm2;
mod harness;
mod home_access;
mod http;
mod jobs;
mod layout;
mod limits_of_clients;
mod log_disk_failures;
mod log_files;
mod log_ownership;
mod log_readers;
mod matrix;
mod memory;
mod mistakes;
mod node_apps;
mod pm2_migration;
mod pm2_side_by_side;
mod ports;
mod probes;
mod process_trees;
mod programs;
mod reference;
mod reload;
mod runtime;
mod screens;
mod stalls;
mod starting;
mod stop_signals;
mod supervision;
mod uid;
mod upgrade_and_recovery;
mod watch_cron;
mod websockets;
