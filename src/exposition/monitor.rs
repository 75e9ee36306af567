//! [`Monitor`]: a second loop, in a thread of its own, that answers when the first one cannot.
//!
//! Rules kept here:
//! - What the monitor knows of the loop it knows through atomics that the loop writes when it passes by. It asks the loop
//!   nothing, so a loop that is held up holds up no answer.
//! - A loop that has nothing to do is as alive as a busy one: it is woken for a beat now and then.
//! - Neither end waits for the other without an end: the monitor stops with its reactor or when it is dropped, and what hangs
//!   in it is left behind.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use ::http::{HeaderValue, StatusCode, header};
use prometheus::Registry;

use crate::clock::Clock;
use crate::exposition::dashboard::Dashboard;
use crate::exposition::landing::Landing;
use crate::exposition::resource::MetricsResource;
use crate::failure::{Result, guard};
use crate::net::{Address, ListenAddr};
use crate::reactor::watch::{Name, Running, Slow, Watch};
use crate::reactor::{Metrics, Reactor, Remote, Trigger, WeakReactor};
use crate::web::{Branch, Readiness, Render, Request, Resource, Response, Site};

/// Tells of a reactor from a second thread, where a second reactor serves what an operator asks, also while the first one is
/// stuck in a callback that does not return.
///
/// | path | answer |
/// |---|---|
/// | `/dashboard/` | a [`Dashboard`] of the reactor, live also while that is stuck |
/// | `/metrics` | the registry of the reactor, with the figures of the monitor's own under the label `reactor="monitor"` |
/// | `/healthz` | 200 while the loop turns; 503 when it has not for [a while](Monitor::set_limit) |
/// | `/readyz` | 200 while the loop turns and the program is [ready](Monitor::set_ready); else 503 |
/// | `/stalls` | whether the loop is held up now, by what, and what held it up of late |
///
/// The loop is woken once in a second, so that one without work is not taken for one that is stuck. It counts as stuck until it
/// is first run.
///
/// Its `/metrics` has all that a page served by the loop itself has, so it is the one to scrape. `examples/prometheus` has the
/// job, and an alert for a loop that does not turn.
///
/// The monitor ends behind the last [trigger](Reactor::on_shutdown) of its reactor, so that it is there while the program
/// drains, or when it is dropped. A site to be shown to nobody but the operator belongs on such an address as below.
///
/// ```no_run
/// use dosimeter::web::{Branch, Site};
/// use dosimeter::{Monitor, Reactor};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let site = Site::new(Branch::new());
/// let monitor = Monitor::spawn("127.0.0.1:9100", &reactor)?;
/// monitor.follow(site.readiness());
/// reactor.listen_tcp(8000, site)?;
/// reactor.run()
/// # }
/// ```
#[doc(alias = "start_http_server")]
#[must_use = "it ends when it is dropped"]
pub struct Monitor {
    pulse: Rc<Pulse>,
    local_addr: Address,
    remote: Remote,
    /// Nothing ever comes; it is disconnected when the thread has ended.
    ended: Receiver<()>,
    trigger: Trigger,
}

