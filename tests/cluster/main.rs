//! Real programs on shared ports, driven by a small supervisor instead of the daemon.

#![allow(unsafe_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod closed;
mod killed;
#[path = "../it/harness/load_client.rs"]
#[allow(dead_code)]
mod load_client;
mod overlap;
#[path = "../it/harness/ports.rs"]
mod ports;
mod programs;
mod rights;
mod supervisor;
#[path = "../it/harness/wait.rs"]
#[allow(dead_code)]
mod wait;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use load_client::{Client, Load, Pace, Tally};
use nix::sys::signal::Signal;
use ports::{free_port, free_ports, privileged_port};
use programs::{
    COMPAT, FAMILIES, GO, MULTIPATH, NODE, PASSED, PROBE, PYTHON, SHUTS, SIGNALS, TWICE, UDP, WORKERS,
};
use rsm::cluster::{Balance, ClusterEvent, Mechanism, PortSettings, PortWarning};
use supervisor::{APP, Supervisor};

const MECHANISMS: [Mechanism; 2] = [Mechanism::Duplicate, Mechanism::Inject];

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Clients of this address.
fn client(to: SocketAddr) -> Client {
    Client::new(to).timeout(Duration::from_secs(20))
}

/// Sends requests one after the other.
fn requests(count: u32, to: SocketAddr) -> Tally {
    client(to).requests(count)
}

/// Four clients that send requests without pause.
fn load(to: SocketAddr) -> Load {
    client(to).load(4, Pace::Unlimited)
}

/// Sends one datagram; the slot that answers it.
fn ask_udp(port: u16) -> String {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.send_to(b"who", ("127.0.0.1", port)).unwrap();
    let mut response = [0; 16];
    let length = client.recv(&mut response).unwrap();
    String::from_utf8(response[..length].to_vec()).unwrap()
}

fn python(host: &str, port: u16) -> [String; 5] {
    ["python3", "-c", PYTHON, host, &port.to_string()].map(str::to_owned)
}

fn node(port: u16) -> [String; 5] {
    ["node", "-e", NODE, "--", &port.to_string()].map(str::to_owned)
}

/// The slots that answer, in order.
fn answering(tally: &Tally) -> Vec<&str> {
    tally.answered.keys().map(String::as_str).collect()
}

fn slots(count: u32) -> PortSettings {
    PortSettings { slots: (0..count).collect(), ..PortSettings::default() }
}

#[test]
fn python_servers_share_port() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        for slot in 0..2 {
            supervisor.start_ready(slot, &python("127.0.0.1", port));
        }
        let tally = requests(200, local(port));
        tally.assert_clean();
        assert_eq!(answering(&tally), ["0", "1"], "{mechanism:?}: {tally:?}");
        assert!(tally.answered.values().all(|count| *count > 50), "{mechanism:?}: {tally:?}");
    }
}

#[test]
fn node_servers_behind_shell_share_equally() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(4));
        let port = free_port();
        // As `npm start` does.
        let line = format!("node -e '{NODE}' -- {port}; true");
        for slot in 0..4 {
            supervisor.start_ready(slot, &["sh", "-c", &line]);
        }
        let tally = requests(2000, local(port));
        tally.assert_clean();
        // Round-robin as root; else random: five times the standard deviation (19) around the mean.
        let even = if nix::unistd::geteuid().is_root() { 495..506 } else { 400..600 };
        assert!(tally.answered.values().all(|count| even.contains(count)), "{mechanism:?}: {tally:?}");
        assert_eq!(answering(&tally), ["0", "1", "2", "3"]);
    }
}

#[test]
fn reload_fails_no_request() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        let mut runs: Vec<u64> = (0..2).map(|slot| supervisor.start_ready(slot, &node(port))).collect();
        let load = load(local(port));
        for _ in 0..2 {
            for run in &mut runs {
                *run = supervisor.reload(*run, &node(port));
            }
        }
        let tally = load.finish();
        tally.assert_clean();
        assert_eq!(answering(&tally), ["0", "1"], "{mechanism:?}: {tally:?}");
        assert_eq!(supervisor.ports().len(), 2);
    }
}

#[test]
fn reload_closes_old_sockets_without_failures() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        let mut runs: Vec<u64> = (0..2).map(|slot| supervisor.start_ready(slot, &node(port))).collect();
        let load = load(local(port));
        for run in &mut runs {
            *run = supervisor.reload(*run, &node(port));
        }
        load.finish().assert_clean();
        assert_eq!(supervisor.ports().len(), 2, "the old sockets are closed");
    }
}

