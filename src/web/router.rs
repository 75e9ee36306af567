//! [`Router`]: routes by pattern, as Klein has them.
//!
//! Rules kept here:
//! - The more specific pattern wins, whatever the order of registration. Two that cannot be told apart, and wrong ones, end
//!   the program at its start, with a text that names them.
//! - A value that does not convert is no match, and so 404: `/user/x` is not a bad `/user/<int:id>` but another URL.
//! - Routes are a tree by segments. Finding one looks each segment up and allocates nothing.
//! - What was asked for is never a place to go: a redirect leads to another path of this server, whatever the path holds.
//! - No user code runs while a cell here is borrowed.

use std::any::{Any, TypeId};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::{self, Display};
use std::panic::Location;
use std::rc::Rc;
use std::thread;

use ::http::header::{HeaderValue, LOCATION};
use ::http::{Method, StatusCode};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use crate::failure::{Failure, Result, guard};
use crate::instrument::{Hook, Hooks};
use crate::web::error::RoutingError;
use crate::web::exchange::Exchange;
use crate::web::instrumented::Measure;
use crate::web::pattern::{Misfit, Pattern, Segment, Variable, is_dots, quote, quote_query};
use crate::web::request::Request;
use crate::web::resource::{
    Answer, GOES_ROUND, MAX_DELEGATIONS, Render, Resource, accepts_stream, not_found, refuse, walk,
};
use crate::web::response::Response;
use crate::web::walk::KnownStep;

/// A resource that hands requests to functions, by the pattern of their path.
///
/// A cheap handle: a clone is the same router. It can be the root of a site, a child of a branch, or mounted in another
/// router; patterns are relative to where it stands.
///
/// ```
/// use dosimeter::web::{Request, Router, Site};
///
/// let app = Router::new();
/// app.route("/", |_request: Request| "Hello");
/// app.route("/user/<int:id>", |request: Request| {
///     let id: u64 = request.param("id").expect("the pattern has it");
///     format!("user {id}")
/// });
/// let site = Site::new(app);
/// ```
///
/// # Patterns
/// A pattern starts with a slash and is written decoded. A segment of it is text, values, or both: `/v<int:major>.<int:minor>`.
///
/// | value | matches |
/// |---|---|
/// | `<name>`, `<string:name>` | any text that is not empty, within one segment; `<string(length=2):name>` one of so many characters, `<string(minlength=2, maxlength=4):name>` one of so many at least and at most |
/// | `<int:name>` | digits, without a sign; `<int(fixed_digits=4):name>` so many of them, `<int(min=1, max=12):name>` numbers from and to |
/// | `<float:name>` | digits, a point, digits, without a sign; with `min` and `max` as an `int` |
/// | `<any(new,old):name>` | one of these texts |
/// | `<uuid:name>` | a UUID with its hyphens, in letters of either case |
/// | `<path:name>` | all that is left of the path, at least one character and not first a slash; it stands alone, at the end |
///
/// What a value matched is found with [`Request::param`], decoded. In a `path` an encoded slash looks like any other, and
/// `..` is a name like any other: [`Request::postpath`] of a [mounted](Router::mount) resource keeps the segments apart. A
/// value before text ends at the first place where that text follows.
///
/// # Which of several
/// Segments are compared from the left: text, then text with values (the more text the better), then `any`, `int`, `float`,
/// `uuid`, `string`, `path`, and last what is [mounted](Router::mount). Of one kind the narrower comes first: a fixed number of
/// digits, then the smaller range from `min` to `max` or of lengths, then the larger minimum. A route that has not the method is passed over when
/// a less specific one has it; when none has it, `OPTIONS` is answered with the methods there are, and every other method
/// with 405 and the same list.
///
/// # Slashes
/// They count: `/a` does not answer `/a/`, unless the route is one with [either](Route::either_slash). A request for `/a` where there is only `/a/`, and one with doubled slashes where
/// there is a route without, is redirected with 308, which keeps method, body and query.
#[doc(alias = "Klein")]
#[derive(Clone, Default)]
pub struct Router(Rc<Shared>);

#[derive(Default)]
struct Shared {
    routes: RefCell<Routes>,
    errors: RefCell<Vec<Rc<ErrorHandler>>>,
    /// One of them is for [`RoutingError`]s.
    handles_routing_errors: Cell<bool>,
}

