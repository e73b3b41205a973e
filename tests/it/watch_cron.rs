//! Restarts by triggers: file changes and schedules.

use std::cell::Cell;

use crate::harness::{Rsm, read, wait_until};

const SLEEPER: &str = "#!/bin/sh\nexec sleep 1000\n";

fn restarts(rsm: &Rsm, name: &str) -> u64 {
    let list = rsm.list();
    list.iter().find(|view| view["name"] == name).and_then(|view| view["restarts"].as_u64()).unwrap()
}

/// The reasons why the runs of an app ended, oldest first.
fn exit_reasons(rsm: &Rsm, name: &str) -> Vec<String> {
    let detail = &rsm.json(&["describe", name, "--json"])[0];
    let exits = detail["exits"].as_array().unwrap();
    exits.iter().filter_map(|exit| Some(exit["reason"].as_str()?.to_owned())).collect()
}

/// Changes a file until the app restarts: nothing reports when the watch is set up. Afterwards, each change has an
/// effect.
fn wait_watched(rsm: &Rsm, name: &str, file: &str) {
    let changes = Cell::new(0);
    rsm.wait_until(&format!("{name} is watched"), |rsm| {
        changes.set(changes.get() + 1);
        rsm.write(file, &format!("{}", changes.get()));
        (restarts(rsm, name) > 0).then_some(())
    });
}

#[test]
fn file_change_restarts_app_with_reason() {
    let rsm = Rsm::new().file("app.sh", SLEEPER).file("settings", "0");
    rsm.ok(&["start", "./app.sh", "--watch"]);
    assert_eq!(rsm.list()[0]["watching"], true);
    wait_watched(&rsm, "app", "settings");
    let reasons = exit_reasons(&rsm, "app");
    assert!(reasons[0].contains("settings changed"), "{reasons:?}");
    rsm.ok(&["describe", "app"]).shows("settings changed");
    assert_eq!(rsm.statuses("app"), ["online"]);
}

#[test]
fn ignored_files_and_logs_restart_nothing() {
    let file = "[[apps]]\nname = \"app\"\nscript = \"while :; do echo line; sleep 0.05; done\"\n\
                watch = true\nignore_watch = \"*.tmp cache\"\nout_file = \"./out.log\"\n";
    let rsm = Rsm::new().file("ecosystem.toml", file).file("cache/x", "").file("node_modules/x", "");
    rsm.ok(&["start"]);
    wait_watched(&rsm, "app", "seen");
    for ignored in
        ["a.tmp", "cache/x", "cache/new/y", "node_modules/x", ".hidden", ".git/index", "deep/b.tmp"]
    {
        rsm.write(ignored, "changed");
    }
    let before = restarts(&rsm, "app");
    rsm.write("real/file", "changed");
    rsm.wait_until("a restart after the last change", |rsm| (restarts(rsm, "app") > before).then_some(()));
    let reasons = exit_reasons(&rsm, "app");
    let is_expected = |reason: &String| {
        reason.contains("seen changed") || reason.contains("real") || reason.contains("deep changed")
    };
    assert!(reasons.iter().all(is_expected), "{reasons:?}");
}

#[test]
fn files_written_by_rsm_restart_nothing() {
    let noisy = |name: &str, more: &str| {
        format!(
            "[[apps]]\nname = \"{name}\"\nscript = \"while :; do echo line; echo err >&2; sleep 0.02; done\"\n\
             out_file = \"./logs/{name}.log\"\nerror_file = \"./logs/{name}-error.log\"\n\
             logs = {{ max_size = \"1K\", compress = true }}\n{more}"
        )
    };
    let file = [noisy("app", "watch = true\ninstances = 2\npid_file = \"./app.pid\"\n"), noisy("other", "")];
    let rsm = Rsm::new().home_in_app("app/state").file("ecosystem.toml", &file.concat());
    rsm.ok(&["start"]);
    let compressed = || {
        let names =
            std::fs::read_dir(rsm.dir().join("logs")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".gz")).count()
    };
    wait_until("rotated and compressed logs", || (compressed() > 3).then_some(()));
    rsm.ok(&["save"]);
    let exits: Vec<serde_json::Value> = rsm.json(&["describe", "app", "--json"]).as_array().unwrap().clone();
    assert!(exits.iter().all(|instance| instance["exits"].as_array().unwrap().is_empty()), "{exits:?}");
    wait_watched(&rsm, "app", "source.js");
}