#[test]
fn connections_wait_while_run_is_replaced() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let port = free_port();
        let run = supervisor.start_ready(0, &python("127.0.0.1", port));
        supervisor.kill(run);
        let early = std::thread::spawn(move || client(local(port)).ask());
        supervisor.wait_ports(|ports| ports.iter().any(|port| port.queued == Some(1)));
        supervisor.start_ready(0, &python("127.0.0.1", port));
        assert_eq!(early.join().unwrap().unwrap(), "0");
    }
}

#[test]
fn crashed_slot_gets_no_connections() {
    let mut supervisor = Supervisor::new(Mechanism::Duplicate, slots(2));
    let port = free_port();
    let first = supervisor.start_ready(0, &python("127.0.0.1", port));
    supervisor.start_ready(1, &python("127.0.0.1", port));
    supervisor.kill(first);
    supervisor.ports(); // commands are executed in order: the previous one is finished when this returns
    let tally = requests(50, local(port));
    tally.assert_clean();
    assert_eq!(answering(&tally), ["1"]);
    // A run that listens but is not ready gets no connections.
    let again = supervisor.start(0, &python("127.0.0.1", port));
    supervisor.wait_for(|event| matches!(event, ClusterEvent::Listening { run, .. } if *run == again));
    assert_eq!(answering(&requests(50, local(port))), ["1"]);
    supervisor.cluster().set_ready(again);
    supervisor.ports();
    assert_eq!(answering(&requests(50, local(port))), ["0", "1"]);
}

#[test]
fn clients_are_refused_without_replacement() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        let runs = [0, 1].map(|slot| supervisor.start_ready(slot, &python("127.0.0.1", port)));
        for (slot, run) in (0..).zip(runs) {
            supervisor.cluster().retire_slot(APP, slot);
            supervisor.kill(run);
            supervisor.ports();
            match slot {
                0 => requests(20, local(port)).assert_clean(),
                _ => assert_eq!(client(local(port)).ask().unwrap_err().kind(), ErrorKind::ConnectionRefused),
            }
        }
        assert_eq!(supervisor.stored_names(), ["cluster/book", "cluster/calls"], "all sockets are released");
        // The port can be bound again at once, although the keeper may not have closed the old socket yet.
        supervisor.start_ready(0, &python("127.0.0.1", port));
        requests(5, local(port)).assert_clean();
    }
}

#[test]
fn ip_hash_keeps_client_on_its_slot() {
    let mut supervisor = Supervisor::new(
        Mechanism::Duplicate,
        PortSettings { balance: Balance::IpHash, probe_routes: true, ..slots(3) },
    );
    let port = free_port();
    let runs = [0, 1, 2].map(|slot| supervisor.start_ready(slot, &python("127.0.0.1", port)));
    let clients: Vec<SocketAddr> = (0..300u16)
        .map(|host| [127, 0, 1 + (host / 250) as u8, 1 + (host % 250) as u8])
        .map(|from| SocketAddr::from((from, 0)))
        .collect();
    let slots_of_clients = || -> Vec<String> {
        clients.iter().map(|from| client(local(port)).from(*from).ask().unwrap()).collect()
    };
    let before = slots_of_clients();
    assert_eq!(before, slots_of_clients());
    assert_eq!(BTreeSet::from_iter(&before).len(), 3, "{before:?}");
    supervisor.kill(runs[1]);
    supervisor.ports();
    for (before, now) in before.iter().zip(slots_of_clients()) {
        assert!(*before == now || before == "1", "a client of a slot that is up has moved");
        assert_ne!(now, "1");
    }
    supervisor.start_ready(1, &python("127.0.0.1", port));
    supervisor.ports();
    assert_eq!(before, slots_of_clients());
}

#[test]
fn shared_balance_uses_one_socket() {
    for mechanism in MECHANISMS {
        let mut supervisor =
            Supervisor::new(mechanism, PortSettings { balance: Balance::Shared, ..slots(2) });
        let port = free_port();
        let first = supervisor.start_ready(0, &node(port));
        supervisor.start_ready(1, &node(port));
        assert_eq!(supervisor.ports().len(), 1);
        let load = load(local(port));
        supervisor.reload(first, &node(port));
        load.finish().assert_clean();
        supervisor.cluster().retire_slot(APP, 0);
        assert_eq!(supervisor.ports().len(), 1, "the other slot still has it");
    }
}

