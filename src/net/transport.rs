//! [`Transport`]: the side of a connection that a protocol writes to.
//!
//! Rules kept here:
//! - A write gathers; what was gathered goes out in one system call when the handler that wrote is done, or before the loop
//!   waits again. So a transport never fails a write and never calls back from inside one.
//! - A transport knows neither the protocol nor the socket: it holds what is to be done, and the driver does it.
//! - An idle transport holds no buffer.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::buffer::Pending;
use crate::reactor::Reactor;

/// A connection, as the protocol on it sees it: something to write to and to close.
///
/// It is a cheap handle; clone it to keep it. After the connection is lost it accepts everything and does nothing.
#[derive(Clone)]
pub struct Transport(Rc<dyn Endpoint>);

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// IPv4 or IPv6 address and port.
    Inet(SocketAddr),
    /// UNIX socket; without a path when the end is not bound to one. A path that begins with a zero byte is an abstract name.
    Unix(Option<PathBuf>),
}

impl Address {
    /// The IP address and port, unless this is a UNIX socket.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(addr) => Some(*addr),
            Address::Unix(_) => None,
        }
    }

    /// The path of a UNIX socket that has one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::Unix(path) => path.as_deref(),
            Address::Inet(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Address::Inet(addr)
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from(addr: (I, u16)) -> Self {
        Address::Inet(addr.into())
    }
}

/// `127.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock`, `unix:@abstract`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(addr) => addr.fmt(f),
            Address::Unix(Some(path)) => match path.as_os_str().as_bytes().strip_prefix(b"\0") {
                Some(name) => write!(f, "unix:@{}", name.escape_ascii()),
                None => write!(f, "unix:{}", path.display()),
            },
            Address::Unix(None) => f.write_str("unix:"),
        }
    }
}

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

    /// Lets `encode` append to what is to be sent. It must not call user code: what that wrote meanwhile would be lost.
    pub(crate) fn write_with(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let outbox = self.0.outbox();
        if !outbox.state.get().takes_writes() {
            return;
        }
        let mut gathered = outbox.gathered.take().unwrap_or_else(|| self.reactor().buffers().take());
        encode(&mut gathered.bytes);
        outbox.gathered.set(Some(gathered));
        self.schedule();
    }

    /// Closes the connection when everything written has been sent.
    ///
    /// Reading stops at once. What is written before the close is still sent.
    #[doc(alias = "loseConnection")]
    pub fn lose_connection(&self) {
        self.change(|state| state.losing = true);
    }

    /// Closes the connection now: what was not sent is dropped, and the peer sees a reset.
    #[doc(alias = "abortConnection")]
    pub fn abort_connection(&self) {
        self.change(|state| state.aborted = true);
    }

    /// Tells the peer, when everything written has been sent, that nothing more comes; reading goes on.
    #[doc(alias = "loseWriteConnection")]
    pub fn lose_write_connection(&self) {
        self.change(|state| state.output = state.output.max(Output::Closing));
    }

    /// Stops reading from the peer, who will have to wait once the system's buffers are full.
    #[doc(alias = "pauseProducing")]
    pub fn pause_reading(&self) {
        self.0.outbox().update(|state| state.paused = true);
    }

    /// Reads again after [`pause_reading`](Transport::pause_reading).
    ///
    /// A protocol that kept what it had read and could not use is told by
    /// [`Protocol::resume_reading`](crate::net::Protocol::resume_reading).
    #[doc(alias = "resumeProducing")]
    pub fn resume_reading(&self) {
        if self.0.outbox().state.get().paused {
            self.change(|state| (state.paused, state.resumed) = (false, true));
        }
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

    pub(crate) fn state(&self) -> State {
        self.0.outbox().state()
    }

    /// Changes whenever the peer's system took something.
    pub(crate) fn sends(&self) -> u32 {
        self.0.outbox().sends()
    }

    /// Whether the connection is still there.
    pub fn is_connected(&self) -> bool {
        self.0.outbox().state.get().open
    }

    /// The other end.
    #[doc(alias = "getPeer")]
    pub fn peer_addr(&self) -> Address {
        self.0.peer_addr()
    }

    /// This end.
    ///
    /// # Errors
    /// When the connection is lost: the system no longer knows.
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
        if !outbox.state.get().scheduled {
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
}

/// What a connection has to send, and what else it is to do.
pub(crate) struct Outbox {
    /// Absent when there is nothing to send.
    gathered: Cell<Option<Box<Pending>>>,
    /// How often the system took something: tells whether a peer reads at all.
    sends: Cell<u32>,
    state: Cell<State>,
}

/// The state of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    /// Until the connection is lost.
    pub(crate) open: bool,
    /// To be closed when everything is sent.
    pub(crate) losing: bool,
    /// To be reset.
    pub(crate) aborted: bool,
    pub(crate) output: Output,
    /// The protocol wants no data.
    pub(crate) paused: bool,
    /// It wants data again, and is to be told before it gets any.
    pub(crate) resumed: bool,
    /// The socket may have data that were not read: poll will not tell again.
    pub(crate) unread: bool,
    /// The reactor was asked for another turn to read.
    pub(crate) queued: bool,
    pub(crate) input: Input,
    /// The socket was full; poll will tell when it is not.
    pub(crate) blocked: bool,
    /// More than `HIGH_WATER` was unsent, and the protocol is to be told when that is over.
    pub(crate) congested: bool,
    /// The driver will look at the outbox by itself.
    pub(crate) scheduled: bool,
}

