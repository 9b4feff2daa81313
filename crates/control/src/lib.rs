//! The control plane: topology, epochs and membership in a small store.
