//! Ecosystem files and command lines: read → resolve → validate → [`AppSpec`](crate::spec::AppSpec)s, or all errors
//! at once.
//!
//! - `keys` is the table of all keys; `values` reads the value of each by its type;
//! - `parse` turns a file of any format into settings, `command_line` does so with flags;
//! - `resolve` fills in defaults, makes paths absolute, and finds programs and users on this machine;
//! - `diagnostics` collects errors and warnings on the way;
//! - `patch`, `convert` and `schema` derive changes, TOML and the JSON Schema from the same table.
//!
//! All of this runs in the CLI, with the directory and the `PATH` of the user.

mod command_line;
mod convert;
mod diagnostics;
mod key_def;
mod keys;
mod load;
mod parse;
mod patch;
#[cfg(test)]
mod pm2_tests;
mod resolve;
mod schema;
#[cfg(test)]
mod tests;
mod values;

pub use command_line::{CommandLine, GivenFlag, is_runnable, load_command_line};
pub use convert::{Converted, convert};
pub use diagnostics::{ConfigErrors, Diagnostic, Location};
pub use key_def::{Flag, FlagValue, Group, KeyDef, Pm2Reader, Pm2Value};
pub use keys::{EXT, IGNORED_KEYS, IgnoredKey, KEYS, key_for_pointer, keys_with_flags};
pub use load::{LoadOptions, Loaded, LocatedApp, app_names, load, load_located};
pub use parse::format::{DEFAULT_FILES, is_config_file};
pub use parse::source::fingerprint_file;
pub use patch::flags_to_patch;
pub use schema::schema;
pub use values::parse_size;
