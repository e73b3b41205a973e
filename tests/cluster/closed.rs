//! Listeners that a program closes although it keeps running, and queues that nobody serves.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rsm::cluster::{Balance, ClusterEvent, PortSettings};

use crate::ports::free_port;
use crate::supervisor::Supervisor;
use crate::{MECHANISMS, answering, client, load, local, node, python, requests, slots};

/// A server of Node.js that closes its listener on SIGUSR2 and keeps running.
const CLOSES: &str = r#"
const server = require("http").createServer((request, response) => {
  response.setHeader("Connection", "close");
  response.end("slot " + process.env.SLOT);
});
process.on("SIGUSR2", () => server.close());
setInterval(() => {}, 1000);
server.listen(Number(process.argv[1]), "127.0.0.1");
"#;

/// A server that shuts its listener down on SIGUSR2 and keeps running. With "fork", a child serves and the parent closes
/// the socket.
const SHUTS_DOWN: &str = r#"
import os, signal, socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(128)
if sys.argv[2:] == ["fork"] and os.fork():
    s.close()
    while True: time.sleep(1000)
def close(*_):
    s.shutdown(socket.SHUT_RDWR)
    s.close()
signal.signal(signal.SIGUSR2, close)
while s.fileno() >= 0:
    try: c, _ = s.accept()
    except OSError:
        # Another process has shut it down for a moment.
        time.sleep(0.01)
        continue
    c.recv(1000)
    c.sendall(b"HTTP/1.1 200 OK\r\n\r\nslot " + os.environ["SLOT"].encode() + b" ")
    c.close()
while True: time.sleep(1000)
"#;

fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
}

fn closes(port: u16) -> [String; 5] {
    ["node", "-e", CLOSES, "--", &port.to_string()].map(str::to_owned)
}

fn shuts_down(port: u16) -> [String; 4] {
    ["python3", "-c", SHUTS_DOWN, &port.to_string()].map(str::to_owned)
}

fn wait_closed(supervisor: &mut Supervisor, of: u64) {
    supervisor.wait_for(|event| matches!(event, ClusterEvent::Closed { run, .. } if *run == of));
}

/// Clients that each wait for an answer.
fn waiting_clients(count: u32, port: u16) -> Vec<JoinHandle<std::io::Result<String>>> {
    (0..count).map(|_| std::thread::spawn(move || client(local(port)).ask())).collect()
}

fn answers(clients: Vec<JoinHandle<std::io::Result<String>>>) -> Vec<String> {
    clients.into_iter().map(|client| client.join().unwrap().unwrap()).collect()
}

#[test]
fn connections_go_to_others_when_listener_is_closed() {
    need_root();
    for mechanism in MECHANISMS {
        for balance in [Balance::Random, Balance::IpHash] {
            let mut supervisor = Supervisor::new(mechanism, PortSettings { balance, ..slots(3) });
            let port = free_port();
            let runs = [0, 1, 2].map(|slot| supervisor.start_ready(slot, &closes(port)));
            let load = load(local(port));
            for (open, run) in [(2, runs[0]), (1, runs[1])] {
                supervisor.signal(run, Signal::SIGUSR2);
                wait_closed(&mut supervisor, run);
                supervisor.wait_ports(|ports| ports.len() == open);
                requests(20, local(port)).assert_clean();
            }
            // Those that waited for an instance that had closed its listener were handed over to others.
            load.finish().assert_clean();
            assert_eq!(answering(&requests(20, local(port))), ["2"]);
        }
    }
}

#[test]
fn connections_go_to_others_when_listener_is_shut_down() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        let runs = [0, 1].map(|slot| supervisor.start_ready(slot, &shuts_down(port)));
        supervisor.signal(runs[0], Signal::SIGUSR2);
        wait_closed(&mut supervisor, runs[0]);
        assert_eq!(answering(&requests(20, local(port))), ["1"]);
    }
}

#[test]
fn connections_wait_for_next_run_when_only_listener_is_closed() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let port = free_port();
        let run = supervisor.start_ready(0, &closes(port));
        // A socket that is closed sooner was only a test of the port.
        std::thread::sleep(Duration::from_millis(2500));
        supervisor.signal(run, Signal::SIGUSR2);
        wait_closed(&mut supervisor, run);
        let clients = waiting_clients(3, port);
        supervisor.wait_ports(|ports| ports.iter().any(|port| port.queued == Some(3)));
        supervisor.kill(run);
        supervisor.start_ready(0, &closes(port));
        assert_eq!(answers(clients), ["0"; 3]);
    }
}