#[test]
fn other_user_shares_port_by_its_rights() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "only root can run programs as another user; skip this test by name"
    );
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        supervisor.become_user(65534);
        let port = free_port();
        for slot in 0..2 {
            supervisor.start_ready(slot, &python("127.0.0.1", port));
        }
        assert_eq!(answering(&requests(50, local(port))), ["0", "1"]);
        // The rights of the user of the app count, not those of the daemon.
        let low_port = privileged_port();
        let low = supervisor.start(2, &python("127.0.0.1", low_port));
        supervisor.wait_for(|event| {
            matches!(event, ClusterEvent::Warning { warning: PortWarning::PrivilegedPort { .. }, .. })
        });
        supervisor.wait_gone(low);
        assert!(supervisor.output(low).contains("Permission denied"));
        supervisor.cluster().set_app(APP, PortSettings { privileged: true, ..slots(3) });
        supervisor.start_ready(2, &python("127.0.0.1", low_port));
        requests(3, local(low_port)).assert_clean();
    }
}

#[test]
fn foreign_port_is_not_taken() {
    for mechanism in MECHANISMS {
        let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = foreign.local_addr().unwrap().port();
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let run = supervisor.start(0, &python("127.0.0.1", port));
        supervisor.wait_for(|event| {
            matches!(event, ClusterEvent::Warning { warning: PortWarning::AddressInUse { .. }, .. })
        });
        supervisor.wait_gone(run);
        assert!(supervisor.output(run).contains("Address already in use"));
    }
}

#[test]
fn two_apps_share_port_with_warning() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        supervisor.cluster().set_app("web", PortSettings { slots: vec![7], ..PortSettings::default() });
        let port = free_port();
        supervisor.start_ready(0, &python("127.0.0.1", port));
        let other = supervisor.start_in("web", 7, &python("127.0.0.1", port));
        let warned = supervisor.wait_for(|event| matches!(event, ClusterEvent::Warning { .. }));
        let ClusterEvent::Warning { warning: PortWarning::SharedWithApp { app, .. }, .. } = warned else {
            panic!("{warned:?}")
        };
        assert_eq!(app, APP);
        supervisor.wait_ready(other);
        supervisor.ports();
        assert_eq!(answering(&requests(50, local(port))), ["0", "7"]);
    }
}

#[test]
fn dual_stack_sockets_serve_both_families() {
    let v6 = |port| SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        for slot in 0..2 {
            supervisor.start_ready(slot, &python("::", port));
        }
        assert_eq!(answering(&requests(50, v6(port))), ["0", "1"]);
        let tally = requests(50, local(port));
        tally.assert_clean();
        assert_eq!(answering(&tally), ["0", "1"], "IPv4 on the same sockets");
        let both = supervisor.ports();
        assert!(both.iter().all(|port| !port.address.v6_only), "{both:?}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn x86_32_bit_programs_share_port() {
    for mechanism in MECHANISMS {
        for entry in ["direct", "socketcall"] {
            let mut supervisor = Supervisor::new(mechanism, slots(2));
            let port = free_port();
            for slot in 0..2 {
                supervisor.start_ready(slot, &["python3", "-c", COMPAT, &port.to_string(), entry]);
            }
            supervisor.ports();
            let tally = requests(50, local(port));
            tally.assert_clean();
            assert_eq!(answering(&tally), ["0", "1"], "{mechanism:?}, {entry}: {tally:?}");
        }
    }
}

#[test]
fn same_port_of_both_families_is_shared() {
    let v6 = |port| SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        for slot in 0..2 {
            let run = supervisor.start_ready(slot, &["python3", "-c", FAMILIES, &port.to_string()]);
            supervisor.wait_ready(run);
        }
        supervisor.ports();
        for to in [local(port), v6(port)] {
            let tally = requests(50, to);
            tally.assert_clean();
            assert_eq!(answering(&tally), ["0", "1"], "{mechanism:?}: {tally:?}");
        }
        let only_v6 = supervisor.ports().iter().filter(|port| port.address.v6_only).count();
        assert_eq!(only_v6, 2);
    }
}

