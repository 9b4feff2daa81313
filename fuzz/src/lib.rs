//! What the fuzz targets share: a bound on memory, and inputs that are a record and a page.

pub mod case;
pub mod memory;

pub use case::Case;
pub use memory::within;
