//! The Node channel: lines of JSON between runs and the daemon, as in Node's `child_process`.
//!
//! The keeper and the app have copies of the daemon's end, so the channel survives the daemon and the app sees no
//! disconnect. Messages that rsm does not use are read and dropped, so that an app with many messages neither
//! blocks nor fills memory.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::instance::status::RunId;
use crate::process::fd_channel;
use crate::process::proc::net;
use crate::process::process_ref::ProcessRef;
use crate::process::tree;
use crate::spec::{AppSpec, Launcher, Runtime, runtime_of};

/// Longer lines are dropped, in bytes.
const MAX_INCOMING: usize = 1 << 20;

/// Maximum size of a message to an app, in bytes. The kernel accepts a message of this size completely or not at
/// all (`unix_stream_sendmsg`: up to half of the socket's buffer), so no message is sent in part.
pub const MAX_OUTGOING: usize = 64 << 10;

/// How often to check whether a process that is being stopped has connections. It is disconnected after two checks.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How many chunks of one app are read before other tasks run.
const MAX_READS: usize = 16;

/// Maximum number of actions of an app; more are ignored.
const MAX_ACTIONS: usize = 256;

/// Maximum size of the name and the data of an action, and of all metrics of an app, in bytes; larger ones are ignored.
const MAX_ACTION_SIZE: usize = 4 << 10;
const MAX_METRICS_SIZE: usize = 64 << 10;

/// Whether the program of an app uses a Node channel. Another program could pass on the variable without the
/// descriptor, and then Node would not start.
pub fn uses_node_channel(spec: &AppSpec) -> bool {
    let is_node = |program: &str| {
        use Runtime::{Bun, Node, NodeWrapper, Tsx};
        matches!(runtime_of(program), Some(Node | NodeWrapper | Tsx | Bun))
    };
    match &spec.launcher {
        Launcher::Interpreter { program, .. } => is_node(program),
        Launcher::Direct => is_node(&spec.script),
        // `PORT=1 node server.js`
        Launcher::Shell => {
            spec.script.split_whitespace().find(|word| !word.contains('=')).is_some_and(is_node)
        }
        Launcher::Serve => false,
    }
}

/// Creates a channel: the end of the daemon and that of the app.
///
/// # Errors
/// No more descriptors are available.
pub fn channel_pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The app has no channel, or closed it.
    #[error("no IPC channel: only Node.js apps have one, until they disconnect")]
    NotConnected,
    #[error("IPC channel is full: the app does not read its messages")]
    Full,
    #[error("message exceeds 64 KiB")]
    TooLong,
}

/// The actions and metrics that an app has registered, by name.
#[derive(Clone, Debug, Default)]
pub struct AppActions {
    pub actions: BTreeMap<String, Value>,
    pub metrics: serde_json::Map<String, Value>,
}

/// The channels of all runs. All clones share them.
#[derive(Clone, Debug, Default)]
pub struct NodeChannels(Rc<RefCell<HashMap<RunId, NodeChannel>>>);

#[derive(Debug)]
struct NodeChannel {
    socket: Rc<AsyncFd<OwnedFd>>,
    state: Rc<RefCell<ChannelState>>,
    reader: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct ChannelState {
    /// The incomplete line.
    line: Vec<u8>,
    /// Whether the rest of a line that is too long is being dropped.
    discarding: bool,
    actions: AppActions,
    /// Actions without reply, oldest first.
    pending_replies: Vec<(String, oneshot::Sender<Value>)>,
}

/// A message of PM2's `axm` protocol.
#[derive(Deserialize)]
struct AxmMessage {
    r#type: String,
    data: Value,
}

impl NodeChannels {
    /// Reads the messages of a run; calls `on_ready` at each `ready`.
    pub fn open(&self, run: RunId, socket: OwnedFd, on_ready: impl Fn() + 'static) {
        let Ok(socket) = fd_channel::async_fd(socket).map(Rc::new) else { return };
        let state = Rc::<RefCell<ChannelState>>::default();
        let (channels, task_socket, task_state) = (self.clone(), socket.clone(), state.clone());
        let reader = tokio::task::spawn_local(async move {
            read_messages(&task_socket, &task_state, on_ready).await;
            channels.0.borrow_mut().remove(&run); // the app has disconnected
        });
        self.0.borrow_mut().insert(run, NodeChannel { socket, state, reader });
    }

