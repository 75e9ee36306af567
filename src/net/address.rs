//! [`Address`]: where an end of a connection is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// IPv4 or IPv6 address and port.
    Inet(SocketAddr),
    /// UNIX socket; without a path when the end is not bound to one. A path that begins with a zero byte is an abstract name.
    Unix(Option<PathBuf>),
}

impl Address {
    /// The IP address and port, unless this is a UNIX socket.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(addr) => Some(*addr),
            Address::Unix(_) => None,
        }
    }

    /// The path of a UNIX socket that has one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::Unix(path) => path.as_deref(),
            Address::Inet(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Address::Inet(addr)
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from(addr: (I, u16)) -> Self {
        Address::Inet(addr.into())
    }
}

/// `127.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock`, `unix:@abstract`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(addr) => addr.fmt(f),
            Address::Unix(Some(path)) => match path.as_os_str().as_bytes().strip_prefix(b"\0") {
                Some(name) => write!(f, "unix:@{}", name.escape_ascii()),
                None => write!(f, "unix:{}", path.display()),
            },
            Address::Unix(None) => f.write_str("unix:"),
        }
    }
}