/// A route that was registered; see [`Router::route`].
///
/// When it is dropped, at the end of the statement that made it, it is compared with the routes before it.
///
/// # Panics
/// Dropping it panics when another route matches the same paths and shares a method with it: one of the two would never be
/// called. The text names both, and where they were registered. A router that a request adds such a route to is left
/// without it.
pub struct Route {
    router: Router,
    rule: Rc<Rule>,
}

struct Rule {
    pattern: Pattern,
    has_values: bool,
    registered: &'static Location<'static>,
    /// Empty: every method.
    methods: RefCell<Vec<Method>>,
    /// It answers for everything below the pattern, too.
    is_branch: Cell<bool>,
    /// It answers with and without a slash at the end.
    has_either_slash: Cell<bool>,
    /// The handler takes bodies as streams.
    is_streamed: Cell<bool>,
    /// What the handler is, where it is a resource.
    resource: Option<Rc<dyn Resource>>,
    /// The router that is mounted here.
    mounted: Option<Router>,
    handler: Box<dyn Fn(Request) -> Render>,
    hooks: OnceCell<Box<dyn Measure>>,
    step: KnownStep,
}

/// What a [`Router`] calls: a function from a request to an answer.
///
/// The type parameter only keeps kinds of handlers apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot handle a route",
    note = "a `Resource` can, and a closure `Fn(Request)` that returns an answer (see `Render`)",
    note = "an `async` closure goes to `route_async`"
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
type Parts = (Box<dyn Fn(Request) -> Render>, Option<Rc<dyn Resource>>);

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

impl Router {
    /// A router without routes.
    pub fn new() -> Self {
        Router::default()
    }

    /// Has `handler` called for paths that `pattern` matches.
    ///
    /// A handler is a function from [`Request`] to anything that is an answer (see [`Render`]), or a [`Resource`]. A pattern
    /// matches whole paths, unless the route is made a [`branch`](Route::branch).
    ///
    /// # Panics
    /// When the pattern is wrong, or conflicts with another (see [`Route`]): that is a mistake in the program.
    #[track_caller]
    pub fn route<K>(&self, pattern: &str, handler: impl Handler<K>) -> Route {
        self.add(pattern, handler.into_parts(), None, Location::caller())
    }

