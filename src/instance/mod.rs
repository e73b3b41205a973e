//! One supervised slot and its pure decisions.
pub mod exit;
