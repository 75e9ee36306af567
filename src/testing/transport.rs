//! [`MemoryTransport`]: one protocol, driven by hand.
//!
//! Rules kept here:
//! - The protocol is called by the driver that calls it on a socket, and writes to a transport as real.
//! - What the test does takes effect before the method returns.

use std::cell::RefCell;
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::net::memory::{self, MemoryStream};
use crate::net::socket::Peer;
use crate::net::stream::{self, Watcher};
use crate::net::{Address, ConnectionLost, Protocol, Transport};
use crate::reactor::Reactor;
use crate::testing::client::{End, MemoryClient};
use crate::testing::reactor::MemoryReactor;

/// A connection whose far end is the test: calls a protocol and collects what it writes.
///
/// As Twisted's `StringTransport`, with one difference: the transport is a real one. A protocol that closes the connection
/// has it closed, and is told so; to look at it in between, let the peer stop reading first
/// ([`stop_reading`](MemoryTransport::stop_reading)).
///
/// ```
/// use dosimeter::Result;
/// use dosimeter::net::{Protocol, Transport};
/// use dosimeter::testing::MemoryTransport;
///
/// struct Greeter;
///
/// impl Protocol for Greeter {
///     fn connection_made(&mut self, transport: &Transport) -> Result<()> {
///         transport.write("Who is there?\n");
///         Ok(())
///     }
///
///     fn data_received(&mut self, transport: &Transport, name: &[u8]) -> Result<()> {
///         transport.write(b"Hello, ");
///         transport.write(name);
///         transport.lose_connection();
///         Ok(())
///     }
/// }
///
/// let wire = MemoryTransport::new(Greeter);
/// assert_eq!(wire.take(), b"Who is there?\n");
/// wire.receive("Ada");
/// assert_eq!(wire.take(), b"Hello, Ada");
/// assert_eq!(wire.lost().as_deref(), Some("the connection was closed"));
/// ```
#[doc(alias = "StringTransport")]
#[doc(alias = "StringTransportWithDisconnection")]
pub struct MemoryTransport {
    // In the order in which they are to be dropped.
    client: MemoryClient,
    story: Story,
    memory: MemoryReactor,
}

impl MemoryTransport {
    /// Connects `protocol`: it is told that the connection is made.
    ///
    /// Its peer is 192.168.1.1:54321, and itself it is 10.0.0.1:12345, as in Twisted.
    pub fn new(protocol: impl Protocol) -> Self {
        MemoryTransport::between(protocol, PEER, HOST)
    }

    /// The same with these addresses.
    pub fn between(protocol: impl Protocol, peer: impl Into<Address>, host: impl Into<Address>) -> Self {
        let memory = MemoryReactor::new();
        let (near, story) = connect(memory.reactor(), protocol, peer.into(), host.into());
        MemoryTransport { client: MemoryClient::new(memory.reactor(), near), story, memory }
    }

    /// Gives the protocol `data`, in one piece; what it does not read, because it has paused, it gets when it goes on.
    #[doc(alias = "dataReceived")]
    pub fn receive(&self, data: impl AsRef<[u8]>) {
        self.client.send(data);
    }

    /// Has the peer send nothing more: the protocol is told that reading is over.
    #[doc(alias = "readConnectionLost")]
    pub fn receive_end(&self) {
        self.client.send_end();
    }

    /// Breaks the connection: the protocol loses it with an error of the network.
    #[doc(alias = "connectionLost")]
    pub fn break_off(&self) {
        self.client.break_off();
    }

    /// What the protocol has written and was not taken yet.
    pub fn value(&self) -> Vec<u8> {
        self.client.received()
    }

    /// Takes what the protocol has written.
    #[doc(alias = "clear")]
    pub fn take(&self) -> Vec<u8> {
        self.client.take()
    }

    /// Has the peer read nothing more, so that all but the next `room` bytes wait on this side.
    pub fn stop_reading(&self, room: usize) {
        self.client.stop_reading(room);
    }

    /// Has the peer read again.
    pub fn resume_reading(&self) {
        self.client.resume_reading();
    }

    /// The transport, as the protocol has it.
    pub fn transport(&self) -> Transport {
        self.story.transport()
    }

    /// Whether the connection is there.
    pub fn is_connected(&self) -> bool {
        self.transport().is_connected()
    }

    /// Whether the connection is being closed, and what was written waits for the peer.
    #[doc(alias = "disconnecting")]
    pub fn is_losing(&self) -> bool {
        self.is_connected() && self.transport().state().losing
    }

    /// Whether the connection was aborted: the peer has found it reset.
    #[doc(alias = "disconnected")]
    pub fn is_aborted(&self) -> bool {
        self.client.end() == Some(End::Reset)
    }

    /// Whether the protocol has sent its last, while it may still read.
    pub fn has_ended(&self) -> bool {
        self.client.end() == Some(End::Closed)
    }

    /// Whether the transport reads: it is connected, not being closed, not paused, and the peer is not far behind.
    #[doc(alias = "producerState")]
    pub fn is_reading(&self) -> bool {
        let transport = self.transport();
        transport.state().reads(transport.unsent())
    }

    /// How the connection ended, in the words of [`ConnectionLost`], once the protocol was told.
    pub fn lost(&self) -> Option<String> {
        self.story.lost()
    }

    /// The reactor of the connection, with its time.
    pub fn memory(&self) -> &MemoryReactor {
        &self.memory
    }

    /// Lets time pass; see [`MemoryReactor::advance`].
    pub fn advance(&self, amount: Duration) {
        self.memory.advance(amount);
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").field("peer", &self.client).field("lost", &self.lost()).finish()
    }
}

/// Connects `protocol` to the end that is given back.
pub(super) fn connect(
    reactor: &Reactor,
    protocol: impl Protocol,
    peer: Address,
    host: Address,
) -> (MemoryStream, Story) {
    let story = Story::default();
    let [near, far] = memory::pair(reactor, [peer.clone(), host]);
    attach(reactor, far, peer, protocol, &story);
    (near, story)
}

/// Has `protocol` drive one end of a connection.
pub(super) fn attach(reactor: &Reactor, stream: MemoryStream, peer: Address, protocol: impl Protocol, story: &Story) {
    let started = stream::start(reactor, stream, Peer::new(peer), protocol, Listener(Rc::downgrade(&story.0)));
    started.expect("a new reactor takes every connection");
}

/// What becomes of a connection, besides what its protocol is told.
#[derive(Default)]
pub(super) struct Story(Rc<RefCell<Told>>);

/// Writes the story. Weak, for the story has the transport that has the driver that has this.
struct Listener(Weak<RefCell<Told>>);

#[derive(Default)]
struct Told {
    transport: Option<Transport>,
    lost: Option<String>,
}

impl Story {
    pub(super) fn transport(&self) -> Transport {
        self.0.borrow().transport.clone().expect("told before the protocol was")
    }

    pub(super) fn lost(&self) -> Option<String> {
        self.0.borrow().lost.clone()
    }
}

impl Watcher for Listener {
    fn beginning(&self, transport: impl FnOnce() -> Transport) {
        if let Some(told) = self.0.upgrade() {
            told.borrow_mut().transport = Some(transport());
        }
    }

    fn ending(&self, reason: &ConnectionLost) {
        if let Some(told) = self.0.upgrade() {
            told.borrow_mut().lost = Some(reason.to_string());
        }
    }
}

/// The addresses that Twisted's `StringTransport` has.
const PEER: ([u8; 4], u16) = ([192, 168, 1, 1], 54_321);
const HOST: ([u8; 4], u16) = ([10, 0, 0, 1], 12_345);
