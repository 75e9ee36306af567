//! What a client says and is told: [`ClientEndpoint`], where to connect and how, and [`CannotConnect`], why it did not work.
//!
//! Rules kept here:
//! - Nothing in this file connects. An endpoint is a value: it can be kept, cloned and used again, as a reconnecting client
//!   does.
//! - Whatever goes wrong with an attempt is one type, with a kind from a closed set, the place, and the system's reason where
//!   it has one.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::{Clock, Timers};
use crate::failure::Failure;
use crate::reactor::Reactor;

/// Where to connect, and how.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::net::ClientEndpoint;
///
/// let endpoint = ClientEndpoint::tcp("example.org:80").timeout(Duration::from_secs(5));
/// assert_eq!(endpoint.to_string(), "TCP example.org:80");
/// ```
#[doc(alias = "HostnameEndpoint")]
#[doc(alias = "TCP4ClientEndpoint")]
#[doc(alias = "UNIXClientEndpoint")]
#[derive(Debug, Clone)]
pub struct ClientEndpoint {
    pub(crate) place: Place,
    pub(crate) timeout: Duration,
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) nodelay: bool,
    pub(crate) clock: Option<Timers>,
}

/// What to connect to.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Host and port, as they were given.
    Tcp(String),
    Unix(PathBuf),
    /// Text that is no endpoint, and why: told like everything that goes wrong, when it is connected to.
    Invalid {
        text: String,
        problem: String,
    },
}

impl ClientEndpoint {
    /// A TCP port: `"host:port"`, `"192.0.2.1:80"`, `"[2001:db8::1]:80"`, or a `SocketAddr`.
    ///
    /// A text that is none of these is found out by connecting: [`ConnectErrorKind::Address`].
    pub fn tcp(addr: impl fmt::Display) -> Self {
        ClientEndpoint::new(Place::Tcp(addr.to_string()))
    }

    /// A UNIX socket; a path that begins with a zero byte is a name of Linux' abstract namespace.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        ClientEndpoint::new(Place::Unix(path.as_ref().to_owned()))
    }

    pub(crate) fn new(place: Place) -> Self {
        ClientEndpoint { place, timeout: CONNECT_TIMEOUT, bind: None, nodelay: true, clock: None }
    }

    /// How long an attempt may take, the look-up of the name included; 30 s unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The address to connect from; port 0 for any. Only addresses of its family are connected to.
    #[doc(alias = "bindAddress")]
    pub fn bind_address(mut self, addr: SocketAddr) -> Self {
        self.bind = Some(addr);
        self
    }

    /// Whether what is written goes out without waiting for more (`TCP_NODELAY`); it does unless set. A turn's writes go out
    /// in one piece anyway.
    #[doc(alias = "setTcpNoDelay")]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    pub(crate) fn clock_in<'a>(&'a self, reactor: &'a Reactor) -> &'a Timers {
        self.clock.as_ref().unwrap_or_else(|| reactor.timers())
    }

    /// The clock for the timeout and for the pauses between addresses, in place of the reactor's: for tests.
    pub fn clock(mut self, clock: &impl Clock) -> Self {
        self.clock = Some(clock.timers().clone());
        self
    }
}

/// `TCP example.org:80`, `TCP example.org:80 from 192.0.2.1:0`, `unix:/run/x.sock`.
impl fmt::Display for ClientEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(addr) => write!(f, "TCP {addr}")?,
            Place::Unix(path) => write!(f, "unix:{}", path.display())?,
            Place::Invalid { text, .. } => f.write_str(text)?,
        }
        match self.bind {
            Some(addr) => write!(f, " from {addr}"),
            None => Ok(()),
        }
    }
}

