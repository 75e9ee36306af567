//! What the loop is doing, for those who look from another thread: since when, and what was slow of late.
//!
//! Rules kept here:
//! - The loop writes with plain stores and never waits for a reader. Two locks guard the list of slow callbacks, which is
//!   written when time was lost anyway, and that of routes, once for each; they are held for a push or a look.
//! - A callback is known by its [`Place`], one number in a table that places are entered in when they are first met. The
//!   table has an end: what finds no room runs without a place and is not refused. A request is known by its route, a number
//!   that the route keeps.
//! - The time at which a callback began is the last reading of the clock before it. With one callback in a turn, and while
//!   each is timed, that is the truth; else it is the earliest that it can be.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::schedule::Place;

/// A view of a reactor's loop for other threads.
pub(crate) struct Watch {
    /// What the times below are counted from, by both clocks.
    epoch: Instant,
    started: SystemTime,
    /// What is done now, in one word: a [`Kind`], whether it is at a route, and above that the index of its place or route.
    doing: AtomicU32,
    /// Nanoseconds from the epoch to the last reading of the clock by the loop.
    read_at: AtomicU64,
    /// Nanoseconds from the epoch to the end of the last poll.
    turn_began: AtomicU64,
    /// Somebody wants to know of each callback how long it took.
    times_all: AtomicBool,
    places: Box<[OnceLock<Place>]>,
    routes: Mutex<Vec<Arc<str>>>,
    slow: Mutex<VecDeque<Slow>>,
}

/// What a loop can be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It waits in poll, and anything will wake it.
    Waiting,
    /// It was not started, has ended, or is turned by hand and just now is not.
    Away,
    /// A source that is ready: a connection, a port, a source of the program.
    Io,
    /// A timed call.
    Timer,
    /// A call from another thread, or the result of one.
    Thread,
    /// A transport that writes what was gathered outside of its own handler.
    Flush,
    /// The end: closing, waiting for the thread pool, what the program wants to be done.
    Shutdown,
}

impl Kind {
    /// In the order of the variants.
    const ALL: [Kind; 7] =
        [Kind::Waiting, Kind::Away, Kind::Io, Kind::Timer, Kind::Thread, Kind::Flush, Kind::Shutdown];

    pub(crate) const COUNT: usize = Kind::ALL.len();

    /// The kinds of callbacks.
    pub(crate) const CALLBACKS: [Kind; 5] = [Kind::Io, Kind::Timer, Kind::Thread, Kind::Flush, Kind::Shutdown];

    /// The value of the label `kind`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Waiting => "waiting",
            Kind::Away => "away",
            Kind::Io => "io",
            Kind::Timer => "timer",
            Kind::Thread => "thread",
            Kind::Flush => "flush",
            Kind::Shutdown => "shutdown",
        }
    }
}

/// What a callback is known by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Name {
    /// Where it was registered, or its type.
    Place(Place),
    /// The route whose handler was called in it.
    Route(Arc<str>),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route = match self {
            Name::Place(place) => return place.fmt(f),
            Name::Route(route) => route,
        };
        f.write_str("route ")?;
        // It stands in the lines of logs and tables, and a resource may have any name.
        route.chars().try_for_each(|char| match char.is_control() {
            true => write!(f, "{}", char.escape_default()),
            false => f.write_char(char),
        })
    }
}

/// What the loop is at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Running {
    pub(crate) kind: Kind,
    pub(crate) name: Option<Name>,
    /// For how long, at the most.
    pub(crate) lasting: Duration,
}

/// A kind and a place, as the one word that stands for them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entered(u32);

/// A callback that held up the loop for longer than the limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slow {
    pub(crate) kind: Kind,
    pub(crate) name: Option<Name>,
    pub(crate) duration: Duration,
    /// When it ended.
    pub(crate) ended: SystemTime,
}

// ---------------------------------------------------------------------------------------------------------------------
// For other threads
// ---------------------------------------------------------------------------------------------------------------------

impl Watch {
    /// What the loop is at; `now` is the present of whoever asks.
    pub(crate) fn running(&self, now: Instant) -> Running {
        let doing = self.doing.load(Relaxed);
        let kind = Kind::ALL[(doing & KIND_MASK) as usize];
        Running { kind, name: self.name(doing), lasting: self.since(&self.read_at, now) }
    }

    /// For how long the loop has not come back to poll: zero while it waits there, or is not in a turn at all.
    pub(crate) fn held_up(&self, now: Instant) -> Duration {
        match self.running(now).kind {
            Kind::Waiting | Kind::Away => Duration::ZERO,
            _ => self.since(&self.turn_began, now),
        }
    }

