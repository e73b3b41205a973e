//! The server with real sockets: each test has its own site, port and thread.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

use super::auth::Credentials;
use super::*;

/// Only reached by failing tests.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running server and the directory it serves.
struct Site {
    dir: tempfile::TempDir,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    fn start(configure: impl FnOnce(&mut ServeConfig)) -> Self {
        Self::with_timeouts(Timeouts { drain: DEADLINE, ..Timeouts::default() }, configure)
    }

    fn with_timeouts(timeouts: Timeouts, configure: impl FnOnce(&mut ServeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("site");
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::write(root.join("index.html"), "home").unwrap();
        fs::write(root.join("app.js"), "0123456789").unwrap();
        fs::write(root.join("docs/index.html"), "docs").unwrap();
        let args = ServeArgs { path: Some(root), ..ServeArgs::default() };
        let mut config = ServeConfig::resolve(args, |_| None).unwrap();
        configure(&mut config);
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = listen::listen("127.0.0.1", 0).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let shutdown = async { drop(stopped.await) };
                connections::serve(listener, Arc::new(config), timeouts, shutdown).await;
            });
        });
        let address = address.recv_timeout(DEADLINE).unwrap();
        Self { dir, address, stop: Some(stop), thread: Some(thread) }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root().join(name), text).unwrap();
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// One request on a connection of its own; `headers` end with a newline each.
    fn request(&self, method: &str, path: &str, headers: &str) -> Response {
        let mut stream = self.connect();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").unwrap();
        Response::read(&mut stream)
    }

    fn get(&self, path: &str) -> Response {
        self.request("GET", path, "")
    }

    /// Starts the shutdown.
    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server has stopped.
    fn join(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    /// Everything up to the end of the connection.
    fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn assert_is(&self, status: u16, text: &str) {
        assert_eq!((self.status, self.text()), (status, text), "{}", self.head);
    }
}

#[test]
fn serves_files_with_type_length_and_cors() {
    let site = Site::start(|_| {});
    let response = site.get("/app.js?v=1");
    response.assert_is(200, "0123456789");
    assert_eq!(response.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(response.header("content-length"), Some("10"));
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    site.get("/").assert_is(200, "home");
    site.get("/docs/").assert_is(200, "docs");
    site.get("/docs/?q").assert_is(200, "docs");
}

#[test]
fn head_returns_only_headers() {
    let site = Site::start(|_| {});
    let response = site.request("HEAD", "/app.js", "range: bytes=0-1\r\n");
    response.assert_is(200, "");
    assert_eq!(response.header("content-length"), Some("10"));
}

#[test]
fn rejects_other_methods() {
    let site = Site::start(|_| {});
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let response = site.request(method, "/app.js", "content-length: 0\r\n");
        assert_eq!((response.status, response.header("allow")), (405, Some("get, head")), "{method}");
    }
}

#[test]
fn serves_large_file() {
    let site = Site::start(|_| {});
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    fs::write(site.root().join("large.bin"), &bytes).unwrap();
    let response = site.get("/large.bin");
    assert_eq!(response.header("content-length"), Some("3000000"));
    assert!(response.body == bytes, "{} bytes came", response.body.len());
}

