//! [`MemoryReactor`]: a reactor for tests.
//!
//! Rules kept here:
//! - It is a reactor, not the picture of one: the loop, the drivers, the servers and their figures are those of the crate.
//!   What differs is where the time and the bytes come from.
//! - Nothing waits and nothing depends on the machine: a test that passes once passes always.
//! - What never comes to rest is a failed test and not one that hangs.

use std::fmt;
use std::time::{Duration, Instant};

use prometheus::Registry;

use crate::clock::{Clock, Timers};
use crate::net::Address;
use crate::net::memory::Network;
use crate::reactor::Reactor;
use crate::testing::logged::{LoggedErrors, collect_logged_errors};

/// A [`Reactor`] in virtual time, with a network in memory.
///
/// The reactor it holds is given to the code under test, which cannot tell the difference: timed calls, chains, tasks,
/// transports, sites and metrics work as ever. But
///
/// - time stands still while code runs, and is moved by [`advance`](MemoryReactor::advance): an hour takes no time;
/// - ports that the code listens on open no socket; [`connect`](MemoryReactor::connect) and, with datagrams,
///   [`socket`](MemoryReactor::socket) reach them, from this test only;
/// - what is given to the thread pool runs in this thread, in the next turn, so that its order is always the same.
///
/// A panic in a callback is logged and survived, as in any reactor, but not forgotten: when this is dropped, what was logged of
/// failures meanwhile has to have been taken with [`flush_logged_errors`](crate::testing::flush_logged_errors), or it panics.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::net::{Address, Protocol, Transport};
/// use dosimeter::testing::MemoryReactor;
/// use dosimeter::{Clock, Result};
///
/// /// Answers every byte a second later.
/// struct Late;
///
/// impl Protocol for Late {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
///         let (transport, data) = (transport.clone(), data.to_vec());
///         transport.reactor().clone().call_later(Duration::from_secs(1), move || transport.write(data));
///         Ok(())
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let memory = MemoryReactor::new();
/// memory.reactor().listen_tcp(7, |_: &Address| Late)?;
///
/// let client = memory.connect(([127, 0, 0, 1], 7));
/// client.send("late");
/// memory.advance(Duration::from_millis(999));
/// assert_eq!(client.take(), b"");
/// memory.advance(Duration::from_millis(1));
/// assert_eq!(client.take(), b"late");
/// # Ok(())
/// # }
/// ```
///
/// Dropping it ends the reactor as [`Reactor::run`] does: connections are told that the reactor stopped.
#[doc(alias = "MemoryReactorClock")]
pub struct MemoryReactor {
    reactor: Reactor,
    registry: Registry,
    start: Instant,
    /// Dropped last, so that it hears of everything.
    _logged: LoggedErrors,
}

impl MemoryReactor {
    /// A reactor at time zero, with a registry and a network of its own.
    ///
    /// # Panics
    /// When the system refuses the two descriptors that every reactor needs.
    pub fn new() -> Self {
        let registry = Registry::new();
        let builder = Reactor::builder().metrics(registry.clone()).signal_handlers(false).virtual_time();
        let reactor = builder.build().expect("two descriptors for a reactor");
        let start = reactor.now();
        MemoryReactor { reactor, registry, start, _logged: collect_logged_errors() }
    }

    /// The reactor, for the code under test.
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// Where the figures of the reactor and of the servers on it are published.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// How much time has passed since the reactor was made.
    #[doc(alias = "seconds")]
    pub fn time(&self) -> Duration {
        self.reactor.now() - self.start
    }

    /// One turn of the loop, in which no time passes.
    ///
    /// # Panics
    /// From inside a callback, and when the reactor has ended.
    #[doc(alias = "iterate")]
    pub fn turn(&self) {
        turn(&self.reactor, Duration::ZERO);
    }

    /// Turns until nothing is left to do at this time: what was sent has arrived, what was due has run.
    ///
    /// # Panics
    /// From inside a callback; when it does not come to rest, because something calls itself again and again without delay.
    pub fn settle(&self) {
        settle(&self.reactor);
    }

