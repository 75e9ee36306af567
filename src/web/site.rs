//! [`Site`]: the HTTP server, a factory of connections that serve a tree of resources.
//!
//! Rules kept here:
//! - One request at a time per connection: the next one is read when the answer to this one is whole, so answers keep the
//!   order of requests. A thousand pipelined requests in one read are handled in a loop.
//! - What was read and cannot be used yet is kept up to a limit, then reading pauses. A peer that does not read its answers is
//!   not read from either.
//! - A connection always has a deadline while it waits for the peer, and none while the peer waits for a resource.
//! - After a refusal nothing more is taken for a request; the connection is closed in a way that lets the peer read why.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::{Alarm, Clock, DelayedCall};
use crate::deferred::Deferred;
use crate::failure::{Failure, Result, guard};
use crate::http::{self as engine, Event, Finished, Refusal};
use crate::net::{Address, ConnectionLost, Factory, Protocol, Transport};
use crate::web::exchange::{Channel, Exchange, encode_response};
use crate::web::metrics::HttpFigures;
use crate::web::request::Request;
use crate::web::resource::{Answer, Render, Resource, not_found};
use crate::web::response::Response;

/// Serves a tree of resources over HTTP/1.1; give it to `Reactor::listen_tcp`.
///
/// ```no_run
/// use dosimeter::web::{Branch, Site};
/// use dosimeter::{MetricsResource, Reactor};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let root = Branch::new();
/// root.put_child("metrics", MetricsResource::new());
/// reactor.listen_tcp(8000, Site::new(root))?;
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct Site(Rc<Shared>);

/// What a connection may take, in bytes and in time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Sizes of a request.
    pub request: engine::Limits,
    /// From the first byte of a request (or from accepting the connection) to the end of its head: 30 s, hyper's figure.
    /// A peer that dribbles its head holds a connection no longer than this.
    pub head_timeout: Duration,
    /// From one part of a body to the next: 30 s.
    pub body_timeout: Duration,
    /// From the end of an answer to the first byte of the next request: 75 s, which is longer than the 60 s after which
    /// common proxies close, so that it is the proxy who closes and no request is lost between the two.
    pub idle_timeout: Duration,
    /// How much input behind the request being handled is kept: 16 KiB, Twisted's figure.
    pub read_ahead: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request: engine::Limits::default(),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            read_ahead: 16 * 1024,
        }
    }
}

struct Shared {
    root: Rc<dyn Resource>,
    limits: Limits,
    /// Exchanges to be used again.
    spare: RefCell<Vec<Rc<Exchange>>>,
    date: RefCell<DateLine>,
    figures: OnceCell<Rc<HttpFigures>>,
}

impl Site {
    /// A site that serves `root` with the default limits.
    pub fn new(root: impl Resource) -> Self {
        Site::with_limits(root, Limits::default())
    }

    /// A site that serves `root` with these limits.
    pub fn with_limits(root: impl Resource, limits: Limits) -> Self {
        Site(Rc::new(Shared {
            root: Rc::new(root),
            limits,
            spare: RefCell::default(),
            date: RefCell::default(),
            figures: OnceCell::new(),
        }))
    }
}

impl Factory for Site {
    type Protocol = HttpProtocol;

    fn build_protocol(&self, _peer: &Address) -> Option<HttpProtocol> {
        Some(HttpProtocol { site: self.0.clone(), connection: None })
    }
}

/// The protocol of one HTTP connection; what a [`Site`] builds.
pub struct HttpProtocol {
    site: Rc<Shared>,
    connection: Option<Rc<Connection>>,
}

impl Protocol for HttpProtocol {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        let connection = Connection::new(self.site.clone(), transport.clone());
        connection.figures().connection_made();
        connection.set_deadline(self.site.limits.head_timeout);
        self.connection = Some(connection);
        Ok(())
    }

    fn data_received(&mut self, _transport: &Transport, data: &[u8]) -> Result<()> {
        if let Some(connection) = &self.connection {
            connection.data_received(data);
        }
        Ok(())
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        match &self.connection {
            Some(connection) if connection.phase.get() == Phase::Handling => connection.half_closed.set(true),
            _ => transport.lose_connection(),
        }
        Ok(())
    }

    fn connection_lost(&mut self, _transport: &Transport, reason: ConnectionLost) {
        if let Some(connection) = self.connection.take() {
            connection.lose(&reason);
        }
    }
}

