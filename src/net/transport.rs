//! [`Transport`]: the side of a connection that a protocol writes to.
//!
//! Rules kept here:
//! - A write gathers; what was gathered goes out in one system call when the handler that wrote is done, or before the loop
//!   waits again. So a transport never fails a write and never calls back from inside one.
//! - A transport knows neither the protocol nor the socket: it holds what is to be done, and the driver does it.

use std::fmt;
use std::io;
use std::rc::Rc;

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::failure::Result;
use crate::net::address::Address;
use crate::net::outbox::{HIGH_WATER, Outbox, Output, Reading, Registered, State};
use crate::net::producer::{Producer, ProducerKind, ProducerRegistered};
use crate::reactor::Reactor;

/// A connection, as the protocol on it sees it: something to write to and to close.
///
/// It is a cheap handle; clone it to keep it. After the connection is lost it accepts everything and does nothing.
#[derive(Clone)]
pub struct Transport(Rc<dyn Endpoint>);

impl Transport {
    pub(crate) fn new(endpoint: Rc<dyn Endpoint>) -> Self {
        Transport(endpoint)
    }

    /// Sends `data` after what was written before; nothing happens when the connection is lost.
    pub fn write(&self, data: impl AsRef<[u8]>) {
        let data = data.as_ref();
        if !data.is_empty() {
            self.write_with(|gathered| gathered.extend_from_slice(data));
        }
    }

    /// Sends all of `pieces`, in this order: as many calls of [`write`](Transport::write), which cost no more than one.
    #[doc(alias = "writeSequence")]
    pub fn write_vectored<T: AsRef<[u8]>>(&self, pieces: impl IntoIterator<Item = T>) {
        for piece in pieces {
            self.write(piece);
        }
    }

    /// Lets `encode` append to what is to be sent. It must not call user code: what that wrote meanwhile would be lost.
    pub(crate) fn write_with(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let outbox = self.0.outbox();
        if outbox.gather(|| self.reactor().buffers().take(), encode) {
            self.schedule();
        }
    }

    /// Closes the connection when everything written has been sent and no producer is registered.
    ///
    /// Reading stops at once. What is written before the close is still sent. A peer that takes nothing for 30 seconds
    /// ends the wait: the connection is then reset, and lost with `TimedOut`. (In Twisted such a peer keeps the connection for
    /// ever; on the open internet that is a way to use up descriptors.) A registered producer is waited for without a limit, unless
    /// the peer resets the connection meanwhile.
    #[doc(alias = "loseConnection")]
    pub fn lose_connection(&self) {
        self.change(|state| state.losing = true);
    }

    /// Closes the connection now: what was not sent is dropped, and the peer sees a reset.
    #[doc(alias = "abortConnection")]
    pub fn abort_connection(&self) {
        self.change(|state| state.aborted = true);
    }

    /// Tells the peer, when everything written has been sent and no producer is registered, that nothing more comes; reading
    /// goes on. The protocol is told when it is done
    /// ([`write_connection_lost`](crate::net::Protocol::write_connection_lost)). When the peer has ended its half as well the
    /// connection is lost.
    #[doc(alias = "loseWriteConnection")]
    pub fn lose_write_connection(&self) {
        self.change(|state| state.output = state.output.max(Output::Closing));
    }

    /// Stops reading from the peer, who will have to wait once the system's buffers are full.
    ///
    /// The orderly end of the peer is noticed when reading goes on. A reset over TCP ends the connection meanwhile, and what the
    /// peer had sent before it is lost with it.
    #[doc(alias = "pauseProducing")]
    pub fn pause_reading(&self) {
        self.0.outbox().update(|state| state.reading = Reading::Paused);
    }

    /// Reads again after [`pause_reading`](Transport::pause_reading).
    ///
    /// A protocol that kept what it had read and could not use is told by
    /// [`Protocol::resume_reading`](crate::net::Protocol::resume_reading).
    #[doc(alias = "resumeProducing")]
    pub fn resume_reading(&self) {
        if self.0.outbox().state().reading == Reading::Paused {
            self.change(|state| state.reading = Reading::Resumed);
        }
    }

    /// Has `producer` make what is written, at the pace at which the peer takes it. The connection is not closed, and its
    /// writing half neither, until [`unregister_producer`](Transport::unregister_producer) is called.
    ///
    /// A producer of kind `Push` is paused when more than 64 KiB wait for the peer, and resumed when all of it is sent. One of
    /// kind `Pull` is resumed now, and whenever everything is sent. "Now" is when the method that registers it is done: a
    /// transport calls nobody from inside its methods. On a connection that is lost the producer is stopped at once.
    ///
    /// # Errors
    /// [`ProducerRegistered`] when there is one already.
    #[doc(alias = "registerProducer")]
    pub fn register_producer(&self, producer: Rc<dyn Producer>, kind: ProducerKind) -> Result<(), ProducerRegistered> {
        if !self.is_connected() {
            producer.stop_producing();
            return Ok(());
        }
        let outbox = self.0.outbox();
        if outbox.state().producing {
            return Err(ProducerRegistered);
        }
        outbox.rarely(|rare| rare.producer = Some(Registered { producer, kind, waits: kind == ProducerKind::Pull }));
        self.change(|state| state.producing = true);
        Ok(())
    }

