//! The version of an app, from the nearest `package.json`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::config::parse::format::MAX_FILE_SIZE;

/// The version in the nearest `package.json` at or above `start`. As it is only displayed, all errors are ignored.
pub(super) fn package_version(start: &Path) -> Option<String> {
    let file = start.ancestors().map(|dir| dir.join("package.json")).find(|file| file.is_file())?;
    let mut text = String::new();
    File::open(file).ok()?.take(MAX_FILE_SIZE).read_to_string(&mut text).ok()?;
    let package: serde_json::Value = serde_json::from_str(&text).ok()?;
    let version = package.get("version")?.as_str()?;
    let is_valid = !version.is_empty() && version.len() <= 64 && !version.chars().any(char::is_control);
    is_valid.then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_package_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        let write = |at: &Path, text: &str| std::fs::write(at.join("package.json"), text).unwrap();
        write(dir.path(), r#"{"version":"1.2.3"}"#);
        assert_eq!(package_version(&deep.join("server.js")).as_deref(), Some("1.2.3"));
        write(&dir.path().join("a"), r#"{"version":7}"#);
        assert_eq!(package_version(&deep), None);
        write(&deep, "{ broken");
        assert_eq!(package_version(&deep), None);
    }
}
