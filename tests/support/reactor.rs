//! A reactor that the test turns by itself, and what is logged meanwhile.
//!
//! Every wait has a deadline, so that what never comes is a failed test and not one that hangs. Tests run in threads of their
//! own, and so do their reactors: what is logged is kept by thread.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::cell::RefCell;
use std::sync::Once;
use std::time::{Duration, Instant};

use dosimeter::{Reactor, prometheus};

/// A reactor with a registry of its own that leaves signals alone.
pub fn reactor() -> Reactor {
    keep_logs();
    let registry = prometheus::Registry::new();
    Reactor::builder().metrics(registry).signal_handlers(false).build().expect("a reactor")
}

/// Turns until `done`, which may do part of the work itself.
#[track_caller]
pub fn turn_until(reactor: &Reactor, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it did not happen within {PATIENCE:?}");
        reactor.turn(Some(TICK)).expect("a turn");
    }
}

/// Turns until there is nothing left to do at once: what is going to happen by itself has happened.
pub fn settle(reactor: &Reactor) {
    for _ in 0..SETTLE_TURNS {
        reactor.turn(Some(Duration::ZERO)).expect("a turn");
    }
}

/// What this thread logged at level error and warn since the last call.
pub fn logged() -> Vec<String> {
    LOGGED.with_borrow_mut(std::mem::take)
}

/// Starts to keep what is logged; done by [`reactor`].
pub fn keep_logs() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        log::set_logger(&Keeper).expect("the only logger");
        log::set_max_level(log::LevelFilter::Warn);
    });
}

struct Keeper;

impl log::Log for Keeper {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target() == "dosimeter::stalls" {
            // On a machine that does a hundred things at once any turn may be slow.
            return;
        }
        // While a thread ends there may be nobody left to keep it.
        let _ = LOGGED.try_with(|logged| logged.borrow_mut().push(record.args().to_string()));
    }

    fn flush(&self) {}
}

thread_local! {
    static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Far beyond what anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a turn waits before the condition is looked at again: a client socket does not wake the reactor.
const TICK: Duration = Duration::from_millis(1);

const SETTLE_TURNS: usize = 5;
