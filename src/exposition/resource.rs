//! [`MetricsResource`]: `/metrics`.
//!
//! Rules kept here:
//! - Gathering and encoding run in the thread pool: a scrape of a large registry takes long, and the loop serves everybody
//!   else meanwhile.
//! - Who asks for a page that is being made waits for that one. A thousand scrapers cost one gathering, and a collector that
//!   never returns costs one thread for each kind of page, up to [`MAX_RENDERS`], not one for each scrape.
//! - Every scrape is answered in time. A page that is late or failed costs those who wait for it, not the server.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Method, StatusCode, header};
use prometheus::Registry;
use prometheus::proto::{MetricFamily, MetricType};

use crate::deferred::{Completer, Deferred};
use crate::exposition::negotiate::Format;
use crate::failure::{Result, TimedOut};
use crate::reactor::{Reactor, WeakReactor};
use crate::web::{Render, Request, Resource, Response};

/// Serves the metrics of a registry, as OpenMetrics 1.0.0 to who prefers it and else in the Prometheus text format 0.0.4.
///
/// Gathering and encoding run in the reactor's thread pool, so a large registry does not hold up the loop, and a collector
/// runs in another thread than the one it was made in. It answers `GET`, `HEAD` and `OPTIONS`, and every path below its own as
/// well.
///
/// - **Formats** are chosen by `Accept`; see [`Format::accepted`](crate::exposition::Format::accepted).
/// - **`?name[]=http_requests_total`**, any number of times, leaves only the families of that name, or those that have a
///   series of that name (`..._count`): whole families, as half a histogram is none. An empty name is no filter.
/// - **Scrapes at the same time** share one page if they want the same format and names of the same resource: a clone is the
///   same, and so is every [`new`](MetricsResource::new). Two made [`with_registry`](MetricsResource::with_registry) are not,
///   since nobody can tell whether two `Registry` handles are one registry: a handler should return a clone.
/// - **A scrape that takes too long** is answered with 503 shortly before the scraper gives up, which it announces in
///   `X-Prometheus-Scrape-Timeout-Seconds`; after a minute when it does not.
/// - **A collector that panics** makes the scrape a 500, with a line in the log; the next one starts anew. What the others
///   had gathered goes with it, as `Registry::gather` gives all or nothing.
///
/// A collector may make and change metrics, but must not register any with the registry that is gathering it: `prometheus`
/// holds a lock meanwhile, on which it would wait for ever. For the same reason `register` waits until a gathering is over.
///
/// ```
/// use dosimeter::MetricsResource;
/// use dosimeter::web::{Branch, Site};
///
/// let root = Branch::new();
/// root.put_child("metrics", MetricsResource::new());
/// let site = Site::new(root);
/// ```
#[derive(Debug, Clone)]
pub struct MetricsResource {
    registry: Registry,
    identity: Identity,
}

impl MetricsResource {
    /// Serves `prometheus::default_registry()`, where the `register_...!` macros put metrics, and reactors theirs.
    pub fn new() -> Self {
        MetricsResource { registry: prometheus::default_registry().clone(), identity: Identity::Default }
    }

    /// Serves this registry: that of a reactor built with [`Builder::metrics`](crate::Builder::metrics), say.
    pub fn with_registry(registry: Registry) -> Self {
        MetricsResource { registry, identity: Identity::Given(Arc::new(())) }
    }
}

impl Default for MetricsResource {
    fn default() -> Self {
        MetricsResource::new()
    }
}

impl Resource for MetricsResource {
    fn is_leaf(&self) -> bool {
        true
    }

    fn render_get(&self, request: Request) -> Render {
        let reactor = request.reactor();
        let kind = Kind { identity: self.identity.clone(), format: format(&request), names: names(&request) };
        let content_type = HeaderValue::from_static(kind.format.content_type());
        let page = reactor.local(Renders::default).page(kind, &self.registry, &reactor);
        page.add_timeout(patience(&request), &reactor).add_both(|page| answer(page, content_type)).into()
    }

