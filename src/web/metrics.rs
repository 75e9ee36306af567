//! What the HTTP server counts: connections, and requests by method, route and status.
//!
//! Rules kept here:
//! - No label is looked up per request. A request carries a [`Route`], a node of a tree that grows along the resource tree;
//!   the node keeps its series resolved, by method and status.
//! - Label values are from closed sets: the names that were put into the resource tree and the patterns of routers, the
//!   registered methods, the status codes. Everything else is `unmatched` or `other`.
//! - Two sites of one reactor count into the same series: the figures are the reactor's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, StatusCode};
use prometheus::proto::MetricType;

use crate::http::Refusal;
use crate::reactor::Reactor;
use crate::reactor::metrics::{Count, Families, Figures, Level, List, Spread};
use crate::reactor::pace::Pace;
use crate::reactor::watch::RouteNumber;

/// The figures of the HTTP servers on one reactor.
pub(crate) struct HttpFigures {
    shared: Arc<Shared>,
    /// Somebody may read them.
    is_counted: bool,
    /// Where the loop says what it is at.
    pace: Rc<Pace>,
    root: Rc<Route>,
    unmatched: Rc<Route>,
    overflow: Rc<Route>,
    routes: Cell<usize>,
    /// Every series there is.
    series: RefCell<Vec<Rc<MethodSeries>>>,
    refusals: RefCell<Vec<(Refusal, Arc<Refused>)>>,
    aborted: RefCell<Vec<Arc<Aborted>>>,
    /// Requests that ended since the clock was last read.
    ended: RefCell<Option<Ended>>,
}

/// Requests of one series that began at the same time and end now.
struct Ended {
    series: Rc<MethodSeries>,
    began: u64,
    count: u64,
}

/// The part that other threads read.
struct Shared {
    connections: Level,
    accepted: Count,
    closed: [Count; Closed::ALL.len()],
    rejected: [Count; Rejected::ALL.len()],
    in_progress: Level,
    write_buffered: Level,
    paused: Level,
    aborted: List<Aborted>,
    requests: List<Requests>,
    durations: List<Durations>,
    refusals: List<Refused>,
}

struct Requests {
    method: &'static str,
    route: Arc<str>,
    code: u16,
    count: Count,
}

struct Durations {
    method: &'static str,
    route: Arc<str>,
    spread: Spread,
}

struct Refused {
    reason: &'static str,
    count: Count,
}

struct Aborted {
    route: Arc<str>,
    count: Count,
}

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// By its peer, or with it.
    Peer,
    /// After the answer that was to be the last.
    Answered,
    /// Nothing was asked for too long.
    Idle,
    HeadTimeout,
    BodyTimeout,
    WriteTimeout,
    /// After a request that is none, or asks too much.
    Refused,
    /// The last of the requests it may have.
    Limit,
    /// The rest of an answer did not come, or of a body that nobody wanted.
    Aborted,
    /// The site drains, or the reactor has stopped.
    Shutdown,
    /// The network failed, or something here.
    Error,
}

impl Closed {
    const ALL: [(Closed, &str); 11] = [
        (Closed::Peer, "peer"),
        (Closed::Answered, "answered"),
        (Closed::Idle, "idle"),
        (Closed::HeadTimeout, "head_timeout"),
        (Closed::BodyTimeout, "body_timeout"),
        (Closed::WriteTimeout, "write_timeout"),
        (Closed::Refused, "refused"),
        (Closed::Limit, "limit"),
        (Closed::Aborted, "aborted"),
        (Closed::Shutdown, "shutdown"),
        (Closed::Error, "error"),
    ];
}

/// Why a connection was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    Max,
    PerPeer,
    Draining,
}

impl Rejected {
    const ALL: [(Rejected, &str); 3] =
        [(Rejected::Max, "max"), (Rejected::PerPeer, "per_peer"), (Rejected::Draining, "draining")];
}

/// A node of the tree of routes: a label value, and the series that have it.
pub(crate) struct Route {
    label: Arc<str>,
    depth: usize,
    children: RefCell<Vec<(Box<str>, Rc<Route>)>>,
    /// What the loop calls it when it is at it.
    number: RouteNumber,
    series: RefCell<Vec<Rc<MethodSeries>>>,
}

struct MethodSeries {
    method: MethodLabel,
    durations: Arc<Durations>,
    codes: RefCell<Vec<Arc<Requests>>>,
}

