//! rsm, a process manager for any language.
//!
//! # The house
//!
//! Floors, top to bottom. A module imports from lower floors or its own folder, never in a circle.
//!
//! | floor | module | what is there |
//! | --- | --- | --- |
//! | 6 | [`cli`] | arguments, a file a command, and pure rendering of views |
//! | 5 | [`daemon`] | the supervisor's loop, the world it acts on, the API's answers, triggers, saving |
//! | 5 | [`boot`] | units of init systems, and what a process that one started must know |
//! | 4 | [`ipc`] | all that crosses the wire, and both ends of it |
//! | 4 | [`keeper`] | the parent of all apps: forks, reaps, keeps descriptors |
//! | 3 | [`instance`] | one supervised slot: states, restart policy, all pure |
//! | 2 | [`config`] | ecosystem files and flags to specs, or every mistake at once |
//! | 3 | [`probes`] | asking an app how it is: http, tcp, a command |
//! | 3 | [`cluster`] | one port for many instances: held sockets, groups, steering |
//! | 2 | [`process`] | spawning, signals, pidfds, whole trees |
//! | 2 | [`logs`] | from an app's pipe to its files and followers |
//! | 2 | [`metrics`] | what trees and the machine use |
//! | 2 | [`serve`] | the static file server, a program of its own in this binary |
//! | 1 | [`spec`], [`exit`], [`time`] | what an app is; how a run ended; time |
//! | 1 | [`paths`], [`settings`], [`error`] | where files lie; what is set for all; what went wrong |
//!
//! # The processes
//!
//! ```text
//! rsm (CLI) --HTTP over a Unix socket--> daemon --packets + descriptors--> keeper --fork--> apps
//! ```
//!
//! The keeper is the parent of every app and of the daemon, and does nothing else. The daemon
//! decides everything and may die at any time: the keeper starts another, which hears what runs
//! and what has ended meanwhile.
//!
//! # Three flows
//!
//! **`rsm start ecosystem.toml`**: [`cli`] has [`config::load`] make specs of the file, here where the
//! user's directory and environment are; [`ipc::start_daemon`] connects, or starts keeper and daemon;
//! `POST /v1/apps` reaches [`daemon::api`], which asks the [`daemon::supervisor`] through its
//! handle; each new [`instance::Instance`] decides `Effect::Spawn`; `daemon::effects` opens logs and pipes
//! and sends the order to the [`keeper`], whose child becomes the program; `Spawned` comes back as an
//! event, the instance is online, and once all have settled the report goes out and is rendered.
//!
//! **A crash**: the keeper reaps and tells `Exited`; the instance is `Clearing` until nothing of its tree is
//! left; [`instance::restart::decide`] says what follows; a delay is a timer whose `Due` is one more event.
//!
//! **A log line**: the app's pipe, [`logs`]' own thread, the file, and whoever follows. It never meets
//! the supervisor.

pub mod atomic_file;
pub mod boot;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod error;
pub mod exit;
pub mod instance;
pub mod ipc;
pub mod keeper;
pub mod logs;
pub mod metrics;
pub mod paths;
pub mod probes;
pub mod process;
pub mod schedule;
pub mod serve;
pub mod settings;
pub mod spec;
pub mod text;
pub mod time;
pub mod version;