    /// Disconnects the channel of a run that is being stopped once only the channel can keep it running: a listener for
    /// `message` does that in Node. A process that still has connections would take the event `disconnect` for a reason
    /// to exit.
    pub fn disconnect_when_idle(&self, run: RunId, leader: ProcessRef) {
        let Some(socket) = self.0.borrow().get(&run).map(|channel| channel.socket.clone()) else { return };
        let channels = self.clone();
        tokio::task::spawn_local(async move {
            let mut was_idle = false;
            loop {
                tokio::time::sleep(IDLE_CHECK_INTERVAL).await;
                if !channels.0.borrow().contains_key(&run) {
                    return;
                }
                let is_busy = move || {
                    let members = tree::tree_members(leader);
                    net::may_serve(&members.iter().map(|member| member.process.pid).collect::<Vec<_>>())
                };
                let is_idle = !tokio::task::spawn_blocking(is_busy).await.unwrap_or(true);
                if is_idle && was_idle {
                    // Also works on the copies of the descriptor in the keeper and in the app.
                    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
                    return;
                }
                was_idle = is_idle;
            }
        });
    }

    pub fn close(&self, run: RunId) {
        if let Some(channel) = self.0.borrow_mut().remove(&run) {
            channel.reader.abort();
        }
    }

    /// The actions of a run, if it has a channel.
    pub fn actions(&self, run: RunId) -> Option<AppActions> {
        self.0.borrow().get(&run).map(|channel| channel.state.borrow().actions.clone())
    }

    /// Sends a message, which arrives as `process.on('message')`.
    ///
    /// # Errors
    /// Nothing was sent.
    pub fn send(&self, run: RunId, message: &Value) -> Result<(), SendError> {
        let channels = self.0.borrow();
        let channel = channels.get(&run).ok_or(SendError::NotConnected)?;
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        if line.len() > MAX_OUTGOING {
            return Err(SendError::TooLong);
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            return match send(channel.socket.as_raw_fd(), &line, flags) {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Err(SendError::Full),
                Err(_) => Err(SendError::NotConnected),
            };
        }
    }

    /// Starts an action. The receiver gets the reply, and fails if the run ends.
    ///
    /// # Errors
    /// The request was not sent.
    pub fn trigger(
        &self,
        run: RunId,
        action: &str,
        param: Option<&Value>,
    ) -> Result<oneshot::Receiver<Value>, SendError> {
        let message = match param {
            Some(param) => serde_json::json!({ "msg": action, "opts": param }),
            None => action.into(),
        };
        let (sender, reply) = oneshot::channel();
        if let Some(channel) = self.0.borrow().get(&run) {
            let pending = &mut channel.state.borrow_mut().pending_replies;
            pending.retain(|(_, sender)| !sender.is_closed());
            pending.push((action.to_owned(), sender));
        }
        self.send(run, &message).map(|()| reply)
    }
}

/// Reads messages until the app closes its end.
async fn read_messages(socket: &AsyncFd<OwnedFd>, state: &RefCell<ChannelState>, on_ready: impl Fn()) {
    loop {
        let Ok(mut readable) = socket.readable().await else { return };
        // Not stored in the task, because most of hundreds of channels are idle.
        let mut chunk = [0; 16 << 10];
        for _ in 0..MAX_READS {
            match recv(socket.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => {
                    readable.clear_ready();
                    break;
                }
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => return,
                Ok(length) => state.borrow_mut().feed(&chunk[..length], &on_ready),
            }
        }
        tokio::task::yield_now().await;
    }
}

impl ChannelState {
    fn feed(&mut self, mut bytes: &[u8], on_ready: &impl Fn()) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.append(&bytes[..end]);
            let line = std::mem::take(&mut self.line);
            if !std::mem::take(&mut self.discarding) {
                self.handle_message(&line, on_ready);
            }
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.discarding |= self.line.len() + bytes.len() > MAX_INCOMING;
        match self.discarding {
            true => self.line = Vec::new(),
            false => self.line.extend_from_slice(bytes),
        }
    }

