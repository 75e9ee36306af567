//! [`ListeningPort`]: the handle of a listening socket, whatever its kind.
//!
//! Rules kept here:
//! - A handle holds nothing open: who keeps none still listens, who keeps one prevents nothing.
//! - Why something cannot be listened on is told with the place, because the error of the system names none.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::deferred::Deferred;
use crate::failure::Result;
use crate::net::address::Address;
use crate::reactor::Reactor;

/// A listening socket. It listens until [`stop_listening`](ListeningPort::stop_listening) or the end of the reactor's run;
/// dropping this handle changes nothing.
///
/// `A` is the kind of its address: a `SocketAddr` for TCP, an [`Address`] for what may be a UNIX socket.
///
/// ```
/// use dosimeter::web::{Branch, Site};
/// use dosimeter::Reactor;
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let port = reactor.listen_tcp("127.0.0.1:0", Site::new(Branch::new()))?;
/// println!("http://{}/", port.local_addr());
/// # assert_ne!(port.local_addr().port(), 0);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "IListeningPort")]
#[derive(Clone)]
pub struct ListeningPort<A = SocketAddr> {
    control: Rc<dyn PortControl>,
    local: A,
}

impl<A> ListeningPort<A> {
    pub(crate) fn new(control: Rc<dyn PortControl>, local: A) -> Self {
        ListeningPort { control, local }
    }

    pub(crate) fn with_addr<B>(self, local: B) -> ListeningPort<B> {
        ListeningPort { control: self.control, local }
    }

    /// Closes the socket. Connections that were accepted are untouched, those that were not are reset by the system.
    ///
    /// The chain fires in a later turn, when the factory was told; from then on another socket can listen there, or this one
    /// again. It fails when [`Factory::stop_factory`](crate::net::Factory::stop_factory) does; the socket is closed all the
    /// same. Stopping twice is harmless, and so is stopping what has stopped: the chain then waits only for what is under way.
    #[doc(alias = "stopListening")]
    pub fn stop_listening(&self) -> Deferred<()> {
        self.control.clone().stop()
    }

    /// Listens again after [`stop_listening`](ListeningPort::stop_listening), at the same address. Where 0 was asked for, that
    /// is the port the system chose.
    ///
    /// # Errors
    /// [`CannotListen`] when somebody else listens there by now, when the port is listening or has not yet stopped, when the
    /// reactor has, and for a socket that was adopted: it cannot be made again.
    #[doc(alias = "startListening")]
    pub fn start_listening(&self) -> Result<(), CannotListen> {
        self.control.clone().start_again()
    }

    /// Whether connections are accepted.
    pub fn is_listening(&self) -> bool {
        self.control.is_listening()
    }
}

impl<A> ListeningPort<A> {
    pub(crate) fn reactor(&self) -> &Reactor {
        self.control.reactor()
    }

    /// Lets nobody else connect, for a close that is to reset nobody; `true`: some may be about to be connected, and can be
    /// accepted in a while.
    pub(crate) fn close_door(&self) -> bool {
        self.control.close_door()
    }

    /// Accepts the connections that wait, before a close that would reset them.
    pub(crate) fn accept_waiting(&self) {
        self.control.clone().accept_waiting();
    }
}

impl<A: Clone> ListeningPort<A> {
    /// The address it listens on, with the real port where 0 was asked for.
    #[doc(alias = "getHost")]
    pub fn local_addr(&self) -> A {
        self.local.clone()
    }
}

impl<A: fmt::Debug> fmt::Debug for ListeningPort<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListeningPort").field("local", &self.local).field("listening", &self.is_listening()).finish()
    }
}

/// For a list of ports of both kinds.
impl From<ListeningPort> for ListeningPort<Address> {
    fn from(port: ListeningPort) -> Self {
        let local = Address::Inet(port.local);
        port.with_addr(local)
    }
}

/// A port with the types of its socket and its factory erased.
pub(crate) trait PortControl {
    fn stop(self: Rc<Self>) -> Deferred<()>;
    fn start_again(self: Rc<Self>) -> Result<(), CannotListen>;
    fn is_listening(&self) -> bool;
    fn reactor(&self) -> &Reactor;
    fn close_door(&self) -> bool;
    fn accept_waiting(self: Rc<Self>);
}

/// A place that could not be listened on.
///
/// ```
/// use dosimeter::Reactor;
/// use dosimeter::web::{Branch, Site};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let taken = reactor.listen_tcp("127.0.0.1:0", Site::new(Branch::new()))?.local_addr();
/// let error = reactor.listen_tcp(taken, Site::new(Branch::new())).unwrap_err();
/// assert!(error.to_string().starts_with(&format!("cannot listen on TCP {taken}: Address")));
/// assert_eq!(error.io_error().kind(), std::io::ErrorKind::AddrInUse);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "CannotListenError")]
#[derive(Debug)]
pub struct CannotListen {
    place: String,
    source: io::Error,
}

impl CannotListen {
    pub(crate) fn new(place: impl Into<String>, source: io::Error) -> Self {
        CannotListen { place: place.into(), source }
    }

    /// What the system said, or who else refused.
    pub fn io_error(&self) -> &io::Error {
        &self.source
    }
}

impl fmt::Display for CannotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.place, self.source)
    }
}

impl Error for CannotListen {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// A place to listen on, as messages name it.
pub(crate) fn place(addr: &Address) -> String {
    match addr {
        Address::Inet(addr) => format!("TCP {addr}"),
        unix => unix.to_string(),
    }
}
