//! Which callbacks are slow, without a reading of the clock for each.
//!
//! Rules kept here:
//! - A turn that took less than the limit held no slow callback, so most turns need no look at all.
//! - A slow turn with one callback needs none either. After any slow turn each callback is timed for a while, because what
//!   was slow once will be again; and always while somebody watches who asked for it.
//! - The log gets at the most one line a second, which says how many it was not told of.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::metrics::LoopFigures;
use super::watch::{Entered, Kind, RouteNumber, Slow, Watch};
use crate::schedule::Place;

/// How the time within a turn is watched; in nanoseconds as the timers count them.
pub(crate) struct Pace {
    watch: Arc<Watch>,
    figures: Arc<LoopFigures>,
    /// The end of the last poll.
    turn_start: Cell<u64>,
    /// For how long the turn was busy before that poll, if it is one by hand.
    before_poll: Cell<u64>,
    /// The last reading of the clock, and so the beginning of the callback that runs while each is timed.
    last_reading: Cell<u64>,
    /// What was entered last. It is mostly the same again, and to find its place in the table costs as much as all the rest
    /// that is done around a callback.
    entered: Cell<Option<(Kind, Place, Entered)>>,
    /// Callbacks of this turn.
    callbacks: Cell<u64>,
    /// A slow callback of this turn is known.
    found: Cell<bool>,
    /// Each callback is timed.
    closely: Cell<bool>,
    /// When a slow turn is long enough ago to time them no more.
    closely_until: Cell<u64>,
    /// A turn, or a callback, that takes longer is slow.
    limit: u64,
    /// When the log may be told again.
    log_at: Cell<u64>,
    /// How many it was not told of.
    untold: Cell<u64>,
}

