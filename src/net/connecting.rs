//! Connecting: the life of a connector, from the first attempt to the last connection.
//!
//! Rules kept here:
//! - `started_connecting` is called inside `connect`; what becomes of the attempt is told later, from the loop, exactly once:
//!   by `build_protocol`, or by `client_connection_failed`.
//! - At the end of a connection the protocol is told first, then the factory, and then the factory is stopped, unless it has
//!   connected again from inside that call.
//! - An attempt that was given up is over at once: what its resolver or its sockets still say reaches nobody.
//! - No cell is borrowed while user code runs: a factory may do anything to its connector from inside any method.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem;
use std::rc::{Rc, Weak};

use crate::clock::{Clock, DelayedCall};
use crate::deferred::{Canceller, Completer};
use crate::failure::{Failure, Result, guard};
use crate::net::client::{CannotConnect, ClientEndpoint, ConnectErrorKind};
use crate::net::connector::{ClientFactory, Connector, ConnectorError, ConnectorState, Control};
use crate::net::dial::{Dialed, dial};
use crate::net::protocol::ConnectionLost;
use crate::net::socket::Peer;
use crate::net::stream::{self, Watcher};
use crate::net::transport::Transport;
use crate::reactor::poller::Readiness;
use crate::reactor::{Handler, Key, Reactor};

/// A connector: its factory, and how far its connection is.
pub(crate) struct Core<F> {
    me: Weak<Core<F>>,
    reactor: Reactor,
    pub(crate) endpoint: ClientEndpoint,
    factory: F,
    is_started: Cell<bool>,
    state: RefCell<State>,
    /// Who waits for the connection; told in place of the factory.
    audience: Cell<Option<Completer<Transport>>>,
}

enum State {
    Disconnected,
    Connecting(Attempt),
    /// The protocol is being made.
    Making {
        /// The connection is to be closed as soon as it has one.
        closing: bool,
    },
    Connected(Transport),
}

struct Attempt {
    key: Key,
    dialing: Option<Canceller>,
    timeout: Option<DelayedCall>,
    /// What is to be told. Of two the first counts, unless somebody gives the attempt up before it is told.
    outcome: Option<Result<Dialed, CannotConnect>>,
}

