//! [`BodyStream`]: the body of a request, piece by piece as it comes.
//!
//! Rules kept here:
//! - What came and was not taken is bounded: past the limit the connection is not read, and the peer feels it through TCP.
//! - A body ends once, in one of three ways: whole, refused, or with its peer; what came before is delivered first.
//! - Somebody waits, or something is there, never both: so a piece is handed over inside the call that brought it.
//! - No cell here is borrowed while a piece is handed over: who gets it may ask for the next one.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use crate::deferred::{Completer, Deferred, IntoDeferred};
use crate::failure::{Cancelled, Failure, Result};
use crate::http::Refusal;
use crate::web::disconnected::Disconnected;

/// The body of a request, to be taken piece by piece; see [`Request::take_body`](super::Request::take_body).
///
/// Dropping it says that the rest is not wanted: it is read and dropped up to
/// [`Limits::unread_body`](super::Limits::unread_body), and with more to come the connection is closed after the answer.
///
/// ```
/// use dosimeter::Result;
/// use dosimeter::web::{Request, Router};
///
/// async fn count(mut request: Request) -> Result<String> {
///     let (mut body, mut bytes) = (request.take_body(), 0);
///     while let Some(piece) = body.next_piece().await? {
///         bytes += piece.len(); // the peer waits while this is at work
///     }
///     Ok(format!("{bytes} bytes"))
/// }
///
/// let app = Router::new();
/// app.route_async("/count", count).streamed();
/// ```
pub struct BodyStream(Rc<Inlet>);

impl BodyStream {
    pub(crate) fn new(inlet: Rc<Inlet>) -> Self {
        BodyStream(inlet)
    }

    /// The next piece of the body, not empty; `None` at its end.
    ///
    /// While this is waited for the peer has to send at
    /// [`Limits::body_rate`](super::Limits::body_rate), and only then. The first call sends `100 Continue` to a client that
    /// waits for it.
    ///
    /// It fails with a [`Refusal`] when the body is malformed, too long or too slow, and with [`Disconnected`] when the peer
    /// leaves, then and whenever asked again. Passed on by the resource, the first is answered with the status of the refusal
    /// and the second concerns nobody. Asking again before the piece is there is a mistake, and fails without effect.
    #[doc(alias = "dataReceived")]
    #[track_caller]
    pub fn next_piece(&mut self) -> Deferred<Option<Vec<u8>>> {
        let inlet = &self.0;
        if inlet.is_awaited() {
            return Deferred::fail("the next piece of the body is waited for already: take one after the other");
        }
        let piece = inlet.take();
        if !piece.is_empty() {
            return Deferred::succeed(Some(piece));
        }
        match inlet.end() {
            Some(end) => end.map(|()| None).into(),
            None => inlet.wait(),
        }
    }

    /// Calls `take` with each piece, and with the next one when what it returned for the one before is done.
    ///
    /// The chain fires at the end of the body. It fails as [`next_piece`](BodyStream::next_piece) does, and with the first failure of
    /// `take`.
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    /// use dosimeter::web::{Render, Request};
    ///
    /// fn measure(mut request: Request) -> Render {
    ///     let length = Rc::new(Cell::new(0));
    ///     let sum = length.clone();
    ///     let body = request.take_body().for_each(move |piece| sum.set(sum.get() + piece.len()));
    ///     body.map(move |()| format!("{} bytes", length.get())).into()
    /// }
    /// ```
    #[track_caller]
    pub fn for_each<R: IntoDeferred<()>>(self, take: impl FnMut(Vec<u8>) -> R + 'static) -> Deferred<()> {
        pass_on(self, take)
    }

    /// The whole body, unless it has more than `limit` bytes.
    ///
    /// It fails as [`next_piece`](BodyStream::next_piece) does, with [`Refusal::BodyTooLarge`] past the limit.
    #[track_caller]
    pub fn read_to_end(self, limit: usize) -> Deferred<Vec<u8>> {
        let whole = Rc::new(Cell::new(Vec::new()));
        let gathered = whole.clone();
        let body = self.for_each(move |piece| {
            let mut bytes = gathered.take();
            bytes.extend_from_slice(&piece);
            let fits = bytes.len() <= limit;
            gathered.set(bytes);
            if fits { Ok(()) } else { Err(Refusal::BodyTooLarge.into()) }
        });
        body.map(move |()| whole.take())
    }
}

impl Drop for BodyStream {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyStream").field("received", &self.0.received.get()).finish_non_exhaustive()
    }
}

/// Each piece, then what became of it, then the next: a chain that replaces itself, and does not grow.
fn pass_on<R: IntoDeferred<()>>(mut body: BodyStream, mut take: impl FnMut(Vec<u8>) -> R + 'static) -> Deferred<()> {
    body.next_piece().add_callback(move |piece| match piece {
        Some(piece) => take(piece).into_deferred().add_callback(move |()| pass_on(body, take)),
        None => Deferred::succeed(()),
    })
}

/// Where a body comes from, as its stream sees it.
pub(crate) trait Upstream {
    /// There is room again, and `waits` tells whether somebody waits for what comes.
    fn body_wanted(self: Rc<Self>, waits: bool);
}

/// What a connection and the stream of a body share.
pub(crate) struct Inlet {
    /// What came and was not taken.
    there: Cell<Vec<u8>>,
    /// As much of it as may be there before the connection is no longer read.
    limit: usize,
    /// Who waits for a piece.
    waiter: Cell<Option<Completer<Option<Vec<u8>>>>>,
    end: RefCell<Option<End>>,
    /// The connection, until the end.
    upstream: RefCell<Option<Rc<dyn Upstream>>>,
    /// Nobody will take what comes.
    given_up: Cell<bool>,
    /// Bytes that came.
    received: Cell<u64>,
    /// How long the peer was waited for, in nanoseconds, and since when, if it is.
    waited: Cell<u64>,
    waits_since: Cell<Option<u64>>,
}

