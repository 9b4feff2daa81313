//! The sans-IO heart: writer, segment, recovery, gossip.
