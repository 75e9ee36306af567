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

/// A place to connect to or to listen at, as far as its text tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HostPort {
    Literal(SocketAddr),
    Name(String, u16),
}

/// # Errors
/// What is wrong with the text.
pub(crate) fn parse_host_port(text: &str) -> Result<HostPort, String> {
    if let Ok(addr) = text.parse() {
        return Ok(HostPort::Literal(addr));
    }
    let (host, port) = text.rsplit_once(':').ok_or("write it as host:port")?;
    let port = port.parse().map_err(|_| format!("{port:?} is no port number from 0 to 65535"))?;
    // What is left in brackets has a scope by name, which the system knows.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare.unwrap_or(host) {
        "" => Err("the host is missing; write it as host:port".to_owned()),
        host if bare.is_none() && host.contains([':', '[', ']']) => {
            Err("write an IPv6 address in brackets, as in [::1]:80".to_owned())
        }
        host => Ok(HostPort::Name(host.to_owned(), port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_literal_or_a_name() {
        for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%2]:80"] {
            assert!(matches!(parse_host_port(text), Ok(HostPort::Literal(_))), "{text}");
        }
        for (text, host, port) in [
            ("localhost:80", "localhost", 80),
            ("a.example.org:0", "a.example.org", 0),
            ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ] {
            assert_eq!(parse_host_port(text), Ok(HostPort::Name(host.to_owned(), port)));
        }
    }

    #[test]
    fn what_is_no_place_says_what_to_change() {
        for (text, problem) in [
            ("localhost", "write it as host:port"),
            ("", "write it as host:port"),
            (":80", "the host is missing; write it as host:port"),
            ("localhost:http", "\"http\" is no port number from 0 to 65535"),
            ("localhost:65536", "\"65536\" is no port number from 0 to 65535"),
            ("::1:80", "write an IPv6 address in brackets, as in [::1]:80"),
            ("[::1:80", "write an IPv6 address in brackets, as in [::1]:80"),
        ] {
            assert_eq!(parse_host_port(text), Err(problem.to_owned()), "{text}");
        }
    }
}
