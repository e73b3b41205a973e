//! Sizes in bytes.

use serde_json::Value;

use crate::config::values::{FromValue, ValueError, expected};

/// A number of bytes, with an optional unit. Units are powers of 1024, as in PM2: `300M`, `300MB` and `300MiB`
/// are equal. In the crate bytesize, `M` and `MB` are powers of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromValue for ByteSize {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let bytes = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => parse(text),
            _ => None,
        };
        match bytes {
            Some(0) => expected("more than 0 bytes (remove the key for no limit)"),
            Some(bytes) => Ok(Self(bytes)),
            None => expected("a size such as \"300M\" or \"1.5G\", or a number of bytes"),
        }
    }
}

/// The number of bytes of a size such as `300M`.
pub fn parse_size(text: &str) -> Option<u64> {
    ByteSize::from_value(&Value::from(text)).ok().map(|size| size.0)
}

schema!(ByteSize, {
    "type": ["string", "integer"],
    "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGgTt]([Ii]?[Bb])?|[Bb])?\s*$",
    "minimum": 1
});

fn parse(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let shift = match text[digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let unit = 1_u64 << shift;
    let (whole, fraction) = text[..digits].split_once('.').unwrap_or((&text[..digits], "0"));
    let whole: u64 = whole.parse().ok()?;
    // Nine decimal places are precise to one byte for units up to a gibibyte.
    let nano: u64 = format!("{:0<9}", fraction).get(..9).filter(|_| !fraction.is_empty())?.parse().ok()?;
    let part = u128::from(nano) * u128::from(unit) / 1_000_000_000;
    whole.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use crate::config::values::size::*;
    use serde_json::json;

    #[test]
    fn accepts_all_size_units() {
        let mib = 1 << 20;
        for (text, bytes) in [
            ("1G", 1024 * mib),
            ("300M", 300 * mib),
            ("300mb", 300 * mib),
            ("300 MiB", 300 * mib),
            ("1.5g", 1536 * mib),
            ("512k", 512 * 1024),
            ("2T", 2 * 1024 * 1024 * mib),
            ("1048576", mib),
            ("10 B", 10),
            ("0.5K", 512),
        ] {
            assert_eq!(ByteSize::from_value(&json!(text)), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(ByteSize::from_value(&json!(4096)), Ok(ByteSize(4096)));
    }

    #[test]
    fn rejects_invalid_sizes() {
        for bad in ["", "G", "1X", "-1M", "1.M", ".5M", "1.2.3M", "1e9", "99999999999G", "1 0M", "nan", "１M"]
        {
            assert!(ByteSize::from_value(&json!(bad)).is_err(), "{bad}");
        }
        for bad in [json!(0), json!(-5), json!(1.5), json!(true), json!("0M"), json!(["1G"])] {
            assert!(ByteSize::from_value(&bad).is_err(), "{bad}");
        }
    }
}