    fn allowed_methods(&self) -> Vec<Method> {
        vec![Method::GET, Method::HEAD, Method::OPTIONS]
    }
}

fn format(request: &Request) -> Format {
    let accept = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    Format::accepted(accept.map(|(_, value)| value))
}

/// The names that were asked for, in one order whatever theirs was, so that equal wishes share a page.
fn names(request: &Request) -> Vec<String> {
    let decode = |text| percent_encoding::percent_decode_str(text).decode_utf8_lossy();
    let pairs = request.query_string().into_iter().flat_map(|query| query.split('&'));
    let pairs = pairs.filter_map(|pair| pair.split_once('='));
    let values = pairs.filter(|(key, _)| decode(key) == "name[]").map(|(_, value)| decode(value).into_owned());
    let mut names: Vec<String> = values.filter(|name| !name.is_empty()).collect();
    names.sort();
    names.dedup();
    names
}

/// How long this scrape may take.
fn patience(request: &Request) -> Duration {
    let announced = request.header("x-prometheus-scrape-timeout-seconds");
    let announced = announced.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse::<f64>().ok());
    match announced {
        Some(seconds) if seconds > 0.0 => {
            let margin = (seconds * MARGIN).min(MAX_MARGIN);
            Duration::try_from_secs_f64(seconds - margin).map_or(MAX_PATIENCE, |patience| patience.min(MAX_PATIENCE))
        }
        _ => PATIENCE,
    }
}

fn answer(page: Result<Page>, content_type: HeaderValue) -> Result<Response> {
    let response = match page {
        Ok(Some(page)) => Response::new(page).with_content_type(content_type),
        Ok(None) => Response::internal_error(),
        Err(failure) if failure.is::<TimedOut>() => {
            log::warn!(target: LOG, "a scrape was given up: {failure}; a collector is slow or stuck");
            Response::text("The metrics could not be collected in time.\n").with_status(StatusCode::SERVICE_UNAVAILABLE)
        }
        Err(failure) => return Err(failure),
    };
    Ok(response.with_header(header::VARY, HeaderValue::from_static("Accept")))
}

/// The pages that a reactor makes at present, and who waits for them.
#[derive(Default)]
struct Renders {
    /// In the order asked for, each kind once.
    renders: RefCell<Vec<Rendering>>,
}

/// A page being made, or waiting until it can be.
struct Rendering {
    kind: Kind,
    registry: Registry,
    is_running: bool,
    waiting: Vec<Completer<Page>>,
}

/// What a page is made of: equal kinds at one time are one page.
#[derive(Clone, PartialEq)]
struct Kind {
    identity: Identity,
    format: Format,
    names: Vec<String>,
}

