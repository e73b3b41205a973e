//! `package.json`: the version of an app, and the script that `node DIRECTORY` runs.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::config::parse::format::MAX_FILE_SIZE;

/// The version in the nearest `package.json` at or above `start`. As it is only displayed, all errors are ignored.
pub(super) fn package_version(start: &Path) -> Option<String> {
    let package = start.ancestors().find_map(|dir| File::open(dir.join("package.json")).ok())?;
    let package = parse(package)?;
    let version = package.get("version")?.as_str()?;
    let is_valid = !version.is_empty() && version.len() <= 64 && !version.chars().any(char::is_control);
    is_valid.then(|| version.to_owned())
}

fn parse(file: File) -> Option<Value> {
    let mut text = String::new();
    file.take(MAX_FILE_SIZE).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn read(directory: &Path) -> Option<Value> {
    parse(File::open(directory.join("package.json")).ok()?)
}

/// Whether node can run the directory: the file of `main` exists, or `index.js`.
pub(super) fn has_main(directory: &Path) -> bool {
    let main = read(directory).and_then(|package| package.get("main")?.as_str().map(str::to_owned));
    let main = main.map(|main| [main.clone(), format!("{main}.js"), format!("{main}/index.js")]);
    let files = main.into_iter().flatten().chain(["index.js".to_owned()]);
    files.map(|file| directory.join(file)).any(|file| file.is_file())
}

/// Whether `npm start` runs a script.
pub(super) fn has_start_script(directory: &Path) -> bool {
    read(directory).is_some_and(|package| package.pointer("/scripts/start").is_some())
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
