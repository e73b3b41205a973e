//! The client with servers that respond, exit, restart, or send invalid responses.

use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::ipc::request::{Action, ActionRequest, SignalRequest, StartRequest};
use crate::ipc::response::Pong;

/// Runs a test with a fake server. Each script belongs to one connection: it has the responses to the
/// requests on it, after which the connection is closed. Returns the request lines.
async fn with_server(scripts: &[&[&str]], test: impl AsyncFnOnce(Home)) -> Vec<String> {
    let heads = received_heads(scripts, test).await;
    heads.iter().map(|head| head.lines().next().unwrap_or_default().to_owned()).collect()
}

/// As [`with_server`]; returns the complete heads of the requests.
async fn received_heads(scripts: &[&[&str]], test: impl AsyncFnOnce(Home)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path());
    let listener = UnixListener::bind(home.socket()).unwrap();
    let server = async {
        let mut heads = Vec::new();
        for script in scripts {
            let (mut stream, _) = listener.accept().await.unwrap();
            for response in *script {
                heads.push(read_head(&mut stream).await);
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        }
        heads
    };
    tokio::join!(server, test(home)).0
}

/// Reads one request, whose body is so short that it arrives with the head.
async fn read_head(stream: &mut UnixStream) -> String {
    let mut received = Vec::new();
    while !received.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut received).await.unwrap() == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&received).into_owned()
}