impl<F: ClientFactory> Core<F> {
    pub(crate) fn new(
        reactor: &Reactor,
        endpoint: ClientEndpoint,
        factory: F,
        audience: Option<Completer<Transport>>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|me: &Weak<Self>| {
            if let Some(completer) = &audience {
                let me = me.clone();
                completer.on_cancel(move || me.upgrade().into_iter().for_each(|core| core.disconnect()));
            }
            Core {
                me: me.clone(),
                reactor: reactor.clone(),
                endpoint,
                factory,
                is_started: Cell::new(false),
                state: RefCell::new(State::Disconnected),
                audience: Cell::new(audience),
            }
        })
    }

    fn begin(&self, key: Key) {
        let dialing = dial(&self.reactor, &self.endpoint);
        let canceller = dialing.canceller();
        let core = self.me.clone();
        dialing.add_both(move |result| {
            if let Some(core) = core.upgrade() {
                core.dialed(key, result);
            }
        });
        if let State::Connecting(attempt) = &mut *self.state.borrow_mut()
            && attempt.key == key
            && attempt.outcome.is_none()
        {
            attempt.dialing = Some(canceller);
            attempt.timeout = Some(self.arm_timeout(key));
        }
    }

    fn arm_timeout(&self, key: Key) -> DelayedCall {
        let core = self.me.clone();
        self.endpoint.clock_in(&self.reactor).call_later(self.endpoint.timeout, move || {
            if let Some(core) = core.upgrade() {
                core.conclude(Err(core.cannot_connect(ConnectErrorKind::TimedOut)), |attempt| attempt.is_open(key));
            }
        })
    }

    fn dialed(&self, key: Key, result: Result<Dialed>) {
        let outcome = result.map_err(|failure| {
            let other = |failure| self.cannot_connect(ConnectErrorKind::Other).because(failure);
            failure.trap::<CannotConnect>().unwrap_or_else(other)
        });
        self.conclude(outcome, |attempt| attempt.is_open(key));
    }

    /// Has `outcome` told from the loop, if `applies` to the attempt under way; nothing of the attempt is left then.
    fn conclude(&self, outcome: Result<Dialed, CannotConnect>, applies: impl FnOnce(&Attempt) -> bool) -> bool {
        let (former, dialing, timeout) = match &mut *self.state.borrow_mut() {
            State::Connecting(attempt) if applies(attempt) => {
                self.reactor.ready_again(attempt.key);
                (attempt.outcome.replace(outcome), attempt.dialing.take(), attempt.timeout.take())
            }
            _ => return false,
        };
        drop(former);
        // Past already when it is what calls.
        let _ = timeout.map(|call| call.cancel());
        dialing.into_iter().for_each(|dialing| dialing.cancel());
        true
    }

    fn take_outcome(&self) -> Option<(Key, Result<Dialed, CannotConnect>)> {
        let mut state = self.state.borrow_mut();
        match mem::replace(&mut *state, State::Disconnected) {
            State::Connecting(Attempt { key, outcome: Some(outcome), .. }) => {
                if outcome.is_ok() {
                    *state = State::Making { closing: false };
                }
                Some((key, outcome))
            }
            other => {
                *state = other;
                None
            }
        }
    }

    fn tell_outcome(&self) {
        let Some((key, outcome)) = self.take_outcome() else { return };
        self.reactor.remove_handler(key);
        match outcome {
            Ok(dialed) => self.connected(dialed),
            Err(error) => self.failed(error),
        }
    }

    fn connected(&self, dialed: Dialed) {
        self.reactor.connection_figures().made.add(1);
        let peer = dialed.peer();
        match guard(|| self.factory.build_protocol(&peer)) {
            Ok(Some(protocol)) => match self.start(dialed, protocol) {
                Ok(()) => self.tell_audience(),
                Err(error) => {
                    self.state.replace(State::Disconnected);
                    self.failed(CannotConnect::of_system(&self.endpoint, peer.socket_addr(), error));
                }
            },
            Ok(None) => {
                drop(dialed);
                self.lost(ConnectionLost::Done);
            }
            Err(failure) => {
                drop(dialed);
                self.reactor.count_panic(&failure);
                failure.log(LOG, format_args!("no protocol for {peer}"));
                self.lost(ConnectionLost::Failed(failure));
            }
        }
    }

    fn start(&self, dialed: Dialed, protocol: F::Protocol) -> io::Result<()> {
        let peer = Peer::new(dialed.peer());
        let watch = Watch { core: self.me.upgrade().expect("somebody calls this"), reason: Cell::new(None) };
        match dialed {
            Dialed::Tcp(socket, _) => stream::start(&self.reactor, socket, peer, protocol, watch),
            Dialed::Unix(socket, _) => stream::start(&self.reactor, socket, peer, protocol, watch),
            Dialed::Memory(socket, _) => stream::start(&self.reactor, socket, peer, protocol, watch),
        }
    }

    /// The protocol knows of its connection; if that has not ended already, so does now who waits for it.
    fn tell_audience(&self) {
        let transport = match &*self.state.borrow() {
            State::Connected(transport) => transport.clone(),
            _ => return,
        };
        if let Some(completer) = self.audience.take().filter(|completer| !completer.is_cancelled()) {
            completer.callback(transport);
        }
    }

    pub(crate) fn failed(&self, error: CannotConnect) {
        self.reactor.connection_figures().connect_errors[error.kind() as usize].add(1);
        match self.audience.take() {
            Some(completer) if completer.is_cancelled() => {}
            Some(completer) => completer.errback(error),
            None => self.tell_factory("client_connection_failed", |factory, connector| {
                factory.client_connection_failed(connector, error);
            }),
        }
        self.stop_factory();
    }

    fn lost(&self, reason: ConnectionLost) {
        self.state.replace(State::Disconnected);
        match self.audience.take() {
            Some(completer) if completer.is_cancelled() => {}
            Some(completer) => completer.errback(reason),
            None => self.tell_factory("client_connection_lost", |factory, connector| {
                factory.client_connection_lost(connector, reason);
            }),
        }
        self.stop_factory();
    }

    fn tell_factory(&self, what: &str, method: impl FnOnce(&F, &Connector)) {
        let connector = Connector::new(self.me.upgrade().expect("somebody calls this"));
        if let Err(failure) = guard(|| method(&self.factory, &connector)) {
            self.reactor.count_panic(&failure);
            failure.log(LOG, format_args!("{what} for {} failed", self.endpoint));
        }
    }

    /// A factory that connects again from inside its own method was never stopped.
    fn start_factory(&self) -> Result<()> {
        if self.is_started.replace(true) {
            return Ok(());
        }
        guard(|| self.factory.start_factory()).flatten().inspect_err(|_| self.is_started.set(false))
    }

    fn stop_factory(&self) {
        if !matches!(*self.state.borrow(), State::Disconnected) || !self.is_started.replace(false) {
            return;
        }
        if let Err(failure) = guard(|| self.factory.stop_factory()).flatten() {
            self.reactor.count_panic(&failure);
            failure.log(LOG, format_args!("stopping the factory of {} failed", self.endpoint));
        }
    }

    pub(crate) fn cannot_connect(&self, kind: ConnectErrorKind) -> CannotConnect {
        CannotConnect::new(kind, &self.endpoint)
    }
}

