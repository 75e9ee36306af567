//! Answers that are sent piece by piece, at the pace of the peer.
//!
//! Rules kept here:
//! - The source is asked for a piece only when the peer has read most of what came before, so what waits here is about as much
//!   as the peer lets wait.
//! - A source is dropped as soon as nothing more is wanted of it: at its end, when it fails, when the peer leaves, and at once
//!   where the answer has no body.
//! - A source that always has a piece does not recurse, and gets no more of a turn than fits between reader and writer.

use std::rc::Rc;

use crate::deferred::{Deferred, IntoDeferred};
use crate::failure::{Result, guard};
use crate::net::{Producer, ProducerKind, ProducerRegistered};
use crate::web::exchange::Exchange;
use crate::web::request::Request;
use crate::web::resource::{NOT_DONE_YET, Render};

impl Request {
    /// Sends what `source` gives, piece by piece at the pace of the peer, and ends the response when it gives `None`.
    ///
    /// Returns [`NOT_DONE_YET`], for a resource to return. A piece may come at once (`Ok(Some(piece))`, an iterator's
    /// `Ok(pieces.next())`) or by a `Deferred`; the next one is asked for when it is written and the peer is not far behind
    /// ([`is_congested`](Request::is_congested)). A failure breaks the answer off; if nothing was sent yet it is answered
    /// with 500. When the peer leaves, the piece that is waited for is cancelled and the source dropped. In answer to `HEAD`
    /// the source is not asked at all.
    ///
    /// The body is sent in chunks, unless its length was set with [`set_length`](Request::set_length).
    ///
    /// ```
    /// use dosimeter::web::{Render, Request};
    ///
    /// fn count(request: Request) -> Render {
    ///     let mut lines = (1..=1_000_000).map(|number| format!("{number}\n"));
    ///     request.send_stream(move || Ok(lines.next()))
    /// }
    ///
    /// /// What blocks is done elsewhere, one piece ahead of the peer at the most.
    /// fn digits(request: Request) -> Render {
    ///     let (reactor, mut next) = (request.reactor(), 0..100_u32);
    ///     request.send_stream(move || {
    ///         let piece = next.next();
    ///         reactor.defer_to_thread(move || Ok(piece.map(|seed| seed.pow(3).to_string())))
    ///     })
    /// }
    /// ```
    pub fn send_stream<P, R>(self, source: impl FnMut() -> R + 'static) -> Render
    where
        P: AsRef<[u8]> + 'static,
        R: IntoDeferred<Option<P>>,
    {
        if self.exchange().is_bodiless() {
            self.finish();
        } else {
            pump(self, source);
        }
        NOT_DONE_YET
    }

    /// Has `producer` keep the pace of the peer: it writes to this request, and is told when to wait and when to go on.
    ///
    /// This is for what has a pace of its own, above all another connection, whose [`Transport`](crate::net::Transport) is a
    /// producer: of kind [`Push`](ProducerKind::Push) it is not read from while more than 64 KiB wait for the peer. One of kind
    /// [`Pull`](ProducerKind::Pull) is asked for more whenever everything was sent. Where pieces are made as they are wanted
    /// [`send_stream`](Request::send_stream) is simpler.
    ///
    /// When the peer leaves the producer is stopped. So it is soon where nothing more can be sent: the answer is over, or
    /// has no body, as that to `HEAD`; a request of the latter kind is still to be finished. Before the end of the answer comes
    /// [`unregister_producer`](Request::unregister_producer); that it was forgotten is logged, and done then.
    ///
    /// ```
    /// use std::rc::Rc;
    /// use dosimeter::net::{ConnectionLost, ProducerKind, Protocol, Transport};
    /// use dosimeter::web::Request;
    ///
    /// /// Passes on what another server sends, no faster than the client reads it.
    /// struct Relay(Option<Request>);
    ///
    /// impl Protocol for Relay {
    ///     fn connection_made(&mut self, upstream: &Transport) -> dosimeter::Result<()> {
    ///         let Some(request) = &self.0 else { return Ok(()) };
    ///         request.register_producer(Rc::new(upstream.clone()), ProducerKind::Push)?;
    ///         Ok(())
    ///     }
    ///
    ///     fn data_received(&mut self, _: &Transport, data: &[u8]) -> dosimeter::Result<()> {
    ///         self.0.iter_mut().for_each(|request| request.write(data));
    ///         Ok(())
    ///     }
    ///
    ///     fn connection_lost(&mut self, _: &Transport, reason: ConnectionLost) {
    ///         let Some(request) = self.0.take() else { return };
    ///         request.unregister_producer();
    ///         match reason {
    ///             ConnectionLost::Done => request.finish(),
    ///             _ => drop(request), // which breaks off what has begun
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ProducerRegistered`] when the request has a producer already.
    #[doc(alias = "registerProducer")]
    pub fn register_producer(&self, producer: Rc<dyn Producer>, kind: ProducerKind) -> Result<(), ProducerRegistered> {
        let exchange = self.exchange();
        if exchange.is_finished() || exchange.is_bodiless() {
            stop_soon(exchange, producer);
            return Ok(());
        }
        exchange.channel().transport().register_producer(producer, kind)?;
        exchange.set_producing(true);
        Ok(())
    }

    /// The producer makes nothing more. Without one this does nothing.
    #[doc(alias = "unregisterProducer")]
    pub fn unregister_producer(&self) {
        let exchange = self.exchange();
        if exchange.set_producing(false) {
            exchange.channel().transport().unregister_producer();
        }
    }

    /// Announces how many bytes the body of the response has; without it the body is sent in chunks. Without effect once
    /// something was written.
    pub fn set_length(&mut self, length: u64) {
        self.exchange().set_length(length);
    }
}

/// Stops a producer for which there is nothing to do, unless it is unregistered before: from the loop, because who registers it
/// may not expect to be called.
fn stop_soon(exchange: &Rc<Exchange>, producer: Rc<dyn Producer>) {
    exchange.set_producing(true);
    let exchange = exchange.clone();
    exchange.channel().transport().reactor().clone().call_soon(move || {
        if exchange.set_producing(false) {
            producer.stop_producing();
        }
    });
}

/// Writes until the peer is behind, the next piece is not there, or all is said.
fn pump<P, R>(mut request: Request, mut source: impl FnMut() -> R + 'static)
where
    P: AsRef<[u8]> + 'static,
    R: IntoDeferred<Option<P>>,
{
    while !request.exchange().is_finished() {
        if request.is_congested() {
            return go_on_when_drained(request, source);
        }
        match next(&mut source).into_result() {
            Ok(piece) => match write(request, piece) {
                Some(back) => request = back,
                None => return,
            },
            Err(later) => return go_on_with(later, request, source),
        }
    }
}

fn next<P: 'static, R: IntoDeferred<Option<P>>>(source: &mut impl FnMut() -> R) -> Deferred<Option<P>> {
    guard(|| source().into_deferred()).unwrap_or_else(Deferred::fail)
}

/// Writes a piece and gives the request back, if there is more to write.
fn write<P: AsRef<[u8]>>(request: Request, piece: Result<Option<P>>) -> Option<Request> {
    match piece {
        Ok(Some(piece)) if request.exchange().write(piece.as_ref()) => return Some(request),
        // More than was announced: the response is whole without it.
        Ok(Some(_) | None) => request.finish(),
        Err(failure) => request.exchange().answer_failure(&failure),
    }
    None
}

fn go_on_when_drained<P, R>(request: Request, source: impl FnMut() -> R + 'static)
where
    P: AsRef<[u8]> + 'static,
    R: IntoDeferred<Option<P>>,
{
    request.drained().add_callbacks(move |()| pump(request, source), |_left| ());
}

fn go_on_with<P, R>(later: Deferred<Option<P>>, request: Request, source: impl FnMut() -> R + 'static)
where
    P: AsRef<[u8]> + 'static,
    R: IntoDeferred<Option<P>>,
{
    request.exchange().set_canceller(later.canceller());
    later.add_both(move |piece| {
        if let Some(request) = write(request, piece) {
            pump(request, source);
        }
        Ok(())
    });
}