const PONG: &str = "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{\"version\":\"0.1\",\"pid\":77}";
const BROKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{\"ver";

async fn ping(client: &mut Client) -> Result<Pong, ClientError> {
    client.call(&Request::Ping).await
}

fn stop_all() -> Request {
    Request::Act(Action::Stop, ActionRequest { select: vec!["all".into()], ..ActionRequest::default() })
}

#[tokio::test]
async fn reuses_connection() {
    let lines = with_server(&[&[PONG, PONG]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        assert_eq!(ping(&mut client).await.unwrap().pid, 77);
        assert_eq!(ping(&mut client).await.unwrap().pid, 77);
    })
    .await;
    assert_eq!(lines, ["GET /v1/ping HTTP/1.1", "GET /v1/ping HTTP/1.1"]);
}

#[tokio::test]
async fn retries_read_requests_when_daemon_dies() {
    with_server(&[&[PONG, ""], &[PONG]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        ping(&mut client).await.unwrap();
        assert_eq!(ping(&mut client).await.unwrap().pid, 77);
    })
    .await;
}

#[tokio::test]
async fn retries_with_same_idempotency_key() {
    let heads = received_heads(&[&[""], &[BROKEN], &[PONG]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        client.call_raw(&stop_all()).await.unwrap();
    })
    .await;
    let key = |head: &String| {
        head.lines().find_map(|line| line.strip_prefix("idempotency-key: ")).map(str::to_owned).unwrap()
    };
    let keys: Vec<String> = heads.iter().map(key).collect();
    assert!(keys.len() == 3 && keys[0].len() == 32 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn retries_are_limited() {
    let lines = with_server(&[&[""] as &[&str]; MAX_ATTEMPTS as usize], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        let error = client.call_raw(&stop_all()).await.unwrap_err();
        assert!(matches!(error, ClientError::ConnectionLost(_)), "{error:?}");
        assert!(error.to_string().contains("rsm list"));
    })
    .await;
    assert_eq!(lines.len(), MAX_ATTEMPTS as usize);
}

#[tokio::test]
async fn does_not_retry_shutdown() {
    let lines = with_server(&[&[""]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        assert!(matches!(client.call_raw(&Request::Shutdown).await, Err(ClientError::ConnectionLost(_))));
    })
    .await;
    assert_eq!(lines, ["POST /v1/shutdown HTTP/1.1"]);
}

#[tokio::test(start_paused = true)]
async fn does_not_reuse_idle_connection() {
    with_server(&[&[PONG], &[PONG]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        ping(&mut client).await.unwrap();
        tokio::time::advance(REUSE_WITHIN).await;
        ping(&mut client).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn rejects_invalid_responses() {
    let empty = "HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n";
    let other = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
    for invalid in ["220 smtp ready\r\n\r\n", empty, other] {
        with_server(&[&[invalid]], async |home| {
            let mut client = Client::connect(&home).await.unwrap();
            let result = ping(&mut client).await;
            assert!(matches!(result, Err(ClientError::Protocol(_))), "{invalid:?}: {result:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn returns_error_of_daemon() {
    let body = r#"{"error":{"code":"not_found","message":"no app \"x\"","hint":"`rsm list` shows all"}}"#;
    let response = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    with_server(&[&[&response]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        let error = client.call_raw(&stop_all()).await.unwrap_err();
        assert_eq!(error.to_string(), "no app \"x\"; `rsm list` shows all");
    })
    .await;
}

#[tokio::test]
async fn stream_splits_lines_across_chunks() {
    let stream = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\n{\"a\r\n8\r\n\":1}\n{}\n\r\n1\r\n\n\r\n4\r\nlast\r\n";
    with_server(&[&[stream], &[PONG]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        let mut lines = client.stream(&Request::Events).await.unwrap();
        // An open stream does not block the client.
        for line in ["{\"a\":1}", "{}", ""] {
            assert_eq!(lines.next().await.unwrap().unwrap(), line);
        }
        assert!(matches!(lines.next().await, Some(Err(ClientError::ConnectionLost(_)))));
        assert!(lines.next().await.is_none());
        ping(&mut client).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn stream_ends_with_response() {
    let stream = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n0\r\n\r\n";
    with_server(&[&[stream]], async |home| {
        let mut lines = Client::connect(&home).await.unwrap().stream(&Request::Events).await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), "{}");
        assert!(lines.next().await.is_none());
        assert!(lines.next().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn connect_fails_without_daemon_and_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let absent = Home::new(dir.path().join("none"));
    let error = Client::connect(&absent).await.unwrap_err();
    assert!(matches!(&error, ClientError::NotRunning { socket } if *socket == absent.socket()), "{error:?}");
    assert!(!absent.path().exists());

    let stale = Home::new(dir.path());
    // Bound, but not listening, as the socket of a dead daemon. (A listener that is closed here could still be
    // open in a process that another test is forking.)
    let unused = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    socket::bind(unused.as_raw_fd(), &UnixAddr::new(&stale.socket()).unwrap()).unwrap();
    assert!(matches!(Client::connect(&stale).await, Err(ClientError::NotRunning { .. })));
}

#[tokio::test]
async fn long_socket_path_is_reported() {
    let error = Client::connect(&Home::new(format!("/tmp/{}", "x".repeat(200)))).await.unwrap_err();
    assert!(error.to_string().contains("set RSM_HOME to a shorter path"), "{error}");
}

#[tokio::test]
async fn permission_denied_names_other_user() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path());
    let _listener = UnixListener::bind(home.socket()).unwrap();
    std::fs::set_permissions(home.socket(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let connected = Client::connect(&home).await;
    match nix::unistd::geteuid().is_root() {
        true => assert!(connected.is_ok(), "root has all permissions"),
        false => assert!(matches!(connected, Err(ClientError::PermissionDenied { .. }))),
    }
}

#[tokio::test]
async fn does_not_send_too_large_requests() {
    with_server(&[&[]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        let name = "x".repeat(70_000);
        let error = client.call_raw(&Request::Describe(vec![name].into())).await.unwrap_err();
        assert!(
            matches!(&error, ClientError::Rejected(error) if error.code == ErrorCode::TooLarge),
            "{error:?}"
        );
        let signal = "x".repeat(MAX_BODY);
        let error = client
            .call_raw(&Request::Signal(SignalRequest { select: Vec::new(), signal }))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, ClientError::Rejected(error) if error.code == ErrorCode::TooLarge),
            "{error:?}"
        );
    })
    .await;
}

#[test]
fn futures_are_send() {
    fn is_send(_: &impl Send) {}
    let request = async {
        let mut client = Client::connect(&Home::new("/nowhere")).await?;
        client.start_apps(StartRequest::from_current_env([])).await
    };
    is_send(&request);
}
