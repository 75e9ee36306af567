//! TCP: listening ports.
//!
//! Rules kept here:
//! - The accept loop cannot die: an error is logged, and accepting goes on.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use mio::net::TcpListener;
use socket2::{Domain, Socket, Type};

use crate::clock::Clock;
use crate::deferred::Deferred;
use crate::failure::{Result, guard};
use crate::net::memory::Network;
use crate::net::protocol::Factory;
use crate::net::socket::{ListenSocket, Peer};
use crate::net::stream;
use crate::reactor::poller::{Readiness, Wants};
use crate::reactor::{Handler, Key, Reactor};

impl Reactor {
    /// Listens for TCP connections and has `factory` make the protocol of each.
    ///
    /// `addr` is a port number (all interfaces, IPv6 and IPv4 where the host has both), a `SocketAddr`, or `"host:port"`.
    /// Port 0 lets the system choose; [`ListeningPort::local_addr`] tells what it chose. Connections are made with
    /// `TCP_NODELAY`: what is written goes out in one piece anyway, so waiting for more would only add delay.
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
        if let Some(network) = Network::of(self) {
            let (listener, local) = bind_first(&addr, |candidate| network.listen_tcp(self, candidate))?;
            return open_port(self, listener, local, factory).map_err(|error| addr.cannot_listen(error));
        }
        let (listener, local) = bind_first(&addr, bind)?;
        open_port(self, listener, local, factory).map_err(|error| addr.cannot_listen(error))
    }
}

/// What [`Reactor::listen_tcp`] takes for an address: a port number, a `SocketAddr`, or `"host:port"`.
pub trait ListenAddr: fmt::Display {
    /// The addresses to try, in this order, until one can be bound.
    ///
    /// # Errors
    /// When the text is no address, or its host name is not known.
    fn candidates(&self) -> io::Result<Vec<SocketAddr>>;

    #[doc(hidden)]
    fn cannot_listen(&self, source: io::Error) -> CannotListen {
        CannotListen::new(format!("TCP {self}"), source)
    }
}

impl ListenAddr for u16 {
    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![(Ipv6Addr::UNSPECIFIED, *self).into(), (Ipv4Addr::UNSPECIFIED, *self).into()])
    }
}

impl ListenAddr for SocketAddr {
    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![*self])
    }
}

impl ListenAddr for &str {
    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(self.to_socket_addrs()?.collect())
    }
}

impl ListenAddr for String {
    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        self.as_str().candidates()
    }
}

/// An address that could not be listened on.
#[doc(alias = "CannotListenError")]
#[derive(Debug)]
pub struct CannotListen {
    addr: String,
    source: io::Error,
}

impl CannotListen {
    /// `addr` with its protocol: "TCP 127.0.0.1:80".
    pub(crate) fn new(addr: String, source: io::Error) -> Self {
        CannotListen { addr, source }
    }
}

impl fmt::Display for CannotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.addr, self.source)
    }
}

impl Error for CannotListen {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// A listening socket. It listens until [`stop_listening`](ListeningPort::stop_listening) or the end of the reactor's run;
/// dropping this handle changes nothing.
///
/// ```
/// use dosimeter::web::{Branch, Site};
/// use dosimeter::Reactor;
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let port = reactor.listen_tcp("127.0.0.1:0", Site::new(Branch::new()))?;
/// println!("http://{}/", port.local_addr());
/// # assert_ne!(port.local_addr().port(), 0);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "IListeningPort")]
#[derive(Clone)]
pub struct ListeningPort {
    control: Rc<dyn PortControl>,
    local: SocketAddr,
}

impl ListeningPort {
    /// The address it listens on, with the real port where 0 was asked for.
    #[doc(alias = "getHost")]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Closes the socket. Connections that were accepted are untouched.
    ///
    /// The chain fires in a later turn; from then on another socket can listen there. Stopping twice is harmless.
    #[doc(alias = "stopListening")]
    pub fn stop_listening(&self) -> Deferred<()> {
        self.control.stop()
    }
}

impl fmt::Debug for ListeningPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListeningPort").field("local", &self.local).finish()
    }
}

/// A port with its factory's type erased.
trait PortControl {
    fn stop(&self) -> Deferred<()>;
}

struct Port<L, F> {
    reactor: Reactor,
    key: Cell<Option<Key>>,
    listener: RefCell<Option<L>>,
    /// Accepting has failed and is tried again by time, not for each new client.
    resting: Cell<bool>,
    factory: Rc<F>,
    local: SocketAddr,
}

