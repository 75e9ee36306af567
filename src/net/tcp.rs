//! TCP: listening ports and the driver of a connection.
//!
//! Rules kept here:
//! - The driver owns the socket and the protocol and is the only one that calls either. The protocol is taken out of its cell
//!   while it runs, so it may do anything to its own transport.
//! - Everything that ends a connection ends it in [`Connection::settle`] or from the loop, never inside a protocol method.
//! - One read per readiness; who has more waits for the next turn.
//! - The accept loop cannot die: an error is logged, and accepting goes on.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, SockRef, Socket, Type};

use crate::clock::Clock;
use crate::deferred::Deferred;
use crate::failure::{Failure, Result, guard};
use crate::net::protocol::{ConnectionLost, Factory, Protocol};
use crate::net::transport::{Address, Endpoint, HIGH_WATER, Input, Outbox, Output, Transport};
use crate::reactor::Reactor;
use crate::reactor::poller::{Readiness, Wants};
use crate::reactor::{Handler, Key};

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
        let listener = bind_first(&addr)?;
        let local = listener.local_addr().map_err(|error| addr.cannot_listen(error))?;
        let port = Rc::new(Port {
            reactor: self.clone(),
            key: Cell::new(None),
            listener: RefCell::new(Some(listener)),
            resting: Cell::new(false),
            factory: Rc::new(factory),
            local,
        });
        port.start().map_err(|error| addr.cannot_listen(error))?;
        log::info!(target: "dosimeter::net", "listening on {local}");
        Ok(ListeningPort { control: port, local })
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
        CannotListen { addr: self.to_string(), source }
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

impl fmt::Display for CannotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on TCP {}: {}", self.addr, self.source)
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

struct Port<F> {
    reactor: Reactor,
    key: Cell<Option<Key>>,
    listener: RefCell<Option<TcpListener>>,
    /// Accepting has failed and is tried again by time, not for each new client.
    resting: Cell<bool>,
    factory: Rc<F>,
    local: SocketAddr,
}

impl<F: Factory> Port<F> {
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
                Ok((socket, peer)) => self.welcome(socket, canonical(peer)),
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