#[test]
fn runs_that_ended_unseen_get_no_connections() {
    let mut supervisor = Supervisor::new(Mechanism::Duplicate, slots(2));
    let port = free_port();
    let runs = [0, 1].map(|slot| supervisor.start_ready(slot, &python("127.0.0.1", port)));
    supervisor.ports();
    supervisor.lose_engine();
    supervisor.kill_unseen(runs[0]);
    supervisor.restore();
    supervisor.cluster().recovery_complete();
    supervisor.ports();
    let tally = requests(50, local(port));
    tally.assert_clean();
    assert_eq!(answering(&tally), ["1"]);
}

#[test]
fn scale_down_releases_ports() {
    let mut supervisor = Supervisor::new(Mechanism::Duplicate, slots(2));
    let port = free_port();
    let runs = [0, 1].map(|slot| supervisor.start_ready(slot, &python("127.0.0.1", port)));
    supervisor.kill(runs[1]);
    assert_eq!(supervisor.ports().len(), 2);
    supervisor.cluster().set_app(APP, slots(1));
    assert_eq!(supervisor.ports().len(), 1);
    requests(20, local(port)).assert_clean();
}

#[test]
fn workers_with_reuse_port_share_several_ports() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        let argv = ["python3", "-c", WORKERS, &port.to_string(), &free_port().to_string()];
        let first = supervisor.start_ready(0, &argv);
        supervisor.start_ready(1, &argv);
        // In each slot two sockets of the shared port, and one of the other.
        supervisor.wait_ports(|ports| ports.len() == 6);
        let again = supervisor.reload(first, &argv);
        supervisor.wait_line(again, "serving");
        supervisor.wait_ports(|ports| ports.len() == 6 && ports.iter().all(|port| !port.runs.is_empty()));
        requests(50, local(port)).assert_clean();
    }
}

#[test]
fn probed_port_is_released() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let port = free_port();
        let run = supervisor.start(0, &["python3", "-c", PROBE, &port.to_string()]);
        supervisor.wait_line(run, "probed");
        // The socket of the test on 127.0.0.1 is closed and must not get connections meant for all addresses.
        supervisor.wait_ports(|ports| ports.len() == 1 && ports[0].address.socket.ip().is_unspecified());
        requests(5, local(port)).assert_clean();
    }
}

#[test]
fn program_cannot_bind_port_twice() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let run = supervisor.start(0, &["python3", "-c", TWICE, &free_port().to_string()]);
        supervisor.wait_line(run, "refused");
    }
}

#[test]
fn signals_do_not_interrupt_bind() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let run = supervisor.start(0, &["python3", "-c", SIGNALS, &free_port().to_string()]);
        supervisor.wait_line(run, "done");
    }
}

#[test]
fn udp_is_shared_if_enabled() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, PortSettings { udp: true, ..slots(2) });
        let port = free_port();
        let argv = ["python3", "-c", UDP, &port.to_string()];
        let first = supervisor.start_ready(0, &argv);
        supervisor.start_ready(1, &argv);
        supervisor.ports();
        let mut seen = BTreeSet::new();
        for _ in 0..50 {
            seen.insert(ask_udp(port));
        }
        assert_eq!(seen, BTreeSet::from(["0".to_owned(), "1".to_owned()]), "{mechanism:?}");
        supervisor.kill(first);
        supervisor.start_ready(0, &argv);
        supervisor.ports();
        ask_udp(port);
    }
}

#[test]
fn udp_is_not_shared_by_default() {
    let mut supervisor = Supervisor::new(Mechanism::Duplicate, slots(2));
    let port = free_port();
    let first = supervisor.start(0, &["python3", "-c", UDP, &port.to_string()]);
    supervisor.wait_line(first, "bound");
    let second = supervisor.start(1, &["python3", "-c", UDP, &port.to_string()]);
    supervisor.wait_gone(second);
    assert!(supervisor.output(second).contains("Address already in use"));
}

