//! Harness of the end-to-end suites.
