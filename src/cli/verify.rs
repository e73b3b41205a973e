//! `reload --verify URL`: asks an address all the while, a connection for each request, and counts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Uri;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::probes::http::{self, Accepted, Extent};

/// So many requests are under way at once.
const ASKERS: usize = 4;

/// Each asks again after this pause: to look is not to flood.
const PAUSE: Duration = Duration::from_millis(5);

/// An answer that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// A complete response whose status is not that of a server error.
const SUCCESS: Accepted = Accepted { status: 100..=499, extent: Extent::Whole };

/// It goes on for so long after the reload: the last connection may still come to the old process.
const AFTER: Duration = Duration::from_millis(200);

/// Requests that are being sent.
pub(super) struct LoadCheck {
    tally: Arc<Mutex<Tally>>,
    askers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// How requests came out.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How many were sent.
    pub(super) sent: u64,
    /// How many were not answered, or by an error of the server.
    pub(super) failed: u64,
    first: Option<String>,
}

/// An `http://` address.
pub(super) fn address(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(uri),
        _ => Err("expected a URL such as http://127.0.0.1:3000/".into()),
    }
}

impl LoadCheck {
    /// Begins, if the address answers at all.
    pub(super) async fn begin(address: &Uri) -> Result<Self, Error> {
        if let Err(reason) = ask(address).await {
            return Err(Error::NoAnswer { url: address.to_string(), reason });
        }
        let (stop, stopped) = watch::channel(false);
        let tally: Arc<Mutex<Tally>> = Arc::default();
        let mut askers = JoinSet::new();
        for _ in 0..ASKERS {
            askers.spawn(asking(address.clone(), tally.clone(), stopped.clone()));
        }
        Ok(Self { tally, askers, stop })
    }

    /// Ends it, once those under way are answered.
    pub(super) async fn end(mut self) -> Tally {
        tokio::time::sleep(AFTER).await;
        let _ = self.stop.send(true); // who has ended needs no telling
        while self.askers.join_next().await.is_some() {}
        std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn asking(address: Uri, tally: Arc<Mutex<Tally>>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let answer = ask(&address).await;
        {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.sent += 1;
            if let Err(why) = answer {
                tally.failed += 1;
                tally.first.get_or_insert(why);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(address: &Uri) -> Result<(), String> {
    let asked = tokio::time::timeout(PATIENCE, http::get(address, None, &SUCCESS)).await;
    asked.unwrap_or_else(|_| Err(format!("no response within {} s", PATIENCE.as_secs())))
}

impl Tally {
    /// Nothing, if every request was answered.
    pub(super) fn judge(self) -> Result<(), Error> {
        match self {
            Self { failed: 0, .. } => Ok(()),
            Self { sent, failed, first } => {
                Err(Error::Requests { sent, failed, first: first.unwrap_or_default() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_can_be_asked_are_taken() {
        assert!(address("http://127.0.0.1:3000/health?x=1").is_ok());
        for wrong in ["https://127.0.0.1/", "127.0.0.1:3000", "/health", "http://", "ftp://x/", ""] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
