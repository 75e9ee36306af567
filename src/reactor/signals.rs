//! SIGINT and SIGTERM while a reactor runs.
//!
//! Rules kept here:
//! - A signal handler does two things that are safe in one: it stores the number and writes a byte to a pipe. What the
//!   signal means is decided in the loop.
//! - Handlers are in place only while the reactor runs. Afterwards the signals end the program again, as they do by default.
//! - No program becomes deaf: once a signal was heard, the second one after it ends the process in the handler itself,
//!   whatever the loop is held up by.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use super::poller::{Poller, WatchedPipe};

/// SIGINT and SIGTERM are noticed while this lives.
pub(crate) struct SignalWatch {
    pipe: UnixStream,
    #[allow(dead_code, reason = "kept for what its drop does")]
    watched: WatchedPipe,
    number: Arc<AtomicUsize>,
    handlers: RefCell<Vec<SigId>>,
    /// Among those that keep signals from having their default action.
    is_counted: Cell<bool>,
    first: Cell<Option<Instant>>,
    /// The signal that said to wait for nothing any more; it holds for all that is waited for later.
    hurry: Cell<Option<i32>>,
    /// A signal came since the first one; with the next the process ends.
    insisted: Arc<AtomicBool>,
}

impl SignalWatch {
    /// `poller` is woken by signals.
    pub(crate) fn new(poller: &Poller) -> io::Result<Self> {
        // First: should one of the next steps fail, what was installed until then must not leave the program deaf.
        count_watches(0)?;
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let watched = poller.watch_pipe(pipe.try_clone()?)?;
        let watch = SignalWatch {
            pipe,
            watched,
            number: Arc::default(),
            handlers: RefCell::default(),
            is_counted: Cell::new(false),
            first: Cell::new(None),
            hurry: Cell::new(None),
            insisted: Arc::default(),
        };
        for signal in SIGNALS {
            watch.keep(flag::register_usize(signal, watch.number.clone(), signal as usize)?);
            watch.keep(low_level::pipe::register(signal, writer.try_clone()?)?);
        }
        // Last: a signal that came between this and the handlers would have been nobody's.
        count_watches(1)?;
        watch.is_counted.set(true);
        Ok(watch)
    }

    /// Looks what came since the last look; gives the number of the first signal of all, which asks to end in good order.
    pub(crate) fn take(&self, now: impl FnOnce() -> Instant) -> Option<i32> {
        // Asked every turn, so a look comes before the locked instruction that takes it.
        if self.number.load(Ordering::Acquire) == 0 {
            return None;
        }
        let number = self.number.swap(0, Ordering::AcqRel);
        let now = now();
        // Emptied, or the poll would not tell of the next signal.
        let mut bytes = [0; 64];
        while (&self.pipe).read(&mut bytes).is_ok_and(|read| read > 0) {}
        let number = number as i32;
        match self.first.get() {
            None => {
                self.first.set(Some(now));
                self.end_the_process_next_time();
                Some(number)
            }
            Some(first) if now.saturating_duration_since(first) < ECHO => {
                self.insisted.store(false, Ordering::Release);
                None
            }
            Some(_) => {
                self.hurry.set(Some(number));
                None
            }
        }
    }

    /// The number of a later signal, which asks to wait for nothing any more.
    pub(crate) fn hurry(&self) -> Option<i32> {
        self.hurry.get()
    }

    /// From now on a signal is remembered in the handler, and the one after it has the default action there.
    fn end_the_process_next_time(&self) {
        for signal in SIGNALS {
            // In this order: a handler looks whether there was one before it says that there is one.
            let actions = [
                flag::register_conditional_default(signal, self.insisted.clone()),
                flag::register(signal, self.insisted.clone()),
            ];
            // It is refused for signals that may not be handled, which these are not.
            actions.into_iter().flatten().for_each(|action| self.keep(action));
        }
    }

    fn keep(&self, handler: SigId) {
        self.handlers.borrow_mut().push(handler);
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        if self.is_counted.get() {
            let _ = count_watches(-1);
        }
        for handler in self.handlers.take() {
            low_level::unregister(handler);
        }
    }
}

/// With no watch left the default action is emulated: unregistering a handler alone would leave the signal ignored.
fn count_watches(change: isize) -> io::Result<()> {
    static NOBODY_WATCHES: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    static WATCHES: Mutex<isize> = Mutex::new(0);
    let mut watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
    if NOBODY_WATCHES.get().is_none() {
        let nobody = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            flag::register_conditional_default(signal, nobody.clone())?;
        }
        let _ = NOBODY_WATCHES.set(nobody);
    }
    *watches += change;
    if let Some(nobody) = NOBODY_WATCHES.get() {
        nobody.store(*watches == 0, Ordering::Release);
    }
    Ok(())
}

const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// One press of Ctrl-C often arrives twice, from the terminal and from a parent that passes it on: what follows so soon is
/// the same request.
const ECHO: Duration = Duration::from_millis(500);
