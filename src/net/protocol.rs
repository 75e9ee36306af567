//! [`Protocol`] and [`Factory`]: what a user writes to handle connections.
//!
//! Rules kept here:
//! - `connection_made` comes first and once, `connection_lost` last and once; no other method runs before, between or after.
//! - An error or a panic in a method ends that connection and nothing else; it is the reason that `connection_lost` gets.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io;
use std::rc::Rc;

use crate::failure::{Failure, Result, guard};
use crate::net::address::Address;
use crate::net::port::ListeningPort;
use crate::net::transport::Transport;

/// The handler of one connection, as Twisted's Protocol.
///
/// ```
/// use dosimeter::Result;
/// use dosimeter::net::{Protocol, Transport};
///
/// struct Echo;
///
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
///         transport.write(data);
///         Ok(())
///     }
/// }
/// ```
pub trait Protocol: 'static {
    /// The connection is there. Keep a clone of `transport` to write to it later.
    ///
    /// # Errors
    /// An error closes the connection.
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        let _ = transport;
        Ok(())
    }

    /// The peer sent `data`: any number of bytes, at least one, cut wherever the network cut them.
    ///
    /// # Errors
    /// An error closes the connection when everything written has been sent.
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()>;

    /// The peer will send nothing more, but may still read.
    ///
    /// Unless told otherwise the connection is closed when everything written has been sent. A protocol that still has
    /// something to say overrides this and closes the connection when it is done. (A connection whose
    /// [writing half](Transport::lose_write_connection) is closed as well is lost by itself: nothing can come any more.)
    ///
    /// # Errors
    /// An error closes the connection when everything written has been sent.
    #[doc(alias = "IHalfCloseableProtocol")]
    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        transport.lose_connection();
        Ok(())
    }

    /// What [`Transport::lose_write_connection`] asked for is done: everything written has been sent, and the peer told that
    /// nothing more comes.
    ///
    /// # Errors
    /// An error closes the connection.
    #[doc(alias = "IHalfCloseableProtocol")]
    fn write_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        let _ = transport;
        Ok(())
    }

    /// Everything written has been sent, after [`Transport::is_congested`] was true.
    ///
    /// # Errors
    /// An error closes the connection.
    #[doc(alias = "resumeProducing")]
    fn resume_writing(&mut self, transport: &Transport) -> Result<()> {
        let _ = transport;
        Ok(())
    }

    /// Reading goes on after [`Transport::pause_reading`]. A protocol that was paused with data in hand uses them now; more
    /// come in a later turn.
    ///
    /// # Errors
    /// An error closes the connection when everything written has been sent.
    fn resume_reading(&mut self, transport: &Transport) -> Result<()> {
        let _ = transport;
        Ok(())
    }

    /// Something has changed that concerns all connections of its factory. What the peer has sent so far was received before.
    #[doc(hidden)]
    fn called_up(&mut self, transport: &Transport) -> Result<()> {
        let _ = transport;
        Ok(())
    }

    /// What the system did not take, when it was last asked to, has grown by so many bytes, or shrunk. For figures: the sum of
    /// these is what waits now, and zero when the connection is gone.
    #[doc(hidden)]
    fn backlog_grown(&mut self, transport: &Transport, bytes: isize) {
        let _ = (transport, bytes);
    }

    /// The connection is gone. Called exactly once, and never from inside another method or a call to the transport.
    fn connection_lost(&mut self, transport: &Transport, reason: ConnectionLost) {
        let _ = (transport, reason);
    }
}

