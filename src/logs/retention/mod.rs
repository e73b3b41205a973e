//! Retention: compresses and removes rotated files.

mod budget;
mod compress;
mod policy;
pub(super) mod worker;
