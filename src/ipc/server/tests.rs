//! Faulty and hostile clients on a real socket. The server must still respond after each of them.
//!
//! The clock is paused: it advances when both ends wait, so that no test waits for a timeout.

use std::cell::RefCell;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;

use super::*;

/// Records requests, and responds as configured by the test.
#[derive(Clone, Default)]
struct FakeHandler {
    received: Rc<RefCell<Vec<Request>>>,
    finished: Rc<RefCell<Vec<Request>>>,
    stream: Rc<RefCell<Option<mpsc::Receiver<Bytes>>>>,
    started: Rc<Notify>,
    gate: Rc<Notify>,
}

impl RequestHandler for FakeHandler {
    async fn handle(&self, request: Request, _key: Option<String>) -> Result<HandlerResponse, ApiError> {
        self.received.borrow_mut().push(request.clone());
        match &request {
            Request::Events => {
                let stream = self.stream.borrow_mut().take();
                return stream
                    .map(HandlerResponse::Stream)
                    .ok_or_else(|| ApiError::new(ErrorCode::Conflict, "once"));
            }
            Request::Shutdown => {
                self.started.notify_one();
                self.gate.notified().await;
            }
            Request::Info => panic!("a bug"),
            _ => {}
        }
        self.finished.borrow_mut().push(request);
        Ok(HandlerResponse::Json(b"{}".to_vec()))
    }
}

struct Server {
    dir: tempfile::TempDir,
    fake: FakeHandler,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Server {
    fn start(allowed: AllowedUids) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let fake = FakeHandler::default();
        let stopped = async { drop(stopped.await) };
        let served = tokio::task::spawn_local(serve(listener, fake.clone(), allowed, stopped));
        Self { dir, fake, stop, served }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("s")).await.unwrap()
    }

    /// Sends these bytes, and receives until the server closes the connection.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let (mut from, mut to) = self.connect().await.into_split();
        // The server may close the connection before it has read everything.
        let send = async { drop(to.write_all(bytes.as_ref()).await) };
        let ((), received) = tokio::join!(send, receive(&mut from));
        received
    }

    async fn assert_responds(&self) {
        let received = self.exchange("GET /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(received.starts_with("HTTP/1.1 200 OK"), "{received}");
    }
}

async fn receive(from: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut received = Vec::new();
    let _ = from.read_to_end(&mut received).await; // a reset also ends the connection
    String::from_utf8_lossy(&received).into_owned()
}

/// Receives until this text arrives.
async fn receive_until(from: &mut UnixStream, text: &str) -> String {
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains(text) {
        assert_ne!(from.read_buf(&mut received).await.unwrap(), 0, "ended before {text:?}: {received:?}");
    }
    String::from_utf8_lossy(&received).into_owned()
}

/// Runs a test with a server, which must still respond afterwards.
async fn with_server(test: impl AsyncFnOnce(&Server)) {
    let whole = async {
        let server = Server::start(AllowedUids::own_user());
        test(&server).await;
        server.assert_responds().await;
    };
    LocalSet::new().run_until(whole).await;
}

fn status(received: &str) -> &str {
    received.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test(start_paused = true)]
