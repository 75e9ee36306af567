//! Connecting again and again: [`Reconnecting`], and the pauses between, [`Backoff`].
//!
//! Rules kept here:
//! - Pauses grow, and differ from client to client: a thousand clients that lost one server do not come back at one moment.
//! - There is one timer at the most, and none after `stop_trying`, nor once the reactor has stopped.
//! - What cannot get better is not tried again: an address that is none, and what the program itself gave up.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock::{Clock, DelayedCall, Timers};
use crate::failure::Result;
use crate::net::address::Address;
use crate::net::client::{CannotConnect, ConnectErrorKind};
use crate::net::connector::{ClientFactory, Connector, ConnectorState, WeakConnector};
use crate::net::protocol::{ConnectionLost, Factory};

/// A client factory that connects again when the connection is lost or cannot be made, as Twisted's
/// ReconnectingClientFactory.
///
/// The factory inside makes the protocols and is told of everything first. The pauses are those of a [`Backoff`]; they begin
/// anew after a connection that lasted at least as long as the pause before it, so nobody has to reset them. A program that
/// closes the connection and wants it to stay closed calls [`Retry::stop_trying`] first. What was given up with
/// [`Connector::stop_connecting`] is not tried again.
///
/// ```no_run
/// use dosimeter::Reactor;
/// use dosimeter::net::{Address, Reconnecting};
/// # use dosimeter::net::{Protocol, Transport};
/// # struct Feed;
/// # impl Protocol for Feed {
/// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> dosimeter::Result<()> { Ok(()) }
/// # }
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let factory = Reconnecting::new(|_: &Address| Feed).max_retries(20);
/// let retry = factory.retry();
/// reactor.connect_tcp("feed.example.org:4000", factory);
/// reactor.on_shutdown().before(move || retry.stop_trying());
/// reactor.run()
/// # }
/// ```
#[doc(alias = "ReconnectingClientFactory")]
pub struct Reconnecting<F> {
    factory: F,
    retry: Retry,
}

impl<F: ClientFactory> Reconnecting<F> {
    /// Connects again with the default pauses and without end.
    pub fn new(factory: F) -> Self {
        let state = State {
            backoff: RefCell::new(Backoff::new()),
            max_retries: Cell::new(None),
            retries: Cell::new(0),
            is_trying: Cell::new(true),
            pause: Cell::new(Duration::ZERO),
            connected: Cell::new(None),
            clock: RefCell::new(None),
            connector: Cell::new(None),
            call: Cell::new(None),
        };
        Reconnecting { factory, retry: Retry(Rc::new(state)) }
    }

    /// The pauses between attempts.
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.retry.0.backoff.replace(backoff);
        self
    }

    /// After this many attempts in a row that came to nothing it is given up, and that logged; never unless set.
    #[doc(alias = "maxRetries")]
    pub fn max_retries(self, retries: u32) -> Self {
        self.retry.0.max_retries.set(Some(retries));
        self
    }

    /// The clock for the pauses, in place of the reactor's: for tests.
    pub fn clock(self, clock: &impl Clock) -> Self {
        self.retry.0.clock.replace(Some(clock.timers().clone()));
        self
    }

    /// The handle to keep when the factory goes to the reactor.
    pub fn retry(&self) -> Retry {
        self.retry.clone()
    }
}

impl<F> fmt::Debug for Reconnecting<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnecting").field("retry", &self.retry).finish_non_exhaustive()
    }
}

/// How connecting again goes on: a cheap handle to a [`Reconnecting`].
#[derive(Clone)]
pub struct Retry(Rc<State>);

struct State {
    backoff: RefCell<Backoff>,
    max_retries: Cell<Option<u32>>,
    /// Attempts since the last connection that lasted.
    retries: Cell<u32>,
    is_trying: Cell<bool>,
    /// The one before the present attempt or connection.
    pause: Cell<Duration>,
    connected: Cell<Option<Instant>>,
    clock: RefCell<Option<Timers>>,
    /// From the first attempt on.
    connector: Cell<Option<WeakConnector>>,
    call: Cell<Option<DelayedCall>>,
}

impl Retry {
    /// Ends it: what is under way is given up, and nothing is tried again. A connection that is there goes on.
    #[doc(alias = "stopTrying")]
    pub fn stop_trying(&self) {
        self.0.is_trying.set(false);
        self.disarm();
        if let Some(connector) = self.0.connector.take().and_then(|connector| connector.upgrade()) {
            // Nothing to be stopped is what was asked for.
            let _ = connector.stop_connecting();
        }
    }

    /// Begins the pauses anew, and the count of attempts.
    #[doc(alias = "resetDelay")]
    pub fn reset_delay(&self) {
        self.0.backoff.borrow_mut().reset();
        self.0.retries.set(0);
    }

    /// The attempts since the last connection that lasted.
    pub fn retries(&self) -> u32 {
        self.0.retries.get()
    }

    /// Whether it goes on: not after [`stop_trying`](Retry::stop_trying), nor when it was given up.
    #[doc(alias = "continueTrying")]
    pub fn is_trying(&self) -> bool {
        self.0.is_trying.get()
    }

    fn clock_of(&self, connector: &Connector) -> Timers {
        self.0.clock.borrow_mut().get_or_insert_with(|| connector.reactor().timers().clone()).clone()
    }

    fn disarm(&self) {
        if let Some(call) = self.0.call.take() {
            // Past already when it is what calls.
            let _ = call.cancel();
        }
    }

    fn note_connection(&self) {
        let now = self.0.clock.borrow().as_ref().map(Clock::now);
        self.0.connected.set(now);
    }