impl Monitor {
    /// Starts a monitor of `reactor` that listens at `addr`.
    ///
    /// Its thread and its figures are called `monitor`, or, for a reactor that has a label in its figures (its name, or a number),
    /// by that with `-monitor` behind.
    ///
    /// # Errors
    /// [`CannotListen`](crate::net::CannotListen) when the address is taken or is none; that of the system when there is no
    /// further thread to be had.
    pub fn spawn(addr: impl ListenAddr + Send + 'static, reactor: &Reactor) -> Result<Monitor> {
        let shared = Arc::new(Shared::new(reactor.now(), reactor.loop_watch().clone()));
        let (label, registry) = (reactor.label().clone(), reactor.registry());
        let post = Post { name: name(&label), label, registry, shared: shared.clone() };
        let (alive, ended) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        thread::Builder::new().name(post.name.clone()).spawn(move || {
            let _alive: Sender<()> = alive;
            post.man(addr, &tell);
        })?;
        let (remote, local_addr) = told.recv().map_err(|_| "the thread of the monitor ended at once")??;
        let pulse = Rc::new(Pulse { shared, followed: RefCell::default() });
        pulse.clone().beat(reactor);
        // Who spends a thread on watching wants to know of each slow callback.
        reactor.loop_watch().time_all();
        let ending = remote.clone();
        let trigger = reactor.on_shutdown().after(move || stop(&ending));
        Ok(Monitor { pulse, local_addr, remote, ended, trigger })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Address {
        self.local_addr.clone()
    }

    /// The loop is well as long as it turns once in this time; 5 seconds unless told otherwise.
    ///
    /// It beats once in a second, so below two seconds a loop that is well may be taken for one that is not.
    pub fn set_limit(&self, limit: Duration) {
        self.pulse.shared.limit.store(nanos(limit), Relaxed);
    }

    /// Says whether the program is ready; it is unless it says otherwise.
    pub fn set_ready(&self, ready: bool) {
        self.pulse.shared.told_ready.store(ready, Relaxed);
    }

    /// Is ready only while this site is as well, so that one that drains turns clients away here too, within a second.
    pub fn follow(&self, readiness: Readiness) {
        self.pulse.followed.borrow_mut().push(readiness);
        self.pulse.look();
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It is gone when the reactor has ended.
        let _ = self.trigger.remove();
        stop(&self.remote);
        // For a port that is free again when this returns. A collector that hangs would hold up the end for ever.
        let _ = self.ended.recv_timeout(ENDING);
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

/// The rules of `examples/prometheus` and the dashboard find the monitor of a reactor by this.
fn name(label: &str) -> String {
    if label.is_empty() { NAME.to_owned() } else { format!("{label}-{NAME}") }
}

fn stop(remote: &Remote) {
    // One that has ended, or is about to, does what is asked of it.
    let _ = remote.call_from_thread(|monitor| {
        let _ = monitor.stop();
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// In the thread of the reactor
// ---------------------------------------------------------------------------------------------------------------------

/// What the loop says of itself when it passes by.
struct Pulse {
    shared: Arc<Shared>,
    followed: RefCell<Vec<Readiness>>,
}

impl Pulse {
    /// Notes that the loop is here, now and once in a while from now on, as long as both are.
    fn beat(self: Rc<Self>, reactor: &Reactor) {
        self.shared.beat.store(self.shared.since_epoch(reactor.now()), Relaxed);
        self.look();
        let (pulse, reactor_then): (_, WeakReactor) = (Rc::downgrade(&self), reactor.downgrade());
        reactor.call_later(BEAT, move || {
            if let (Some(pulse), Some(reactor)) = (pulse.upgrade(), reactor_then.upgrade()) {
                pulse.beat(&reactor);
            }
        });
    }

    fn look(&self) {
        let ready = self.followed.borrow().iter().all(Readiness::is_ready);
        self.shared.seen_ready.store(ready, Relaxed);
    }
}

/// What both threads see.
struct Shared {
    watch: Arc<Watch>,
    /// What times are counted from.
    epoch: Instant,
    /// Nanoseconds from the epoch to the last beat.
    beat: AtomicU64,
    /// Nanoseconds without a turn, after which the loop counts as stuck.
    limit: AtomicU64,
    /// What the program says.
    told_ready: AtomicBool,
    /// What the sites say that are followed.
    seen_ready: AtomicBool,
}

impl Shared {
    fn new(epoch: Instant, watch: Arc<Watch>) -> Self {
        Shared {
            watch,
            epoch,
            beat: AtomicU64::new(0),
            limit: AtomicU64::new(nanos(LIMIT)),
            told_ready: AtomicBool::new(true),
            seen_ready: AtomicBool::new(true),
        }
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch))
    }

    /// How the loop is, as seen by who asks `now`.
    fn state(&self, now: Instant) -> State {
        let age = Duration::from_nanos(self.since_epoch(now).saturating_sub(self.beat.load(Relaxed)));
        let limit = Duration::from_nanos(self.limit.load(Relaxed));
        State {
            age,
            limit,
            running: self.watch.running(now),
            held_up: self.watch.held_up(now),
            slow: self.watch.slow(),
            ready: self.told_ready.load(Relaxed) && self.seen_ready.load(Relaxed),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

// ---------------------------------------------------------------------------------------------------------------------
// In the thread of the monitor
// ---------------------------------------------------------------------------------------------------------------------

/// What the thread of the monitor is given.
struct Post {
    name: String,
    /// That of the reactor in its figures.
    label: Arc<str>,
    registry: Option<Registry>,
    shared: Arc<Shared>,
}

type Told = Result<(Remote, Address)>;

impl Post {
    fn man(self, addr: impl ListenAddr, tell: &Sender<Told>) {
        let reactor = match guard(|| self.listen(addr)).flatten() {
            Ok((reactor, local_addr)) => {
                let _ = tell.send(Ok((reactor.remote(), local_addr)));
                reactor
            }
            Err(failure) => return drop(tell.send(Err(failure))),
        };
        if let Err(failure) = reactor.run() {
            failure.log(LOG, format_args!("the monitor has ended"));
        }
    }

    fn listen(self, addr: impl ListenAddr) -> Result<(Reactor, Address)> {
        let metrics = self.registry.clone().map_or(Metrics::Off, Metrics::Registry);
        let reactor = Reactor::builder().name(self.name).metrics(metrics).signal_handlers(false).build()?;
        let root = Branch::new();
        // A program that publishes nothing of its reactor may have figures of its own.
        let metrics = self.registry.map_or_else(MetricsResource::new, MetricsResource::with_registry);
        root.put_child("dashboard", Dashboard::of(self.shared.watch.clone(), &self.label, metrics.clone()));
        root.put_child("metrics", metrics);
        let about = match &*self.label {
            "" => "Tells of the reactor of this process, also while that is stuck.".to_owned(),
            label => format!("Tells of the reactor {label} of this process, also while that is stuck."),
        };
        let landing =
            Landing::new("dosimeter", env!("CARGO_PKG_VERSION")).about(&about).link("dashboard/", "Dashboard");
        let paths = ["metrics", "healthz", "readyz", "stalls"];
        root.put_child("", paths.iter().fold(landing, |landing, path| landing.link(path, path)));
        for (path, tell) in PAGES {
            root.put_child(*path, Page { shared: self.shared.clone(), tell: *tell });
        }
        let port = reactor.listen_tcp(addr, Site::new(root))?;
        Ok((reactor, port.local_addr().into()))
    }
}

/// How the loop is.
struct State {
    /// Since its last beat.
    age: Duration,
    limit: Duration,
    running: Running,
    /// Since it last came back from poll, unless it waits there.
    held_up: Duration,
    /// The latest first.
    slow: Vec<Slow>,
    ready: bool,
}

impl State {
    fn is_stuck(&self) -> bool {
        self.age > self.limit
    }

    fn health(&self) -> Response {
        let age = self.age.as_secs_f64();
        if self.is_stuck() {
            let text = format!("stuck: the loop has not turned for {age:.1} s; /stalls tells more\n");
            return unavailable(text);
        }
        Response::text("ok\n")
    }

    fn readiness(&self) -> Response {
        match (self.is_stuck(), self.ready) {
            (true, _) => self.health(),
            (false, true) => Response::text("ready\n"),
            (false, false) => unavailable("not ready\n".to_owned()),
        }
    }

    fn stalls(&self) -> Response {
        let age = self.age.as_secs_f64();
        // A beat is due once in a second: what is later than two was held up.
        let state = if self.age > 2 * BEAT { "held up" } else { "turning" };
        let mut text = format!("state: {state}\nlast beat: {age:.3} s ago\n");
        let Running { kind, name, lasting } = &self.running;
        text += &format!("away from poll: {:.3} s\n", self.held_up.as_secs_f64());
        text += &format!("running: {}{}, for at most {:.3} s\n", kind.name(), at(name), lasting.as_secs_f64());
        for Slow { kind, name, duration, ended } in &self.slow {
            let (took, ended) = (duration.as_secs_f64(), httpdate::fmt_http_date(*ended));
            text += &format!("slow: {}{} took {took:.3} s, until {ended}\n", kind.name(), at(name));
        }
        Response::text(text)
    }
}

fn at(name: &Option<Name>) -> String {
    name.as_ref().map_or(String::new(), |name| format!(" ({name})"))
}

fn unavailable(text: String) -> Response {
    Response::text(text).with_status(StatusCode::SERVICE_UNAVAILABLE)
}

type Tell = fn(&State) -> Response;

/// What the monitor itself has to say, by path.
const PAGES: &[(&str, Tell)] = &[("healthz", State::health), ("readyz", State::readiness), ("stalls", State::stalls)];

struct Page {
    shared: Arc<Shared>,
    tell: Tell,
}

impl Resource for Page {
    fn render_get(&self, request: Request) -> Render {
        let state = self.shared.state(request.reactor().now());
        // What was true a moment ago is what nobody asks.
        (self.tell)(&state).with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store")).into()
    }
}

const LOG: &str = "dosimeter::monitor";

const NAME: &str = "monitor";

/// Between two beats. Often enough for who asks every few seconds; a thousandth of a percent of a core.
const BEAT: Duration = Duration::from_secs(1);

/// Without a beat. Longer than any callback should take, shorter than what balancers wait.
const LIMIT: Duration = Duration::from_secs(5);

/// For the end of the monitor. It has nothing to finish.
const ENDING: Duration = Duration::from_secs(1);
