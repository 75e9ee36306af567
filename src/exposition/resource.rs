//! [`MetricsResource`]: `/metrics`.
//!
//! Rules kept here:
//! - Every scrape is answered in time. A page that is late or failed costs those who wait for it, not the server.
//! - A page leaves piece by piece, at the pace of its scraper. There is one in memory however many are reading it.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use prometheus::Registry;

use crate::exposition::gather::{Page, Wish};
use crate::exposition::negotiate::Format;
use crate::exposition::renders::{Kind, Renders, SharedPage, Source};
use crate::failure::{Result, TimedOut};
use crate::web::accept::prefers_gzip;
use crate::web::{Render, Request, Resource, Response};

/// Serves the metrics of a registry, as OpenMetrics 1.0.0 to who prefers it and else in the Prometheus text format 0.0.4.
///
/// Gathering and encoding are a job of the reactor's thread pool, so a large registry does not hold up the loop, and a collector
/// runs in another thread than the one it was made in. On Linux that thread gives way to others (its niceness is 10 above that
/// of the program): where every processor is busy a page takes longer, and not those who are served beside it. It answers `GET`,
/// `HEAD` and `OPTIONS`, and every path below its own as well.
///
/// - **Formats** are chosen by `Accept`; see [`Format::accepted`](crate::exposition::Format::accepted).
/// - **`?name[]=http_requests_total`**, any number of times, leaves only the families of that name, or those that have a
///   series of that name (`..._count`): whole families, as half a histogram is none. An empty name is no filter.
/// - **Scrapes at the same time** share one page if they want the same format and names of the same resource: a clone is the
///   same, and so is every [`new`](MetricsResource::new). Two made [`with_registry`](MetricsResource::with_registry) are not,
///   since nobody can tell whether two `Registry` handles are one registry: a handler should return a clone.
/// - **A scrape that takes too long** is answered with 503 shortly before the scraper gives up, which it announces in
///   `X-Prometheus-Scrape-Timeout-Seconds`; after a minute when it does not.
/// - **A collector that panics** costs the families of its registry; if there is no other, the scrape is a 500. The log tells,
///   and the next scrape starts anew. One that is [isolated](crate::exposition::isolate) costs its own families only, also
///   when it hangs.
/// - **A large page** is sent at the pace of its scraper, and there is one in memory however many are reading it.
/// - **What scrapes cost** is in the figures of the reactor: `metrics_render_duration_seconds`, `metrics_render_bytes`,
///   `metrics_series`, `metrics_render_errors_total`.
///
/// A collector may make and change metrics. To register any with the very registry that is gathering it, it has to be
/// isolated: `prometheus` holds a lock meanwhile, on which it would wait for ever. For the same reason `register` waits until
/// a gathering is over.
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
    source: Source,
    gzip: bool,
}

impl MetricsResource {
    /// Serves `prometheus::default_registry()`, where the `register_...!` macros put metrics, and reactors theirs.
    pub fn new() -> Self {
        MetricsResource { source: Source::default_registry(), gzip: false }
    }

    /// Serves this registry: that of a reactor built with [`Builder::metrics`](crate::Builder::metrics), say.
    pub fn with_registry(registry: Registry) -> Self {
        MetricsResource::with_registries([registry])
    }

    /// Serves these registries as one page: the default one and that of a library, say.
    ///
    /// Each is gathered by itself: a collector that panics costs the families of its registry and not those of the others.
    /// Families of one name become one, so their series have to differ in a label: of two that do not the first stands, and
    /// the log tells.
    pub fn with_registries(registries: impl IntoIterator<Item = Registry>) -> Self {
        MetricsResource { source: Source::new(registries), gzip: false }
    }

    /// Compresses pages from 2 KiB on for scrapers that accept gzip, as Prometheus does, by their `Accept-Encoding` with its
    /// qualities (RFC 9110 section 12.5.3).
    ///
    /// In the thread pool, at the fastest level, and once for all who wait for a page. It takes longer than the page itself, and
    /// makes it some twenty times smaller: worth it over a network, and not within a machine.
    #[cfg(feature = "gzip")]
    #[must_use]
    pub fn with_gzip(mut self) -> Self {
        self.gzip = true;
        self
    }

