//! Whether a client's copy is still good (RFC 9110, section 13): `ETag` and `Last-Modified`.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use hyper::HeaderMap;
use hyper::header::{HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE};
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators {
    /// Strong: it misses only a write in place, within the clock's tick, that keeps the size. The
    /// inode is for trees whose files all bear one date, as reproducible builds make them.
    pub(super) etag: String,
    /// In whole seconds, as HTTP has it.
    modified: Option<Timestamp>,
}

impl Validators {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            etag: format!("\"{:x}-{:x}-{:x}-{:x}\"", file.mtime(), file.mtime_nsec(), file.len(), file.ino()),
            modified: Timestamp::from_second(file.mtime()).ok(),
        }
    }

    /// The date for `Last-Modified`, unless the file's is outside what HTTP can say.
    pub(super) fn last_modified(&self) -> Option<String> {
        DateTimePrinter::new().timestamp_to_rfc9110_string(self.modified.as_ref()?).ok()
    }

    /// Whether the client's copy is this very state. `If-None-Match` alone counts if it is there.
    pub(super) fn fresh(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(IF_NONE_MATCH) {
            let mut tags = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
            return tags.any(|tags| tags.split(',').any(|tag| self.is(tag.trim())));
        }
        let since = text(headers, &IF_MODIFIED_SINCE).and_then(date);
        matches!((self.modified, since), (Some(modified), Some(since)) if modified <= since)
    }

    /// Whether a range may be cut from this state, to go with what the client has.
    pub(super) fn allow_range(&self, headers: &HeaderMap) -> bool {
        match headers.get(IF_RANGE).map(|value| value.to_str()) {
            None => true,
            Some(Ok(tag)) if tag.starts_with('"') => tag == self.etag,
            // Only the very date: a weak tag or an earlier date does not vouch for each byte.
            Some(Ok(text)) => self.modified.is_some() && date(text) == self.modified,
            Some(Err(_)) => false,
        }
    }

    /// Weak comparison, as for `If-None-Match`.
    fn is(&self, tag: &str) -> bool {
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validators() -> Validators {
        let modified = "1994-11-06T08:49:37Z".parse().ok();
        Validators { etag: "\"a-b\"".into(), modified }
    }

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn http_dates() {
        assert_eq!(validators().last_modified().as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    }

    #[test]
    fn a_copy_is_fresh_by_tag_or_date() {
        let fresh = |name, value| validators().fresh(&headers(name, value));
        for tags in ["\"a-b\"", "W/\"a-b\"", "\"x\", \"a-b\"", "*"] {
            assert!(fresh(IF_NONE_MATCH, tags), "{tags}");
        }
        assert!(!fresh(IF_NONE_MATCH, "\"x\"") && !fresh(IF_NONE_MATCH, ""));
        assert!(fresh(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(!fresh(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT"));
        assert!(!fresh(IF_MODIFIED_SINCE, "yesterday"));
        assert!(!validators().fresh(&HeaderMap::new()));
    }

    #[test]
    fn a_tag_outweighs_a_date() {
        let mut both = headers(IF_NONE_MATCH, "\"x\"");
        both.insert(IF_MODIFIED_SINCE, "Sun, 06 Nov 2094 08:49:37 GMT".parse().unwrap());
        assert!(!validators().fresh(&both));
    }

    #[test]
    fn ranges_only_of_the_same_bytes() {
        let allows = |value| validators().allow_range(&headers(IF_RANGE, value));
        assert!(allows("\"a-b\"") && allows("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(!allows("W/\"a-b\"") && !allows("\"x\"") && !allows("Sun, 06 Nov 1994 08:49:38 GMT"));
        assert!(validators().allow_range(&HeaderMap::new()));
    }
}