#[test]
fn missing_path_does_not_disable_the_others() {
    let rsm = Rsm::new().file("app.sh", SLEEPER).file("src/main", "0");
    rsm.write(
        "ecosystem.toml",
        "[[apps]]\nname = \"app\"\nscript = \"./app.sh\"\nwatch = [\"gone/dist\", \"src\"]\n",
    );
    rsm.ok(&["start"]).says("not found");
    wait_watched(&rsm, "app", "src/main");
    let before = restarts(&rsm, "app");
    rsm.write("gone/dist/main", "0");
    rsm.wait_until("a restart", |rsm| (restarts(rsm, "app") > before).then_some(()));
}

#[test]
fn only_configured_paths_are_watched() {
    let rsm = Rsm::new().file("app.sh", SLEEPER).file("src/main", "0").file("other/file", "0");
    rsm.ok(&["start", "./app.sh", "--watch", "src"]);
    rsm.write("other/file", "1");
    wait_watched(&rsm, "app", "src/main");
    rsm.write("other/file", "2");
    let before = restarts(&rsm, "app");
    rsm.write("src/main", "last");
    rsm.wait_until("a restart", |rsm| (restarts(rsm, "app") > before).then_some(()));
    let reasons = exit_reasons(&rsm, "app");
    assert!(reasons.iter().all(|reason| reason.contains("src/main changed")), "{reasons:?}");
}

#[test]
fn file_change_keeps_stopped_app_stopped() {
    let rsm = Rsm::new().file("app.sh", SLEEPER);
    rsm.ok(&["start", "./app.sh", "--watch", "--watch-delay", "100ms"]);
    // Its delay is longer: when it restarts, the other app would have restarted before.
    rsm.ok(&["start", "./app.sh", "--name", "canary", "--watch", "--watch-delay", "600ms"]);
    wait_watched(&rsm, "app", "settings");
    rsm.ok(&["stop", "app"]);
    let before = restarts(&rsm, "canary");
    rsm.write("settings", "again");
    rsm.wait_until("the canary restarts", |rsm| (restarts(rsm, "canary") > before).then_some(()));
    assert_eq!(rsm.statuses("app"), ["stopped"]);
    rsm.ok(&["start", "app"]);
    let before = restarts(&rsm, "app");
    rsm.write("settings", "once more");
    rsm.wait_until("the app restarts again", |rsm| (restarts(rsm, "app") > before).then_some(()));
}

#[test]
fn cron_with_seconds_restarts_with_reason() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "app", "--cron-restart", "* * * * * *"]);
    rsm.wait_until("two restarts", |rsm| (restarts(rsm, "app") >= 2).then_some(()));
    let reasons = exit_reasons(&rsm, "app");
    let is_schedule = |reason: &String| reason.contains("cron_restart \"* * * * * *\"");
    assert!(reasons.len() >= 2 && reasons.iter().all(is_schedule), "{reasons:?}");
    rsm.ok(&["describe", "app"]).shows("cron_restart");
    assert_eq!(
        rsm.json(&["describe", "app", "--json"])[0]["unstable_restarts"],
        0,
        "a scheduled restart is no crash"
    );
}

#[test]
fn scheduled_job_runs_again_until_stopped() {
    let job = |name: &str| {
        format!(
            "[[apps]]\nname = \"{name}\"\nscript = \"echo run >> {name}.runs\"\nautorestart = false\ncron_restart = \"* * * * * *\"\n"
        )
    };
    let rsm = Rsm::new().file("ecosystem.toml", &[job("job"), job("canary")].concat());
    rsm.ok(&["start"]);
    let runs = |name: &str| read(rsm.dir().join(format!("{name}.runs"))).lines().count();
    wait_until("three runs", || (runs("job") >= 3).then_some(()));
    rsm.ok(&["stop", "job"]);
    let (job, canary) = (runs("job"), runs("canary"));
    wait_until("two more runs of the canary", || (runs("canary") >= canary + 2).then_some(()));
    assert_eq!((runs("job"), rsm.statuses("job")), (job, vec!["stopped".into()]));
}

#[test]
fn zero_removes_schedule() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "app", "--cron", "* * * * * *"]);
    rsm.ok(&["start", "sleep 1000", "--name", "canary", "--cron", "* * * * * *"]);
    rsm.wait_until("a restart", |rsm| (restarts(rsm, "app") > 0).then_some(()));
    rsm.ok(&["restart", "app", "--cron", "0"]);
    let (app, canary) = (restarts(&rsm, "app"), restarts(&rsm, "canary"));
    rsm.wait_until("two more restarts of the canary", |rsm| {
        (restarts(rsm, "canary") >= canary + 2).then_some(())
    });
    assert_eq!(restarts(&rsm, "app"), app);
    rsm.run(&["restart", "app", "--cron", "61 * * * *"]).code(1).says("61");
}
