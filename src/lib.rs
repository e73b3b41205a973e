//! rsm, a process manager for apps in any language.
//!
//! # Layout
//!
//! A module imports from lower floors or from its own folder. Modules of floor 1 may import each other, never in a
//! cycle. `tests/it/layout.rs` checks this table against the code.
//!
//! | floor | modules | responsibility |
//! | --- | --- | --- |
//! | 6 | `cli` | arguments, one file for each command, and rendering |
//! | 5 | `daemon` | the supervisor, the effects it asks for, jobs and API handlers |
//! | 4 | `export` | ecosystem files to configurations of other engines |
//! | 4 | `ipc` | the API: requests, responses, routes, client and server |
//! | 3 | `instance` | one supervised copy of an app: states and restart policy, without I/O |
//! | 3 | `keeper` | the parent of all apps: forks, reaps, stores descriptors |
//! | 3 | `cluster` | one port for several instances: held sockets, groups, steering |
//! | 3 | `probes` | readiness and liveness probes: http, tcp, exec |
//! | 3 | `logs` | from the output pipe of an app to files and followers |
//! | 3 | `metrics` | CPU and memory of process trees and of the machine |
//! | 2 | `config` | ecosystem files and flags to app specs, or all errors at once |
//! | 2 | `process` | spawning, signals, pidfds, process trees |
//! | 2 | `boot` | services of init systems |
//! | 2 | `serve` | the static file server |
//! | 1 | `spec`, `exit` | what an app is; how a run ended |
//! | 1 | `paths`, `settings`, `atomic_file`, `path_error` | files of rsm |
//! | 1 | `secure_fs` | files in directories that other users can write to |
//! | 1 | `time`, `schedule`, `text`, `program`, `version` | clocks, cron schedules, text, programs in `PATH` |
//!
//! # Processes
//!
//! ```text
//! rsm (CLI) --HTTP over a Unix socket--> daemon --packets + descriptors--> keeper --fork--> apps
//! ```
//!
//! The keeper is the parent of every app and of the daemon. The daemon makes all decisions and may die at any
//! time: the keeper starts another, and sends it all runs, exits and stored descriptors.
//!
//! # Three flows
//!
//! **`rsm start ecosystem.toml`**: [`config::load`] resolves the file into specs in the CLI, where the user's
//! directory and environment are. [`ipc::start_daemon`] connects, or starts keeper and daemon. `POST /v1/apps`
//! reaches `daemon::api`, which calls the [`daemon::supervisor`] through its handle. Each new
//! [`instance::Instance`] returns `Effect::Spawn`; `daemon::world` opens logs and pipes and sends the spawn request
//! to the `keeper`, whose child executes the program. `Spawned` comes back as an event, the instance is online,
//! and when all goals are reached the report is sent and rendered.
//!
//! **A crash**: the keeper reaps the process and sends `Exited`. The instance is `CleaningUp` until nothing of its
//! process tree is left. [`instance::restart_policy::decide`] chooses what follows; a delay is a timer that comes
//! back as an event.
//!
//! **A log line**: from the app's pipe through a log worker of [`logs`] into the file and to followers, without the
//! supervisor.

pub(crate) mod atomic_file;
pub(crate) mod boot;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod exit;
pub mod export;
pub mod instance;
pub mod ipc;
pub(crate) mod keeper;
pub mod logs;
pub(crate) mod metrics;
pub(crate) mod path_error;
pub mod paths;
pub(crate) mod probes;
pub mod process;
pub(crate) mod program;
pub(crate) mod schedule;
pub(crate) mod secure_fs;
pub(crate) mod serve;
pub(crate) mod settings;
pub mod spec;
pub(crate) mod text;
pub mod time;
pub(crate) mod version;
