//! Rendering of views as text. Pure: reads neither a clock nor the terminal.

pub(super) mod alerts;
pub(super) mod blocks;
pub(super) mod describe;
pub(super) mod drift;
pub(super) mod info;
pub(super) mod list;
pub(super) mod log_line;
pub(super) mod plan;
pub(super) mod report;
pub(super) mod style;
pub(super) mod units;
