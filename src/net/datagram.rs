//! The sockets of datagrams: the system's, or in virtual time those in memory.
//!
//! Rules kept here:
//! - An address is ours alone unless it is said to be shared: with SO_REUSEADDR another program could open it too and take
//!   the datagrams.
//! - Options that a network in memory has no use for are accepted there: what is tested need not know.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::event::Source;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockRef, Socket, Type};

use crate::net::packets::{PacketSocket, Packets};
use crate::net::socket::canonical;
use crate::net::tcp::ListenAddr;
use crate::reactor::{Key, Reactor};

/// A socket that sends and gets datagrams.
pub(crate) enum DatagramSocket {
    System(UdpSocket),
    Memory(PacketSocket),
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
    /// As the system is told, in IPv4 and in IPv6.
    fn of_family(self, group: IpAddr) -> io::Result<(Ipv4Addr, u32)> {
        match (self, group) {
            (MulticastInterface::Any, _) => Ok((Ipv4Addr::UNSPECIFIED, 0)),
            (MulticastInterface::Address(addr), IpAddr::V4(_)) => Ok((addr, 0)),
            (MulticastInterface::Index(index), IpAddr::V6(_)) => Ok((Ipv4Addr::UNSPECIFIED, index)),
            (MulticastInterface::Index(_), IpAddr::V4(_)) => {
                Err(invalid("for an IPv4 group the interface is named by its address"))
            }
            (MulticastInterface::Address(_), IpAddr::V6(_)) => {
                Err(invalid("for an IPv6 group the interface is named by its number"))
            }
        }
    }
}

impl DatagramSocket {
    /// A socket at the first address that can be had; `is_shared`: others may have it as well.
    pub(crate) fn bind(reactor: &Reactor, addr: &impl ListenAddr, is_shared: bool) -> io::Result<Self> {
        let packets = Packets::of(reactor);
        let mut failed = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for candidate in addr.candidates()? {
            let socket = match &packets {
                Some(packets) => packets.bind(reactor, candidate, is_shared).map(DatagramSocket::Memory),
                None => bind(candidate, is_shared, reactor.shares_ports()).map(DatagramSocket::System),
            };
            match socket {
                Ok(socket) => return Ok(socket),
                // On the other family alone it would look like success, while somebody else gets half of the datagrams.
                Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            DatagramSocket::System(socket) => socket.local_addr(),
            DatagramSocket::Memory(socket) => Ok(socket.local_addr()),
        }
    }

    pub(crate) fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self {
            DatagramSocket::System(socket) => socket.send_to(data, to),
            DatagramSocket::Memory(socket) => socket.send_to(data, canonical(to)),
        }
    }

    pub(crate) fn send(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            DatagramSocket::System(socket) => socket.send(data),
            DatagramSocket::Memory(socket) => socket.send(data),
        }
    }

    pub(crate) fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (count, from) = match self {
            DatagramSocket::System(socket) => socket.recv_from(buffer)?,
            DatagramSocket::Memory(socket) => socket.recv_from(buffer)?,
        };
        Ok((count, canonical(from)))
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<()> {
        match self {
            DatagramSocket::System(socket) => socket.connect(to),
            DatagramSocket::Memory(socket) => {
                socket.connect(canonical(to));
                Ok(())
            }
        }
    }

    pub(crate) fn join(&self, group: IpAddr, interface: MulticastInterface) -> io::Result<()> {
        let interface = interface.of_family(group)?;
        match (self, group) {
            (DatagramSocket::System(socket), IpAddr::V4(group)) => socket.join_multicast_v4(&group, &interface.0),
            (DatagramSocket::System(socket), IpAddr::V6(group)) => socket.join_multicast_v6(&group, interface.1),
            (DatagramSocket::Memory(socket), group) => socket.join(group),
        }
    }

    pub(crate) fn leave(&self, group: IpAddr, interface: MulticastInterface) -> io::Result<()> {
        let interface = interface.of_family(group)?;
        match (self, group) {
            (DatagramSocket::System(socket), IpAddr::V4(group)) => socket.leave_multicast_v4(&group, &interface.0),
            (DatagramSocket::System(socket), IpAddr::V6(group)) => socket.leave_multicast_v6(&group, interface.1),
            (DatagramSocket::Memory(socket), group) => socket.leave(group),
        }
    }

    /// Has `set` set an option.
    pub(crate) fn option(&self, set: impl FnOnce(SockRef<'_>) -> io::Result<()>) -> io::Result<()> {
        match self {
            DatagramSocket::System(socket) => set(SockRef::from(socket)),
            DatagramSocket::Memory(_) => Ok(()),
        }
    }
}

impl Source for DatagramSocket {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            DatagramSocket::System(socket) => socket.register(registry, token, interests),
            DatagramSocket::Memory(socket) => {
                socket.register(Key::from_usize(token.0));
                Ok(())
            }
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            DatagramSocket::System(socket) => socket.reregister(registry, token, interests),
            DatagramSocket::Memory(_) => Ok(()),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            DatagramSocket::System(socket) => socket.deregister(registry),
            DatagramSocket::Memory(_) => Ok(()),
        }
    }
}

/// `reuse_port`: the reactors of several cores share the address, and the system spreads senders over them.
fn bind(addr: SocketAddr, is_shared: bool, reuse_port: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
    if addr.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(is_shared)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

pub(crate) fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what)
}
