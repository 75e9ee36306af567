//! One attempt to connect: from an endpoint to a connected socket, and nothing of protocols.
//!
//! Rules kept here:
//! - Every failure is a [`CannotConnect`], unless somebody cancelled the chain, which closes what is open.
//! - A reactor in virtual time has a network in memory: nothing of the attempt leaves it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::{TcpStream, UnixStream};

use crate::clock::Clock;
use crate::deferred::Deferred;
use crate::failure::Failure;
use crate::net::address::{Address, HostPort, parse_host_port};
use crate::net::client::{CannotConnect, ClientEndpoint, ConnectErrorKind, Place};
use crate::net::memory::{MemoryStream, Network};
use crate::net::race::race;
use crate::net::resolve::{no_address, resolve};
use crate::net::unix;
use crate::reactor::Reactor;

/// A socket that is connected and registered nowhere, and its peer.
pub(crate) enum Dialed {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream, PathBuf),
    Memory(MemoryStream, Address),
}

impl Dialed {
    pub(crate) fn peer(&self) -> Address {
        match self {
            Dialed::Tcp(_, peer) => Address::Inet(*peer),
            Dialed::Unix(_, path) => Address::Unix(Some(path.clone())),
            Dialed::Memory(_, peer) => peer.clone(),
        }
    }
}

/// Tries to connect. The chain may fire before this returns.
pub(crate) fn dial(reactor: &Reactor, endpoint: &ClientEndpoint) -> Deferred<Dialed> {
    match &endpoint.place {
        Place::Tcp(text) => dial_tcp(reactor, endpoint, text),
        Place::Unix(path) => match Network::of(reactor) {
            Some(network) => dial_in_memory(&network, reactor, endpoint, [Address::Unix(Some(path.clone()))]),
            None => dial_unix(reactor, endpoint, path),
        },
        Place::Invalid { problem, .. } => fail(endpoint, ConnectErrorKind::Address, problem.as_str()),
    }
}

fn dial_tcp(reactor: &Reactor, endpoint: &ClientEndpoint, text: &str) -> Deferred<Dialed> {
    match parse_host_port(text) {
        Err(problem) => fail(endpoint, ConnectErrorKind::Address, problem),
        Ok(HostPort::Literal(addr)) => dial_first(reactor, endpoint, vec![addr]),
        Ok(HostPort::Name(host, port)) => {
            let found = resolve(reactor, &host, port);
            let (reactor, endpoint, unknown) = (reactor.clone(), endpoint.clone(), endpoint.clone());
            found.add_callbacks(
                move |addrs| dial_first(&reactor, &endpoint, addrs),
                move |failure: Failure| {
                    Deferred::fail(CannotConnect::new(ConnectErrorKind::Lookup, &unknown).because(failure))
                },
            )
        }
    }
}

/// Connects to the first of `addrs` that answers.
fn dial_first(reactor: &Reactor, endpoint: &ClientEndpoint, addrs: Vec<SocketAddr>) -> Deferred<Dialed> {
    if addrs.is_empty() {
        return Deferred::fail(CannotConnect::new(ConnectErrorKind::Lookup, endpoint).because(no_address()));
    }
    let ours = |addr: &SocketAddr| endpoint.bind.is_none_or(|bind| bind.is_ipv4() == addr.is_ipv4());
    let addrs: Vec<_> = addrs.into_iter().filter(ours).collect();
    if addrs.is_empty() {
        return fail(endpoint, ConnectErrorKind::Bind, "the host has no address of its family");
    }
    match Network::of(reactor) {
        Some(network) => dial_in_memory(&network, reactor, endpoint, addrs.into_iter().map(Address::Inet)),
        None => race(reactor, endpoint, addrs).map(|(socket, addr)| Dialed::Tcp(socket, addr)),
    }
}

fn dial_in_memory(
    network: &Network,
    reactor: &Reactor,
    endpoint: &ClientEndpoint,
    addrs: impl IntoIterator<Item = Address>,
) -> Deferred<Dialed> {
    let mut failed = CannotConnect::of_system(endpoint, None, no_address());
    for addr in addrs {
        match network.connect(reactor, &addr, endpoint.bind.map(Address::Inet)) {
            Ok(stream) => return Deferred::succeed(Dialed::Memory(stream, addr)),
            Err(error) => failed = CannotConnect::of_system(endpoint, addr.socket_addr(), error),
        }
    }
    Deferred::fail(failed)
}

/// Where many connect at once the queue of the listener may be full. The system does not tell when there is room in it.
fn dial_unix(reactor: &Reactor, endpoint: &ClientEndpoint, path: &Path) -> Deferred<Dialed> {
    match unix::connect(path) {
        Ok(socket) => Deferred::succeed(Dialed::Unix(socket, path.to_owned())),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let (again, here, path) = (reactor.clone(), endpoint.clone(), path.to_owned());
            pause(reactor, endpoint).add_callback(move |()| dial_unix(&again, &here, &path))
        }
        Err(error) => Deferred::fail(CannotConnect::of_system(endpoint, None, error)),
    }
}

fn pause(reactor: &Reactor, endpoint: &ClientEndpoint) -> Deferred<()> {
    let (completer, over) = Deferred::pair();
    endpoint.clock_in(reactor).call_later(QUEUE_PAUSE, move || completer.callback(()));
    over
}

fn fail(endpoint: &ClientEndpoint, kind: ConnectErrorKind, problem: impl Into<String>) -> Deferred<Dialed> {
    Deferred::fail(CannotConnect::new(kind, endpoint).because(problem.into()))
}

/// Long enough not to spin, short enough that nobody notices.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);
