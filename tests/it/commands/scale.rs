//! `scale`: to a number, by a number, to the same number, to none.

use super::all_of;
use crate::harness::{Rsm, alive};

fn numbers(rsm: &Rsm) -> Vec<u64> {
    let mut numbers: Vec<u64> = rsm.list().iter().map(|view| view["number"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn scale_keeps_remaining_instances() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "api", "-i", "2"]);
    let two = rsm.pids("api");
    rsm.ok(&["scale", "api", "4"]).says("api (2, 3): started, online");
    let four = rsm.pids("api");
    assert!(four.len() == 4 && two.iter().all(|pid| four.contains(pid)));
    rsm.ok(&["scale", "api", "+2"]);
    assert_eq!(numbers(&rsm), [0, 1, 2, 3, 4, 5]);
    let six = rsm.pids("api");
    rsm.ok(&["scale", "api", "-1"]);
    let five = rsm.pids("api");
    assert_eq!(numbers(&rsm), [0, 1, 2, 3, 4], "the highest number went");
    assert_eq!(six.iter().filter(|pid| !alive(**pid)).count(), 1);
    assert!(five.iter().all(|pid| six.contains(pid)));
    rsm.ok(&["scale", "api", "1"]);
    assert_eq!(rsm.pids("api"), &two[..1]);
}

#[test]
fn scale_rejects_same_count_but_allows_zero() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "api", "-i", "2"]);
    let before = all_of(&rsm);
    for same in ["2", "+0", "-0"] {
        rsm.run(&["scale", "api", same]).code(1).says("already has 2 instances");
    }
    for senseless in ["", "two", "1.5", "--1"] {
        rsm.run(&["scale", "api", senseless]).code(2);
    }
    rsm.run(&["scale", "api", "100000"]).code(1).says("100000");
    assert_eq!(all_of(&rsm), before);
    let pids = rsm.pids("api");
    rsm.ok(&["scale", "api", "0"]).says("deleted");
    assert!(rsm.list().is_empty() && !pids.iter().any(|pid| alive(*pid)));
}

#[test]
fn scale_down_stops_at_zero() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "api", "-i", "2"]);
    rsm.ok(&["scale", "api", "-5"]);
    assert!(rsm.list().is_empty());
}
