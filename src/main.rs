//! The `rsm` command.
fn main() {}
