//! Keys whose value is a table: the keys of that table, declared once each. Reading, camelCase,
//! errors about unknown keys and the schema follow from the rows.

use serde_json::{Map, Value, json};

use crate::config::values::{ValueError, named, to_camel_case, unknown_key};

/// A key of the table that becomes a `T`.
pub(crate) struct SubKey<T: 'static> {
    /// The key as rsm writes it.
    pub(crate) name: &'static str,
    /// Other spellings, besides the camelCase form of all.
    pub(crate) aliases: &'static [&'static str],
    /// What it means.
    pub(crate) doc: &'static str,
    /// What it takes.
    pub(crate) schema: fn() -> Value,
    /// Reads the value into `T`.
    pub(crate) set: fn(&mut T, &Value) -> Result<(), ValueError>,
}

/// Rows of sub-keys: documentation, name, aliases, schema, and how a value is stored.
macro_rules! sub_keys {
    ($( $(#[doc = $doc:literal])+ $name:ident $aliases:tt: $schema:tt => $set:expr; )*) => {
        &[ $( $crate::config::values::table::SubKey {
            name: stringify!($name),
            aliases: &$aliases,
            doc: concat!($($doc),+),
            schema: || serde_json::json!($schema),
            set: $set,
        } ),* ]
    };
}
pub(super) use sub_keys;

impl<T> SubKey<T> {
    fn is(&self, written: &str) -> bool {
        let mut names = std::iter::once(&self.name).chain(self.aliases);
        names.any(|name| *name == written || to_camel_case(name).as_deref() == Some(written))
    }
}

/// The row of a key as written.
pub(crate) fn find<'a, T>(keys: &'a [SubKey<T>], written: &str) -> Option<&'a SubKey<T>> {
    keys.iter().find(|key| key.is(written))
}

/// Reads a table into `into`.
pub(crate) fn read_table<T>(
    table: &Map<String, Value>,
    keys: &[SubKey<T>],
    into: &mut T,
) -> Result<(), ValueError> {
    table.iter().try_for_each(|(key, value)| match find(keys, key) {
        Some(row) => named(key, value, |value| (row.set)(into, value)),
        None => unknown_key(key, names(keys)),
    })
}

/// The help for an unknown key.
pub(crate) fn names<T>(keys: &[SubKey<T>]) -> String {
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    format!("use one of {}", names.join(", "))
}

/// The schemas of the keys, by name.
pub(crate) fn properties<T>(keys: &[SubKey<T>]) -> Value {
    let property = |key: &SubKey<T>| {
        let mut schema = (key.schema)();
        schema["description"] = json!(key.doc.trim());
        (key.name.to_owned(), schema)
    };
    Value::Object(keys.iter().map(property).collect())
}
