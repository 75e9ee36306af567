//! SIGINT and SIGTERM while a reactor runs.
//!
//! Rules kept here:
//! - A signal handler does two things that are safe in one: it stores the number and writes a byte to a pipe. What the
//!   signal means is decided in the loop.
//! - Handlers are in place only while the reactor runs. Afterwards the signals end the program again, as they do by default.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// SIGINT and SIGTERM are noticed while this lives.
pub(crate) struct SignalWatch {
    pipe: UnixStream,
    number: Arc<AtomicUsize>,
    handlers: Vec<SigId>,
}

impl SignalWatch {
    pub(crate) fn new() -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        count_watches(1)?;
        let mut watch = SignalWatch { pipe, number: Arc::default(), handlers: Vec::new() };
        for signal in SIGNALS {
            watch.handlers.push(flag::register_usize(signal, watch.number.clone(), signal as usize)?);
            watch.handlers.push(low_level::pipe::register(signal, writer.try_clone()?)?);
        }
        Ok(watch)
    }

    /// The end of the pipe to be polled.
    pub(crate) fn pipe(&self) -> &UnixStream {
        &self.pipe
    }

    /// The signal that came since the last look, if one did.
    pub(crate) fn take(&self) -> Option<i32> {
        let number = self.number.swap(0, Ordering::AcqRel);
        if number == 0 {
            return None;
        }
        // Emptied, or the poll would not tell of the next signal.
        let mut bytes = [0; 64];
        while (&self.pipe).read(&mut bytes).is_ok_and(|read| read > 0) {}
        Some(number as i32)
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
        let _ = count_watches(-1);
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