    fn handle_message(&mut self, line: &[u8], on_ready: &impl Fn()) {
        if line == br#""ready""# {
            return on_ready();
        }
        // Most messages are not for rsm, and are not parsed.
        if memchr::memmem::find(line, b"\"axm:").is_none() {
            return;
        }
        let Ok(AxmMessage { r#type, data }) = serde_json::from_slice(line) else { return };
        let is_too_large = match r#type.as_str() {
            "axm:action" => line.len() > MAX_ACTION_SIZE,
            "axm:monitor" => line.len() > MAX_METRICS_SIZE,
            _ => false,
        };
        if is_too_large {
            return;
        }
        match (r#type.as_str(), data) {
            ("axm:reply", data) => {
                let action = data["action_name"].as_str().unwrap_or_default();
                let is_pending =
                    |(name, sender): &(String, oneshot::Sender<Value>)| name == action && !sender.is_closed();
                if let Some(index) = self.pending_replies.iter().position(is_pending) {
                    let _ = self.pending_replies.remove(index).1.send(data["return"].clone());
                }
            }
            ("axm:action", data) => {
                let name = data["action_name"].as_str().unwrap_or_default().to_owned();
                let actions = &mut self.actions.actions;
                if actions.len() < MAX_ACTIONS || actions.contains_key(&name) {
                    actions.insert(name, data);
                }
            }
            ("axm:monitor", Value::Object(metrics)) => self.actions.metrics = metrics,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The state after these chunks, and how often the app reported that it is ready.
    fn feed(chunks: &[&[u8]]) -> (ChannelState, u32) {
        let (mut state, ready) = (ChannelState::default(), Cell::new(0));
        chunks.iter().for_each(|chunk| state.feed(chunk, &|| ready.set(ready.get() + 1)));
        (state, ready.get())
    }

    #[test]
    fn only_ready_string_means_ready() {
        assert_eq!(feed(&[b"\"rea", b"dy\"\n"]).1, 1);
        for other in ["", "ready", "{\"cmd\":\"ready\"}", "\"already\"", "[\"ready\"]"] {
            assert_eq!(feed(&[other.as_bytes(), b"\n"]).1, 0, "{other}");
        }
    }

    #[test]
    fn too_long_line_is_dropped_and_next_one_is_read() {
        let long = vec![b'x'; MAX_INCOMING / 2];
        let (state, ready) = feed(&[&long, &long, &long, b"\n\"ready\"\n\"half"]);
        assert_eq!((ready, state.line.as_slice()), (1, &b"\"half"[..]));
    }

    #[test]
    fn reads_actions_metrics_and_replies() {
        let action = br#"{"type":"axm:action","data":{"action_name":"gc","arity":1}}"#;
        let metric = br#"{"type":"axm:monitor","data":{"Heap":{"value":7}}}"#;
        let (mut state, _) = feed(&[action, b"\n", metric, b"\n{\"type\":\"axm:\n[\"axm:\"]\n"]);
        assert_eq!(state.actions.actions["gc"]["arity"], 1);
        assert_eq!(state.actions.metrics["Heap"]["value"], 7);
        let (sender, mut received) = oneshot::channel();
        state.pending_replies.push(("gc".into(), sender));
        let reply = br#"{"type":"axm:reply","data":{"action_name":"gc","return":{"freed":3}}}"#;
        state.feed(reply, &|| {});
        assert!(received.try_recv().is_err(), "the line is incomplete");
        state.feed(b"\n", &|| {});
        assert_eq!(received.try_recv().unwrap()["freed"], 3);
    }

    #[test]
    fn only_node_programs_get_a_channel() {
        let mut app = AppSpec::new("api", "/srv/api", "/srv");
        let mut with = |launcher: Launcher, script: &str| {
            (app.launcher, app.script) = (launcher, script.into());
            uses_node_channel(&app)
        };
        let by = |program: &str| Launcher::Interpreter { program: program.into(), args: Vec::new() };
        assert!(with(by("/opt/node-22/bin/node"), "a.js") && with(by("tsx"), "a.ts"));
        assert!(with(Launcher::Shell, "PORT=1 node a.js") && with(Launcher::Direct, "/usr/bin/node"));
        assert!(!with(by("python3"), "node.py") && !with(Launcher::Shell, "make && node a.js"));
        assert!(!with(Launcher::Direct, "/srv/node/api") && !with(Launcher::Serve, "node"));
    }
}
