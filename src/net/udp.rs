//! UDP as a program sees it: what a [`DatagramProtocol`] is, and the [`UdpPort`] it talks through.
//!
//! Rules kept here:
//! - A datagram is sent whole, at once, or not at all; nothing is kept back.
//! - What a protocol does to its own socket that concerns it comes back later, from the loop.
//! - What the network tells of a datagram (nobody listens there, there is no route) is an event, never the end of the port.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::rc::Rc;

use socket2::SockRef;

use crate::deferred::{Completer, Deferred};
use crate::failure::Result;
use crate::net::datagram::{DatagramSocket, MulticastInterface, invalid};
use crate::reactor::{Key, Reactor};

/// The handler of the datagrams of one socket, as Twisted's DatagramProtocol.
///
/// ```
/// use std::net::SocketAddr;
/// use dosimeter::Result;
/// use dosimeter::net::{DatagramProtocol, UdpPort};
///
/// struct Shout;
///
/// impl DatagramProtocol for Shout {
///     fn datagram_received(&mut self, port: &UdpPort, data: &[u8], from: SocketAddr) -> Result<()> {
///         log::debug!("{} bytes from {from}", data.len());
///         let _ = port.send_to(data.to_ascii_uppercase(), from);
///         Ok(())
///     }
/// }
/// ```
pub trait DatagramProtocol: 'static {
    /// The socket is open. The place to join groups and to [`connect`](UdpPort::connect); keep a clone of `port` to send
    /// later.
    ///
    /// # Errors
    /// With an error the socket is closed again and [`Reactor::listen_udp`] fails.
    fn start_protocol(&mut self, port: &UdpPort) -> Result<()> {
        let _ = port;
        Ok(())
    }

    /// A datagram came: `data`, which may be empty, from `from`.
    ///
    /// Anybody can put any address into a datagram: an answer that is much larger than its question helps to flood somebody.
    ///
    /// # Errors
    /// An error is logged; the port goes on.
    fn datagram_received(&mut self, port: &UdpPort, data: &[u8], from: SocketAddr) -> Result<()>;

    /// Nobody listens where the port is connected to: the answer to a datagram sent before.
    ///
    /// Only a port that is [connected](UdpPort::connect) is told; it may try again.
    fn connection_refused(&mut self, port: &UdpPort) {
        let _ = port;
    }

    /// The socket is closed. The last call, made once, and never from inside another method.
    fn stop_protocol(&mut self, port: &UdpPort) {
        let _ = port;
    }
}

/// A UDP socket: what a [`DatagramProtocol`] sends through, and what [`Reactor::listen_udp`] returns.
///
/// It is a cheap handle; clone it to keep it. The socket is open until [`stop_listening`](UdpPort::stop_listening) or the end
/// of the reactor's run; dropping handles changes nothing.
#[derive(Clone)]
pub struct UdpPort(Rc<Shared>);

impl UdpPort {
    pub(crate) fn new(shared: Rc<Shared>) -> Self {
        UdpPort(shared)
    }

    /// Sends `data` as one datagram, now.
    ///
    /// UDP promises nothing: success means that the system took it. `to` is an address; a name would have to be looked up first.
    ///
    /// # Errors
    /// `InvalidInput` for an address of the family that this socket does not speak. `WouldBlock` when the system's buffer is
    /// full: the datagram is dropped, as the network itself would drop it. `NotConnected` when the port was stopped. Else what
    /// the system says, such as that the datagram is too long: over IPv4 65 507 bytes are possible, beyond some 1 400 it is
    /// sent in fragments.
    #[doc(alias = "write")]
    pub fn send_to(&self, data: impl AsRef<[u8]>, to: SocketAddr) -> io::Result<()> {
        let (data, to) = (data.as_ref(), self.0.in_our_family(to)?);
        self.0.send(|socket| socket.send_to(data, to))
    }

    /// Sends `data` to where the port is [connected](UdpPort::connect).
    ///
    /// # Errors
    /// As [`send_to`](UdpPort::send_to); `NotConnected` also before `connect`.
    pub fn send(&self, data: impl AsRef<[u8]>) -> io::Result<()> {
        if self.0.remote.get().is_none() {
            return Err(io::Error::new(ErrorKind::NotConnected, "connect the port first, or use send_to"));
        }
        let data = data.as_ref();
        self.0.send(|socket| socket.send(data))
    }

    /// Settles on one peer: [`send`](UdpPort::send) goes there, nothing is received from anybody else, and
    /// [`connection_refused`](DatagramProtocol::connection_refused) tells when nobody listens there.
    ///
    /// # Errors
    /// `AlreadyExists` the second time; `InvalidInput` for the wrong family; else what the system says.
    pub fn connect(&self, to: SocketAddr) -> io::Result<()> {
        if let Some(remote) = self.0.remote.get() {
            return Err(io::Error::new(ErrorKind::AlreadyExists, format!("the port is connected to {remote} already")));
        }
        let target = self.0.in_our_family(to)?;
        self.0.with_socket(|socket| socket.connect(target))?;
        self.0.remote.set(Some(to));
        Ok(())
    }

    /// Gets what is sent to `group` from now on: an IPv4 or IPv6 multicast address. `interface` is the address of the network
    /// interface to listen on, for IPv4, or its number, for IPv6; [`MulticastInterface::Any`] leaves it to the system.
    ///
    /// # Errors
    /// `InvalidInput` when the address is of the wrong family, else what the system says.
    #[doc(alias = "joinGroup")]
    pub fn join_group(&self, group: IpAddr, interface: MulticastInterface) -> io::Result<()> {
        self.0.with_socket(|socket| socket.join(group, interface))
    }