    /// As [`route`](Router::route), for an `async` closure: it runs in the reactor's thread, as by
    /// [`Reactor::spawn`](crate::Reactor::spawn), and is cancelled when the peer leaves.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dosimeter::defer_later;
    /// use dosimeter::web::{Request, Router};
    ///
    /// let app = Router::new();
    /// app.route_async("/slow", async |request: Request| -> dosimeter::Result<String> {
    ///     let number = defer_later(&request.reactor(), Duration::from_secs(1), || 7).await?;
    ///     Ok(format!("{number}"))
    /// });
    /// ```
    ///
    /// # Panics
    /// As [`route`](Router::route).
    #[track_caller]
    pub fn route_async<R>(&self, pattern: &str, handler: impl AsyncFn(Request) -> R + 'static) -> Route
    where
        R: Into<Render> + 'static,
    {
        let handler = Rc::new(handler);
        self.route(pattern, move |request: Request| {
            let (handler, reactor) = (handler.clone(), request.reactor());
            reactor.spawn(async move { Ok(handler(request).await.into()) })
        })
    }

    /// Has `resource`, mostly another router, answer for `prefix` and everything below it.
    ///
    /// It sees what is left of the path behind the prefix, which may have values in it; where it asks for a value of the same
    /// name, its own is found first. A slash at the end of the prefix means nothing. This is `route(prefix,
    /// resource).branch()`, except that [`url_for`](Router::url_for) finds the routes of a mounted router.
    ///
    /// ```
    /// use dosimeter::web::{Request, Router};
    ///
    /// let notes = Router::new();
    /// notes.route("/", |request: Request| format!("notes of {:?}", request.param::<String>("user")));
    /// notes.route("/<int:note>", |request: Request| format!("note {:?}", request.param::<u64>("note")));
    ///
    /// let app = Router::new();
    /// app.mount("/<user>/notes", notes); // GET /ada/notes/7
    /// ```
    ///
    /// # Panics
    /// As [`route`](Router::route).
    #[doc(alias = "subroute")]
    #[track_caller]
    pub fn mount(&self, prefix: &str, resource: impl Resource) -> Route {
        let mounted = (&resource as &dyn Any).downcast_ref::<Router>().cloned();
        let handler = Handler::<Fixed>::into_parts(resource);
        self.add(prefix, handler, mounted, Location::caller()).branch()
    }

    fn add(
        &self,
        pattern: &str,
        (handler, resource): Parts,
        mounted: Option<Router>,
        registered: &'static Location<'static>,
    ) -> Route {
        let parsed =
            Pattern::parse(pattern).unwrap_or_else(|error| panic!("route {pattern:?} ({registered}): {error}"));
        let rule = Rc::new(Rule {
            has_values: parsed.has_values(),
            pattern: parsed,
            registered,
            methods: RefCell::default(),
            is_branch: Cell::new(false),
            has_either_slash: Cell::new(false),
            is_streamed: Cell::new(false),
            resource,
            mounted,
            handler,
            hooks: OnceCell::new(),
            step: KnownStep::default(),
        });
        self.0.routes.borrow_mut().insert(&rule);
        Route { router: self.clone(), rule }
    }

    /// Has `handler` answer when a handler of this router, or of one mounted below it, fails with an `E`.
    ///
    /// The error is compared by its type and not by its sources. Error handlers are asked in the order of their registration,
    /// those of a mounted router first; one that fails hands its new error to those after it. An error that nobody takes is
    /// logged and answered with 500. Nobody is asked once the response has begun or the peer has left.
    ///
    /// A path or method that nothing has is a [`RoutingError`], and comes here when that is the `E`: also where it is a
    /// [mounted](Router::mount) resource, or one that a handler returned, that has no child of the name or not the method.
    /// Redirects, and a 404 that a handler makes itself, do not.
    ///
    /// ```
    /// use dosimeter::web::{Request, Router, RoutingError};
    /// use http::StatusCode;
    ///
    /// let app = Router::new();
    /// app.route("/double/<number>", |request: Request| -> dosimeter::Result<String> {
    ///     let text: String = request.param("number").expect("the pattern has it");
    ///     Ok(format!("{}", 2 * text.parse::<i32>()?))
    /// });
    /// app.handle_errors(|_, _: std::num::ParseIntError| (StatusCode::BAD_REQUEST, "that is no number"));
    /// app.handle_errors(|_, error: RoutingError| (error.status(), "not here"));
    /// ```
    pub fn handle_errors<E, R>(&self, handler: impl Fn(Request, E) -> R + 'static)
    where
        E: Error + 'static,
        R: Into<Render>,
    {
        if TypeId::of::<E>() == TypeId::of::<RoutingError>() {
            self.0.handles_routing_errors.set(true);
        }
        self.add_error_handler(move |failure, request| failure.trap::<E>().map(|error| handler(request, error).into()));
    }

    /// Has `handler` answer every failure, panics included, that the error handlers before it did not; see
    /// [`handle_errors`](Router::handle_errors). [`RoutingError`]s have to be asked for by their type.
    ///
    /// ```
    /// use dosimeter::web::{Response, Router};
    /// use http::StatusCode;
    ///
    /// let app = Router::new();
    /// app.handle_all_errors(|request, failure| {
    ///     log::error!("{} failed: {}", request.path(), failure.report()); // nobody else will say it
    ///     Response::text("sorry").with_status(StatusCode::INTERNAL_SERVER_ERROR)
    /// });
    /// ```
    pub fn handle_all_errors<R: Into<Render>>(&self, handler: impl Fn(Request, Failure) -> R + 'static) {
        self.add_error_handler(move |failure, request| match failure.is::<RoutingError>() {
            true => Err(failure),
            false => Ok(handler(request, failure).into()),
        });
    }

    fn add_error_handler(&self, handler: impl Fn(Failure, Request) -> Result<Render> + 'static) {
        self.0.errors.borrow_mut().push(Rc::new(handler));
    }

    /// The path of the route that was [named](Route::named) so, with these values, from where this router stands.
    ///
    /// Names of mounted routers are found after this router's own, with the prefix in front. Values are encoded; those that
    /// the pattern has not become the query, in the order given. What comes out leads back to the route.
    ///
    /// ```
    /// use dosimeter::web::Router;
    ///
    /// let app = Router::new();
    /// app.route("/user/<name>/<int:page>", |_| "...").named("user");
    /// let url = app.url_for("user", &[("name", &"a/b"), ("page", &2), ("sort", &"up & down")]);
    /// assert_eq!(url.unwrap(), "/user/a%2Fb/2?sort=up%20%26%20down");
    /// ```
    ///
    /// # Errors
    /// [`UrlError`] when there is no such name, a value is missing, or one is not of its kind: text for an `int`, say, or a
    /// segment that would be `..`.
    #[doc(alias = "urlFor")]
    pub fn url_for(&self, name: &str, values: &[(&str, &dyn Display)]) -> Result<String, UrlError> {
        let way =
            self.locate(name, &mut Vec::new()).ok_or_else(|| UrlError::UnknownRoute { route: name.to_owned() })?;
        let value_of = |wanted: &str| Some(values.iter().find(|(known, _)| *known == wanted)?.1.to_string());
        let mut url = String::new();
        for rule in &way {
            rule.build(&mut url, value_of).map_err(|misfit| UrlError::new(name, misfit, value_of))?;
        }
        if url.is_empty() {
            url.push('/');
        }
        let mut mark = '?';
        for (name, value) in values.iter().filter(|(name, _)| !way.iter().any(|rule| rule.pattern.has(name))) {
            url.push(std::mem::replace(&mut mark, '&'));
            quote_query(&mut url, name);
            url.push('=');
            quote_query(&mut url, &value.to_string());
        }
        Ok(url)
    }

    /// The rules on the way to the route called `name`. A router may be mounted below itself; it is looked at once.
    fn locate(&self, name: &str, seen: &mut Vec<*const Shared>) -> Option<Vec<Rc<Rule>>> {
        if seen.contains(&Rc::as_ptr(&self.0)) {
            return None;
        }
        seen.push(Rc::as_ptr(&self.0));
        let routes = self.0.routes.borrow();
        if let Some(rule) = routes.names.get(name) {
            return Some(vec![rule.clone()]);
        }
        routes.all.iter().find_map(|rule| {
            let mut way = vec![rule.clone()];
            way.extend(rule.mounted.as_ref()?.locate(name, seen)?);
            Some(way)
        })
    }
}

/// Answering.
impl Router {
    fn dispatch(&self, request: Request) -> Render {
        let found = self.0.routes.borrow().find(&request);
        match found {
            Match::Found(rule) => {
                rule.enter(request.exchange());
                match rule.hooks.get() {
                    None => (rule.handler)(request),
                    Some(hooks) => hooks.measure(request, &rule.handler),
                }
            }
            Match::OtherMethods(rule, allowed) => {
                rule.enter(request.exchange());
                if *request.method() == Method::OPTIONS {
                    return Response::empty(StatusCode::NO_CONTENT).with_allow(&allowed).into();
                }
                let method = request.method().clone();
                refuse(&request, RoutingError::MethodNotAllowed { method, allowed })
            }
            Match::Elsewhere(rule, location) => {
                rule.count_as_entered(request.exchange());
                Response::empty(StatusCode::PERMANENT_REDIRECT).with_header(LOCATION, location).into()
            }
            Match::Nothing => not_found(&request),
        }
    }

    /// Has the error handlers from `next` on see to what comes of a request.
    fn watch(&self, exchange: &Rc<Exchange>, mut render: Render, mut next: usize) -> Render {
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
                    let (router, exchange) = (self.clone(), exchange.clone());
                    let later = later.add_both(move |result: Result<Box<Render>>| {
                        let render = result.map_or_else(Render::failed, |answer| *answer);
                        Ok(Box::new(router.watch(&exchange, render, next)))
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
            let Some(handler) = self.0.errors.borrow().get(*next).cloned() else { return Err(failure) };
            *next += 1;
            exchange.start_over();
            let request = Request::new(exchange.clone());
            match guard(|| handler(failure, request)) {
                Ok(Ok(render)) => return Ok(render),
                Ok(Err(untouched)) => failure = untouched,
                Err(panicked) => failure = panicked,
            }
        }
    }
}

impl Resource for Router {
    fn is_leaf(&self) -> bool {
        true
    }

    fn accepts_stream(&self, request: &Request) -> bool {
        let Match::Found(rule) = self.0.routes.borrow().find(request) else { return false };
        let Some(resource) = &rule.resource else { return rule.is_streamed.get() };
        rule.use_segments(request.exchange());
        rule.is_streamed.get() || accepts_stream(resource.clone(), request)
    }

    fn render(&self, request: Request) -> Render {
        if self.0.errors.borrow().is_empty() {
            return self.dispatch(request);
        }
        let exchange = request.exchange().clone();
        if self.0.handles_routing_errors.get() {
            exchange.want_routing_errors();
        }
        let render = guard(|| self.dispatch(request)).unwrap_or_else(Render::failed);
        self.watch(&exchange, render, 0)
    }
}

type ErrorHandler = dyn Fn(Failure, Request) -> Result<Render>;

impl Route {
    /// Restricts the route to these methods. Without this, or with none, it answers every method.
    ///
    /// `GET` brings `HEAD` with it, unless another route of the pattern has `HEAD`.
    ///
    /// ```
    /// use dosimeter::web::{Request, Router};
    /// use http::Method;
    ///
    /// let app = Router::new();
    /// app.route("/notes", |_: Request| "all notes").methods([Method::GET]);
    /// app.route("/notes", |request: Request| request.body().to_vec()).methods([Method::POST]);
    /// ```
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        *self.rule.methods.borrow_mut() = methods.into_iter().collect();
        self
    }

    /// Has the route answer for everything below its pattern as well; what is left of the path is in
    /// [`Request::postpath`].
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
        let mut routes = self.router.0.routes.borrow_mut();
        let node = routes.root.at(rule.segments());
        node.ends.retain(|known| !Rc::ptr_eq(known, rule));
        rule.is_branch.set(true);
        routes.root.at(rule.segments()).below.push(rule.clone());
        drop(routes);
        self
    }

    /// Has the handler called when the head of a request is there, and take the body as it comes: with
    /// [`Request::take_body`].
    ///
    /// A route to a resource goes by what that [says](Resource::accepts_stream), unless this is called.
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
    /// or not the router [handles](Router::handle_errors) it.
    ///
    /// ```
    /// use dosimeter::Hooks;
    /// use dosimeter::web::{Request, Router};
    /// use prometheus::{Histogram, HistogramOpts, IntGauge};
    ///
    /// let seconds = Histogram::with_opts(HistogramOpts::new("search_seconds", "time spent searching")).unwrap();
    /// let active = IntGauge::new("searches_in_progress", "searches in progress").unwrap();
    ///
    /// let app = Router::new();
    /// let hooks = Hooks::new().time(&seconds).track_inprogress(&active);
    /// app.route("/search", |request: Request| request.query("q").unwrap_or_default()).instrument(hooks);
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

    /// Has the route answer with a slash at the end of its path and without one; [`Router::url_for`] writes it as it is in the
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
        if !rule.has_either_slash.replace(true) {
            self.router.0.routes.borrow_mut().root.twin_of(rule).ends.push(rule.clone());
        }
        self
    }