/// A connection that was not made, and why.
///
/// ```
/// use dosimeter::net::{CannotConnect, ConnectErrorKind};
///
/// fn is_worth_another_try(error: &CannotConnect) -> bool {
///     !matches!(error.kind(), ConnectErrorKind::Address | ConnectErrorKind::Stopped | ConnectErrorKind::ReactorStopped)
/// }
/// ```
#[doc(alias = "ConnectError")]
#[derive(Debug)]
pub struct CannotConnect {
    kind: ConnectErrorKind,
    /// Display of the endpoint.
    to: String,
    addr: Option<SocketAddr>,
    source: Option<Failure>,
}

/// What kept a connection from being made. In the order of the names in the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// What was given as address is none.
    Address,
    /// The address to connect from could not be had.
    #[doc(alias = "ConnectBindError")]
    Bind,
    /// The factory could not be started.
    Factory,
    /// The name was not found, or could not be looked up.
    #[doc(alias = "DNSLookupError")]
    Lookup,
    /// Anything else; [`io_error`](CannotConnect::io_error) tells.
    Other,
    /// The reactor has stopped.
    ReactorStopped,
    /// The host answers, but nobody listens there; for a UNIX socket also: there is no such path.
    #[doc(alias = "ConnectionRefusedError")]
    Refused,
    /// The program stopped the attempt.
    #[doc(alias = "UserError")]
    Stopped,
    /// It took longer than [`ClientEndpoint::timeout`], or than the system waits, which then has a reason of its own.
    #[doc(alias = "TimeoutError")]
    #[doc(alias = "TCPTimedOutError")]
    TimedOut,
    /// There is no way to that host.
    #[doc(alias = "NoRouteError")]
    Unreachable,
}

impl CannotConnect {
    pub(crate) fn new(kind: ConnectErrorKind, endpoint: &ClientEndpoint) -> Self {
        CannotConnect { kind, to: endpoint.to_string(), addr: None, source: None }
    }

    /// What the system said of connecting to `addr`.
    pub(crate) fn of_system(endpoint: &ClientEndpoint, addr: Option<SocketAddr>, error: io::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::ConnectionRefused => ConnectErrorKind::Refused,
            ErrorKind::NotFound if addr.is_none() => ConnectErrorKind::Refused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
                ConnectErrorKind::Unreachable
            }
            ErrorKind::TimedOut => ConnectErrorKind::TimedOut,
            _ => ConnectErrorKind::Other,
        };
        CannotConnect { addr, ..CannotConnect::new(kind, endpoint).because(error) }
    }

    pub(crate) fn because(mut self, error: impl Into<Failure>) -> Self {
        self.source = Some(error.into());
        self
    }

    /// What kept the connection from being made.
    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    /// The address that was tried, where the attempt came that far. Of several, the one whose failure tells most.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// What the system said, where it was the system that refused.
    #[doc(alias = "osError")]
    pub fn io_error(&self) -> Option<&io::Error> {
        self.source.as_ref()?.downcast_ref()
    }

    fn in_words(&self) -> &'static str {
        match self.kind {
            ConnectErrorKind::Address => "this is no address",
            ConnectErrorKind::Lookup => "the name was not found",
            ConnectErrorKind::Bind => "the address to connect from cannot be had",
            ConnectErrorKind::Refused => "nobody listens there",
            ConnectErrorKind::Unreachable => "there is no way to that host",
            ConnectErrorKind::TimedOut => "it took too long",
            ConnectErrorKind::Stopped => "the attempt was stopped",
            ConnectErrorKind::ReactorStopped => "the reactor has stopped",
            ConnectErrorKind::Factory => "the factory could not be started",
            ConnectErrorKind::Other => "the system refused",
        }
    }
}

/// `cannot connect to TCP example.org:80 (192.0.2.1:80): nobody listens there: Connection refused (os error 111)`.
impl fmt::Display for CannotConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}", self.to)?;
        if let Some(addr) = self.addr.map(|addr| addr.to_string()).filter(|addr| !self.to.contains(addr)) {
            write!(f, " ({addr})")?;
        }
        write!(f, ": {}", self.in_words())?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Error for CannotConnect {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.error() as _)
    }
}

/// A connection that took this long helps nobody who waits for it. Twisted's figure.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
