//! Being started with the machine: what each init system has to be told, and what a process that an
//! init system started must know of its surroundings.
//!
//! [`plan`] says which files and commands it takes; it is pure but for looking around once
//! ([`system::System::detect`]). `rsm startup` carries the plan out.

pub mod leftover;
pub mod login;
pub mod notify;
pub mod plan;
mod scripts;
pub mod system;
mod systemd;

pub use self::plan::{Plan, Service};
pub use self::system::System;