    fn welcome(&self, socket: TcpStream, peer: SocketAddr) {
        // Only a socket that is gone already refuses this, and reading will tell.
        let _ = socket.set_nodelay(true);
        match guard(|| self.factory.build_protocol(&Address::Inet(peer))) {
            Ok(Some(protocol)) => Connection::start(&self.reactor, socket, peer, protocol),
            Ok(None) => {}
            Err(failure) => {
                log::error!(target: "dosimeter::net", "no protocol for {peer}: {}", failure.report());
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

impl<F: Factory> Handler for Port<F> {
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

impl<F: Factory> PortControl for Port<F> {
    fn stop(&self) -> Deferred<()> {
        self.close();
        let (completer, deferred) = Deferred::pair();
        self.reactor.call_soon(move || completer.callback(()));
        deferred
    }
}

fn bind_first(addr: &impl ListenAddr) -> Result<TcpListener, CannotListen> {
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

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if addr.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    // A server that is started again must not wait for its old connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// The driver of one connection.
struct Connection<P> {
    reactor: Reactor,
    key: Cell<Option<Key>>,
    socket: RefCell<Option<TcpStream>>,
    /// Absent while one of its methods runs, and after the end.
    protocol: Cell<Option<P>>,
    outbox: Outbox,
    peer: Peer,
    /// The error of the protocol that is to be the reason of the end.
    failure: Cell<Option<Failure>>,
}

impl<P: Protocol> Connection<P> {
    fn start(reactor: &Reactor, socket: TcpStream, peer: SocketAddr, protocol: P) {
        let connection = Rc::new(Connection {
            reactor: reactor.clone(),
            key: Cell::new(None),
            socket: RefCell::new(Some(socket)),
            protocol: Cell::new(Some(protocol)),
            outbox: Outbox::new(),
            peer: Peer::new(peer),
            failure: Cell::new(None),
        });
        match connection.register() {
            Ok(key) => {
                connection.key.set(Some(key));
                connection.outbox.update(|state| state.scheduled = true);
                connection.call(P::connection_made);
                connection.settle();
            }
            Err(error) => {
                log::error!(target: "dosimeter::net", "cannot watch the connection from {peer}: {error}");
            }
        }
    }

    fn register(self: &Rc<Self>) -> io::Result<Key> {
        let mut socket = self.socket.borrow_mut();
        let socket = socket.as_mut().expect("a new connection has its socket");
        self.reactor.add_source(socket, self.clone(), Wants::Reading)
    }

    /// Calls a method of the protocol. An error in it ends the connection once everything written has been sent.
    fn call(self: &Rc<Self>, method: impl FnOnce(&mut P, &Transport) -> Result<()>) {
        let Some(mut protocol) = self.protocol.take() else { return };
        let transport = Transport::new(self.clone());
        let outcome = guard(|| method(&mut protocol, &transport)).flatten();
        self.protocol.set(Some(protocol));
        if let Err(failure) = outcome {
            self.reactor.count_panic(&failure);
            log::error!(target: "dosimeter::net", "the protocol of {} failed: {}", self.peer.addr(), failure.report());
            self.failure.set(Some(failure));
            self.outbox.update(|state| state.losing = true);
        }
    }

    /// Reads once.
    fn receive(self: &Rc<Self>) {
        let state = self.outbox.state();
        if !state.reads(self.outbox.unsent()) {
            self.outbox.update(|state| state.unread = true);
            return;
        }
        let again = self.reactor.buffers().with_read_buffer(|buffer| match self.read(buffer) {
            // Poll repeats itself when the interest in writing changes.
            Ok(0) if state.input == Input::Ended => false,
            Ok(0) => {
                self.outbox.update(|state| state.input = Input::Ended);
                self.call(P::read_connection_lost);
                false
            }
            Ok(count) => {
                self.call(|protocol, transport| protocol.data_received(transport, &buffer[..count]));
                state.input == Input::Ending || count == buffer.len()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => {
                self.finish(ConnectionLost::Io(error));
                false
            }
        });
        if again {
            self.read_in_the_next_turn();
        }
    }

    fn read_in_the_next_turn(&self) {
        if !self.outbox.state().queued
            && let Some(key) = self.key.get()
        {
            self.outbox.update(|state| state.queued = true);
            self.reactor.ready_again(key);
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let socket = self.socket.borrow();
        let Some(mut socket) = socket.as_ref() else { return Err(ErrorKind::WouldBlock.into()) };
        loop {
            match socket.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    /// Does what the protocol left to be done.
    fn settle(self: &Rc<Self>) {
        self.outbox.update(|state| state.scheduled = false);
        let state = self.outbox.state();
        if !state.open {
            return;
        }
        if state.aborted {
            return self.reset();
        }
        if self.outbox.unsent() > HIGH_WATER {
            // Before sending: who was told of congestion is told of its end, also when the system takes everything at once.
            self.outbox.update(|state| state.congested = true);
        }
        match self.send() {
            Err(error) => self.finish(ConnectionLost::Io(error)),
            Ok(true) if state.losing => self.finish(ConnectionLost::Done),
            Ok(true) if state.output == Output::Closing => self.half_close(),
            Ok(everything) => {
                self.mind_congestion(everything);
                self.read_what_was_left();
            }
        }
    }

    /// Tells the protocol when a peer that was behind has read everything.
    fn mind_congestion(self: &Rc<Self>, everything: bool) {
        if everything && self.outbox.state().congested {
            self.outbox.update(|state| (state.congested, state.scheduled) = (false, true));
            self.call(P::resume_writing);
            // What it wrote goes out with the next flush: sending it from here could go round for ever.
            self.reactor.schedule_flush(self.clone());
        }
    }

    fn send(&self) -> io::Result<bool> {
        let mut socket = self.socket.borrow_mut();
        let Some(socket) = socket.as_mut() else { return Ok(true) };
        let everything = self.outbox.send(&self.reactor, |data| (&*socket).write(data))?;
        let blocked = !everything;
        if blocked != self.outbox.state().blocked
            && let Some(key) = self.key.get()
        {
            let wants = if blocked { Wants::ReadingAndWriting } else { Wants::Reading };
            self.reactor.change_source(socket, key, wants)?;
            self.outbox.update(|state| state.blocked = blocked);
        }
        Ok(everything)
    }

    fn read_what_was_left(&self) {
        let state = self.outbox.state();
        if state.unread && state.reads(self.outbox.unsent()) {
            self.outbox.update(|state| state.unread = false);
            self.read_in_the_next_turn();
        }
    }

    fn half_close(&self) {
        self.outbox.update(|state| state.output = Output::Closed);
        if let Some(socket) = &*self.socket.borrow() {
            // It fails only when the peer is gone, which reading will tell.
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    fn reset(self: &Rc<Self>) {
        if let Some(socket) = &*self.socket.borrow() {
            // Closing with unsent data thrown away is what makes the system send a reset.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
        self.finish(ConnectionLost::Aborted);
    }

    /// The end: tells the protocol, once, and closes the socket. Its own failure, if it had one, is the reason before any
    /// other.
    fn finish(self: &Rc<Self>, reason: ConnectionLost) {
        self.outbox.close();
        if let Some(key) = self.key.take() {
            self.reactor.remove_source(key);
        }
        let Some(mut protocol) = self.protocol.take() else { return };
        let reason = self.failure.take().map_or(reason, ConnectionLost::Failed);
        let transport = Transport::new(self.clone());
        // Dropped inside the guard as well: a protocol's drop is user code.
        let outcome = guard(move || {
            protocol.connection_lost(&transport, reason);
            drop(protocol);
        });
        if let Err(failure) = outcome {
            let report = failure.report();
            log::error!(target: "dosimeter::net", "connection_lost of {} failed: {report}", self.peer.addr());
        }
        self.socket.take();
    }
}

impl<P: Protocol> Handler for Connection<P> {
    fn ready(self: Rc<Self>, readiness: Readiness) {
        // What the protocol writes now goes out below, so nothing need be scheduled.
        self.outbox.update(|state| {
            state.scheduled = true;
            if readiness.closing {
                state.input = state.input.max(Input::Ending);
            }
            state.queued &= !readiness.again;
        });
        // One read a turn: who asked for another one gets it later in this turn.
        if readiness.readable && !self.outbox.state().queued {
            self.receive();
        }
        self.settle();
    }

    fn flush(self: Rc<Self>) {
        self.settle();
    }

    fn shut_down(self: Rc<Self>) {
        self.finish(ConnectionLost::ReactorStopped);
    }
}

impl<P: Protocol> Endpoint for Connection<P> {
    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    fn schedule(self: Rc<Self>) {
        let reactor = self.reactor.clone();
        reactor.schedule_flush(self);
    }

    fn peer_addr(&self) -> Address {
        Address::Inet(self.peer.addr())
    }

    fn local_addr(&self) -> io::Result<Address> {
        match &*self.socket.borrow() {
            Some(socket) => socket.local_addr().map(|addr| Address::Inet(canonical(addr))),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }
}

/// The address of a peer in half the room of a `SocketAddr`, where it is one of IPv4.
enum Peer {
    V4(SocketAddrV4),
    Other(Box<SocketAddr>),
}

impl Peer {
    fn new(addr: SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(addr) => Peer::V4(addr),
            other => Peer::Other(Box::new(other)),
        }
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Peer::V4(addr) => SocketAddr::V4(*addr),
            Peer::Other(addr) => **addr,
        }
    }
}

/// An IPv4 peer of a dual-stack socket as what it is, and not as `::ffff:192.0.2.1`.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

/// Connections that the system keeps for us until they are accepted: a burst of a thousand is no attack.
const BACKLOG: i32 = 1024;

/// After this many new connections the established ones get their turn.
const ACCEPTS_PER_TURN: usize = 100;

/// Long enough not to spin, short enough that clients do not notice.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    /// Ten thousand idle peers are ten thousand of these, the protocol of a word included.
    #[test]
    fn an_idle_connection_is_small() {
        type Word = Box<u8>;
        assert!(size_of::<super::Connection<Word>>() <= 104, "{}", size_of::<super::Connection<Word>>());
    }
}
