//! Servers as people write them: each answers with its slot, and ends in good order on SIGTERM.

/// Python's `http.server`, which finishes what it began.
pub const PYTHON: &str = r#"
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("slot " + os.environ["SLOT"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
host, port = sys.argv[1], int(sys.argv[2])
if ":" in host:
    import socket
    http.server.HTTPServer.address_family = socket.AF_INET6
http.server.HTTPServer.request_queue_size = 512
server = http.server.HTTPServer((host, port), Handler)
server.timeout = 0.05
go = True
def stop(*_):
    global go
    go = False
signal.signal(signal.SIGTERM, stop)
while go: server.handle_request()
"#;

/// Node, as everybody writes it.
pub const NODE: &str = r#"
const server = require("http").createServer((request, response) => {
  response.setHeader("Connection", "close");
  response.end("slot " + process.env.SLOT);
});
process.on("SIGTERM", () => server.close(() => process.exit(0)));
server.listen(Number(process.argv[1]), process.argv[2]);
"#;

/// A parent that has one port, and two workers that each open another with `SO_REUSEPORT`.
pub const WORKERS: &str = r#"
import os, signal, socket, sys, time
def listen(port, share):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", port))
    s.listen(256)
    return s
def work():
    s = listen(int(sys.argv[1]), True)
    while True:
        c, _ = s.accept()
        c.recv(1000)
        body = "slot " + os.environ["SLOT"]
        c.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        c.close()
other = listen(int(sys.argv[2]), False)
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0: work()
    children.append(pid)
print("serving", flush=True)
signal.pause()
"#;

/// Looks whether its port is free, as `detect-port` does, then listens on all addresses and serves.
pub const PROBE: &str = r#"
import os, socket, sys
port = int(sys.argv[1])
for host in ("127.0.0.1", "0.0.0.0"):
    for listens in (False, True):
        s = socket.socket()
        s.bind((host, port))
        if listens: s.listen()
        s.close()
s = socket.socket()
s.bind(("0.0.0.0", port))
s.listen(64)
print("probed", flush=True)
while True:
    c, _ = s.accept()
    c.recv(1000)
    c.sendall(b"HTTP/1.1 200 OK\r\n\r\nslot " + os.environ["SLOT"].encode())
    c.close()
"#;

/// Asks for a port that it has.
pub const TWICE: &str = r#"
import errno, socket, sys, time
def take():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", int(sys.argv[1])))
    s.listen()
    return s
first = take()
try:
    second = take()
    print("had it twice", flush=True)
except OSError as error:
    print("refused" if error.errno == errno.EADDRINUSE else error, flush=True)
time.sleep(1000)
"#;

/// Binds and listens a hundred times under a rain of signals.
pub const SIGNALS: &str = r#"
import signal, socket, sys, time
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for _ in range(100):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", int(sys.argv[1])))
    s.listen()
    s.close()
signal.setitimer(signal.ITIMER_REAL, 0, 0)
print("done", flush=True)
time.sleep(1000)
"#;

/// Answers datagrams with its slot.
pub const UDP: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", int(sys.argv[1])))
print("bound", flush=True)
while True:
    data, client = s.recvfrom(100)
    s.sendto(os.environ["SLOT"].encode(), client)
"#;

/// Takes the sockets that it is passed, and opens none itself.
pub const PASSED: &str = r#"
import os, signal, socket, sys
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDS"] == "1"
s = socket.socket(fileno=3)
s.settimeout(0.05)
go = True
def stop(*_):
    global go
    go = False
signal.signal(signal.SIGTERM, stop)
print("serving", flush=True)
while go:
    try: c, _ = s.accept()
    except TimeoutError: continue
    c.settimeout(5)
    c.recv(1000)
    c.sendall(b"HTTP/1.1 200 OK\r\n\r\nslot " + os.environ["SLOT"].encode())
    c.close()
"#;
