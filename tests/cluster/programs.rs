//! Typical server programs: each responds with its slot, and stops gracefully on SIGTERM.

/// `http.server` of Python, which finishes accepted requests.
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

/// A typical Node.js server.
pub const NODE: &str = r#"
const server = require("http").createServer((request, response) => {
  response.setHeader("Connection", "close");
  response.end("slot " + process.env.SLOT);
});
process.on("SIGTERM", () => server.close(() => process.exit(0)));
server.listen(Number(process.argv[1]), process.argv[2]);
"#;

/// A parent with one port, and two workers that each open another port with `SO_REUSEPORT`.
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

/// Tests whether its port is free, as `detect-port` does, then listens on all addresses.
pub const PROBE: &str = r#"
import os, signal, socket, sys
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
go = True
def stop(*_):
    global go
    go = False
signal.signal(signal.SIGTERM, stop)
s.settimeout(0.05)
while go:
    try: c, _ = s.accept()
    except TimeoutError: continue
    c.recv(1000)
    c.sendall(b"HTTP/1.1 200 OK\r\n\r\nslot " + os.environ["SLOT"].encode())
    c.close()
"#;

/// Binds a port twice.
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

/// Binds and listens a hundred times while it gets signals.
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

/// Responds to datagrams with its slot.
pub const UDP: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", int(sys.argv[1])))
print("bound", flush=True)
while True:
    data, client = s.recvfrom(100)
    s.sendto(os.environ["SLOT"].encode(), client)
"#;

/// Uses the passed socket and opens none itself.
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

/// Binds and listens until SIGTERM; prints the number of rounds or the error.
pub const STORM: &str = r#"
import signal, socket, sys
go = True
def stop(*_):
    global go
    go = False
signal.signal(signal.SIGTERM, stop)
signal.siginterrupt(signal.SIGTERM, False)
count = 0
try:
    while go:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Alternates between an address with a held socket and a new one.
        host = "127.0.0.1" if count % 2 else f"127.2.{count // 500 % 250}.{count // 2 % 250 + 1}"
        s.bind((host, int(sys.argv[1])))
        s.listen()
        c = socket.create_connection(s.getsockname())
        s.accept()[0].close()
        c.close()
        s.close()
        count += 1
    print("all", count, flush=True)
except OSError as error:
    print(count, error, flush=True)
"#;

/// Stops slowly, after shutting its listening socket down, as WEBrick and .NET do.
pub const SHUTS: &str = r#"
import os, selectors, signal, socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(512)
s.setblocking(False)
sel = selectors.DefaultSelector()
sel.register(s, selectors.EVENT_READ)
def stop(*_):
    sel.unregister(s)
    s.shutdown(socket.SHUT_RDWR)
    time.sleep(0.2)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
while True:
    sel.select()
    try: c, _ = s.accept()
    except OSError: continue
    c.setblocking(True)
    c.recv(1000)
    c.sendall(b"HTTP/1.1 200 OK\r\n\r\nslot " + os.environ["SLOT"].encode())
    c.close()
"#;

/// `net/http` of Go: binds on any of its threads, and uses multipath sockets in newer versions.
pub const GO: &str = r#"
package main
import ("context"; "net/http"; "os"; "os/signal"; "syscall")
func main() {
    server := &http.Server{Addr: os.Args[1], Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
        w.Write([]byte("slot " + os.Getenv("SLOT")))
    })}
    done := make(chan bool)
    go func() {
        signals := make(chan os.Signal, 1)
        signal.Notify(signals, syscall.SIGTERM)
        <-signals
        server.Shutdown(context.Background())
        close(done)
    }()
    if err := server.ListenAndServe(); err != http.ErrServerClosed { panic(err) }
    <-done
}
"#;

/// A multipath TCP socket: such a group cannot be steered.
pub const MULTIPATH: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(64)
while True:
    c, _ = s.accept()
    c.recv(1000)
    c.sendall(b"HTTP/1.1 200 OK\r\n\r\nslot " + os.environ["SLOT"].encode())
    c.close()
"#;

/// One socket for IPv4 and one for IPv6 only, as nginx opens them.
pub const FAMILIES: &str = r#"
import os, select, socket, sys
port = int(sys.argv[1])
four = socket.socket()
four.bind(("0.0.0.0", port))
six = socket.socket(socket.AF_INET6)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
six.bind(("::", port))
for s in (four, six): s.listen(64)
while True:
    for s in select.select([four, six], [], [])[0]:
        c, _ = s.accept()
        c.recv(1000)
        c.sendall(b"HTTP/1.1 200 OK\r\n\r\nslot " + os.environ["SLOT"].encode())
        c.close()
"#;

/// Binds and listens by the system calls of 32-bit x86: directly, or through `socketcall`.
pub const COMPAT: &str = r#"
import ctypes, mmap, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
page = libc.mmap(None, 4096, 7, 0x02 | 0x20 | 0x40, -1, 0)  # MAP_32BIT
# push rbx; mov eax, edi; mov ebx, esi; int 0x80; pop rbx; ret
ctypes.memmove(page, bytes.fromhex("5389f889f3cd805bc3"), 9)
call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(page)
def call3(number, a, b, c):
    result = call(number, a, c, b)  # the last two come in edx and ecx
    if result < 0: raise OSError(-result, os.strerror(-result))
s = socket.socket()
address, words = page + 512, page + 1024
ctypes.memmove(address, struct.pack("=H", 2) + struct.pack("!H", int(sys.argv[1])) + bytes([127, 0, 0, 1]) + bytes(8), 16)
def socketcall(which, *arguments):
    ctypes.memmove(words, struct.pack(f"{len(arguments)}I", *arguments), 4 * len(arguments))
    call3(102, which, words, 0)
if sys.argv[2] == "direct":
    call3(361, s.fileno(), address, 16)
    call3(363, s.fileno(), 64, 0)
else:
    socketcall(2, s.fileno(), address, 16)
    socketcall(4, s.fileno(), 64)
while True:
    c, _ = s.accept()
    c.recv(1000)
    c.sendall(b"HTTP/1.1 200 OK\r\n\r\nslot " + os.environ["SLOT"].encode())
    c.close()
"#;
