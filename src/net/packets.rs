//! Datagrams of a reactor in virtual time: sockets that are memory.
//!
//! Rules kept here:
//! - A socket keeps the contract of the system's: a datagram arrives whole or not at all, who is connected hears nobody else,
//!   and is told when nobody listens there.
//! - Nothing is lost on the way, and the order is that of sending: a test has to be able to rely on something.
//! - Readiness is told through the reactor's list of sources to be called again. Nothing here calls the program.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::{Rc, Weak};

use crate::reactor::{Key, Reactor, WeakReactor};

/// The sockets of one reactor in virtual time.
#[derive(Default)]
pub(crate) struct Packets {
    sockets: RefCell<Vec<Weak<Inner>>>,
    /// The last number that was given to whoever asked for any.
    last_port: Cell<u16>,
}

/// A UDP socket in memory.
pub(crate) struct PacketSocket(Rc<Inner>);

struct Inner {
    network: Rc<Packets>,
    reactor: WeakReactor,
    local: SocketAddr,
    is_shared: bool,
    key: Cell<Option<Key>>,
    waiting: RefCell<VecDeque<Packet>>,
    groups: RefCell<HashSet<IpAddr>>,
    peer: Cell<Option<SocketAddr>>,
    /// Nobody was where something was sent to.
    refused: Cell<bool>,
}

/// What was sent, and by whom.
pub(crate) type Packet = (Vec<u8>, SocketAddr);

impl Packets {
    /// The datagrams of `reactor`, if it is one that has its own network.
    pub(crate) fn of(reactor: &Reactor) -> Option<Rc<Packets>> {
        reactor.is_virtual().then(|| reactor.local(Packets::default))
    }

    /// A socket at `addr`, or at a port that is free; `is_shared`: others may have the same.
    ///
    /// # Errors
    /// When somebody has that port.
    pub(crate) fn bind(
        self: &Rc<Self>,
        reactor: &Reactor,
        addr: SocketAddr,
        is_shared: bool,
    ) -> io::Result<PacketSocket> {
        let port = if addr.port() == 0 { self.free_port() } else { addr.port() };
        let local = SocketAddr::new(addr.ip(), port);
        let is_taken = |other: &Rc<Inner>| is_at(other.local, local) || is_at(local, other.local);
        if self.all().iter().any(|other| is_taken(other) && !(is_shared && other.is_shared)) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let inner = Rc::new(Inner {
            network: self.clone(),
            reactor: reactor.downgrade(),
            local,
            is_shared,
            key: Cell::new(None),
            waiting: RefCell::default(),
            groups: RefCell::default(),
            peer: Cell::new(None),
            refused: Cell::new(false),
        });
        let mut sockets = self.sockets.borrow_mut();
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Rc::downgrade(&inner));
        Ok(PacketSocket(inner))
    }

    fn all(&self) -> Vec<Rc<Inner>> {
        self.sockets.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    fn free_port(&self) -> u16 {
        let next = self.last_port.get().checked_add(1).unwrap_or_default().max(FIRST_FREE_PORT);
        self.last_port.set(next);
        next
    }

    /// Whether it arrived.
    fn deliver(&self, data: &[u8], from: SocketAddr, to: SocketAddr) -> bool {
        let mut arrived = false;
        for socket in self.all().iter().filter(|socket| socket.takes(from, to)) {
            socket.waiting.borrow_mut().push_back((data.to_vec(), from));
            socket.wake();
            arrived = true;
            if !to.ip().is_multicast() {
                break;
            }
        }
        arrived
    }
}

impl PacketSocket {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Under which key the reactor knows it.
    pub(crate) fn register(&self, key: Key) {
        self.0.key.set(Some(key));
        if !self.0.waiting.borrow().is_empty() {
            self.0.wake();
        }
    }

    pub(crate) fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        if data.len() > LONGEST {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the datagram is too long"));
        }
        if !self.0.network.deliver(data, self.0.from(), to) && self.0.peer.get().is_some() {
            self.0.refused.set(true);
            self.0.wake();
        }
        Ok(data.len())
    }

    pub(crate) fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.send_to(data, self.0.peer.get().ok_or(ErrorKind::NotConnected)?)
    }

    pub(crate) fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        if self.0.refused.take() {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let (data, from) = self.take().ok_or(ErrorKind::WouldBlock)?;
        let count = data.len().min(buffer.len());
        buffer[..count].copy_from_slice(&data[..count]);
        Ok((count, from))
    }

    /// What has arrived first and was not taken yet.
    pub(crate) fn take(&self) -> Option<Packet> {
        self.0.waiting.borrow_mut().pop_front()
    }

    pub(crate) fn connect(&self, to: SocketAddr) {
        self.0.peer.set(Some(to));
    }

    pub(crate) fn join(&self, group: IpAddr) -> io::Result<()> {
        if self.0.groups.borrow_mut().insert(group) { Ok(()) } else { Err(ErrorKind::AddrInUse.into()) }
    }

    pub(crate) fn leave(&self, group: IpAddr) -> io::Result<()> {
        if self.0.groups.borrow_mut().remove(&group) { Ok(()) } else { Err(ErrorKind::AddrNotAvailable.into()) }
    }
}

impl Inner {
    fn takes(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let is_meant = match to.ip() {
            group if group.is_multicast() => self.local.port() == to.port() && self.groups.borrow().contains(&group),
            _ => is_at(self.local, to),
        };
        is_meant && self.peer.get().is_none_or(|peer| peer == from)
    }

    /// Where its datagrams come from.
    fn from(&self) -> SocketAddr {
        let ip = match self.local.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.local.port())
    }

    fn wake(&self) {
        if let (Some(key), Some(reactor)) = (self.key.get(), self.reactor.upgrade()) {
            reactor.ready_again(key);
        }
    }
}

/// Whether who listens at `local` hears what is sent to `to`.
fn is_at(local: SocketAddr, to: SocketAddr) -> bool {
    local.port() == to.port() && (local.ip().is_unspecified() || local.ip() == to.ip())
}

/// What IPv4 can carry.
const LONGEST: usize = 65_507;

/// Where the ports begin that no service has of its own.
const FIRST_FREE_PORT: u16 = 49_152;
