//! Boots an unmodified Linux.
fn main() {}