    /// The last [`MOST_SLOW`] slow callbacks, the latest first.
    pub(crate) fn slow(&self) -> Vec<Slow> {
        self.lock().iter().rev().cloned().collect()
    }

    /// Has each callback timed by itself from the next turn on, which costs a reading of the clock for each: so no slow one
    /// is missed because others ran in the same turn.
    pub(crate) fn time_all(&self) {
        self.times_all.store(true, Relaxed);
    }

    fn name(&self, doing: u32) -> Option<Name> {
        let index = (doing >> INDEX_SHIFT) as usize;
        if doing & AT_ROUTE != 0 {
            return self.routes().get(index).cloned().map(Name::Route);
        }
        self.places.get(index).and_then(OnceLock::get).copied().map(Name::Place)
    }

    /// Held for a push or a look, never while anything else runs, so a poisoned lock is as good as any.
    fn routes(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self, nanos: &AtomicU64, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch).saturating_sub(Duration::from_nanos(nanos.load(Relaxed)))
    }

    /// Held for a push or a copy, never while anything else runs, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Slow>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// For the loop
// ---------------------------------------------------------------------------------------------------------------------

impl Watch {
    /// Times are told to it in nanoseconds since `epoch`, which was `started` on the wall.
    pub(crate) fn new(epoch: Instant, started: SystemTime) -> Self {
        Watch {
            epoch,
            started,
            doing: AtomicU32::new(NO_PLACE << INDEX_SHIFT | Kind::Away as u32),
            read_at: AtomicU64::new(0),
            turn_began: AtomicU64::new(0),
            times_all: AtomicBool::new(false),
            places: (0..MOST_PLACES).map(|_| OnceLock::new()).collect(),
            routes: Mutex::default(),
            slow: Mutex::default(),
        }
    }

    /// A callback begins. What is returned says the same again.
    pub(crate) fn enter(&self, kind: Kind, place: Place) -> Entered {
        let entered = Entered(self.index(place) << INDEX_SHIFT | kind as u32);
        self.enter_again(entered);
        entered
    }

    /// A callback begins, of the same kind and at the same place as one that was entered before.
    pub(crate) fn enter_again(&self, entered: Entered) {
        self.doing.store(entered.0, Relaxed);
    }

    /// The number of a route, to be kept by whoever has the route.
    pub(crate) fn add_route(&self, route: &Arc<str>) -> RouteNumber {
        let mut routes = self.routes();
        let known = routes.iter().position(|known| known == route);
        let index = known.unwrap_or_else(|| {
            routes.push(route.clone());
            routes.len() - 1
        });
        RouteNumber((index as u32) << INDEX_SHIFT | AT_ROUTE)
    }

    /// A request has come to this route, within the callback that runs.
    pub(crate) fn enter_route(&self, route: RouteNumber) {
        let kind = self.doing.load(Relaxed) & KIND_MASK;
        self.doing.store(route.0 | kind, Relaxed);
    }

    /// Whether there was a request within the callback that runs.
    pub(crate) fn is_at_route(&self) -> bool {
        self.doing.load(Relaxed) & AT_ROUTE != 0
    }

    /// The loop does something that has no place.
    pub(crate) fn set(&self, kind: Kind) {
        self.doing.store(NO_PLACE << INDEX_SHIFT | kind as u32, Relaxed);
    }

    /// The kind of what runs now.
    pub(crate) fn kind(&self) -> Kind {
        Kind::ALL[(self.doing.load(Relaxed) & KIND_MASK) as usize]
    }

    /// The loop has read the clock.
    pub(crate) fn set_now(&self, nanos: u64) {
        self.read_at.store(nanos, Relaxed);
    }

    /// Poll has returned.
    pub(crate) fn begin_turn(&self, nanos: u64) {
        self.turn_began.store(nanos, Relaxed);
        self.set_now(nanos);
    }

    pub(crate) fn times_all(&self) -> bool {
        self.times_all.load(Relaxed)
    }

    /// Keeps what ran until now as slow, and gives it back for the log.
    #[cold]
    pub(crate) fn note_slow(&self, now: u64, took: u64) -> Slow {
        let doing = self.doing.load(Relaxed);
        let slow = Slow {
            kind: self.kind(),
            name: self.name(doing),
            duration: Duration::from_nanos(took),
            ended: self.started + Duration::from_nanos(now),
        };
        let mut list = self.lock();
        if list.len() == MOST_SLOW {
            list.pop_front();
        }
        list.push_back(slow.clone());
        slow
    }

