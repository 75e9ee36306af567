//! The end of a site in good order: what is in hand is finished, nothing new is begun, and all of it has a deadline.
//!
//! Rules kept here:
//! - Nobody who was told that a request is welcome is cut off: what has been sent is read before a connection is closed, who
//!   waits to be accepted, or is about to, is accepted before a port is, and a connection that was used just now is given a
//!   moment more.
//! - A drain ends. What is left at the deadline is aborted.
//! - A connection knows of a drain through its site, and costs nothing more for it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use ::http::StatusCode;

use crate::clock::{Clock, DelayedCall};
use crate::deferred::{Completer, Deferred};
use crate::net::{Address, ListeningPort};
use crate::reactor::{Reactor, WeakReactor};
use crate::web::metrics::HttpFigures;
use crate::web::request::Request;
use crate::web::resource::{Render, Resource};
use crate::web::response::Response;

/// How long a [`Site`](super::Site) takes to end; see [`Site::shutdown`](super::Site::shutdown).
///
/// ```
/// use std::time::Duration;
/// use dosimeter::web::Drain;
///
/// // What a balancer asks every 2 s, and believes after the third time, is told for 6 s before the door is closed.
/// let drain = Drain::new(Duration::from_secs(30)).accepting_for(Duration::from_secs(6));
/// assert!(drain.accepting < drain.deadline);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Drain {
    /// When what is left is aborted, counted from the beginning.
    pub deadline: Duration,
    /// For how long connections are still accepted: until those who send them have learned that no more are wanted.
    ///
    /// Then nobody else gets in, and a fifth of a second later, when the last handshakes are over, the ports are closed. Who
    /// tries to connect in between is refused when its system tries again, after a second.
    pub accepting: Duration,
}

impl Drain {
    /// Lets nobody else in, from the beginning, and aborts what is left after `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Drain { deadline, accepting: Duration::ZERO }
    }

    /// The same, but accepting connections for `pause` more.
    #[must_use]
    pub fn accepting_for(self, pause: Duration) -> Self {
        Drain { accepting: pause, ..self }
    }
}

/// Whether a site wants requests, for those who ask before they send any.
///
/// It is a resource: `200` when it does, `503` when it does not. A clone is the same one, so that it may stand in the tree it
/// tells of, or in that of another site, on a port that only the operator reaches.
///
/// ```
/// use dosimeter::web::{Branch, Site};
///
/// let root = Branch::new();
/// let site = Site::new(root.clone());
/// root.put_child("readyz", site.readiness());
/// assert!(site.readiness().is_ready());
/// ```
#[derive(Clone)]
pub struct Readiness(Rc<State>);

struct State {
    /// The program says so.
    ready: Cell<bool>,
    draining: Cell<bool>,
}

impl Readiness {
    fn new() -> Self {
        Readiness(Rc::new(State { ready: Cell::new(true), draining: Cell::new(false) }))
    }

    /// Whether requests are welcome: the site does not drain, and the program has not said otherwise.
    pub fn is_ready(&self) -> bool {
        self.0.ready.get() && !self.0.draining.get()
    }

    /// Says whether the program is ready: not before its caches are warm, say. It is unless it says otherwise; a site that
    /// drains is not, whatever it says.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.set(ready);
    }
}

impl Resource for Readiness {
    fn render_get(&self, _request: Request) -> Render {
        match self.is_ready() {
            true => Response::text("ready\n").into(),
            false => Response::text("not ready\n").with_status(StatusCode::SERVICE_UNAVAILABLE).into(),
        }
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.is_ready()).finish()
    }
}

/// How far a site has come with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// Every answer is the last of its connection.
    Draining,
    /// What is left is aborted.
    Over,
}

/// The end of one site.
pub(crate) struct Draining {
    phase: Cell<Phase>,
    readiness: Readiness,
    /// The ports that connections come from.
    ports: RefCell<Vec<ListeningPort<Address>>>,
    /// The reactors that connections are on.
    reactors: RefCell<Vec<(Rc<HttpFigures>, WeakReactor)>>,
    /// Until then no drain is over, connections or not.
    accepting: Cell<bool>,
    timers: RefCell<Vec<DelayedCall>>,
    waiters: RefCell<Vec<Completer<()>>>,
}

