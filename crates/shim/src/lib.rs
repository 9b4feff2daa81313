//! The LD_PRELOAD library: PostgreSQL's file calls, made durable at the quorum and filled from storage.
