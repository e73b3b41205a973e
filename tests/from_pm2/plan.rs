//! `plan` tells what differs, `apply` does just that.

use crate::harness::{Rsm, alive, environ};

const FILE: &str = "
[[apps]]
name = 'same'
script = 'sleep 1000'
env = { TOKEN = 'hunter2' }

[[apps]]
name = 'more'
script = 'sleep 1000'
instances = 2
exec_mode = 'fork'

[[apps]]
name = 'other'
script = 'sleep 1000'
env = { TOKEN = 'hunter2', GONE = 'hunter2' }

[[apps]]
name = 'gone'
script = 'sleep 1000'
";

const CHANGED: &str = "
[[apps]]
name = 'same'
script = 'sleep 1000'
env = { TOKEN = 'hunter2' }

[[apps]]
name = 'more'
script = 'sleep 1000'
instances = 3
exec_mode = 'fork'

[[apps]]
name = 'other'
script = 'sleep 1000'
kill_timeout = 2000
env = { TOKEN = 'hunter3' }

[[apps]]
name = 'new'
script = 'sleep 1000'
";

#[test]
fn a_plan_names_every_difference_and_no_secret() {
    let rsm = Rsm::new().file("e.toml", FILE);
    rsm.ok(&["plan", "e.toml"]).shows("+ start  same   1 instance: not in the list").shows("4 things to do");
    assert!(!rsm.home().exists(), "a plan starts nothing");
    rsm.ok(&["start", "e.toml"]);
    rsm.ok(&["plan", "e.toml"]).shows("nothing to do");
    rsm.write("e.toml", CHANGED);
    let plan = rsm.ok(&["plan", "e.toml", "--prune"]).stdout;
    let want = "  unchanged  same
~ scale      more   2 → 3 instances
~ restart    other  stop.timeout: 10000 → 2000; env.GONE removed; env.TOKEN changed
+ start      new    1 instance: not in the list
- delete     gone   not in the file any more
4 things to do
";
    assert_eq!(plan, want);
}

#[test]
fn applying_touches_only_what_differs() {
    let rsm = Rsm::new().file("e.toml", FILE);
    rsm.ok(&["apply", "e.toml"]);
    rsm.ok(&["start", "sleep 1000", "--name", "not-of-the-file"]);
    let pid = |name: &str| rsm.pids(name)[0];
    let before = ["same", "more", "gone", "not-of-the-file"].map(pid);
    let other = pid("other");
    rsm.write("e.toml", CHANGED);
    rsm.ok(&["apply", "e.toml"]).says("--prune deletes it");
    assert_eq!(["same", "more", "gone", "not-of-the-file"].map(pid), before, "untouched");
    assert_eq!((rsm.pids("more").len(), rsm.pids("new").len()), (3, 1));
    assert!(!alive(other) && environ(pid("other"))["TOKEN"] == "hunter3");
    rsm.ok(&["apply", "e.toml", "--prune"]).says("- delete");
    assert!(rsm.pids("gone").is_empty() && !alive(before[2]));
    assert_eq!(["same", "more"].map(pid), before[..2]);
    rsm.ok(&["stop", "same"]);
    rsm.ok(&["apply", "e.toml"]).says("does not run");
    rsm.until_status("same", "online");
    rsm.ok(&["apply", "e.toml"]).says("nothing to do");
}

#[test]
fn a_file_with_mistakes_is_not_applied() {
    let rsm = Rsm::new().file("e.toml", FILE);
    rsm.ok(&["apply", "e.toml"]);
    rsm.write("e.toml", "[[apps]]\nname = 'x'\n");
    rsm.run(&["apply", "e.toml", "--prune"]).code(1).says("has no script");
    assert_eq!(rsm.list().len(), 5);
}

#[test]
fn drift_between_file_and_list_is_marked_until_it_is_applied() {
    let file = |port: u16| {
        format!(
            "[[apps]]\nname = \"nap\"\nscript = \"sleep\"\nargs = \"1000\"\n\n[apps.env]\nPORT = {port}\n"
        )
    };
    let rsm = Rsm::new().file("ecosystem.toml", &file(1));
    rsm.ok(&["start", "ecosystem.toml"]);
    let drift = |rsm: &Rsm| rsm.list()[0]["drift"].as_str().unwrap_or_default().to_owned();
    assert_eq!(drift(&rsm), "");
    rsm.write("ecosystem.toml", &file(10));
    assert!(drift(&rsm).ends_with("ecosystem.toml has changed since"), "{}", drift(&rsm));
    rsm.ok(&["list"]).shows("nap *").shows("* nap: ");
    rsm.ok(&["apply", "ecosystem.toml"]);
    assert_eq!(drift(&rsm), "");
    rsm.ok(&["scale", "nap", "2"]);
    assert!(drift(&rsm).contains("changed by `rsm scale`"), "{}", drift(&rsm));
    // What differs in nothing but its time is as it says once that was looked at.
    rsm.ok(&["start", "ecosystem.toml"]);
    rsm.write("ecosystem.toml", &format!("# a word\n{}", file(10)));
    assert!(!drift(&rsm).is_empty());
    rsm.ok(&["apply", "ecosystem.toml"]);
    assert_eq!(drift(&rsm), "");
}
