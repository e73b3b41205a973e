//! Reading: lines of log files and their rotated predecessors, in write order.

mod cursor;
pub(super) mod reader;
mod segment_reader;
mod tail;
