//! The server over real sockets: each test has its own site, port and thread.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

use super::args::Settings;
use super::auth::Credentials;
use super::*;

/// No test gets near it unless it fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running server and the directory it serves.
struct Site {
    dir: tempfile::TempDir,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    fn start(choose: impl FnOnce(&mut Settings)) -> Self {
        Self::patient(Patience { drain: DEADLINE, ..Patience::default() }, choose)
    }

    fn patient(patience: Patience, choose: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("site");
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::write(root.join("index.html"), "home").unwrap();
        fs::write(root.join("app.js"), "0123456789").unwrap();
        fs::write(root.join("docs/index.html"), "docs").unwrap();
        let mut settings = ServeArgs { path: Some(root), ..ServeArgs::default() }.settle(|_| None).unwrap();
        choose(&mut settings);
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = listen::listen("127.0.0.1", 0).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let shutdown = async { drop(stopped.await) };
                connections::serve(listener, Arc::new(settings), patience, shutdown).await;
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
    fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = self.connect();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").unwrap();
        Answer::read(&mut stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    /// Asks the server to end.
    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until it has.
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

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
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

    fn says(&self, status: u16, text: &str) {
        assert_eq!((self.status, self.text()), (status, text), "{}", self.head);
    }
}

#[test]
fn files_come_with_type_and_length_and_for_everyone() {
    let site = Site::start(|_| {});
    let answer = site.get("/app.js?v=1");
    answer.says(200, "0123456789");
    assert_eq!(answer.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(answer.header("content-length"), Some("10"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    site.get("/").says(200, "home");
    site.get("/docs/").says(200, "docs");
    site.get("/docs/?q").says(200, "docs");
}

#[test]
fn head_has_the_headers_alone() {
    let site = Site::start(|_| {});
    let answer = site.ask("HEAD", "/app.js", "range: bytes=0-1\r\n");
    answer.says(200, "");
    assert_eq!(answer.header("content-length"), Some("10"));
}

#[test]
fn other_methods_are_refused() {
    let site = Site::start(|_| {});
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = site.ask(method, "/app.js", "content-length: 0\r\n");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("get, head")), "{method}");
    }
}

#[test]
fn a_large_file_arrives_whole() {
    let site = Site::start(|_| {});
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    fs::write(site.root().join("large.bin"), &bytes).unwrap();
    let answer = site.get("/large.bin");
    assert_eq!(answer.header("content-length"), Some("3000000"));
    assert!(answer.body == bytes, "{} bytes came", answer.body.len());
}

#[test]
fn parts_of_files() {
    let site = Site::start(|_| {});
    let part = |range: &str| site.ask("GET", "/app.js", &format!("range: bytes={range}\r\n"));
    let answer = part("2-4");
    answer.says(206, "234");
    assert_eq!(answer.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(answer.header("content-length"), Some("3"));
    part("-3").says(206, "789");
    part("0-1,4-5").says(200, "0123456789");
    let beyond = part("10-");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    let tag = site.get("/app.js").header("etag").unwrap().to_owned();
    let resume = |tag: &str| site.ask("GET", "/app.js", &format!("range: bytes=8-\r\nif-range: {tag}\r\n"));
    resume(&tag).says(206, "89");
    resume("\"former\"").says(200, "0123456789");
}

#[test]
fn a_good_copy_is_not_sent_again() {
    let site = Site::start(|_| {});
    let first = site.get("/app.js");
    let (tag, date) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
    // In lower case here, which dates may be.
    for header in [format!("if-none-match: {tag}"), format!("if-modified-since: {date}")] {
        let answer = site.ask("GET", "/app.js", &format!("{header}\r\n"));
        answer.says(304, "");
        assert_eq!(answer.header("etag"), Some(tag));
    }
    site.write("app.js", "changed");
    site.ask("GET", "/app.js", &format!("if-none-match: {tag}\r\n")).says(200, "changed");
}

#[test]
fn a_directory_is_asked_for_with_a_slash() {
    let site = Site::start(|_| {});
    let answer = site.get("/docs?q=1");
    assert_eq!((answer.status, answer.header("location")), (301, Some("/docs/?q=1")));
    fs::create_dir(site.root().join("évil.example")).unwrap();
    let answer = site.get("//%C3%A9vil.example");
    assert_eq!((answer.status, answer.header("location")), (301, Some("/%c3%a9vil.example/")));
    assert_eq!(site.get("/app.js/").status, 404);
}

#[test]
fn what_is_missing_has_the_sites_own_page() {
    let site = Site::start(|_| {});
    assert_eq!(site.get("/none").status, 404);
    assert_eq!(site.get("/none").header("content-type"), Some("text/html; charset=utf-8"));
    site.write("404.html", "lost?");
    site.get("/none").says(404, "lost?");
    site.get("/.env").says(404, "lost?");
    let head = site.ask("HEAD", "/none", "");
    head.says(404, "");
    assert_eq!(head.header("content-length"), Some("5"));
}

#[test]
fn an_application_gets_its_home_page() {
    let site = Site::start(|settings| settings.spa = true);
    site.get("/users/7").says(200, "home");
    site.get("/app.js").says(200, "0123456789");
    assert_eq!(site.get("/../x").status, 403);
    let site = Site::start(|settings| (settings.spa, settings.homepage) = (true, "docs/index.html".into()));
    site.get("/").says(200, "docs");
    site.get("/users/7").says(200, "docs");
}

#[test]
fn directories_are_listed_only_on_demand() {
    let files = |site: &Site| {
        fs::create_dir_all(site.root().join("files/sub dir")).unwrap();
        site.write("files/<a>.txt", "12");
        site.write("files/.hidden", "");
    };
    let closed = Site::start(|_| {});
    files(&closed);
    assert_eq!(closed.get("/files/").status, 404);
    let site = Site::start(|settings| settings.listing = true);
    files(&site);
    let answer = site.get("/files/");
    assert_eq!(answer.status, 200);
    let page = answer.text();
    let (dir, file) = (page.find("./sub%20dir/").unwrap(), page.find("./%3Ca%3E.txt").unwrap());
    assert!(dir < file && !page.contains("<a>") && !page.contains("hidden"), "{page}");
    site.get("/docs/").says(200, "docs");
}

#[test]
fn nothing_outside_or_hidden_is_given() {
    let site = Site::start(|settings| settings.listing = true);
    fs::write(site.dir.path().join("secret"), "secret").unwrap();
    symlink("../secret", site.root().join("leak")).unwrap();
    symlink("..", site.root().join("up")).unwrap();
    site.write(".env", "TOKEN=1");
    for path in ["/../secret", "/%2e%2e/secret", "/docs/..%2f..%2fsecret", "/leak", "/up/", "/up/secret"] {
        let answer = site.get(path);
        assert_eq!(answer.status, 403, "{path}");
        assert!(!answer.text().contains("secret"), "{path}");
    }
    assert_eq!(site.get("/.env").status, 404);
    assert_eq!(site.get("/app.js%00.html").status, 400);
}

#[test]
fn only_who_knows_the_password_comes_in() {
    let site = Site::start(|settings| settings.credentials = Some(Credentials::new("ann", "pw")));
    for header in ["", "authorization: Basic YW5uOnB4\r\n"] {
        let answer = site.ask("GET", "/app.js", header);
        assert_eq!(answer.status, 401);
        assert!(answer.header("www-authenticate").unwrap().starts_with("basic realm="));
        assert!(!answer.text().contains("0123"));
    }
    site.ask("GET", "/app.js", "authorization: Basic YW5uOnB3\r\n").says(200, "0123456789");
}

#[test]
fn what_was_begun_is_finished_and_nothing_else_accepted() {
    let mut site = Site::start(|_| {});
    let file = fs::File::create(site.root().join("large")).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut stream = site.connect();
    write!(stream, "GET /large HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    // The first byte of the response shows that it has begun; far more is to come than buffers hold.
    stream.read_exact(&mut [0]).unwrap();
    site.stop();
    // The port closes while the response goes on.
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
fn a_connection_made_just_before_the_end_is_served() {
    let patience = Patience { newcomer: DEADLINE, drain: DEADLINE, ..Patience::default() };
    let mut site = Site::patient(patience, |_| {});
    let mut stream = site.connect();
    site.stop();
    write!(stream, "GET /app.js HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let answer = Answer::read(&mut stream);
    answer.says(200, "0123456789");
    site.join();
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let mut site = Site::start(|_| {});
    let mut stream = site.connect();
    write!(stream, "GET /app.js HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
    site.stop();
    site.join();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn clients_that_send_too_slowly_are_let_go() {
    let patience = Patience { head: Duration::from_millis(50), ..Patience::default() };
    let site = Site::patient(patience, |_| {});
    let mut stream = site.connect();
    write!(stream, "GET /app.js HTTP/1.1\r\nhost:").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[test]
fn clients_that_take_nothing_are_let_go() {
    let patience = Patience { stalled: Duration::from_millis(200), ..Patience::default() };
    let site = Site::patient(patience, |_| {});
    fs::File::create(site.root().join("large")).unwrap().set_len(64 << 20).unwrap();
    let mut stream = site.connect();
    write!(stream, "GET /large HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    // Nothing is read; the kernel still tells when the server has given up.
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let timeout = PollTimeout::try_from(DEADLINE).unwrap();
    assert_eq!(poll(&mut fds, timeout), Ok(1), "the connection still stands");
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let missing = directory(Path::new("/no/such/site")).unwrap_err().to_string();
    assert!(missing.contains("/no/such/site") && missing.contains("Create it"), "{missing}");
    assert!(directory(Path::new("/proc/self/status")).is_err());
}