    /// Gives the route a name, for [`Router::url_for`].
    ///
    /// # Panics
    /// When another route of the router has it.
    #[doc(alias = "endpoint")]
    #[track_caller]
    pub fn named(self, name: impl Into<String>) -> Self {
        let name = name.into();
        let other = self.router.0.routes.borrow_mut().names.insert(name.clone(), self.rule.clone());
        if let Some(other) = other {
            panic!("{} and {other} are both called {name:?}", self.rule);
        }
        self
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut routes = self.router.0.routes.borrow_mut();
        if let Some(other) = routes.conflict(&self.rule) {
            routes.remove(&self.rule);
            drop(routes);
            if !thread::panicking() {
                panic!("{} and {other} conflict: they match the same paths and share a method", self.rule);
            }
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.routes.borrow().all.iter().map(|rule| &rule.pattern.text)).finish()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Route(/{})", self.rule.pattern.text)
    }
}

/// Why there is no URL; see [`Router::url_for`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UrlError {
    /// No route has this name.
    #[non_exhaustive]
    UnknownRoute {
        /// The name.
        route: String,
    },
    /// The pattern has a value that was not given.
    #[non_exhaustive]
    MissingValue {
        /// The name of the route.
        route: String,
        /// The name of the value.
        name: String,
    },
    /// With this value the pattern would not match what comes out.
    #[non_exhaustive]
    WrongValue {
        /// The name of the route.
        route: String,
        /// The name of the value.
        name: String,
        /// The value.
        value: String,
    },
}

