//! Query strings: written by the client, and read strictly by the server.

use std::fmt::Write as _;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema};

use super::request::{ApiError, DescribeQuery, LogQuery, Selectors, invalid};

/// All that a URL may contain unescaped (RFC 3986, "unreserved").
pub(super) const PATH_ENCODE_SET: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A query, decoded.
pub(super) struct Query(Vec<(String, String)>);

/// A request that is written as a query.
pub(super) trait QueryString: Sized {
    /// All parameters, with defaults.
    fn parameters() -> Vec<QueryParameter>;

    /// `?select=a&select=b`; defaults, too, because they may differ between versions.
    fn encode(&self) -> String;

    /// Reads the values.
    ///
    /// # Errors
    /// A parameter is unknown, missing or invalid.
    fn decode(query: &Query) -> Result<Self, ApiError>;
}

/// A parameter, for the API document.
pub(super) struct QueryParameter {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
    /// JSON.
    pub(super) default: Option<&'static str>,
    pub(super) is_required: bool,
}

fn parameter<T: JsonSchema>(
    name: &'static str,
    default: Option<&'static str>,
    description: &'static str,
) -> QueryParameter {
    let schema = |generator: &mut SchemaGenerator| generator.subschema_for::<T>();
    QueryParameter { name, description, schema, default, is_required: false }
}

const SELECT: &str = "An id, a name, a namespace, `/regex/` or `all`; may be repeated.";

impl QueryString for DescribeQuery {
    fn parameters() -> Vec<QueryParameter> {
        let select = parameter::<Selectors>("select", None, SELECT);
        vec![
            QueryParameter { is_required: true, ..select },
            parameter::<bool>("env", Some("false"), "Include the values of environment variables."),
        ]
    }

    fn encode(&self) -> String {
        let mut text = encode_selectors(&self.select);
        if self.env {
            push_pair(&mut text, "env", "true");
        }
        text
    }

    /// At least one `select`, so that a forgotten one does not mean all.
    fn decode(query: &Query) -> Result<Self, ApiError> {
        let mut read = Self::default();
        for (key, text) in &query.0 {
            match key.as_str() {
                "select" => read.select.push(text.clone()),
                "env" => read.env = parse_value(key, text)?,
                _ => return Err(unknown_parameter::<Self>(key)),
            }
        }
        if read.select.is_empty() {
            return Err(invalid("missing parameter `select`".into()).hint("use ?select=NAME or ?select=all"));
        }
        Ok(read)
    }
}

impl QueryString for LogQuery {
    fn parameters() -> Vec<QueryParameter> {
        vec![
            parameter::<Selectors>("select", Some("[]"), SELECT),
            parameter::<usize>("lines", Some("15"), "Number of recent lines per stream."),
            parameter::<bool>("follow", Some("false"), "Follow new lines."),
            parameter::<bool>("out", Some("true"), "Standard output."),
            parameter::<bool>("err", Some("true"), "Standard error."),
            parameter::<u64>("since", None, "Start time, in milliseconds since the epoch."),
            parameter::<u64>("until", None, "End time, in milliseconds since the epoch."),
            parameter::<String>("grep", None, "Only lines that match this regular expression."),
        ]
    }

    fn encode(&self) -> String {
        // Positions may be too many for a URL: they are for requests with a body.
        let Self { select, lines, follow, out, err, since, until, grep, positions: _ } = self;
        let mut text = encode_selectors(select);
        push_pair(&mut text, "lines", &lines.to_string());
        for (key, value) in [("follow", follow), ("out", out), ("err", err)] {
            push_pair(&mut text, key, &value.to_string());
        }
        for (key, value) in [("since", since), ("until", until)] {
            value.iter().for_each(|value| push_pair(&mut text, key, &value.to_string()));
        }
        grep.iter().for_each(|pattern| push_pair(&mut text, "grep", pattern));
        text
    }

    fn decode(query: &Query) -> Result<Self, ApiError> {
        let mut read = Self::default();
        for (key, text) in &query.0 {
            match key.as_str() {
                "select" => read.select.push(text.clone()),
                "lines" => read.lines = parse_value(key, text)?,
                "follow" => read.follow = parse_value(key, text)?,
                "out" => read.out = parse_value(key, text)?,
                "err" => read.err = parse_value(key, text)?,
                "since" => read.since = Some(parse_value(key, text)?),
                "until" => read.until = Some(parse_value(key, text)?),
                "grep" => read.grep = Some(text.clone()),
                _ => return Err(unknown_parameter::<Self>(key)),
            }
        }
        Ok(read)
    }
}

fn encode_selectors(select: &[String]) -> String {
    let mut text = String::new();
    select.iter().for_each(|selector| push_pair(&mut text, "select", selector));
    text
}

fn push_pair(text: &mut String, key: &str, value: &str) {
    let separator = if text.is_empty() { '?' } else { '&' };
    let value = utf8_percent_encode(value, PATH_ENCODE_SET);
    let _ = write!(text, "{separator}{key}={value}"); // writing to a String does not fail
}

/// `%2F` → `/`.
pub(super) fn percent_decode(text: &str) -> Result<String, ApiError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid(format!("invalid UTF-8 in URL: \"{text}\"")))
}

/// Reads one value; `name` is for the error.
pub(super) fn parse_value<T: FromStr>(name: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| invalid(format!("invalid {name} \"{text}\"")))
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        // Forms encode a space as `+`, and so do the URL builders of most languages.
        let decode = |part: &str| percent_decode(&part.replace('+', " "));
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(pair);
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// For paths without parameters.
    pub(super) fn expect_empty(&self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(invalid(format!("unknown parameter \"{key}\""))),
        }
    }
}

fn unknown_parameter<T: QueryString>(key: &str) -> ApiError {
    let known: Vec<&str> = T::parameters().iter().map(|parameter| parameter.name).collect();
    invalid(format!("unknown parameter \"{key}\"; expected one of {}", known.join(", ")))
}
