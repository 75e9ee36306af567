//! The driver of a stream connection, over whatever socket.
//!
//! Rules kept here:
//! - The driver owns the socket and the protocol and is the only one that calls either. The protocol is taken out of its cell
//!   while it runs, so it may do anything to its own transport.
//! - Everything that ends a connection ends it in [`Connection::settle`] or from the loop, never inside a protocol method.
//! - One read per readiness; who has more waits for the next turn.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;

use crate::clock::Clock;
use crate::failure::{Failure, Result, guard};
use crate::net::address::Address;
use crate::net::outbox::{HIGH_WATER, Input, Outbox, Output, Rare, Reading, Registered, Sent};
use crate::net::producer::ProducerKind;
use crate::net::protocol::{ConnectionLost, Protocol};
use crate::net::socket::{Peer, StreamSocket};
use crate::net::transport::{Endpoint, Transport};
use crate::reactor::metrics::CloseReason;
use crate::reactor::poller::{Readiness, Wants};
use crate::reactor::{Handler, Key, Reactor};

/// Starts to drive a connection that is made: registers `socket`, which must not be registered, and calls the protocol's
/// `connection_made`. When this returns the connection may have ended already.
///
/// # Errors
/// When the system, or a reactor that has stopped, does not watch the socket; then nobody was called.
pub(crate) fn start<S: StreamSocket, P: Protocol, W: Watcher>(
    reactor: &Reactor,
    socket: S,
    peer: Peer,
    protocol: P,
    watcher: W,
) -> io::Result<()> {
    let connection = Rc::new(Connection {
        reactor: reactor.clone(),
        key: Cell::new(None),
        socket: RefCell::new(Some(socket)),
        protocol: Cell::new(Some(protocol)),
        outbox: Outbox::new(),
        peer,
        watcher,
    });
    match connection.register() {
        Ok(key) => connection.key.set(Some(key)),
        Err(error) => {
            connection.discard();
            return Err(error);
        }
    }
    reactor.connection_figures().open.add(1);
    connection.outbox.update(|state| state.scheduled = true);
    connection.watcher.beginning(|| Transport::new(connection.clone()));
    connection.call(P::connection_made);
    connection.settle();
    Ok(())
}

/// Who is told of a connection besides its protocol: the connector of a client.
///
/// Nobody is, for one that was accepted: `()`, which takes no room.
pub(crate) trait Watcher: 'static {
    /// Before `connection_made`. The transport may be kept until the connection has ended.
    fn beginning(&self, transport: impl FnOnce() -> Transport) {
        let _ = transport;
    }

    /// Before `connection_lost`, which gets this reason.
    fn ending(&self, reason: &ConnectionLost) {
        let _ = reason;
    }

    /// The protocol was told and dropped, the socket is closed. Called once, also when the protocol panicked.
    fn ended(&self) {}
}

impl Watcher for () {}

/// The driver of one connection.
struct Connection<S, P, W> {
    reactor: Reactor,
    key: Cell<Option<Key>>,
    socket: RefCell<Option<S>>,
    /// Absent while one of its methods runs, and after the end.
    protocol: Cell<Option<P>>,
    outbox: Outbox,
    peer: Peer,
    watcher: W,
}

impl<S: StreamSocket, P: Protocol, W: Watcher> Connection<S, P, W> {
    fn register(self: &Rc<Self>) -> io::Result<Key> {
        let mut socket = self.socket.borrow_mut();
        let socket = socket.as_mut().expect("a new connection has its socket");
        self.reactor.add_source(socket, self.clone(), Wants::Reading)
    }

    /// Drops the protocol of a connection that never began: its drop is user code, and who accepts it has others to accept.
    fn discard(&self) {
        if let Err(failure) = guard(|| drop(self.protocol.take())) {
            self.reactor.count_panic(&failure);
            failure.log(LOG, format_args!("dropping {} of {} failed", type_name::<P>(), self.peer.address()));
        }
    }

    /// Calls a method of the protocol. An error in it ends the connection once everything written has been sent.
    fn call(self: &Rc<Self>, method: impl FnOnce(&mut P, &Transport) -> Result<()>) {
        let Some(mut protocol) = self.protocol.take() else { return };
        let transport = Transport::new(self.clone());
        let outcome = guard(|| method(&mut protocol, &transport)).flatten();
        self.protocol.set(Some(protocol));
        if let Err(failure) = outcome {
            self.fail(failure);
        }
    }

    /// The end begins that a failure of the protocol has, or of its producer, who is not waited for.
    fn fail(&self, failure: Failure) {
        self.reactor.count_panic(&failure);
        let (name, peer) = (type_name::<P>(), self.peer.address());
        failure.log(LOG, format_args!("{name} of {peer} failed"));
        let producer = self.outbox.rarely(|rare| {
            rare.failure = Some(failure);
            rare.producer.take()
        });
        self.outbox.update(|state| (state.losing, state.producing) = (true, false));
        self.stop(producer);
    }

