//! The version of this binary.

/// Stands in the binary as one piece, so that a copy can be given another version for a test of
/// upgrades.
static STAMP: &str = concat!("rsm-version=", env!("CARGO_PKG_VERSION"));

/// The version of this binary, `1.2.3`.
pub fn version() -> &'static str {
    // Opaque to the compiler, which would otherwise keep a copy of the part.
    std::hint::black_box(STAMP).trim_start_matches("rsm-version=")
}
