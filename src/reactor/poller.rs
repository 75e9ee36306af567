//! Waiting for readiness: the only file that names `mio` outside of the socket types of `net`.
//!
//! Rules kept here:
//! - Readiness is told once per change (edge-triggered): who gets an event works until the socket would block, or asks the
//!   reactor to be called again.
//! - An interrupted wait is an empty one.
//! - The one reading of the clock that a turn is made of happens here.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub(crate) use mio::event::Source;

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};

/// The system's poll, with room for its events.
pub(crate) struct Poller {
    poll: Poll,
}

/// Room for the events of one poll; taken out of the poller so that they can be dispatched while sources register.
pub(crate) struct Ready(Events);

/// A pipe that wakes the poll; closed when this is dropped.
pub(crate) struct WatchedPipe(#[allow(dead_code, reason = "kept for its descriptor")] mio::net::UnixStream);

/// What a source is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer will send nothing more: there is an end of stream (or an error) to be read behind the data.
    pub(crate) closing: bool,
    /// Poll said nothing: the source asked to be called again.
    pub(crate) again: bool,
}

/// What a source wants to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    Reading,
    ReadingAndWriting,
    /// What a source of the program asks for.
    Exactly(Interest),
}

impl Wants {
    fn interest(self) -> Interest {
        match self {
            Wants::Reading => Interest::READABLE,
            Wants::ReadingAndWriting => Interest::READABLE | Interest::WRITABLE,
            Wants::Exactly(interest) => interest,
        }
    }
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Poller { poll: Poll::new()? })
    }

    pub(crate) fn waker(&self) -> io::Result<impl Fn() + Send + Sync + 'static> {
        let waker = Waker::new(self.poll.registry(), Token(WAKE))?;
        Ok(move || {
            // It fails only when the reactor is gone, and then nobody is left to wake.
            let _ = waker.wake();
        })
    }

    /// Watches the reading end of the pipe that signal handlers write to, for as long as the answer is kept.
    pub(crate) fn watch_pipe(&self, pipe: UnixStream) -> io::Result<WatchedPipe> {
        let mut source = mio::net::UnixStream::from_std(pipe);
        self.poll.registry().register(&mut source, Token(WAKE), Interest::READABLE)?;
        Ok(WatchedPipe(source))
    }

    pub(crate) fn register(&self, source: &mut dyn Source, token: usize, wants: Wants) -> io::Result<()> {
        self.poll.registry().register(&mut Erased(source), Token(token), wants.interest())
    }

    pub(crate) fn reregister(&self, source: &mut dyn Source, token: usize, wants: Wants) -> io::Result<()> {
        self.poll.registry().reregister(&mut Erased(source), Token(token), wants.interest())
    }

    pub(crate) fn deregister(&self, source: &mut dyn Source) -> io::Result<()> {
        self.poll.registry().deregister(&mut Erased(source))
    }

    /// Waits until something is ready, at the most for `timeout`.
    pub(crate) fn wait(&mut self, ready: &mut Ready, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut ready.0, timeout.map(|timeout| timeout.min(LONGEST_WAIT))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                ready.0.clear();
                Ok(())
            }
            result => result,
        }
    }
}

impl Ready {
    pub(crate) fn new() -> Self {
        Ready(Events::with_capacity(EVENTS_PER_POLL))
    }

    /// The tokens that are ready, and for what.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, Readiness)> {
        self.0.iter().map(|event| (event.token().0, Readiness::of(event)))
    }
}

impl Readiness {
    pub(crate) const AGAIN: Readiness = Readiness { readable: true, writable: false, closing: false, again: true };

    /// There may be something to read, an end of stream or an error included.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// There may be room to write.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The other side sends no more, or there is an error: what is read comes to an end.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Nothing was polled: the handler asked to be called again.
    pub fn is_again(&self) -> bool {
        self.again
    }

    fn of(event: &Event) -> Self {
        let closing = event.is_read_closed() || event.is_error();
        Readiness { readable: event.is_readable() || closing, writable: event.is_writable(), closing, again: false }
    }
}

/// The monotonic time; the loop reads it here and hands it on as the "now" of the turn.
pub(crate) fn clock() -> Instant {
    Instant::now()
}

/// `Registry` wants a sized source.
struct Erased<'a>(&'a mut dyn Source);

impl Source for Erased<'_> {
    fn register(&mut self, registry: &mio::Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.0.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &mio::Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.0.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &mio::Registry) -> io::Result<()> {
        self.0.deregister(registry)
    }
}

/// The token of the waker and of signals: no source has it, its index being beyond every slab.
pub(crate) const WAKE: usize = usize::MAX;

/// More than this many ready sources are told in the next turn; mio's own examples use the figure.
pub(crate) const EVENTS_PER_POLL: usize = 1024;

/// A longer wait would overflow the milliseconds of `epoll_wait`; nothing is lost by waking up once in twelve days.
const LONGEST_WAIT: Duration = Duration::from_secs(1 << 20);
