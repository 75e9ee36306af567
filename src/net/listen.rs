//! Listening: the life of a port, and the loop that accepts.
//!
//! Rules kept here:
//! - The accept loop can neither die nor spin. Poll tells of waiting connections once, so whatever leaves one waiting either
//!   asks for another turn or sets a timer; nothing else is an option.
//! - A process without descriptors closes whom it cannot serve: a client that sees a close goes elsewhere, one that hangs in
//!   the queue of the system does not.
//! - A factory is told of the beginning and the end of each port that uses it, once each.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use crate::clock::Clock;
use crate::deferred::{Completer, Deferred};
use crate::failure::{Result, guard};
use crate::net::accept::{Complaints, Remedy, Reserve};
use crate::net::address::Address;
use crate::net::port::{CannotListen, ListeningPort, PortControl, place};
use crate::net::protocol::Factory;
use crate::net::socket::{ListenSocket, Peer};
use crate::net::stream;
use crate::reactor::metrics::AcceptError;
use crate::reactor::poller::{Readiness, Wants};
use crate::reactor::{Handler, Key, Reactor};

impl Reactor {
    /// Listens at `endpoint` for connections and has `factory` make the protocol of each.
    ///
    /// ```
    /// use dosimeter::Reactor;
    /// use dosimeter::net::TcpEndpoint;
    /// use dosimeter::web::{Branch, Site};
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let endpoint = TcpEndpoint::new("127.0.0.1:0").backlog(4096).reuse_port(true);
    /// let port = reactor.listen(endpoint, Site::new(Branch::new()))?;
    /// # assert!(port.is_listening());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CannotListen`], with the place and the reason. The factory is started only when the socket is there.
    pub fn listen<E: ServerEndpoint>(
        &self,
        endpoint: E,
        factory: impl Factory,
    ) -> Result<ListeningPort<E::Addr>, CannotListen> {
        endpoint.listen(self, factory)
    }
}

/// Where to listen, and how: what [`Reactor::listen`] takes.
///
/// Ports of this host ([`TcpEndpoint`](crate::net::TcpEndpoint)), paths ([`UnixEndpoint`](crate::net::UnixEndpoint)), and
/// listeners of `std` that were opened elsewhere are endpoints.
#[doc(alias = "IStreamServerEndpoint")]
pub trait ServerEndpoint {
    /// The kind of its address.
    type Addr: Clone;

    /// Listens; [`Reactor::listen`] is the other way to say it.
    ///
    /// # Errors
    /// [`CannotListen`], with the place and the reason.
    fn listen(self, reactor: &Reactor, factory: impl Factory) -> Result<ListeningPort<Self::Addr>, CannotListen>;
}

/// Starts to listen on `socket`. `reopen` makes another one like it, at the same address.
pub(crate) fn start<L: ListenSocket>(
    reactor: &Reactor,
    socket: L,
    local: Address,
    reopen: impl Fn() -> io::Result<L> + 'static,
    factory: impl Factory,
) -> Result<ListeningPort<Address>, CannotListen> {
    listen(reactor, socket, local, Some(Box::new(reopen)), factory)
}

/// Starts to listen on a socket that was opened elsewhere, and that others may have as well.
pub(crate) fn adopt(
    reactor: &Reactor,
    socket: impl ListenSocket,
    local: Address,
    factory: impl Factory,
) -> Result<ListeningPort<Address>, CannotListen> {
    listen(reactor, socket, local, None, factory)
}

type Reopen<L> = Box<dyn Fn() -> io::Result<L>>;

fn listen<L: ListenSocket>(
    reactor: &Reactor,
    socket: L,
    local: Address,
    reopen: Option<Reopen<L>>,
    factory: impl Factory,
) -> Result<ListeningPort<Address>, CannotListen> {
    let port = Rc::new(Port {
        reactor: reactor.clone(),
        key: Cell::new(None),
        socket: RefCell::new(None),
        phase: Cell::new(Phase::Stopped),
        resting: Cell::new(false),
        complaints: Complaints::default(),
        reserve: reactor.local(Reserve::new),
        factory,
        local,
        reopen,
        stopping: RefCell::default(),
    });
    port.start(socket)?;
    Ok(port.handle())
}

