//! Descriptors of the program's own on the loop: inotify, a database client, a device.
//!
//! ```no_run
//! use std::io::Read;
//!
//! use dosimeter::Reactor;
//! use dosimeter::source::{Descriptor, Interest, Next};
//!
//! # fn main() -> dosimeter::Result<()> {
//! let reactor = Reactor::new()?;
//! let events = std::fs::File::open("/dev/input/event0")?;
//! reactor.watch(Descriptor::nonblocking(events)?, Interest::READABLE, |_reactor, events, _readiness| {
//!     let mut event = [0; 24];
//!     events.get_mut().read_exact(&mut event)?;
//!     println!("{event:?}");
//!     // There may be more: the loop asks again when everybody else had a turn. That there is nothing is no failure.
//!     Ok(Next::Again)
//! })?;
//! reactor.run()
//! # }
//! ```
//!
//! A signal becomes a descriptor with the crate `signal-hook` (SIGINT and SIGTERM [stop](crate::Builder::signal_handlers) a
//! reactor by themselves):
//!
//! ```
//! use std::io::Read;
//! use std::os::unix::net::UnixStream;
//!
//! use dosimeter::Reactor;
//! use dosimeter::source::{Descriptor, Interest, Next};
//! use signal_hook::consts::SIGHUP;
//!
//! # fn main() -> dosimeter::Result<()> {
//! let reactor = Reactor::new()?;
//! let (signals, handler) = UnixStream::pair()?;
//! signal_hook::low_level::pipe::register(SIGHUP, handler)?;
//! reactor.watch(Descriptor::nonblocking(signals)?, Interest::READABLE, |reactor, signals, _readiness| {
//!     let _ = signals.get_mut().read(&mut [0; 64])?;
//!     println!("reading the configuration again");
//!     # reactor.stop()?;
//!     Ok(Next::Again)
//! })?;
//! # signal_hook::low_level::raise(SIGHUP)?;
//! reactor.run()
//! # }
//! ```
//!
//! Rules kept here:
//! - The reactor owns the source and its handler; both are taken out of their cell while the handler runs, or the source is
//!   told of something, so either may do anything to the watch.
//! - A handler that fails or panics is called no more: a source that cannot be read would be told of for ever.
//! - A source leaves the poll before it leaves our hands: whoever gets it back can put it on another loop.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

pub use mio::event::Source;
pub use mio::unix::SourceFd;
pub use mio::{Interest, Registry, Token};

use crate::failure::{Result, guard};
pub use crate::reactor::poller::Readiness;
use crate::reactor::poller::Wants;
use crate::reactor::{Handler, Key, Reactor};

impl Reactor {
    /// Has `ready` called with the source whenever it is ready for what is of interest.
    ///
    /// A source is anything that mio can poll: its own types, those of crates that know it, and with [`Descriptor`] every other
    /// thing that has a file descriptor. The source must not block.
    ///
    /// Readiness is told once per change: the handler has to read (or write) until it would block, or say [`Next::Again`].
    /// It may be called when there is nothing, and must take that for what it is: `WouldBlock`, as an error, is no failure
    /// but [`Next::Wait`].
    ///
    /// It is watched until the handler says [`Next::Remove`] or fails, [`Watch::remove`] is called, or the reactor ends; dropping
    /// the handle changes nothing. Then the source is dropped, which is how a handler that wants to know of the end hears of
    /// it. A failure is logged.
    ///
    /// # Errors
    /// What the system says when it cannot be polled: the descriptor is closed, a regular file, or watched already.
    #[doc(alias = "addReader")]
    #[doc(alias = "addWriter")]
    #[doc(alias = "add_source")]
    pub fn watch<S: Source + 'static>(
        &self,
        source: S,
        interest: Interest,
        ready: impl FnMut(&Reactor, &mut S, Readiness) -> Result<Next> + 'static,
    ) -> io::Result<Watch<S>> {
        let watched = Rc::new(Watched {
            reactor: self.clone(),
            key: Cell::new(None),
            interest: Cell::new(interest),
            changed: Cell::new(false),
            parts: RefCell::new(None),
        });
        let mut parts = (source, Box::new(ready) as Ready<S>);
        let key = self.add_source(&mut parts.0, watched.clone(), Wants::Exactly(interest)).map_err(in_words)?;
        watched.key.set(Some(key));
        watched.parts.replace(Some(parts));
        Ok(Watch(watched))
    }
}

/// Of these two the system says "Operation not permitted" and "File exists".
fn in_words(error: io::Error) -> io::Error {
    let text = match error.kind() {
        ErrorKind::PermissionDenied => {
            "a file of this kind cannot be polled, it is always ready; read it in the thread pool"
        }
        ErrorKind::AlreadyExists => "this descriptor is watched already",
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

/// What is to happen after a source was ready; the answer of its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until it is ready the next time: all was read, or written, that could be.
    Wait,
    /// The handler is called again in the next turn: there may be more, and others had to wait long enough.
    Again,
    /// It is not watched any more.
    Remove,
}

/// A source that is watched; see [`Reactor::watch`]. A clone is another handle to the same.
#[doc(alias = "SelectableHandle")]
pub struct Watch<S>(Rc<Watched<S>>);

impl<S: Source + 'static> Watch<S> {
    /// Watches for something else from now on. What the source is ready for already is told again.
    ///
    /// # Errors
    /// `NotFound` when it is not watched any more; otherwise what the system says.
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        let Some(key) = self.0.key.get() else { return Err(ErrorKind::NotFound.into()) };
        self.0.interest.set(interest);
        self.0.changed.set(true);
        // Absent while its handler runs, or while it is told of another change: whoever has it looks for this one.
        let Some((mut source, ready)) = self.0.parts.take() else { return Ok(()) };
        let outcome = guard(|| self.0.renew(&mut source, key));
        self.0.parts.replace(Some((source, ready)));
        if self.0.key.get().is_none() {
            // It took itself off meanwhile.
            drop(self.0.leave());
        }
        outcome.unwrap_or_else(|failure| Err(io::Error::other(failure.into_error())))
    }

    /// Calls the handler in the next turn, as if the source were readable.
    pub fn call_again(&self) {
        if let Some(key) = self.0.key.get() {
            self.0.reactor.ready_again(key);
        }
    }

    /// Takes the source off the loop and gives it back; `None` when it was taken off before.
    ///
    /// Called from inside its own handler it gives back nothing: the source is then dropped when the handler returns.
    #[doc(alias = "removeReader")]
    pub fn remove(&self) -> Option<S> {
        self.0.leave().map(|(source, _)| source)
    }

    /// Whether the handler will still be called.
    pub fn is_active(&self) -> bool {
        self.0.key.get().is_some()
    }
}

