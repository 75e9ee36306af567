//! The error handlers of a router, and what they are asked about.
//!
//! Rules kept here:
//! - Handlers are asked in the order of their registration, each once for a request; a new error goes to those after it.
//! - Nobody is asked once the answer has begun or the peer has left: there is nothing left to answer.
//! - No user code runs while a cell here is borrowed.

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;

use crate::failure::{Failure, Result, guard};
use crate::web::error::RoutingError;
use crate::web::exchange::Exchange;
use crate::web::request::Request;
use crate::web::resource::{Answer, GOES_ROUND, MAX_DELEGATIONS, Render, walk};

/// See the top of the file. A clone is the same handlers.
#[derive(Clone, Default)]
pub(crate) struct ErrorHandlers(Rc<Inner>);

#[derive(Default)]
struct Inner {
    handlers: RefCell<Vec<Rc<ErrorHandler>>>,
    /// One of them is for [`RoutingError`]s.
    wants_routing_errors: Cell<bool>,
}

/// Gives the failure back if it is not one for it.
type ErrorHandler = dyn Fn(Failure, Request) -> Result<Render>;

impl ErrorHandlers {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.handlers.borrow().is_empty()
    }

    /// Whether somebody asked for [`RoutingError`]s.
    pub(crate) fn wants_routing_errors(&self) -> bool {
        self.0.wants_routing_errors.get()
    }

    /// Adds one for errors of this type.
    pub(crate) fn add<E, R>(&self, handler: impl Fn(Request, E) -> R + 'static)
    where
        E: Error + 'static,
        R: Into<Render>,
    {
        if TypeId::of::<E>() == TypeId::of::<RoutingError>() {
            self.0.wants_routing_errors.set(true);
        }
        self.push(move |failure, request| failure.trap::<E>().map(|error| handler(request, error).into()));
    }

    /// Adds one for all failures but [`RoutingError`]s.
    pub(crate) fn add_for_all<R: Into<Render>>(&self, handler: impl Fn(Request, Failure) -> R + 'static) {
        self.push(move |failure, request| match failure.is::<RoutingError>() {
            true => Err(failure),
            false => Ok(handler(request, failure).into()),
        });
    }

    fn push(&self, handler: impl Fn(Failure, Request) -> Result<Render> + 'static) {
        self.0.handlers.borrow_mut().push(Rc::new(handler));
    }

    /// Sees to what comes of a request.
    pub(crate) fn watch(&self, exchange: &Rc<Exchange>, render: Render) -> Render {
        self.watch_from(exchange, render, 0)
    }

    /// Has the handlers from `next` on see to what comes of a request.
    fn watch_from(&self, exchange: &Rc<Exchange>, mut render: Render, mut next: usize) -> Render {
        loop {
            render = match render.0 {
                Answer::Failed(failure) => match self.handle(exchange, failure, &mut next) {
                    Ok(render) => render,
                    Err(failure) => return Render::failed(failure),
                },
                // A circle would go round here, one frame of the stack deeper each time.
                Answer::Resource(_) if exchange.delegate() >= MAX_DELEGATIONS => Render::failed(GOES_ROUND.into()),
                Answer::Resource(resource) => {
                    let request = Request::new(exchange.clone());
                    guard(|| walk(resource, request)).unwrap_or_else(Render::failed)
                }
                Answer::Deferred(later) => {
                    let (handlers, exchange) = (self.clone(), exchange.clone());
                    let later = later.add_both(move |result: Result<Box<Render>>| {
                        let render = result.map_or_else(Render::failed, |answer| *answer);
                        Ok(Box::new(handlers.watch_from(&exchange, render, next)))
                    });
                    return Render(Answer::Deferred(later));
                }
                done => return Render(done),
            }
        }
    }

    /// Asks the error handlers, until one takes the failure.
    ///
    /// # Errors
    /// Returns the failure when none does.
    fn handle(&self, exchange: &Rc<Exchange>, mut failure: Failure, next: &mut usize) -> Result<Render> {
        if exchange.is_started() {
            return Err(failure);
        }
        loop {
            let Some(handler) = self.0.handlers.borrow().get(*next).cloned() else { return Err(failure) };
            *next += 1;
            exchange.start_over_with(&failure);
            let request = Request::new(exchange.clone());
            match guard(|| handler(failure, request)) {
                Ok(Ok(render)) => return Ok(render),
                Ok(Err(untouched)) => failure = untouched,
                Err(panicked) => failure = panicked,
            }
        }
    }
}
