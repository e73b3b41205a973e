//! Readers of `/proc`: small, and without an allocation where a reader runs often.

pub mod environ;
pub mod fds;
pub mod net;
pub mod stat;
pub mod status;
