//! What a user implements to connect, and the handle of a client.
//!
//! Rules kept here:
//! - A factory is told of each step by name, and is given the connector each time: it may do anything to it.
//! - A handle holds nothing open, and dropping it closes nothing.

use std::error::Error;
use std::fmt;
use std::rc::{Rc, Weak};

use crate::failure::Result;
use crate::net::address::Address;
use crate::net::client::{CannotConnect, ClientEndpoint, ConnectErrorKind};
use crate::net::protocol::{ConnectionLost, Factory, Protocol, SharedFactory};
use crate::reactor::Reactor;

/// Makes the protocols of a client, and is told how connecting goes.
///
/// A closure from the address to a [`Protocol`](crate::net::Protocol) is a factory that does not mind: a connection that
/// cannot be made is logged. One that does:
///
/// ```
/// use dosimeter::net::{Address, CannotConnect, ClientFactory, Connector, Factory};
/// # use dosimeter::net::{Protocol, Transport};
/// # struct Chat;
/// # impl Protocol for Chat {
/// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> dosimeter::Result<()> { Ok(()) }
/// # }
///
/// struct Stubborn;
///
/// impl Factory for Stubborn {
///     type Protocol = Chat;
///
///     fn build_protocol(&self, _peer: &Address) -> Option<Chat> {
///         Some(Chat)
///     }
/// }
///
/// impl ClientFactory for Stubborn {
///     fn client_connection_failed(&self, connector: &Connector, _reason: CannotConnect) {
///         // Without a pause; `Reconnecting` makes pauses.
///         let _ = connector.connect();
///     }
/// }
/// ```
pub trait ClientFactory: Factory {
    /// An attempt to connect has begun. Called by `connect`, before it returns.
    #[doc(alias = "startedConnecting")]
    fn started_connecting(&self, connector: &Connector) {
        let _ = connector;
    }

    /// The connection could not be made. `connector.connect()` tries again.
    ///
    /// Unless told otherwise this is logged.
    #[doc(alias = "clientConnectionFailed")]
    fn client_connection_failed(&self, connector: &Connector, reason: CannotConnect) {
        let _ = connector;
        if !matches!(reason.kind(), ConnectErrorKind::Stopped | ConnectErrorKind::ReactorStopped) {
            log::error!(target: LOG, "{reason}");
        }
    }

    /// The connection has ended, and its protocol has been told. `connector.connect()` makes another one.
    ///
    /// An error of the protocol is told as text here: the error itself went to `connection_lost`.
    #[doc(alias = "clientConnectionLost")]
    fn client_connection_lost(&self, connector: &Connector, reason: ConnectionLost) {
        let _ = (connector, reason);
    }
}

impl<F, P> ClientFactory for F
where
    F: Fn(&Address) -> P + 'static,
    P: Protocol,
{
}

impl<F: ClientFactory> ClientFactory for SharedFactory<F> {
    fn started_connecting(&self, connector: &Connector) {
        self.get().started_connecting(connector);
    }

    fn client_connection_failed(&self, connector: &Connector, reason: CannotConnect) {
        self.get().client_connection_failed(connector, reason);
    }

    fn client_connection_lost(&self, connector: &Connector, reason: ConnectionLost) {
        self.get().client_connection_lost(connector, reason);
    }
}

/// One connection to be made, and made again: what [`Reactor::connect`] returns.
///
/// It is a cheap handle. Dropping it changes nothing: the connection lives until it ends.
#[doc(alias = "IConnector")]
#[derive(Clone)]
pub struct Connector(Rc<dyn Control>);

/// Where a [`Connector`] is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectorState {
    /// There is no connection, and none is being made.
    Disconnected,
    /// A connection is being made, or how that ended is yet to be told.
    Connecting,
    /// There is a connection.
    Connected,
}

/// What a [`Connector`] cannot do in the state it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectorError {
    /// There is a connection already, or one is being made.
    AlreadyConnecting,
    /// No connection is being made.
    #[doc(alias = "NotConnectingError")]
    NotConnecting,
    /// The reactor has stopped.
    ReactorStopped,
}

impl fmt::Display for ConnectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectorError::AlreadyConnecting => "the connector is connected or connecting already",
            ConnectorError::NotConnecting => "the connector is not connecting",
            ConnectorError::ReactorStopped => "the reactor has stopped",
        })
    }
}

impl Error for ConnectorError {}

impl Connector {
    /// Connects again.
    ///
    /// # Errors
    /// [`ConnectorError::AlreadyConnecting`] unless the connector is disconnected.
    pub fn connect(&self) -> Result<(), ConnectorError> {
        self.0.clone().connect()
    }

    /// Gives the attempt up; the factory is told later, as of any failure: [`ConnectErrorKind::Stopped`].
    ///
    /// # Errors
    /// [`ConnectorError::NotConnecting`] when there is none.
    #[doc(alias = "stopConnecting")]
    pub fn stop_connecting(&self) -> Result<(), ConnectorError> {
        self.0.stop_connecting()
    }

    /// Ends what there is to be ended: gives up an attempt, or closes the connection when everything written has been sent.
    pub fn disconnect(&self) {
        self.0.disconnect();
    }

    /// Where the connector is in its life.
    pub fn state(&self) -> ConnectorState {
        self.0.state()
    }

    /// What it connects to.
    #[doc(alias = "getDestination")]
    pub fn endpoint(&self) -> &ClientEndpoint {
        self.0.endpoint()
    }

    /// The reactor it belongs to.
    pub fn reactor(&self) -> &Reactor {
        self.0.reactor()
    }
}

impl Connector {
    pub(crate) fn new(control: Rc<dyn Control>) -> Self {
        Connector(control)
    }

    pub(crate) fn downgrade(&self) -> WeakConnector {
        WeakConnector(Rc::downgrade(&self.0))
    }
}

/// A connector that lives while it is connecting or connected, or while somebody else keeps it.
pub(crate) struct WeakConnector(Weak<dyn Control>);

impl WeakConnector {
    pub(crate) fn upgrade(&self) -> Option<Connector> {
        self.0.upgrade().map(Connector)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({}, {:?})", self.endpoint(), self.state())
    }
}

/// A connector with the type of its factory erased.
pub(crate) trait Control {
    fn connect(self: Rc<Self>) -> Result<(), ConnectorError>;
    fn stop_connecting(&self) -> Result<(), ConnectorError>;
    fn disconnect(&self);
    fn state(&self) -> ConnectorState;
    fn endpoint(&self) -> &ClientEndpoint;
    fn reactor(&self) -> &Reactor;
}

const LOG: &str = "dosimeter::net";
