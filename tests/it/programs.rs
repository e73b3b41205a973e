//! Programs from package registries that tests run: installed once, and kept for later test runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Creates a directory once and keeps it for later test runs.
pub fn cached(name: &str, create: impl FnOnce(&Path)) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !path.exists() {
        let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        create(new.path());
        // Another process may have created it; both have the same content.
        let _ = fs::rename(new.path(), &path);
    }
    path
}

pub fn run(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program).args(args).current_dir(dir).env("CGO_ENABLED", "0").output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory for `PYTHONPATH` with uvicorn and gunicorn.
pub fn python() -> String {
    let args = ["-m", "pip", "install", "-q", "--target", ".", "uvicorn==0.35.0", "gunicorn==23.0.0"];
    cached("python", |dir| run("python3", &args, dir)).display().to_string()
}

/// A directory for `PYTHONPATH` with Celery.
pub fn celery() -> String {
    let args = ["-m", "pip", "install", "-q", "--target", ".", "celery==5.4.0"];
    cached("celery", |dir| run("python3", &args, dir)).display().to_string()
}

/// The program `tsx`.
pub fn tsx() -> String {
    let args = ["install", "--no-audit", "--no-fund", "--no-save", "tsx@4"];
    cached("tsx-matrix", |dir| run("npm", &args, dir)).join("node_modules/.bin/tsx").display().to_string()
}

/// The program of an npm package, such as `concurrently@9`.
pub fn npm_program(package: &str) -> String {
    let name = package.split('@').next().unwrap();
    let args = ["install", "--no-audit", "--no-fund", "--no-save", package];
    let dir = cached(&format!("npm-{package}"), |dir| run("npm", &args, dir));
    dir.join("node_modules/.bin").join(name).display().to_string()
}
