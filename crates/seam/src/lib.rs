//! What the preload library and the compute daemon share: memory layout, presence maps, requests.