/// How far the half of a connection that is written to is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Output {
    Open,
    /// To be closed when everything is sent.
    Closing,
    Closed,
}

/// How far the half of a connection that is read from is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Input {
    Open,
    /// Poll told of the end of the stream, or of an error, which it does once: reading goes on until it is found.
    Ending,
    /// The end of the stream was found, and the protocol told.
    Ended,
}

impl State {
    fn takes_writes(self) -> bool {
        self.open && !self.aborted && self.output == Output::Open
    }

    /// Whether data from the peer are wanted. A peer that sends but does not read is not read from either: what it asks for
    /// would only pile up here.
    pub(crate) fn reads(self, unsent: usize) -> bool {
        self.open && !self.losing && !self.aborted && !self.paused && unsent <= HIGH_WATER
    }
}

impl Outbox {
    pub(crate) fn new() -> Self {
        let state = State {
            open: true,
            losing: false,
            aborted: false,
            output: Output::Open,
            paused: false,
            resumed: false,
            unread: false,
            queued: false,
            input: Input::Open,
            blocked: false,
            congested: false,
            scheduled: false,
        };
        Outbox { gathered: Cell::new(None), sends: Cell::new(0), state: Cell::new(state) }
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.get();
        change(&mut state);
        self.state.set(state);
    }

    pub(crate) fn unsent(&self) -> usize {
        let gathered = self.gathered.take();
        let unsent = gathered.as_ref().map_or(0, |gathered| gathered.rest().len());
        self.gathered.set(gathered);
        unsent
    }

    pub(crate) fn sends(&self) -> u32 {
        self.sends.get()
    }

    /// Sends as much as `send` takes. `Ok(true)`: everything is sent.
    pub(crate) fn send(&self, reactor: &Reactor, mut send: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let Some(mut gathered) = self.gathered.take() else { return Ok(true) };
        while !gathered.rest().is_empty() {
            match send(gathered.rest()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    gathered.advance(count);
                    reactor.connection_figures().sent_bytes.add(count as u64);
                    self.sends.set(self.sends.get().wrapping_add(1));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if gathered.rest().is_empty() {
            reactor.buffers().give_back(gathered);
            return Ok(true);
        }
        self.gathered.set(Some(gathered));
        Ok(false)
    }

    /// The connection is lost: nothing is to be sent or done any more.
    pub(crate) fn close(&self) {
        self.update(|state| state.open = false);
        self.gathered.take();
    }
}

/// With more than this unsent nothing more is read from the peer until it has read. Twisted's figure.
pub(crate) const HIGH_WATER: usize = 64 * 1024;
