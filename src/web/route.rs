//! [`Route`]: a route while it is registered, with what can be said of it.
//!
//! Rule kept here: a route that can be told from no other, or says two things that exclude each other, ends the program at its
//! start, with a text that names it and the line that registered it.

use std::fmt;
use std::rc::Rc;
use std::thread;

use ::http::Method;

use crate::instrument::{Hook, Hooks};
use crate::web::routes::Table;
use crate::web::rule::Rule;

/// A route that was registered; see [`Router::route`](super::Router::route).
///
/// When it is dropped, at the end of the statement that made it, it is compared with the routes before it.
///
/// # Panics
/// Dropping it panics when another route matches the same paths and shares a method with it: one of the two would never be
/// called. The text names both, and where they were registered. A router that a request adds such a route to is left
/// without it.
pub struct Route {
    table: Table,
    rule: Rc<Rule>,
}

impl Route {
    pub(crate) fn new(table: &Table, rule: Rule, mounted: Option<Table>) -> Self {
        let rule = Rc::new(rule);
        table.borrow_mut().insert(&rule, mounted);
        Route { table: table.clone(), rule }
    }

    /// Restricts the route to these methods. Without this, or with none, it answers every method.
    ///
    /// `GET` brings `HEAD` with it, unless another route of the pattern has `HEAD`.
    ///
    /// ```
    /// use dosimeter::web::{Request, Response, Router};
    /// use dosimeter::web::Method;
    ///
    /// let app = Router::new();
    /// app.route("/notes", |_| "all notes").methods([Method::GET]);
    /// app.route("/notes", |request: Request| Response::text(request.body().to_vec())).methods([Method::POST]);
    /// ```
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        *self.rule.methods.borrow_mut() = methods.into_iter().collect();
        self
    }

    /// Has the route answer for everything below its pattern as well; what is left of the path is in
    /// [`Request::postpath`](super::Request::postpath).
    ///
    /// A slash at the end of the pattern then means nothing.
    ///
    /// # Panics
    /// When the pattern ends in a `path`, which leaves nothing, or the route is one with [`either
    /// slash`](Route::either_slash).
    #[track_caller]
    pub fn branch(self) -> Self {
        let rule = &self.rule;
        assert!(rule.pattern.rest.is_none(), "{rule}: a `path` leaves nothing for a branch");
        assert!(!rule.has_either_slash.get(), "{rule}: a branch answers with either slash by itself");
        self.table.borrow_mut().make_branch(rule);
        self
    }

    /// Has the handler called when the head of a request is there, and take the body as it comes: with
    /// [`Request::take_body`](super::Request::take_body).
    ///
    /// A route to a resource goes by what that [says](super::Resource::accepts_stream), unless this is called.
    ///
    /// ```
    /// use dosimeter::web::{Request, Router};
    ///
    /// let app = Router::new();
    /// app.route_async("/length", async |mut request: Request| -> dosimeter::Result<String> {
    ///     let (mut body, mut length) = (request.take_body(), 0);
    ///     while let Some(piece) = body.next_piece().await? {
    ///         length += piece.len();
    ///     }
    ///     Ok(format!("{length} bytes"))
    /// })
    /// .streamed();
    /// ```
    pub fn streamed(self) -> Self {
        self.rule.is_streamed.set(true);
        self
    }

    /// Puts hooks on the route: from the call of its handler until the response is finished or the peer has left.
    ///
    /// What counts as an error is said at [`Instrumented`](super::Instrumented); here it is a failure of this handler, whether
    /// or not the router [handles](super::Router::handle_errors) it.
    ///
    /// ```
    /// use dosimeter::Hooks;
    /// use dosimeter::web::{Request, Response, Router};
    /// use prometheus::{Histogram, HistogramOpts, IntGauge};
    ///
    /// let seconds = Histogram::with_opts(HistogramOpts::new("search_seconds", "time spent searching")).unwrap();
    /// let active = IntGauge::new("searches_in_progress", "searches in progress").unwrap();
    ///
    /// let app = Router::new();
    /// let hooks = Hooks::new().time(&seconds).track_inprogress(&active);
    /// app.route("/search", |request: Request| Response::text(request.query("q").unwrap_or_default())).instrument(hooks);
    /// ```
    ///
    /// # Panics
    /// When the route has hooks already: one [`Hooks`] may be any number of them.
    #[track_caller]
    pub fn instrument<H: Hook>(self, hooks: Hooks<H>) -> Self {
        let before = self.rule.hooks.set(Box::new(hooks));
        assert!(before.is_ok(), "{} has hooks already", self.rule);
        self
    }

    /// Has the route answer with a slash at the end of its path and without one; [`Router::url_for`](super::Router::url_for) writes it as it is in the
    /// pattern.
    ///
    /// # Panics
    /// When the pattern ends in a `path`, or the route is a branch: both do that by themselves.
    #[doc(alias = "strict_slashes")]
    #[track_caller]
    pub fn either_slash(self) -> Self {
        let rule = &self.rule;
        let is_open = rule.pattern.rest.is_some() || rule.is_branch.get();
        assert!(!is_open, "{rule}: what answers for all that is below answers with either slash");
        self.table.borrow_mut().make_either_slash(rule);
        self
    }

    /// Gives the route a name, for [`Router::url_for`](super::Router::url_for).
    ///
    /// # Panics
    /// When another route of the router has it.
    #[doc(alias = "endpoint")]
    #[track_caller]
    pub fn named(self, name: impl Into<String>) -> Self {
        let name = name.into();
        let other = self.table.borrow_mut().name(&self.rule, &name);
        if let Some(other) = other {
            self.table.borrow_mut().remove(&self.rule);
            panic!("{} and {other} are both called {name:?}", self.rule);
        }
        self
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut routes = self.table.borrow_mut();
        if let Some(other) = routes.conflict(&self.rule) {
            routes.remove(&self.rule);
            drop(routes);
            if !thread::panicking() {
                panic!("{} and {other} conflict: they match the same paths and share a method", self.rule);
            }
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Route(/{})", self.rule.pattern.text)
    }
}
