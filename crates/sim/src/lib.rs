//! A deterministic world for the protocol: faults, checkers, scenarios.