struct Port<L, F> {
    reactor: Reactor,
    key: Cell<Option<Key>>,
    socket: RefCell<Option<L>>,
    phase: Cell<Phase>,
    /// Accepting has failed and is tried again by time, not for each new client.
    resting: Cell<bool>,
    complaints: Complaints,
    reserve: Rc<Reserve>,
    factory: F,
    local: Address,
    /// None if it was adopted.
    reopen: Option<Reopen<L>>,
    /// To be told when the port has stopped.
    stopping: RefCell<Vec<Completer<()>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listening,
    /// The socket is closed; the factory is told in a later turn.
    Stopping,
    Stopped,
}

// ---------------------------------------------------------------------------------------------------------------------
// Beginning and end
// ---------------------------------------------------------------------------------------------------------------------

impl<L: ListenSocket, F: Factory> Port<L, F> {
    fn handle(self: &Rc<Self>) -> ListeningPort<Address> {
        ListeningPort::new(self.clone(), self.local.clone())
    }

    fn start(self: &Rc<Self>, socket: L) -> Result<(), CannotListen> {
        // From here to the end of the start the port counts as stopping: the factory is user code, and may try anything.
        self.phase.set(Phase::Stopping);
        let outcome =
            self.start_factory().and_then(|()| self.register(socket).inspect_err(|_| self.stop_factory_of_none()));
        if let Err(error) = outcome {
            self.phase.set(Phase::Stopped);
            self.tell_of_the_end(Ok(()));
            return Err(self.cannot_listen(error));
        }
        self.phase.set(Phase::Listening);
        self.resting.set(false);
        log::info!(target: LOG, "listening on {} for {}", self.local, type_name::<F>());
        if let Err(failure) = guard(|| self.factory.listening(&self.handle())) {
            failure.log(LOG, format_args!("telling a factory of its port {} failed", self.local));
        }
        if !self.stopping.borrow().is_empty() && self.phase.get() == Phase::Listening {
            // The factory did not wait to be started.
            self.clone().close_and_finish_later();
        }
        Ok(())
    }

    fn open_again(&self) -> io::Result<L> {
        let adopted = "an adopted socket cannot be opened again; adopt another one";
        let Some(reopen) = &self.reopen else { return Err(io::Error::new(ErrorKind::Unsupported, adopted)) };
        reopen()
    }

    fn start_factory(&self) -> io::Result<()> {
        guard(|| self.factory.start_factory()).flatten().map_err(|failure| io::Error::other(failure.into_error()))
    }

    fn register(self: &Rc<Self>, mut socket: L) -> io::Result<()> {
        self.key.set(Some(self.reactor.add_source(&mut socket, self.clone(), Wants::Reading)?));
        self.socket.replace(Some(socket));
        Ok(())
    }

    /// The factory was started for a socket that could not be watched.
    fn stop_factory_of_none(&self) {
        if let Err(failure) = self.stop_factory() {
            failure.log(LOG, format_args!("stopping the factory of {} failed", self.local));
        }
    }

    fn stop_factory(&self) -> Result<()> {
        guard(|| self.factory.stop_factory()).flatten()
    }

    /// Closes the socket. The port stays registered until the factory was told, so that a reactor that stops before does it.
    fn close(&self) {
        self.phase.set(Phase::Stopping);
        let socket = self.socket.take();
        drop(socket);
        log::info!(target: LOG, "no longer listening on {} for {}", self.local, type_name::<F>());
    }

    fn close_and_finish_later(self: Rc<Self>) {
        self.close();
        let reactor = self.reactor.clone();
        reactor.call_soon(move || self.finish_stop());
    }

    fn finish_stop(&self) {
        if self.phase.get() != Phase::Stopping {
            return;
        }
        self.phase.set(Phase::Stopped);
        if let Some(key) = self.key.take() {
            self.reactor.remove_source(key);
        }
        let outcome = self.stop_factory();
        self.tell_of_the_end(outcome);
    }

    /// Who asked first gets the failure; to the others the port has stopped, which it has.
    fn tell_of_the_end(&self, outcome: Result<()>) {
        let mut failure = outcome.err();
        for completer in self.stopping.take() {
            completer.fire(failure.take().map_or(Ok(()), Err));
        }
        if let Some(failure) = failure {
            failure.log(LOG, format_args!("stopping the factory of {} failed", self.local));
        }
    }

    fn cannot_listen(&self, error: io::Error) -> CannotListen {
        CannotListen::new(place(&self.local), error)
    }
}