    /// What an answer depends on, besides the registry.
    fn vary(&self) -> HeaderValue {
        HeaderValue::from_static(if self.gzip { "Accept, Accept-Encoding" } else { "Accept" })
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
        let gzip = self.gzip && prefers_gzip(fields(&request, "accept-encoding"));
        let wish = Wish { format: format(&request), names: names(&request), gzip };
        let head = Head { content_type: HeaderValue::from_static(wish.format.content_type()), vary: self.vary() };
        let page = Renders::of(&reactor).page(Kind { source: self.source.clone(), wish }, &reactor);
        page.add_timeout(patience(&request), &reactor).add_both(move |page| Ok(answer(page, request, head))).into()
    }

    fn allowed_methods(&self) -> Vec<Method> {
        vec![Method::GET, Method::HEAD, Method::OPTIONS]
    }
}

fn format(request: &Request) -> Format {
    Format::accepted(fields(request, "accept"))
}

fn fields<'a>(request: &'a Request, wanted: &str) -> impl Iterator<Item = &'a [u8]> {
    request.headers().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
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

/// What every answer with a page says of it.
struct Head {
    content_type: HeaderValue,
    vary: HeaderValue,
}

impl Head {
    fn fields(self, page: &Page) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let coding = page.is_gzip.then_some((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        [(header::CONTENT_TYPE, self.content_type), (header::VARY, self.vary)].into_iter().chain(coding)
    }
}

fn answer(page: Result<Option<Rc<SharedPage>>>, request: Request, head: Head) -> Render {
    let response = match page {
        Ok(Some(page)) if page.bytes.len() > PIECE => return send(page, request, head),
        Ok(Some(page)) => {
            let response = Response::new(page.bytes.clone()); // a few packets at the most
            return head
                .fields(&page)
                .fold(response, |response, (name, value)| response.with_header(name, value))
                .into();
        }
        Ok(None) => Response::internal_error(),
        Err(failure) if failure.is::<TimedOut>() => {
            log::warn!(target: LOG, "a scrape was given up: {failure}; a collector is slow or stuck");
            Response::text("The metrics could not be collected in time.\n").with_status(StatusCode::SERVICE_UNAVAILABLE)
        }
        Err(failure) => return Err::<Response, _>(failure).into(),
    };
    response.with_header(header::VARY, head.vary).into()
}

/// Sends a large page as the scraper takes it.
fn send(page: Rc<SharedPage>, mut request: Request, head: Head) -> Render {
    head.fields(&page).for_each(|(name, value)| request.add_header(name, value));
    request.set_length(page.bytes.len() as u64);
    let mut pieces = pieces(page);
    request.send_stream(move || Ok(pieces.next()))
}

fn pieces(page: Rc<SharedPage>) -> impl Iterator<Item = Piece> {
    let length = page.bytes.len();
    let starts = (0..length).step_by(PIECE);
    starts.map(move |start| Piece { page: page.clone(), range: start..length.min(start + PIECE) })
}

/// A part of a page that others read as well.
struct Piece {
    page: Rc<SharedPage>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.page.bytes[self.range.clone()]
    }
}

const LOG: &str = "dosimeter::metrics";

/// How long a scraper waits that does not say so: six times the default of Prometheus, as this one may be a person.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most that a scraper can ask for: an hour is longer than any useful interval between scrapes.
const MAX_PATIENCE: Duration = Duration::from_secs(3600);

/// The part of its time that is left for the answer to reach the scraper, and the most of it, in seconds.
const MARGIN: f64 = 0.1;
const MAX_MARGIN: f64 = 0.5;

/// What a scraper that does not read is sent at a time: as much as a transport gathers before it counts as behind.
const PIECE: usize = 64 * 1024;
