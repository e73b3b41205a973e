//! What rsm does for a program is what the program may do itself: ports, namespaces, Landlock, socket options, and a
//! bounded number of sockets.

use nix::sys::signal::Signal;
use rsm::cluster::{ClusterEvent, Mechanism, PortWarning};

use crate::ports::{free_port, free_ports, privileged_port};
use crate::supervisor::Supervisor;
use crate::{MECHANISMS, slots};

const NOBODY: u32 = 65534;

/// Functions of the programs below.
const PRELUDE: &str = r#"
import ctypes, os, resource, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNET = 0x10000000, 0x40000000
def unshare(flags):
    if libc.unshare(flags): sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
def listen(host, port, *options):
    s = socket.socket()
    for option in options: s.setsockopt(*option)
    s.bind((host, port))
    s.listen(16)
    return s
def attempt(*address):
    try: return listen(*address)
    except OSError as error: print(error.strerror, flush=True)
def restrict(files, net):
    attributes = struct.pack("QQ", files, net)
    rules = libc.syscall(444, attributes, len(attributes), 0)
    libc.prctl(38, 1, 0, 0, 0)
    if rules < 0 or libc.syscall(446, rules, 0): sys.exit("landlock: " + os.strerror(ctypes.get_errno()))
port = int(sys.argv[1])
"#;

fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
}

/// Starts a program of `nobody` that has the functions of [`PRELUDE`].
fn start(supervisor: &mut Supervisor, slot: u32, program: &str, port: u16) -> u64 {
    supervisor.become_user(NOBODY);
    supervisor.start(slot, &["python3", "-c", &format!("{PRELUDE}\n{program}"), &port.to_string()])
}

fn wait_warning(supervisor: &mut Supervisor, matches: fn(&PortWarning) -> bool) {
    supervisor.wait_for(|event| matches!(event, ClusterEvent::Warning { warning, .. } if matches(warning)));
}

#[test]
fn capabilities_of_user_namespace_do_not_open_privileged_ports() {
    need_root();
    for mechanism in MECHANISMS {
        // The network namespace of the daemon, from the main thread and from another one.
        for program in [
            "unshare(NEWUSER); attempt('127.0.0.1', port); time.sleep(1000)",
            "import threading\nif os.fork() == 0: unshare(NEWUSER); t = threading.Thread(target=attempt, \
             args=('0.0.0.0', port)); t.start(); t.join()\ntime.sleep(1000)",
        ] {
            let mut supervisor = Supervisor::new(mechanism, slots(1));
            let run = start(&mut supervisor, 0, program, privileged_port());
            supervisor.wait_line(run, "Permission denied");
            wait_warning(&mut supervisor, |warning| matches!(warning, PortWarning::PrivilegedPort { .. }));
            assert!(supervisor.ports().is_empty());
        }
    }
}

#[test]
fn port_of_another_network_namespace_is_not_shared() {
    need_root();
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = privileged_port();
        for slot in 0..2 {
            // The namespaces are its own: both instances may bind the same privileged port there.
            let program = "unshare(NEWUSER | NEWNET); s = attempt('0.0.0.0', port); \
                 print('listens' if s else 'refused', flush=True); time.sleep(1000)";
            let run = start(&mut supervisor, slot, program, port);
            supervisor.wait_line(run, "listens");
        }
        assert!(supervisor.ports().is_empty(), "{mechanism:?}");
    }
}

#[test]
fn received_socket_of_another_network_namespace_is_left_to_the_kernel() {
    need_root();
    let mut supervisor = Supervisor::new(Mechanism::Duplicate, slots(1));
    let program = "a, b = socket.socketpair()\n\
        if os.fork() == 0:\n    unshare(NEWUSER | NEWNET)\n    s = socket.socket()\n    \
        socket.send_fds(a, [b'x'], [s.fileno()])\n    time.sleep(1000)\n\
        s = socket.socket(fileno=socket.recv_fds(b, 1, 1)[1][0])\n\
        s.bind(('0.0.0.0', port))\ns.listen(1)\nprint('listens', flush=True)\ntime.sleep(1000)";
    let run = start(&mut supervisor, 0, program, free_port());
    supervisor.wait_line(run, "listens");
    assert!(supervisor.ports().is_empty(), "it is not a port of this network namespace");
}

#[test]
fn landlock_rules_of_program_apply() {
    need_root();
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(2));
        let port = free_port();
        let program = "restrict(0, 1); attempt('127.0.0.1', port); time.sleep(1000)";
        let run = start(&mut supervisor, 0, program, port);
        supervisor.wait_line(run, "Permission denied");
        wait_warning(&mut supervisor, |warning| matches!(warning, PortWarning::Landlock { .. }));
        // Also in a child, and for the next daemon.
        let program = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\nrestrict(0, 1)\n\
            print('restricted', flush=True)\nsignal.sigwait([signal.SIGUSR1])\n\
            os.fork() or attempt('127.0.0.1', port)\ntime.sleep(1000)";
        let run = start(&mut supervisor, 0, program, port);
        supervisor.wait_line(run, "restricted");
        supervisor.lose_engine();
        supervisor.restore();
        supervisor.signal(run, Signal::SIGUSR1);
        supervisor.wait_line(run, "Permission denied");
        supervisor.kill(run);
        // Rules about files only do not prevent sharing.
        for slot in 0..2 {
            let program = "restrict(1, 0); s = listen('127.0.0.1', port); time.sleep(1000)";
            let run = start(&mut supervisor, slot, program, port);
            supervisor.wait_ready(run);
        }
        supervisor.wait_ports(|ports| ports.len() == 2);
    }
}

#[test]
fn options_that_decide_where_a_socket_listens_are_kept() {
    need_root();
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let program = "s = listen('0.0.0.0', port, (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo'))\n\
            print(s.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b'\\0').decode(), flush=True)\n\
            attempt('192.0.2.1', port)\n\
            s = listen('192.0.2.1', port + 1, (socket.SOL_IP, 15, 1))\nprint('free', flush=True)\ntime.sleep(1000)";
        let run = start(&mut supervisor, 0, program, free_ports(2));
        supervisor.wait_line(run, "free");
        assert_eq!(
            supervisor.output(run).lines().collect::<Vec<_>>(),
            ["lo", "Cannot assign requested address", "free"],
            "{mechanism:?}"
        );
    }
}

#[test]
fn sockets_of_one_app_are_bounded() {
    for mechanism in MECHANISMS {
        let mut supervisor = Supervisor::new(mechanism, slots(1));
        let program = "resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))\n\
            s = [listen(f'127.9.{i // 250}.{i % 250 + 1}', port) for i in range(1200)]\n\
            print('listens', flush=True)\ntime.sleep(1000)";
        let run = start(&mut supervisor, 0, program, free_port());
        // All of them listen; rsm holds a part.
        supervisor.wait_line(run, "listens");
        wait_warning(&mut supervisor, |warning| matches!(warning, PortWarning::TooManySockets { .. }));
        assert!(supervisor.ports().len() <= 1024);
        assert!(supervisor.stored_names().len() <= 1026);
    }
}
