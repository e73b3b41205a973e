//! Node's channel: lines of JSON both ways, as `child_process` has them, between runs and the daemon.
//!
//! Our end is kept with the keeper, and the app has a copy of it: the channel outlives the daemon, and
//! the app never sees it break. Nothing is remembered of what apps say but what rsm itself has a use
//! for; the rest is read and dropped, so that an app which talks much neither waits nor fills memory.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::instance::status::RunId;
use crate::process::fd_channel;
use crate::spec::{AppSpec, Launcher, Runtime, runtime_of};

/// A longer line than this is dropped, in bytes.
const MAX_INCOMING: usize = 1 << 20;

/// Longest message to an app, in bytes. The kernel takes one of this size whole or not at all
/// (`unix_stream_sendmsg`: up to half of the socket's buffer), so none is ever torn.
pub const MAX_OUTGOING: usize = 64 << 10;

/// So much is read before others have their turn.
const MAX_PENDING_REPLIES: usize = 16;

/// An app offers at most so many actions; more are not remembered.
const MAX_ACTIONS: usize = 256;

/// Whether an app's program knows what to do with a channel. One that does not could pass its number
/// on to a Node further down without the channel itself, and Node would not start.
pub fn uses_node_channel(spec: &AppSpec) -> bool {
    let named = |program: &str| {
        use Runtime::{Bun, Node, NodeWrapper, Tsx};
        matches!(runtime_of(program), Some(Node | NodeWrapper | Tsx | Bun))
    };
    match &spec.launcher {
        Launcher::Interpreter { program, .. } => named(program),
        Launcher::Direct => named(&spec.script),
        // `PORT=1 node server.js`
        Launcher::Shell => spec.script.split_whitespace().find(|word| !word.contains('=')).is_some_and(named),
        Launcher::Serve => false,
    }
}

/// Two ends of a channel: ours, and the app's.
///
/// # Errors
/// Out of descriptors.
pub fn channel_pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
}

/// Why a message did not reach a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It has none, or has closed it.
    #[error("no IPC channel: only Node.js apps have one, until they disconnect")]
    NotConnected,
    /// It does not read.
    #[error("IPC channel is full: the app does not read its messages")]
    Full,
    /// Nothing so long is sent.
    #[error("message exceeds 64 KiB")]
    TooLong,
}

/// What an app has said of itself: the actions it offers, and its measures, by name.
#[derive(Clone, Debug, Default)]
pub struct AppActions {
    /// As it described them.
    pub actions: BTreeMap<String, Value>,
    /// As it last told them.
    pub metrics: serde_json::Map<String, Value>,
}

/// All channels, by run. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct NodeChannels(Rc<RefCell<HashMap<RunId, NodeChannel>>>);

#[derive(Debug)]
struct NodeChannel {
    ours: Rc<AsyncFd<OwnedFd>>,
    state: Rc<RefCell<ChannelState>>,
    listener: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct ChannelState {
    /// The line that is being read.
    line: Vec<u8>,
    /// What is left of a line too long.
    discarding: bool,
    actions: AppActions,
    /// Who waits for the answer to which action, oldest first.
    pending_replies: Vec<(String, oneshot::Sender<Value>)>,
}

/// What rsm understands of an object that an app sends.
#[derive(Deserialize)]
struct AxmMessage {
    r#type: String,
    data: Value,
}

impl NodeChannels {
    /// Hears a run from now on; `ready` is called when it says that it is.
    pub fn open(&self, run: RunId, ours: OwnedFd, ready: impl Fn() + 'static) {
        let Ok(ours) = fd_channel::async_fd(ours).map(Rc::new) else { return };
        let heard = Rc::<RefCell<ChannelState>>::default();
        let (channels, end, ears) = (self.clone(), ours.clone(), heard.clone());
        let listener = tokio::task::spawn_local(async move {
            read_messages(&end, &ears, ready).await;
            channels.0.borrow_mut().remove(&run); // it has disconnected
        });
        self.0.borrow_mut().insert(run, NodeChannel { ours, state: heard, listener });
    }

    /// Hears a run no more.
    pub fn close(&self, run: RunId) {
        if let Some(channel) = self.0.borrow_mut().remove(&run) {
            channel.listener.abort();
        }
    }

    /// What a run offers, if it has a channel.
    pub fn actions(&self, run: RunId) -> Option<AppActions> {
        self.0.borrow().get(&run).map(|channel| channel.state.borrow().actions.clone())
    }