impl UrlError {
    fn new(route: &str, misfit: Misfit, value_of: impl Fn(&str) -> Option<String>) -> Self {
        let route = route.to_owned();
        match misfit {
            Misfit::Missing(name) => UrlError::MissingValue { route, name: name.to_string() },
            Misfit::Wrong(name) => {
                let value = value_of(&name).unwrap_or_default();
                UrlError::WrongValue { route, name: name.to_string(), value }
            }
        }
    }
}

impl Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UrlError::UnknownRoute { route } => write!(f, "no route is called {route:?}"),
            UrlError::MissingValue { route, name } => write!(f, "the URL of {route:?} lacks its {name:?}"),
            UrlError::WrongValue { route, name, value } => {
                write!(f, "{value:?} cannot be the {name:?} in the URL of {route:?}")
            }
        }
    }
}

impl Error for UrlError {}

impl Rule {
    /// What has to match before the rule, and whatever it leaves to its resource, begins.
    fn segments(&self) -> &[Segment] {
        match self.pattern.segments.as_slice() {
            [before @ .., Segment::Literal(last)] if self.is_branch.get() && last.is_empty() => before,
            all => all,
        }
    }

    fn has(&self, method: &Method) -> bool {
        let methods = self.methods.borrow();
        methods.is_empty() || methods.contains(method)
    }