impl<L: ListenSocket, F: Factory> PortControl for Port<L, F> {
    fn stop(self: Rc<Self>) -> Deferred<()> {
        if self.phase.get() == Phase::Stopped {
            return Deferred::succeed(());
        }
        let (completer, stopped) = Deferred::pair();
        self.stopping.borrow_mut().push(completer);
        if self.phase.get() == Phase::Listening {
            self.close_and_finish_later();
        }
        stopped
    }

    fn start_again(self: Rc<Self>) -> Result<(), CannotListen> {
        match self.phase.get() {
            Phase::Stopped => {}
            Phase::Listening => return Err(self.cannot_listen(io::Error::other("this port is listening already"))),
            Phase::Stopping => {
                let text = "this port has not yet stopped; wait for what stop_listening returned";
                return Err(self.cannot_listen(io::Error::other(text)));
            }
        }
        let socket = self.open_again().map_err(|error| self.cannot_listen(error))?;
        self.start(socket)
    }

    fn is_listening(&self) -> bool {
        self.phase.get() == Phase::Listening
    }

    fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    fn close_door(&self) -> bool {
        if self.reopen.is_none() {
            // Who else has it may want to go on.
            return false;
        }
        let closed = self.socket.borrow().as_ref().map_or(Ok(false), L::close_door);
        closed.unwrap_or_else(|error| {
            log::debug!(target: LOG, "who connects to {} just now may be reset: {error}", self.local);
            false
        })
    }

    fn accept_waiting(self: Rc<Self>) {
        // Who connects meanwhile could go on for ever.
        for _ in 0..MOST_WAITING / ACCEPTS_PER_TURN {
            if !self.is_listening() || self.resting.get() || !self.accept_some() {
                return;
            }
        }
    }
}

impl<L: ListenSocket, F: Factory> Handler for Port<L, F> {
    fn ready(self: Rc<Self>, readiness: Readiness) {
        if self.resting.get() && !readiness.again {
            return;
        }
        if self.resting.replace(false) {
            self.reserve.refill();
        }
        if self.accept_some()
            && let Some(key) = self.key.get()
        {
            self.reactor.ready_again(key);
        }
    }

    fn flush(self: Rc<Self>) {}

    fn shut_down(self: Rc<Self>) {
        if self.phase.get() == Phase::Listening {
            self.close();
        }
        self.finish_stop();
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Accepting
// ---------------------------------------------------------------------------------------------------------------------

impl<L: ListenSocket, F: Factory> Port<L, F> {
    /// Accepts what waits, up to a bound; `true` when there may be more.
    fn accept_some(self: &Rc<Self>) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.accept() {
                Ok((socket, peer)) => self.welcome(socket, peer),
                Err(error) => match Remedy::of(&error) {
                    Remedy::Wait => return false,
                    Remedy::Skip(kind) => self.count(kind, 1),
                    Remedy::TurnAway => return self.turn_away(&error),
                    Remedy::Rest(kind) => {
                        self.count(kind, 1);
                        self.rest(&error);
                        return false;
                    }
                },
            }
        }
        true
    }

