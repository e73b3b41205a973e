//! Parsing of a file of any format to app settings, or to diagnostics with locations.

pub(super) mod evaluate;
pub(super) mod file;
pub(super) mod format;
pub(super) mod pm2_static;
pub(super) mod source;
pub(super) mod tree;