impl Draining {
    pub(crate) fn new() -> Self {
        Draining {
            phase: Cell::new(Phase::Serving),
            readiness: Readiness::new(),
            ports: RefCell::default(),
            reactors: RefCell::default(),
            accepting: Cell::new(false),
            timers: RefCell::default(),
            waiters: RefCell::default(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(crate) fn add_port(&self, port: &ListeningPort<Address>) {
        self.ports.borrow_mut().push(port.clone());
    }

    /// Forgets the ports that have stopped: they hold their factory, and it would hold them.
    pub(crate) fn forget_stopped_ports(&self) {
        let (open, stopped): (Vec<_>, Vec<_>) = self.ports.take().into_iter().partition(ListeningPort::is_listening);
        self.ports.borrow_mut().extend(open);
        drop(stopped);
    }

    /// A connection is on this reactor.
    pub(crate) fn note_reactor(&self, figures: &Rc<HttpFigures>, reactor: &Reactor) {
        let mut known = self.reactors.borrow_mut();
        if !known.iter().any(|(known, _)| Rc::ptr_eq(known, figures)) {
            known.push((figures.clone(), reactor.downgrade()));
        }
    }

    /// Begins to end, or to end sooner; the chain fires when no connection is left.
    pub(crate) fn begin(self: &Rc<Self>, drain: &Drain, is_empty: impl Fn() -> bool + 'static) -> Deferred<()> {
        self.readiness.0.draining.set(true);
        let (completer, over) = Deferred::pair();
        self.waiters.borrow_mut().push(completer);
        let first = self.phase.get() == Phase::Serving;
        if first {
            self.phase.set(Phase::Draining);
            self.accepting.set(true);
        }
        let reactors = self.all_reactors();
        let is_empty = Rc::new(is_empty);
        match reactors.first() {
            Some(reactor) => {
                self.at(reactor, drain.accepting, &is_empty, Draining::close_doors);
                self.at(reactor, drain.accepting.saturating_add(HANDSHAKE), &is_empty, Draining::stop_accepting);
                self.at(reactor, drain.deadline, &is_empty, Draining::abort);
            }
            // It has served nobody and will not.
            None => self.accepting.set(false),
        }
        if first {
            reactors.iter().for_each(Reactor::call_up);
        }
        self.settle(is_empty());
        over
    }

    fn all_reactors(&self) -> Vec<Reactor> {
        let mut reactors: Vec<_> = self.reactors.borrow().iter().filter_map(|(_, weak)| weak.upgrade()).collect();
        if reactors.is_empty() {
            reactors.extend(self.ports.borrow().first().map(|port| port.reactor().clone()));
        }
        reactors
    }

    fn at(
        self: &Rc<Self>,
        reactor: &Reactor,
        delay: Duration,
        is_empty: &Rc<impl Fn() -> bool + 'static>,
        step: impl FnOnce(&Self) + 'static,
    ) {
        let (draining, is_empty) = (self.clone(), is_empty.clone());
        let call = reactor.call_later(delay, move || {
            step(&draining);
            draining.settle(is_empty());
        });
        self.timers.borrow_mut().push(call);
    }

    fn close_doors(&self) {
        // What cannot be closed is logged, and a logger is not ours.
        let ports = self.ports.borrow().clone();
        let mut may_be_half_way_in = false;
        for port in &ports {
            may_be_half_way_in |= port.close_door();
        }
        if !may_be_half_way_in {
            self.stop_accepting();
        }
    }

    fn stop_accepting(&self) {
        if self.accepting.replace(false) {
            for port in self.ports.take() {
                port.accept_waiting();
                port.stop_listening().log_failure("stopping to listen");
            }
        }
    }

    fn abort(&self) {
        self.stop_accepting();
        self.phase.set(Phase::Over);
        self.all_reactors().iter().for_each(Reactor::call_up);
    }

    /// Tells those who wait when all is over.
    pub(crate) fn settle(&self, is_empty: bool) {
        if self.phase.get() == Phase::Serving || self.accepting.get() || !is_empty {
            return;
        }
        for timer in self.timers.take() {
            // It may just be ringing.
            let _ = timer.cancel();
        }
        for waiter in self.waiters.take() {
            waiter.callback(());
        }
    }
}

/// A connection on which nothing is under way may be one whose next request is. After this long it is not: a client that goes
/// on with a connection does so at once, and the way around the world takes a third of it.
pub(crate) const JUST_USED: Duration = Duration::from_secs(1);

/// How long a client takes at most whose handshake has begun: a way to it and back.
const HANDSHAKE: Duration = Duration::from_millis(200);
