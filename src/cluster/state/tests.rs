//! The book: who gets connections, and what is kept of it.

use crate::cluster::state::*;

fn address() -> Address {
    Address::new(Protocol::Tcp, "0.0.0.0:3000".parse().unwrap(), false)
}

fn socket(app: &str, slot: u32, claim: u64) -> HeldSocket {
    let claims = BTreeSet::from([claim]);
    let (app, address) = (app.to_owned(), address());
    HeldSocket {
        app,
        slot,
        address,
        inode: 100 + u64::from(slot),
        uid: 0,
        listening: false,
        backlog: 1,
        claims,
    }
}

/// An app whose runs 1, 2, 3 … listen on one socket each.
fn book(slots: u32, balance: Balance) -> ClusterState {
    let mut book = ClusterState::default();
    let settings = PortSettings { balance, slots: (0..slots).collect(), ..PortSettings::default() };
    book.apps.insert("api".into(), settings);
    for slot in 0..slots {
        let run = u64::from(slot) + 1;
        book.runs.insert(run, RunState { app: "api".into(), slot, phase: RunPhase::Starting });
        let id = book.add(socket("api", slot, run));
        book.join_group(id);
    }
    book
}

/// What a program gives when its random numbers are 0, 1, 2 …
fn given(book: &ClusterState, leaving: Option<u64>) -> BTreeSet<u32> {
    use crate::process::bpf::interpreter::interpret;
    let program = book.steering(address(), leaving).program();
    (0..60).map(|number| interpret(&program, &|_, _| number)).collect()
}

#[test]
fn only_the_ready_get_connections_if_there_is_one() {
    let mut book = book(3, Balance::Random);
    assert_eq!(given(&book, None), BTreeSet::from([0, 1, 2]));
    book.runs.get_mut(&2).unwrap().phase = RunPhase::Ready;
    assert_eq!(given(&book, None), BTreeSet::from([1]));
    book.runs.get_mut(&3).unwrap().phase = RunPhase::Ready;
    assert_eq!(given(&book, None), BTreeSet::from([1, 2]));
    book.runs.get_mut(&2).unwrap().phase = RunPhase::Draining;
    book.runs.remove(&3);
    assert_eq!(given(&book, None), BTreeSet::from([0]), "one that starts is better than none");
    book.runs.clear();
    assert_eq!(given(&book, None), BTreeSet::from([0, 1, 2]), "held for whoever comes");
}

#[test]
fn while_one_leaves_only_those_that_stay_in_place_are_named() {
    let mut book = book(3, Balance::Random);
    assert_eq!(given(&book, Some(1)), BTreeSet::from([1]));
    assert_eq!(given(&book, Some(3)), BTreeSet::from([0, 1]));
    book.remove(1);
    assert_eq!(book.members(address()), [3, 2]);
    assert_eq!(given(&book, Some(3)), BTreeSet::from([1]));
    book.remove(2);
    book.remove(3);
    assert_eq!((book.members(address()), given(&book, None)), (&[][..], BTreeSet::from([KERNEL_CHOICE])));
}

#[test]
fn while_the_best_one_moves_nobody_else_is_named() {
    let mut book = book(4, Balance::Random);
    let ids: Vec<u64> = book.members(address()).to_vec();
    assert_eq!(book.unmoved_members(address(), ids[0]), [0u64; 0], "all are as good");
    for run in 1..=3 {
        book.runs.get_mut(&run).unwrap().phase = RunPhase::Draining;
    }
    assert_eq!(book.unmoved_members(address(), ids[0]), ids[1..3]);
    assert_eq!(book.steering(address(), Some(ids[0])), SteeringPlan::Index(3));
    assert_eq!(book.unmoved_members(address(), ids[3]), [0u64; 0], "nobody moves");
}

#[test]
fn two_apps_on_one_port_share_it_slot_by_slot() {
    let mut book = book(2, Balance::Random);
    book.apps.insert("web".into(), PortSettings { slots: vec![0], ..PortSettings::default() });
    book.runs.insert(9, RunState { app: "web".into(), slot: 0, phase: RunPhase::Starting });
    let id = book.add(socket("web", 0, 9));
    assert_eq!(book.other_app_at(address(), "api"), None, "it does not listen yet");
    book.join_group(id);
    assert_eq!(book.other_app_at(address(), "api"), Some("web"));
    assert_eq!(given(&book, None), BTreeSet::from([0, 1, 2]));
}

#[test]
fn a_udp_group_that_lost_a_member_is_left_to_the_kernel() {
    let mut book = book(0, Balance::Random);
    let udp = Address { protocol: Protocol::Udp, ..address() };
    let ids: Vec<u64> =
        (0..3).map(|slot| book.add(HeldSocket { address: udp, ..socket("dns", slot, 1) })).collect();
    ids.iter().for_each(|id| book.join_group(*id));
    book.remove(ids[0]);
    assert_eq!(book.steering(udp, None), SteeringPlan::Index(KERNEL_CHOICE));
}

#[test]
fn with_one_queue_for_all_sockets_are_kept_under_one_place() {
    let book = book(2, Balance::Shared);
    let places: Vec<u32> = book.runs.values().map(|run| book.slot_key(run)).collect();
    assert_eq!((places, book.runs_at("api", 0)), (vec![0, 0], vec![1, 2]));
}

#[test]
fn a_book_survives_being_saved() {
    let mut before = book(3, Balance::IpHash);
    before.retired_slots.insert(("api".into(), 2));
    let saved = serde_json::to_vec(&before).unwrap();
    assert_eq!(ClusterState::decode(&saved), Some(before));
    assert_eq!(ClusterState::decode(b"{}"), None);
    let newer = String::from_utf8(saved).unwrap().replace("\"version\":1", "\"version\":2");
    assert_eq!(ClusterState::decode(newer.as_bytes()), None);
}
