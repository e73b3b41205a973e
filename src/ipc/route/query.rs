//! The part of a URL after the `?`: written by the client, read strictly by the server.

use std::fmt::Write as _;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::{escape, invalid};
use crate::ipc::message::{ApiError, LogQuery, Selectors};

/// A query, unescaped.
pub(super) struct Query(Vec<(String, String)>);

/// `?select=a&select=b`.
pub(super) fn selected(select: &[String]) -> String {
    let mut text = String::new();
    select.iter().for_each(|selector| add(&mut text, "select", selector));
    text
}

/// All of a log query, defaults too: they may differ between versions.
pub(super) fn of_logs(query: &LogQuery) -> String {
    // With places it goes as a body: they may be many.
    let LogQuery { select, lines, follow, out, err, since, until, grep, places: _ } = query;
    let mut text = selected(select);
    add(&mut text, "lines", &lines.to_string());
    for (key, value) in [("follow", follow), ("out", out), ("err", err)] {
        add(&mut text, key, &value.to_string());
    }
    for (key, value) in [("since", since), ("until", until)] {
        value.iter().for_each(|value| add(&mut text, key, &value.to_string()));
    }
    grep.iter().for_each(|pattern| add(&mut text, "grep", pattern));
    text
}

fn add(text: &mut String, key: &str, value: &str) {
    let mark = if text.is_empty() { '?' } else { '&' };
    let _ = write!(text, "{mark}{key}={}", escape(value)); // a String takes everything
}

/// `%2F` → `/`.
pub(super) fn unescape(text: &str) -> Result<String, ApiError> {
    let unescaped = percent_decode_str(text).decode_utf8();
    unescaped.map(Into::into).map_err(|_| invalid(format!("\"{text}\" in the URL is not UTF-8")))
}

/// Reads one value; `what` names it in the error.
pub(super) fn value<T: FromStr>(what: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| invalid(format!("{what}: \"{text}\" makes no sense here")))
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        // Forms say a space as `+`, and so do most languages' URL builders.
        let plain = |part: &str| unescape(&part.replace('+', " "));
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((plain(key)?, plain(value)?))
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(pair);
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// For the paths that take none.
    pub(super) fn is_empty(&self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(invalid(format!("\"{key}\" is no parameter here; there is none"))),
        }
    }

    /// At least one `select`, so that a forgotten one does not mean all.
    pub(super) fn selectors(&self) -> Result<Selectors, ApiError> {
        let mut select = Selectors::new();
        for (key, value) in &self.0 {
            match key.as_str() {
                "select" => select.push(value.clone()),
                _ => return Err(unknown(key, "select")),
            }
        }
        if select.is_empty() {
            return Err(invalid("select is missing".into())
                .hint("Say which instances: ?select=NAME, or ?select=all for all."));
        }
        Ok(select)
    }

    pub(super) fn logs(&self) -> Result<LogQuery, ApiError> {
        let mut read = LogQuery::default();
        for (key, text) in &self.0 {
            match key.as_str() {
                "select" => read.select.push(text.clone()),
                "lines" => read.lines = value(key, text)?,
                "follow" => read.follow = value(key, text)?,
                "out" => read.out = value(key, text)?,
                "err" => read.err = value(key, text)?,
                "since" => read.since = Some(value(key, text)?),
                "until" => read.until = Some(value(key, text)?),
                "grep" => read.grep = Some(text.clone()),
                _ => return Err(unknown(key, "select, lines, follow, out, err, since, until, grep")),
            }
        }
        Ok(read)
    }
}

fn unknown(key: &str, known: &str) -> ApiError {
    invalid(format!("\"{key}\" is no parameter here; there is {known}"))
}
