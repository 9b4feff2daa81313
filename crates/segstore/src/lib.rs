//! Segments on one disk: hot log, immutable files, manifest, page versions.
