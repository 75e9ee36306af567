//! From a host's name to addresses, off the loop.
//!
//! Rules kept here:
//! - A literal address is never looked up.
//! - The resolver of the system blocks: it is asked in the thread pool, by a few threads at most, so that a name server that
//!   does not answer leaves threads to the program.
//! - Both families are tried early: the order is that of RFC 8305, section 4.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;

use crate::deferred::{Deferred, DeferredSemaphore, maybe_deferred};
use crate::reactor::{Reactor, ReactorError};

/// Finds the addresses of a name; see [`Reactor::install_resolver`].
///
/// A closure is one:
///
/// ```
/// use std::net::SocketAddr;
/// use dosimeter::{Deferred, Reactor};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// reactor.install_resolver(|host: &str, port: u16| match host {
///     "db.internal" => Deferred::succeed(vec![SocketAddr::from(([10, 0, 0, 5], port))]),
///     _ => Deferred::fail(format!("{host:?} is not in our network")),
/// });
/// # Ok(())
/// # }
/// ```
#[doc(alias = "IHostnameResolver")]
pub trait Resolver: 'static {
    /// The addresses of `host`, each with `port`, the preferred ones first.
    ///
    /// The chain is cancelled when nobody waits for it any more.
    fn resolve(&self, host: &str, port: u16) -> Deferred<Vec<SocketAddr>>;
}

impl<F> Resolver for F
where
    F: Fn(&str, u16) -> Deferred<Vec<SocketAddr>> + 'static,
{
    fn resolve(&self, host: &str, port: u16) -> Deferred<Vec<SocketAddr>> {
        self(host, port)
    }
}

impl Reactor {
    /// Has `resolver` find the addresses of the names that are connected to from now on, in place of the system's.
    ///
    /// The system's is `getaddrinfo`, in the thread pool, four names at a time; the others wait. A name server that does not
    /// answer holds up the end of [`run`](Reactor::run) as all work in the pool does.
    #[doc(alias = "installNameResolver")]
    pub fn install_resolver(&self, resolver: impl Resolver) {
        let former = self.local(Names::new).installed.replace(Some(Rc::new(resolver)));
        // Outside of the cell: it is the user's, and so is its drop.
        drop(former);
    }
}

/// How names are resolved in one reactor.
struct Names {
    installed: RefCell<Option<Rc<dyn Resolver>>>,
    lookups: DeferredSemaphore,
}

impl Names {
    fn new() -> Self {
        Names { installed: RefCell::new(None), lookups: DeferredSemaphore::new(MAX_LOOKUPS) }
    }
}

/// The addresses of `host`, in the order to try them.
pub(crate) fn resolve(reactor: &Reactor, host: &str, port: u16) -> Deferred<Vec<SocketAddr>> {
    let names = reactor.local(Names::new);
    let installed = names.installed.borrow().clone();
    let found = match installed {
        Some(resolver) => maybe_deferred(|| resolver.resolve(host, port)),
        None if reactor.is_virtual() => know_by_heart(host, port),
        None => ask_system(reactor, &names.lookups, host.to_owned(), port),
    };
    found.map(alternate_families)
}

/// In virtual time nothing depends on the machine.
fn know_by_heart(host: &str, port: u16) -> Deferred<Vec<SocketAddr>> {
    match host {
        "localhost" => Deferred::succeed(vec![(Ipv4Addr::LOCALHOST, port).into()]),
        _ => Deferred::fail("the network in memory knows localhost only; install a resolver"),
    }
}

fn ask_system(reactor: &Reactor, lookups: &DeferredSemaphore, host: String, port: u16) -> Deferred<Vec<SocketAddr>> {
    // Weak, for the queue of look-ups belongs to the reactor.
    let reactor = reactor.downgrade();
    to_the_end(lookups, move || match reactor.upgrade() {
        Some(reactor) => reactor.defer_to_thread(move || Ok((host.as_str(), port).to_socket_addrs()?.collect())),
        None => Deferred::fail(ReactorError::Gone),
    })
}

/// Begins a look-up when there is a place for it, which it keeps to its end, also when nobody waits for it any more: its thread
/// still asks the name server, and to begin another one beside it would fill the pool in time.
fn to_the_end<T: 'static>(lookups: &DeferredSemaphore, look_up: impl FnOnce() -> Deferred<T> + 'static) -> Deferred<T> {
    lookups.acquire().add_callback(|place| {
        let (completer, found) = Deferred::pair();
        look_up().add_both(move |result| {
            drop(place);
            completer.fire(result);
        });
        found
    })
}

/// One address of each family in turn, beginning with the family of the first: if one of the two is broken, that costs one
/// pause and not as many as it has addresses.
pub(crate) fn alternate_families(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addrs.first().map(SocketAddr::is_ipv4) else { return addrs };
    let (preferred, other): (Vec<_>, Vec<_>) = addrs.into_iter().partition(|addr| addr.is_ipv4() == first);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut order = Vec::with_capacity(preferred.len() + other.len());
    while preferred.len() + other.len() > 0 {
        order.extend(preferred.next());
        order.extend(other.next());
    }
    order
}

/// No address came of a name.
pub(crate) fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

/// Names that are looked up at the same time: fewer than there are threads, and enough for what a client connects to at once.
const MAX_LOOKUPS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn order(texts: &[&str]) -> Vec<String> {
        let addrs = texts.iter().map(|text| text.parse().expect("an address")).collect();
        alternate_families(addrs).iter().map(|addr| addr.ip().to_string()).collect()
    }

    #[test]
    fn families_take_turns_beginning_with_that_of_the_first_address() {
        assert_eq!(order(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]), ["::1", "1.1.1.1", "::2", "::3"]);
        assert_eq!(order(&["1.1.1.1:1", "2.2.2.2:1", "[::1]:1", "[::2]:1"]), ["1.1.1.1", "::1", "2.2.2.2", "::2"]);
        assert_eq!(order(&["1.1.1.1:1", "2.2.2.2:1"]), ["1.1.1.1", "2.2.2.2"]);
        assert!(order(&[]).is_empty());
    }

    #[test]
    fn a_look_up_that_nobody_waits_for_keeps_its_place_until_its_thread_is_free() {
        let lookups = DeferredSemaphore::new(1);
        let (answer, thread) = Deferred::pair();
        let given_up = to_the_end(&lookups, || thread);
        given_up.cancel();
        assert!(given_up.is_fired(), "who waits is told at once");
        let next = to_the_end(&lookups, || Deferred::succeed("found"));
        assert_eq!((next.is_fired(), lookups.waiting()), (false, 1), "the thread is not free");
        answer.callback("late");
        assert_eq!(next.into_result().expect("fired").expect("found"), "found");
        assert_eq!(lookups.available(), 1);
    }
}