/// One HTTP connection: reads requests, has them answered.
struct Connection {
    site: Rc<Shared>,
    transport: Transport,
    engine: RefCell<engine::Connection>,
    /// What was read and not used yet.
    unused: RefCell<Vec<u8>>,
    /// The request being read or handled.
    exchange: RefCell<Option<Rc<Exchange>>>,
    phase: Cell<Phase>,
    /// Whether a loop that will go on with the input is further down the stack.
    in_loop: Cell<bool>,
    /// An answer was finished in the loop.
    answered: Cell<bool>,
    /// The deadline is that of the current head.
    head_begun: Cell<bool>,
    /// The peer sends nothing more.
    half_closed: Cell<bool>,
    deadline: RefCell<Option<DelayedCall>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for a request, or for the rest of one.
    Reading,
    /// A resource has the request.
    Handling,
    /// The last answer is sent; what still comes is dropped until the peer closes.
    Lingering,
    /// The last answer is on its way.
    Closing,
}

impl Connection {
    fn new(site: Rc<Shared>, transport: Transport) -> Rc<Self> {
        site.figures.get_or_init(|| HttpFigures::of(transport.reactor()));
        Rc::new(Connection {
            site,
            transport,
            engine: RefCell::default(),
            unused: RefCell::default(),
            exchange: RefCell::default(),
            phase: Cell::new(Phase::Reading),
            in_loop: Cell::new(false),
            answered: Cell::new(false),
            head_begun: Cell::new(true),
            half_closed: Cell::new(false),
            deadline: RefCell::default(),
        })
    }

    fn data_received(self: &Rc<Self>, data: &[u8]) {
        if self.phase.get() == Phase::Lingering {
            return;
        }
        let mut unused = self.unused.take();
        if unused.is_empty() {
            let used = self.read_requests(data);
            unused.extend_from_slice(&data[used..]);
        } else {
            unused.extend_from_slice(data);
            let used = self.read_requests(&unused);
            unused.drain(..used);
        }
        self.keep(unused);
    }

    /// Keeps what cannot be used yet. It belongs to a request that is behind the one being handled, or to an incomplete
    /// head, which the engine limits by itself.
    fn keep(&self, unused: Vec<u8>) {
        if self.phase.get() == Phase::Handling && unused.len() > self.site.limits.read_ahead {
            self.transport.pause_reading();
        }
        if !unused.is_empty() {
            self.unused.replace(unused);
        }
    }

    /// Handles the requests in `input` and returns how much of it is used up.
    fn read_requests(self: &Rc<Self>, input: &[u8]) -> usize {
        self.in_loop.set(true);
        let mut used = 0;
        while self.phase.get() == Phase::Reading && self.transport.is_connected() {
            if used == input.len() && self.is_between_requests() {
                break;
            }
            let mut exchange = self.exchange.take().unwrap_or_else(|| self.site.spare_exchange());
            let unshared = Rc::get_mut(&mut exchange).expect("nobody else knows a request that is still being read");
            let (count, event) =
                self.engine.borrow_mut().receive(&input[used..], &mut unshared.head, &self.site.limits.request);
            used += count;
            match event {
                Event::Head => self.head_received(exchange),
                Event::Data(data) => {
                    unshared.body.extend_from_slice(data);
                    self.exchange.replace(Some(exchange));
                }
                Event::End => self.handle(exchange),
                Event::NeedData => {
                    self.wait_for_more(exchange, used < input.len());
                    break;
                }
                Event::Refused(refusal) => {
                    self.site.recycle(exchange);
                    self.refuse(refusal);
                }
                Event::Paused | Event::Closed => {
                    self.site.recycle(exchange);
                    break;
                }
            }
        }
        self.in_loop.set(false);
        if self.answered.replace(false) {
            self.settle_answers();
        }
        used
    }

    /// Whether the loop has nothing to do with no more input.
    fn is_between_requests(&self) -> bool {
        !self.half_closed.get() && self.engine.borrow().is_idle()
    }

    /// What is done once for all the answers of a loop.
    fn settle_answers(self: &Rc<Self>) {
        self.figures().settle(|| self.transport.reactor().present_nanos());
        if self.phase.get() == Phase::Reading && self.engine.borrow().is_idle() {
            self.set_deadline(self.site.limits.idle_timeout);
        }
    }