#[test]
fn sockets_are_passed_without_seccomp() {
    let node_line = |port: u16| format!("node -e '{NODE}' -- {port}; true");
    for mechanism in [Mechanism::SocketActivation, Mechanism::NodePreload] {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        supervisor.listen = vec![port.to_string().parse().unwrap()];
        let argv = match mechanism {
            Mechanism::SocketActivation => vec!["python3".to_owned(), "-c".into(), PASSED.into()],
            _ => vec!["sh".into(), "-c".into(), node_line(port)],
        };
        let mut runs: Vec<u64> = (0..2).map(|slot| supervisor.start(slot, &argv)).collect();
        runs.iter().for_each(|run| supervisor.cluster().set_ready(*run));
        supervisor.ports();
        // Before the programs accept, connections wait.
        let load = load(local(port));
        requests(20, local(port)).assert_clean();
        if mechanism == Mechanism::SocketActivation {
            for (slot, run) in (0..).zip(&mut runs) {
                let new = supervisor.start(slot, &argv);
                supervisor.wait_line(new, "serving");
                supervisor.cluster().set_ready(new);
                supervisor.cluster().drain(*run);
                supervisor.cluster().wait_drained(*run).blocking_recv().unwrap();
                supervisor.signal(*run, Signal::SIGTERM);
                supervisor.wait_gone(*run);
                *run = new;
            }
        }
        let tally = load.finish();
        tally.assert_clean();
        assert_eq!(answering(&tally), ["0", "1"], "{mechanism:?}: {tally:?}");
        assert_eq!(supervisor.ports().len(), 2);
    }
}

#[test]
fn listener_survives_shutdown_by_old_run() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        let argv = ["python3", "-c", SHUTS, &port.to_string()];
        let runs: Vec<u64> = (0..2).map(|slot| supervisor.start_ready(slot, &argv)).collect();
        for run in runs {
            supervisor.reload(run, &argv);
        }
        supervisor.ports();
        let tally = requests(100, local(port));
        tally.assert_clean();
        assert_eq!(answering(&tally), ["0", "1"], "{mechanism:?}: {tally:?}");
    }
}

#[test]
fn static_go_binary_shares_port() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("main.go"), GO).unwrap();
    let mut build = std::process::Command::new("go");
    build.args(["build", "-o", "server", "main.go"]).env("CGO_ENABLED", "0").current_dir(dir.path());
    assert!(build.status().expect("go does not start: tests/run installs it").success());
    let server = dir.path().join("server").display().to_string();
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(4));
        let port = free_ports(2);
        // All addresses of both families, and one of them.
        for (host, clients) in [("", port), ("127.0.0.1", port + 1)] {
            let argv = [server.clone(), format!("{host}:{clients}")];
            let mut runs: Vec<u64> = (0..4).map(|slot| supervisor.start_ready(slot, &argv)).collect();
            let load = load(local(clients));
            for run in &mut runs {
                *run = supervisor.reload(*run, &argv);
            }
            let tally = load.finish();
            tally.assert_clean();
            assert_eq!(answering(&tally), ["0", "1", "2", "3"], "{mechanism:?}: {tally:?}");
            runs.into_iter().for_each(|run| supervisor.kill(run));
        }
    }
}

#[test]
fn multipath_sockets_become_plain_tcp() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        for slot in 0..2 {
            supervisor.start_ready(slot, &["python3", "-c", MULTIPATH, &port.to_string()]);
        }
        supervisor.ports();
        let tally = requests(50, local(port));
        tally.assert_clean();
        assert_eq!(answering(&tally), ["0", "1"], "{mechanism:?}: {tally:?}");
        let event = supervisor.wait_for(|event| matches!(event, ClusterEvent::Mechanism { .. }));
        assert!(matches!(event, ClusterEvent::Mechanism { mechanism: Mechanism::Inject, .. }), "{event:?}");
    }
}

#[test]
fn new_engine_resumes_after_loss() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(3));
        let port = free_port();
        let runs = [0, 1].map(|slot| supervisor.start_ready(slot, &python("127.0.0.1", port)));
        let load = load(local(port));
        supervisor.ports();
        supervisor.lose_engine();
        // Its calls wait until there is an engine again.
        let late = supervisor.start(2, &python("127.0.0.1", port));
        supervisor.restore();
        supervisor.wait_ready(late);
        supervisor.kill(runs[0]);
        supervisor.start_ready(0, &python("127.0.0.1", port));
        supervisor.ports();
        let more = requests(300, local(port));
        more.assert_clean();
        assert_eq!(answering(&more), ["0", "1", "2"], "{mechanism:?}: {more:?}");
        drop(load.finish()); // connections that the killed run had accepted are lost
        assert_eq!(supervisor.ports().len(), 3);
    }
}
