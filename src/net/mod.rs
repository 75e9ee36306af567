//! Connections: what a [`Protocol`] is, the [`Transport`] it talks through, and listening for TCP.

mod protocol;
mod tcp;
mod transport;

pub use protocol::{ConnectionLost, Factory, Protocol};
pub use tcp::{CannotListen, ListenAddr, ListeningPort};
pub use transport::{Address, Transport};
