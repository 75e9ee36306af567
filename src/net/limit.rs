//! [`LimitConnections`]: no more connections than a server can bear, in all and per peer.
//!
//! Rules kept here:
//! - A connection is counted for exactly as long as its protocol lives, so the count comes down on every path.
//! - Who is one too many costs an accept and a close, and no protocol.
//! - What is kept per peer is gone with its last connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use crate::failure::Result;
use crate::net::address::Address;
use crate::net::port::ListeningPort;
use crate::net::protocol::{ConnectionLost, Factory, Protocol};
use crate::net::transport::Transport;

/// A factory that has another one build protocols, and turns away those who are too many.
///
/// At the limit a new connection is closed as soon as it is accepted, before the factory inside is asked. The other way would
/// be to leave it in the queue of the system until there is room; then a peer who may not come in would wait as long as one
/// who may, the queue would fill for all, and a limit per peer could not be had at all.
///
/// A clone is another handle to the same counts: keep one to look at them, or limit several ports together. What is refused is
/// also in the figure `dosimeter_connections_refused_total` of the reactor.
///
/// ```
/// use dosimeter::net::LimitConnections;
/// use dosimeter::testing::{End, MemoryReactor};
/// use dosimeter::web::{Branch, Site};
///
/// # fn main() -> dosimeter::Result<()> {
/// let site = LimitConnections::new(Site::new(Branch::new()), 10_000).per_peer(2);
/// let memory = MemoryReactor::new();
/// let port = memory.reactor().listen_tcp("127.0.0.1:0", site.clone())?;
///
/// let connect = |number: u16| memory.connect_from(([192, 0, 2, 1], 4000 + number), port.local_addr());
/// let clients: Vec<_> = (0..3).map(connect).collect();
/// assert_eq!(clients[2].end(), Some(End::Closed));
/// assert_eq!((site.open(), site.refused()), (2, 1));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "LimitTotalConnectionsFactory")]
pub struct LimitConnections<F>(Rc<Shared<F>>);

struct Shared<F> {
    factory: F,
    total: usize,
    per_peer: Cell<usize>,
    counts: Rc<Counts>,
}

/// What is open, and what was refused.
#[derive(Default)]
struct Counts {
    open: Cell<usize>,
    peers: RefCell<HashMap<IpAddr, usize>>,
    refused: Cell<u64>,
    refused_per_peer: Cell<u64>,
}

impl<F: Factory> LimitConnections<F> {
    /// At most `total` connections at the same time, with protocols that `factory` builds.
    pub fn new(factory: F, total: usize) -> Self {
        LimitConnections(Rc::new(Shared { factory, total, per_peer: Cell::new(usize::MAX), counts: Rc::default() }))
    }

    /// At most `limit` of them from one peer: an IPv4 address, or the 64 bits of an IPv6 address that name a network, because
    /// whoever has one address of it has them all. What comes from this host, by the loopback interface or a UNIX socket, is not
    /// limited by this: it is usually a proxy that speaks for many. One on another host is a peer as any.
    pub fn per_peer(self, limit: usize) -> Self {
        self.0.per_peer.set(limit);
        self
    }

    /// How many connections there are.
    #[doc(alias = "connectionCount")]
    pub fn open(&self) -> usize {
        self.0.counts.open.get()
    }

    /// How many were closed at once so far, for whichever limit.
    pub fn refused(&self) -> u64 {
        self.0.counts.refused.get()
    }

    /// How many of these because their peer had its share.
    pub fn refused_per_peer(&self) -> u64 {
        self.0.counts.refused_per_peer.get()
    }

    /// The factory inside.
    pub fn factory(&self) -> &F {
        &self.0.factory
    }

    /// A place for one more from `peer`, if there is one.
    fn admit(&self, peer: &Address) -> Option<Place> {
        let Shared { total, per_peer, counts, .. } = &*self.0;
        if counts.open.get() >= *total {
            counts.refuse(peer, "there are too many");
            return None;
        }
        let network = peer.socket_addr().map(|addr| addr.ip()).filter(|ip| !ip.is_loopback()).map(network_of);
        if let Some(network) = network {
            let open = counts.peers.borrow().get(&network).copied().unwrap_or(0);
            if open >= per_peer.get() {
                counts.refused_per_peer.set(counts.refused_per_peer.get() + 1);
                counts.refuse(peer, "this peer has its share");
                return None;
            }
            counts.peers.borrow_mut().insert(network, open + 1);
        }
        counts.open.set(counts.open.get() + 1);
        Some(Place { counts: counts.clone(), network })
    }
}

impl<F: Factory> Factory for LimitConnections<F> {
    type Protocol = Limited<F::Protocol>;

    fn build_protocol(&self, peer: &Address) -> Option<Limited<F::Protocol>> {
        // Gives its place back by itself, should there be no protocol after all.
        let place = self.admit(peer)?;
        let protocol = self.0.factory.build_protocol(peer)?;
        Some(Limited { protocol, _place: place })
    }

    fn start_factory(&self) -> Result<()> {
        self.0.factory.start_factory()
    }

    fn stop_factory(&self) -> Result<()> {
        self.0.factory.stop_factory()
    }

    fn listening(&self, port: &ListeningPort<Address>) {
        self.0.factory.listening(port);
    }
}

impl<F> Clone for LimitConnections<F> {
    fn clone(&self) -> Self {
        LimitConnections(self.0.clone())
    }
}

impl<F> fmt::Debug for LimitConnections<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitConnections")
            .field("total", &self.0.total)
            .field("open", &self.0.counts.open.get())
            .field("refused", &self.0.counts.refused.get())
            .finish_non_exhaustive()
    }
}

/// A protocol that takes a place among those of a [`LimitConnections`].
pub struct Limited<P> {
    protocol: P,
    _place: Place,
}

impl<P: Protocol> Protocol for Limited<P> {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.connection_made(transport)
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        self.protocol.data_received(transport, data)
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.read_connection_lost(transport)
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.write_connection_lost(transport)
    }

    fn resume_writing(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.resume_writing(transport)
    }

    fn resume_reading(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.resume_reading(transport)
    }

    fn called_up(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.called_up(transport)
    }

    fn backlog_grown(&mut self, transport: &Transport, bytes: isize) {
        self.protocol.backlog_grown(transport, bytes);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: ConnectionLost) {
        self.protocol.connection_lost(transport, reason);
    }
}

impl<P> fmt::Debug for Limited<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Limited")
    }
}

/// One of the connections that there may be.
struct Place {
    counts: Rc<Counts>,
    network: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.open.set(self.counts.open.get() - 1);
        let Some(network) = self.network else { return };
        let mut peers = self.counts.peers.borrow_mut();
        match peers.get_mut(&network) {
            Some(open) if *open > 1 => *open -= 1,
            _ => _ = peers.remove(&network),
        }
    }
}

impl Counts {
    fn refuse(&self, peer: &Address, why: &str) {
        self.refused.set(self.refused.get() + 1);
        log::debug!(target: "dosimeter::net", "closed the connection from {peer} at once: {why}");
    }
}

/// What counts as one peer.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