    fn accept(&self) -> io::Result<(L::Stream, Peer)> {
        let socket = self.socket.borrow();
        // A protocol of this turn may have stopped the port.
        let Some(socket) = &*socket else { return Err(ErrorKind::WouldBlock.into()) };
        loop {
            match socket.accept() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn welcome(&self, socket: L::Stream, peer: Peer) {
        self.reactor.connection_figures().accepted.add(1);
        let addr = peer.address();
        match guard(|| self.factory.build_protocol(&addr)) {
            Ok(Some(protocol)) => {
                if let Err(error) = stream::start(&self.reactor, socket, peer, protocol, ()) {
                    log::error!(target: LOG, "cannot watch the connection from {addr}: {error}");
                }
            }
            Ok(None) => self.reactor.connection_figures().refused.add(1),
            Err(failure) => {
                self.reactor.count_panic(&failure);
                failure.log(LOG, format_args!("no protocol for {addr}"));
            }
        }
    }

    /// With the descriptor in reserve, accepts and closes those who wait, up to a bound; `true` when there may be more. No
    /// user code runs meanwhile and nothing is logged: either could take the descriptor.
    fn turn_away(self: &Rc<Self>, error: &io::Error) -> bool {
        let mut outcome = Remedy::TurnAway;
        let mut turned_away = 0;
        if self.reserve.give_up() {
            for _ in 0..ACCEPTS_PER_TURN {
                match self.accept().map_err(|error| Remedy::of(&error)) {
                    Ok(_) => turned_away += 1,
                    Err(Remedy::Skip(_)) => {}
                    Err(other) => {
                        outcome = other;
                        break;
                    }
                }
            }
            self.reserve.refill();
        }
        self.count(AcceptError::FdLimit, turned_away.max(1));
        if turned_away == 0 && outcome != Remedy::Wait {
            // Another thread was quicker. These clients wait in the queue of the system.
            self.rest(error);
            return false;
        }
        self.complaints.add(self.reactor.now(), turned_away, |closed| {
            log::error!(target: LOG, "cannot accept on {}: {error}; closed {closed} connections", self.local);
        });
        outcome != Remedy::Wait
    }

    /// The system lacks descriptors or memory. Poll tells of waiting connections only once, so they are looked at again by
    /// time.
    fn rest(self: &Rc<Self>, error: &io::Error) {
        self.complaints.add(self.reactor.now(), 0, |_| {
            log::error!(target: LOG, "cannot accept on {}: {error}; trying again in {ACCEPT_PAUSE:?}", self.local);
        });
        if let Some(key) = self.key.get() {
            self.resting.set(true);
            let reactor = self.reactor.clone();
            self.reactor.call_later(ACCEPT_PAUSE, move || reactor.ready_again(key));
        }
    }

    fn count(&self, kind: AcceptError, count: usize) {
        self.reactor.connection_figures().accept_errors[kind as usize].add(count as u64);
    }
}

const LOG: &str = "dosimeter::net";

/// As many as the longest queue that a system lets us ask for by default.
const MOST_WAITING: usize = 4096;

/// After this many new connections the established ones get their turn.
const ACCEPTS_PER_TURN: usize = 100;

/// Long enough not to spin, short enough that clients do not notice.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Result as Outcome;
    use crate::net::accept::{EMFILE, ENFILE, ENOBUFS};
    use crate::net::protocol::Protocol;
    use crate::net::transport::Transport;
    use crate::net::{TcpEndpoint, UnixEndpoint};
    use crate::reactor::Metrics;
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    /// A listening socket whose `accept` answers what the test wrote down, and then that nobody waits. Poll knows the writing
    /// end of a pair, which is ready from the start.
    struct Scripted {
        answers: Rc<RefCell<VecDeque<io::Error>>>,
        source: mio::net::UnixStream,
        _other: mio::net::UnixStream,
    }

    impl mio::event::Source for Scripted {
        fn register(&mut self, to: &mio::Registry, token: mio::Token, _: mio::Interest) -> io::Result<()> {
            self.source.register(to, token, mio::Interest::WRITABLE)
        }
        fn reregister(&mut self, to: &mio::Registry, token: mio::Token, _: mio::Interest) -> io::Result<()> {
            self.source.reregister(to, token, mio::Interest::WRITABLE)
        }
        fn deregister(&mut self, to: &mio::Registry) -> io::Result<()> {
            self.source.deregister(to)
        }
    }

    impl ListenSocket for Scripted {
        type Stream = mio::net::UnixStream;

        fn accept(&self) -> io::Result<(Self::Stream, Peer)> {
            let answer = self.answers.borrow_mut().pop_front();
            Err(answer.unwrap_or_else(|| ErrorKind::WouldBlock.into()))
        }

        fn close_door(&self) -> io::Result<bool> {
            Ok(false)
        }
    }

    struct Mute;
    impl Protocol for Mute {
        fn data_received(&mut self, _: &Transport, _: &[u8]) -> Outcome<()> {
            Ok(())
        }
    }

    /// Answers what is left of the script after `turns` turns, and what was counted.
    fn accept(script: impl IntoIterator<Item = io::Error>, turns: usize) -> (usize, Vec<(AcceptError, u64)>) {
        let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor");
        let (source, other) = mio::net::UnixStream::pair().expect("two sockets");
        let answers = Rc::new(RefCell::new(script.into_iter().collect::<VecDeque<_>>()));
        let socket = Scripted { answers: answers.clone(), source, _other: other };
        adopt(&reactor, socket, Address::Unix(None), |_: &Address| Mute).expect("a port");
        for _ in 0..turns {
            reactor.turn(Some(Duration::ZERO)).expect("a turn");
        }
        let left = answers.borrow().len();
        use AcceptError::{Aborted, Denied, FdLimit, Memory, Network, Other};
        let counts = [Aborted, Denied, FdLimit, Memory, Network, Other]
            .map(|kind| (kind, reactor.connection_figures().accept_errors[kind as usize].get()));
        (left, counts.into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// A port, its door closed with one client waiting; answers whether another one may be on its way, and who is accepted.
    fn close_door<E: ServerEndpoint>(endpoint: E, connect: impl Fn() -> io::Result<()>) -> (bool, u64) {
        let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor");
        let port = reactor.listen(endpoint, |_: &Address| Mute).expect("a port");
        connect().expect("a connection");
        let may_come = port.close_door();
        let _ = connect();
        reactor.turn(Some(Duration::ZERO)).expect("a turn");
        drop(port.stop_listening());
        (may_come, reactor.connection_figures().accepted.get())
    }

    #[test]
    fn through_a_closed_door_comes_who_has_waited_before_it_and_nobody_else() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener").local_addr().expect("its address");
        let connect = || TcpStream::connect_timeout(&free, Duration::from_millis(20)).map(drop);
        assert_eq!(close_door(TcpEndpoint::new(free), connect), (cfg!(target_os = "linux"), 1));

        let path = std::env::temp_dir().join(format!("dosimeter-door-{}", std::process::id()));
        let connect = || UnixStream::connect(&path).map(drop);
        assert_eq!(close_door(UnixEndpoint::new(&path), connect), (false, 1));
    }

    #[test]
    fn the_door_of_a_socket_that_others_have_as_well_is_left_open() {
        let adopted = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let addr = adopted.local_addr().expect("its address");
        assert_eq!(close_door(adopted, || TcpStream::connect(addr).map(drop)), (false, 2));
    }

    fn errors(codes: &[i32]) -> Vec<io::Error> {
        codes.iter().copied().map(io::Error::from_raw_os_error).collect()
    }

    #[test]
    fn what_concerns_one_connection_is_skipped() {
        let kinds = [
            ErrorKind::ConnectionAborted,
            ErrorKind::Interrupted,
            ErrorKind::PermissionDenied,
            ErrorKind::NetworkUnreachable,
            ErrorKind::ConnectionReset,
        ];
        let (left, counts) = accept(kinds.map(io::Error::from), 1);
        assert_eq!(left, 0, "all in one turn");
        assert_eq!(counts, [(AcceptError::Aborted, 2), (AcceptError::Denied, 1), (AcceptError::Network, 1)]);
    }

    #[test]
    fn a_lack_of_memory_or_what_nobody_knows_is_waited_for_and_not_tried_again_at_once() {
        for (code, kind) in [(ENOBUFS, AcceptError::Memory), (12, AcceptError::Memory), (71, AcceptError::Other)] {
            let (left, counts) = accept(errors(&[code; 3]), 10);
            assert_eq!((left, counts), (2, vec![(kind, 1)]), "error {code}");
        }
    }

    #[test]
    fn a_lack_of_descriptors_that_the_reserve_does_not_help_against_is_waited_for() {
        for code in [EMFILE, ENFILE] {
            let (left, counts) = accept(errors(&[code; 4]), 10);
            assert_eq!((left, counts), (2, vec![(AcceptError::FdLimit, 1)]), "once without and once with the reserve");
        }
    }

    #[test]
    fn after_the_wait_it_is_tried_again() {
        let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor");
        let (source, other) = mio::net::UnixStream::pair().expect("two sockets");
        let answers = Rc::new(RefCell::new(VecDeque::from(errors(&[EMFILE, EMFILE, ENOBUFS, EMFILE, EMFILE]))));
        let socket = Scripted { answers: answers.clone(), source, _other: other };
        adopt(&reactor, socket, Address::Unix(None), |_: &Address| Mute).expect("a port");
        let mut turns = 0;
        while !answers.borrow().is_empty() {
            reactor.turn(None).expect("a turn");
            turns += 1;
        }
        assert!(turns < 20, "{turns} turns: it does not spin");
    }

    #[test]
    fn no_turn_accepts_without_end() {
        let script = (0..250).map(|_| io::Error::from(ErrorKind::ConnectionAborted));
        assert_eq!(accept(script, 1).0, 250 - ACCEPTS_PER_TURN);
    }
}