impl Attempt {
    fn is_open(&self, key: Key) -> bool {
        self.key == key && self.outcome.is_none()
    }
}

impl<F: ClientFactory> Control for Core<F> {
    fn connect(self: Rc<Self>) -> Result<(), ConnectorError> {
        if !matches!(*self.state.borrow(), State::Disconnected) {
            return Err(ConnectorError::AlreadyConnecting);
        }
        let key = self.reactor.add_handler(self.clone()).map_err(|_| ConnectorError::ReactorStopped)?;
        self.state.replace(State::Connecting(Attempt { key, dialing: None, timeout: None, outcome: None }));
        match self.start_factory() {
            Ok(()) => self.begin(key),
            Err(failure) => {
                let error = self.cannot_connect(ConnectErrorKind::Factory).because(failure);
                self.conclude(Err(error), |attempt| attempt.is_open(key));
            }
        }
        self.tell_factory("started_connecting", |factory, connector| factory.started_connecting(connector));
        Ok(())
    }

    fn stop_connecting(&self) -> Result<(), ConnectorError> {
        let stopped = Err(self.cannot_connect(ConnectErrorKind::Stopped));
        // Also in the gap between being connected and being told so.
        let is_stopped = self.conclude(stopped, |attempt| !matches!(attempt.outcome, Some(Err(_))));
        is_stopped.then_some(()).ok_or(ConnectorError::NotConnecting)
    }

    fn disconnect(&self) {
        let transport = match &mut *self.state.borrow_mut() {
            State::Connected(transport) => Some(transport.clone()),
            State::Making { closing } => {
                *closing = true;
                None
            }
            State::Connecting(_) | State::Disconnected => None,
        };
        match transport {
            Some(transport) => transport.lose_connection(),
            // Nothing to be stopped is what was asked for.
            None => drop(self.stop_connecting()),
        }
    }

    fn state(&self) -> ConnectorState {
        match &*self.state.borrow() {
            State::Disconnected => ConnectorState::Disconnected,
            State::Connecting(_) => ConnectorState::Connecting,
            State::Making { .. } | State::Connected(_) => ConnectorState::Connected,
        }
    }

    fn endpoint(&self) -> &ClientEndpoint {
        &self.endpoint
    }

    fn reactor(&self) -> &Reactor {
        &self.reactor
    }
}

/// While it is connecting a connector is a source without a descriptor: it asks to be called, and is told of the end.
impl<F: ClientFactory> Handler for Core<F> {
    fn ready(self: Rc<Self>, _readiness: Readiness) {
        self.tell_outcome();
    }

    fn flush(self: Rc<Self>) {}

    fn shut_down(self: Rc<Self>) {
        self.conclude(Err(self.cannot_connect(ConnectErrorKind::ReactorStopped)), |_| true);
        self.tell_outcome();
    }
}

/// What ties a connection to its connector.
struct Watch<F> {
    core: Rc<Core<F>>,
    reason: Cell<Option<ConnectionLost>>,
}

impl<F: ClientFactory> Watcher for Watch<F> {
    fn beginning(&self, transport: impl FnOnce() -> Transport) {
        let transport = transport();
        let former = self.core.state.replace(State::Connected(transport.clone()));
        if matches!(former, State::Making { closing: true }) {
            transport.lose_connection();
        }
    }

    fn ending(&self, reason: &ConnectionLost) {
        self.reason.set(Some(copy(reason)));
    }

    fn ended(&self) {
        self.core.lost(self.reason.take().unwrap_or(ConnectionLost::Done));
    }
}

/// The reason once more: the protocol has got the original.
fn copy(reason: &ConnectionLost) -> ConnectionLost {
    match reason {
        ConnectionLost::Done => ConnectionLost::Done,
        ConnectionLost::Aborted => ConnectionLost::Aborted,
        ConnectionLost::Io(error) => ConnectionLost::Io(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        }),
        ConnectionLost::Failed(failure) => ConnectionLost::Failed(Failure::new(failure.to_string())),
        ConnectionLost::ReactorStopped => ConnectionLost::ReactorStopped,
    }
}

const LOG: &str = "dosimeter::net";