    /// Sends a message, which arrives as `process.on('message')`.
    ///
    /// # Errors
    /// It was not sent, not even in part.
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
            return match send(channel.ours.as_raw_fd(), &line, flags) {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Err(SendError::Full),
                Err(_) => Err(SendError::NotConnected),
            };
        }
    }

    /// Asks for an action; its answer comes through the receiver, which fails if the run ends.
    ///
    /// # Errors
    /// It was not asked.
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
        let (answer, answered) = oneshot::channel();
        if let Some(channel) = self.0.borrow().get(&run) {
            let waiting = &mut channel.state.borrow_mut().pending_replies;
            waiting.retain(|(_, who)| !who.is_closed());
            waiting.push((action.to_owned(), answer));
        }
        self.send(run, &message).map(|()| answered)
    }
}

/// Reads what a run says until it closes its end.
async fn read_messages(end: &AsyncFd<OwnedFd>, heard: &RefCell<ChannelState>, ready: impl Fn()) {
    loop {
        let Ok(mut readable) = end.readable().await else { return };
        // On the stack only while it is read: hundreds of apps are silent nearly always.
        let mut chunk = [0; 16 << 10];
        for _ in 0..MAX_PENDING_REPLIES {
            match recv(end.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => {
                    readable.clear_ready();
                    break;
                }
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => return,
                Ok(length) => heard.borrow_mut().feed(&chunk[..length], &ready),
            }
        }
        tokio::task::yield_now().await;
    }
}

impl ChannelState {
    fn feed(&mut self, mut bytes: &[u8], ready: &impl Fn()) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.append(&bytes[..end]);
            let line = std::mem::take(&mut self.line);
            if !std::mem::take(&mut self.discarding) {
                self.handle_message(&line, ready);
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

    fn handle_message(&mut self, line: &[u8], ready: &impl Fn()) {
        if line == br#""ready""# {
            return ready();
        }
        // Most of what apps say is for others: it is not even parsed.
        if memchr::memmem::find(line, b"\"axm:").is_none() {
            return;
        }
        let Ok(AxmMessage { r#type, data }) = serde_json::from_slice(line) else { return };
        match (r#type.as_str(), data) {
            ("axm:reply", data) => {
                let action = data["action_name"].as_str().unwrap_or_default();
                let asked =
                    self.pending_replies.iter().position(|(asked, who)| asked == action && !who.is_closed());
                if let Some(asked) = asked {
                    let _ = self.pending_replies.remove(asked).1.send(data["return"].clone());
                }
            }
            ("axm:action", data) => {
                let name = data["action_name"].as_str().unwrap_or_default().to_owned();
                let actions = &mut self.actions.actions;
                if actions.len() < MAX_ACTIONS || actions.contains_key(&name) {
                    actions.insert(name, data);
                }
            }
            ("axm:monitor", Value::Object(measures)) => self.actions.metrics = measures,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::daemon::world::node_channel::*;

    fn hear(parts: &[&[u8]]) -> (ChannelState, u32) {
        let (mut heard, ready) = (ChannelState::default(), Cell::new(0));
        parts.iter().for_each(|part| heard.feed(part, &|| ready.set(ready.get() + 1)));
        (heard, ready.get())
    }

    #[test]
    fn nothing_else_is_taken_for_ready() {
        assert_eq!(hear(&[b"\"rea", b"dy\"\n"]).1, 1);
        for other in ["", "ready", "{\"cmd\":\"ready\"}", "\"already\"", "[\"ready\"]"] {
            assert_eq!(hear(&[other.as_bytes(), b"\n"]).1, 0, "{other}");
        }
    }

    #[test]
    fn a_line_too_long_is_dropped_whole_and_the_next_one_is_heard() {
        let long = vec![b'x'; MAX_INCOMING / 2];
        let (heard, ready) = hear(&[&long, &long, &long, b"\n\"ready\"\n\"half"]);
        assert_eq!((ready, heard.line.as_slice()), (1, &b"\"half"[..]));
    }

    #[test]
    fn offers_and_answers_are_understood() {
        let offer = br#"{"type":"axm:action","data":{"action_name":"gc","arity":1}}"#;
        let measure = br#"{"type":"axm:monitor","data":{"Heap":{"value":7}}}"#;
        let (mut heard, _) = hear(&[offer, b"\n", measure, b"\n{\"type\":\"axm:\n[\"axm:\"]\n"]);
        assert_eq!(heard.actions.actions["gc"]["arity"], 1);
        assert_eq!(heard.actions.metrics["Heap"]["value"], 7);
        let (answer, mut answered) = oneshot::channel();
        heard.pending_replies.push(("gc".into(), answer));
        let reply = br#"{"type":"axm:reply","data":{"action_name":"gc","return":{"freed":3}}}"#;
        heard.feed(reply, &|| {});
        assert!(answered.try_recv().is_err(), "half a line");
        heard.feed(b"\n", &|| {});
        assert_eq!(answered.try_recv().unwrap()["freed"], 3);
    }

    #[test]
    fn only_programs_that_know_it_get_a_channel() {
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
