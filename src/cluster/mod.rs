//! One port, many instances: kernel-balanced clustering of unmodified programs.

pub mod address;
pub mod order;
pub mod steer;
