//! Probes of an app: an HTTP request, a TCP connection, or a command.
//!
//! A [`ResolvedProbe`] is a [`ProbeAction`] of a spec with the variables of the instance expanded. A failed
//! probe returns the reason as text.

mod exec;
pub mod http;
mod tcp;

use std::net::Ipv4Addr;
use std::time::Duration;

use hyper::Uri;

pub use self::exec::ExecContext;
use self::http::{Accepted, Extent};
use self::tcp::strip_brackets;
use crate::spec::{EnvVars, ProbeAction};

/// The status codes of a successful HTTP probe.
const SUCCESS: Accepted = Accepted { status: 200..=399, extent: Extent::Head };

/// A probe of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolvedProbe {
    /// Sends a GET request to this URL.
    Http(Uri),
    /// Connects to this host and port.
    Tcp(String, u16),
    /// Runs this shell command.
    Exec(String),
}

impl ResolvedProbe {
    /// Expands the variables of the instance.
    ///
    /// # Errors
    /// A variable is not set, or the result is not a valid address; the error is text.
    pub fn new(action: &ProbeAction, vars: &EnvVars) -> Result<Self, String> {
        match action {
            ProbeAction::Exec(line) => Ok(Self::Exec(line.clone())), // the shell expands variables
            ProbeAction::Http(url) => {
                let url = expand_vars(url, vars)?;
                let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
                match (uri.scheme_str(), uri.host()) {
                    (Some("http"), Some(host)) if !host.is_empty() => Ok(Self::Http(uri)),
                    _ => Err(format!("{url} is not an http:// URL")),
                }
            }
            ProbeAction::Tcp(address) => {
                let address = expand_vars(address, vars)?;
                let (host, port) = address.rsplit_once(':').unwrap_or(("127.0.0.1", &address));
                let port = port.parse().map_err(|_| format!("{address} is not a port or host:port"))?;
                Ok(Self::Tcp(strip_brackets(host).to_owned(), port))
            }
        }
    }

    /// The port it connects to, if any.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Http(uri) => Some(uri.port_u16().unwrap_or(80)),
            Self::Tcp(_, port) => Some(*port),
            Self::Exec(_) => None,
        }
    }

    /// Runs the probe with a timeout. `source` is the source address of connections, if it matters;
    /// `context` applies to commands.
    ///
    /// # Errors
    /// The probe failed; the error is text.
    pub async fn run(
        &self,
        timeout: Duration,
        source: Option<Ipv4Addr>,
        context: &ExecContext,
    ) -> Result<(), String> {
        match self {
            Self::Http(uri) => {
                let result = with_timeout(timeout, http::get(uri, source, &SUCCESS)).await;
                result.map_err(|reason| format!("GET {uri}: {reason}"))
            }
            Self::Tcp(host, port) => {
                let result = with_timeout(timeout, tcp::connect(host, *port, source)).await;
                result.map(drop).map_err(|reason| format!("connect to {host}:{port}: {reason}"))
            }
            Self::Exec(line) => {
                let result = context.run(line, timeout).await;
                result.map_err(|reason| format!("`{line}`: {reason}"))
            }
        }
    }
}

/// Waits for a response no longer than `timeout`.
async fn with_timeout<T>(
    timeout: Duration,
    response: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let elapsed = |_| format!("no response within {} s", timeout.as_secs_f64());
    tokio::time::timeout(timeout, response).await.map_err(elapsed).flatten()
}

/// Replaces `$NAME` and `${NAME}` by variables.
fn expand_vars(text: &str, vars: &EnvVars) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let braced = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, after) = braced.unwrap_or_else(|| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            rest.split_at(end)
        });
        let value = vars.get(name).ok_or_else(|| format!("{text}: variable {name} is not set"))?;
        out.push_str(value);
        rest = after;
    }
    Ok(out + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_variables_of_instance() {
        let vars = EnvVars::from([("PORT".into(), "3001".into()), ("HOST".into(), "127.0.0.1".into())]);
        let resolve = |action: &ProbeAction| ResolvedProbe::new(action, &vars);
        let http = resolve(&ProbeAction::Http("http://${HOST}:$PORT/health?x=1".into())).unwrap();
        assert_eq!(http, ResolvedProbe::Http("http://127.0.0.1:3001/health?x=1".parse().unwrap()));
        assert_eq!(http.port(), Some(3001));
        assert_eq!(
            resolve(&ProbeAction::Tcp("$PORT".into())),
            Ok(ResolvedProbe::Tcp("127.0.0.1".into(), 3001))
        );
        assert_eq!(
            resolve(&ProbeAction::Tcp("[::1]:$PORT".into())),
            Ok(ResolvedProbe::Tcp("::1".into(), 3001))
        );
        assert_eq!(resolve(&ProbeAction::Exec("test $X".into())), Ok(ResolvedProbe::Exec("test $X".into())));
    }

    #[test]
    fn rejects_invalid_addresses() {
        let error = |action: ProbeAction| ResolvedProbe::new(&action, &EnvVars::new()).unwrap_err();
        assert!(error(ProbeAction::Tcp("$PORT".into())).contains("variable PORT is not set"));
        assert!(error(ProbeAction::Tcp("port".into())).contains("not a port"));
        assert!(error(ProbeAction::Http("http:///x".into())).contains("http:///x"));
    }
}