impl HttpFigures {
    /// The figures of the servers on `reactor`.
    pub(crate) fn of(reactor: &Reactor) -> Rc<Self> {
        reactor.local(|| {
            let figures = HttpFigures::new(reactor.pace().clone(), reactor.is_counted());
            reactor.publish(figures.shared.clone());
            figures
        })
    }

    fn new(pace: Rc<Pace>, is_counted: bool) -> Self {
        let shared = Shared {
            connections: Level::default(),
            accepted: Count::default(),
            closed: Default::default(),
            rejected: Default::default(),
            in_progress: Level::default(),
            write_buffered: Level::default(),
            paused: Level::default(),
            aborted: List::new(),
            requests: List::new(),
            durations: List::new(),
            refusals: List::new(),
        };
        HttpFigures {
            shared: Arc::new(shared),
            is_counted,
            root: Route::new("/".into(), 0, &pace),
            unmatched: Route::new("unmatched".into(), 0, &pace),
            overflow: Route::new("other".into(), 0, &pace),
            routes: Cell::new(0),
            series: RefCell::default(),
            refusals: RefCell::default(),
            aborted: RefCell::default(),
            ended: RefCell::default(),
            pace,
        }
    }

    /// The route of the root of a site.
    pub(crate) fn root(&self) -> &Rc<Route> {
        &self.root
    }

    /// The route of what is not there.
    pub(crate) fn unmatched(&self) -> &Rc<Route> {
        &self.unmatched
    }

    /// The route below `route` called `name`, which comes from a closed set.
    ///
    /// A [`WILDCARD`] below another is the same one, and very deep down there are no more: a tree that leads back to itself
    /// must not make a label of every way through it.
    pub(crate) fn child(&self, route: &Rc<Route>, name: &str) -> Rc<Route> {
        if route.depth == MAX_DEPTH || (name == WILDCARD && route.label.ends_with("/*")) {
            return route.clone();
        }
        if let Some((_, child)) = route.children.borrow().iter().find(|(known, _)| same(known, name)) {
            return child.clone();
        }
        if self.routes.get() == MAX_ROUTES {
            return self.overflow.clone();
        }
        self.routes.set(self.routes.get() + 1);
        let label = format!("{}/{name}", route.label.trim_end_matches('/'));
        let child = Route::new(label.into(), route.depth + 1, &self.pace);
        route.children.borrow_mut().push((name.into(), child.clone()));
        child
    }

    pub(crate) fn connection_made(&self) {
        self.shared.accepted.add(1);
        self.shared.connections.add(1);
    }

    pub(crate) fn connection_lost(&self, why: Closed) {
        self.shared.connections.add(-1);
        self.shared.closed[why as usize].add(1);
    }

    pub(crate) fn connection_rejected(&self, why: Rejected) {
        self.shared.rejected[why as usize].add(1);
    }

    /// What waits for clients to read has grown by so many bytes.
    pub(crate) fn backlog_grown(&self, bytes: isize) {
        self.shared.write_buffered.add(bytes as i64);
    }

    pub(crate) fn connection_paused(&self, is_paused: bool) {
        self.shared.paused.add(if is_paused { 1 } else { -1 });
    }

    /// A request has come to `route`: from now on that is what the loop is at.
    #[inline]
    pub(crate) fn route_entered(&self, route: &Route) {
        self.pace.enter_route(route.number);
    }

    /// A request begins, at the root.
    #[inline]
    pub(crate) fn request_began(&self, reactor: &Reactor) {
        self.shared.in_progress.add(1);
        if !self.pace.begin_request(self.root.number) {
            self.pace.end_request(self.root.number, reactor.present_nanos());
        }
    }

    /// The response is finished. How long it took is reckoned by [`settle`](HttpFigures::settle), which must follow before
    /// the connection is left: with one look at the clock for all requests that were read and answered in one go.
    pub(crate) fn request_ended(
        &self,
        route: &Route,
        method: &Method,
        status: StatusCode,
        began: u64,
        now: impl Fn() -> u64,
    ) {
        self.shared.in_progress.add(-1);
        if !self.is_counted {
            return;
        }
        let method = MethodLabel::of(method);
        let known = route.series.borrow();
        if let Some(series) = known.iter().find(|series| series.method == method) {
            return self.end_in(series, route, status, began, now);
        }
        drop(known);
        let series = self.series_of_label(&route.label, method);
        self.end_in(&series, route, status, began, now);
        route.series.borrow_mut().push(series);
    }