impl Pace {
    pub(super) fn new(limit: Duration, watch: Arc<Watch>, figures: Arc<LoopFigures>) -> Self {
        Pace {
            watch,
            figures,
            turn_start: Cell::new(0),
            before_poll: Cell::new(0),
            last_reading: Cell::new(0),
            entered: Cell::new(None),
            callbacks: Cell::new(0),
            found: Cell::new(false),
            closely: Cell::new(false),
            closely_until: Cell::new(0),
            limit: u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX),
            log_at: Cell::new(0),
            untold: Cell::new(0),
        }
    }

    /// How long the turn has been busy until `end`, and how much of that was since the last poll.
    pub(super) fn busy(&self, end: u64) -> (u64, u64) {
        let since_poll = end - self.turn_start.get();
        (self.before_poll.take() + since_poll, since_poll)
    }

    /// A poll begins in the middle of a turn: one that is made by hand.
    pub(super) fn pause(&self, now: u64) {
        let busy = now - self.turn_start.get();
        self.before_poll.set(busy);
        self.judge_turn(now, busy);
    }

    /// Poll has returned, or turns begin.
    pub(super) fn begin_turn(&self, now: u64) {
        self.turn_start.set(now);
        self.last_reading.set(now);
        self.callbacks.set(0);
        self.found.set(false);
        if self.watch.times_all() {
            self.closely.set(true);
        }
        self.watch.begin_turn(now);
    }

    /// What was waited for in between is no part of the turn.
    pub(super) fn skip(&self, before: u64, now: u64) {
        self.turn_start.set(self.turn_start.get() + (now - before));
        self.last_reading.set(now);
        self.watch.begin_turn(now);
    }

    /// From now on, for the rest of the turn, each callback is timed.
    pub(super) fn watch_closely(&self, now: u64) {
        self.closely.set(true);
        self.last_reading.set(now);
    }

    /// A callback begins.
    pub(super) fn enter(&self, kind: Kind, place: Place) {
        match self.entered.get() {
            Some((before, known, entered)) if before == kind && known.is(&place) => self.watch.enter_again(entered),
            _ => self.entered.set(Some((kind, place, self.watch.enter(kind, place)))),
        }
    }

    /// What a route is called in [`begin_request`](Pace::begin_request) and [`enter_route`](Pace::enter_route).
    pub(crate) fn add_route(&self, route: &Arc<str>) -> RouteNumber {
        self.watch.add_route(route)
    }

    /// A request begins within the callback of its connection, at the root of the routes. Of several in one callback each
    /// counts as one, when it is asked what was slow: `false` if the one before is to be [timed](Pace::end_request) first.
    #[inline]
    pub(crate) fn begin_request(&self, root: RouteNumber) -> bool {
        if self.watch.is_at_route() {
            self.callbacks.set(self.callbacks.get() + 1);
            if self.closely.get() {
                return false;
            }
        }
        self.watch.enter_route(root);
        true
    }

    /// The one before is over, and another one begins.
    #[cold]
    pub(crate) fn end_request(&self, root: RouteNumber, now: u64) {
        self.time_callback(now);
        self.watch.enter_route(root);
    }

    /// The request has come so far.
    #[inline]
    pub(crate) fn enter_route(&self, route: RouteNumber) {
        self.watch.enter_route(route);
    }

    /// A callback has returned; `now` reads the clock.
    pub(super) fn count_callback(&self, now: impl FnOnce() -> u64) {
        self.callbacks.set(self.callbacks.get() + 1);
        if self.closely.get() {
            self.time_callback(now());
        }
    }

    fn time_callback(&self, now: u64) {
        let took = now.saturating_sub(self.last_reading.replace(now));
        if took > self.limit {
            self.note_slow(now, took);
        }
        self.watch.set_now(now);
    }

    /// A turn is over, and took so long.
    pub(super) fn judge_turn(&self, end: u64, busy: u64) {
        if busy > self.limit {
            self.judge_slow_turn(end, busy);
        }
        self.closely.set(end < self.closely_until.get() || self.watch.times_all());
    }

    #[cold]
    fn judge_slow_turn(&self, end: u64, busy: u64) {
        self.figures.stalls.add(1);
        self.closely_until.set(end.saturating_add(WATCHED_AFTER.as_nanos() as u64));
        if self.found.get() {
            return;
        }
        if self.callbacks.get() == 1 && !self.closely.get() {
            self.note_slow(end, busy);
            return;
        }
        let (busy, callbacks) = (Duration::from_nanos(busy), self.callbacks.get());
        self.log_slow(
            end,
            format_args!(
                "a turn of the loop took {busy:.1?}, with {callbacks} callbacks, none timed or slow by itself"
            ),
        );
    }

    /// What was entered last is slow.
    #[cold]
    fn note_slow(&self, now: u64, took: u64) {
        let Slow { kind, name, duration, .. } = self.watch.note_slow(now, took);
        self.found.set(true);
        self.figures.slow_callbacks[kind as usize].add(1);
        let name = name.map_or(String::new(), |name| format!(" ({name})"));
        self.log_slow(now, format_args!("{}{name} took {duration:.1?} and held up the loop", describe(kind)));
    }

    fn log_slow(&self, now: u64, what: fmt::Arguments<'_>) {
        if now < self.log_at.get() {
            self.untold.set(self.untold.get() + 1);
            return;
        }
        self.log_at.set(now.saturating_add(LOG_EVERY.as_nanos() as u64));
        match self.untold.take() {
            0 => log::warn!(target: LOG, "{what}"),
            untold => log::warn!(target: LOG, "{what}; {untold} more before it were not logged"),
        }
    }
}

/// What the log calls a callback of this kind.
pub(super) fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::Io => "a source",
        Kind::Timer => "a timed call",
        Kind::Thread => "a call from a thread",
        Kind::Flush => "a transport",
        Kind::Shutdown => "the shutdown",
        Kind::Waiting | Kind::Away => "the loop",
    }
}

/// asyncio's `slow_callback_duration`, and what a person begins to feel.
pub(super) const STALL_LIMIT: Duration = Duration::from_millis(100);

/// For so long after a slow turn each callback is timed: what is slow every few seconds is found the second time.
const WATCHED_AFTER: Duration = Duration::from_secs(60);

