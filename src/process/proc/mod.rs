//! Readers of `/proc`. Those that run often do not allocate.

pub mod environ;
pub mod fds;
pub mod net;
pub mod stat;
pub mod status;
