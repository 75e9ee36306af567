//! [`Handler`]: what a route calls, from whatever can be called.
//!
//! Rule kept here: whatever a handler is, a router keeps one kind of function. A resource stays known beside it, because it is
//! asked for more than answers.

use std::rc::Rc;

use crate::instrument::Measured;
use crate::web::request::Request;
use crate::web::resource::{Answer, Render, Resource};

/// What a [`Router`](super::Router) calls: a function from a request to an answer.
///
/// The type parameter only keeps kinds of handlers apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot handle a route",
    note = "a `Resource` can, and a function `Fn(Request)` that returns an answer: a text, bytes, `Response`, `()`, \
            `(StatusCode, answer)`, `Result`, `Deferred` or a `Resource`",
    note = "it takes the request by value: `|request: Request| ...`; an `async` closure goes to `route_async`"
)]
pub trait Handler<K>: 'static {
    /// Makes the one kind of function that the router keeps.
    fn into_function(self) -> Box<dyn Fn(Request) -> Render>;

    /// The function, and the resource behind it if there is one.
    #[doc(hidden)]
    fn into_parts(self) -> Parts
    where
        Self: Sized,
    {
        (self.into_function(), None)
    }
}

/// A function, and the resource behind it.
pub(crate) type Parts = (Box<dyn Fn(Request) -> Render>, Option<Rc<dyn Resource>>);

/// A function that takes the request.
#[derive(Debug)]
pub struct Function;

impl<F, R> Handler<Function> for F
where
    F: Fn(Request) -> R + 'static,
    R: Into<Render>,
{
    fn into_function(self) -> Box<dyn Fn(Request) -> Render> {
        Box::new(move |request| self(request).into())
    }
}

/// An `async` function with hooks: `time(&metric, Async(async |request: Request| ...))`.
#[derive(Debug)]
pub struct Asynchronous;

impl<R> Handler<Asynchronous> for Box<dyn Fn(Request) -> Measured<R>>
where
    R: Into<Render> + 'static,
{
    fn into_function(self) -> Box<dyn Fn(Request) -> Render> {
        Box::new(move |request| {
            let (reactor, answer) = (request.reactor(), self(request));
            reactor.spawn(async move { Ok(answer.await.into()) }).into()
        })
    }
}

/// A resource, which answers for its pattern and nothing below it, unless the route is a branch.
#[derive(Debug)]
pub struct Fixed;

impl<R: Resource> Handler<Fixed> for R {
    fn into_function(self) -> Box<dyn Fn(Request) -> Render> {
        self.into_parts().0
    }

    fn into_parts(self) -> Parts {
        let resource: Rc<dyn Resource> = Rc::new(self);
        let known = resource.clone();
        (Box::new(move |_| Render(Answer::Resource(resource.clone()))), Some(known))
    }
}
