//! Basic authentication (RFC 7617).

use std::fmt;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

/// The accepted user name and password, encoded as in the header: input from clients is not decoded.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials(String);

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Credentials(hidden)")
    }
}

impl Credentials {
    pub(super) fn new(name: &str, password: &str) -> Self {
        Self(base64(format!("{name}:{password}").as_bytes()))
    }

    /// Whether the request has these credentials.
    pub(super) fn matches(&self, headers: &HeaderMap) -> bool {
        let Some(given) = headers.get(AUTHORIZATION) else { return false };
        let Some((scheme, token)) = given.as_bytes().split_at_checked("Basic ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Basic ") && constant_time_eq(token.trim_ascii(), self.0.as_bytes())
    }
}

/// Compares in a time that depends only on the length of `given`, so that the secret cannot be guessed byte
/// by byte.
fn constant_time_eq(given: &[u8], secret: &[u8]) -> bool {
    let differing = given
        .iter()
        .zip(secret.iter().cycle())
        .fold(u8::from(given.len() != secret.len()), |differing, (a, b)| differing | (a ^ b));
    std::hint::black_box(differing) == 0
}

/// Base64 with the standard alphabet and padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let sextets = [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(bits >> shift & 63) as usize]));
        text.extend(&sextets[..=group.len()]);
        text.extend(std::iter::repeat_n('=', 3 - group.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_rfc_4648() {
        let examples = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, encoded) in examples {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    #[test]
    fn accepts_only_matching_header() {
        let credentials = Credentials::new("Aladdin", "open sesame");
        let matches = |header: &str| {
            credentials.matches(&HeaderMap::from_iter([(AUTHORIZATION, header.parse().unwrap())]))
        };
        assert!(
            matches("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==") && matches("basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
        );
        let wrong = [
            "",
            "Basic",
            "Basic ",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ",
            "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ];
        for header in wrong {
            assert!(!matches(header), "{header}");
        }
        // Twice the secret: all bytes are equal, but not the length.
        assert!(!matches("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert!(!credentials.matches(&HeaderMap::new()));
    }

    #[test]
    fn debug_hides_the_password() {
        assert_eq!(format!("{:?}", Credentials::new("a", "b")), "Credentials(hidden)");
    }
}