    /// Takes [`join_group`](UdpPort::join_group) back.
    ///
    /// # Errors
    /// When the port is not in the group; as `join_group` otherwise.
    #[doc(alias = "leaveGroup")]
    pub fn leave_group(&self, group: IpAddr, interface: MulticastInterface) -> io::Result<()> {
        self.0.with_socket(|socket| socket.leave(group, interface))
    }

    /// How many routers a multicast datagram may pass; 1, which is this network only, unless set.
    ///
    /// # Errors
    /// What the system says.
    #[doc(alias = "setTTL")]
    pub fn set_multicast_ttl(&self, ttl: u8) -> io::Result<()> {
        self.0.for_each_family(
            |socket| socket.set_multicast_ttl_v4(ttl.into()),
            |socket| socket.set_multicast_hops_v6(ttl.into()),
        )
    }

    /// Whether programs on this host get what this port sends to a group, itself included; they do unless told otherwise.
    ///
    /// # Errors
    /// What the system says.
    #[doc(alias = "setLoopbackMode")]
    pub fn set_multicast_loop(&self, on: bool) -> io::Result<()> {
        self.0.for_each_family(|socket| socket.set_multicast_loop_v4(on), |socket| socket.set_multicast_loop_v6(on))
    }

    /// Whether the port may send to broadcast addresses; it may not unless allowed to.
    ///
    /// # Errors
    /// What the system says.
    #[doc(alias = "setBroadcastAllowed")]
    pub fn set_broadcast(&self, allowed: bool) -> io::Result<()> {
        self.0.with_socket(|socket| socket.option(|socket| socket.set_broadcast(allowed)))
    }

    /// The address it listens on, with the real port where 0 was asked for.
    #[doc(alias = "getHost")]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// The reactor the port belongs to.
    pub fn reactor(&self) -> &Reactor {
        &self.0.reactor
    }

    /// Closes the socket at once; `stop_protocol` is called later, from the loop.
    ///
    /// The chain fires when that is done. Stopping twice is harmless.
    #[doc(alias = "stopListening")]
    pub fn stop_listening(&self) -> Deferred<()> {
        let (completer, stopped) = Deferred::pair();
        if self.0.socket.take().is_some() {
            log::info!(target: "dosimeter::net", "no longer listening on UDP {}", self.0.local);
            self.0.look_again();
        }
        match self.0.key.get() {
            Some(_) => self.0.stopping.borrow_mut().push(completer),
            None => completer.callback(()),
        }
        stopped
    }
}

impl fmt::Debug for UdpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpPort").field("local", &self.0.local).field("remote", &self.0.remote.get()).finish()
    }
}

/// What the handles and the driver of a port have in common.
pub(crate) struct Shared {
    pub(crate) reactor: Reactor,
    /// Until the protocol is told of the end.
    pub(crate) key: Cell<Option<Key>>,
    /// Until the port is stopped.
    pub(crate) socket: RefCell<Option<DatagramSocket>>,
    pub(crate) local: SocketAddr,
    remote: Cell<Option<SocketAddr>>,
    /// Sending found out that nobody listens there; the protocol is to be told.
    pub(crate) refused: Cell<bool>,
    /// To be told when the protocol was.
    pub(crate) stopping: RefCell<Vec<Completer<()>>>,
}

impl Shared {
    pub(crate) fn new(reactor: &Reactor, socket: DatagramSocket) -> io::Result<Self> {
        Ok(Shared {
            reactor: reactor.clone(),
            key: Cell::new(None),
            local: socket.local_addr()?,
            socket: RefCell::new(Some(socket)),
            remote: Cell::new(None),
            refused: Cell::new(false),
            stopping: RefCell::default(),
        })
    }

    pub(crate) fn with_socket<R>(&self, user: impl FnOnce(&DatagramSocket) -> io::Result<R>) -> io::Result<R> {
        match &*self.socket.borrow() {
            Some(socket) => user(socket),
            None => Err(io::Error::new(ErrorKind::NotConnected, "the port was stopped")),
        }
    }

    /// Sets an option that each family has its own of.
    fn for_each_family(
        &self,
        v4: impl FnOnce(SockRef<'_>) -> io::Result<()>,
        v6: impl FnOnce(SockRef<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.with_socket(|socket| {
            if self.local.is_ipv6() {
                socket.option(v6)?;
            }
            if self.speaks_v4() { socket.option(v4) } else { Ok(()) }
        })
    }

    fn send(&self, mut send: impl FnMut(&DatagramSocket) -> io::Result<usize>) -> io::Result<()> {
        loop {
            match self.with_socket(&mut send) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The answer to an earlier datagram. This one was not sent, and would meet the same.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    self.refused.set(true);
                    self.look_again();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Has the driver called before the loop waits again.
    pub(crate) fn look_again(&self) {
        if let Some(key) = self.key.get() {
            self.reactor.ready_again(key);
        }
    }

    /// A socket on all addresses of IPv6 was told to speak IPv4 as well.
    fn speaks_v4(&self) -> bool {
        self.local.is_ipv4() || self.local.ip().is_unspecified()
    }

    /// The address as this socket has to be told it: one that speaks both families knows IPv4 as a part of IPv6.
    fn in_our_family(&self, to: SocketAddr) -> io::Result<SocketAddr> {
        match (self.local, to) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => Ok(to),
            (SocketAddr::V6(_), SocketAddr::V4(to)) if self.speaks_v4() => {
                Ok(SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0).into())
            }
            _ => {
                Err(invalid(&format!("a port on {} cannot reach {to}: listen on an address of its family", self.local)))
            }
        }
    }
}
