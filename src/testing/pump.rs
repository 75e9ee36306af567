//! [`Pump`]: two protocols, connected with each other.
//!
//! Rules kept here:
//! - Both are driven as on sockets, on one reactor; the wire between them is the test's to cut into pieces.

use std::fmt;
use std::time::Duration;

use crate::net::memory;
use crate::net::{Address, Protocol, Transport};
use crate::testing::reactor::MemoryReactor;
use crate::testing::transport::{Story, attach};

/// A client's and a server's protocol, connected in memory.
///
/// ```
/// use dosimeter::Result;
/// use dosimeter::net::{Protocol, Transport};
/// use dosimeter::testing::Pump;
///
/// struct Count(u8);
///
/// impl Protocol for Count {
///     fn connection_made(&mut self, transport: &Transport) -> Result<()> {
///         transport.write([self.0]);
///         Ok(())
///     }
///
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
///         match data {
///             [.., 9] => transport.lose_connection(),
///             [.., n] => transport.write([n + 1]),
///             [] => unreachable!("there is a byte at least"),
///         }
///         Ok(())
///     }
/// }
///
/// let pump = Pump::new(Count(0), Count(5));
/// pump.flush();
/// assert!(!pump.client().is_connected() && !pump.server().is_connected());
/// ```
#[doc(alias = "connectedServerAndClient")]
#[doc(alias = "IOPump")]
pub struct Pump {
    client: Story,
    server: Story,
    memory: MemoryReactor,
}

impl Pump {
    /// Connects the two: both are told, the server's protocol first. What they write is on the way until
    /// [`flush`](Pump::flush).
    pub fn new(client: impl Protocol, server: impl Protocol) -> Self {
        Pump::in_pieces(usize::MAX, client, server)
    }

    /// The same over a wire that cuts everything into pieces of at most `size` bytes: what a protocol must not depend on.
    pub fn in_pieces(size: usize, client: impl Protocol, server: impl Protocol) -> Self {
        let memory = MemoryReactor::new();
        let (reactor, [here, there]) = (memory.reactor(), [CLIENT, SERVER].map(Address::from));
        let [near, far] = memory::pair(reactor, [here.clone(), there.clone()]);
        near.set_piece(size);
        far.set_piece(size);
        let (client_story, server_story) = (Story::default(), Story::default());
        attach(reactor, far, here, server, &server_story);
        attach(reactor, near, there, client, &client_story);
        Pump { client: client_story, server: server_story, memory }
    }

    /// Delivers what they write, both ways, until both are quiet.
    ///
    /// # Panics
    /// When that never comes.
    pub fn flush(&self) {
        self.memory.settle();
    }

    /// Lets time pass; see [`MemoryReactor::advance`].
    pub fn advance(&self, amount: Duration) {
        self.memory.advance(amount);
    }

    /// The client's transport.
    pub fn client(&self) -> Transport {
        self.client.transport()
    }

    /// The server's transport.
    pub fn server(&self) -> Transport {
        self.server.transport()
    }

    /// How the connection ended for the client, in the words of [`ConnectionLost`](crate::net::ConnectionLost).
    pub fn client_lost(&self) -> Option<String> {
        self.client.lost()
    }

    /// How the connection ended for the server.
    pub fn server_lost(&self) -> Option<String> {
        self.server.lost()
    }

    /// The reactor of both, with its time.
    pub fn memory(&self) -> &MemoryReactor {
        &self.memory
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").field("client", &self.client()).field("server", &self.server()).finish()
    }
}

const CLIENT: ([u8; 4], u16) = ([127, 0, 0, 1], 49_152);
const SERVER: ([u8; 4], u16) = ([127, 0, 0, 1], 80);
