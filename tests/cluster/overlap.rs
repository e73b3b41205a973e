//! Different addresses of one port that the same clients reach.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use rsm::cluster::{ClusterEvent, PortSettings, PortWarning};

use crate::ports::free_port;
use crate::programs::{PROBE, PYTHON};
use crate::supervisor::Supervisor;
use crate::{MECHANISMS, answering, load, local, python, requests, slots};

/// A server that answers with this name instead of its slot.
fn named(name: &str, host: &str, port: u16) -> [String; 6] {
    [&format!("SLOT={name}"), "python3", "-c", PYTHON, host, &port.to_string()].map(str::to_owned)
}

#[test]
fn overlapping_address_of_another_app_is_in_use() {
    for mechanism in MECHANISMS {
        for (first, second) in [
            ("0.0.0.0", "127.0.0.1"),
            ("127.0.0.1", "0.0.0.0"),
            ("::", "0.0.0.0"),
            ("::", "127.0.0.1"),
            ("127.0.0.1", "::"),
            ("::", "::ffff:127.0.0.1"),
        ] {
            let mut supervisor = Supervisor::new(mechanism, slots(2));
            supervisor.cluster().set_app("web", PortSettings { slots: vec![7], ..PortSettings::default() });
            let port = free_port();
            for slot in 0..2 {
                supervisor.start_ready(slot, &python(first, port));
            }
            let other = supervisor.start_in("web", 7, &python(second, port));
            supervisor.wait_for(|event| {
                matches!(event, ClusterEvent::Warning { warning: PortWarning::UsedByApp { .. }, .. })
            });
            supervisor.wait_gone(other);
            assert!(supervisor.output(other).contains("Address already in use"), "{first}, {second}");
            let tally = requests(20, local(port));
            tally.assert_clean();
            assert_eq!(answering(&tally), ["0", "1"], "{first}, {second}");
        }
    }
}

#[test]
fn closed_test_of_another_app_does_not_occupy_port() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        supervisor.cluster().set_app("web", PortSettings { slots: vec![7], ..PortSettings::default() });
        let port = free_port();
        let test = "import socket, sys, time\ns = socket.socket()\ns.bind(('0.0.0.0', int(sys.argv[1])))\ns.close()\n\
            print('tested', flush=True)\ntime.sleep(1000)";
        let run = supervisor.start(0, &["python3", "-c", test, &port.to_string()]);
        supervisor.wait_line(run, "tested");
        supervisor.start_in("web", 7, &python("127.0.0.1", port));
        supervisor.wait_for(|event| matches!(event, ClusterEvent::Listening { .. }));
        assert_eq!(answering(&requests(3, local(port))), ["7"]);
    }
}

#[test]
fn program_cannot_listen_on_overlapping_addresses() {
    let program = "import socket, sys, time\n\
        sockets = [socket.socket(), socket.socket()]\n\
        try:\n    for s, host in zip(sockets, ('0.0.0.0', '127.0.0.1')):\n        \
        s.bind((host, int(sys.argv[1])))\n        s.listen()\n\
        except OSError as error: print(error.strerror, flush=True)\n\
        time.sleep(1000)";
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let run = supervisor.start(0, &["python3", "-c", program, &free_port().to_string()]);
        supervisor.wait_line(run, "Address already in use");
    }
}

#[test]
fn replacement_on_overlapping_address_gets_no_connections_before_it_is_ready() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
    for mechanism in MECHANISMS {
        for (before, after) in
            [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::", "0.0.0.0"), ("127.0.0.1", "::")]
        {
            let mut supervisor = Supervisor::new(mechanism, slots(2));
            let port = free_port();
            let old = [0, 1].map(|slot| supervisor.start_ready(slot, &named("old", before, port)));
            let load = load(local(port));
            // One that is never ready.
            let unready = supervisor.start(0, &named("unready", after, port));
            supervisor
                .wait_for(|event| matches!(event, ClusterEvent::Listening { run, .. } if *run == unready));
            supervisor.ports();
            assert_eq!(answering(&requests(50, local(port))), ["old"], "{before} to {after}");
            // The next daemon keeps clients away from it, too.
            supervisor.lose_engine();
            supervisor.restore();
            supervisor.cluster().recovery_complete();
            supervisor.ports();
            assert_eq!(answering(&requests(50, local(port))), ["old"], "{before} to {after}");
            supervisor.cluster().drain(unready);
            supervisor.kill(unready);
            // Others that are.
            let mut new = Vec::new();
            for run in old {
                new.push(supervisor.reload(run, &named("new", after, port)));
            }
            let tally = load.finish();
            tally.assert_clean();
            assert!(!tally.answered.contains_key("unready"), "{before} to {after}: {tally:?}");
            supervisor.ports();
            assert_eq!(answering(&requests(50, local(port))), ["new"], "{before} to {after}");
            // A crash of one of them.
            supervisor.kill(new[0]);
            supervisor.ports();
            requests(50, local(port)).assert_clean();
        }
    }
}

#[test]
fn tests_of_the_port_get_no_connections_in_a_reload() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        let probe = ["python3", "-c", PROBE, &port.to_string()];
        let mut runs: Vec<u64> = Vec::new();
        for slot in 0..2 {
            let run = supervisor.start(slot, &probe);
            supervisor.wait_line(run, "probed");
            supervisor.cluster().set_ready(run);
            supervisor.wait_ports(|ports| {
                ports.len() == slot as usize + 1
                    && ports.iter().all(|port| port.address.socket.ip().is_unspecified())
            });
            runs.push(run);
        }
        let load = load(SocketAddr::from(([127, 0, 0, 1], port)));
        for _ in 0..2 {
            for (slot, run) in (0..).zip(&mut runs) {
                let new = supervisor.start(slot, &probe);
                supervisor.wait_line(new, "probed");
                supervisor.cluster().set_ready(new);
                supervisor.cluster().drain(*run);
                supervisor.cluster().wait_drained(*run).blocking_recv().unwrap();
                supervisor.signal(*run, Signal::SIGTERM);
                supervisor.wait_gone(*run);
                *run = new;
            }
        }
        load.finish().assert_clean();
    }
}
