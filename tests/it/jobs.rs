//! Jobs: apps that run to their end, their statuses, schedules, and apps that wait for them.

use crate::harness::{Rsm, read, wait_until};

fn app(name: &str, script: &str, more: &str) -> String {
    format!("[[apps]]\nname = \"{name}\"\nscript = \"{script}\"\n{more}\n")
}

fn job(name: &str, script: &str, more: &str) -> String {
    app(name, script, &format!("autorestart = false\n{more}"))
}

fn view(rsm: &Rsm, name: &str) -> serde_json::Value {
    rsm.list().into_iter().find(|view| view["name"] == name).unwrap()
}

fn status(rsm: &Rsm, name: &str) -> String {
    view(rsm, name)["status"].as_str().unwrap().to_owned()
}

#[test]
fn app_starts_after_job_has_completed() {
    let on = "depends_on = [{ app = \"migrate\", condition = \"completed\" }]";
    let file = job("migrate", "sleep 1.3; echo migrated > order", "")
        + &app("web", "cat order > seen; exec sleep 1000", on)
        + &app("early", "exec sleep 1000", "depends_on = [{ app = \"migrate\", condition = \"started\" }]");
    let rsm = Rsm::new().file("ecosystem.toml", &file);
    rsm.ok(&["start"]);
    assert_eq!(read(rsm.dir().join("seen")).trim(), "migrated");
    assert_eq!(["migrate", "web", "early"].map(|name| status(&rsm, name)), ["completed", "online", "online"]);
    // What has completed is not run again.
    rsm.ok(&["apply", "ecosystem.toml"]);
    assert_eq!(view(&rsm, "migrate")["runs"], 1);
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    rsm.ok(&["resurrect"]);
    assert_eq!(["migrate", "web"].map(|name| status(&rsm, name)), ["completed", "online"]);
}

#[test]
fn failed_job_prevents_start() {
    let on = "depends_on = { migrate = { condition = \"service_completed_successfully\" } }";
    let late = job("migrate", "sleep 1.3; echo no table >&2; exit 3", "") + &app("web", "sleep 1000", on);
    let early = job("migrate", "exit 3", "") + &app("web", "sleep 1000", "depends_on = [\"migrate\"]");
    for file in [late, early] {
        let rsm = Rsm::new().file("ecosystem.toml", &file);
        rsm.run(&["start"]).code(1).says("not started: dependency \"migrate\" has failed: exit code 3");
        assert_eq!(["migrate", "web"].map(|name| status(&rsm, name)), ["failed", "stopped"]);
        rsm.ok(&["list"]).shows("migrate (id 0) has failed: exit code 3");
    }
}

#[test]
fn service_cannot_complete() {
    let on = "depends_on = [{ app = \"db\", condition = \"completed\" }]";
    let file = app("db", "sleep 1000", "") + &app("web", "sleep 1000", on);
    let rsm = Rsm::new().file("ecosystem.toml", &file);
    rsm.run(&["start"]).code(1).says("restarted whenever it exits").says("autorestart = false");
    assert!(rsm.list().is_empty());
    rsm.write("ecosystem.toml", &file.replace("completed", "done"));
    rsm.run(&["start"]).code(1).says("expected \"started\", \"ready\" or \"completed\"");
}

#[test]
fn stopped_dependency_is_reported() {
    let file = app("db", "sleep 1000", "") + &app("web", "sleep 1000", "depends_on = \"db\"");
    let rsm = Rsm::new().file("ecosystem.toml", &file);
    rsm.ok(&["start"]);
    rsm.ok(&["stop", "db"]).says("web is still running and depends on db");
    let both = rsm.ok(&["stop", "db", "web"]);
    assert!(!both.stderr.contains("depends on"), "{}", both.stderr);
}

