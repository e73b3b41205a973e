//! `reload --verify URL`: asks an address all the while, a connection for each request, and counts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Uri;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::error::Error;
use crate::probes::http::{self, Accepted, Extent};

/// So many requests are under way at once.
const CLIENTS: usize = 4;

/// Each asks again after this pause: to look is not to flood.
const PAUSE: Duration = Duration::from_millis(5);

/// An answer that takes longer than this is none.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A complete response whose status is not that of a server error.
const SUCCESS: Accepted = Accepted { status: 100..=499, extent: Extent::Whole };

/// It goes on for so long after the reload: the last connection may still come to the old process.
const TAIL_DURATION: Duration = Duration::from_millis(200);

/// Requests that are being sent.
pub(crate) struct LoadCheck {
    tally: Arc<Mutex<Tally>>,
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// How requests came out.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How many were sent.
    pub(crate) sent: u64,
    /// How many were not answered, or by an error of the server.
    pub(crate) failed: u64,
    first_error: Option<String>,
}

/// An `http://` address.
pub(crate) fn parse_url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(uri),
        _ => Err("expected a URL such as http://127.0.0.1:3000/".into()),
    }
}

impl LoadCheck {
    /// Begins, if the address answers at all.
    pub(crate) async fn start(address: &Uri) -> Result<Self, Error> {
        if let Err(reason) = timed_request(address).await {
            return Err(Error::VerifyUnreachable { url: address.to_string(), reason });
        }
        let (stop, stopped) = watch::channel(false);
        let tally: Arc<Mutex<Tally>> = Arc::default();
        let mut askers = JoinSet::new();
        for _ in 0..CLIENTS {
            askers.spawn(run_client(address.clone(), tally.clone(), stopped.clone()));
        }
        Ok(Self { tally, clients: askers, stop })
    }

    /// Ends it, once those under way are answered.
    pub(crate) async fn finish(mut self) -> Tally {
        tokio::time::sleep(TAIL_DURATION).await;
        let _ = self.stop.send(true); // who has ended needs no telling
        while self.clients.join_next().await.is_some() {}
        std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn run_client(address: Uri, tally: Arc<Mutex<Tally>>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let answer = timed_request(&address).await;
        {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.sent += 1;
            if let Err(why) = answer {
                tally.failed += 1;
                tally.first_error.get_or_insert(why);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn timed_request(address: &Uri) -> Result<(), String> {
    let asked = tokio::time::timeout(REQUEST_TIMEOUT, http::get(address, None, &SUCCESS)).await;
    asked.unwrap_or_else(|_| Err(format!("no response within {} s", REQUEST_TIMEOUT.as_secs())))
}

impl Tally {
    /// Nothing, if every request was answered.
    pub(crate) fn into_result(self) -> Result<(), Error> {
        match self {
            Self { failed: 0, .. } => Ok(()),
            Self { sent, failed, first_error: first } => {
                Err(Error::VerifyRequestsFailed { sent, failed, first: first.unwrap_or_default() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::commands::load_check::*;

    #[test]
    fn only_addresses_that_can_be_asked_are_taken() {
        assert!(parse_url("http://127.0.0.1:3000/health?x=1").is_ok());
        for wrong in ["https://127.0.0.1/", "127.0.0.1:3000", "/health", "http://", "ftp://x/", ""] {
            assert!(parse_url(wrong).is_err(), "{wrong}");
        }
    }
}