#[test]
fn serves_ranges() {
    let site = Site::start(|_| {});
    let part = |range: &str| site.request("GET", "/app.js", &format!("range: bytes={range}\r\n"));
    let response = part("2-4");
    response.assert_is(206, "234");
    assert_eq!(response.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(response.header("content-length"), Some("3"));
    part("-3").assert_is(206, "789");
    part("0-1,4-5").assert_is(200, "0123456789");
    let beyond = part("10-");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    let tag = site.get("/app.js").header("etag").unwrap().to_owned();
    let resume =
        |tag: &str| site.request("GET", "/app.js", &format!("range: bytes=8-\r\nif-range: {tag}\r\n"));
    resume(&tag).assert_is(206, "89");
    resume("\"former\"").assert_is(200, "0123456789");
}

#[test]
fn returns_304_for_unmodified_file() {
    let site = Site::start(|_| {});
    let first = site.get("/app.js");
    let (tag, date) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
    // In lower case, which is valid for dates.
    for header in [format!("if-none-match: {tag}"), format!("if-modified-since: {date}")] {
        let response = site.request("GET", "/app.js", &format!("{header}\r\n"));
        response.assert_is(304, "");
        assert_eq!(response.header("etag"), Some(tag));
    }
    site.write("app.js", "changed");
    site.request("GET", "/app.js", &format!("if-none-match: {tag}\r\n")).assert_is(200, "changed");
}

#[test]
fn redirects_directory_to_trailing_slash() {
    let site = Site::start(|_| {});
    let response = site.get("/docs?q=1");
    assert_eq!((response.status, response.header("location")), (301, Some("/docs/?q=1")));
    fs::create_dir(site.root().join("évil.example")).unwrap();
    let response = site.get("//%C3%A9vil.example");
    assert_eq!((response.status, response.header("location")), (301, Some("/%c3%a9vil.example/")));
    assert_eq!(site.get("/app.js/").status, 404);
}

#[test]
fn missing_file_returns_404_page_of_site() {
    let site = Site::start(|_| {});
    assert_eq!(site.get("/none").status, 404);
    assert_eq!(site.get("/none").header("content-type"), Some("text/html; charset=utf-8"));
    site.write("404.html", "lost?");
    site.get("/none").assert_is(404, "lost?");
    site.get("/.env").assert_is(404, "lost?");
    let head = site.request("HEAD", "/none", "");
    head.assert_is(404, "");
    assert_eq!(head.header("content-length"), Some("5"));
}

#[test]
fn spa_serves_home_page_for_missing_paths() {
    let site = Site::start(|config| config.spa = true);
    site.get("/users/7").assert_is(200, "home");
    site.get("/app.js").assert_is(200, "0123456789");
    assert_eq!(site.get("/../x").status, 403);
    let site = Site::start(|config| (config.spa, config.homepage) = (true, "docs/index.html".into()));
    site.get("/").assert_is(200, "docs");
    site.get("/users/7").assert_is(200, "docs");
}

#[test]
fn lists_directories_only_if_enabled() {
    let files = |site: &Site| {
        fs::create_dir_all(site.root().join("files/sub dir")).unwrap();
        site.write("files/<a>.txt", "12");
        site.write("files/.hidden", "");
    };
    let closed = Site::start(|_| {});
    files(&closed);
    assert_eq!(closed.get("/files/").status, 404);
    let site = Site::start(|config| config.list_directories = true);
    files(&site);
    let response = site.get("/files/");
    assert_eq!(response.status, 200);
    let page = response.text();
    let (dir, file) = (page.find("./sub%20dir/").unwrap(), page.find("./%3Ca%3E.txt").unwrap());
    assert!(dir < file && !page.contains("<a>") && !page.contains("hidden"), "{page}");
    site.get("/docs/").assert_is(200, "docs");
}

#[test]
fn rejects_hidden_files_and_paths_outside_root() {
    let site = Site::start(|config| config.list_directories = true);
    fs::write(site.dir.path().join("secret"), "secret").unwrap();
    symlink("../secret", site.root().join("leak")).unwrap();
    symlink("..", site.root().join("up")).unwrap();
    site.write(".env", "TOKEN=1");
    for path in ["/../secret", "/%2e%2e/secret", "/docs/..%2f..%2fsecret", "/leak", "/up/", "/up/secret"] {
        let response = site.get(path);
        assert_eq!(response.status, 403, "{path}");
        assert!(!response.text().contains("secret"), "{path}");
    }
    assert_eq!(site.get("/.env").status, 404);
    assert_eq!(site.get("/app.js%00.html").status, 400);
}

#[test]
fn requires_password() {
    let site = Site::start(|config| config.credentials = Some(Credentials::new("ann", "pw")));
    for header in ["", "authorization: Basic YW5uOnB4\r\n"] {
        let response = site.request("GET", "/app.js", header);
        assert_eq!(response.status, 401);
        assert!(response.header("www-authenticate").unwrap().starts_with("basic realm="));
        assert!(!response.text().contains("0123"));
    }
    site.request("GET", "/app.js", "authorization: Basic YW5uOnB3\r\n").assert_is(200, "0123456789");
}

#[test]
fn shutdown_finishes_responses_and_closes_port() {
    let mut site = Site::start(|_| {});
    let file = fs::File::create(site.root().join("large")).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut stream = site.connect();
    write!(stream, "GET /large HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    // The first byte shows that the response has started; the rest is larger than all buffers.
    stream.read_exact(&mut [0]).unwrap();
    site.stop();
    // The port closes while the response continues.
    let started = std::time::Instant::now();
    while TcpStream::connect(site.address).is_ok() {
        assert!(started.elapsed() < DEADLINE, "the port is still open");
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 64 << 20, "{} bytes came", rest.len());
    site.join();
}

#[test]
fn shutdown_serves_new_connection() {
    let timeouts = Timeouts { first_request: DEADLINE, drain: DEADLINE, ..Timeouts::default() };
    let mut site = Site::with_timeouts(timeouts, |_| {});
    let mut stream = site.connect();
    site.stop();
    write!(stream, "GET /app.js HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let response = Response::read(&mut stream);
    response.assert_is(200, "0123456789");
    site.join();
}

#[test]
fn shutdown_closes_idle_connections() {
    let mut site = Site::start(|_| {});
    let mut stream = site.connect();
    write!(stream, "GET /app.js HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
    site.stop();
    site.join();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn disconnects_slow_senders() {
    let timeouts = Timeouts { header_read: Duration::from_millis(50), ..Timeouts::default() };
    let site = Site::with_timeouts(timeouts, |_| {});
    let mut stream = site.connect();
    write!(stream, "GET /app.js HTTP/1.1\r\nhost:").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(!response.contains("200 OK"), "{response}");
}

#[test]
fn disconnects_stalled_receivers() {
    let timeouts = Timeouts { write_stall: Duration::from_millis(200), ..Timeouts::default() };
    let site = Site::with_timeouts(timeouts, |_| {});
    fs::File::create(site.root().join("large")).unwrap().set_len(64 << 20).unwrap();
    let mut stream = site.connect();
    write!(stream, "GET /large HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    // Nothing is read; poll reports that the server closed the connection.
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let timeout = PollTimeout::try_from(DEADLINE).unwrap();
    assert_eq!(poll(&mut fds, timeout), Ok(1), "the connection is still open");
}

#[test]
fn reports_missing_directory() {
    let missing = root_directory(Path::new("/no/such/site")).unwrap_err().to_string();
    assert_eq!(missing, "cannot serve /no/such/site: No such file or directory (os error 2)");
    assert!(root_directory(Path::new("/proc/self/status")).is_err());
}