impl<S> Clone for Watch<S> {
    fn clone(&self) -> Self {
        Watch(self.0.clone())
    }
}

impl<S> fmt::Debug for Watch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let active = self.0.key.get().is_some();
        f.debug_struct("Watch").field("interest", &self.0.interest.get()).field("is_active", &active).finish()
    }
}

struct Watched<S> {
    reactor: Reactor,
    /// Absent when it is not watched any more.
    key: Cell<Option<Key>>,
    interest: Cell<Interest>,
    /// The interest was changed and the poll does not know.
    changed: Cell<bool>,
    /// Absent while the handler runs or the source is told of a change, and after the end.
    parts: RefCell<Option<(S, Ready<S>)>>,
}

type Ready<S> = Box<dyn FnMut(&Reactor, &mut S, Readiness) -> Result<Next>>;

impl<S: Source + 'static> Watched<S> {
    /// Takes the source out of the poll, and what there is of it out of here.
    fn leave(&self) -> Option<(S, Ready<S>)> {
        if let Some(key) = self.key.take() {
            self.reactor.remove_source(key);
        }
        let mut parts = self.parts.take()?;
        self.reactor.forget_source(&mut parts.0);
        Some(parts)
    }

    /// The handler is done, and has said what comes next.
    fn put_back(&self, mut parts: (S, Ready<S>), outcome: Result<Next>) {
        let next = outcome.unwrap_or_else(|failure| {
            failure.log("dosimeter::reactor", format_args!("a watched source is given up"));
            Next::Remove
        });
        let key = self.key.get().filter(|_| next != Next::Remove);
        let kept = key.is_some_and(|key| self.renew_or_say(&mut parts.0, key));
        self.parts.replace(Some(parts));
        match key {
            Some(key) if kept && next == Next::Again => self.reactor.ready_again(key),
            Some(_) if kept => {}
            _ => drop(self.leave()),
        }
    }

    fn renew_or_say(&self, source: &mut S, key: Key) -> bool {
        let outcome = self.renew(source, key);
        if let Err(error) = &outcome {
            log::error!(target: "dosimeter::reactor", "a watched source is given up: {error}");
        }
        outcome.is_ok()
    }

    /// Has the poll know of a change of interest, and of one that the source makes while it is told.
    fn renew(&self, source: &mut S, key: Key) -> io::Result<()> {
        let mut told = None;
        while self.key.get().is_some() && self.changed.take() && told != Some(self.interest.get()) {
            let interest = self.interest.get();
            self.reactor.change_source(source, key, Wants::Exactly(interest))?;
            told = Some(interest);
        }
        Ok(())
    }
}

impl<S: Source + 'static> Handler for Watched<S> {
    fn ready(self: Rc<Self>, readiness: Readiness) {
        let Some((mut source, mut ready)) = self.parts.take() else { return };
        let outcome = guard(|| ready(&self.reactor, &mut source, readiness)).flatten();
        let outcome = outcome.or_else(|failure| {
            self.reactor.count_panic(&failure);
            let would_block = |error: &io::Error| error.kind() == ErrorKind::WouldBlock;
            if failure.downcast_ref().is_some_and(would_block) { Ok(Next::Wait) } else { Err(failure) }
        });
        self.put_back((source, ready), outcome);
    }

    fn flush(self: Rc<Self>) {}

    fn shut_down(self: Rc<Self>) {
        drop(self.leave());
    }
}

/// Anything with a file descriptor, as a [`Source`].
///
/// A file, pipe or socket of std, the connection of a database library, an inotify instance. It must stay the same descriptor
/// for as long as this lives. Where a library gives out nothing but the number, implement [`Source`] with [`SourceFd`].
#[derive(Debug)]
pub struct Descriptor<T>(T);

impl<T: AsFd> Descriptor<T> {
    /// Takes something whose descriptor does not block already.
    pub fn new(inner: T) -> Self {
        Descriptor(inner)
    }

    /// Takes something with a descriptor and makes that not block, as those of std do.
    ///
    /// This holds for everybody who shares the open file, other processes included; think before you do it to the standard
    /// input.
    ///
    /// # Errors
    /// What the system says.
    pub fn nonblocking(inner: T) -> io::Result<Self> {
        // It sets a flag that every descriptor has, be it a socket or not.
        socket2::SockRef::from(&inner).set_nonblocking(true)?;
        Ok(Descriptor(inner))
    }
}

impl<T> Descriptor<T> {
    /// What is inside.
    pub fn get_ref(&self) -> &T {
        &self.0
    }

    /// What is inside, to be read and written.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.0
    }

    /// Takes out what is inside.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T: AsFd> Source for Descriptor<T> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_fd().as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_fd().as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0.as_fd().as_raw_fd()).deregister(registry)
    }
}
