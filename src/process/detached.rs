//! Calls that another process, a network disk or a FUSE file system can block for ever.
//!
//! Such a call runs on a thread of its own, and the caller waits for a limited time. A thread that is blocked in
//! the kernel cannot be ended, not even by SIGKILL: it is left behind, and listed until its call returns. A second
//! call on the same subject fails at once, so that the number of blocked threads is bounded.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Maximum number of blocked threads. Further calls fail.
const MAX_STALLED: usize = 128;

/// Stack of a thread: its calls are shallow.
const STACK_SIZE: usize = 256 * 1024;

/// All calls that run at the moment.
static CALLS: Mutex<Calls> = Mutex::new(Calls { last_id: 0, running: BTreeMap::new() });

struct Calls {
    last_id: u64,
    running: BTreeMap<u64, Call>,
}

struct Call {
    /// What the call is about, for users: `stdin of app api (pid 12)`.
    subject: String,
    since: Instant,
    /// Its caller does not wait for it any more.
    is_stalled: bool,
}

/// A call that does not return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StalledCall {
    pub subject: String,
    pub duration: Duration,
}

/// The calls that do not return, the oldest first.
pub fn stalled_calls() -> Vec<StalledCall> {
    let calls = calls();
    let stalled = calls.running.values().filter(|call| call.is_stalled);
    stalled
        .map(|call| StalledCall { subject: call.subject.clone(), duration: call.since.elapsed() })
        .collect()
}

/// Runs `work` on a thread of its own.
///
/// # Errors
/// `TimedOut`: it did not return within `limit`, or a previous call on the same subject has not returned.
pub async fn run<T: Send + 'static>(
    subject: impl Into<String>,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let subject = subject.into();
    let id = register(&subject)?;
    let (sender, receiver) = oneshot::channel();
    // Fails if the caller has stopped waiting. The result is dropped here then: that may block as well.
    spawn(id, move || drop(sender.send(work())))?;
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_)) => Err(io::Error::other(format!("{subject}: the thread panicked"))),
        Err(_) => Err(mark_stalled(id, &subject, limit)),
    }
}

/// Lists a call on another kind of thread as stalled.
pub fn report_stall(subject: &str) -> StallReport {
    let mut calls = calls();
    calls.last_id += 1;
    let id = calls.last_id;
    calls.running.insert(id, Call { subject: subject.to_owned(), since: Instant::now(), is_stalled: true });
    tracing::error!("{}", stall_message(subject));
    StallReport(id)
}

/// A stalled call that is listed until this is dropped.
#[derive(Debug)]
pub struct StallReport(u64);

impl Drop for StallReport {
    fn drop(&mut self) {
        finish(self.0);
    }
}

/// A thread that serves many short calls, one after the other. One that blocks is replaced.
pub struct GuardedThread<Q, A> {
    work: fn(Q) -> A,
    channels: Option<(SyncSender<Q>, Receiver<A>)>,
}

impl<Q: Send + 'static, A: Send + 'static> GuardedThread<Q, A> {
    pub const fn new(work: fn(Q) -> A) -> Self {
        Self { work, channels: None }
    }

    /// The result of the call; `None` if it does not return within `limit`, or a previous call on the same
    /// subject has not returned.
    pub fn call(&mut self, subject: &str, limit: Duration, request: Q) -> Option<A> {
        let id = register(subject).ok()?;
        let (requests, answers) = match self.channels.take() {
            Some(channels) => channels,
            None => self.start().inspect_err(|_| finish(id)).ok()?,
        };
        let answer = match requests.send(request) {
            Ok(()) => answers.recv_timeout(limit),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        match answer {
            Ok(answer) => {
                self.channels = Some((requests, answers));
                finish(id);
                Some(answer)
            }
            // The thread ends after this call, because its channels are closed.
            Err(RecvTimeoutError::Timeout) => {
                mark_stalled(id, subject, limit);
                let waits = spawn_waiter(id, answers);
                waits.inspect_err(|_| finish(id)).ok();
                None
            }
            Err(RecvTimeoutError::Disconnected) => {
                finish(id);
                None
            }
        }
    }

    fn start(&self) -> io::Result<(SyncSender<Q>, Receiver<A>)> {
        let (requests, inbox) = sync_channel::<Q>(1);
        let (outbox, answers) = sync_channel::<A>(1);
        let work = self.work;
        thread::Builder::new().stack_size(STACK_SIZE).spawn(move || {
            while let Ok(request) = inbox.recv() {
                if outbox.send(work(request)).is_err() {
                    return;
                }
            }
        })?;
        Ok((requests, answers))
    }
}

/// Ends the listing of a stalled call when its thread answers.
fn spawn_waiter<A: Send + 'static>(id: u64, answers: Receiver<A>) -> io::Result<()> {
    thread::Builder::new().stack_size(STACK_SIZE).spawn(move || {
        drop(answers.recv());
        finish(id);
    })?;
    Ok(())
}