impl<L: ListenSocket, F: Factory> Port<L, F> {
    fn start(self: &Rc<Self>) -> io::Result<()> {
        let mut listener = self.listener.borrow_mut();
        let socket = listener.as_mut().expect("a new port has its socket");
        self.key.set(Some(self.reactor.add_source(socket, self.clone(), Wants::Reading)?));
        Ok(())
    }

    /// Accepts what waits, up to a bound; `true` when there may be more.
    fn accept_some(&self) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            let accepted = match &*self.listener.borrow() {
                Some(listener) => listener.accept(),
                None => return false,
            };
            match accepted {
                Ok((socket, peer)) => self.welcome(socket, peer),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return false,
                    // The peer has left already, or a firewall refuses it; others may wait behind it.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::PermissionDenied => {}
                    _ => {
                        self.accept_later(&error);
                        return false;
                    }
                },
            }
        }
        true
    }

    /// The system lacks descriptors or memory. Poll tells of waiting connections only once, so they are looked at again
    /// by time; trying at once would spin.
    fn accept_later(&self, error: &io::Error) {
        log::error!(target: "dosimeter::net", "cannot accept on {}: {error}; trying again in {ACCEPT_PAUSE:?}", self.local);
        if let Some(key) = self.key.get() {
            self.resting.set(true);
            let reactor = self.reactor.clone();
            self.reactor.call_later(ACCEPT_PAUSE, move || reactor.ready_again(key));
        }
    }

    fn welcome(&self, socket: L::Stream, peer: Peer) {
        let addr = peer.address();
        match guard(|| self.factory.build_protocol(&addr)) {
            Ok(Some(protocol)) => {
                if let Err(error) = stream::start(&self.reactor, socket, peer, protocol, ()) {
                    log::error!(target: "dosimeter::net", "cannot watch the connection from {addr}: {error}");
                }
            }
            Ok(None) => {}
            Err(failure) => {
                log::error!(target: "dosimeter::net", "no protocol for {addr}: {}", failure.report());
            }
        }
    }

    fn close(&self) {
        if self.listener.take().is_some() {
            if let Some(key) = self.key.take() {
                self.reactor.remove_source(key);
            }
            log::info!(target: "dosimeter::net", "no longer listening on {}", self.local);
        }
    }
}

impl<L: ListenSocket, F: Factory> Handler for Port<L, F> {
    fn ready(self: Rc<Self>, readiness: Readiness) {
        if self.resting.get() && !readiness.again {
            return;
        }
        self.resting.set(false);
        if self.accept_some()
            && let Some(key) = self.key.get()
        {
            self.reactor.ready_again(key);
        }
    }

    fn flush(self: Rc<Self>) {}

    fn shut_down(self: Rc<Self>) {
        self.close();
    }
}

impl<L: ListenSocket, F: Factory> PortControl for Port<L, F> {
    fn stop(&self) -> Deferred<()> {
        self.close();
        let (completer, deferred) = Deferred::pair();
        self.reactor.call_soon(move || completer.callback(()));
        deferred
    }
}

fn open_port(
    reactor: &Reactor,
    listener: impl ListenSocket,
    local: SocketAddr,
    factory: impl Factory,
) -> io::Result<ListeningPort> {
    let port = Rc::new(Port {
        reactor: reactor.clone(),
        key: Cell::new(None),
        listener: RefCell::new(Some(listener)),
        resting: Cell::new(false),
        factory: Rc::new(factory),
        local,
    });
    port.start()?;
    log::info!(target: "dosimeter::net", "listening on {local}");
    Ok(ListeningPort { control: port, local })
}

fn bind_first<L>(
    addr: &impl ListenAddr,
    bind: impl Fn(SocketAddr) -> io::Result<(L, SocketAddr)>,
) -> Result<(L, SocketAddr), CannotListen> {
    let mut failed = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for candidate in addr.candidates().map_err(|error| addr.cannot_listen(error))? {
        match bind(candidate) {
            Ok(listener) => return Ok(listener),
            // To listen on the other family alone would look like success, while somebody else answers half of the clients.
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(addr.cannot_listen(error)),
            Err(error) => failed = error,
        }
    }
    Err(addr.cannot_listen(failed))
}

fn bind(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if addr.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    // A server that is started again must not wait for its old connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into());
    let local = listener.local_addr()?;
    Ok((listener, local))
}

/// Connections that the system keeps for us until they are accepted: a burst of a thousand is no attack.
const BACKLOG: i32 = 1024;

/// After this many new connections the established ones get their turn.
const ACCEPTS_PER_TURN: usize = 100;

/// Long enough not to spin, short enough that clients do not notice.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
