//! HTTP clients: a connection for each request, answers counted by who gave them.

use std::collections::BTreeMap;
use std::io::{Error, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// What is asked, and what counts as an answer.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    to: SocketAddr,
    from: Option<SocketAddr>,
    timeout: Duration,
    expected: Expected,
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    /// The word after this one, by which answers are counted.
    WordAfter(&'static str),
    /// This text.
    Text(&'static str),
}

/// How fast each of several clients asks.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Again as soon as there is an answer.
    Unlimited,
    /// So many requests a second of all clients together, as far as they are answered.
    PerSecond(u32),
    /// With a pause after each answer.
    Pause(Duration),
}

impl Client {
    /// Asks for `/`; the word after `slot` says who answered.
    pub fn new(to: SocketAddr) -> Self {
        let (timeout, expected) = (Duration::from_secs(30), Expected::WordAfter("slot"));
        Self { to, from: None, timeout, expected }
    }

    /// The same on a port of this machine.
    pub fn local(port: u16) -> Self {
        Self::new(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// The word after this one says who answered.
    pub fn word_after(self, word: &'static str) -> Self {
        Self { expected: Expected::WordAfter(word), ..self }
    }

    /// A good answer contains this text.
    pub fn expect(self, text: &'static str) -> Self {
        Self { expected: Expected::Text(text), ..self }
    }

    /// No answer within this time is a failure.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Connects from this address.
    pub fn from(self, from: SocketAddr) -> Self {
        Self { from: Some(from), ..self }
    }

    /// One request; who answered.
    pub fn ask(&self) -> Result<String> {
        self.exchange(self.connect()?)
    }

    /// So many requests, one after the other.
    pub fn requests(&self, count: u32) -> Tally {
        let mut tally = Tally::default();
        (0..count).for_each(|_| tally.ask(self));
        tally
    }

    /// Asks with so many clients until the load is finished.
    pub fn load(self, clients: u32, pace: Pace) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |stop: Arc<AtomicBool>| move || self.ask_until(&stop, clients, pace);
        let clients = (0..clients).map(|_| std::thread::spawn(client(Arc::clone(&stop)))).collect();
        Load { stop, clients }
    }

    fn ask_until(&self, stop: &AtomicBool, clients: u32, pace: Pace) -> Tally {
        let (mut tally, mut next) = (Tally::default(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            tally.ask(self);
            next = match pace {
                Pace::Unlimited => continue,
                Pace::Pause(pause) => Instant::now() + pause,
                // A client that was delayed does not catch up.
                Pace::PerSecond(rate) => (next + Duration::from_secs(1) * clients / rate).max(Instant::now()),
            };
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        tally
    }

    fn connect(&self) -> Result<TcpStream> {
        let Some(from) = self.from else { return TcpStream::connect_timeout(&self.to, self.timeout) };
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
        connect(fd.as_raw_fd(), &SockaddrStorage::from(self.to))?;
        Ok(fd.into())
    }

    fn exchange(&self, mut stream: TcpStream) -> Result<String> {
        stream.set_read_timeout(Some(self.timeout))?;
        stream.write_all(REQUEST)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let found = match self.expected {
            Expected::Text(text) => answer.contains(text).then_some(text),
            Expected::WordAfter(word) => {
                answer.rsplit_once(&format!("{word} ")).and_then(|(_, rest)| rest.split_whitespace().next())
            }
        };
        found.map(str::to_owned).ok_or_else(|| Error::other(format!("answered {answer:?}")))
    }
}

/// What came of requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers, by who gave them.
    pub answered: BTreeMap<String, u32>,
    /// Connections that nobody accepted.
    pub refused: Vec<String>,
    /// Connections that were accepted and not answered.
    pub lost: Vec<String>,
}

impl Tally {
    /// The number of answers.
    pub fn total(&self) -> u32 {
        self.answered.values().sum()
    }

    /// All connections without a good answer.
    pub fn failed(&self) -> Vec<&str> {
        self.refused.iter().chain(&self.lost).map(String::as_str).collect()
    }

    /// No request failed, and there were some.
    pub fn assert_clean(&self) {
        let failed = self.failed();
        assert!(failed.is_empty(), "{} of {} failed: {failed:.1000?}", failed.len(), self.total());
        assert!(self.total() > 0, "nothing was asked");
    }

    fn ask(&mut self, client: &Client) {
        let stream = match client.connect() {
            Ok(stream) => stream,
            Err(error) => return self.refused.push(error.to_string()),
        };
        match client.exchange(stream) {
            Ok(who) => *self.answered.entry(who).or_default() += 1,
            Err(error) => self.lost.push(error.to_string()),
        }
    }

    fn add(&mut self, other: Self) {
        self.refused.extend(other.refused);
        self.lost.extend(other.lost);
        other.answered.into_iter().for_each(|(who, count)| *self.answered.entry(who).or_default() += count);
    }
}

/// Clients that ask until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Stops the clients; what came of their requests.
    pub fn finish(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        self.clients.drain(..).for_each(|client| all.add(client.join().unwrap()));
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
