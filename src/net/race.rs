//! Several addresses of one host, and one connection: Happy Eyeballs, as RFC 8305 has it.
//!
//! Rules kept here:
//! - The next address is tried when the one before has failed, or has said nothing for a quarter of a second. The first that
//!   connects wins and the others are closed.
//! - A socket that has met itself has met nobody.
//! - Of several failures the one told is that of the address that came furthest.
//! - When it is over, or was cancelled, no socket is open and no timer armed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use crate::clock::{Clock, DelayedCall};
use crate::deferred::{Completer, Deferred};
use crate::net::client::{CannotConnect, ClientEndpoint, ConnectErrorKind};
use crate::net::resolve::no_address;
use crate::reactor::poller::{Readiness, Wants};
use crate::reactor::{Handler, Key, Reactor};

/// A connected socket that is registered nowhere, and its peer.
pub(crate) type Winner = (TcpStream, SocketAddr);

/// Connects to whichever of `addrs` answers first.
///
/// The chain may fire before this returns; it fails with a [`CannotConnect`]. Cancelling it closes all.
pub(crate) fn race(reactor: &Reactor, endpoint: &ClientEndpoint, addrs: Vec<SocketAddr>) -> Deferred<Winner> {
    let (completer, connected) = Deferred::pair();
    let race = Rc::new_cyclic(|me| Race {
        me: me.clone(),
        reactor: reactor.clone(),
        endpoint: endpoint.clone(),
        waiting: RefCell::new(addrs.into()),
        tries: RefCell::default(),
        next: Cell::new(None),
        failure: Cell::new(None),
        completer: Cell::new(None),
    });
    let weak = race.me.clone();
    completer.on_cancel(move || weak.upgrade().into_iter().for_each(|race| race.close()));
    race.completer.set(Some(completer));
    race.start_next();
    connected
}

/// Owned by its tries, and they by the reactor: a race in which nobody runs any more is over.
struct Race {
    me: Weak<Race>,
    reactor: Reactor,
    endpoint: ClientEndpoint,
    /// Addresses not tried yet.
    waiting: RefCell<VecDeque<SocketAddr>>,
    tries: RefCell<Vec<Weak<Try>>>,
    /// When the next address is tried although the last one may still answer.
    next: Cell<Option<DelayedCall>>,
    failure: Cell<Option<CannotConnect>>,
    /// Until there is a result.
    completer: Cell<Option<Completer<Winner>>>,
}

impl Race {
    /// Tries the next address that can be tried at all; fails when there is none and nothing under way.
    fn start_next(&self) {
        self.disarm();
        loop {
            let Some(addr) = self.waiting.borrow_mut().pop_front() else { break };
            match self.try_address(addr) {
                Ok(()) => return self.arm(),
                Err(error) => self.note(error),
            }
        }
        if self.tries.borrow().is_empty()
            && let Some(completer) = self.completer.take()
        {
            let failure = self.failure.take().unwrap_or_else(|| self.cannot_connect(None, no_address()));
            completer.errback(failure);
        }
    }

    fn try_address(&self, addr: SocketAddr) -> Result<(), CannotConnect> {
        let socket = self.open(addr)?;
        let race = self.me.upgrade().expect("somebody calls this");
        let begun = Rc::new(Try { race, addr, key: Cell::new(None), socket: RefCell::new(Some(socket)) });
        begun.register().map_err(|error| self.cannot_connect(Some(addr), error))?;
        self.tries.borrow_mut().push(Rc::downgrade(&begun));
        Ok(())
    }

    /// A socket that is connecting.
    fn open(&self, addr: SocketAddr) -> Result<TcpStream, CannotConnect> {
        let refused = |error| self.cannot_connect(Some(addr), error);
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).map_err(refused)?;
        socket.set_nonblocking(true).map_err(refused)?;
        socket.set_tcp_nodelay(self.endpoint.nodelay).map_err(refused)?;
        if let Some(bind) = self.endpoint.bind {
            bind_to(&socket, bind)
                .map_err(|error| CannotConnect::new(ConnectErrorKind::Bind, &self.endpoint).because(error))?;
        }
        match socket.connect(&addr.into()) {
            Err(error) if !is_under_way(&error) => Err(refused(error)),
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }

