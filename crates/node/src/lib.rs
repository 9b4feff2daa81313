//! The storage node: protocol, segment store and redo behind sockets.