    #[inline]
    fn end_in(&self, series: &Rc<MethodSeries>, route: &Route, status: StatusCode, began: u64, now: impl Fn() -> u64) {
        self.count_code(series, &route.label, status.as_u16());
        let mut ended = self.ended.borrow_mut();
        match &mut *ended {
            Some(ended) if ended.began == began && Rc::ptr_eq(&ended.series, series) => ended.count += 1,
            _ => {
                let this = Ended { series: series.clone(), began, count: 1 };
                if let Some(before) = ended.replace(this) {
                    before.settle(now());
                }
            }
        }
    }

    /// Records the durations of the requests that ended.
    pub(crate) fn settle(&self, now: impl FnOnce() -> u64) {
        if let Some(ended) = self.ended.take() {
            ended.settle(now());
        }
    }

    /// Different ways may have one label: `/a/b` is a child of a child, one child called `a/b`, or the pattern of another
    /// site. They share their series: two with the same labels are refused by whoever scrapes them.
    fn series_of_label(&self, label: &Arc<str>, method: MethodLabel) -> Rc<MethodSeries> {
        let mut all = self.series.borrow_mut();
        if let Some(series) = all.iter().find(|series| series.method == method && series.durations.route == *label) {
            return series.clone();
        }
        let spread = Spread::new(DURATION_BOUNDS);
        let durations = self.shared.durations.push(Durations { method: method.name(), route: label.clone(), spread });
        let series = Rc::new(MethodSeries { method, durations, codes: RefCell::default() });
        all.push(series.clone());
        series
    }

    fn count_code(&self, series: &MethodSeries, route: &Arc<str>, code: u16) {
        let mut codes = series.codes.borrow_mut();
        match codes.iter().find(|known| known.code == code) {
            Some(known) => known.count.add(1),
            None => {
                let requests =
                    Requests { method: series.method.name(), route: route.clone(), code, count: Count::default() };
                let known = self.shared.requests.push(requests);
                known.count.add(1);
                codes.push(known);
            }
        }
    }

    /// The peer left before the response was finished.
    pub(crate) fn request_aborted(&self, route: &Route) {
        self.shared.in_progress.add(-1);
        let mut aborted = self.aborted.borrow_mut();
        match aborted.iter().find(|known| known.route == route.label) {
            Some(known) => known.count.add(1),
            None => {
                let new = Aborted { route: route.label.clone(), count: Count::default() };
                let known = self.shared.aborted.push(new);
                known.count.add(1);
                aborted.push(known);
            }
        }
    }

    pub(crate) fn refused(&self, refusal: Refusal) {
        let mut refusals = self.refusals.borrow_mut();
        match refusals.iter().find(|(known, _)| *known == refusal) {
            Some((_, refused)) => refused.count.add(1),
            None => {
                let reason = refusal.as_str();
                let refused = self.shared.refusals.push(Refused { reason, count: Count::default() });
                refused.count.add(1);
                refusals.push((refusal, refused));
            }
        }
    }
}

impl Ended {
    fn settle(self, now: u64) {
        self.series.durations.spread.observe_many(now.saturating_sub(self.began), self.count);
    }
}

impl Route {
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    fn new(label: Arc<str>, depth: usize, pace: &Pace) -> Rc<Self> {
        let number = pace.add_route(&label);
        Rc::new(Route { label, depth, children: RefCell::default(), number, series: RefCell::default() })
    }
}

