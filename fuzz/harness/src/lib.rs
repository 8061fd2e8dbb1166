//! The bodies of the fuzz targets, one module each, run for a second by the ordinary tests.

mod native_unit;

pub use native_unit::native_unit;
