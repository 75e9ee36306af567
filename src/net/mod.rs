//! Connections: what a [`Protocol`] is, the [`Transport`] it talks through, and listening and connecting with TCP and on UNIX
//! sockets; datagrams with UDP.
//!
//! A [`Factory`] makes a `Protocol` for each connection to a [`ListeningPort`]. The protocol gets bytes as the network cut
//! them, writes through the transport, and is told once how the connection ended: [`ConnectionLost`]. What is written goes
//! out when the method returns, in one piece, and is still sent when the connection is then closed with
//! [`lose_connection`](Transport::lose_connection).

mod accept;
mod address;
mod client;
mod connect;
mod connecting;
mod connector;
mod datagram;
mod dial;
mod endpoint;
mod inbox;
mod limit;
mod lines;
mod listen;
pub(crate) mod memory;
mod outbox;
pub(crate) mod packets;
mod port;
mod producer;
mod protocol;
mod race;
mod receiving;
mod reconnect;
mod resolve;
pub(crate) mod socket;
pub(crate) mod stream;
mod strings;
pub mod systemd;
mod tcp;
mod timeout;
mod transport;
mod udp;
mod unix;

pub use address::Address;
pub use client::{CannotConnect, ClientEndpoint, ConnectErrorKind};
pub use connect::IntoClientEndpoint;
pub use connector::{ClientFactory, Connector, ConnectorError, ConnectorState};
pub use datagram::MulticastInterface;
pub use endpoint::{AnyEndpoint, InvalidEndpoint};
pub use limit::{LimitConnections, Limited};
pub use lines::{LineProtocol, LineReceiver, LineTransport};
pub use listen::ServerEndpoint;
pub use port::{CannotListen, ListeningPort};
pub use producer::{Producer, ProducerKind, ProducerRegistered};
pub use protocol::{ConnectionLost, Factory, Protocol, SharedFactory};
pub use reconnect::{Backoff, Reconnecting, Retry};
pub use resolve::Resolver;
pub use strings::{
    Int32, Int32StringReceiver, Netstring, NetstringReceiver, StringFraming, StringProtocol, StringReceiver,
    StringRefused, StringTransport,
};
pub use tcp::{ListenAddr, TcpEndpoint};
pub use timeout::Timeout;
pub use transport::Transport;
pub use udp::{DatagramProtocol, UdpPort};
pub use unix::UnixEndpoint;