/// How a body ended.
#[derive(Clone)]
enum End {
    Whole,
    Refused(Refusal),
    Lost(Disconnected),
    /// The request was answered before.
    Cancelled,
}

impl Inlet {
    /// For a body that comes from `upstream`.
    pub(crate) fn new(upstream: Rc<dyn Upstream>, limit: usize) -> Rc<Self> {
        let upstream = RefCell::new(Some(upstream));
        Rc::new(Inlet { upstream, limit: limit.max(1), end: RefCell::default(), ..Inlet::whole(Vec::new()) })
    }

    /// Of a body that is there.
    pub(crate) fn of(body: Vec<u8>) -> Rc<Self> {
        Rc::new(Inlet::whole(body))
    }

    fn whole(body: Vec<u8>) -> Self {
        Inlet {
            received: Cell::new(body.len() as u64),
            there: Cell::new(body),
            limit: 0,
            waiter: Cell::new(None),
            end: RefCell::new(Some(End::Whole)),
            upstream: RefCell::default(),
            given_up: Cell::new(false),
            waited: Cell::new(0),
            waits_since: Cell::new(None),
        }
    }

    // --- the connection ------------------------------------------------------------------------------------------

    /// Whether it comes piece by piece, and was not there from the beginning.
    pub(crate) fn is_stream(&self) -> bool {
        self.limit > 0
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.given_up.get() && self.len() < self.limit
    }

    /// Adds what came. It is handed over by [`deliver`](Inlet::deliver): what comes in many small chunks is one piece.
    pub(crate) fn push(&self, data: &[u8]) {
        self.received.set(self.received.get() + data.len() as u64);
        let mut there = self.there.take();
        there.extend_from_slice(data);
        self.there.set(there);
    }

    pub(crate) fn finish(&self) {
        self.close(End::Whole);
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.close(End::Refused(refusal));
        self.deliver(0);
    }

    /// The peer is gone, or has sent its last byte too early.
    pub(crate) fn lose(&self, reason: Disconnected) {
        self.close(End::Lost(reason));
        self.deliver(0);
    }

    /// The request was answered: what was left of its body is dropped.
    pub(crate) fn cancel(&self) {
        self.close(End::Cancelled);
        self.deliver(0);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    fn close(&self, end: End) {
        self.end.borrow_mut().get_or_insert(end);
        self.upstream.take();
    }

    /// Hands over what is there, or the end, to who waits for it.
    pub(crate) fn deliver(&self, now: u64) {
        if !self.is_awaited() || (self.len() == 0 && self.end.borrow().is_none()) {
            return;
        }
        self.note_wait_ended(now);
        let Some(waiter) = self.waiter.take() else { return };
        let piece = self.there.take();
        let outcome = match piece.is_empty() {
            false => Ok(Some(piece)),
            true => self.end().expect("there is nothing else").map(|()| None),
        };
        waiter.fire(outcome);
    }

    pub(crate) fn is_awaited(&self) -> bool {
        let waiter = self.waiter.take();
        let waits = waiter.is_some();
        self.waiter.set(waiter);
        waits
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Somebody waits for the peer from now on; returns for how long the peer was waited for before, in nanoseconds.
    pub(crate) fn note_wait(&self, now: u64) -> u64 {
        self.waits_since.set(Some(now));
        self.waited.get()
    }

    fn note_wait_ended(&self, now: u64) {
        if let Some(since) = self.waits_since.take() {
            self.waited.set(self.waited.get() + now.saturating_sub(since));
        }
    }

    // --- the stream ----------------------------------------------------------------------------------------------

    fn len(&self) -> usize {
        let there = self.there.take();
        let len = there.len();
        self.there.set(there);
        len
    }

    /// Takes what is there, and lets more come.
    fn take(&self) -> Vec<u8> {
        let was_full = !self.has_room();
        let piece = self.there.take();
        if was_full && !piece.is_empty() {
            self.ask(false);
        }
        piece
    }

    fn end(&self) -> Option<Result<()>> {
        match &*self.end.borrow() {
            None => None,
            Some(End::Whole) => Some(Ok(())),
            Some(End::Refused(refusal)) => Some(Err(Failure::new(*refusal))),
            Some(End::Lost(reason)) => Some(Err(Failure::new(reason.clone()))),
            Some(End::Cancelled) => Some(Err(Failure::new(Cancelled))),
        }
    }

    fn wait(self: &Rc<Self>) -> Deferred<Option<Vec<u8>>> {
        let (completer, piece) = Deferred::pair();
        let inlet = Rc::downgrade(self);
        completer.on_cancel(move || {
            if let Some(inlet) = inlet.upgrade() {
                inlet.stop_waiting();
            }
        });
        self.waiter.set(Some(completer));
        self.ask(true);
        piece
    }

    /// Whoever waited does not any more. What comes is kept for the next one.
    fn stop_waiting(&self) {
        drop(self.waiter.take());
    }

    fn ask(&self, waits: bool) {
        let upstream = self.upstream.borrow().clone();
        if let Some(upstream) = upstream {
            upstream.body_wanted(waits);
        }
    }

    fn give_up(&self) {
        self.given_up.set(true);
        self.there.take();
        self.stop_waiting();
    }
}