    /// The producer makes nothing more; what waited for that goes on. Without one this does nothing.
    #[doc(alias = "unregisterProducer")]
    pub fn unregister_producer(&self) {
        let outbox = self.0.outbox();
        if outbox.state().producing {
            let unregistered = outbox.rarely(|rare| rare.producer.take());
            self.change(|state| state.producing = false);
            // The drop of a producer is user code.
            drop(unregistered);
        }
    }

    /// Whether what is written is sent without waiting for more (`TCP_NODELAY`).
    ///
    /// # Errors
    /// When the connection is lost, or no TCP connection.
    #[doc(alias = "getTcpNoDelay")]
    pub fn nodelay(&self) -> io::Result<bool> {
        self.option(|socket| socket.tcp_nodelay())
    }

    /// Sets whether what is written is sent without waiting for more. It is, unless told otherwise.
    ///
    /// # Errors
    /// When the connection is lost, or no TCP connection.
    #[doc(alias = "setTcpNoDelay")]
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.option(|socket| socket.set_tcp_nodelay(nodelay))
    }

    /// After how long a silence the system asks the peer whether it is still there; `None` if it never does.
    ///
    /// # Errors
    /// When the connection is lost, or no TCP connection.
    #[doc(alias = "getTcpKeepAlive")]
    pub fn keepalive(&self) -> io::Result<Option<Duration>> {
        self.option(|socket| if socket.keepalive()? { socket.tcp_keepalive_time().map(Some) } else { Ok(None) })
    }

    /// Has the system ask a peer that was silent for this long whether it is still there, or never (`None`), which is what it
    /// does unless told otherwise.
    ///
    /// # Errors
    /// When the connection is lost, or no TCP connection.
    #[doc(alias = "setTcpKeepAlive")]
    pub fn set_keepalive(&self, idle: Option<Duration>) -> io::Result<()> {
        self.option(|socket| match idle {
            Some(idle) => socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle)),
            None => socket.set_keepalive(false),
        })
    }

    fn option<T>(&self, ask: impl Fn(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        let mut answer = None;
        self.0.with_socket(&mut |socket| {
            answer = Some(ask(socket)?);
            Ok(())
        })?;
        answer.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// How many bytes are gathered or wait for the peer to read.
    pub fn unsent(&self) -> usize {
        self.0.outbox().unsent()
    }

    /// Whether the peer has so much left to read that it should be given nothing more: over 64 KiB.
    ///
    /// [`Protocol::resume_writing`](crate::net::Protocol::resume_writing) tells when it has read.
    pub fn is_congested(&self) -> bool {
        self.unsent() > HIGH_WATER
    }

    /// Whether it is not read from at present because the peer is behind with reading, or the protocol with what it has.
    pub(crate) fn is_held_up(&self) -> bool {
        let outbox = self.0.outbox();
        outbox.state().reading == Reading::Paused || outbox.backlog() > HIGH_WATER
    }

    /// Whether the connection is there and not [congested](Transport::is_congested).
    pub(crate) fn takes_more(&self) -> bool {
        let outbox = self.0.outbox();
        outbox.state().open && outbox.unsent() <= HIGH_WATER
    }

    pub(crate) fn state(&self) -> State {
        self.0.outbox().state()
    }

    /// Changes whenever the peer's system took something.
    pub(crate) fn sends(&self) -> u32 {
        self.0.outbox().sends()
    }

    /// Whether the connection is still there.
    pub fn is_connected(&self) -> bool {
        self.0.outbox().state().open
    }

    /// The other end.
    #[doc(alias = "getPeer")]
    pub fn peer_addr(&self) -> Address {
        self.0.peer_addr()
    }

    /// This end.
    ///
    /// # Errors
    /// When the connection is lost: the system no longer knows. In `connection_lost` it still does.
    #[doc(alias = "getHost")]
    pub fn local_addr(&self) -> io::Result<Address> {
        self.0.local_addr()
    }

    /// The reactor the connection belongs to.
    pub fn reactor(&self) -> &Reactor {
        self.0.reactor()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        if self.is_connected() {
            self.0.outbox().update(change);
            self.schedule();
        }
    }

    fn schedule(&self) {
        let outbox = self.0.outbox();
        if !outbox.state().scheduled {
            outbox.update(|state| state.scheduled = true);
            self.0.clone().schedule();
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("peer", &self.peer_addr()).field("unsent", &self.unsent()).finish()
    }
}

/// What drives a connection, as its transport sees it.
pub(crate) trait Endpoint {
    fn outbox(&self) -> &Outbox;
    fn reactor(&self) -> &Reactor;
    /// Has the outbox looked at before the loop waits again.
    fn schedule(self: Rc<Self>);
    fn peer_addr(&self) -> Address;
    fn local_addr(&self) -> io::Result<Address>;
    /// Calls `with` with the socket, if it has options.
    fn with_socket(&self, with: &mut dyn FnMut(SockRef<'_>) -> io::Result<()>) -> io::Result<()>;
}

/// A transport is a producer of what its peer sends: paused, it is not read from; stopped, it is closed.
impl Producer for Transport {
    fn resume_producing(&self) -> Result<()> {
        self.resume_reading();
        Ok(())
    }

    fn pause_producing(&self) {
        self.pause_reading();
    }

    fn stop_producing(&self) {
        self.lose_connection();
    }
}