    fn shares_method(&self, other: &Rule) -> bool {
        let methods = self.methods.borrow();
        methods.is_empty() || other.methods.borrow().is_empty() || methods.iter().any(|method| other.has(method))
    }

    /// Gives names to the parts of the path that matched, and moves the request past them.
    fn enter(&self, exchange: &Exchange) {
        if self.has_values {
            self.name_values(exchange);
        }
        self.count_as_entered(exchange);
        self.use_segments(exchange);
    }

    fn use_segments(&self, exchange: &Exchange) {
        exchange.use_segments(if self.is_branch.get() { self.segments().len() } else { usize::MAX });
    }

    fn name_values(&self, exchange: &Exchange) {
        let segments = self.segments();
        for (place, segment) in segments.iter().enumerate() {
            if let (Segment::Variable(variable), Some(part)) = (segment, exchange.segment_ahead(place)) {
                variable.read(part, |name, range| exchange.add_param(name, place, range));
            }
        }
        if let Some(name) = &self.pattern.rest {
            exchange.add_rest_param(name, segments.len());
        }
    }

    /// Tells metrics what the route is called. What is mounted on the root itself adds nothing to the way.
    fn count_as_entered(&self, exchange: &Exchange) {
        if !self.segments().is_empty() || self.pattern.rest.is_some() {
            exchange.enter_pattern(&self.step, || self.label());
        }
    }

    fn label(&self) -> &str {
        let text = self.pattern.text.as_str();
        if self.is_branch.get() { text.strip_suffix('/').unwrap_or(text) } else { text }
    }

    fn build(&self, url: &mut String, value_of: impl Fn(&str) -> Option<String>) -> Result<(), Misfit> {
        for segment in self.segments() {
            url.push('/');
            segment.build(url, &value_of)?;
        }
        let Some(name) = &self.pattern.rest else { return Ok(()) };
        let value = value_of(name).ok_or_else(|| Misfit::Missing(name.clone()))?;
        if value.is_empty() || value.starts_with('/') || value.split('/').any(is_dots) {
            return Err(Misfit::Wrong(name.clone()));
        }
        for segment in value.split('/') {
            url.push('/');
            quote(url, segment);
        }
        Ok(())
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route \"/{}\" ({})", self.pattern.text, self.registered)
    }
}

#[derive(Default)]
struct Routes {
    root: Node,
    /// In the order of registration.
    all: Vec<Rc<Rule>>,
    names: BTreeMap<String, Rc<Rule>>,
}

