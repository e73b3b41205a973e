//! The examples of clients work as they stand.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Ran, Rsm};

/// Runs an example beside a daemon that has another app.
fn works(program: &str, args: &[&str], name: &str) {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "other"]);
    let output = rsm.command_of(program, args).output().unwrap();
    let ran = Ran::new(&[program], &output).code(0);
    for line in ["rsm 0.", &format!("{name}: hello"), "): ok", &format!("{name}: online, 1 restarts")] {
        assert!(ran.stdout.contains(line), "no {line:?} in {}", ran.stdout);
    }
    assert_eq!(rsm.list().len(), 1, "it has removed its app, and only that");
}

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file)
}

#[test]
fn rust_client_works() {
    // Cargo builds examples before it runs all tests, and not before it runs only this file.
    let built = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/client");
    if !built.exists() {
        let cargo = Command::new(env!("CARGO")).args(["build", "--locked", "--example", "client"]).status();
        assert!(cargo.unwrap().success());
    }
    works(built.to_str().unwrap(), &[], "hello-rs");
}

#[test]
fn node_client_works() {
    works("node", &[example("client.mjs").to_str().unwrap()], "hello-js");
}

#[test]
fn python_client_works() {
    works("python3", &[example("client.py").to_str().unwrap()], "hello-py");
}
