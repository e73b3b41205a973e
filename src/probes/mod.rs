//! Asking an app how it is: over HTTP, by a connection, by a command.
//!
//! A [`Question`] is a [`Check`] of a spec with the instance's own variables put in. Each answer is `Ok`, or why
//! it is none, in words that follow what was asked.

mod exec;
mod http;
mod net;

use std::net::Ipv4Addr;
use std::time::Duration;

use hyper::Uri;

pub use self::exec::Shell;
use crate::spec::{Check, Vars};

/// What is asked of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// This address, by a `GET`.
    Http(Uri),
    /// This host and port, by a connection.
    Tcp(String, u16),
    /// This shell line.
    Exec(String),
}

impl Question {
    /// What a check means for an instance with these variables.
    ///
    /// # Errors
    /// A variable is not there, or what comes out is no address; in words.
    pub fn new(check: &Check, vars: &Vars) -> Result<Self, String> {
        match check {
            Check::Exec(line) => Ok(Self::Exec(line.clone())), // the shell does that
            Check::Http(url) => {
                let url = expand(url, vars)?;
                let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
                match (uri.scheme_str(), uri.host()) {
                    (Some("http"), Some(host)) if !host.is_empty() => Ok(Self::Http(uri)),
                    _ => Err(format!("{url} is not an http:// URL")),
                }
            }
            Check::Tcp(address) => {
                let address = expand(address, vars)?;
                let (host, port) = address.rsplit_once(':').unwrap_or(("127.0.0.1", &address));
                let port = port.parse().map_err(|_| format!("{address} is not a port or host:port"))?;
                Ok(Self::Tcp(bare(host).to_owned(), port))
            }
        }
    }

    /// The port it is about, if it is about one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Http(uri) => Some(uri.port_u16().unwrap_or(80)),
            Self::Tcp(_, port) => Some(*port),
            Self::Exec(_) => None,
        }
    }

    /// Asks, and waits for the answer no longer than this. `from`: where connections come from, if that
    /// matters. `shell`: how lines are run.
    ///
    /// # Errors
    /// Why that is not the answer of an app that is well; in words.
    pub async fn ask(&self, timeout: Duration, from: Option<Ipv4Addr>, shell: &Shell) -> Result<(), String> {
        let late = |_| format!("no response within {} s", timeout.as_secs_f64());
        match self {
            Self::Http(uri) => {
                let answer = tokio::time::timeout(timeout, http::ask(uri, from)).await;
                answer.map_err(late).flatten().map_err(|why| format!("GET {uri}: {why}"))
            }
            Self::Tcp(host, port) => {
                let answer = tokio::time::timeout(timeout, net::connect(host, *port, from)).await;
                answer
                    .map_err(late)
                    .flatten()
                    .map(drop)
                    .map_err(|why| format!("connect to {host}:{port}: {why}"))
            }
            Self::Exec(line) => {
                let answer = shell.run(line, timeout).await;
                answer.map_err(|why| format!("`{line}`: {why}"))
            }
        }
    }
}

/// `[::1]` without its brackets.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Puts in variables: `$NAME` or `${NAME}`.
fn expand(text: &str, vars: &Vars) -> Result<String, String> {
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
    fn variables_of_the_instance_are_put_in() {
        let vars = Vars::from([("PORT".into(), "3001".into()), ("HOST".into(), "127.0.0.1".into())]);
        let of = |check: &Check| Question::new(check, &vars);
        let http = of(&Check::Http("http://${HOST}:$PORT/health?x=1".into())).unwrap();
        assert_eq!(http, Question::Http("http://127.0.0.1:3001/health?x=1".parse().unwrap()));
        assert_eq!(http.port(), Some(3001));
        assert_eq!(of(&Check::Tcp("$PORT".into())), Ok(Question::Tcp("127.0.0.1".into(), 3001)));
        assert_eq!(of(&Check::Tcp("[::1]:$PORT".into())), Ok(Question::Tcp("::1".into(), 3001)));
        assert_eq!(of(&Check::Exec("test $X".into())), Ok(Question::Exec("test $X".into())));
    }

    #[test]
    fn what_is_no_address_is_told() {
        let of = |check: Check| Question::new(&check, &Vars::new()).unwrap_err();
        assert!(of(Check::Tcp("$PORT".into())).contains("no variable PORT"));
        assert!(of(Check::Tcp("port".into())).contains("not a port"));
        assert!(of(Check::Http("http:///x".into())).contains("http:///x"));
    }
}