/// What is to be done with a request.
enum Match {
    Found(Rc<Rule>),
    /// What matches the path has not the method; the rule is the most specific one.
    OtherMethods(Rc<Rule>, Vec<Method>),
    /// The rule matches the path when its slashes are put right.
    Elsewhere(Rc<Rule>, HeaderValue),
    Nothing,
}

impl Routes {
    fn insert(&mut self, rule: &Rc<Rule>) {
        self.all.push(rule.clone());
        self.root.at(rule.segments()).list_of(rule).push(rule.clone());
    }

    fn remove(&mut self, rule: &Rc<Rule>) {
        let is_other = |known: &Rc<Rule>| !Rc::ptr_eq(known, rule);
        self.all.retain(is_other);
        self.names.retain(|_, known| is_other(known));
        self.root.at(rule.segments()).list_of(rule).retain(is_other);
        if rule.has_either_slash.get() {
            self.root.twin_of(rule).ends.retain(is_other);
        }
    }

    /// Another rule that matches the same paths and has one of the methods.
    fn conflict(&mut self, rule: &Rc<Rule>) -> Option<Rc<Rule>> {
        let is_other = |other: &&Rc<Rule>| !Rc::ptr_eq(other, rule) && other.shares_method(rule);
        let other = self.root.at(rule.segments()).list_of(rule).iter().find(is_other).cloned();
        if other.is_some() || !rule.has_either_slash.get() {
            return other;
        }
        self.root.twin_of(rule).ends.iter().find(is_other).cloned()
    }

    fn find(&self, request: &Request) -> Match {
        let (exchange, mut search) = (request.exchange(), Search::new(request.method()));
        if let Some(rule) = self.root.search(0, &|place| exchange.segment_ahead(place), &mut search) {
            return Match::Found(rule.clone());
        }
        match search.other {
            Some(rule) => Match::OtherMethods(rule.clone(), with_implied(search.allowed)),
            None => self.find_elsewhere(request).unwrap_or(Match::Nothing),
        }
    }

    /// Looks whether the path, its doubled slashes merged, would be one, or would with a slash at its end.
    fn find_elsewhere(&self, request: &Request) -> Option<Match> {
        let path: Vec<&str> = request.postpath().collect();
        let is_end = |place: usize| place + 1 == path.len();
        let kept = path.iter().enumerate().filter(|(place, part)| !part.is_empty() || is_end(*place));
        let mut merged: Vec<&str> = kept.map(|(_, part)| *part).collect();
        let mut rule = self.root.matching(&merged, request.method()).filter(|_| merged.len() < path.len());
        if rule.is_none() && merged.last().is_none_or(|last| !last.is_empty()) {
            merged.push("");
            rule = self.root.matching(&merged, request.method());
        }
        Some(Match::Elsewhere(rule?, location(request, &merged)))
    }
}

/// The path that led here, then `path`, then the query.
///
/// `//host` would lead to another server, and `/\host` too where a browser follows it.
fn location(request: &Request, path: &[&str]) -> HeaderValue {
    let mut url = String::new();
    for segment in request.prepath().chain(path.iter().copied()) {
        url.push('/');
        quote(&mut url, segment);
    }
    if url.starts_with("//") {
        url.insert_str(0, "/.");
    }
    if let Some(query) = request.query_string() {
        url.push('?');
        url.extend(utf8_percent_encode(query, CONTROLS));
    }
    HeaderValue::try_from(url).expect("what is encoded is visible ASCII")
}

/// A node of the tree of patterns: what they have in common up to a segment.
#[derive(Default)]
struct Node {
    /// Where a pattern ends in a slash. It is kept by itself: empty texts are slow to compare (see `metrics::same`).
    slash: Option<Box<Node>>,
    literals: BTreeMap<String, Node>,
    /// The more specific first.
    variables: Vec<(Variable, Node)>,
    /// The patterns that end here.
    ends: Vec<Rc<Rule>>,
    /// Those that go on with a `path`.
    rest: Vec<Rc<Rule>>,
    /// Those that answer for what is below, too.
    below: Vec<Rc<Rule>>,
}

