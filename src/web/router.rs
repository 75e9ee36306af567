//! [`Router`]: routes by pattern, as Klein has them.
//!
//! Rules kept here:
//! - The more specific pattern wins, whatever the order of registration. Two that cannot be told apart, and wrong ones, end
//!   the program at its start, with a text that names them.
//! - A value that does not convert is no match, and so 404: `/user/x` is not a bad `/user/<int:id>` but another URL.
//! - No user code runs while a cell here is borrowed.

use std::any::Any;
use std::error::Error;
use std::fmt::{self, Display};
use std::panic::Location;
use std::rc::Rc;

use ::http::header::LOCATION;
use ::http::{Method, StatusCode};

use crate::failure::{Failure, guard};
use crate::web::error::RoutingError;
use crate::web::error_handlers::ErrorHandlers;
use crate::web::handler::{Fixed, Handler, Parts};
use crate::web::pattern::Pattern;
use crate::web::request::Request;
use crate::web::resource::{Render, Resource, accepts_stream, not_found, refuse};
use crate::web::response::Response;
use crate::web::route::Route;
use crate::web::routes::{Match, Table};
use crate::web::rule::Rule;
use crate::web::urls::{self, UrlError};

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
pub struct Router {
    routes: Table,
    errors: ErrorHandlers,
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
    /// One with hooks around it, as [`Async`](crate::Async), goes to [`route`](Router::route).
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
    /// use dosimeter::web::{Request, Response, Router};
    ///
    /// let notes = Router::new();
    /// notes.route("/", |request: Request| Response::text(format!("notes of {:?}", request.param::<String>("user"))));
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
        let mounted = (&resource as &dyn Any).downcast_ref::<Router>().map(|router| router.routes.clone());
        let handler = Handler::<Fixed>::into_parts(resource);
        self.add(prefix, handler, mounted, Location::caller()).branch()
    }

    fn add(
        &self,
        pattern: &str,
        parts: Parts,
        mounted: Option<Table>,
        registered: &'static Location<'static>,
    ) -> Route {
        let pattern =
            Pattern::parse(pattern).unwrap_or_else(|error| panic!("route {pattern:?} ({registered}): {error}"));
        Route::new(&self.routes, Rule::new(pattern, parts, registered), mounted)
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
    /// An answer with the status of a [`RoutingError`] or [`HttpError`](super::HttpError) has the fields that belong to that
    /// and that it does not set itself, such as `Allow` and `WWW-Authenticate`.
    ///
    /// ```
    /// use dosimeter::web::{Request, Router, RoutingError};
    /// use dosimeter::web::StatusCode;
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
        self.errors.add(handler);
    }

    /// Has `handler` answer every failure, panics included, that the error handlers before it did not; see
    /// [`handle_errors`](Router::handle_errors). [`RoutingError`]s have to be asked for by their type.
    ///
    /// ```
    /// use dosimeter::web::{Response, Router};
    /// use dosimeter::web::StatusCode;
    ///
    /// let app = Router::new();
    /// app.handle_all_errors(|request, failure| {
    ///     log::error!("{} failed: {}", request.path(), failure.report()); // nobody else will say it
    ///     Response::text("sorry").with_status(StatusCode::INTERNAL_SERVER_ERROR)
    /// });
    /// ```
    pub fn handle_all_errors<R: Into<Render>>(&self, handler: impl Fn(Request, Failure) -> R + 'static) {
        self.errors.add_for_all(handler);
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
        urls::url_for(&self.routes, name, values)
    }
}

/// Answering.
impl Router {
    fn dispatch(&self, request: Request) -> Render {
        let found = self.routes.borrow().find(&request);
        match found {
            Match::Found(rule) => {
                rule.enter(request.exchange());
                rule.answer(request)
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
}

impl Resource for Router {
    fn is_leaf(&self) -> bool {
        true
    }

    fn accepts_stream(&self, request: &Request) -> bool {
        let Match::Found(rule) = self.routes.borrow().find(request) else { return false };
        let Some(resource) = &rule.resource else { return rule.is_streamed.get() };
        rule.lead_on(request.exchange());
        rule.is_streamed.get() || accepts_stream(resource.clone(), request)
    }

    fn render(&self, request: Request) -> Render {
        if self.errors.is_empty() {
            return self.dispatch(request);
        }
        let exchange = request.exchange().clone();
        if self.errors.wants_routing_errors() {
            exchange.want_routing_errors();
        }
        let render = guard(|| self.dispatch(request)).unwrap_or_else(Render::failed);
        self.errors.watch(&exchange, render)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.borrow().patterns()).finish()
    }
}
