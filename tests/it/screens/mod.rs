//! What people look at: `monit` in a real terminal, the list, progress, help and completions.

mod completion;
mod list;
mod monit;
mod progress;
mod tmux;