impl Node {
    /// The node behind `segments`, which is made if need be.
    fn at(&mut self, segments: &[Segment]) -> &mut Node {
        let [first, others @ ..] = segments else { return self };
        let child = match first {
            Segment::Literal(text) if text.is_empty() => self.slash.get_or_insert_default(),
            Segment::Literal(text) => self.literals.entry(text.clone()).or_default(),
            Segment::Variable(variable) => self.behind(variable),
        };
        child.at(others)
    }

    /// Where the pattern of `rule` would end if it had the slash at its end that it has not, or had not the one it has.
    fn twin_of(&mut self, rule: &Rule) -> &mut Node {
        match rule.segments() {
            [before @ .., Segment::Literal(last)] if last.is_empty() => self.at(before),
            all => self.at(all).slash.get_or_insert_default(),
        }
    }

    fn behind(&mut self, variable: &Variable) -> &mut Node {
        let known = self.variables.iter().position(|(known, _)| known.has_shape_of(variable));
        let place = known.unwrap_or_else(|| {
            let place = self.variables.partition_point(|(known, _)| known.rank() <= variable.rank());
            self.variables.insert(place, (variable.clone(), Node::default()));
            place
        });
        &mut self.variables[place].1
    }

    fn list_of(&mut self, rule: &Rule) -> &mut Vec<Rc<Rule>> {
        match rule.is_branch.get() {
            true => &mut self.below,
            false if rule.pattern.rest.is_some() => &mut self.rest,
            false => &mut self.ends,
        }
    }

    /// The most specific rule below this node that matches `path` from `place` on and has the method.
    ///
    /// It goes no deeper than the patterns, and comes to each node once at most.
    fn search<'a, 'p>(
        &'a self,
        place: usize,
        path: &impl Fn(usize) -> Option<&'p str>,
        search: &mut Search<'a>,
    ) -> Option<&'a Rc<Rule>> {
        let found = match path(place) {
            None => search.among(&self.ends),
            Some("") => self.slash.as_ref().and_then(|child| child.search(place + 1, path, search)),
            Some(part) => self.search_below(part, place, path, search),
        };
        found.or_else(|| search.among(&self.below))
    }

    fn search_below<'a, 'p>(
        &'a self,
        part: &str,
        place: usize,
        path: &impl Fn(usize) -> Option<&'p str>,
        search: &mut Search<'a>,
    ) -> Option<&'a Rc<Rule>> {
        if let Some(child) = self.literals.get(part)
            && let Some(found) = child.search(place + 1, path, search)
        {
            return Some(found);
        }
        let fitting = self.variables.iter().filter(|(variable, _)| variable.matches(part));
        for (_, child) in fitting {
            if let Some(found) = child.search(place + 1, path, search) {
                return Some(found);
            }
        }
        search.among(&self.rest)
    }

    /// The most specific rule that matches `path` and has the method, or else one that matches.
    fn matching(&self, path: &[&str], method: &Method) -> Option<Rc<Rule>> {
        let mut search = Search::new(method);
        let found = self.search(0, &|place| path.get(place).copied(), &mut search);
        found.or(search.other).cloned()
    }
}

/// Looks for a rule with a method, and remembers what else there is.
struct Search<'a> {
    method: &'a Method,
    other: Option<&'a Rc<Rule>>,
    allowed: Vec<Method>,
}

impl<'a> Search<'a> {
    fn new(method: &'a Method) -> Self {
        Search { method, other: None, allowed: Vec::new() }
    }

    fn among(&mut self, rules: &'a [Rc<Rule>]) -> Option<&'a Rc<Rule>> {
        let implied = |rule: &&Rc<Rule>| *self.method == Method::HEAD && rule.has(&Method::GET);
        let found = rules.iter().find(|rule| rule.has(self.method)).or_else(|| rules.iter().find(implied));
        if found.is_none()
            && let Some(first) = rules.first()
        {
            self.other.get_or_insert(first);
            self.allowed.extend(rules.iter().flat_map(|rule| rule.methods.borrow().clone()));
        }
        found
    }
}

/// The methods that these bring with them, in the order of the alphabet.
fn with_implied(mut methods: Vec<Method>) -> Vec<Method> {
    if methods.contains(&Method::GET) {
        methods.push(Method::HEAD);
    }
    methods.push(Method::OPTIONS);
    methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    methods.dedup();
    methods
}