/// A loop that is always slow must not fill the log.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// A target of its own: whether these are worth a line depends on the program.
const LOG: &str = "dosimeter::stalls";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Instant, SystemTime};

    const LIMIT: u64 = STALL_LIMIT.as_nanos() as u64;

    fn pace() -> Pace {
        let watch = Watch::new(Instant::now(), SystemTime::UNIX_EPOCH);
        Pace::new(STALL_LIMIT, Arc::new(watch), Arc::new(LoopFigures::new(SystemTime::UNIX_EPOCH)))
    }

    /// A turn that begins at `begin`, with callbacks that end at these times; gives back when it ended.
    fn turn(pace: &Pace, begin: u64, callbacks: &[(&'static str, u64)]) -> u64 {
        pace.begin_turn(begin);
        let mut end = begin;
        for &(name, ends) in callbacks {
            pace.enter(Kind::Timer, Place::Type(name));
            pace.count_callback(|| ends);
            end = ends;
        }
        pace.judge_turn(end, end - begin);
        end
    }

    fn slow(pace: &Pace) -> Vec<(String, u64)> {
        let list = pace.watch.slow();
        assert_eq!(pace.figures.slow_callbacks[Kind::Timer as usize].get(), list.len() as u64);
        list.iter().map(|slow| (slow.name.as_ref().unwrap().to_string(), slow.duration.as_nanos() as u64)).collect()
    }

    #[test]
    fn a_callback_alone_in_its_turn_is_known_to_be_the_slow_one() {
        let pace = pace();
        let end = turn(&pace, 0, &[("quick", LIMIT)]);
        assert_eq!(slow(&pace), []);
        turn(&pace, end, &[("slow", end + LIMIT + 1)]);
        assert_eq!(slow(&pace), [("slow".to_owned(), LIMIT + 1)]);
        assert_eq!(pace.figures.stalls.get(), 1);
    }

    #[test]
    fn one_of_several_is_known_from_the_second_slow_turn_on() {
        let pace = pace();
        let end = turn(&pace, 0, &[("quick", 1), ("slow", 2 * LIMIT), ("quick", 2 * LIMIT + 1)]);
        assert_eq!(slow(&pace), [], "which it was is anybody's guess");
        let end = turn(&pace, end, &[("quick", end + 1), ("slow", end + 2 * LIMIT), ("quick", end + 2 * LIMIT + 1)]);
        assert_eq!(slow(&pace), [("slow".to_owned(), 2 * LIMIT - 1)]);
        assert_eq!(pace.figures.stalls.get(), 2);
        let many: Vec<_> = (1..=50).map(|number| ("quick", end + number * LIMIT / 10)).collect();
        turn(&pace, end, &many);
        assert_eq!(slow(&pace).len(), 1, "a turn of many quick ones is a stall and has no slow one");
        assert_eq!(pace.figures.stalls.get(), 3);
    }

    #[test]
    fn callbacks_are_timed_for_a_minute_after_a_slow_turn_and_while_somebody_asks() {
        let pace = pace();
        assert!(!pace.closely.get());
        let end = turn(&pace, 0, &[("slow", 2 * LIMIT)]);
        assert!(pace.closely.get());
        turn(&pace, end + WATCHED_AFTER.as_nanos() as u64 - 2, &[("quick", end + WATCHED_AFTER.as_nanos() as u64 - 1)]);
        assert!(pace.closely.get());
        turn(&pace, end + WATCHED_AFTER.as_nanos() as u64, &[("quick", end + WATCHED_AFTER.as_nanos() as u64 + 1)]);
        assert!(!pace.closely.get());
        pace.watch.time_all();
        let end = turn(&pace, 0, &[]);
        turn(&pace, end, &[("quick", 1), ("slow", 2 * LIMIT)]);
        assert_eq!(slow(&pace)[0], ("slow".to_owned(), 2 * LIMIT - 1));
    }

    #[test]
    fn the_log_is_told_once_a_second_and_of_how_many_it_was_not_told() {
        let pace = pace();
        for number in 0..5 {
            turn(&pace, number * 2 * LIMIT, &[("slow", (number * 2 + 2) * LIMIT)]);
        }
        assert_eq!(pace.untold.get(), 4);
        turn(&pace, 20 * LIMIT, &[("slow", 22 * LIMIT)]);
        assert_eq!(pace.untold.get(), 0);
    }
}
