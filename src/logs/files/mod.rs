//! Log files: paths, segments, indexes and rotation.

pub(super) mod access;
pub(super) mod attributes;
pub(super) mod context;
pub(super) mod diversion;
pub(super) mod index;
pub(super) mod log_file;
pub(super) mod open_files;
pub(super) mod paths;
pub(super) mod rotated_name;
pub(super) mod rotation;
pub(super) mod segment;
