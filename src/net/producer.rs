//! [`Producer`]: what makes data for a transport, at the pace at which they are taken.
//!
//! Rules kept here:
//! - A producer is called by the driver of the connection, never from inside a method of the transport: it may write, unregister
//!   or lose the connection in whatever it is told.

use std::error::Error;
use std::fmt;

use crate::failure::Result;

/// Something that makes data and can be told to wait, as Twisted's `IPushProducer` and `IPullProducer`.
///
/// It is put on a transport with [`Transport::register_producer`](crate::net::Transport::register_producer) and writes to it.
/// A transport is itself a producer: of what its peer sends. So two connections are joined, each read no faster than the other
/// one is written, by registering each with the other.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use dosimeter::Result;
/// use dosimeter::net::{Producer, ProducerKind, Protocol, Transport};
/// use dosimeter::testing::MemoryTransport;
///
/// /// Counts down, a line whenever the one before is sent.
/// struct Countdown {
///     next: Cell<u32>,
///     transport: Transport,
/// }
///
/// impl Producer for Countdown {
///     fn resume_producing(&self) -> Result<()> {
///         self.transport.write(format!("{}\n", self.next.get()));
///         if self.next.get() == 0 {
///             self.transport.unregister_producer();
///         }
///         self.next.set(self.next.get().saturating_sub(1));
///         Ok(())
///     }
/// }
///
/// struct Rocket;
///
/// impl Protocol for Rocket {
///     fn connection_made(&mut self, transport: &Transport) -> Result<()> {
///         let countdown = Countdown { next: Cell::new(3), transport: transport.clone() };
///         transport.register_producer(Rc::new(countdown), ProducerKind::Pull)?;
///         // Waits until the countdown is over.
///         transport.lose_connection();
///         Ok(())
///     }
///
///     fn data_received(&mut self, _: &Transport, _: &[u8]) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// let wire = MemoryTransport::new(Rocket);
/// assert_eq!(wire.take(), b"3\n2\n1\n0\n");
/// assert!(wire.lost().is_some());
/// ```
#[doc(alias = "IPushProducer")]
#[doc(alias = "IPullProducer")]
pub trait Producer {
    /// Data are wanted: again, after [`pause_producing`](Producer::pause_producing), or the next ones, of a producer that is
    /// pulled.
    ///
    /// # Errors
    /// An error ends the connection as one of its protocol does.
    fn resume_producing(&self) -> Result<()>;

    /// No more data, please: more than 64 KiB wait for the peer. What is written all the same is kept.
    fn pause_producing(&self) {}

    /// No data are wanted any more: the connection is lost. Comes before the protocol's `connection_lost`, and not after the
    /// producer was unregistered.
    fn stop_producing(&self) {}
}

/// Who decides when a [`Producer`] makes data.
#[doc(alias = "streaming")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProducerKind {
    /// The producer, until it is paused: it has a source of its own, such as another connection.
    Push,
    /// The transport: it asks for some at the beginning, and again whenever everything was sent. A producer that has nothing to
    /// write when it is asked is asked again when something else was sent.
    Pull,
}

/// A transport has a producer already, and can have only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerRegistered;

impl fmt::Display for ProducerRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the transport has a producer already; unregister that one first")
    }
}

impl Error for ProducerRegistered {}
