//! `reload --verify URL`: sends requests to a URL during a reload, each on its own connection, and counts failures.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Uri;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::error::Error;
use crate::probes::http::{self, Accepted, Extent};

/// Number of concurrent requests.
const CLIENTS: usize = 4;

/// Delay between two requests of a client, to limit the load.
const REQUEST_INTERVAL: Duration = Duration::from_millis(5);

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A complete response whose status is not that of a server error.
const SUCCESS: Accepted = Accepted { status: 100..=499, extent: Extent::Whole };

/// Time for which the check continues after the reload: the old process may still get connections.
const TAIL_DURATION: Duration = Duration::from_millis(200);

/// A running check.
pub(crate) struct LoadCheck {
    tally: Arc<Mutex<Tally>>,
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// Results of the requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    /// Requests without a response, or with a server error.
    pub(crate) failed: u64,
    first_error: Option<String>,
}

/// Parses an `http://` URL.
pub(crate) fn parse_url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(uri),
        _ => Err("expected a URL such as http://127.0.0.1:3000/".into()),
    }
}

impl LoadCheck {
    /// Starts the check if the URL responds.
    pub(crate) async fn start(url: &Uri) -> Result<Self, Error> {
        if let Err(reason) = timed_request(url).await {
            return Err(Error::VerifyUnreachable { url: url.to_string(), reason });
        }
        let (stop, stopped) = watch::channel(false);
        let tally: Arc<Mutex<Tally>> = Arc::default();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(run_client(url.clone(), tally.clone(), stopped.clone()));
        }
        Ok(Self { tally, clients, stop })
    }

    /// Stops the check after the pending requests.
    pub(crate) async fn finish(mut self) -> Tally {
        tokio::time::sleep(TAIL_DURATION).await;
        let _ = self.stop.send(true); // all clients may have exited
        while self.clients.join_next().await.is_some() {}
        std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn run_client(url: Uri, tally: Arc<Mutex<Tally>>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let result = timed_request(&url).await;
        {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.sent += 1;
            if let Err(reason) = result {
                tally.failed += 1;
                tally.first_error.get_or_insert(reason);
            }
        }
        tokio::time::sleep(REQUEST_INTERVAL).await;
    }
}

async fn timed_request(url: &Uri) -> Result<(), String> {
    let response = tokio::time::timeout(REQUEST_TIMEOUT, http::get(url, None, &SUCCESS)).await;
    response.unwrap_or_else(|_| Err(format!("no response within {} s", REQUEST_TIMEOUT.as_secs())))
}

impl Tally {
    /// Makes an error of failed requests.
    pub(crate) fn into_result(self) -> Result<(), Error> {
        match self {
            Self { failed: 0, .. } => Ok(()),
            Self { sent, failed, first_error } => {
                Err(Error::VerifyRequestsFailed { sent, failed, first: first_error.unwrap_or_default() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_http_urls_only() {
        assert!(parse_url("http://127.0.0.1:3000/health?x=1").is_ok());
        for invalid in ["https://127.0.0.1/", "127.0.0.1:3000", "/health", "http://", "ftp://x/", ""] {
            assert!(parse_url(invalid).is_err(), "{invalid}");
        }
    }
}
