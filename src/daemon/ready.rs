//! Hearing that a run says it is ready: `READY=1` on `NOTIFY_SOCKET`, as systemd has it, or
//! `process.send('ready')` over Node's channel, as PM2 has it. A run gets both.
//!
//! Our ends are kept with the keeper: what is said while no daemon is there is read by the next.

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, getsockname, recv, socket, socketpair,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::supervisor::Input;
use crate::instance::event::Event;
use crate::instance::life::RunId;
use crate::process::channel;

/// Node finds its end of the channel at this number, out of the way of sockets that are passed.
pub const NODE_CHANNEL: i32 = 63;

/// A message longer than this is no word of ours to hear.
const LONGEST: usize = 64 << 10;

/// The ends of what a run says it by.
pub struct Voices {
    /// Ours, to be kept and heard: the notify socket, then Node's channel.
    pub ours: [OwnedFd; 2],
    /// The app's end of Node's channel.
    pub node: OwnedFd,
    /// What the run finds in its environment.
    pub env: [(String, String); 3],
}

impl Voices {
    /// New ones.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let notify = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        // The kernel chooses a free name that is in no directory: apps of any user can reach it.
        bind(notify.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let address: UnixAddr = getsockname(notify.as_raw_fd())?;
        let name = address.as_abstract().map(String::from_utf8_lossy).unwrap_or_default();
        let (ours, node) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        let env = [
            ("NOTIFY_SOCKET".to_owned(), format!("@{name}")),
            ("NODE_CHANNEL_FD".to_owned(), NODE_CHANNEL.to_string()),
            ("NODE_CHANNEL_SERIALIZATION_MODE".to_owned(), "json".to_owned()),
        ];
        Ok(Self { ours: [notify, ours], node, env })
    }
}

/// A run that is heard.
pub struct Hearing {
    /// To be aborted with the run's end.
    pub tasks: [JoinHandle<()>; 2],
    /// It has said that it works.
    pub beats: Rc<Notify>,
}

/// Hears a run until the tasks are aborted; tells when it is ready, if that is its to say.
pub fn listen(
    run: RunId,
    ours: [OwnedFd; 2],
    says_ready: bool,
    queue: &mpsc::UnboundedSender<Input>,
) -> Hearing {
    let [notify, node] = ours;
    let beats = Rc::new(Notify::new());
    let tasks = [(notify, true), (node, false)].map(|(voice, packets)| {
        let (queue, beats) = (queue.clone(), beats.clone());
        tokio::task::spawn_local(async move {
            let Ok(voice) = channel::register(voice) else { return };
            hear(&voice, packets, |word| match word {
                Word::Ready if says_ready => {
                    let event = Event::Ready { run: run.number };
                    let _ = queue.send(Input::Fact { instance: run.instance, event });
                }
                Word::Ready => {}
                Word::Works => beats.notify_one(),
            })
            .await;
        })
    });
    Hearing { tasks, beats }
}

/// What a run can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Ready,
    Works,
}

/// Reads what is said; `packets`: in systemd's words, else in Node's lines.
async fn hear(voice: &AsyncFd<OwnedFd>, packets: bool, tell: impl Fn(Word)) {
    let (mut buffer, mut line) = (vec![0; 4096], Vec::new());
    loop {
        let Ok(mut readable) = voice.readable().await else { return };
        match recv(voice.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Err(nix::Error::EAGAIN) => readable.clear_ready(),
            Ok(0) if !packets => return,
            Err(_) => return,
            Ok(length) if packets => {
                for word in buffer[..length].split(|byte| *byte == b'\n') {
                    match word {
                        b"READY=1" => tell(Word::Ready),
                        b"WATCHDOG=1" => tell(Word::Works),
                        _ => {}
                    }
                }
            }
            Ok(length) => {
                for byte in &buffer[..length] {
                    match byte {
                        b'\n' => {
                            if says_ready(&line) {
                                tell(Word::Ready);
                            }
                            line.clear();
                        }
                        byte if line.len() < LONGEST => line.push(*byte),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// `process.send('ready')`, which is all that Node puts into the line.
fn says_ready(line: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|message| message == "ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_is_taken_for_ready() {
        assert!(says_ready(b"\"ready\""));
        for other in ["", "ready", "{\"cmd\":\"ready\"}", "\"already\"", "[\"ready\"]"] {
            assert!(!says_ready(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_socket_has_a_name_of_its_own() {
        let (one, other) = (Voices::new().unwrap(), Voices::new().unwrap());
        assert!(one.env[0].1.len() > 1 && one.env[0].1 != other.env[0].1);
    }
}
