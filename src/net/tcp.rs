//! Listening for TCP.
//!
//! Rules kept here:
//! - A port that cannot be had in full cannot be had: to listen on one family alone would look like success, while somebody
//!   else answers half of the clients.
//! - Options are set once, on the listening socket: what is accepted inherits them, at no cost per connection.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use mio::net::TcpListener;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use crate::net::address::{HostPort, parse_host_port};
use crate::net::listen::{self, ServerEndpoint};
use crate::net::memory::Network;
use crate::net::port::{CannotListen, ListeningPort};
use crate::net::protocol::Factory;
use crate::reactor::Reactor;

impl Reactor {
    /// Listens for TCP connections and has `factory` make the protocol of each.
    ///
    /// `addr` is a port number (all interfaces, IPv6 and IPv4 where the host has both), a `SocketAddr`, or `"host:port"`.
    /// Port 0 lets the system choose; [`ListeningPort::local_addr`] tells what it chose. Connections are made with
    /// `TCP_NODELAY`: what is written goes out in one piece anyway, so waiting for more would only add delay.
    /// [`Reactor::listen`] with a [`TcpEndpoint`] has the options.
    ///
    /// ```no_run
    /// use dosimeter::{Reactor, Result};
    /// use dosimeter::net::{Address, Protocol, Transport};
    ///
    /// struct Echo;
    /// impl Protocol for Echo {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
    ///         transport.write(data);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.listen_tcp(7, |_: &Address| Echo)?;
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CannotListen`], with the address and the system's reason.
    #[doc(alias = "listenTCP")]
    pub fn listen_tcp(&self, addr: impl ListenAddr, factory: impl Factory) -> Result<ListeningPort, CannotListen> {
        self.listen(TcpEndpoint::new(addr), factory)
    }
}

/// What [`Reactor::listen_tcp`] takes for an address: a port number, a `SocketAddr`, or `"host:port"`.
///
/// The host of an IPv6 address stands in brackets, with the interface of a link-local one in it: `"[fe80::1%eth0]:80"`.
pub trait ListenAddr: fmt::Display {
    /// The addresses to try, in this order, until one can be bound.
    ///
    /// # Errors
    /// When the text is no address, or its host name is not known.
    fn candidates(&self) -> io::Result<Vec<SocketAddr>>;

    #[doc(hidden)]
    fn place(&self) -> String {
        format!("TCP {self}")
    }
}

impl ListenAddr for u16 {
    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![(Ipv6Addr::UNSPECIFIED, *self).into(), (Ipv4Addr::UNSPECIFIED, *self).into()])
    }

    fn place(&self) -> String {
        format!("TCP port {self} of all interfaces")
    }
}

impl ListenAddr for SocketAddr {
    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![*self])
    }
}

impl ListenAddr for &str {
    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        let invalid = |problem| io::Error::new(ErrorKind::InvalidInput, problem);
        match self.rsplit_once(':') {
            None | Some(("" | "*", _)) => Err(invalid(HOW_TO_WRITE.to_owned())),
            _ => match parse_host_port(self).map_err(invalid)? {
                HostPort::Literal(addr) => Ok(vec![addr]),
                HostPort::Name(host, port) => Ok((host, port).to_socket_addrs()?.collect()),
            },
        }
    }
}

impl ListenAddr for String {
    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        self.as_str().candidates()
    }
}

/// A TCP port to listen on, with options.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::Reactor;
/// use dosimeter::net::TcpEndpoint;
/// use dosimeter::web::{Branch, Site};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let endpoint = TcpEndpoint::new("127.0.0.1:0").keepalive(Duration::from_secs(120));
/// reactor.listen(endpoint, Site::new(Branch::new()))?;
/// # Ok(())
/// # }
/// ```
#[doc(alias = "TCP4ServerEndpoint")]
#[doc(alias = "TCP6ServerEndpoint")]
#[derive(Debug, Clone)]
pub struct TcpEndpoint<A> {
    addr: A,
    options: Options,
}

#[derive(Debug, Clone, Copy)]
struct Options {
    backlog: u32,
    reuse_port: bool,
    only_v6: Option<bool>,
    nodelay: bool,
    keepalive: Option<Duration>,
}

impl<A: ListenAddr> TcpEndpoint<A> {
    /// The same as [`Reactor::listen_tcp`] with `addr`.
    pub fn new(addr: A) -> Self {
        let options = Options { backlog: BACKLOG, reuse_port: false, only_v6: None, nodelay: true, keepalive: None };
        TcpEndpoint { addr, options }
    }

    /// How many connections the system keeps until they are accepted; 1024. The system may know a lower limit of its own.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.options.backlog = connections;
        self
    }