    fn head_received(&self, exchange: Rc<Exchange>) {
        // The resource gets the whole body, so it is always wanted.
        if self.engine.borrow().continue_expected() {
            self.transport.write_with(|out| self.engine.borrow_mut().send_continue(out));
        }
        self.exchange.replace(Some(exchange));
    }

    fn wait_for_more(self: &Rc<Self>, exchange: Rc<Exchange>, partial: bool) {
        if self.half_closed.get() {
            self.site.recycle(exchange);
            self.transport.lose_connection();
        } else if self.engine.borrow().in_body() {
            self.set_deadline(self.site.limits.body_timeout);
            self.exchange.replace(Some(exchange));
        } else {
            self.site.recycle(exchange);
            // A head gets one deadline for all of it: bytes that trickle in do not move it.
            if partial && !self.head_begun.replace(true) {
                self.set_deadline(self.site.limits.head_timeout);
            }
        }
    }

    /// Has a request answered.
    fn handle(self: &Rc<Self>, mut exchange: Rc<Exchange>) {
        self.phase.set(Phase::Handling);
        let unshared = Rc::get_mut(&mut exchange).expect("nobody else knows a request that is still being read");
        unshared.begin(self.clone(), self.transport.reactor().timers().nanos());
        self.exchange.replace(Some(exchange.clone()));
        exchange.set_answer_pending(true);
        let root = self.site.root.clone();
        let request = Request::new(exchange.clone());
        let rendered = guard(|| walk(root, request));
        self.answer(&exchange, rendered.unwrap_or_else(|failure| Render(Answer::Failed(failure))));
        self.site.recycle(exchange);
    }

    /// Does what the resource said.
    fn answer(self: &Rc<Self>, exchange: &Rc<Exchange>, render: Render) {
        let mut render = render;
        for _ in 0..MAX_DELEGATIONS {
            match render.0 {
                Answer::NotDoneYet => return exchange.set_answer_pending(false),
                Answer::Response(response) => return exchange.answer(&response),
                Answer::Failed(failure) => return exchange.answer_failure(&failure),
                Answer::Deferred(later) => return self.answer_later(exchange, later),
                Answer::Resource(resource) => {
                    let request = Request::new(exchange.clone());
                    render =
                        guard(|| walk(resource, request)).unwrap_or_else(|failure| Render(Answer::Failed(failure)));
                }
            }
        }
        exchange.answer_failure(&Failure::from("resources keep handing the request on to one another"));
    }

    fn answer_later(self: &Rc<Self>, exchange: &Rc<Exchange>, later: Deferred<Box<Render>>) {
        exchange.set_canceller(later.canceller());
        let (connection, exchange) = (self.clone(), exchange.clone());
        later.add_both(move |result: Result<Box<Render>>| {
            connection
                .answer(&exchange, result.map_or_else(|failure| Render(Answer::Failed(failure)), |answer| *answer));
        });
    }

    /// Answers what is no request, and lets the peer read the answer before the connection goes.
    fn refuse(self: &Rc<Self>, refusal: Refusal) {
        log::debug!(target: "dosimeter::web", "{}: {refusal}", self.transport.peer_addr());
        self.figures().refused(refusal);
        self.exchange.take();
        let status = refusal.status();
        let brief = status.canonical_reason().unwrap_or("Refused");
        let page = Response::error_page(status, brief, &refusal.to_string());
        self.transport.write_with(|out| {
            let _ = encode_response(out, &mut self.engine.borrow_mut(), &page, |out| self.standing_fields(out));
        });
        self.linger();
    }

    /// Closing a socket with unread input makes the system send a reset, which may overtake the answer. So only the writing
    /// half is closed, and input is dropped until the peer closes as well, or for a short while.
    fn linger(self: &Rc<Self>) {
        self.phase.set(Phase::Lingering);
        self.transport.lose_write_connection();
        self.set_deadline(LINGER);
    }

    fn set_deadline(self: &Rc<Self>, delay: Duration) {
        let mut deadline = self.deadline.borrow_mut();
        let moved = deadline.as_ref().is_some_and(|deadline| deadline.reset(delay).is_ok());
        if !moved {
            *deadline = Some(self.transport.reactor().timers().arm_alarm(delay, self.clone()));
        }
    }

    fn lose(&self, reason: &ConnectionLost) {
        self.figures().connection_lost();
        self.phase.set(Phase::Closing);
        if let Some(deadline) = self.deadline.take() {
            // It may just be ringing.
            let _ = deadline.cancel();
        }
        let exchange = self.exchange.take();
        if let Some(exchange) = exchange
            && exchange.has_begun()
        {
            exchange.lose(reason);
        }
    }
}

