//! Being a service of systemd: listening sockets that it has opened, and telling it how the service is.
//!
//! Nothing here happens by itself. A program that calls none of this is started by systemd like any other, and one that does
//! runs without systemd as well: there are no sockets then, and nobody is told.
//!
//! ```no_run
//! use dosimeter::Reactor;
//! use dosimeter::net::systemd;
//! use dosimeter::web::{Branch, Site};
//!
//! # fn main() -> dosimeter::Result<()> {
//! let reactor = Reactor::new()?;
//! reactor.listen_tcp(8000, Site::new(Branch::new()))?;
//! systemd::announce(&reactor);
//! reactor.run()
//! # }
//! ```
//!
//! Rules kept here:
//! - A message that cannot be sent is logged and holds up nothing: a service works whether or not anybody watches it.
//! - The watchdog is fed by a timed call. So it tells what it is for: that the loop goes round.

use std::env;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::clock::Clock;
#[cfg(not(feature = "systemd"))]
use crate::net::{
    address::Address,
    port::{CannotListen, ListeningPort},
};
use crate::reactor::{Reactor, WeakReactor};

#[cfg(feature = "systemd")]
pub(crate) use inherited::listen;
#[cfg(feature = "systemd")]
pub use inherited::{Inherited, listeners};

/// Tells systemd when the reactor runs (`READY=1`) and when it begins to stop (`STOPPING=1`), and feeds the watchdog if the
/// service has one (`Type=notify`, `WatchdogSec=`).
///
/// What delays the start, such as work that [`Reactor::on_startup`] waits for, delays the message as well if it was added before.
pub fn announce(reactor: &Reactor) {
    // The trigger is for who wants to take it back.
    let _ = reactor.call_when_running(|| tell("READY=1"));
    reactor.on_shutdown().before(|| tell("STOPPING=1"));
    watchdog(reactor);
}

/// Sends systemd a message about this service: `READY=1`, `RELOADING=1`, `STATUS=...` (see `sd_notify(3)`), several of them
/// separated by line feeds. `false`: nobody wants to know.
///
/// ```
/// use dosimeter::net::systemd;
///
/// # fn main() -> dosimeter::Result<()> {
/// systemd::notify("STATUS=warming up, 3 of 7 caches are filled")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the socket named by `NOTIFY_SOCKET` takes no message, or is of a kind that is not known here.
#[doc(alias = "sd_notify")]
pub fn notify(state: &str) -> io::Result<bool> {
    let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return Ok(false) };
    let addr = match path.as_bytes() {
        [b'@', name @ ..] => abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(&path)?,
        _ => {
            return Err(io::Error::new(ErrorKind::Unsupported, "NOTIFY_SOCKET is neither a path nor an abstract name"));
        }
    };
    let socket = UnixDatagram::unbound()?;
    // A full queue must not hold up the loop.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &addr).map(|_| true)
}

/// Feeds the watchdog of the service, twice in its time, for as long as the reactor runs. Gives the time between two
/// messages; `None`: the service has no watchdog.
#[doc(alias = "sd_watchdog_enabled")]
pub fn watchdog(reactor: &Reactor) -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    // The variables are inherited, also by processes that are not meant.
    let is_meant = env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
    let micros = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0)?;
    let pause = Duration::from_micros(micros) / 2;
    feed(reactor.downgrade(), pause);
    Some(pause)
}

fn feed(reactor: WeakReactor, pause: Duration) {
    tell("WATCHDOG=1");
    if let Some(alive) = reactor.upgrade() {
        alive.call_later(pause, move || feed(reactor, pause));
    }
}