async fn rejects_invalid_http() {
    with_server(async |server| {
        for invalid in
            ["hello\r\n\r\n", "\r\n\r\n\r\n", "GET\r\n\r\n", "GET /v1/ping HTTP/9.9\r\n\r\n", "\0\0\0\0"]
        {
            assert_ne!(status(&server.exchange(invalid).await), "200", "{invalid:?}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for length in [1, 100, 10_000, 1_000_000] {
            let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            assert_ne!(status(&server.exchange(bytes).await), "200");
        }
        let lengths = "POST /v1/apps HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}";
        assert_eq!(status(&server.exchange(lengths).await), "400");
        assert!(server.fake.received.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn errors_have_one_format() {
    with_server(async |server| {
        let request = async |line: &str| server.exchange(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let missing = request("GET /v1/nothing").await;
        assert_eq!(status(&missing), "404");
        assert!(missing.contains("content-type: application/json"), "{missing}");
        assert!(
            missing.contains(r#"{"error":{"code":"not_found","message":"unknown path /v1/nothing""#),
            "{missing}"
        );
        let method = request("POST /v1/ping").await;
        assert_eq!(status(&method), "405");
        assert!(method.contains("allow: GET\r\n"), "{method}");
        let bug = request("GET /v1/info").await;
        assert_eq!(status(&bug), "500");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rejects_too_large_body_unread() {
    with_server(async |server| {
        let head = "POST /v1/apps HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
        let received = server
            .exchange(format!("{head}Content-Length: {}\r\n\r\n", crate::ipc::routes::MAX_BODY + 1))
            .await;
        assert_eq!(status(&received), "413", "{received}");
        assert!(received.contains(r#""code":"too_large""#), "{received}");

        let mut chunks = b"POST /v1/apps HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..33 {
            chunks.extend_from_slice(b"100000\r\n");
            chunks.resize(chunks.len() + (1 << 20), b' ');
            chunks.extend_from_slice(b"\r\n");
        }
        assert_eq!(status(&server.exchange(chunks).await), "413");
        assert!(server.fake.received.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rejects_too_large_head() {
    with_server(async |server| {
        let received =
            server.exchange(format!("GET /v1/ping HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(200_000))).await;
        assert_eq!(status(&received), "431");
        let many = "X: y\r\n".repeat(2_000);
        assert_eq!(status(&server.exchange(format!("GET /v1/ping HTTP/1.1\r\n{many}\r\n")).await), "431");
        let path = "x".repeat(200_000);
        assert_ne!(status(&server.exchange(format!("GET /{path} HTTP/1.1\r\n\r\n")).await), "200");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn disconnects_slow_client() {
    with_server(async |server| {
        for partial in ["", "GET /v1/pi", "GET /v1/ping HTTP/1.1\r\nHost: x\r\n"] {
            let start = Instant::now();
            assert_ne!(status(&server.exchange(partial).await), "200");
            assert!(start.elapsed() >= HEAD_TIMEOUT, "{partial:?} was closed too early");
        }
        let head = "POST /v1/apps HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n";
        let received = server.exchange(format!("{head}{{")).await;
        assert_eq!(status(&received), "400");
        assert!(received.contains("not received within 30 s"), "{received}");
        assert!(server.fake.received.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn closes_idle_connection() {
    with_server(async |server| {
        let start = Instant::now();
        let received = server.exchange("GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&received), "200");
        assert!(start.elapsed() >= HEAD_TIMEOUT);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn ignores_incomplete_request() {
    with_server(async |server| {
        for half in [
            "POST /v1/inst",
            "POST /v1/instances/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{\"select\":[\"all\"]}",
            "POST /v1/shutdown HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}",
        ] {
            let mut client = server.connect().await;
            client.write_all(half.as_bytes()).await.unwrap();
            drop(client);
            server.assert_responds().await;
        }
        assert!(server.fake.received.borrow().iter().all(|asked| *asked == Request::Ping));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn accepts_pipelined_chunked_and_old_requests() {
    with_server(async |server| {
        let ping = "GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n";
        let twice = server.exchange(format!("{ping}{ping}")).await;
        assert_eq!(twice.matches("HTTP/1.1 200 OK").count(), 2, "{twice}");

        let head =
            "PUT /v1/dump HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunked = server.exchange(format!("{head}7\r\n{{\"force\r\n7\r\n\":true}}\r\n0\r\n\r\n")).await;
        assert_eq!(status(&chunked), "200", "{chunked}");
        assert!(
            server
                .fake
                .received
                .borrow()
                .contains(&Request::Save(crate::ipc::request::SaveRequest { force: true }))
        );

        let start = Instant::now();
        let old = server.exchange("GET /v1/ping HTTP/1.0\r\n\r\n").await;
        assert!(old.starts_with("HTTP/1.0 200 OK") && old.ends_with("{}"), "{old}");
        assert_eq!(start.elapsed(), Duration::ZERO, "an HTTP/1.0 client waits for the end of the connection");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn stream_delivers_lines_and_ends() {
    with_server(async |server| {
        let (lines, stream) = mpsc::channel(4);
        *server.fake.stream.borrow_mut() = Some(stream);
        let mut client = server.connect().await;
        client.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let head = receive_until(&mut client, "\r\n\r\n").await;
        assert!(head.contains("content-type: application/x-ndjson"), "{head}");
        for line in ["{\"a\":1}\n", "", "{\"b\":2}\n"] {
            lines.send(line.into()).await.unwrap();
        }
        receive_until(&mut client, "{\"b\":2}\n").await;
        drop(lines);
        receive_until(&mut client, "0\r\n\r\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn detects_disconnect_from_idle_stream() {
    with_server(async |server| {
        let (lines, stream) = mpsc::channel(4);
        *server.fake.stream.borrow_mut() = Some(stream);
        let mut client = server.connect().await;
        client.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        receive_until(&mut client, "\r\n\r\n").await;
        drop(client);
        lines.closed().await; // would wait forever
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn slow_reader_does_not_block_others() {
    with_server(async |server| {
        let (lines, stream) = mpsc::channel(1);
        *server.fake.stream.borrow_mut() = Some(stream);
        let mut client = server.connect().await;
        client.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let line = Bytes::from(vec![b'\n'; 1 << 16]);
        // Until the buffers of socket, connection and channel are full.
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_secs(1), lines.send(line.clone())).await.is_ok() {
            sent += 1;
            assert!(sent < 1000, "the stream is buffered without a limit");
        }
        server.assert_responds().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn request_continues_after_disconnect() {
    with_server(async |server| {
        let mut client = server.connect().await;
        client.write_all(b"POST /v1/shutdown HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        server.fake.started.notified().await;
        drop(client);
        server.assert_responds().await;
        server.fake.gate.notify_one();
        server.assert_responds().await;
        assert!(server.fake.finished.borrow().contains(&Request::Shutdown));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn stop_ends_streams_and_sends_pending_responses() {
    let whole = async {
        let server = Server::start(AllowedUids::own_user());
        let (lines, stream) = mpsc::channel(4);
        *server.fake.stream.borrow_mut() = Some(stream);
        let mut follower = server.connect().await;
        follower.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        receive_until(&mut follower, "\r\n\r\n").await;
        let mut waiting = server.connect().await;
        waiting.write_all(b"POST /v1/shutdown HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        server.fake.started.notified().await;
        let mut idle = server.connect().await;
        lines.send("{\"last\":1}\n".into()).await.unwrap();

        server.stop.send(()).unwrap();
        let streamed = receive(&mut follower).await;
        assert!(streamed.contains("{\"last\":1}\n") && streamed.ends_with("0\r\n\r\n"), "{streamed}");
        server.fake.gate.notify_one();
        assert_eq!(status(&receive(&mut waiting).await), "200");
        receive(&mut idle).await;
        server.served.await.unwrap();
        assert!(UnixStream::connect(server.dir.path().join("s")).await.is_err());
    };
    LocalSet::new().run_until(whole).await;
}

#[tokio::test(start_paused = true)]
async fn stop_is_limited_by_timeout() {
    let whole = async {
        let server = Server::start(AllowedUids::own_user());
        let mut waiting = server.connect().await;
        waiting.write_all(b"POST /v1/shutdown HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        server.fake.started.notified().await;
        server.stop.send(()).unwrap();
        server.served.await.unwrap();
    };
    LocalSet::new().run_until(whole).await;
}

#[tokio::test(start_paused = true)]
async fn rejects_other_users() {
    let whole = async {
        let other_user = nix::unistd::geteuid().as_raw() + 1;
        let server = Server::start(AllowedUids::users([other_user]));
        let received = server.exchange("POST /v1/shutdown HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&received), "403");
        assert!(received.contains("belongs to another user"), "{received}");
        assert!(server.fake.received.borrow().is_empty());
    };
    LocalSet::new().run_until(whole).await;
}

#[tokio::test]
async fn too_many_connections_of_a_process_get_503() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // Both ends of every connection are in this process.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    with_server(async |server| {
        let mut clients = Vec::new();
        for _ in 0..MAX_CLIENTS_PER_PROCESS {
            let mut client = server.connect().await;
            client.write_all(b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            receive_until(&mut client, "{}").await;
            clients.push(client);
        }
        let received = server.exchange("GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&received), "503");
        assert!(received.contains("connection: close"), "{received}");
        // The server notices the disconnects before it rejects another client.
        drop(clients);
        while status(&server.exchange("GET /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await)
            == "503"
        {}
    })
    .await;
}