impl Alarm for Connection {
    fn ring(self: Rc<Self>) {
        match self.phase.get() {
            // The peer waits for us; the end of the answer sets the next deadline.
            Phase::Handling => self.set_deadline(self.site.limits.idle_timeout),
            Phase::Reading if self.engine.borrow().is_idle() => self.transport.lose_connection(),
            Phase::Reading => {
                self.engine.borrow_mut().refuse(Refusal::Timeout);
                self.refuse(Refusal::Timeout);
            }
            Phase::Lingering | Phase::Closing => self.transport.abort_connection(),
        }
    }
}

impl Channel for Connection {
    fn engine(&self) -> &RefCell<engine::Connection> {
        &self.engine
    }

    fn transport(&self) -> &Transport {
        &self.transport
    }

    fn figures(&self) -> &HttpFigures {
        self.site.figures.get().expect("set when the first connection was made")
    }

    fn standing_fields(&self, out: &mut Vec<u8>) {
        let now = self.transport.reactor().now();
        self.site.date.borrow_mut().append(out, now);
    }

    fn response_finished(self: Rc<Self>, finished: Finished) {
        self.exchange.take();
        match finished {
            Finished::KeepAlive => {
                self.phase.set(Phase::Reading);
                self.head_begun.set(false);
            }
            Finished::Close => self.close(),
            // The peer must not take what it got for the whole.
            Finished::Short(_) => self.transport.abort_connection(),
        }
        if self.in_loop.get() {
            self.answered.set(true);
            return;
        }
        self.settle_answers();
        if self.phase.get() == Phase::Reading {
            self.transport.resume_reading();
            self.data_received(&[]);
        }
    }
}

impl Connection {
    fn close(self: &Rc<Self>) {
        if self.unused.borrow().is_empty() {
            self.phase.set(Phase::Closing);
            self.transport.lose_connection();
        } else {
            self.linger();
        }
    }
}

impl Shared {
    fn spare_exchange(&self) -> Rc<Exchange> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| Rc::new(Exchange::new()))
    }

    /// Keeps an exchange for later use, unless somebody still has it: a request handle that outlived its answer.
    fn recycle(&self, mut exchange: Rc<Exchange>) {
        if let Some(unshared) = Rc::get_mut(&mut exchange) {
            unshared.reset();
            let mut spare = self.spare.borrow_mut();
            if spare.len() < MAX_SPARE_EXCHANGES {
                spare.push(exchange);
            }
        }
    }
}

/// Walks from `resource` along what is left of the path, and has the resource at the end answer.
fn walk(mut resource: Rc<dyn Resource>, request: Request) -> Render {
    while !resource.is_leaf() {
        let Some(name) = request.exchange().next_segment() else { break };
        let Some(child) = resource.child(name, &request) else { return not_found(&request) };
        request.exchange().descend();
        resource = child;
    }
    if request.exchange().is_garbled() {
        return not_found(&request);
    }
    resource.render(request)
}

/// The header lines that every response has, made once a second.
#[derive(Default)]
struct DateLine {
    text: Vec<u8>,
    valid_until: Option<Instant>,
}

impl DateLine {
    fn append(&mut self, out: &mut Vec<u8>, now: Instant) {
        if self.valid_until.is_none_or(|end| now >= end) {
            let wall = SystemTime::now();
            let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let into_second = Duration::from_nanos(since_epoch.subsec_nanos().into());
            self.valid_until = Some(now + Duration::from_secs(1) - into_second);
            self.text = format!("Server: dosimeter\r\nDate: {}\r\n", httpdate::fmt_http_date(wall)).into();
        }
        out.extend_from_slice(&self.text);
    }
}

/// A resource may answer with another one; a chain of more than this is a circle.
const MAX_DELEGATIONS: usize = 32;

/// As many as the requests of one turn may need at once.
const MAX_SPARE_EXCHANGES: usize = 64;

/// Long enough for an answer to cross the world; nginx waits 5 s.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        println!("site conn {} engine {} exchange {} proto {} transport {}", size_of::<super::Connection>(), size_of::<super::engine::Connection>(), size_of::<super::Exchange>(), size_of::<super::HttpProtocol>(), size_of::<super::Transport>());
        println!("response {} render {}", size_of::<super::Response>(), size_of::<super::Render>());
    }
}