/// Makes the protocol of each connection.
///
/// A closure from the peer's address to a [`Protocol`] is a factory. A factory that turns some peers away is a type:
///
/// ```
/// use dosimeter::net::{Address, Factory, Protocol, Transport};
/// # struct Echo;
/// # impl Protocol for Echo {
/// #     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> dosimeter::Result<()> {
/// #         transport.write(data);
/// #         Ok(())
/// #     }
/// # }
///
/// struct LocalOnly;
///
/// impl Factory for LocalOnly {
///     type Protocol = Echo;
///
///     fn build_protocol(&self, peer: &Address) -> Option<Echo> {
///         peer.socket_addr().is_some_and(|addr| addr.ip().is_loopback()).then_some(Echo)
///     }
/// }
/// ```
#[doc(alias = "forProtocol")]
pub trait Factory: 'static {
    /// What handles a connection.
    type Protocol: Protocol;

    /// The protocol for a connection from `peer`; `None` closes it at once.
    fn build_protocol(&self, peer: &Address) -> Option<Self::Protocol>;

    /// The first port, or the first client, begins to use the factory. The place to open what its protocols share.
    ///
    /// A factory belongs to one port, so this is called when that port begins to listen; where several are to have one,
    /// [`SharedFactory`] counts them.
    ///
    /// # Errors
    /// An error keeps the port from listening, and is part of the [`CannotListen`](crate::net::CannotListen).
    #[doc(alias = "startFactory")]
    #[doc(alias = "doStart")]
    fn start_factory(&self) -> Result<()> {
        Ok(())
    }

    /// The last port or client has stopped using the factory. Its connections may go on.
    ///
    /// # Errors
    /// An error is that of [`ListeningPort::stop_listening`]; when the reactor stops it is logged.
    #[doc(alias = "stopFactory")]
    #[doc(alias = "doStop")]
    fn stop_factory(&self) -> Result<()> {
        Ok(())
    }

    /// `port` has begun to listen for this factory. A factory that wants to close its ports by itself keeps them.
    fn listening(&self, port: &ListeningPort<Address>) {
        let _ = port;
    }
}

impl<F, P> Factory for F
where
    F: Fn(&Address) -> P + 'static,
    P: Protocol,
{
    type Protocol = P;

    fn build_protocol(&self, peer: &Address) -> Option<P> {
        Some(self(peer))
    }
}

/// One factory for several ports: it is started with the first of them and stopped with the last.
///
/// ```
/// use dosimeter::Reactor;
/// use dosimeter::net::SharedFactory;
/// use dosimeter::web::{Branch, Site};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let site = SharedFactory::new(Site::new(Branch::new()));
/// reactor.listen_tcp("127.0.0.1:0", site.clone())?;
/// reactor.listen_tcp("127.0.0.1:0", site)?;
/// # Ok(())
/// # }
/// ```
pub struct SharedFactory<F>(Rc<Sharing<F>>);

struct Sharing<F> {
    factory: F,
    users: Cell<usize>,
}

impl<F: Factory> SharedFactory<F> {
    /// `factory`, to be cloned for each port.
    pub fn new(factory: F) -> Self {
        SharedFactory(Rc::new(Sharing { factory, users: Cell::new(0) }))
    }

    /// The factory itself.
    pub fn get(&self) -> &F {
        &self.0.factory
    }
}

impl<F> Clone for SharedFactory<F> {
    fn clone(&self) -> Self {
        SharedFactory(self.0.clone())
    }
}

impl<F> fmt::Debug for SharedFactory<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFactory").field("users", &self.0.users.get()).finish_non_exhaustive()
    }
}

impl<F: Factory> Factory for SharedFactory<F> {
    type Protocol = F::Protocol;

    fn build_protocol(&self, peer: &Address) -> Option<F::Protocol> {
        self.0.factory.build_protocol(peer)
    }

    /// Counted before the factory is called: it may itself begin to listen, and is not to be started for that again.
    fn start_factory(&self) -> Result<()> {
        let users = &self.0.users;
        users.set(users.get() + 1);
        if users.get() > 1 {
            return Ok(());
        }
        let outcome = guard(|| self.0.factory.start_factory()).flatten();
        outcome.inspect_err(|_| users.set(users.get() - 1))
    }

    fn stop_factory(&self) -> Result<()> {
        let users = &self.0.users;
        let before = users.get();
        users.set(before.saturating_sub(1));
        if before == 1 { self.0.factory.stop_factory() } else { Ok(()) }
    }

    fn listening(&self, port: &ListeningPort<Address>) {
        self.0.factory.listening(port);
    }
}

/// Why a connection ended.
#[doc(alias = "ConnectionDone")]
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectionLost {
    /// It was closed in the orderly way, by either side.
    Done,
    /// This side aborted it.
    Aborted,
    /// The network, or the peer's system, broke it.
    Io(io::Error),
    /// An error or a panic in the protocol; it has been logged.
    Failed(Failure),
    /// The reactor has stopped.
    ReactorStopped,
}

impl fmt::Display for ConnectionLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionLost::Done => f.write_str("the connection was closed"),
            ConnectionLost::Aborted => f.write_str("the connection was aborted"),
            ConnectionLost::Io(error) => write!(f, "the connection was lost: {error}"),
            ConnectionLost::Failed(failure) => write!(f, "the protocol failed: {failure}"),
            ConnectionLost::ReactorStopped => f.write_str("the reactor stopped"),
        }
    }
}

impl Error for ConnectionLost {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ConnectionLost::Io(error) => Some(error),
            _ => None,
        }
    }
}
