//! [`MemoryClient`]: the far end of a connection in memory, in the hands of the test.
//!
//! Rules kept here:
//! - What the test does takes effect before the method returns: the reactor is turned until it has nothing left to do.
//! - It reads whatever comes, as a peer should, unless the test wants a peer that does not.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::ErrorKind;

use crate::net::Address;
use crate::net::memory::{MemoryStream, Network};
use crate::net::socket::StreamSocket;
use crate::reactor::Reactor;
use crate::testing::reactor::{MemoryReactor, settle};

/// A connection to the code under test, read and written by hand; see
/// [`MemoryReactor::connect`].
///
/// Dropping it closes the connection in the orderly way, which the other side finds in its next turn.
///
/// ```
/// use dosimeter::net::{Address, Protocol, Transport};
/// use dosimeter::testing::{End, MemoryReactor};
///
/// struct Echo;
///
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> dosimeter::Result<()> {
///         transport.write(data);
///         Ok(())
///     }
/// }
///
/// # fn main() -> dosimeter::Result<()> {
/// let memory = MemoryReactor::new();
/// let port = memory.reactor().listen_tcp("127.0.0.1:0", |_: &Address| Echo)?;
/// let client = memory.connect(port.local_addr());
/// client.send("ping");
/// assert_eq!(client.take(), b"ping");
/// client.send_end();
/// assert_eq!(client.end(), Some(End::Closed));
/// # Ok(())
/// # }
/// ```
pub struct MemoryClient {
    reactor: Reactor,
    stream: MemoryStream,
    received: RefCell<Vec<u8>>,
    end: Cell<Option<End>>,
    is_reading: Cell<bool>,
}

/// How the other side has ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// It has sent its last, in the orderly way.
    Closed,
    /// It has reset the connection: what was on the way is lost.
    Reset,
}

impl MemoryReactor {
    /// Connects to a port that the code under test listens on, from some port of the loopback interface.
    ///
    /// It is one machine: only the number of the port counts, not the interface.
    ///
    /// # Panics
    /// When nobody listens there.
    #[track_caller]
    pub fn connect(&self, to: impl Into<Address>) -> MemoryClient {
        self.open(to.into(), None)
    }

    /// The same from this address: what the protocol takes for its peer.
    ///
    /// # Panics
    /// When nobody listens there.
    #[track_caller]
    pub fn connect_from(&self, from: impl Into<Address>, to: impl Into<Address>) -> MemoryClient {
        self.open(to.into(), Some(from.into()))
    }

    #[track_caller]
    fn open(&self, to: Address, from: Option<Address>) -> MemoryClient {
        let network = Network::of(self.reactor()).expect("a reactor in virtual time has a network");
        let Ok(stream) = network.connect(self.reactor(), &to, from) else {
            panic!("nobody listens on {to}, only on {:?}", self.listening());
        };
        MemoryClient::new(self.reactor(), stream)
    }
}

impl MemoryClient {
    pub(super) fn new(reactor: &Reactor, stream: MemoryStream) -> Self {
        let client = MemoryClient {
            reactor: reactor.clone(),
            stream,
            received: RefCell::default(),
            end: Cell::new(None),
            is_reading: Cell::new(true),
        };
        client.exchange();
        client
    }

    /// Sends `data`, all of it, for as long as the other side reads; returns how much was taken.
    ///
    /// Less than all is taken from a client that the other side does not read from, when 2 MiB are on the way.
    #[doc(alias = "dataReceived")]
    pub fn send(&self, data: impl AsRef<[u8]>) -> usize {
        let data = data.as_ref();
        let mut sent = 0;
        loop {
            let count = self.stream.write(&data[sent..]).unwrap_or(0);
            sent += count;
            self.exchange();
            if count == 0 || sent == data.len() {
                return sent;
            }
        }
    }

    /// Sends nothing more, but reads.
    pub fn send_end(&self) {
        // A connection in memory refuses this no more than one that is gone.
        let _ = self.stream.shutdown_write();
        self.exchange();
    }

    /// What has come and was not taken yet.
    pub fn received(&self) -> Vec<u8> {
        self.exchange();
        self.received.borrow().clone()
    }

    /// Takes what has come.
    pub fn take(&self) -> Vec<u8> {
        self.exchange();
        self.received.take()
    }

    /// How the other side has ended the connection, if it has; what came before can still be taken, unless it was reset.
    pub fn end(&self) -> Option<End> {
        self.exchange();
        self.end.get()
    }

    /// Reads nothing more, and has room for `room` more bytes that the other side can get rid of: back-pressure.
    pub fn stop_reading(&self, room: usize) {
        self.exchange();
        self.is_reading.set(false);
        self.stream.set_capacity(room);
    }

    /// Reads again.
    pub fn resume_reading(&self) {
        self.is_reading.set(true);
        self.stream.set_capacity(usize::MAX);
        self.exchange();
    }

    /// Has what is sent from now on arrive in pieces of at most `size` bytes, each in a turn of its own.
    pub fn send_in_pieces(&self, size: usize) {
        self.stream.set_piece(size);
    }

    /// Closes the connection; what was not read is lost, and then it is a reset.
    pub fn close(self) {
        let reactor = self.reactor.clone();
        drop(self);
        settle(&reactor);
    }

    /// Breaks the connection: the other side finds it reset.
    pub fn reset(self) {
        self.break_off();
    }

    pub(super) fn break_off(&self) {
        self.stream.reset();
        self.exchange();
    }

    /// Has everything done that can be done at this time.
    pub(super) fn exchange(&self) {
        loop {
            settle(&self.reactor);
            if !self.is_reading.get() || !self.read_some() {
                return;
            }
        }
    }

    /// Takes what is there; tells whether there was anything.
    fn read_some(&self) -> bool {
        let mut received = self.received.borrow_mut();
        let before = received.len();
        let mut buffer = vec![0; self.stream.unread().clamp(1, READ)];
        while self.end.get().is_none() {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.end.set(Some(End::Closed)),
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.end.set(Some(End::Reset)),
            }
        }
        received.len() > before
    }
}

impl fmt::Debug for MemoryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let received = self.received.borrow().escape_ascii().to_string();
        f.debug_struct("MemoryClient").field("received", &received).field("end", &self.end.get()).finish()
    }
}

/// How much is read at once.
const READ: usize = 64 * 1024;