    fn note_loss(&self, connector: &Connector) {
        let now = self.clock_of(connector).now();
        let lasted = self.0.connected.take().map(|since| now.saturating_duration_since(since));
        if lasted.is_some_and(|lasted| lasted >= self.0.pause.get()) {
            self.reset_delay();
        }
    }

    fn try_again(&self, connector: &Connector) {
        if !self.is_trying() || connector.state() != ConnectorState::Disconnected {
            return;
        }
        if self.0.max_retries.get().is_some_and(|most| self.retries() >= most) {
            log::error!(target: LOG, "giving up on {} after {} attempts", connector.endpoint(), self.retries());
            self.0.is_trying.set(false);
            return;
        }
        let pause = self.0.backoff.borrow_mut().next_delay();
        log::info!(target: LOG, "connecting to {} again in {pause:.1?}", connector.endpoint());
        self.0.retries.set(self.retries() + 1);
        self.0.pause.set(pause);
        let again = connector.clone();
        let call = self.clock_of(connector).call_later(pause, move || {
            // The factory inside may have been quicker.
            let _ = again.connect();
        });
        self.0.call.set(Some(call));
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("retries", &self.retries()).field("is_trying", &self.is_trying()).finish()
    }
}

impl<F: ClientFactory> Factory for Reconnecting<F> {
    type Protocol = F::Protocol;

    fn build_protocol(&self, peer: &Address) -> Option<F::Protocol> {
        self.retry.note_connection();
        self.factory.build_protocol(peer)
    }

    fn start_factory(&self) -> Result<()> {
        self.factory.start_factory()
    }

    fn stop_factory(&self) -> Result<()> {
        self.factory.stop_factory()
    }
}

impl<F: ClientFactory> ClientFactory for Reconnecting<F> {
    fn started_connecting(&self, connector: &Connector) {
        self.retry.clock_of(connector);
        self.retry.disarm();
        self.retry.0.connector.set(Some(connector.downgrade()));
        self.factory.started_connecting(connector);
    }

    fn client_connection_failed(&self, connector: &Connector, reason: CannotConnect) {
        let kind = reason.kind();
        self.factory.client_connection_failed(connector, reason);
        if !matches!(kind, ConnectErrorKind::Address | ConnectErrorKind::Stopped | ConnectErrorKind::ReactorStopped) {
            self.retry.try_again(connector);
        }
    }

    fn client_connection_lost(&self, connector: &Connector, reason: ConnectionLost) {
        let is_final = matches!(reason, ConnectionLost::ReactorStopped);
        self.retry.note_loss(connector);
        self.factory.client_connection_lost(connector, reason);
        if !is_final {
            self.retry.try_again(connector);
        }
    }
}

/// Pauses that grow, each a little by chance: 1 s, 2.7 s, 7.4 s and so on, up to an hour.
///
/// The figures are Twisted's, except that the first pause is [`initial_delay`](Backoff::initial_delay) itself.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::net::Backoff;
///
/// let mut backoff = Backoff::new().factor(2.0).max_delay(Duration::from_secs(5)).jitter(0.0);
/// let pauses = [(); 4].map(|()| backoff.next_delay().as_secs());
/// assert_eq!(pauses, [1, 2, 4, 5]);
/// backoff.reset();
/// assert_eq!(backoff.next_delay().as_secs(), 1);
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    initial_delay: Duration,
    factor: f64,
    max_delay: Duration,
    jitter: f64,
    chance: u64,
    /// Pauses since the beginning.
    pauses: i32,
}

impl Backoff {
    /// The default pauses, with chance from the system.
    pub fn new() -> Self {
        Backoff {
            initial_delay: INITIAL_DELAY,
            factor: FACTOR,
            max_delay: MAX_DELAY,
            jitter: JITTER,
            chance: RandomState::new().build_hasher().finish(),
            pauses: 0,
        }
    }

    /// The first pause; 1 s unless set.
    #[doc(alias = "initialDelay")]
    pub fn initial_delay(mut self, delay: Duration) -> Self {
        self.initial_delay = delay;
        self
    }

    /// By how much each pause is longer than the one before; e unless set.
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// The longest pause, before chance; an hour unless set.
    #[doc(alias = "maxDelay")]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// How much a pause differs by chance: the standard deviation, as a part of it; 0.12 unless set, 0 for none.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// Where chance begins: with the same seed come the same pauses.
    pub fn seed(mut self, seed: u64) -> Self {
        self.chance = seed;
        self
    }

    /// The next pause.
    pub fn next_delay(&mut self) -> Duration {
        let grown = self.initial_delay.as_secs_f64() * self.factor.powi(self.pauses);
        let pause = grown.min(self.max_delay.as_secs_f64());
        self.pauses = self.pauses.saturating_add(1);
        let by_chance = pause * (1.0 + self.jitter * self.normal()).max(0.0);
        // Only figures that are none come to nothing here.
        Duration::try_from_secs_f64(by_chance).unwrap_or(self.max_delay)
    }

    /// Begins anew.
    pub fn reset(&mut self) {
        self.pauses = 0;
    }

    /// Of the standard normal distribution, nearly: the sum of twelve uniform numbers, less their mean. It never leaves
    /// -6 to 6.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// From 0 to 1: SplitMix64.
    fn uniform(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::new()
    }
}

const LOG: &str = "dosimeter::net";

/// Twisted's figures. A server that is restarted is back within seconds; e is as good as any factor that does not hurry.
const INITIAL_DELAY: Duration = Duration::from_secs(1);
const FACTOR: f64 = std::f64::consts::E;

/// A client that is forgotten costs a server one connection an hour.
const MAX_DELAY: Duration = Duration::from_secs(3600);

/// The molar Planck constant times the speed of light, in joule metres per mole: as good as any.
const JITTER: f64 = 0.119_626_565_582;
