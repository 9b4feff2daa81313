//! The `sixfold` binary.
fn main() {}
