//! What people look at: `monit` in a real terminal, the list, progress, help and completions.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../harness/mod.rs"]
mod harness;

mod completion;
mod list;
mod monit;
mod progress;
mod tmux;
