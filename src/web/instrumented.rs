//! [`Instrumented`]: a resource with hooks, measured to the end of the answer.
//!
//! Rules kept here:
//! - A measurement ends when the exchange does, and exchanges end once: answered whole, broken off, or left by the peer. What
//!   the resource returned, and when, makes no difference to that.
//! - A failure counts where it comes out of what is wrapped. That somebody further out makes a page of it changes nothing.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::rc::Rc;

use ::http::Method;

use crate::failure::{Result, guard};
use crate::instrument::{AsMetric, Counting, Gauge, Hook, Hooks, Incrementer, Observer, Running, Timing, Tracking};
use crate::web::exchange::Exchange;
use crate::web::request::Request;
use crate::web::resource::{Answer, GOES_ROUND, MAX_DELEGATIONS, Render, Resource, accepts_stream, walk};
use crate::web::waiter::Watcher;

/// A resource, and everything below it, with hooks: from the call of the resource until the response is finished or the peer
/// has left.
///
/// A hook around a handler ends when the handler has its answer; one of these when the answer is out, also where it is
/// written piece by piece after [`NOT_DONE_YET`](super::NOT_DONE_YET). On a route it is
/// [`Route::instrument`](super::Route::instrument).
///
/// Counted as errors are, each request once: a failure or panic that comes out of the resource, also one that
/// [knows its answer](super::HttpError) or that an error handler of a router further out answers; a request that is dropped
/// unanswered, as [`Abandoned`](crate::Abandoned); an answer that breaks off; and a peer that leaves before the end, or a
/// server that stops, as [`Disconnected`](super::Disconnected). (One that has only closed its sending side counts as gone after
/// [`Limits::half_closed`](super::Limits::half_closed).) An answer with status 500 that the resource made is an answer.
///
/// ```
/// use dosimeter::Incrementer;
/// use dosimeter::web::{Branch, Disconnected, Instrumented, Site};
/// use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};
///
/// let seconds = Histogram::with_opts(HistogramOpts::new("api_seconds", "time spent on requests of the API")).unwrap();
/// let errors = IntCounter::new("api_errors_total", "requests of the API that failed").unwrap();
/// let active = IntGauge::new("api_requests_in_progress", "requests of the API in progress").unwrap();
///
/// let api = Branch::new();
/// let api = Instrumented::new(api)
///     .time(&seconds)
///     .count_exceptions(&errors.only_if(|error| !error.is::<Disconnected>()))
///     .track_inprogress(&active);
///
/// let root = Branch::new();
/// root.put_child("api", api);
/// let site = Site::new(root);
/// ```
#[derive(Clone)]
pub struct Instrumented<H = ()> {
    resource: Rc<dyn Resource>,
    hooks: Hooks<H>,
}

impl Instrumented {
    /// The resource as it is, without hooks yet.
    pub fn new(resource: impl Resource) -> Self {
        Instrumented::with_hooks(resource, Hooks::new())
    }
}

impl<H: Hook> Instrumented<H> {
    /// A resource with these hooks.
    pub fn with_hooks(resource: impl Resource, hooks: Hooks<H>) -> Self {
        Instrumented { resource: Rc::new(resource), hooks }
    }

    /// With [`time`](crate::time).
    pub fn time<M: Observer>(self, metric: impl AsMetric<M>) -> Instrumented<(H, Timing<M>)> {
        Instrumented { resource: self.resource, hooks: self.hooks.time(metric) }
    }

    /// With [`count_exceptions`](crate::count_exceptions).
    pub fn count_exceptions<M: Incrementer>(self, metric: impl AsMetric<M>) -> Instrumented<(H, Counting<M>)> {
        Instrumented { resource: self.resource, hooks: self.hooks.count_exceptions(metric) }
    }

    /// With [`track_inprogress`](crate::track_inprogress).
    pub fn track_inprogress<M: Gauge>(self, metric: impl AsMetric<M>) -> Instrumented<(H, Tracking<M>)> {
        Instrumented { resource: self.resource, hooks: self.hooks.track_inprogress(metric) }
    }
}

impl<H> fmt::Debug for Instrumented<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Instrumented")
    }
}

impl<H: Hook> Resource for Instrumented<H> {
    /// The walk goes on inside, where it is measured.
    fn is_leaf(&self) -> bool {
        true
    }

    fn accepts_stream(&self, request: &Request) -> bool {
        accepts_stream(self.resource.clone(), request)
    }

    fn render(&self, request: Request) -> Render {
        self.hooks.measure(request, &|request| walk(self.resource.clone(), request))
    }

    fn allowed_methods(&self) -> Vec<Method> {
        self.resource.allowed_methods()
    }
}

/// Hooks whatever their number, as a route keeps them.
pub(crate) trait Measure {
    /// Has `answer` answer the request, and measures that.
    fn measure(&self, request: Request, answer: &dyn Fn(Request) -> Render) -> Render;
}

impl<H: Hook> Measure for Hooks<H> {
    fn measure(&self, request: Request, answer: &dyn Fn(Request) -> Render) -> Render {
        let exchange = request.exchange().clone();
        let measurement: Rc<dyn Watcher> = Rc::new(Measurement(Cell::new(Some(self.start()))));
        exchange.watch(measurement.clone());
        let render = guard(|| answer(request)).unwrap_or_else(Render::failed);
        settle(&exchange, render, measurement)
    }
}

/// What the hooks of one request have begun.
struct Measurement<R>(Cell<Option<R>>);

impl<R: Running> Watcher for Measurement<R> {
    /// Out of its cell while metrics are called, which are user code.
    fn settle(&self, error: Option<&(dyn Error + 'static)>) {
        if let Some(mut running) = self.0.take() {
            running.settle(error);
            self.0.set(Some(running));
        }
    }

    fn end(&self, error: Option<&(dyn Error + 'static)>) {
        if let Some(running) = self.0.take() {
            running.end(error);
        }
    }
}

/// Follows the answer through resources and chains to what comes out in the end, and tells if that is a failure.
fn settle(exchange: &Rc<Exchange>, mut render: Render, measurement: Rc<dyn Watcher>) -> Render {
    loop {
        render = match render.0 {
            Answer::Failed(failure) => {
                measurement.settle(Some(failure.error()));
                return Render::failed(failure);
            }
            // A circle would go round here, one frame of the stack deeper each time.
            Answer::Resource(_) if exchange.delegate() >= MAX_DELEGATIONS => Render::failed(GOES_ROUND.into()),
            Answer::Resource(resource) => {
                let request = Request::new(exchange.clone());
                guard(|| walk(resource, request)).unwrap_or_else(Render::failed)
            }
            Answer::Deferred(later) => {
                let exchange = exchange.clone();
                let later = later.add_both(move |result: Result<Box<Render>>| {
                    let render = result.map_or_else(Render::failed, |answer| *answer);
                    Ok(Box::new(settle(&exchange, render, measurement)))
                });
                return Render(Answer::Deferred(later));
            }
            done => return Render(done),
        }
    }
}
