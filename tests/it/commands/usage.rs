//! Wrong usage, help, version.

use crate::harness::Rsm;

#[test]
fn wrong_usage_exits_2_with_suggestion() {
    let rsm = Rsm::new();
    let wrong: [&[&str]; 9] = [
        &[],
        &["frobnicate"],
        &["stop"],
        &["restart"],
        &["scale", "api"],
        &["sendSignal", "SIGTERM"],
        &["list", "--frob"],
        &["start", "sleep", "--max-memory-restart"],
        &["id"],
    ];
    for args in wrong {
        let ran = rsm.run(args).code(2);
        assert_eq!(ran.stdout, "", "{args:?}");
        assert!(ran.stderr.contains("Usage") || ran.stderr.contains("error:"), "{args:?}: {}", ran.stderr);
    }
    rsm.run(&["strat", "x"]).code(2).says("start");
    assert!(!rsm.home().exists(), "wrong usage leaves no trace");
}

#[test]
fn help_and_version_exit_0() {
    let rsm = Rsm::new();
    for args in [&["--help"][..], &["help"], &["start", "--help"], &["help", "scale"]] {
        let ran = rsm.ok(args).shows("Usage");
        assert_eq!(ran.stderr, "", "{args:?}");
    }
    for flag in ["-v", "-V", "--version"] {
        assert_eq!(rsm.ok(&[flag]).stdout, format!("rsm {}\n", env!("CARGO_PKG_VERSION")));
    }
    let schema = rsm.json(&["schema"]);
    assert!(schema["properties"].is_object(), "{schema}");
}

#[test]
fn rejects_unknown_or_unusable_home() {
    let rsm = Rsm::new();
    let output = rsm.command(&["list"]).env_remove("RSM_HOME").env_remove("HOME").output().unwrap();
    let known = output.status.code() == Some(0); // by the user database, where there is an entry
    assert!(known || String::from_utf8_lossy(&output.stderr).contains("RSM_HOME"), "{output:?}");
    rsm.write("file", "");
    let output = rsm.command(&["start", "sleep 1"]).env("RSM_HOME", rsm.dir().join("file")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && stderr.contains("file"), "{output:?}");
}