    fn arm(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        let race = self.me.clone();
        let call = self.endpoint.clock_in(&self.reactor).call_later(ATTEMPT_DELAY, move || {
            if let Some(race) = race.upgrade() {
                race.start_next();
            }
        });
        self.next.set(Some(call));
    }

    fn disarm(&self) {
        if let Some(call) = self.next.take() {
            // Past already when it is what calls.
            let _ = call.cancel();
        }
    }

    fn cannot_connect(&self, addr: Option<SocketAddr>, error: io::Error) -> CannotConnect {
        CannotConnect::of_system(&self.endpoint, addr, error)
    }

    fn note(&self, failure: CannotConnect) {
        let failure = match self.failure.take() {
            Some(former) if how_far(&former) >= how_far(&failure) => former,
            _ => failure,
        };
        self.failure.set(Some(failure));
    }

    fn lost(&self, failed: &Rc<Try>, error: io::Error) {
        self.tries.borrow_mut().retain(|other| !other.ptr_eq(&Rc::downgrade(failed)));
        failed.close();
        self.note(self.cannot_connect(Some(failed.addr), error));
        self.start_next();
    }

    fn won(&self, socket: TcpStream, addr: SocketAddr) {
        self.close();
        if let Some(completer) = self.completer.take() {
            completer.callback((socket, addr));
        }
    }

    fn close(&self) {
        self.disarm();
        self.waiting.borrow_mut().clear();
        for other in self.tries.take() {
            other.upgrade().into_iter().for_each(|other| other.close());
        }
    }
}

/// One address that is being connected to.
struct Try {
    race: Rc<Race>,
    addr: SocketAddr,
    key: Cell<Option<Key>>,
    /// Until the try is over.
    socket: RefCell<Option<TcpStream>>,
}

impl Try {
    fn register(self: &Rc<Self>) -> io::Result<()> {
        let mut socket = self.socket.borrow_mut();
        let socket = socket.as_mut().expect("a new try has its socket");
        self.key.set(Some(self.race.reactor.add_source(socket, self.clone(), Wants::ReadingAndWriting)?));
        Ok(())
    }

    /// `Ok(false)`: not yet.
    fn is_connected(&self) -> io::Result<bool> {
        let socket = self.socket.borrow();
        let Some(socket) = &*socket else { return Ok(false) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            // Where the number that the system chose for us is the one we ask for, TCP connects the socket to itself
            // (RFC 9293 section 3.5, simultaneous open): nobody else is there.
            Ok(peer) if socket.local_addr()? == peer => Err(ErrorKind::ConnectionRefused.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected || is_under_way(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the socket out of the poll: the driver of the connection registers it for itself.
    fn release(&self) -> io::Result<Option<TcpStream>> {
        let (socket, key) = (self.socket.take(), self.key.take());
        let (Some(mut socket), Some(key)) = (socket, key) else { return Ok(None) };
        self.race.reactor.release_source(&mut socket, key)?;
        Ok(Some(socket))
    }

    fn close(&self) {
        self.socket.take();
        if let Some(key) = self.key.take() {
            self.race.reactor.remove_source(key);
        }
    }
}

impl Handler for Try {
    fn ready(self: Rc<Self>, _readiness: Readiness) {
        let outcome = self.is_connected().and_then(|connected| if connected { self.release() } else { Ok(None) });
        match outcome {
            Ok(Some(socket)) => self.race.won(socket, self.addr),
            Ok(None) => {}
            Err(error) => self.race.lost(&self, error),
        }
    }

    fn flush(self: Rc<Self>) {}

    /// Who wants the connection is told by the reactor as well.
    fn shut_down(self: Rc<Self>) {
        self.race.close();
    }
}

/// That there is no way to one of the families is normal, and tells less than what the other one says.
fn how_far(failure: &CannotConnect) -> u8 {
    match failure.kind() {
        ConnectErrorKind::Refused => 3,
        ConnectErrorKind::TimedOut => 2,
        ConnectErrorKind::Unreachable => 0,
        _ => 1,
    }
}

fn bind_to(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    // A client that comes back from the same port must not wait for its last connection to be forgotten.
    socket.set_reuse_address(addr.port() != 0)?;
    socket.bind(&addr.into())
}

/// The answer of the system when it will tell later.
fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EINPROGRESS)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const EINPROGRESS: i32 = 115;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const EINPROGRESS: i32 = 36;

/// The recommendation of RFC 8305, section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
