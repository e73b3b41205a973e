//! Views as text: tables, sizes, ages, colour. Pure: nothing here reads a clock or a terminal.

pub(super) mod attention;
pub(super) mod describe;
pub(super) mod drift;
pub(super) mod info;
pub(super) mod lines;
pub(super) mod list;
pub(super) mod mini;
pub(super) mod plan;
pub(super) mod report;
pub(super) mod style;
pub(super) mod units;
