//! The network of a reactor in virtual time: sockets and ports that are memory.
//!
//! Rules kept here:
//! - A socket keeps the contract of the system's, so that one driver serves both: nothing blocks, readiness is told once per
//!   change, what a closed half still holds can be read, and closing with unread input resets the connection.
//! - It is stricter than the system where the system may be kind or not: a reset takes what was not read with it.
//! - Readiness is told through the reactor's list of sources to be called again, so a turn is what it is elsewhere.
//! - Nothing here calls the program, and nothing keeps the reactor alive.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};

use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::net::address::Address;
use crate::net::socket::{ListenSocket, Peer, StreamSocket};
use crate::reactor::poller::Source;
use crate::reactor::{Key, Reactor, WeakReactor};

/// One end of a connection in memory.
pub(crate) struct MemoryStream {
    incoming: Rc<Pipe>,
    outgoing: Rc<Pipe>,
    local: Address,
    /// Closing is a reset.
    resets: Cell<bool>,
}

/// One direction of a connection.
struct Pipe {
    reactor: WeakReactor,
    state: RefCell<State>,
    reader: Cell<Option<Key>>,
    writer: Cell<Option<Key>>,
}

struct State {
    bytes: VecDeque<u8>,
    /// The writer sends nothing more.
    closed: bool,
    /// The reader is gone.
    deaf: bool,
    reset: bool,
    /// A write found no room.
    writer_waits: bool,
    /// How many bytes are kept for the reader.
    capacity: usize,
    /// How many bytes one read gets at most.
    piece: usize,
}

/// A pair of ends, as `socketpair` gives it: what is written to one is read from the other.
pub(crate) fn pair(reactor: &Reactor, addresses: [Address; 2]) -> [MemoryStream; 2] {
    let [one, other] = [Pipe::new(reactor), Pipe::new(reactor)];
    let [here, there] = addresses;
    let end = |incoming: &Rc<Pipe>, outgoing: &Rc<Pipe>, local| MemoryStream {
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        local,
        resets: Cell::new(false),
    };
    [end(&one, &other, here), end(&other, &one, there)]
}

impl MemoryStream {
    /// How much the peer may send before this end has read: what the buffers of two systems are elsewhere.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        let was_waiting = {
            let mut state = self.incoming.state.borrow_mut();
            state.capacity = capacity;
            state.bytes.len() < capacity && std::mem::take(&mut state.writer_waits)
        };
        if was_waiting {
            self.incoming.wake(&self.incoming.writer);
        }
    }

    /// Has what the peer reads come in pieces of at most this many bytes.
    pub(crate) fn set_piece(&self, piece: usize) {
        self.outgoing.state.borrow_mut().piece = piece.max(1);
    }

    /// How many bytes wait to be read here.
    pub(crate) fn unread(&self) -> usize {
        self.incoming.state.borrow().bytes.len()
    }

    /// Breaks the connection, as a network does.
    pub(crate) fn reset(&self) {
        self.resets.set(true);
        self.outgoing.reset();
        self.incoming.reset();
    }
}

impl StreamSocket for MemoryStream {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.incoming.read(buffer)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        self.outgoing.write(data)
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.outgoing.close();
        Ok(())
    }

    fn options(&self) -> Option<SockRef<'_>> {
        None
    }

    fn take_error(&self) -> Option<io::Error> {
        self.incoming.state.borrow().reset.then(|| ErrorKind::ConnectionReset.into())
    }

    fn reset_when_closed(&self) {
        self.resets.set(true);
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(self.local.clone())
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        let has_unread = {
            let mut incoming = self.incoming.state.borrow_mut();
            incoming.deaf = true;
            !incoming.bytes.is_empty()
        };
        if self.resets.get() || has_unread {
            self.outgoing.reset();
        } else {
            self.outgoing.close();
        }
        self.incoming.reader.set(None);
        self.outgoing.writer.set(None);
        // Who waits for room waits in vain, and is to find out.
        self.incoming.wake(&self.incoming.writer);
    }
}

