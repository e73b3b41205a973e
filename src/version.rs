//! The version of this binary.

/// Contiguous in the binary, so that upgrade tests can create a copy with another version.
static STAMP: &str = concat!("rsm-version=", env!("CARGO_PKG_VERSION"));

/// The version of this binary, `1.2.3`.
pub fn version() -> &'static str {
    // Without `black_box` the compiler would store a second copy, without the prefix.
    std::hint::black_box(STAMP).trim_start_matches("rsm-version=")
}
