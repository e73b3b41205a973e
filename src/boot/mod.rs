//! Start at boot: service definitions for init systems, and what a process started by one needs.
//!
//! [`plan`] describes the files and commands of an installation; it is pure except for the detection of the
//! init system ([`InitSystem::detect`]). `rsm startup` executes the plan.

pub mod cgroup_cleanup;
pub mod init_system;
pub mod login_path;
pub mod plan;
mod scripts;
pub mod sd_notify;
pub mod service;
mod systemd;

pub use self::init_system::InitSystem;
pub use self::plan::InstallPlan;
pub use self::service::{InitCommand, Service, UnitFile};
