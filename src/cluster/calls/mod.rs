//! Supervised system calls: decoded, inspected and answered.

pub(super) mod bind;
pub(super) mod call;
pub(super) mod inspect;
pub(super) mod listen;
mod memory;
pub(super) mod pending;