#[test]
fn statuses_tell_jobs_apart() {
    let file = job("done", "exit 0", "")
        + &job("broken", "sleep 1; exit 4", "")
        + &job("nightly", "exit 0", "cron_restart = \"0 3 * * *\"")
        + &job("off", "exit 0", "cron_restart = \"0 3 * * *\"");
    let rsm = Rsm::new().file("ecosystem.toml", &file);
    rsm.ok(&["start"]);
    rsm.ok(&["stop", "off"]);
    rsm.wait_status("broken", "failed");
    let statuses = ["done", "broken", "nightly", "off"].map(|name| status(&rsm, name));
    assert_eq!(statuses, ["completed", "failed", "scheduled", "stopped"]);
    assert!(view(&rsm, "nightly")["next_run"].as_u64().unwrap() > 1_700_000_000_000);
    assert!(view(&rsm, "off")["next_run"].is_null());
    rsm.ok(&["describe", "nightly"]).shows("next run");
    rsm.ok(&["list"]).shows("scheduled in ").shows("broken (id 1) has failed: exit code 4");
    let pm2 = rsm.json(&["jlist"]);
    assert!(pm2.as_array().unwrap().iter().all(|view| view["pm2_env"]["status"] == "stopped"), "{pm2}");
}

/// Runs a job that takes longer than its interval until it has run `runs` times; its exits.
fn overlapping(overlap: &str, seconds: f64, runs: u64) -> (Rsm, Vec<serde_json::Value>) {
    let more = format!("cron_restart = \"* * * * * *\"\n{overlap}");
    let rsm =
        Rsm::new().file("ecosystem.toml", &job("slow", &format!("sleep {seconds}; echo end >> ends"), &more));
    rsm.ok(&["start"]);
    rsm.wait_until("runs", |rsm| view(rsm, "slow")["runs"].as_u64().filter(|count| *count >= runs));
    let exits = rsm.json(&["describe", "slow", "--json"])[0]["exits"].as_array().unwrap().clone();
    (rsm, exits)
}

#[test]
fn overlapping_run_replaces_the_previous_one_by_default() {
    let (rsm, exits) = overlapping("", 1000.0, 3);
    assert!(exits.iter().all(|exit| exit["reason"].as_str().unwrap().contains("cron_restart")), "{exits:?}");
    assert!(!rsm.dir().join("ends").exists());
    rsm.ok(&["describe", "slow"]).shows("the previous run had not ended");
}

#[test]
fn overlapping_run_is_skipped_or_queued() {
    for (overlap, rule) in [("overlap = \"skip\"", "skipped"), ("overlap = \"queue\"", "queued")] {
        let (rsm, exits) = overlapping(overlap, 2.2, 3);
        assert!(
            exits.iter().all(|exit| exit["exit"]["code"] == 0 && exit["requested"] == false),
            "{exits:?}"
        );
        assert!(read(rsm.dir().join("ends")).lines().count() >= 2);
        rsm.ok(&["describe", "slow"]).shows(&format!("{rule} while it runs"));
        wait_until("the daemon log says so", || {
            read(rsm.home().join("rsm.log"))
                .contains(&format!("{rule}, because the previous run"))
                .then_some(())
        });
    }
}

#[test]
fn schedule_has_a_time_zone() {
    let file = job("utc", "exit 0", "cron_restart = \"5/15 4 * * *\"\ntimezone = \"UTC\"")
        + &job("tokyo", "exit 0", "cron_restart = \"5/15 4 * * *\"\ncron_tz = \"Asia/Tokyo\"");
    // The zone of the shell does not matter.
    let rsm = Rsm::new().var("TZ", "America/Lima").file("ecosystem.toml", &file);
    rsm.ok(&["start"]);
    let hour = |name: &str| view(&rsm, name)["next_run"].as_u64().unwrap() / 3_600_000 % 24;
    assert_eq!(["utc", "tokyo"].map(hour), [4, 19]);
    rsm.ok(&["describe", "tokyo"]).shows("Asia/Tokyo");
    rsm.run(&["start", "true", "--cron", "0 0 30 2 *"]).code(1).says("never matches");
    rsm.write("ecosystem.toml", &file.replace("Asia/Tokyo", "Mars/Base"));
    rsm.run(&["start"]).code(1).says("time zone");
}
