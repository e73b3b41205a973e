//! Starts with a shell script as the keeper.

use tokio::net::UnixListener;
use tokio::task::LocalSet;

use super::*;
use crate::ipc::request::ApiError;
use crate::ipc::server::{AllowedUids, HandlerResponse, RequestHandler, serve};

#[derive(Clone)]
struct Daemon;

impl RequestHandler for Daemon {
    async fn handle(&self, _request: Request, _key: Option<String>) -> Result<HandlerResponse, ApiError> {
        Ok(HandlerResponse::Json(br#"{"version":"0.1","pid":7}"#.to_vec()))
    }
}

/// A shell that runs `script` in the home's directory.
fn shell(script: &'static str) -> impl FnOnce(&Home) -> Command {
    move |home| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "keeper"]).current_dir(home.path());
        command
    }
}

/// A home with a served socket named `ready`: the daemon is running once it is renamed to `rsm.sock`.
async fn with_home(test: impl AsyncFnOnce(&Home)) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path());
    let listener = UnixListener::bind(dir.path().join("ready")).unwrap();
    let serving = async {
        let served = serve(listener, Daemon, AllowedUids::own_user(), std::future::pending());
        tokio::task::spawn_local(served);
        test(&home).await;
    };
    LocalSet::new().run_until(serving).await;
}

const START: &str = "echo launched >> launches; mv ready rsm.sock";

#[tokio::test]
async fn uses_running_daemon() {
    with_home(async |home| {
        std::fs::rename(home.path().join("ready"), home.socket()).unwrap();
        let (_, launched) = connect_or_spawn(home, shell("exit 9")).await.unwrap();
        assert!(!launched);
        assert!(!home.start_lock().exists(), "connecting created a file");
    })
    .await;
}

#[tokio::test]
async fn concurrent_starts_launch_one_daemon() {
    with_home(async |home| {
        let both = tokio::join!(connect_or_spawn(home, shell(START)), connect_or_spawn(home, shell(START)));
        let (mut first, first_started) = both.0.unwrap();
        let (mut second, second_started) = both.1.unwrap();
        assert!(first_started ^ second_started, "exactly one of them started the daemon");
        let launches = std::fs::read_to_string(home.path().join("launches")).unwrap();
        assert_eq!(launches, "launched\n");
        assert_eq!(first.call::<Pong>(&Request::Ping).await.unwrap().pid, 7);
        assert_eq!(second.call::<Pong>(&Request::Ping).await.unwrap().pid, 7);
    })
    .await;
}

#[tokio::test]
async fn reports_output_of_failed_keeper() {
    with_home(async |home| {
        let fail = async |script| connect_or_spawn(home, shell(script)).await.unwrap_err().to_string();
        assert_eq!(fail("echo 'error: no space' >&2; exit 3").await, "failed to start the daemon: no space");
        assert!(fail("kill -9 $$").await.contains("SIGKILL"));
        // More than fits in a pipe, and with a descendant that keeps standard error open.
        let script = "mkfifo held; (read x < held) & head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1";
        assert!(fail(script).await.len() > 300_000);
        std::fs::write(home.path().join("held"), "over\n").unwrap(); // lets the descendant exit
    })
    .await;
}

#[tokio::test]
async fn detects_keeper_that_exits_without_listening() {
    with_home(async |home| {
        let error = connect_or_spawn(home, shell("exit 0")).await.unwrap_err();
        assert!(matches!(error, StartDaemonError::Client(ClientError::NotRunning { .. })), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn reports_home_that_cannot_be_created() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = connect_or_spawn(&Home::new(&file), shell("exit 0")).await.unwrap_err().to_string();
    assert!(error.contains("/file") && error.contains("set RSM_HOME"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn times_out_if_keeper_hangs() {
    with_home(async |home| {
        let fifo = home.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = connect_or_spawn(home, shell("read never < fifo")).await.unwrap_err();
        assert!(matches!(error, StartDaemonError::TimedOut { .. }), "{error:?}");
        std::fs::write(fifo, "over\n").unwrap(); // lets the shell exit
    })
    .await;
}