    /// The index of a place, which is entered when it is new.
    fn index(&self, place: Place) -> u32 {
        let hash = (place.address() as u64).wrapping_mul(GOLDEN_RATIO) >> (u64::BITS - MOST_PLACES.ilog2());
        for step in 0..MOST_STEPS {
            let index = (hash as usize + step) % MOST_PLACES;
            if self.places[index].get_or_init(|| place).is(&place) {
                return index as u32;
            }
        }
        NO_PLACE
    }
}

/// The number of a route in the [`Watch`] that gave it, where it stands in the word for what is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteNumber(u32);

const KIND_BITS: u32 = 3;
const KIND_MASK: u32 = (1 << KIND_BITS) - 1;
const AT_ROUTE: u32 = 1 << KIND_BITS;
const INDEX_SHIFT: u32 = KIND_BITS + 1;

/// An index that no place has.
const NO_PLACE: u32 = MOST_PLACES as u32;

/// Lines that arm calls and types that handle events: a program has tens. A power of two; 16 KiB.
const MOST_PLACES: usize = 512;

/// Places that are looked at before one is given up.
const MOST_STEPS: usize = 16;

/// Spreads addresses, whose low bits are alike (Knuth's multiplicative hash).
const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

/// Slow callbacks that are remembered: more than a person reads, and a few kilobytes.
pub(crate) const MOST_SLOW: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::Location;

    fn watch() -> (Watch, Instant) {
        let now = Instant::now();
        (Watch::new(now, SystemTime::UNIX_EPOCH), now)
    }

    #[test]
    fn what_runs_is_known_with_its_place_and_since_when() {
        let (watch, epoch) = watch();
        assert_eq!(watch.held_up(epoch + Duration::from_secs(9)), Duration::ZERO, "nobody runs it");
        watch.begin_turn(1_000_000_000);
        watch.enter(Kind::Io, Place::Type("Protocol"));
        watch.enter(Kind::Timer, Place::Line(Location::caller()));
        watch.set_now(2_000_000_000);
        let running = watch.running(epoch + Duration::from_secs(5));
        assert_eq!((running.kind, running.lasting), (Kind::Timer, Duration::from_secs(3)));
        assert!(running.name.as_ref().unwrap().to_string().contains("watch.rs"), "{running:?}");
        assert_eq!(watch.held_up(epoch + Duration::from_secs(5)), Duration::from_secs(4));
        watch.set(Kind::Waiting);
        assert_eq!(watch.running(epoch).name, None);
        assert_eq!(watch.held_up(epoch + Duration::from_secs(5)), Duration::ZERO);
    }

    #[test]
    fn a_request_is_known_by_its_route_until_something_else_begins() {
        let (watch, epoch) = watch();
        let [one, other] = ["/a", "/b\n"].map(|route| watch.add_route(&route.into()));
        assert_eq!(watch.add_route(&"/a".into()).0, one.0, "routes of one name are one");
        watch.enter(Kind::Io, Place::Type("Protocol"));
        assert!(!watch.is_at_route());
        watch.enter_route(other);
        assert!(watch.is_at_route());
        let running = watch.running(epoch);
        assert_eq!((running.kind, running.name.unwrap().to_string()), (Kind::Io, "route /b\\n".to_owned()));
        watch.enter_route(one);
        assert_eq!(watch.note_slow(1, 1).name.unwrap().to_string(), "route /a");
        watch.set(Kind::Waiting);
        assert_eq!(watch.running(epoch).name, None);
    }

    #[test]
    fn the_last_slow_callbacks_are_kept_and_the_latest_comes_first() {
        let (watch, _) = watch();
        for number in 0..MOST_SLOW as u64 + 5 {
            watch.enter(Kind::Thread, Place::Type("Job"));
            watch.note_slow(number, number);
        }
        let slow = watch.slow();
        assert_eq!(slow.len(), MOST_SLOW);
        assert_eq!(slow[0].duration, Duration::from_nanos(MOST_SLOW as u64 + 4));
        assert_eq!(slow[0].name, Some(Name::Place(Place::Type("Job"))));
    }

    #[test]
    fn more_places_than_there_is_room_for_run_without_one() {
        let (watch, epoch) = watch();
        let names: Vec<&'static str> =
            (0..2 * MOST_PLACES).map(|number| &*Box::leak(format!("Type{number}").into_boxed_str())).collect();
        let mut lost = 0;
        for name in &names {
            watch.enter(Kind::Io, Place::Type(name));
            let running = watch.running(epoch);
            assert_eq!(running.kind, Kind::Io);
            lost += usize::from(running.name.is_none());
            assert!(running.name.is_none() || running.name == Some(Name::Place(Place::Type(name))));
        }
        assert!((MOST_PLACES..2 * MOST_PLACES - 100).contains(&lost), "{lost}");
    }
}
