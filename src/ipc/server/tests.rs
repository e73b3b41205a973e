//! Clients of every ill will, on a real socket. After each the server still answers.
//!
//! The clock is paused: it jumps ahead when both ends wait, so that no test waits for a limit.

use std::cell::RefCell;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;

use super::*;

/// Counts what it is asked, and answers as each test arranged.
#[derive(Clone, Default)]
struct Fake {
    asked: Rc<RefCell<Vec<Request>>>,
    finished: Rc<RefCell<Vec<Request>>>,
    stream: Rc<RefCell<Option<mpsc::Receiver<Bytes>>>>,
    begun: Rc<Notify>,
    gate: Rc<Notify>,
}

impl RequestHandler for Fake {
    async fn answer(&self, request: Request, _key: Option<String>) -> Result<HandlerResponse, ApiError> {
        self.asked.borrow_mut().push(request.clone());
        match &request {
            Request::Events => {
                let stream = self.stream.borrow_mut().take();
                return stream
                    .map(HandlerResponse::Stream)
                    .ok_or_else(|| ApiError::new(ErrorCode::Conflict, "once"));
            }
            Request::Shutdown => {
                self.begun.notify_one();
                self.gate.notified().await;
            }
            Request::Info => panic!("as a bug would"),
            _ => {}
        }
        self.finished.borrow_mut().push(request);
        Ok(HandlerResponse::Json(b"{}".to_vec()))
    }
}

struct Server {
    dir: tempfile::TempDir,
    fake: Fake,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Server {
    fn start(allowed: AllowedUids) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let fake = Fake::default();
        let stopped = async { drop(stopped.await) };
        let served = tokio::task::spawn_local(serve(listener, fake.clone(), allowed, stopped));
        Self { dir, fake, stop, served }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("s")).await.unwrap()
    }

    /// Says these bytes and hears until the server hangs up.
    async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let (mut from, mut to) = self.connect().await.into_split();
        // The server may hang up before it has heard all.
        let speak = async { drop(to.write_all(bytes.as_ref()).await) };
        let ((), heard) = tokio::join!(speak, hear(&mut from));
        heard
    }

    async fn answers(&self) {
        let heard = self.say("GET /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 200 OK"), "{heard}");
    }
}

async fn hear(from: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut heard = Vec::new();
    let _ = from.read_to_end(&mut heard).await; // a reset is an end, too
    String::from_utf8_lossy(&heard).into_owned()
}

