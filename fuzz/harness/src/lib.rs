//! The bodies of the fuzz targets, one module each, run for a second by the ordinary tests.

mod page_walk;

pub use page_walk::page_walk;
