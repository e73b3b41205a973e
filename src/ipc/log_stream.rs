//! A log stream that survives the exit of a daemon: the next connection continues where it stopped, so that no
//! line is lost or read twice.

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;

use super::client::{Client, ClientError, LineStream};
use super::request::LogQuery;
use super::response::{LogItem, LogPosition};

/// How a line with positions begins. The other lines are not parsed here.
const POSITIONS: &[u8] = b"{\"type\":\"positions\"";

/// A log stream over one connection after another.
#[derive(Debug)]
pub struct LogStream {
    query: LogQuery,
    positions: HashMap<PathBuf, LogPosition>,
    lines: Option<LineStream>,
    /// Lines after the last positions: the next connection reads them again.
    uncommitted: Vec<Bytes>,
}

impl LogStream {
    /// A stream that is not open yet.
    pub fn new(query: LogQuery) -> Self {
        Self { query, positions: HashMap::new(), lines: None, uncommitted: Vec::new() }
    }

    /// Opens the stream on this connection, at the positions known so far.
    ///
    /// # Errors
    /// As [`Client::stream`].
    pub async fn open(&mut self, client: &mut Client) -> Result<(), ClientError> {
        self.uncommitted.clear();
        let positions = Some(self.positions.values().cloned().collect());
        self.lines = Some(client.logs_from(LogQuery { positions, ..self.query.clone() }).await?);
        Ok(())
    }

    /// Of how many files a position is known.
    pub fn known_files(&self) -> usize {
        self.positions.len()
    }

    /// The next lines up to a position, each a [`LogItem`] as JSON; none when the stream has ended. May be
    /// dropped while it waits: nothing is lost.
    pub async fn next_batch(&mut self) -> Option<Result<Vec<Bytes>, ClientError>> {
        loop {
            let line = match self.lines.as_mut()?.next().await? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            if !line.starts_with(POSITIONS) {
                self.uncommitted.push(line);
            } else if let Ok(LogItem::Positions { positions }) = serde_json::from_slice(&line) {
                self.positions
                    .extend(positions.into_iter().map(|position| (position.path.clone(), position)));
                return Some(Ok(std::mem::take(&mut self.uncommitted)));
            }
        }
    }
}
