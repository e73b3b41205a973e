//! Conditional requests (RFC 9110, section 13): `ETag` and `Last-Modified`.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use hyper::HeaderMap;
use hyper::header::{HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE};
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};

/// The validators of one version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators {
    /// Strong: only a write in place within one clock tick that keeps the size goes undetected. The inode
    /// distinguishes files of reproducible builds, which all have the same date.
    pub(super) etag: String,
    /// In whole seconds, as in HTTP.
    modified: Option<Timestamp>,
}

impl Validators {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            etag: format!("\"{:x}-{:x}-{:x}-{:x}\"", file.mtime(), file.mtime_nsec(), file.len(), file.ino()),
            modified: Timestamp::from_second(file.mtime()).ok(),
        }
    }

    /// The value of `Last-Modified`; `None` if HTTP cannot represent the date.
    pub(super) fn last_modified(&self) -> Option<String> {
        DateTimePrinter::new().timestamp_to_rfc9110_string(self.modified.as_ref()?).ok()
    }

    /// Whether the client has this version. `If-None-Match` overrides `If-Modified-Since`.
    pub(super) fn is_not_modified(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(IF_NONE_MATCH) {
            let mut tags = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
            return tags.any(|tags| tags.split(',').any(|tag| self.matches_tag(tag.trim())));
        }
        let since = header_text(headers, &IF_MODIFIED_SINCE).and_then(date);
        matches!((self.modified, since), (Some(modified), Some(since)) if modified <= since)
    }

    /// Whether a range of this version fits the part that the client has (`If-Range`).
    pub(super) fn range_allowed(&self, headers: &HeaderMap) -> bool {
        match headers.get(IF_RANGE).map(|value| value.to_str()) {
            None => true,
            Some(Ok(tag)) if tag.starts_with('"') => tag == self.etag,
            // Only the exact date: a weak tag or another date does not guarantee equal bytes.
            Some(Ok(text)) => self.modified.is_some() && date(text) == self.modified,
            Some(Err(_)) => false,
        }
    }

    /// Weak comparison, as required for `If-None-Match`.
    fn matches_tag(&self, tag: &str) -> bool {
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag
    }
}

fn header_text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
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
    fn formats_http_dates() {
        assert_eq!(validators().last_modified().as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    }

    #[test]
    fn detects_unmodified_file_by_tag_or_date() {
        let not_modified = |name, value| validators().is_not_modified(&headers(name, value));
        for tags in ["\"a-b\"", "W/\"a-b\"", "\"x\", \"a-b\"", "*"] {
            assert!(not_modified(IF_NONE_MATCH, tags), "{tags}");
        }
        assert!(!not_modified(IF_NONE_MATCH, "\"x\"") && !not_modified(IF_NONE_MATCH, ""));
        assert!(not_modified(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(!not_modified(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT"));
        assert!(!not_modified(IF_MODIFIED_SINCE, "yesterday"));
        assert!(!validators().is_not_modified(&HeaderMap::new()));
    }

    #[test]
    fn tag_overrides_date() {
        let mut both = headers(IF_NONE_MATCH, "\"x\"");
        both.insert(IF_MODIFIED_SINCE, "Sun, 06 Nov 2094 08:49:37 GMT".parse().unwrap());
        assert!(!validators().is_not_modified(&both));
    }

    #[test]
    fn allows_range_only_of_same_version() {
        let allows = |value| validators().range_allowed(&headers(IF_RANGE, value));
        assert!(allows("\"a-b\"") && allows("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(!allows("W/\"a-b\"") && !allows("\"x\"") && !allows("Sun, 06 Nov 1994 08:49:38 GMT"));
        assert!(validators().range_allowed(&HeaderMap::new()));
    }
}
