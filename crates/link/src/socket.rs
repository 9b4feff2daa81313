//! Socket settings that every connection has, and addresses.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

use crate::error::LinkError;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_COUNT: u32 = 3;
/// A peer that acknowledges nothing for so long is gone.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(12);

/// Small frames leave at once; a peer that vanished without a word is noticed.
pub(crate) fn configure(socket: &impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    let unacknowledged = UNACKNOWLEDGED_MAX.as_millis() as u32;
    sockopt::set_tcp_user_timeout(socket, unacknowledged)?;
    Ok(())
}

/// The first socket address that `host:port` stands for.
///
/// # Errors
/// When it resolves to none.
pub fn resolve(address: &str) -> Result<SocketAddr, LinkError> {
    let bad = |source| LinkError::Address { address: address.to_owned(), source };
    let mut found = address.to_socket_addrs().map_err(bad)?;
    found.next().ok_or_else(|| bad(io::Error::new(io::ErrorKind::NotFound, "no address for it")))
}
