//! [`DeferredResource`]: a resource that is not there yet.
//!
//! Rules kept here:
//! - Whoever asks before it is there waits, and is not counted once it has left.
//! - It comes, or fails, once; everybody is told the same from then on.
//! - No user code runs while the state is borrowed.

use std::cell::RefCell;
use std::error::Error;
use std::fmt::{self, Display};
use std::rc::Rc;
use std::sync::Arc;

use crate::deferred::{Completer, Deferred};
use crate::failure::{Failure, Result};
use crate::web::request::Request;
use crate::web::resource::{Render, Resource, accepts_stream};

/// A resource that a chain will bring; it then answers for its path and everything below.
///
/// A cheap handle: a clone is the same resource. A chain that fails answers every request with its failure. (For a chain that
/// is made for one request, return it from [`Resource::render`].)
///
/// ```
/// use std::time::Duration;
/// use dosimeter::testing::Clock;
/// use dosimeter::web::{Branch, Data, DeferredResource};
///
/// let clock = Clock::new();
/// let style = dosimeter::defer_later(&clock, Duration::from_secs(1), || Data::new("body {}", "text/css"));
/// let root = Branch::new();
/// root.put_child("style.css", DeferredResource::new(style)); // who asks in the first second waits for it
/// ```
#[derive(Clone)]
pub struct DeferredResource(Rc<RefCell<State>>);

enum State {
    Awaited(Vec<Completer<Rc<dyn Resource>>>),
    Here(Rc<dyn Resource>),
    Failed(Arc<Failure>),
}

impl DeferredResource {
    /// The resource that `deferred` brings.
    pub fn new<R: Resource>(deferred: Deferred<R>) -> Self {
        let state = Rc::new(RefCell::new(State::Awaited(Vec::new())));
        let coming = Rc::downgrade(&state);
        deferred.add_both(move |result| {
            if let Some(state) = coming.upgrade() {
                settle(&state, result.map(|resource| -> Rc<dyn Resource> { Rc::new(resource) }));
            }
        });
        DeferredResource(state)
    }

    /// The resource, or a chain that waits for it.
    fn get(&self) -> Result<Rc<dyn Resource>, Deferred<Rc<dyn Resource>>> {
        match &mut *self.0.borrow_mut() {
            State::Here(resource) => Ok(resource.clone()),
            State::Failed(failure) => Err(Deferred::fail(Unavailable(failure.clone()))),
            State::Awaited(waiting) => {
                waiting.retain(|completer| !completer.is_cancelled());
                let (completer, deferred) = Deferred::pair();
                waiting.push(completer);
                Err(deferred)
            }
        }
    }
}

fn settle(state: &RefCell<State>, result: Result<Rc<dyn Resource>>) {
    let result = result.map_err(Arc::new);
    let settled = match &result {
        Ok(resource) => State::Here(resource.clone()),
        Err(failure) => State::Failed(failure.clone()),
    };
    let State::Awaited(waiting) = state.replace(settled) else { unreachable!("a chain fires once") };
    if let (Err(failure), true) = (&result, waiting.is_empty()) {
        failure.log("dosimeter::web", format_args!("a resource will never be there"));
    }
    for completer in waiting {
        completer.fire(result.clone().map_err(|failure| Unavailable(failure).into()));
    }
}

impl Resource for DeferredResource {
    fn is_leaf(&self) -> bool {
        true
    }

    fn accepts_stream(&self, request: &Request) -> bool {
        let here = match &*self.0.borrow() {
            State::Here(resource) => Some(resource.clone()),
            State::Awaited(_) | State::Failed(_) => None,
        };
        here.is_some_and(|resource| accepts_stream(resource, request))
    }

    fn render(&self, _request: Request) -> Render {
        self.get().map_or_else(Render::from, Render::from)
    }
}

impl fmt::Debug for DeferredResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.borrow() {
            State::Awaited(waiting) => write!(f, "DeferredResource(awaited by {})", waiting.len()),
            State::Here(_) => f.write_str("DeferredResource(here)"),
            State::Failed(_) => f.write_str("DeferredResource(failed)"),
        }
    }
}

/// The failure, for each of those who asked.
#[derive(Debug)]
struct Unavailable(Arc<Failure>);

impl Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the resource is not to be had")
    }
}

impl Error for Unavailable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.0.error())
    }
}
