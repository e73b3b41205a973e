//! A client against daemons that answer, vanish, come back, or talk nonsense.

use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::ipc::request::{ActOn, Action, SignalRequest, StartApps};
use crate::ipc::response::Pong;

/// A home whose socket answers connection after connection with the next of these scripts, each
/// a list of answers to the requests on it; then that connection is closed.
async fn talk(scripts: &[&[&str]], test: impl AsyncFnOnce(Home)) -> Vec<String> {
    let heads = talk_in_full(scripts, test).await;
    heads.iter().map(|head| head.lines().next().unwrap_or_default().to_owned()).collect()
}

/// The same; returns the heads of what was asked.
async fn talk_in_full(scripts: &[&[&str]], test: impl AsyncFnOnce(Home)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path());
    let listener = UnixListener::bind(home.socket()).unwrap();
    let play = async {
        let mut heard = Vec::new();
        for script in scripts {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in *script {
                heard.push(hear_head(&mut stream).await);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
        heard
    };
    tokio::join!(play, test(home)).0
}

/// Hears one request, whose body is short enough to come with its head.
async fn hear_head(stream: &mut UnixStream) -> String {
    let mut heard = Vec::new();
    while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut heard).await.unwrap() == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&heard).into_owned()
}

const PONG: &str = "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{\"version\":\"0.1\",\"pid\":77}";
const BROKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{\"ver";

async fn ping(client: &mut Client) -> Result<Pong, ClientError> {
    client.call(&Request::Ping).await
}

fn stop_all() -> Request {
    Request::Act(Action::Stop, ActOn { select: vec!["all".into()], ..ActOn::default() })
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let heard = talk(&[&[PONG, PONG]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        assert_eq!(ping(&mut client).await.unwrap().pid, 77);
        assert_eq!(ping(&mut client).await.unwrap().pid, 77);
    })
    .await;
    assert_eq!(heard, ["GET /v1/ping HTTP/1.1", "GET /v1/ping HTTP/1.1"]);
}

#[tokio::test]
async fn a_question_is_asked_again_when_the_daemon_dies() {
    talk(&[&[PONG, ""], &[PONG]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        ping(&mut client).await.unwrap();
        assert_eq!(ping(&mut client).await.unwrap().pid, 77);
    })
    .await;
}

#[tokio::test]
async fn an_order_is_given_again_by_the_same_key() {
    let heads = talk_in_full(&[&[""], &[BROKEN], &[PONG]], async |home| {
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
async fn an_order_that_daemon_after_daemon_dies_of_comes_to_an_end() {
    let heard = talk(&[&[""] as &[&str]; MAX_ATTEMPTS as usize], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        let error = client.call_raw(&stop_all()).await.unwrap_err();
        assert!(matches!(error, ClientError::ConnectionLost(_)), "{error:?}");
        assert!(error.to_string().contains("rsm list"));
    })
    .await;
    assert_eq!(heard.len(), MAX_ATTEMPTS as usize);
}

#[tokio::test]
async fn what_ends_the_daemon_is_not_asked_again() {
    let heard = talk(&[&[""]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        assert!(matches!(client.call_raw(&Request::Shutdown).await, Err(ClientError::ConnectionLost(_))));
    })
    .await;
    assert_eq!(heard, ["POST /v1/shutdown HTTP/1.1"]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_not_trusted() {
    talk(&[&[PONG], &[PONG]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        ping(&mut client).await.unwrap();
        tokio::time::advance(REUSE_WITHIN).await;
        ping(&mut client).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn nonsense_is_called_so() {
    let empty = "HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n";
    let other = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
    for nonsense in ["220 smtp ready\r\n\r\n", empty, other] {
        talk(&[&[nonsense]], async |home| {
            let mut client = Client::connect(&home).await.unwrap();
            let answer = ping(&mut client).await;
            assert!(matches!(answer, Err(ClientError::Protocol(_))), "{nonsense:?}: {answer:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_refusal_keeps_its_words() {
    let body = r#"{"error":{"code":"not_found","message":"no app \"x\"","hint":"`rsm list` shows all"}}"#;
    let answer = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    talk(&[&[&answer]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        let error = client.call_raw(&stop_all()).await.unwrap_err();
        assert_eq!(error.to_string(), "no app \"x\"; `rsm list` shows all");
    })
    .await;
}

#[tokio::test]
async fn a_stream_is_cut_into_lines_wherever_it_was_torn() {
    let stream = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\n{\"a\r\n8\r\n\":1}\n{}\n\r\n1\r\n\n\r\n4\r\nlast\r\n";
    talk(&[&[stream], &[PONG]], async |home| {
        let mut client = Client::connect(&home).await.unwrap();
        let mut lines = client.stream(&Request::Events).await.unwrap();
        // The client is not blocked by its stream.
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
async fn a_stream_that_ends_ends() {
    let stream = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n0\r\n\r\n";
    talk(&[&[stream]], async |home| {
        let mut lines = Client::connect(&home).await.unwrap().stream(&Request::Events).await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), "{}");
        assert!(lines.next().await.is_none());
        assert!(lines.next().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn nobody_there_is_said_so_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let absent = Home::new(dir.path().join("none"));
    let error = Client::connect(&absent).await.unwrap_err();
    assert!(matches!(&error, ClientError::NotRunning { socket } if *socket == absent.socket()), "{error:?}");
    assert!(!absent.path().exists());

    let stale = Home::new(dir.path());
    drop(UnixListener::bind(stale.socket()).unwrap());
    assert!(matches!(Client::connect(&stale).await, Err(ClientError::NotRunning { .. })));
}

#[tokio::test]
async fn a_path_too_long_names_the_remedy() {
    let error = Client::connect(&Home::new(format!("/tmp/{}", "x".repeat(200)))).await.unwrap_err();
    assert!(error.to_string().contains("set RSM_HOME to a shorter path"), "{error}");
}

#[tokio::test]
async fn a_closed_door_is_another_users() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path());
    let _listener = UnixListener::bind(home.socket()).unwrap();
    std::fs::set_permissions(home.socket(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let connected = Client::connect(&home).await;
    match nix::unistd::geteuid().is_root() {
        true => assert!(connected.is_ok(), "no door is closed to root"),
        false => assert!(matches!(connected, Err(ClientError::PermissionDenied { .. }))),
    }
}

#[tokio::test]
async fn what_is_too_long_is_not_sent() {
    talk(&[&[]], async |home| {
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
        client.start_apps(StartApps::from_current_env([])).await
    };
    is_send(&request);
}
