//! [`MemorySocket`]: the far end of datagrams.
//!
//! Rules kept here:
//! - What the test sends has been handled, and answered, before the method returns.

use std::fmt;
use std::net::SocketAddr;

use crate::net::packets::{PacketSocket, Packets};
use crate::reactor::Reactor;
use crate::testing::reactor::{MemoryReactor, settle};

/// A UDP socket of the test, on the network of a [`MemoryReactor`]: sends datagrams to what listens there, and gets what is sent
/// back.
///
/// ```
/// use std::net::SocketAddr;
/// use dosimeter::Result;
/// use dosimeter::net::{DatagramProtocol, UdpPort};
/// use dosimeter::testing::MemoryReactor;
///
/// struct Shout;
///
/// impl DatagramProtocol for Shout {
///     fn datagram_received(&mut self, port: &UdpPort, data: &[u8], from: SocketAddr) -> Result<()> {
///         Ok(port.send_to(data.to_ascii_uppercase(), from)?)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let memory = MemoryReactor::new();
/// let port = memory.reactor().listen_udp("10.0.0.1:7", Shout)?;
///
/// let socket = memory.socket(([192, 0, 2, 1], 4000));
/// socket.send_to("hello", port.local_addr());
/// assert_eq!(socket.take(), [(b"HELLO".to_vec(), port.local_addr())]);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "FakeDatagramTransport")]
pub struct MemorySocket {
    socket: PacketSocket,
    reactor: Reactor,
}

impl MemoryReactor {
    /// A UDP socket at `addr`, for the test; port 0 for one that is free.
    ///
    /// # Panics
    /// When the code under test listens there.
    #[track_caller]
    pub fn socket(&self, addr: impl Into<SocketAddr>) -> MemorySocket {
        let (reactor, addr) = (self.reactor().clone(), addr.into());
        let packets = Packets::of(&reactor).expect("a reactor in virtual time has its own network");
        match packets.bind(&reactor, addr, false) {
            Ok(socket) => MemorySocket { socket, reactor },
            Err(error) => panic!("no socket for the test at UDP {addr}: {error}"),
        }
    }
}

impl MemorySocket {
    /// Where it is.
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Sends `data` as one datagram; what comes of it at this time has happened when this returns. Where nobody listens it is
    /// lost.
    ///
    /// # Panics
    /// With more than the 65 507 bytes that a datagram may have.
    #[track_caller]
    pub fn send_to(&self, data: impl AsRef<[u8]>, to: impl Into<SocketAddr>) {
        if let Err(error) = self.socket.send_to(data.as_ref(), to.into()) {
            panic!("the test cannot send: {error}");
        }
        settle(&self.reactor);
    }

    /// Takes the datagrams that have come, each with its sender.
    pub fn take(&self) -> Vec<(Vec<u8>, SocketAddr)> {
        settle(&self.reactor);
        std::iter::from_fn(|| self.socket.take()).collect()
    }
}

impl fmt::Debug for MemorySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySocket").field("local", &self.local_addr()).finish()
    }
}
