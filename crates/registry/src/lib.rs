//! The control plane's HTTP API as typed values, and its client.