fn tell(state: &str) {
    if let Err(error) = notify(state) {
        log::warn!(target: "dosimeter::net", "cannot tell systemd {state}: {error}");
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn abstract_name(name: &[u8]) -> io::Result<SocketAddr> {
    #[cfg(target_os = "android")]
    use std::os::android::net::SocketAddrExt;
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn abstract_name(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(ErrorKind::Unsupported.into())
}

/// What the endpoint `systemd:name` does in a build that cannot take descriptors over.
#[cfg(not(feature = "systemd"))]
pub(crate) fn listen(
    _reactor: &Reactor,
    name: &str,
    _factory: impl crate::net::protocol::Factory,
) -> Result<ListeningPort<Address>, CannotListen> {
    let error = io::Error::new(ErrorKind::Unsupported, "build dosimeter with the feature systemd");
    Err(CannotListen::new(format!("systemd:{name}"), error))
}

#[cfg(feature = "systemd")]
mod inherited {
    use std::cell::RefCell;
    use std::env;
    use std::io::{self, ErrorKind};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use listenfd::ListenFd;
    use socket2::SockRef;

    use crate::net::address::Address;
    use crate::net::listen::ServerEndpoint;
    use crate::net::port::{CannotListen, ListeningPort};
    use crate::net::protocol::Factory;
    use crate::reactor::Reactor;

    /// A listening socket that systemd has opened for this process: an endpoint.
    #[derive(Debug)]
    pub struct Inherited {
        name: String,
        socket: Listener,
    }

    #[derive(Debug)]
    enum Listener {
        Tcp(TcpListener),
        Unix(UnixListener),
    }

    impl Inherited {
        /// Its name, which `FileDescriptorName=` gives it; without that, that of the socket unit.
        pub fn name(&self) -> &str {
            &self.name
        }
    }

    /// What was taken over and nobody has asked for yet.
    #[derive(Default)]
    struct Waiting(RefCell<Vec<Inherited>>);

    /// Listens on the first socket of this name that nobody has listened on. The others wait for whoever asks this reactor.
    pub(crate) fn listen(
        reactor: &Reactor,
        name: &str,
        factory: impl Factory,
    ) -> Result<ListeningPort<Address>, CannotListen> {
        let waiting = reactor.local(Waiting::default);
        let found = listeners().and_then(|more| {
            let mut waiting = waiting.0.borrow_mut();
            waiting.extend(more);
            match waiting.iter().position(|socket| socket.name == name) {
                Some(place) => Ok(waiting.remove(place)),
                None => Err(unknown(&waiting)),
            }
        });
        found.map_err(|error| CannotListen::new(format!("systemd:{name}"), error))?.listen(reactor, factory)
    }

    fn unknown(waiting: &[Inherited]) -> io::Error {
        let names: Vec<_> = waiting.iter().map(|socket| format!("{:?}", socket.name)).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        io::Error::new(ErrorKind::NotFound, format!("systemd has opened no such socket; there are {names}"))
    }

    impl ServerEndpoint for Inherited {
        type Addr = Address;

        fn listen(self, reactor: &Reactor, factory: impl Factory) -> Result<ListeningPort<Address>, CannotListen> {
            match self.socket {
                Listener::Tcp(socket) => reactor.listen(socket, factory).map(ListeningPort::from),
                Listener::Unix(socket) => reactor.listen(socket, factory),
            }
        }
    }

    /// Takes the listening sockets that systemd has opened for this process (`LISTEN_FDS`), in the order of the socket units;
    /// none when it was not started that way. What is taken is not there a second time.
    ///
    /// To be called early, before there are other threads: it takes the variables out of the environment, so that children
    /// do not believe they were meant. Needs the feature `systemd`.
    ///
    /// ```
    /// use dosimeter::Reactor;
    /// use dosimeter::net::systemd;
    /// use dosimeter::web::{Branch, Site};
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let sockets = systemd::listeners()?;
    /// let reactor = Reactor::new()?;
    /// for socket in sockets {
    ///     // One may look at `socket.name()` to tell a public port from one for operators.
    ///     reactor.listen(socket, Site::new(Branch::new()))?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When one of them is no listening TCP or UNIX socket, by its name.
    #[doc(alias = "sd_listen_fds_with_names")]
    pub fn listeners() -> io::Result<Vec<Inherited>> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').filter(|name| !name.is_empty());
        let mut sockets = ListenFd::from_env();
        let mut taken = Vec::with_capacity(sockets.len());
        for index in 0..sockets.len() {
            let name = names.next().unwrap_or("unknown").to_owned();
            let socket = take(&mut sockets, index).map_err(|error| {
                io::Error::new(error.kind(), format!("the inherited socket {name:?}: {error}; remove it from the unit"))
            })?;
            taken.push(Inherited { name, socket });
        }
        Ok(taken)
    }

    fn take(sockets: &mut ListenFd, index: usize) -> io::Result<Listener> {
        let socket = match sockets.take_tcp_listener(index) {
            Ok(socket) => socket.map(Listener::Tcp),
            Err(_) => sockets.take_unix_listener(index)?.map(Listener::Unix),
        };
        let socket = socket.ok_or(ErrorKind::NotFound)?;
        let listens = match &socket {
            Listener::Tcp(socket) => SockRef::from(socket).is_listener(),
            Listener::Unix(socket) => SockRef::from(socket).is_listener(),
        };
        if listens? { Ok(socket) } else { Err(io::Error::new(ErrorKind::InvalidInput, "it does not listen")) }
    }
}