fn calls() -> MutexGuard<'static, Calls> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn register(subject: &str) -> io::Result<u64> {
    let mut calls = calls();
    let stalled = || calls.running.values().filter(|call| call.is_stalled);
    if stalled().any(|call| call.subject == subject) {
        return Err(io::Error::new(io::ErrorKind::TimedOut, stall_message(subject)));
    }
    if stalled().count() >= MAX_STALLED {
        let text = format!("{subject}: not tried, because {MAX_STALLED} other system calls are blocked");
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    calls.last_id += 1;
    let id = calls.last_id;
    calls.running.insert(id, Call { subject: subject.to_owned(), since: Instant::now(), is_stalled: false });
    Ok(id)
}

fn spawn(id: u64, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Also ends the listing if the thread cannot be started.
    let finish = StallReport(id);
    let finish_after = move || {
        let _finish = finish;
        work();
    };
    let spawned = thread::Builder::new().stack_size(STACK_SIZE).spawn(finish_after);
    spawned.map(drop)
}

/// Lists a call as stalled, unless it has just returned.
fn mark_stalled(id: u64, subject: &str, limit: Duration) -> io::Error {
    if let Some(call) = calls().running.get_mut(&id) {
        call.is_stalled = true;
        tracing::error!("{}", stall_message(subject));
    }
    let text = format!("no response within {} s: {}", limit.as_secs_f64(), stall_message(subject));
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn finish(id: u64) {
    if let Some(call) = calls().running.remove(&id).filter(|call| call.is_stalled) {
        let seconds = call.since.elapsed().as_secs();
        tracing::warn!("{} responded after {seconds} s", call.subject);
    }
}

fn stall_message(subject: &str) -> String {
    format!("{subject} is blocked in a system call, for example by a network disk or a FUSE file system")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::process::fixture::wait_until;

    fn is_listed(subject: &str) -> bool {
        stalled_calls().iter().any(|call| call.subject == subject)
    }

    #[tokio::test]
    async fn blocked_call_is_listed_until_it_returns() {
        let (release, released) = channel::<()>();
        let limit = Duration::from_millis(20);
        let first = run("disk a", limit, move || released.recv().is_ok()).await;
        assert_eq!(first.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(is_listed("disk a"));
        let second = run("disk a", limit, || panic!("it must not be tried again")).await;
        assert!(second.unwrap_err().to_string().contains("disk a is blocked in a system call"));
        assert_eq!(run("disk b", Duration::from_secs(60), || 7).await.unwrap(), 7);
        drop(release);
        wait_until(|| !is_listed("disk a"));
        assert_eq!(run("disk a", Duration::from_secs(60), || 8).await.unwrap(), 8);
    }

    #[test]
    fn blocked_thread_is_replaced() {
        let (release, released) = channel::<()>();
        let mut thread =
            GuardedThread::new(|gate: Option<Receiver<()>>| gate.is_none_or(|gate| gate.recv().is_err()));
        let long = Duration::from_secs(60);
        assert_eq!(thread.call("process 1", long, None), Some(true));
        assert_eq!(thread.call("process 2", Duration::from_millis(20), Some(released)), None);
        assert!(is_listed("process 2"));
        assert_eq!(thread.call("process 2", long, None), None, "still blocked");
        assert_eq!(thread.call("process 3", long, None), Some(true));
        drop(release);
        wait_until(|| !is_listed("process 2"));
        assert_eq!(thread.call("process 2", long, None), Some(true));
    }
}
