//! The PC that the example VMMs share: composition only.