/// Hears until this was said.
async fn hear_until(from: &mut UnixStream, what: &str) -> String {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(what) {
        assert_ne!(from.read_buf(&mut heard).await.unwrap(), 0, "ended before {what:?}: {heard:?}");
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// Runs a test against a server, which must still answer afterwards.
async fn served(test: impl AsyncFnOnce(&Server)) {
    let whole = async {
        let server = Server::start(AllowedUids::own_user());
        test(&server).await;
        server.answers().await;
    };
    LocalSet::new().run_until(whole).await;
}

fn status(heard: &str) -> &str {
    heard.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test(start_paused = true)]
async fn what_is_no_http_is_refused() {
    served(async |server| {
        for nonsense in
            ["hello\r\n\r\n", "\r\n\r\n\r\n", "GET\r\n\r\n", "GET /v1/ping HTTP/9.9\r\n\r\n", "\0\0\0\0"]
        {
            assert_ne!(status(&server.say(nonsense).await), "200", "{nonsense:?}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for length in [1, 100, 10_000, 1_000_000] {
            let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            assert_ne!(status(&server.say(bytes).await), "200");
        }
        let lengths = "POST /v1/apps HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}";
        assert_eq!(status(&server.say(lengths).await), "400");
        assert!(server.fake.asked.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refusals_have_one_shape() {
    served(async |server| {
        let say = async |line: &str| server.say(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let missing = say("GET /v1/nothing").await;
        assert_eq!(status(&missing), "404");
        assert!(missing.contains("content-type: application/json"), "{missing}");
        assert!(
            missing.contains(r#"{"error":{"code":"not_found","message":"unknown path /v1/nothing""#),
            "{missing}"
        );
        let method = say("POST /v1/ping").await;
        assert_eq!(status(&method), "405");
        assert!(method.contains("allow: GET\r\n"), "{method}");
        let bug = say("GET /v1/info").await;
        assert_eq!(status(&bug), "500");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn too_long_a_body_is_refused_unread() {
    served(async |server| {
        let head = "POST /v1/apps HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
        let heard =
            server.say(format!("{head}Content-Length: {}\r\n\r\n", crate::ipc::routes::MAX_BODY + 1)).await;
        assert_eq!(status(&heard), "413", "{heard}");
        assert!(heard.contains(r#""code":"too_large""#), "{heard}");

        let mut chunks = b"POST /v1/apps HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..33 {
            chunks.extend_from_slice(b"100000\r\n");
            chunks.resize(chunks.len() + (1 << 20), b' ');
            chunks.extend_from_slice(b"\r\n");
        }
        assert_eq!(status(&server.say(chunks).await), "413");
        assert!(server.fake.asked.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn too_long_a_head_is_refused() {
    served(async |server| {
        let heard =
            server.say(format!("GET /v1/ping HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(200_000))).await;
        assert_eq!(status(&heard), "431");
        let many = "X: y\r\n".repeat(2_000);
        assert_eq!(status(&server.say(format!("GET /v1/ping HTTP/1.1\r\n{many}\r\n")).await), "431");
        let path = "x".repeat(200_000);
        assert_ne!(status(&server.say(format!("GET /{path} HTTP/1.1\r\n\r\n")).await), "200");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_hung_up_on() {
    served(async |server| {
        for begun in ["", "GET /v1/pi", "GET /v1/ping HTTP/1.1\r\nHost: x\r\n"] {
            let start = Instant::now();
            assert_ne!(status(&server.say(begun).await), "200");
            assert!(start.elapsed() >= HEAD_TIME, "{begun:?} was cut off early");
        }
        let head = "POST /v1/apps HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n";
        let heard = server.say(format!("{head}{{")).await;
        assert_eq!(status(&heard), "400");
        assert!(heard.contains("not received within 30 s"), "{heard}");
        assert!(server.fake.asked.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_in_the_end() {
    served(async |server| {
        let start = Instant::now();
        let heard = server.say("GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&heard), "200");
        assert!(start.elapsed() >= HEAD_TIME);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn half_a_request_is_none() {
    served(async |server| {
        for half in [
            "POST /v1/inst",
            "POST /v1/instances/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{\"select\":[\"all\"]}",
            "POST /v1/shutdown HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}",
        ] {
            let mut client = server.connect().await;
            client.write_all(half.as_bytes()).await.unwrap();
            drop(client);
            server.answers().await;
        }
        assert!(server.fake.asked.borrow().iter().all(|asked| *asked == Request::Ping));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_may_be_pipelined_chunked_or_old() {
    served(async |server| {
        let ping = "GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n";
        let twice = server.say(format!("{ping}{ping}")).await;
        assert_eq!(twice.matches("HTTP/1.1 200 OK").count(), 2, "{twice}");

        let head =
            "PUT /v1/dump HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunked = server.say(format!("{head}7\r\n{{\"force\r\n7\r\n\":true}}\r\n0\r\n\r\n")).await;
        assert_eq!(status(&chunked), "200", "{chunked}");
        assert!(
            server
                .fake
                .asked
                .borrow()
                .contains(&Request::Save(crate::ipc::request::SaveRequest { force: true }))
        );

        let start = Instant::now();
        let old = server.say("GET /v1/ping HTTP/1.0\r\n\r\n").await;
        assert!(old.starts_with("HTTP/1.0 200 OK") && old.ends_with("{}"), "{old}");
        assert_eq!(start.elapsed(), Duration::ZERO, "an old client was kept waiting for the end");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_arrives_line_by_line_and_ends() {
    served(async |server| {
        let (lines, stream) = mpsc::channel(4);
        *server.fake.stream.borrow_mut() = Some(stream);
        let mut client = server.connect().await;
        client.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let head = hear_until(&mut client, "\r\n\r\n").await;
        assert!(head.contains("content-type: application/x-ndjson"), "{head}");
        for line in ["{\"a\":1}\n", "", "{\"b\":2}\n"] {
            lines.send(line.into()).await.unwrap();
        }
        hear_until(&mut client, "{\"b\":2}\n").await;
        drop(lines);
        hear_until(&mut client, "0\r\n\r\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_a_silent_stream_is_missed() {
    served(async |server| {
        let (lines, stream) = mpsc::channel(4);
        *server.fake.stream.borrow_mut() = Some(stream);
        let mut client = server.connect().await;
        client.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        hear_until(&mut client, "\r\n\r\n").await;
        drop(client);
        lines.closed().await; // would wait for ever
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_holds_up_nobody() {
    served(async |server| {
        let (lines, stream) = mpsc::channel(1);
        *server.fake.stream.borrow_mut() = Some(stream);
        let mut client = server.connect().await;
        client.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let line = Bytes::from(vec![b'\n'; 1 << 16]);
        // Full: socket, connection and channel hold no more than so much.
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_secs(1), lines.send(line.clone())).await.is_ok() {
            sent += 1;
            assert!(sent < 1000, "a stream nobody reads is kept in memory");
        }
        server.answers().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_is_finished_without_the_client() {
    served(async |server| {
        let mut client = server.connect().await;
        client.write_all(b"POST /v1/shutdown HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        server.fake.begun.notified().await;
        drop(client);
        server.answers().await;
        server.fake.gate.notify_one();
        server.answers().await;
        assert!(server.fake.finished.borrow().contains(&Request::Shutdown));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_stop_ends_streams_and_lets_answers_arrive() {
    let whole = async {
        let server = Server::start(AllowedUids::own_user());
        let (lines, stream) = mpsc::channel(4);
        *server.fake.stream.borrow_mut() = Some(stream);
        let mut follower = server.connect().await;
        follower.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        hear_until(&mut follower, "\r\n\r\n").await;
        let mut asker = server.connect().await;
        asker.write_all(b"POST /v1/shutdown HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        server.fake.begun.notified().await;
        let mut idler = server.connect().await;
        lines.send("{\"last\":1}\n".into()).await.unwrap();

        server.stop.send(()).unwrap();
        let streamed = hear(&mut follower).await;
        assert!(streamed.contains("{\"last\":1}\n") && streamed.ends_with("0\r\n\r\n"), "{streamed}");
        server.fake.gate.notify_one();
        assert_eq!(status(&hear(&mut asker).await), "200");
        hear(&mut idler).await;
        server.served.await.unwrap();
        assert!(UnixStream::connect(server.dir.path().join("s")).await.is_err());
    };
    LocalSet::new().run_until(whole).await;
}

#[tokio::test(start_paused = true)]
async fn the_stop_does_not_wait_for_ever() {
    let whole = async {
        let server = Server::start(AllowedUids::own_user());
        let mut asker = server.connect().await;
        asker.write_all(b"POST /v1/shutdown HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        server.fake.begun.notified().await;
        server.stop.send(()).unwrap();
        server.served.await.unwrap();
    };
    LocalSet::new().run_until(whole).await;
}

#[tokio::test(start_paused = true)]
async fn strangers_are_refused() {
    let whole = async {
        let stranger = nix::unistd::geteuid().as_raw() + 1;
        let server = Server::start(AllowedUids::users([stranger]));
        let heard = server.say("POST /v1/shutdown HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&heard), "403");
        assert!(heard.contains("belongs to another user"), "{heard}");
        assert!(server.fake.asked.borrow().is_empty());
    };
    LocalSet::new().run_until(whole).await;
}

#[tokio::test]
async fn a_crowd_is_told_to_come_back() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // Both ends of every connection are in this process.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    served(async |server| {
        let mut crowd = Vec::new();
        for _ in 0..MOST_CLIENTS {
            let mut client = server.connect().await;
            client.write_all(b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            hear_until(&mut client, "{}").await;
            crowd.push(client);
        }
        let heard = server.say("GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&heard), "503");
        assert!(heard.contains("connection: close"), "{heard}");
        // The server sees them leave before it meets the next.
        drop(crowd);
        while status(&server.say("GET /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await)
            == "503"
        {}
    })
    .await;
}
