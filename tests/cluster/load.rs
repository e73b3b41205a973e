//! Clients: short connections, counted by the slot that answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

/// No answer within this is a failure.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A port that nobody has.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One request on a connection of its own; the slot that answers, as it says itself.
pub fn ask(to: SocketAddr) -> std::io::Result<String> {
    ask_on(TcpStream::connect_timeout(&to, TIMEOUT)?)
}

/// One request from a certain client address.
pub fn ask_from(from: SocketAddr, to: SocketAddr) -> std::io::Result<String> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    ask_on(fd.into())
}

fn ask_on(mut stream: TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.rsplit_once("slot ") {
        Some((_, slot)) => Ok(slot.trim().to_owned()),
        None => Err(std::io::Error::other(format!("answered {answer:?}"))),
    }
}

/// One datagram, answered by the slot that got it.
pub fn ask_udp(port: u16) -> String {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.send_to(b"who", ("127.0.0.1", port)).unwrap();
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: BTreeMap<String, u32>,
    pub failed: Vec<String>,
}

impl Tally {
    pub fn total(&self) -> u32 {
        self.answered.values().sum()
    }

    /// Nothing has failed, and something was asked.
    pub fn assert_clean(&self) {
        assert!(self.failed.is_empty(), "{} failed: {:?}", self.failed.len(), &self.failed[..1]);
        assert!(self.total() > 0);
    }
}

/// So many requests, one after the other.
pub fn requests(count: u32, to: SocketAddr) -> Tally {
    let mut tally = Tally::default();
    (0..count).for_each(|_| tally.add(ask(to)));
    tally
}

impl Tally {
    fn add(&mut self, answer: std::io::Result<String>) {
        match answer {
            Ok(slot) => *self.answered.entry(slot).or_default() += 1,
            Err(error) => self.failed.push(error.to_string()),
        }
    }
}

/// Four clients that ask as fast as they are answered.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    pub fn on(to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |stop: Arc<AtomicBool>| {
            move || {
                let mut tally = Tally::default();
                while !stop.load(Ordering::Relaxed) {
                    tally.add(ask(to));
                }
                tally
            }
        };
        let clients = (0..4).map(|_| std::thread::spawn(client(Arc::clone(&stop)))).collect();
        Self { stop, clients }
    }

    pub fn finish(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            let tally = client.join().unwrap();
            all.failed.extend(tally.failed);
            for (slot, count) in tally.answered {
                *all.answered.entry(slot).or_default() += count;
            }
        }
        all
    }
}