/// Which registry. `prometheus::Registry` cannot be compared, so it is the resource that is.
#[derive(Debug, Clone)]
enum Identity {
    Default,
    Given(Arc<()>),
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Identity::Default, Identity::Default) => true,
            (Identity::Given(one), Identity::Given(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// A page for any number of scrapers; none when it could not be made, which the log tells.
type Page = Option<Arc<[u8]>>;

impl Renders {
    /// The page of this kind that is being made, or else a new one.
    fn page(self: Rc<Self>, kind: Kind, registry: &Registry, reactor: &Reactor) -> Deferred<Page> {
        let (completer, page) = Deferred::pair();
        self.drop_unwanted();
        self.join(kind, registry, completer);
        self.start(reactor);
        page
    }

    /// Drops what has not begun and nobody waits for any more.
    fn drop_unwanted(&self) {
        let is_unwanted = |render: &mut Rendering| {
            let mut waiting = render.waiting.iter();
            !render.is_running && waiting.all(Completer::is_cancelled)
        };
        // Collected, so that they are dropped when the cell is free again: the last handle of a registry drops user code.
        let _unwanted: Vec<Rendering> = self.renders.borrow_mut().extract_if(.., is_unwanted).collect();
    }

    fn join(&self, kind: Kind, registry: &Registry, completer: Completer<Page>) {
        let mut renders = self.renders.borrow_mut();
        if let Some(render) = renders.iter_mut().find(|render| render.kind == kind) {
            // Or those that gave up on a page that is never finished would grow in number. Not at every one, or a thousand
            // scrapers would be a million looks.
            if render.waiting.len().is_power_of_two() {
                render.waiting.retain(|completer| !completer.is_cancelled());
            }
            return render.waiting.push(completer);
        }
        let registry = registry.clone();
        renders.push(Rendering { kind, registry, is_running: false, waiting: vec![completer] });
    }

    /// Starts what may run.
    fn start(self: &Rc<Self>, reactor: &Reactor) {
        while let Some((kind, registry)) = self.next() {
            let (renders, made, reactor_then) = (self.clone(), kind.clone(), reactor.downgrade());
            reactor.defer_to_thread(move || Ok(make_page(&registry, &kind))).add_both(move |page| {
                renders.finish(&made, page);
                // Not from here: a pool that takes no more jobs fails them at once, each inside the one before.
                if let Some(reactor) = reactor_then.upgrade() {
                    reactor.call_soon(move || renders.start_in(&reactor_then));
                }
            });
        }
    }

    fn start_in(self: &Rc<Self>, reactor: &WeakReactor) {
        if let Some(reactor) = reactor.upgrade() {
            self.start(&reactor);
        }
    }

    /// What to make next; it counts as running from now.
    fn next(&self) -> Option<(Kind, Registry)> {
        let mut renders = self.renders.borrow_mut();
        if renders.iter().filter(|render| render.is_running).count() >= MAX_RENDERS {
            return None;
        }
        let next = renders.iter_mut().find(|render| !render.is_running)?;
        next.is_running = true;
        Some((next.kind.clone(), next.registry.clone()))
    }

    /// Gives the page to all who wait for it.
    fn finish(&self, kind: &Kind, page: Result<Arc<[u8]>>) {
        let page = page.inspect_err(|failure| failure.log(LOG, format_args!("metrics could not be collected"))).ok();
        let at = self.renders.borrow().iter().position(|render| render.kind == *kind);
        let render = at.map(|at| self.renders.borrow_mut().remove(at));
        for completer in render.into_iter().flat_map(|render| render.waiting) {
            completer.callback(page.clone());
        }
    }
}

/// Runs in the thread pool; what was gathered is freed there too.
fn make_page(registry: &Registry, kind: &Kind) -> Arc<[u8]> {
    let mut families = registry.gather();
    if !kind.names.is_empty() {
        families.retain(|family| kind.names.iter().any(|name| has_series(family, name)));
    }
    let mut page = Vec::new();
    kind.format.encode(&families, &mut page);
    page.into()
}

/// Whether `name` is the family's or that of one of its series.
fn has_series(family: &MetricFamily, name: &str) -> bool {
    let suffixes: &[&str] = match family.get_field_type() {
        MetricType::HISTOGRAM => &["", "_bucket", "_sum", "_count"],
        MetricType::SUMMARY => &["", "_sum", "_count"],
        _ => &[""],
    };
    name.strip_prefix(family.name()).is_some_and(|suffix| suffixes.contains(&suffix))
}

const LOG: &str = "dosimeter::metrics";

/// Pages made at the same time, further ones wait: of the ten threads of a pool most are left to the program, also when
/// collectors are stuck.
const MAX_RENDERS: usize = 4;

/// How long a scraper waits that does not say so: six times the default of Prometheus, as this one may be a person.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most that a scraper can ask for: an hour is longer than any useful interval between scrapes.
const MAX_PATIENCE: Duration = Duration::from_secs(3600);

/// The part of its time that is left for the answer to reach the scraper, and the most of it, in seconds.
const MARGIN: f64 = 0.1;
const MAX_MARGIN: f64 = 0.5;