    /// Whether other sockets with this option may listen at the same address (`SO_REUSEPORT`); they may not. The system then
    /// spreads new connections over them, which is how several reactors share a port: those of
    /// [`run_on_cores`](crate::run_on_cores) always have it. When one of them stops, connections that wait for it are reset.
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.options.reuse_port = reuse;
        self
    }

    /// Whether an IPv6 address stands for IPv6 alone. All interfaces (`[::]`) take IPv4 as well unless told otherwise.
    pub fn only_v6(mut self, only: bool) -> Self {
        self.options.only_v6 = Some(only);
        self
    }

    /// Whether what is written is sent without waiting for more (`TCP_NODELAY`); it is.
    /// [`Transport::set_nodelay`](crate::net::Transport::set_nodelay) changes it for one connection.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.options.nodelay = nodelay;
        self
    }

    /// Has the system ask a peer that was silent for `idle` whether it is still there (`SO_KEEPALIVE`); it does not unless told
    /// to. How often it asks before it gives up is the system's: nine times in eleven minutes, on Linux.
    pub fn keepalive(mut self, idle: Duration) -> Self {
        self.options.keepalive = Some(idle);
        self
    }

    fn bind<L>(&self, bind: impl Fn(SocketAddr) -> io::Result<L>) -> Result<L, CannotListen> {
        let nothing = io::Error::new(ErrorKind::NotFound, "the name has no address");
        let mut failed = CannotListen::new(self.addr.place(), nothing);
        let candidates = self.addr.candidates().map_err(|error| CannotListen::new(self.addr.place(), error))?;
        for candidate in candidates {
            match bind(candidate) {
                Ok(listener) => return Ok(listener),
                Err(error) => failed = self.cannot_listen(candidate, error),
            }
            if failed.io_error().kind() == ErrorKind::AddrInUse {
                break;
            }
        }
        Err(failed)
    }

    /// Names the address that a name stood for as well.
    fn cannot_listen(&self, candidate: SocketAddr, error: io::Error) -> CannotListen {
        let place = self.addr.place();
        let is_told = candidate.ip().is_unspecified() || place.ends_with(&candidate.to_string());
        CannotListen::new(if is_told { place } else { format!("{place} ({candidate})") }, error)
    }
}

impl<A: ListenAddr> ServerEndpoint for TcpEndpoint<A> {
    type Addr = SocketAddr;

    fn listen(self, reactor: &Reactor, factory: impl Factory) -> Result<ListeningPort, CannotListen> {
        if let Some(network) = Network::of(reactor) {
            let (listener, local) = self.bind(|candidate| network.listen_tcp(reactor, candidate))?;
            let reactor_again = reactor.clone();
            let reopen = move || network.listen_tcp(&reactor_again, local).map(|(listener, _)| listener);
            return Ok(listen::start(reactor, listener, local.into(), reopen, factory)?.with_addr(local));
        }
        let mut options = self.options;
        options.reuse_port |= reactor.shares_ports();
        let (listener, local) = self.bind(|candidate| {
            let listener = options.bind(candidate)?;
            let local = listener.local_addr()?;
            Ok((listener, local))
        })?;
        Ok(listen::start(reactor, listener, local.into(), move || options.bind(local), factory)?.with_addr(local))
    }
}

/// A listener that was opened elsewhere: by the program, or by who started it.
///
/// It is made non-blocking, and its connections are made with `TCP_NODELAY`. [`stop_listening`](ListeningPort::stop_listening)
/// closes this handle of it; whoever has another one still listens.
///
/// ```
/// use std::net::TcpListener;
/// use dosimeter::Reactor;
/// use dosimeter::web::{Branch, Site};
///
/// # fn main() -> dosimeter::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// // Here a server that was started as root gives its rights away.
/// let reactor = Reactor::new()?;
/// let port = reactor.listen(listener, Site::new(Branch::new()))?;
/// # Ok(())
/// # }
/// ```
impl ServerEndpoint for std::net::TcpListener {
    type Addr = SocketAddr;

    fn listen(self, reactor: &Reactor, factory: impl Factory) -> Result<ListeningPort, CannotListen> {
        let cannot_listen = |error| CannotListen::new("an adopted TCP listener", error);
        let local = self.local_addr().map_err(cannot_listen)?;
        self.set_nonblocking(true).map_err(cannot_listen)?;
        SockRef::from(&self).set_tcp_nodelay(true).map_err(cannot_listen)?;
        keep_unsent_low(&SockRef::from(&self)).map_err(cannot_listen)?;
        let listener = TcpListener::from_std(self);
        Ok(listen::adopt(reactor, listener, local.into(), factory)?.with_addr(local))
    }
}

impl Options {
    fn bind(&self, addr: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        let dual = addr.ip() == Ipv6Addr::UNSPECIFIED;
        if let Some(only_v6) = self.only_v6.or(dual.then_some(false)) {
            socket.set_only_v6(only_v6)?;
        }
        // A server that is started again must not wait for its old connections to be forgotten.
        socket.set_reuse_address(true)?;
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        socket.set_tcp_nodelay(self.nodelay)?;
        keep_unsent_low(&socket)?;
        if let Some(idle) = self.keepalive {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(self.backlog).unwrap_or(i32::MAX))?;
        Ok(TcpListener::from_std(socket.into()))
    }
}

/// Has the system take little more than it can send. It would take megabytes, and then nothing until a slow peer has read a
/// third of them, so that one who reads could not be told from one who does not. Connections have it from their listener.
fn keep_unsent_low(socket: &Socket) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(UNSENT)?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = socket;
    Ok(())
}

/// It asks for more when half of this is left. Files go over the loopback as fast as without it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 128 * 1024;

const HOW_TO_WRITE: &str = "write it as host:port; for all interfaces give the port alone, as a number";

/// Connections that the system keeps for us until they are accepted: a burst of a thousand is no attack.
const BACKLOG: u32 = 1024;
