//! Placeholder until the parser is in place.
fn main() {}
