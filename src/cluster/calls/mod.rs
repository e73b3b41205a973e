//! Answers to the system calls of apps that rsm supervises.

pub(super) mod bind;
pub(super) mod call;
pub(super) mod inspect;
pub(super) mod listen;
