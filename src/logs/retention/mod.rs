//! Retention: compresses and deletes rotated files.

pub(super) mod budget;
pub(super) mod compress;
pub(super) mod compress_worker;
pub(super) mod worker;
