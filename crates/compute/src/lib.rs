//! The compute host's daemon: driver between PostgreSQL and the storage nodes, and PostgreSQL's supervisor.
