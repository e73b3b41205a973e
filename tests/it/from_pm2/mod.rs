//! A team that moves over from PM2: its files, what its fingers type, and the page that tells the
//! differences.

mod commands;
mod files;
mod page;
mod plan;
mod settings_update;

/// Runs until it is told to end.
const SLEEPER: &str = "#!/bin/sh\nexec sleep 1000\n";
