//! The sockets of stream connections: what the driver and the accept loop ask of them, for TCP and for UNIX.
//!
//! Rules kept here:
//! - No socket blocks. Every one is closed when the process becomes another program.
//! - A peer takes two words: ten thousand idle connections are ten thousand of these.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, SocketAddrV4};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream, UnixStream};
#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::SockFilter;
use socket2::SockRef;

use crate::net::address::Address;
use crate::reactor::poller::Source;

/// A connected stream socket.
pub(crate) trait StreamSocket: Source + 'static {
    /// Whether a peer that resets the connection takes back what it has sent and nobody has read, as TCP has it (RFC 9293,
    /// section 3.10.7.4). Otherwise an error is told of behind the data.
    const RESET_REVOKES_DATA: bool = true;

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    fn write(&self, data: &[u8]) -> io::Result<usize>;

    /// Tells the peer that nothing more comes.
    fn shutdown_write(&self) -> io::Result<()>;

    /// The options of the socket; a connection in memory has none.
    fn options(&self) -> Option<SockRef<'_>>;

    /// What has broken the connection, if anything has and nobody was told.
    fn take_error(&self) -> Option<io::Error> {
        self.options()?.take_error().unwrap_or_else(Some)
    }

    /// From now on closing throws away what was not sent; over TCP the peer sees a reset.
    fn reset_when_closed(&self) {
        if let Some(options) = self.options() {
            // Only a socket that is gone already refuses this.
            let _ = options.set_linger(Some(Duration::ZERO));
        }
    }

    fn local_addr(&self) -> io::Result<Address>;
}

/// A listening stream socket.
pub(crate) trait ListenSocket: Source + 'static {
    /// What it accepts.
    type Stream: StreamSocket;

    fn accept(&self) -> io::Result<(Self::Stream, Peer)>;

    /// Lets nobody else in. Who is in the queue can still be accepted; `true`: others may yet come into it, whose system has
    /// been told that they are welcome.
    ///
    /// It is the socket that is changed, and not this handle of it: nothing for one that another process has as well.
    fn close_door(&self) -> io::Result<bool>;
}

impl StreamSocket for TcpStream {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut &*self, buffer)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut &*self, data)
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn options(&self) -> Option<SockRef<'_>> {
        Some(SockRef::from(self))
    }

    fn local_addr(&self) -> io::Result<Address> {
        TcpStream::local_addr(self).map(|addr| Address::Inet(canonical(addr)))
    }
}

/// Here a "reset" is a peer that has closed without reading all: what it sent before is as good as ever.
impl StreamSocket for UnixStream {
    const RESET_REVOKES_DATA: bool = false;

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut &*self, buffer)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut &*self, data)
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn options(&self) -> Option<SockRef<'_>> {
        Some(SockRef::from(self))
    }

    fn local_addr(&self) -> io::Result<Address> {
        UnixStream::local_addr(self).map(|addr| unix_address(&addr))
    }
}

impl ListenSocket for TcpListener {
    type Stream = TcpStream;

    fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (socket, peer) = TcpListener::accept(self)?;
        Ok((socket, Peer::new(Address::Inet(canonical(peer)))))
    }

    /// A handshake that the system has begun is lost if the socket is closed before it is over, and its client, who may count
    /// as connected by then, gets a reset. So no further ones are begun: their first packet is dropped, as on the way, and the
    /// client tries again a second later, when the socket is closed. Nothing of the kind is known for other systems.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn close_door(&self) -> io::Result<bool> {
        SockRef::from(self).attach_filter(&NO_FIRST_PACKET).map(|()| true)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn close_door(&self) -> io::Result<bool> {
        Ok(false)
    }
}

/// A packet filter (bpf(4)) that drops what has SYN without ACK among its TCP flags, and nothing else. What is accepted inherits
/// it and never gets such a packet.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NO_FIRST_PACKET: [SockFilter; 5] = {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_AT),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};

/// The address of a peer in little room.
pub(crate) enum Peer {
    V4(SocketAddrV4),
    /// A UNIX socket that is bound to no path, as those of clients are.
    Unnamed,
    Other(Box<Address>),
}

impl Peer {
    pub(crate) fn new(addr: Address) -> Self {
        match addr {
            Address::Inet(SocketAddr::V4(addr)) => Peer::V4(addr),
            Address::Unix(None) => Peer::Unnamed,
            other => Peer::Other(Box::new(other)),
        }
    }

    pub(crate) fn address(&self) -> Address {
        match self {
            Peer::V4(addr) => Address::Inet(SocketAddr::V4(*addr)),
            Peer::Unnamed => Address::Unix(None),
            Peer::Other(addr) => (**addr).clone(),
        }
    }
}

/// An IPv4 peer of a dual-stack socket as what it is, and not as `::ffff:192.0.2.1`.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

/// A path, or on Linux a name that begins with a zero byte.
pub(crate) fn unix_address(addr: &std::os::unix::net::SocketAddr) -> Address {
    let path = addr.as_pathname().map(PathBuf::from);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let path = path.or_else(|| {
        #[cfg(target_os = "android")]
        use std::os::android::net::SocketAddrExt;
        #[cfg(target_os = "linux")]
        use std::os::linux::net::SocketAddrExt;
        let name = addr.as_abstract_name()?;
        Some(PathBuf::from(OsString::from_vec([b"\0", name].concat())))
    });
    Address::Unix(path)
}