    /// Lets time pass, and everything happen that happens meanwhile. When the reactor ends, so does this.
    ///
    /// Every timed call runs when it is due, as in a loop that nothing holds up. (A [`testing::Clock`](crate::testing::Clock)
    /// moves at one go, and what was due on the way finds the new time.) What is due at the end is run as well.
    ///
    /// # Panics
    /// As [`settle`](MemoryReactor::settle).
    pub fn advance(&self, amount: Duration) {
        let end = self.reactor.timers().after(amount);
        settle(&self.reactor);
        while self.reactor.now() < end && !self.reactor.has_ended() {
            turn(&self.reactor, end - self.reactor.now());
            settle(&self.reactor);
        }
    }

    /// Lets time pass in steps: [`advance`](MemoryReactor::advance) by each of `amounts`.
    ///
    /// # Panics
    /// As `settle`.
    pub fn pump(&self, amounts: impl IntoIterator<Item = Duration>) {
        amounts.into_iter().for_each(|amount| self.advance(amount));
    }

    /// Lets time pass until `done`, for at most `patience`; tells whether it is.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dosimeter::testing::MemoryReactor;
    ///
    /// let memory = MemoryReactor::new();
    /// let tea = dosimeter::defer_later(memory.reactor(), Duration::from_secs(180), || "tea");
    /// assert!(memory.advance_until(Duration::from_secs(600), || tea.is_fired()));
    /// assert_eq!(memory.time(), Duration::from_secs(180));
    /// ```
    ///
    /// # Panics
    /// As `settle`.
    pub fn advance_until(&self, patience: Duration, mut done: impl FnMut() -> bool) -> bool {
        let end = self.reactor.timers().after(patience);
        settle(&self.reactor);
        while !done() {
            let left = end.saturating_duration_since(self.reactor.now());
            if left.is_zero() || self.reactor.has_ended() {
                return false;
            }
            self.advance_to_next(left);
        }
        true
    }

    /// Lets time pass until the next timed call, or at most `limit`.
    pub(super) fn advance_to_next(&self, limit: Duration) {
        turn(&self.reactor, limit);
        settle(&self.reactor);
    }

    /// Where the code under test listens, in the order in which it began.
    pub fn listening(&self) -> Vec<Address> {
        Network::of(&self.reactor).map(|network| network.listening()).unwrap_or_default()
    }
}

impl Default for MemoryReactor {
    fn default() -> Self {
        MemoryReactor::new()
    }
}

/// It is a clock, as its reactor is.
impl Clock for MemoryReactor {
    fn timers(&self) -> &Timers {
        self.reactor.timers()
    }
}

impl fmt::Debug for MemoryReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryReactor").field("time", &self.time()).field("listening", &self.listening()).finish()
    }
}

impl Drop for MemoryReactor {
    fn drop(&mut self) {
        // Ports and connections hold the reactor that holds them. In a test that is failing no more code of it is run.
        if !std::thread::panicking() {
            self.reactor.shut_down();
        }
    }
}

#[track_caller]
fn turn(reactor: &Reactor, timeout: Duration) {
    if let Err(failure) = reactor.turn(Some(timeout)) {
        panic!("the reactor cannot turn: {}", failure.report());
    }
}

/// See [`MemoryReactor::settle`].
#[track_caller]
pub(super) fn settle(reactor: &Reactor) {
    for _ in 0..MOST_TURNS {
        if reactor.has_ended() {
            // What came of it can still be looked at.
            return;
        }
        turn(reactor, Duration::ZERO);
        if !reactor.is_busy() {
            return;
        }
    }
    panic!("after {MOST_TURNS} turns there is still something to do: does a call arm itself again without delay?");
}

/// About what a megabyte takes that is sent byte by byte, and a matter of seconds for what never ends.
const MOST_TURNS: usize = 1_000_000;
