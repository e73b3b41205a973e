//! A team that moves over from PM2: its files, what its fingers type, and the page that tells the
//! differences.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../harness/mod.rs"]
mod harness;

mod commands;
mod files;
mod page;
mod plan;
mod refresh;

/// Runs until it is told to end.
const SLEEPER: &str = "#!/bin/sh\nexec sleep 1000\n";