/// The one thing a source is asked here is under which token the reactor knows it.
impl Source for MemoryStream {
    fn register(&mut self, _registry: &Registry, token: Token, _interest: Interest) -> io::Result<()> {
        let key = Some(Key::from_usize(token.0));
        self.incoming.reader.set(key);
        self.outgoing.writer.set(key);
        if self.incoming.is_readable() {
            self.incoming.wake(&self.incoming.reader);
        }
        Ok(())
    }

    fn reregister(&mut self, _registry: &Registry, _token: Token, _interest: Interest) -> io::Result<()> {
        Ok(())
    }

    fn deregister(&mut self, _registry: &Registry) -> io::Result<()> {
        Ok(())
    }
}

impl Pipe {
    fn new(reactor: &Reactor) -> Rc<Self> {
        let state = State {
            bytes: VecDeque::new(),
            closed: false,
            deaf: false,
            reset: false,
            writer_waits: false,
            capacity: CAPACITY,
            piece: usize::MAX,
        };
        Rc::new(Pipe {
            reactor: reactor.downgrade(),
            state: RefCell::new(state),
            reader: Cell::new(None),
            writer: Cell::new(None),
        })
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        if state.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if state.bytes.is_empty() {
            return if state.closed { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let count = buffer.len().min(state.bytes.len()).min(state.piece);
        state.bytes.read_exact(&mut buffer[..count]).expect("there are as many");
        let writer_waits = state.bytes.len() < state.capacity && std::mem::take(&mut state.writer_waits);
        drop(state);
        // A short read says that there is no more; here it may be a piece.
        if self.is_readable() {
            self.wake(&self.reader);
        }
        if writer_waits {
            self.wake(&self.writer);
        }
        Ok(count)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        if state.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if state.deaf || state.closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let count = state.capacity.saturating_sub(state.bytes.len()).min(data.len());
        if count == 0 {
            state.writer_waits = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        state.bytes.extend(&data[..count]);
        drop(state);
        self.wake(&self.reader);
        Ok(count)
    }

    fn close(&self) {
        self.state.borrow_mut().closed = true;
        self.wake(&self.reader);
    }

    fn reset(&self) {
        let mut state = self.state.borrow_mut();
        state.reset = true;
        state.bytes.clear();
        drop(state);
        self.wake(&self.reader);
        self.wake(&self.writer);
    }

    fn is_readable(&self) -> bool {
        let state = self.state.borrow();
        !state.bytes.is_empty() || state.closed || state.reset
    }

    fn wake(&self, who: &Cell<Option<Key>>) {
        if let (Some(key), Some(reactor)) = (who.get(), self.reactor.upgrade()) {
            reactor.ready_again(key);
        }
    }
}

/// The ports of one reactor in virtual time.
#[derive(Default)]
pub(crate) struct Network {
    ports: RefCell<Vec<(Address, Weak<Backlog>)>>,
    /// The last number that was given to whoever asked for any.
    last_port: Cell<u16>,
}

/// Connections that were made and not accepted yet.
pub(crate) struct Backlog {
    reactor: WeakReactor,
    key: Cell<Option<Key>>,
    waiting: RefCell<VecDeque<(MemoryStream, Address)>>,
}

/// A listening socket in memory.
pub(crate) struct MemoryListener(Rc<Backlog>);

impl Network {
    /// The network of `reactor`, if it is one that has its own.
    pub(crate) fn of(reactor: &Reactor) -> Option<Rc<Network>> {
        reactor.is_virtual().then(|| reactor.local(Network::default))
    }

    /// Listens on `address`, or for port 0 on one that is free.
    ///
    /// # Errors
    /// When somebody listens there.
    pub(crate) fn listen_tcp(&self, reactor: &Reactor, addr: SocketAddr) -> io::Result<(MemoryListener, SocketAddr)> {
        let port = if addr.port() == 0 { self.free_port() } else { addr.port() };
        let addr = SocketAddr::new(addr.ip(), port);
        Ok((self.listen(reactor, addr.into())?, addr))
    }

    /// Listens on `address`.
    ///
    /// # Errors
    /// When somebody listens there.
    pub(crate) fn listen(&self, reactor: &Reactor, address: Address) -> io::Result<MemoryListener> {
        if self.find(&address).is_some() {
            return Err(ErrorKind::AddrInUse.into());
        }
        let backlog =
            Rc::new(Backlog { reactor: reactor.downgrade(), key: Cell::new(None), waiting: RefCell::default() });
        let mut ports = self.ports.borrow_mut();
        ports.retain(|(_, port)| port.strong_count() > 0);
        ports.push((address, Rc::downgrade(&backlog)));
        Ok(MemoryListener(backlog))
    }

    /// Where somebody listens, in the order in which they began.
    pub(crate) fn listening(&self) -> Vec<Address> {
        let ports = self.ports.borrow();
        ports.iter().filter(|(_, port)| port.strong_count() > 0).map(|(address, _)| address.clone()).collect()
    }

    /// Connects to whoever listens on `to`, as `from` or from a free port of the loopback interface.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) fn connect(&self, reactor: &Reactor, to: &Address, from: Option<Address>) -> io::Result<MemoryStream> {
        let backlog = self.find(to).ok_or(ErrorKind::ConnectionRefused)?;
        let from = from.unwrap_or_else(|| match to {
            Address::Inet(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, self.free_port())).into(),
            Address::Unix(_) => Address::Unix(None),
        });
        let [near, far] = pair(reactor, [from.clone(), to.clone()]);
        backlog.waiting.borrow_mut().push_back((far, from));
        backlog.wake();
        Ok(near)
    }

    fn find(&self, to: &Address) -> Option<Rc<Backlog>> {
        let ports = self.ports.borrow();
        let mut listening = ports.iter().filter(|(address, _)| reaches(to, address));
        listening.find_map(|(_, port)| port.upgrade())
    }

    fn free_port(&self) -> u16 {
        let next = self.last_port.get().checked_add(1).unwrap_or_default().max(FIRST_FREE_PORT);
        self.last_port.set(next);
        next
    }
}

/// Whether who connects to `to` gets to who listens on `address`. All the interfaces of a machine in memory are one.
fn reaches(to: &Address, address: &Address) -> bool {
    match (to, address) {
        (Address::Inet(to), Address::Inet(address)) => to.port() == address.port(),
        (to, address) => to == address,
    }
}

impl Backlog {
    fn wake(&self) {
        if let (Some(key), Some(reactor)) = (self.key.get(), self.reactor.upgrade()) {
            reactor.ready_again(key);
        }
    }
}

impl ListenSocket for MemoryListener {
    type Stream = MemoryStream;

    fn accept(&self) -> io::Result<(MemoryStream, Peer)> {
        let (stream, from) = self.0.waiting.borrow_mut().pop_front().ok_or(ErrorKind::WouldBlock)?;
        Ok((stream, Peer::new(from)))
    }

    /// Nobody comes between this and a close.
    fn close_door(&self) -> io::Result<bool> {
        Ok(false)
    }
}

impl Source for MemoryListener {
    fn register(&mut self, _registry: &Registry, token: Token, _interest: Interest) -> io::Result<()> {
        self.0.key.set(Some(Key::from_usize(token.0)));
        self.0.wake();
        Ok(())
    }

    fn reregister(&mut self, _registry: &Registry, _token: Token, _interest: Interest) -> io::Result<()> {
        Ok(())
    }

    fn deregister(&mut self, _registry: &Registry) -> io::Result<()> {
        Ok(())
    }
}

/// What a loopback connection of Linux takes before the reader has read, roughly; far more than an answer in a test.
const CAPACITY: usize = 2 * 1024 * 1024;

/// Where the ports begin that no service has of its own.
const FIRST_FREE_PORT: u16 = 49_152;
