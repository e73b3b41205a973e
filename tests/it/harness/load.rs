//! Clients: a connection for each request, at a steady pace, counted by who answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No answer within this is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// So many ask at a time.
const CLIENTS: u32 = 4;

/// What came of a load.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers, by the word after `slot`.
    pub answered: BTreeMap<String, u32>,
    /// Connections that nobody took.
    pub refused: Vec<String>,
    /// Connections that were taken and not answered.
    pub lost: Vec<String>,
}

impl Tally {
    pub fn total(&self) -> u32 {
        self.answered.values().sum()
    }

    fn ask(&mut self, to: SocketAddr) {
        let stream = match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => stream,
            Err(error) => return self.refused.push(error.to_string()),
        };
        match answer(stream) {
            Ok(slot) => *self.answered.entry(slot).or_default() += 1,
            Err(error) => self.lost.push(error.to_string()),
        }
    }

    fn add(&mut self, other: Self) {
        self.refused.extend(other.refused);
        self.lost.extend(other.lost);
        other.answered.into_iter().for_each(|(slot, count)| *self.answered.entry(slot).or_default() += count);
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let slot = text.rsplit_once("slot ").and_then(|(_, rest)| rest.split_whitespace().next());
    slot.map(str::to_owned).ok_or_else(|| std::io::Error::other(format!("answered {text:?}")))
}

/// So many requests, one after the other.
pub fn requests(count: u32, to: SocketAddr) -> Tally {
    let mut tally = Tally::default();
    (0..count).for_each(|_| tally.ask(to));
    tally
}

/// Requests at a steady pace, until it is finished.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// So many a second, as far as they are answered.
    pub fn on(to: SocketAddr, a_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |stop: Arc<AtomicBool>| {
            move || {
                let (mut tally, mut next) = (Tally::default(), Instant::now());
                while !stop.load(Ordering::Relaxed) {
                    tally.ask(to);
                    // One that was held up does not catch up.
                    next = (next + Duration::from_secs(1) * CLIENTS / a_second).max(Instant::now());
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                tally
            }
        };
        let clients = (0..CLIENTS).map(|_| std::thread::spawn(client(stop.clone()))).collect();
        Self { stop, clients }
    }

    pub fn finish(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        self.clients.into_iter().for_each(|client| all.add(client.join().unwrap()));
        all
    }
}
