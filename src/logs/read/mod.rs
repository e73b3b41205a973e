//! Reading stored logs, in the order of time.

pub(super) mod cursor;
pub(super) mod reader;
pub(super) mod segment_reader;
pub(super) mod tail;
