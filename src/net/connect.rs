//! How a program connects: with a factory that is told of everything, or once, with a `Deferred`.
//!
//! Rules kept here:
//! - Whatever goes wrong is told later, in one place: to the factory, or by the chain.

use std::fmt;
use std::path::Path;

use crate::deferred::Deferred;
use crate::failure::Result;
use crate::net::address::Address;
use crate::net::client::{ClientEndpoint, ConnectErrorKind};
use crate::net::connecting::Core;
use crate::net::connector::{ClientFactory, Connector, Control};
use crate::net::protocol::Factory;
use crate::net::transport::Transport;
use crate::reactor::Reactor;

impl Reactor {
    /// Connects to a TCP port and has `factory` make the protocol of the connection.
    ///
    /// `addr` is `"host:port"` or a `SocketAddr`. A name is looked up in the thread pool, and its addresses are tried as
    /// RFC 8305 has it (Happy Eyeballs): both families, the next one when the one before has failed or kept silent for 250 ms.
    /// All of that takes 30 s at the most. [`connect`](Reactor::connect) with a [`ClientEndpoint`] has the options.
    ///
    /// ```no_run
    /// use dosimeter::{Reactor, Result};
    /// use dosimeter::net::{Address, Protocol, Transport};
    ///
    /// struct Hello;
    /// impl Protocol for Hello {
    ///     fn connection_made(&mut self, transport: &Transport) -> Result<()> {
    ///         transport.write("GET / HTTP/1.0\r\n\r\n");
    ///         Ok(())
    ///     }
    ///     fn data_received(&mut self, _transport: &Transport, data: &[u8]) -> Result<()> {
    ///         print!("{}", data.escape_ascii());
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.connect_tcp("example.org:80", |_: &Address| Hello);
    /// reactor.run()
    /// # }
    /// ```
    #[doc(alias = "connectTCP")]
    pub fn connect_tcp(&self, addr: impl fmt::Display, factory: impl ClientFactory) -> Connector {
        self.connect(ClientEndpoint::tcp(addr), factory)
    }

    /// Connects to the UNIX socket at `path` and has `factory` make the protocol of the connection.
    ///
    /// On Linux a path that begins with a zero byte is an abstract name. While the queue of the listener is full it is tried
    /// again, for 30 s at the most.
    #[doc(alias = "connectUNIX")]
    pub fn connect_unix(&self, path: impl AsRef<Path>, factory: impl ClientFactory) -> Connector {
        self.connect(ClientEndpoint::unix(path), factory)
    }

    /// Connects to `endpoint` and has `factory` make the protocol of the connection.
    ///
    /// `endpoint` is a [`ClientEndpoint`] or its text, as in `"tcp:example.org:80:timeout=5"`. A text that is none is told to
    /// the factory, as everything that goes wrong.
    ///
    /// [`ClientEndpoint::connect`] is another way, for one protocol and without hooks: it returns a `Deferred`.
    pub fn connect<E>(&self, endpoint: E, factory: impl ClientFactory) -> Connector
    where
        E: IntoClientEndpoint,
    {
        let core = Core::new(self, endpoint.into_client_endpoint(), factory, None);
        if let Err(error) = core.clone().connect() {
            // Telling the factory, which may well try again, would go round for ever.
            log::error!(target: LOG, "cannot connect to {}: {error}", core.endpoint);
        }
        Connector::new(core)
    }
}

/// What [`Reactor::connect`] takes: a [`ClientEndpoint`], or its text.
pub trait IntoClientEndpoint {
    /// The endpoint; of a text that is none, one that cannot be connected to and says why.
    fn into_client_endpoint(self) -> ClientEndpoint;
}

impl IntoClientEndpoint for ClientEndpoint {
    fn into_client_endpoint(self) -> ClientEndpoint {
        self
    }
}

impl ClientEndpoint {
    /// Connects once; the chain gets the transport of the connection when its protocol has been told of it.
    ///
    /// It fails with [`CannotConnect`](super::CannotConnect), or with [`ConnectionLost`](super::ConnectionLost) if the
    /// connection ended before that. Cancelling it gives the attempt up, at any point. What is to be shared with the protocol is
    /// given to it by the factory.
    ///
    /// ```no_run
    /// use dosimeter::Reactor;
    /// use dosimeter::net::{Address, ClientEndpoint};
    /// # use dosimeter::net::{Protocol, Transport};
    /// # struct Hello;
    /// # impl Protocol for Hello {
    /// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> dosimeter::Result<()> { Ok(()) }
    /// # }
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// ClientEndpoint::tcp("example.org:80")
    ///     .connect(&reactor, |_: &Address| Hello)
    ///     .map(|transport| println!("connected to {}", transport.peer_addr()))
    ///     .add_errback(|failure| Ok(eprintln!("{failure}")));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "connectProtocol")]
    #[doc(alias = "ClientCreator")]
    #[track_caller]
    pub fn connect(&self, reactor: &Reactor, factory: impl Factory) -> Deferred<Transport> {
        let (completer, connected) = Deferred::pair();
        let core = Core::new(reactor, self.clone(), Plain(factory), Some(completer));
        if core.clone().connect().is_err() {
            core.failed(core.cannot_connect(ConnectErrorKind::ReactorStopped));
        }
        connected
    }
}

/// The factory of somebody who waits for a Deferred.
struct Plain<F>(F);

impl<F: Factory> Factory for Plain<F> {
    type Protocol = F::Protocol;

    fn build_protocol(&self, peer: &Address) -> Option<F::Protocol> {
        self.0.build_protocol(peer)
    }

    fn start_factory(&self) -> Result<()> {
        self.0.start_factory()
    }

    fn stop_factory(&self) -> Result<()> {
        self.0.stop_factory()
    }
}

impl<F: Factory> ClientFactory for Plain<F> {}

const LOG: &str = "dosimeter::net";
