//! What the connections of a site share: what it serves, its limits, and what is made once for all of them.
//!
//! Rule kept here: what many connections need now and then stands here once, so that an idle one is small.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::SystemTime;

use crate::http as engine;
use crate::net::Address;
use crate::web::access_log::AccessLog;
use crate::web::drain::{Draining, Phase};
use crate::web::exchange::{Exchange, PageMaker};
use crate::web::forwarded::TrustedProxies;
use crate::web::guests::Guests;
use crate::web::limits::Limits;
use crate::web::metrics::Rejected;
use crate::web::resource::Resource;

/// See the top of the file.
pub(crate) struct Shared {
    pub(crate) root: Rc<dyn Resource>,
    pub(crate) limits: Limits,
    /// The limits of a request of which it is not known yet whether its body will be a stream.
    pub(crate) head_limits: engine::Limits,
    /// Those of one whose body is.
    pub(crate) stream_limits: engine::Limits,
    /// The exchange to be used next: the one that was used last, time and again where requests are answered at once.
    next: Cell<Option<Rc<Exchange>>>,
    /// Others to be used again.
    spare: RefCell<Vec<Rc<Exchange>>>,
    date: RefCell<DateLine>,
    guests: Guests,
    pub(crate) pages: OnceCell<Rc<PageMaker>>,
    pub(crate) draining: Rc<Draining>,
    pub(crate) access_log: OnceCell<AccessLog>,
    pub(crate) proxies: OnceCell<TrustedProxies>,
    pub(crate) accepts_partial_put: Cell<bool>,
}

impl Shared {
    pub(crate) fn new(root: Rc<dyn Resource>, limits: Limits) -> Self {
        let body = limits.streamed_body;
        let stream_limits = engine::Limits { body, ..limits.request.clone() };
        let head_limits = engine::Limits { body: body.max(limits.request.body), ..limits.request.clone() };
        let (next, spare) = (Cell::default(), RefCell::default());
        let (date, guests) = (RefCell::default(), Guests::default());
        let (draining, pages) = (Rc::new(Draining::new()), OnceCell::new());
        let (access_log, proxies, accepts_partial_put) = (OnceCell::new(), OnceCell::new(), Cell::default());
        Shared {
            root,
            limits,
            head_limits,
            stream_limits,
            next,
            spare,
            date,
            guests,
            pages,
            draining,
            access_log,
            proxies,
            accepts_partial_put,
        }
    }

    /// Counts a new connection, if it may be one.
    pub(crate) fn admit(&self, peer: &Address) -> Result<(), Rejected> {
        if self.draining.phase() == Phase::Over {
            return Err(Rejected::Draining);
        }
        self.guests.admit(peer, self.limits.connections, self.limits.connections_per_peer)
    }

    pub(crate) fn leave(&self, peer: &Address) {
        self.guests.leave(peer);
        self.draining.settle(self.guests.is_empty());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    /// Appends the header lines that every response has.
    pub(crate) fn standing_fields(&self, out: &mut Vec<u8>, now: u64) {
        self.date.borrow_mut().append(out, now);
    }

    pub(crate) fn error_pages(&self) -> Option<Rc<PageMaker>> {
        self.pages.get().cloned()
    }

    pub(crate) fn spare_exchange(&self) -> Rc<Exchange> {
        let spare = self.next.take().or_else(|| self.spare.borrow_mut().pop());
        spare.unwrap_or_else(|| Rc::new(Exchange::new()))
    }

    /// Keeps an exchange for later use, unless somebody still has it: a request handle that outlived its answer.
    #[inline(always)] // one of its callers is the loop over requests
    pub(crate) fn recycle(&self, mut exchange: Rc<Exchange>) {
        if let Some(unshared) = Rc::get_mut(&mut exchange) {
            unshared.reset();
            if let Some(other) = self.next.replace(Some(exchange)) {
                self.keep(other);
            }
        }
    }

    fn keep(&self, exchange: Rc<Exchange>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MAX_SPARE_EXCHANGES {
            spare.push(exchange);
        }
    }
}

/// The header lines that every response has, made once a second.
#[derive(Default)]
struct DateLine {
    text: Vec<u8>,
    /// In nanoseconds as the reactor's timers count them.
    valid_until: u64,
}

impl DateLine {
    fn append(&mut self, out: &mut Vec<u8>, now: u64) {
        if now >= self.valid_until {
            let wall = SystemTime::now();
            let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.valid_until = now + 1_000_000_000 - u64::from(since_epoch.subsec_nanos());
            self.text = format!("Server: dosimeter\r\nDate: {}\r\n", httpdate::fmt_http_date(wall)).into();
        }
        out.extend_from_slice(&self.text);
    }
}

/// As many as the requests of one turn may need at once.
const MAX_SPARE_EXCHANGES: usize = 64;
