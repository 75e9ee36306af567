//! UDP: sockets that send and get datagrams.
//!
//! Rules kept here:
//! - The port owns the protocol, and no method of it runs inside another one: it is taken out of its cell while it runs, and
//!   what it does to its own socket that concerns it comes back later, from the loop.
//! - A datagram is delivered whole or not at all; nothing is kept back, in either direction.
//! - A flood takes a bounded part of each turn; what is left waits for the next.
//! - What the network tells of a datagram (nobody listens there, there is no route) is an event, never the end of the port.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::rc::Rc;
use std::time::Duration;

use mio::net::UdpSocket;
use socket2::{Domain, SockRef, Socket, Type};

use crate::clock::Clock;
use crate::deferred::{Completer, Deferred};
use crate::failure::{Result, guard};
use crate::net::port::CannotListen;
use crate::net::socket::canonical;
use crate::net::tcp::ListenAddr;
use crate::reactor::poller::{Readiness, Wants};
use crate::reactor::{Handler, Key, Reactor};

impl Reactor {
    /// Opens a UDP socket and gives `protocol` what comes in.
    ///
    /// `addr` is what [`listen_tcp`](Reactor::listen_tcp) takes; a client that only asks and gets answers listens on
    /// `"0.0.0.0:0"` and uses [`UdpPort::connect`]. `start_protocol` is called before this returns.
    ///
    /// ```no_run
    /// use std::net::SocketAddr;
    /// use dosimeter::{Reactor, Result};
    /// use dosimeter::net::{DatagramProtocol, UdpPort};
    ///
    /// struct Echo;
    /// impl DatagramProtocol for Echo {
    ///     fn datagram_received(&mut self, port: &UdpPort, data: &[u8], from: SocketAddr) -> Result<()> {
    ///         // What the system does not take is lost, as it may be on the way.
    ///         let _ = port.send_to(data, from);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.listen_udp(7, Echo)?;
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CannotListen`], with the address and the reason: the system's, or the error of `start_protocol`.
    #[doc(alias = "listenUDP")]
    pub fn listen_udp(&self, addr: impl ListenAddr, protocol: impl DatagramProtocol) -> Result<UdpPort, CannotListen> {
        self.open_udp(addr, protocol, false)
    }

    /// As [`listen_udp`](Reactor::listen_udp), on an address that other sockets may listen on as well.
    ///
    /// That is what a port for multicast needs, where every program of the host is to get every datagram of a group: see
    /// [`UdpPort::join_group`]. A datagram that is sent to one host goes to one of the sockets only.
    ///
    /// # Errors
    /// [`CannotListen`], with the address and the reason: the system's, or the error of `start_protocol`.
    #[doc(alias = "listenMulticast")]
    pub fn listen_multicast(
        &self,
        addr: impl ListenAddr,
        protocol: impl DatagramProtocol,
    ) -> Result<UdpPort, CannotListen> {
        self.open_udp(addr, protocol, true)
    }

    fn open_udp<P: DatagramProtocol>(
        &self,
        addr: impl ListenAddr,
        protocol: P,
        shared: bool,
    ) -> Result<UdpPort, CannotListen> {
        let refused = |error| CannotListen::new(format!("UDP {addr}"), error);
        let socket = bind_first(&addr, shared).map_err(refused)?;
        let local = socket.local_addr().map_err(refused)?;
        let shared = Rc::new(Shared {
            reactor: self.clone(),
            key: Cell::new(None),
            socket: RefCell::new(Some(socket)),
            local,
            remote: Cell::new(None),
            refused: Cell::new(false),
            stopping: RefCell::default(),
        });
        let driver = Rc::new(Driver { shared: shared.clone(), protocol: Cell::new(Some(protocol)) });
        driver.start().map_err(refused)?;
        log::info!(target: "dosimeter::net", "listening on UDP {local}");
        Ok(UdpPort(shared))
    }
}

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
        self.0.with_socket(|socket| match group {
            IpAddr::V4(group) => socket.join_multicast_v4(&group, &interface.v4()?),
            IpAddr::V6(group) => socket.join_multicast_v6(&group, interface.v6()?),
        })
    }

    /// Takes [`join_group`](UdpPort::join_group) back.
    ///
    /// # Errors
    /// When the port is not in the group; as `join_group` otherwise.
    #[doc(alias = "leaveGroup")]
    pub fn leave_group(&self, group: IpAddr, interface: MulticastInterface) -> io::Result<()> {
        self.0.with_socket(|socket| match group {
            IpAddr::V4(group) => socket.leave_multicast_v4(&group, &interface.v4()?),
            IpAddr::V6(group) => socket.leave_multicast_v6(&group, interface.v6()?),
        })
    }

    /// How many routers a multicast datagram may pass; 1, which is this network only, unless set.
    ///
    /// # Errors
    /// What the system says.
    #[doc(alias = "setTTL")]
    pub fn set_multicast_ttl(&self, ttl: u8) -> io::Result<()> {
        self.0.for_each_family(
            |socket| socket.set_multicast_ttl_v4(ttl.into()),
            |socket| SockRef::from(socket).set_multicast_hops_v6(ttl.into()),
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
        self.0.with_socket(|socket| socket.set_broadcast(allowed))
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

/// The network interface for a multicast group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum MulticastInterface {
    /// The one the system chooses by its routes.
    #[default]
    Any,
    /// The one that has this address; for IPv4 groups.
    Address(Ipv4Addr),
    /// The one with this number, as `ip link` shows it; for IPv6 groups.
    Index(u32),
}

impl MulticastInterface {
    fn v4(self) -> io::Result<Ipv4Addr> {
        match self {
            MulticastInterface::Any => Ok(Ipv4Addr::UNSPECIFIED),
            MulticastInterface::Address(addr) => Ok(addr),
            MulticastInterface::Index(_) => Err(invalid("for an IPv4 group the interface is named by its address")),
        }
    }

    fn v6(self) -> io::Result<u32> {
        match self {
            MulticastInterface::Any => Ok(0),
            MulticastInterface::Index(index) => Ok(index),
            MulticastInterface::Address(_) => Err(invalid("for an IPv6 group the interface is named by its number")),
        }
    }
}

/// What the handles and the driver of a port have in common.
struct Shared {
    reactor: Reactor,
    /// Until the protocol is told of the end.
    key: Cell<Option<Key>>,
    /// Until the port is stopped.
    socket: RefCell<Option<UdpSocket>>,
    local: SocketAddr,
    remote: Cell<Option<SocketAddr>>,
    /// Sending found out that nobody listens there; the protocol is to be told.
    refused: Cell<bool>,
    /// To be told when the protocol was.
    stopping: RefCell<Vec<Completer<()>>>,
}

impl Shared {
    fn with_socket<R>(&self, user: impl FnOnce(&UdpSocket) -> io::Result<R>) -> io::Result<R> {
        match &*self.socket.borrow() {
            Some(socket) => user(socket),
            None => Err(io::Error::new(ErrorKind::NotConnected, "the port was stopped")),
        }
    }

    /// Sets an option that each family has its own of.
    fn for_each_family(
        &self,
        v4: impl FnOnce(&UdpSocket) -> io::Result<()>,
        v6: impl FnOnce(&UdpSocket) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.local.is_ipv6() {
            self.with_socket(v6)?;
        }
        if self.speaks_v4() { self.with_socket(v4) } else { Ok(()) }
    }

    fn send(&self, mut send: impl FnMut(&UdpSocket) -> io::Result<usize>) -> io::Result<()> {
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
    fn look_again(&self) {
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

struct Driver<P> {
    shared: Rc<Shared>,
    /// Absent while one of its methods runs, and after the end.
    protocol: Cell<Option<P>>,
}

impl<P: DatagramProtocol> Driver<P> {
    fn start(self: &Rc<Self>) -> io::Result<()> {
        let shared = &self.shared;
        let key = shared.reactor.add_source(
            shared.socket.borrow_mut().as_mut().expect("a new port has its socket"),
            self.clone(),
            Wants::Reading,
        )?;
        shared.key.set(Some(key));
        match self.call(P::start_protocol) {
            Ok(()) => Ok(()),
            Err(failure) => {
                self.close();
                Err(io::Error::other(failure.into_error()))
            }
        }
    }

    fn call(&self, method: impl FnOnce(&mut P, &UdpPort) -> Result<()>) -> Result<()> {
        let Some(mut protocol) = self.protocol.take() else { return Ok(()) };
        let port = UdpPort(self.shared.clone());
        let outcome = guard(|| method(&mut protocol, &port)).flatten();
        self.protocol.set(Some(protocol));
        outcome.inspect_err(|failure| self.shared.reactor.count_panic(failure))
    }

    fn call_logged(&self, method: impl FnOnce(&mut P, &UdpPort) -> Result<()>) {
        if let Err(failure) = self.call(method) {
            failure.log("dosimeter::net", format_args!("the protocol of UDP {} failed", self.shared.local));
        }
    }

    /// Reads until nothing is left or this turn's share is taken; `true` in the latter case.
    fn receive_some(&self) -> bool {
        self.shared.reactor.buffers().with_read_buffer(|buffer| {
            let mut share = BYTES_PER_TURN;
            while share > 0 {
                match self.receive(buffer) {
                    Ok((count, from)) => {
                        self.call_logged(|protocol, port| protocol.datagram_received(port, &buffer[..count], from));
                        share = share.saturating_sub(count.max(LEAST_COST));
                    }
                    Err(error) => match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::NotConnected => return false,
                        ErrorKind::Interrupted => {}
                        ErrorKind::ConnectionRefused => {
                            self.tell_refused();
                            share = share.saturating_sub(LEAST_COST);
                        }
                        _ => {
                            self.receive_later(&error);
                            return false;
                        }
                    },
                }
            }
            true
        })
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (count, from) = self.shared.with_socket(|socket| socket.recv_from(buffer))?;
        Ok((count, canonical(from)))
    }

    fn tell_refused(&self) {
        self.call_logged(|protocol, port| {
            protocol.connection_refused(port);
            Ok(())
        });
    }

    /// What the network says of a datagram sent before is gone once it was read; a lack of memory is not. Nothing is lost by
    /// reading on a little later, and nothing spins.
    fn receive_later(&self, error: &io::Error) {
        log::debug!(target: "dosimeter::net", "cannot receive on UDP {}: {error}", self.shared.local);
        if let Some(key) = self.shared.key.get() {
            let reactor = self.shared.reactor.clone();
            self.shared.reactor.call_later(RECEIVE_PAUSE, move || reactor.ready_again(key));
        }
    }

    /// The end: tells the protocol, once, and then who waits for it.
    fn finish(&self) {
        if self.shared.key.get().is_none() {
            return;
        }
        self.shared.socket.take();
        self.call_logged(|protocol, port| {
            protocol.stop_protocol(port);
            Ok(())
        });
        self.close();
    }

    fn close(&self) {
        self.shared.socket.take();
        if let Some(key) = self.shared.key.take() {
            self.shared.reactor.remove_source(key);
        }
        if let Err(failure) = guard(|| drop(self.protocol.take())) {
            failure.log("dosimeter::net", format_args!("dropping a protocol failed"));
        }
        for completer in self.shared.stopping.take() {
            completer.callback(());
        }
    }
}

impl<P: DatagramProtocol> Handler for Driver<P> {
    fn ready(self: Rc<Self>, _readiness: Readiness) {
        if self.shared.refused.take() {
            self.tell_refused();
        }
        let more = self.receive_some();
        if self.shared.socket.borrow().is_none() {
            self.finish();
        } else if more {
            self.shared.look_again();
        }
    }

    fn flush(self: Rc<Self>) {}

    fn shut_down(self: Rc<Self>) {
        self.finish();
    }
}

fn bind_first(addr: &impl ListenAddr, shared: bool) -> io::Result<UdpSocket> {
    let mut failed = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for candidate in addr.candidates()? {
        match bind(candidate, shared) {
            Ok(socket) => return Ok(socket),
            // On the other family alone it would look like success, while somebody else gets half of the datagrams.
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Without `shared` the address is ours alone: with SO_REUSEADDR another program could open it too and take the datagrams.
fn bind(addr: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
    if addr.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what)
}

/// What a port reads in one turn at the most. Twisted's figure.
const BYTES_PER_TURN: usize = 256 * 1024;

/// What a datagram counts for at the least: a flood of small ones costs by number, not by size.
const LEAST_COST: usize = 2 * 1024;

/// Long enough not to spin, short enough that peers do not notice.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);
