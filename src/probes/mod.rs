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
            ProbeAction::Http(action) => {
                let url = expand_vars(action, vars)?;
                let uri: Uri = url.parse().map_err(|error| format!("{action}: {error}"))?;
                match (uri.scheme_str(), uri.host()) {
                    (Some("http"), Some(host)) if !host.is_empty() => Ok(Self::Http(uri)),
                    _ => Err(format!("{action} is not an http:// URL")),
                }
            }
            ProbeAction::Tcp(action) => {
                let address = expand_vars(action, vars)?;
                let (host, port) = address.rsplit_once(':').unwrap_or(("127.0.0.1", &address));
                let port = port.parse().map_err(|_| format!("{action} is not a port or host:port"))?;
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

    /// Runs the probe with a timeout. `action` is the probe as configured, `source` the source address of
    /// connections, if it matters; `context` applies to commands.
    ///
    /// # Errors
    /// The probe failed; the error is text.
    pub async fn run(
        &self,
        timeout: Duration,
        action: &ProbeAction,
        source: Option<Ipv4Addr>,
        context: &ExecContext,
    ) -> Result<(), String> {
        match self {
            Self::Http(uri) => {
                let result = with_timeout(timeout, http::get(uri, source, &SUCCESS)).await;
                result.map_err(|reason| format!("GET {}: {reason}", public_url(uri, action)))
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

/// A URL for messages: the real host and port, but path and query as configured. The values of variables in them may
/// be secrets, and messages are in logs, events and reports.
fn public_url(uri: &Uri, action: &ProbeAction) -> String {
    let ProbeAction::Http(text) = action else { return String::new() };
    let after_scheme = text.split_once("://").map_or("", |(_, rest)| rest);
    let path = after_scheme.find(['/', '?']).map_or("", |start| &after_scheme[start..]);
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("http://{}{port}{path}", uri.host().unwrap_or_default())
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
    fn messages_contain_no_values_of_variables() {
        let vars = EnvVars::from([("TOKEN".into(), "s3cret".into()), ("PORT".into(), "3001".into())]);
        let label = |text: &str| {
            let action = ProbeAction::Http(text.into());
            match ResolvedProbe::new(&action, &vars) {
                Ok(ResolvedProbe::Http(uri)) => public_url(&uri, &action),
                other => format!("{other:?}"),
            }
        };
        assert_eq!(label("http://localhost:$PORT/up?t=$TOKEN"), "http://localhost:3001/up?t=$TOKEN");
        assert_eq!(label("http://me:$TOKEN@localhost/up"), "http://localhost/up");
        let error = |action: ProbeAction| ResolvedProbe::new(&action, &vars).unwrap_err();
        for action in [ProbeAction::Tcp("$TOKEN".into()), ProbeAction::Http("ftp://$TOKEN/".into())] {
            assert!(!error(action).contains("s3cret"));
        }
    }

    #[test]
    fn rejects_invalid_addresses() {
        let error = |action: ProbeAction| ResolvedProbe::new(&action, &EnvVars::new()).unwrap_err();
        assert!(error(ProbeAction::Tcp("$PORT".into())).contains("variable PORT is not set"));
        assert!(error(ProbeAction::Tcp("port".into())).contains("not a port"));
        assert!(error(ProbeAction::Http("http:///x".into())).contains("http:///x"));
    }
}