impl Figures for Shared {
    fn tell(&self, to: &mut Families) {
        to.gauge("http_server_connections", "Open HTTP connections.", self.connections.get() as f64);
        let accepted = self.accepted.get() as f64;
        to.counter("http_server_connections_accepted_total", "HTTP connections accepted.", accepted);
        let help = "HTTP connections that were closed, by reason.";
        let mut closed = to.family("http_server_connections_closed_total", help, MetricType::COUNTER);
        for ((_, reason), count) in Closed::ALL.iter().zip(&self.closed) {
            closed.value(&[("reason", reason)], count.get() as f64);
        }
        let help = "HTTP connections that were turned away, by reason.";
        let mut rejected = to.family("http_server_connections_rejected_total", help, MetricType::COUNTER);
        for ((_, reason), count) in Rejected::ALL.iter().zip(&self.rejected) {
            rejected.value(&[("reason", reason)], count.get() as f64);
        }
        let help = "Bytes of answers that wait for clients to read them.";
        to.gauge("http_server_write_buffered_bytes", help, self.write_buffered.get() as f64);
        let help = "HTTP connections not read from now, because the client or who handles its request is behind.";
        to.gauge("http_server_connections_paused", help, self.paused.get() as f64);
        let help = "Requests being handled, and not yet answered whole.";
        to.gauge("http_server_requests_in_progress", help, self.in_progress.get() as f64);
        let help = "Requests whose client left before the answer was whole.";
        let mut aborted = to.family("http_server_requests_aborted_total", help, MetricType::COUNTER);
        for series in self.aborted.snapshot() {
            aborted.value(&[("route", &series.route)], series.count.get() as f64);
        }
        let help = "Requests that were answered, by method, route and status code.";
        let mut requests = to.family("http_server_requests_total", help, MetricType::COUNTER);
        for series in self.requests.snapshot() {
            let code = series.code.to_string();
            let labels = &[("code", code.as_str()), ("method", series.method), ("route", &series.route)];
            requests.value(labels, series.count.get() as f64);
        }
        let help = "How long requests took, from the turn of the loop that read them to the end of the answer.";
        let mut durations = to.family("http_server_request_duration_seconds", help, MetricType::HISTOGRAM);
        for series in self.durations.snapshot() {
            durations.spread(&[("method", series.method), ("route", &series.route)], &series.spread);
        }
        let help = "Requests refused before anybody saw them, by reason.";
        let mut refusals = to.family("http_server_bad_requests_total", help, MetricType::COUNTER);
        for series in self.refusals.snapshot() {
            refusals.value(&[("reason", series.reason)], series.count.get() as f64);
        }
    }
}

/// Whether two names are equal, without comparing nothing with nothing: `memcmp` of no bytes at a dangling address, which is
/// where Rust keeps empty texts, makes current processors stumble: two of them took a quarter of the time of a request.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && (one.is_empty() || one == other)
}

/// The name of a method that HTTP itself has.
pub(crate) fn known_method(method: &Method) -> Option<&'static str> {
    let label = MethodLabel::of(method);
    (label != MethodLabel::Other).then(|| label.name())
}

/// A method as a label value: a number, for every request has its own compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MethodLabel {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    Other,
}

impl MethodLabel {
    fn of(method: &Method) -> Self {
        match *method {
            Method::GET => MethodLabel::Get,
            Method::HEAD => MethodLabel::Head,
            Method::POST => MethodLabel::Post,
            Method::PUT => MethodLabel::Put,
            Method::DELETE => MethodLabel::Delete,
            Method::OPTIONS => MethodLabel::Options,
            Method::PATCH => MethodLabel::Patch,
            Method::CONNECT => MethodLabel::Connect,
            Method::TRACE => MethodLabel::Trace,
            _ => MethodLabel::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            MethodLabel::Get => "GET",
            MethodLabel::Head => "HEAD",
            MethodLabel::Post => "POST",
            MethodLabel::Put => "PUT",
            MethodLabel::Delete => "DELETE",
            MethodLabel::Options => "OPTIONS",
            MethodLabel::Patch => "PATCH",
            MethodLabel::Connect => "CONNECT",
            MethodLabel::Trace => "TRACE",
            MethodLabel::Other => "other",
        }
    }
}

/// The name of a route for children that have no name of their own: those that a resource makes up as they are asked for.
pub(crate) const WILDCARD: &str = "*";

/// Deeper than any tree of resources a person makes.
const MAX_DEPTH: usize = 16;

/// A program has tens of routes. One that puts a child per user into its tree must not fill the memory with series.
const MAX_ROUTES: usize = 1000;

/// Prometheus' default buckets, with finer ones below: an answer from memory takes some ten microseconds.
const DURATION_BOUNDS: &[Duration] = &[
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Metrics;

    /// How often the clock was read for a request, and how many series there are of it.
    fn counted(metrics: Metrics) -> (usize, usize) {
        let reactor = Reactor::builder().metrics(metrics).build().expect("a reactor");
        let (figures, readings) = (HttpFigures::of(&reactor), Cell::new(0));
        let now = || {
            readings.set(readings.get() + 1);
            0
        };
        figures.request_began(&reactor);
        figures.request_ended(figures.root(), &Method::GET, StatusCode::OK, 0, now);
        figures.settle(now);
        assert_eq!(figures.shared.in_progress.get(), 0);
        (readings.get(), figures.shared.requests.snapshot().len() + figures.shared.durations.snapshot().len())
    }

    #[test]
    fn without_metrics_nothing_is_counted_by_route_and_no_clock_is_read() {
        assert_eq!(counted(Metrics::Off), (0, 0));
        assert_eq!(counted(prometheus::Registry::new().into()), (1, 2));
    }
}
