//! What the benches share. Each `benches/<crate>.rs` answers questions about one crate.