    fn stop(&self, producer: Option<Registered>) {
        let Some(Registered { producer, .. }) = producer else { return };
        let outcome = guard(move || {
            producer.stop_producing();
            drop(producer);
        });
        if let Err(failure) = outcome {
            self.reactor.count_panic(&failure);
            let peer = self.peer.address();
            failure.log(LOG, format_args!("stopping the producer of {peer} failed"));
        }
    }

    /// Reads once.
    fn receive(self: &Rc<Self>) {
        let state = self.outbox.state();
        if !state.reads(self.outbox.unsent()) {
            self.outbox.update(|state| state.unread = true);
            return;
        }
        let again = self.reactor.buffers().with_read_buffer(|buffer| match self.read(buffer) {
            // Poll repeats itself when the interest in writing changes.
            Ok(0) if state.input == Input::Ended => false,
            Ok(0) => {
                self.outbox.update(|state| state.input = Input::Ended);
                self.call(P::read_connection_lost);
                false
            }
            Ok(count) => {
                self.reactor.connection_figures().received_bytes.add(count as u64);
                self.call(|protocol, transport| protocol.data_received(transport, &buffer[..count]));
                state.input == Input::Ending || count == buffer.len()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => {
                self.finish(ConnectionLost::Io(error));
                false
            }
        });
        if again {
            self.read_in_the_next_turn();
        }
    }

    /// What has broken a connection that is not read: one that is being closed, or whose protocol has paused it. It may have
    /// nothing to send either, so nothing else would ever tell. That there is no way to the peer just now breaks nothing.
    fn unheard_error(&self) -> Option<io::Error> {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut};
        let state = self.outbox.state();
        let is_paused = state.reading == Reading::Paused && S::RESET_REVOKES_DATA;
        if !(state.losing || is_paused) || state.aborted {
            return None;
        }
        let error = self.socket.borrow().as_ref()?.take_error()?;
        matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut).then_some(error)
    }

    fn read_in_the_next_turn(&self) {
        if !self.outbox.state().queued
            && let Some(key) = self.key.get()
        {
            self.outbox.update(|state| state.queued = true);
            self.reactor.ready_again(key);
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let socket = self.socket.borrow();
        let Some(socket) = socket.as_ref() else { return Err(ErrorKind::WouldBlock.into()) };
        loop {
            match socket.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    /// Does what the protocol left to be done.
    fn settle(self: &Rc<Self>) {
        self.outbox.update(|state| state.scheduled = false);
        let state = self.outbox.state();
        if !state.open {
            return;
        }
        if state.aborted {
            return self.reset();
        }
        let unsent = self.outbox.unsent();
        if unsent > HIGH_WATER {
            // Before sending: who was told of congestion is told of its end, also when the system takes everything at once.
            self.outbox.update(|state| state.congested = true);
        }
        match self.send() {
            Err(error) => self.finish(ConnectionLost::Io(error)),
            Ok((sent, grown)) => {
                if grown != 0 {
                    self.call(|protocol, transport| {
                        protocol.backlog_grown(transport, grown);
                        Ok(())
                    });
                }
                self.settle_sent(sent, unsent > 0);
            }
        }
    }

    fn settle_sent(self: &Rc<Self>, sent: Sent, was_more: bool) {
        let state = self.outbox.state();
        let everything = sent == Sent::Everything;
        if everything && !state.producing {
            if state.losing {
                return self.finish(ConnectionLost::Done);
            }
            if state.output == Output::Closing {
                return self.half_close();
            }
        }
        if state.input == Input::Ended && state.output == Output::Closed {
            // A protocol that waits for more would keep its descriptor for ever.
            return self.finish(ConnectionLost::Done);
        }
        if sent == Sent::Enough {
            self.settle_again();
        }
        if state.losing && !everything {
            self.lose_patience_later();
        }
        self.mind_congestion(everything);
        self.mind_resumption();
        if state.producing {
            self.mind_producer(everything, was_more);
        }
        self.read_what_was_left();
    }

    /// Looks at the outbox in the next turn, which will not wait: going on now could go on for ever.
    fn settle_again(self: &Rc<Self>) {
        if !self.outbox.state().scheduled {
            self.outbox.update(|state| state.scheduled = true);
            self.reactor.schedule_flush(self.clone());
        }
    }

    /// Tells the protocol when a peer that was behind has read everything.
    fn mind_congestion(self: &Rc<Self>, everything: bool) {
        if everything && self.outbox.state().congested {
            self.outbox.update(|state| state.congested = false);
            self.settle_again();
            self.call(P::resume_writing);
        }
    }

    /// Tells the protocol that a pause is over: it may have kept data, and nothing more need come.
    fn mind_resumption(self: &Rc<Self>) {
        let state = self.outbox.state();
        if state.reading == Reading::Resumed {
            self.outbox.update(|state| state.reading = Reading::Wanted);
            self.settle_again();
            if !state.losing {
                self.call(P::resume_reading);
            }
        }
    }

    /// Pauses the producer, or has it go on. Its state is changed before it is called: it may write enough to change it again.
    fn mind_producer(self: &Rc<Self>, everything: bool, was_more: bool) {
        let is_full = self.outbox.unsent() > HIGH_WATER;
        let called = self.outbox.rarely(|rare| {
            let registered = rare.producer.as_mut()?;
            let resume = match registered.kind {
                ProducerKind::Push => everything && registered.waits,
                ProducerKind::Pull => everything && (registered.waits || was_more),
            };
            let pause = registered.kind == ProducerKind::Push && is_full && !registered.waits;
            registered.waits = (registered.waits || pause) && !resume;
            (resume || pause).then(|| (registered.producer.clone(), resume))
        });
        let Some((producer, resume)) = called else { return };
        self.settle_again();
        let call = || {
            if resume {
                return producer.resume_producing();
            }
            producer.pause_producing();
            Ok(())
        };
        if let Err(failure) = guard(call).flatten() {
            self.fail(failure);
        }
    }

    /// A peer that takes nothing of what is left to send before the end is not waited for without end.
    fn lose_patience_later(self: &Rc<Self>) {
        let is_set = self.outbox.rarely(|rare| rare.deadline.is_some());
        if !is_set {
            let (connection, sends) = (Rc::downgrade(self), self.outbox.sends());
            let call = self.reactor.call_later(LOSING_TIMEOUT, move || {
                if let Some(connection) = connection.upgrade() {
                    connection.lose_patience();
                }
            });
            self.outbox.rarely(|rare| rare.deadline = Some((call, sends)));
        }
    }

    fn lose_patience(self: &Rc<Self>) {
        let sends_before = self.outbox.rarely(|rare| rare.deadline.take()).map(|(_, sends)| sends);
        if !self.outbox.state().open || self.outbox.unsent() == 0 {
            return;
        }
        if sends_before != Some(self.outbox.sends()) {
            return self.lose_patience_later();
        }
        if let Some(socket) = &*self.socket.borrow() {
            socket.reset_when_closed();
        }
        self.finish(ConnectionLost::Io(ErrorKind::TimedOut.into()));
    }

    fn send(&self) -> io::Result<(Sent, isize)> {
        let mut socket = self.socket.borrow_mut();
        let Some(socket) = socket.as_mut() else { return Ok((Sent::Everything, 0)) };
        let (sent, grown) = self.outbox.send(&self.reactor, |data| socket.write(data))?;
        let blocked = sent == Sent::Some;
        if blocked != self.outbox.state().blocked
            && let Some(key) = self.key.get()
        {
            let wants = if blocked { Wants::ReadingAndWriting } else { Wants::Reading };
            self.reactor.change_source(socket, key, wants)?;
            self.outbox.update(|state| state.blocked = blocked);
        }
        Ok((sent, grown))
    }

    fn read_what_was_left(&self) {
        let state = self.outbox.state();
        if state.unread && state.reads(self.outbox.unsent()) {
            self.outbox.update(|state| state.unread = false);
            self.read_in_the_next_turn();
        }
    }

    fn half_close(self: &Rc<Self>) {
        self.outbox.update(|state| state.output = Output::Closed);
        if let Some(socket) = &*self.socket.borrow() {
            // It fails only when the peer is gone, which reading will tell.
            let _ = socket.shutdown_write();
        }
        self.settle_again();
        self.call(P::write_connection_lost);
    }

    fn reset(self: &Rc<Self>) {
        if let Some(socket) = &*self.socket.borrow() {
            socket.reset_when_closed();
        }
        self.finish(ConnectionLost::Aborted);
    }

    /// The end: tells the protocol, once, and closes the socket. Its own failure, if it had one, is the reason before any
    /// other.
    fn finish(self: &Rc<Self>, reason: ConnectionLost) {
        let backlog = self.outbox.close();
        if let Some(key) = self.key.take() {
            self.reactor.remove_source(key);
        }
        let Some(mut protocol) = self.protocol.take() else { return };
        let reason = self.end_of_the_rare(reason);
        self.count_end(&reason);
        self.watcher.ending(&reason);
        let transport = Transport::new(self.clone());
        // Dropped inside the guard as well: a protocol's drop is user code.
        let outcome = guard(move || {
            if backlog > 0 {
                protocol.backlog_grown(&transport, -(backlog as isize));
            }
            protocol.connection_lost(&transport, reason);
            drop(protocol);
        });
        if let Err(failure) = outcome {
            failure.log(LOG, format_args!("{}::connection_lost of {} failed", type_name::<P>(), self.peer.address()));
        }
        self.socket.take();
        self.watcher.ended();
    }

    /// Takes leave of what few connections have; answers the reason.
    fn end_of_the_rare(&self, reason: ConnectionLost) -> ConnectionLost {
        let Some(rare) = self.outbox.take_rare() else { return reason };
        let Rare { failure, producer, deadline } = *rare;
        if let Some((call, _)) = deadline {
            // It may be what ends the connection.
            let _ = call.cancel();
        }
        self.stop(producer);
        failure.map_or(reason, ConnectionLost::Failed)
    }
}

impl<S, P, W> Connection<S, P, W> {
    fn count_end(&self, reason: &ConnectionLost) {
        let figures = self.reactor.connection_figures();
        figures.open.add(-1);
        let kind = match reason {
            ConnectionLost::Done => CloseReason::Done,
            ConnectionLost::Aborted => CloseReason::Aborted,
            ConnectionLost::Io(error) if error.kind() == ErrorKind::TimedOut => CloseReason::Timeout,
            ConnectionLost::Io(_) => CloseReason::Io,
            ConnectionLost::Failed(_) => CloseReason::Failed,
            ConnectionLost::ReactorStopped => CloseReason::Shutdown,
        };
        figures.closed[kind as usize].add(1);
    }
}

impl<S: StreamSocket, P: Protocol, W: Watcher> Handler for Connection<S, P, W> {
    fn ready(self: Rc<Self>, readiness: Readiness) {
        // What the protocol writes now goes out below, so nothing need be scheduled.
        self.outbox.update(|state| {
            state.scheduled = true;
            if readiness.closing {
                state.input = state.input.max(Input::Ending);
            }
            state.queued &= !readiness.again;
        });
        // One read a turn: who asked for another one gets it later in this turn.
        if readiness.readable && !self.outbox.state().queued {
            self.receive();
        }
        let broken = if readiness.closing || readiness.again { self.unheard_error() } else { None };
        match broken {
            Some(error) => self.finish(ConnectionLost::Io(error)),
            None => self.settle(),
        }
    }

    fn flush(self: Rc<Self>) {
        self.settle();
    }

    fn shut_down(self: Rc<Self>) {
        self.finish(ConnectionLost::ReactorStopped);
    }

    fn called_up(self: Rc<Self>) {
        self.outbox.update(|state| state.scheduled = true);
        self.receive();
        self.call(P::called_up);
        self.settle();
    }
}

impl<S: StreamSocket, P: Protocol, W: Watcher> Endpoint for Connection<S, P, W> {
    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    fn schedule(self: Rc<Self>) {
        let reactor = self.reactor.clone();
        reactor.schedule_flush(self);
    }

    fn peer_addr(&self) -> Address {
        self.peer.address()
    }

    fn local_addr(&self) -> io::Result<Address> {
        match &*self.socket.borrow() {
            Some(socket) => socket.local_addr(),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn with_socket(&self, with: &mut dyn FnMut(SockRef<'_>) -> io::Result<()>) -> io::Result<()> {
        match self.socket.borrow().as_ref().map(StreamSocket::options) {
            Some(Some(options)) => with(options),
            Some(None) => Ok(()),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }
}

const LOG: &str = "dosimeter::net";

/// A connection that is to be closed waits this long for a peer that takes nothing: the time that the web server gives one.
const LOSING_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Metrics;
    use mio::net::UnixStream;

    /// Ten thousand idle peers are ten thousand of these, the protocol of a word included.
    #[test]
    fn an_idle_connection_is_small() {
        type Word = Box<u8>;
        let size = size_of::<Connection<mio::net::TcpStream, Word, ()>>();
        assert!(size <= 104, "{size}");
    }

    struct PanicsWhenDropped;

    impl Protocol for PanicsWhenDropped {
        fn data_received(&mut self, _: &Transport, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    /// Or the accept loop would end in the middle of those who wait, and poll does not tell of them again.
    #[test]
    fn a_connection_that_cannot_be_watched_is_an_error_even_if_the_drop_of_its_protocol_panics() {
        let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor");
        let (mut socket, _other) = UnixStream::pair().expect("two sockets");
        let poll = mio::Poll::new().expect("a poll");
        poll.registry().register(&mut socket, mio::Token(0), mio::Interest::READABLE).expect("the first one");
        let outcome = guard(|| start(&reactor, socket, Peer::Unnamed, PanicsWhenDropped, ()));
        let error = outcome.expect("no panic comes out").expect_err("it belongs to another poll");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(reactor.connection_figures().open.get(), 0);
    }
}
