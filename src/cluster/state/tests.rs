//! Which members of a group get connections, and the saved form.

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
fn state_with(slots: u32, balance: Balance) -> ClusterState {
    let mut state = ClusterState::default();
    let settings = PortSettings { balance, slots: (0..slots).collect(), ..PortSettings::default() };
    state.apps.insert("api".into(), settings);
    for slot in 0..slots {
        let run = u64::from(slot) + 1;
        state.runs.insert(
            run,
            RunState {
                app: "api".into(),
                slot,
                phase: RunPhase::Starting,
                restricts_ports: false,
                unix_sockets: BTreeMap::new(),
            },
        );
        let id = state.add(socket("api", slot, run));
        state.join_group(id);
    }
    state
}

/// The members that a program chooses when its random numbers are 0, 1, 2 …
fn chosen_members(state: &ClusterState, leaving: Option<u64>) -> BTreeSet<u32> {
    use crate::process::bpf::interpreter::interpret;
    let program = state.steering(address(), leaving).program();
    (0..60).map(|number| interpret(&program, &|_, _| number)).collect()
}

#[test]
fn ready_runs_get_all_connections() {
    let mut state = state_with(3, Balance::Random);
    assert_eq!(chosen_members(&state, None), BTreeSet::from([0, 1, 2]));
    state.runs.get_mut(&2).unwrap().phase = RunPhase::Ready;
    assert_eq!(chosen_members(&state, None), BTreeSet::from([1]));
    state.runs.get_mut(&3).unwrap().phase = RunPhase::Ready;
    assert_eq!(chosen_members(&state, None), BTreeSet::from([1, 2]));
    state.runs.get_mut(&2).unwrap().phase = RunPhase::Draining;
    state.runs.remove(&3);
    assert_eq!(chosen_members(&state, None), BTreeSet::from([0]), "a starting run before a draining one");
    state.runs.clear();
    assert_eq!(chosen_members(&state, None), BTreeSet::from([0, 1, 2]), "all, until a run starts");
}

#[test]
fn leaving_plan_names_unmoved_members_only() {
    let mut state = state_with(3, Balance::Random);
    assert_eq!(chosen_members(&state, Some(1)), BTreeSet::from([1]));
    assert_eq!(chosen_members(&state, Some(3)), BTreeSet::from([0, 1]));
    state.remove(1);
    assert_eq!(state.members(address()), [3, 2]);
    assert_eq!(chosen_members(&state, Some(3)), BTreeSet::from([1]));
    state.remove(2);
    state.remove(3);
    assert_eq!(
        (state.members(address()), chosen_members(&state, None)),
        (&[][..], BTreeSet::from([KERNEL_CHOICE]))
    );
}

#[test]
fn leaving_plan_names_moved_member_of_highest_rank() {
    let mut state = state_with(4, Balance::Random);
    let ids: Vec<u64> = state.members(address()).to_vec();
    assert_eq!(state.unmoved_members(address(), ids[0]), [0u64; 0], "all have the same rank");
    for run in 1..=3 {
        state.runs.get_mut(&run).unwrap().phase = RunPhase::Draining;
    }
    assert_eq!(state.unmoved_members(address(), ids[0]), ids[1..3]);
    assert_eq!(state.steering(address(), Some(ids[0])), SteeringPlan::Index(3));
    assert_eq!(state.unmoved_members(address(), ids[3]), [0u64; 0], "no member moves");
}

#[test]
fn two_apps_on_one_port_share_by_slot() {
    let mut state = state_with(2, Balance::Random);
    state.apps.insert("web".into(), PortSettings { slots: vec![0], ..PortSettings::default() });
    state.runs.insert(
        9,
        RunState {
            app: "web".into(),
            slot: 0,
            phase: RunPhase::Starting,
            restricts_ports: false,
            unix_sockets: BTreeMap::new(),
        },
    );
    let id = state.add(socket("web", 0, 9));
    assert_eq!(state.other_app_at(address(), "api"), None, "it does not listen yet");
    state.join_group(id);
    assert_eq!(state.other_app_at(address(), "api"), Some("web"));
    assert_eq!(chosen_members(&state, None), BTreeSet::from([0, 1, 2]));
}

#[test]
fn udp_group_without_member_uses_kernel_choice() {
    let mut state = state_with(0, Balance::Random);
    let udp = Address { protocol: Protocol::Udp, ..address() };
    let ids: Vec<u64> =
        (0..3).map(|slot| state.add(HeldSocket { address: udp, ..socket("dns", slot, 1) })).collect();
    ids.iter().for_each(|id| state.join_group(*id));
    state.remove(ids[0]);
    assert_eq!(state.steering(udp, None), SteeringPlan::Index(KERNEL_CHOICE));
}

#[test]
fn shared_balance_uses_one_slot_key() {
    let state = state_with(2, Balance::Shared);
    let slots: Vec<u32> = state.runs.values().map(|run| state.slot_key(run)).collect();
    assert_eq!((slots, state.runs_at("api", 0)), (vec![0, 0], vec![1, 2]));
}

#[test]
fn state_round_trips() {
    let mut before = state_with(3, Balance::IpHash);
    before.retired_slots.insert(("api".into(), 2));
    let saved = serde_json::to_vec(&before).unwrap();
    assert_eq!(ClusterState::decode(&saved), Some(before));
    assert_eq!(ClusterState::decode(b"{}"), None);
    let newer = String::from_utf8(saved).unwrap().replace("\"version\":1", "\"version\":2");
    assert_eq!(ClusterState::decode(newer.as_bytes()), None);
}