#[test]
fn shared_socket_survives_shutdown_by_one_of_its_runs() {
    for mechanism in MECHANISMS {
        let mut supervisor =
            Supervisor::new(mechanism, PortSettings { balance: Balance::Shared, ..slots(2) });
        let port = free_port();
        let runs = [0, 1].map(|slot| supervisor.start_ready(slot, &shuts_down(port)));
        supervisor.signal(runs[0], Signal::SIGUSR2);
        wait_closed(&mut supervisor, runs[0]);
        let tally = requests(20, local(port));
        tally.assert_clean();
        assert_eq!(answering(&tally), ["1"]);
        assert_eq!(supervisor.ports()[0].runs, [runs[1]]);
    }
}

#[test]
fn listener_of_child_is_not_closed() {
    let mut supervisor = Supervisor::new(MECHANISMS[0], slots(2));
    let port = free_port();
    let mut argv = shuts_down(port).to_vec();
    argv.push("fork".into());
    let runs = [0, 1].map(|slot| supervisor.start_ready(slot, &argv));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        requests(20, local(port)).assert_clean();
    }
    assert_eq!(supervisor.ports().len(), 2);
    runs.into_iter().for_each(|run| supervisor.kill(run));
}

#[test]
fn queue_of_hung_run_goes_to_its_replacement() {
    need_root();
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let port = free_port();
        let hung = supervisor.start_ready(0, &node(port));
        supervisor.signal(hung, Signal::SIGSTOP);
        let clients = waiting_clients(6, port);
        supervisor.wait_ports(|ports| ports.iter().any(|port| port.queued == Some(6)));
        let new = supervisor.start_ready(0, &node(port));
        supervisor.cluster().drain(hung);
        supervisor.cluster().wait_drained(hung).blocking_recv().unwrap();
        assert_eq!(answers(clients), ["0"; 6]);
        supervisor.kill(hung);
        supervisor.ports();
        requests(20, local(port)).assert_clean();
        supervisor.kill(new);
    }
}

#[test]
fn queue_of_killed_run_goes_to_others() {
    need_root();
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        let runs = [0, 1].map(|slot| supervisor.start_ready(slot, &python("127.0.0.1", port)));
        supervisor.ports(); // commands are executed in order: both are ready when this returns
        supervisor.signal(runs[0], Signal::SIGSTOP);
        let clients = waiting_clients(10, port);
        supervisor.wait_ports(|ports| ports.iter().map(|port| port.queued.unwrap_or(0)).sum::<u32>() == 5);
        supervisor.kill(runs[0]);
        assert_eq!(answers(clients), ["1"; 10]);
        // Its socket still belongs to the slot.
        assert_eq!(supervisor.ports().len(), 2);
        supervisor.start_ready(0, &python("127.0.0.1", port));
        supervisor.ports();
        assert_eq!(answering(&requests(20, local(port))), ["0", "1"]);
    }
}

#[test]
fn frozen_run_holds_up_few_connections() {
    need_root(); // for eBPF programs
    let mut supervisor = Supervisor::new(MECHANISMS[0], slots(4));
    let port = free_port();
    let runs = [0, 1, 2, 3].map(|slot| supervisor.start_ready(slot, &node(port)));
    supervisor.ports(); // all are ready when this returns
    supervisor.signal(runs[0], Signal::SIGSTOP);
    for _ in 0..3 {
        // Those that waited for the frozen run are answered by others.
        let answered = answers(waiting_clients(160, port));
        assert!(answered.iter().all(|slot| slot != "0"), "{answered:?}");
        supervisor.wait_ports(|ports| ports.iter().all(|port| port.queued == Some(0)));
    }
    supervisor.signal(runs[0], Signal::SIGCONT);
    let begin = Instant::now();
    while !answers(waiting_clients(20, port)).contains(&"0".to_owned()) {
        assert!(begin.elapsed() < Duration::from_secs(60), "it gets no connections any more");
    }
}
