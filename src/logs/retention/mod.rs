//! Retention: compresses and removes rotated files.

mod budget;
mod compress;
mod policy;
mod scan;
pub(super) mod worker;
