//! [`Resource`]: a node of the tree that a site serves, and [`Render`]: what one returns.
//!
//! Rules kept here:
//! - The path is split at its slashes first and each segment decoded after, so an encoded slash never takes part in the walk.
//! - `HEAD` is answered by whatever answers `GET`; the engine sends the head alone.
//! - Everything a resource can return, a failure included, ends in exactly one answer.

use std::error::Error;
use std::fmt;
use std::rc::Rc;

use ::http::{Method, StatusCode};

use crate::deferred::Deferred;
use crate::failure::{Failure, Result};
use crate::instrument::Outcome;
use crate::web::error::{FormError, HttpError, RoutingError};
use crate::web::request::Request;
use crate::web::response::Response;

/// Something with a URL.
///
/// Implement `render_get` and its like for the methods it has; [`allowed_methods`](Resource::allowed_methods) names them
/// when they are not just `GET` and `HEAD`.
///
/// ```
/// use dosimeter::web::{Render, Request, Resource, Response};
///
/// struct Hello;
///
/// impl Resource for Hello {
///     fn render_get(&self, request: Request) -> Render {
///         Response::text(format!("Hello from {}", request.path())).into()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no resource, nor an answer to a request where one is wanted",
    note = "an answer is a text, bytes, `Response`, `()`, `(StatusCode, answer)`, `Result` or `Deferred`",
    note = "where a resource is wanted, `Page::new(response)` is one that answers with this response"
)]
pub trait Resource: 'static {
    /// Whether this resource handles everything below it, so that the walk along the path ends here.
    #[doc(alias = "isLeaf")]
    fn is_leaf(&self) -> bool {
        false
    }

    /// The resource below this one called `name`, a decoded segment of the path; `""` where the path ends in a slash.
    ///
    /// `None` answers 404. It is asked for each request; a resource that keeps its children in a table is a
    /// [`Branch`](super::Branch).
    #[doc(alias = "getChild")]
    fn child(&self, name: &str, request: &Request) -> Option<Rc<dyn Resource>> {
        let _ = (name, request);
        None
    }

    /// The child called `name`, if it can be told without a request: it was put there, and asking has no effect.
    ///
    /// The way to who is asked for [`accepts_stream`](Resource::accepts_stream) leads along such children.
    fn known_child(&self, name: &str) -> Option<Rc<dyn Resource>> {
        let _ = name;
        None
    }

    /// Whether the body of `request` is to be taken piece by piece, as it comes, with
    /// [`Request::take_body`](super::Request::take_body). It says no unless overridden, and gets the body whole.
    ///
    /// It is asked when the head of a request with a body is there, and nothing else of it. If it says yes the walk along the
    /// path is made and the request rendered at once; else when the body has come. Who is asked is found along children that
    /// are [known](Resource::known_child) by name, and routes of a [`Router`](super::Router): where these end, be it that the
    /// rest of the path is for children that are made up as they are asked for. A resource that says yes therefore answers
    /// for all that may come of the request below it. One that hands requests on to another resource asks that.
    ///
    /// ```
    /// use dosimeter::web::{Render, Request, Resource};
    ///
    /// struct Upload;
    ///
    /// impl Resource for Upload {
    ///     fn accepts_stream(&self, _request: &Request) -> bool {
    ///         true
    ///     }
    ///
    ///     fn render_put(&self, mut request: Request) -> Render {
    ///         let body = request.take_body().for_each(|piece| println!("{} bytes", piece.len()));
    ///         body.map(|()| "received").into()
    ///     }
    /// }
    /// ```
    fn accepts_stream(&self, request: &Request) -> bool {
        let _ = request;
        false
    }

    /// Answers a request, whatever its method: by default through the `render_` method of that name.
    fn render(&self, request: Request) -> Render {
        match *request.method() {
            Method::GET => self.render_get(request),
            Method::HEAD => self.render_head(request),
            Method::POST => self.render_post(request),
            Method::PUT => self.render_put(request),
            Method::DELETE => self.render_delete(request),
            Method::PATCH => self.render_patch(request),
            Method::OPTIONS => self.render_options(request),
            _ => self.not_allowed(request),
        }
    }

    /// Answers `GET`.
    #[doc(alias = "render_GET")]
    fn render_get(&self, request: Request) -> Render {
        self.not_allowed(request)
    }

    /// Answers `HEAD`: as `GET`, of which only the head will be sent.
    fn render_head(&self, request: Request) -> Render {
        self.render_get(request)
    }

    /// Answers `POST`.
    #[doc(alias = "render_POST")]
    fn render_post(&self, request: Request) -> Render {
        self.not_allowed(request)
    }

    /// Answers `PUT`.
    fn render_put(&self, request: Request) -> Render {
        self.not_allowed(request)
    }

    /// Answers `DELETE`.
    fn render_delete(&self, request: Request) -> Render {
        self.not_allowed(request)
    }

    /// Answers `PATCH`.
    fn render_patch(&self, request: Request) -> Render {
        self.not_allowed(request)
    }

    /// Answers `OPTIONS`: with the allowed methods.
    fn render_options(&self, request: Request) -> Render {
        let _ = request;
        Response::empty(StatusCode::NO_CONTENT).with_allow(&self.allowed_methods()).into()
    }

    /// The methods this resource answers, for the `Allow` field of a refusal (RFC 9110 section 10.2.1).
    ///
    /// Override it together with the `render_` methods: which of them are overridden cannot be seen from inside.
    ///
    /// ```
    /// use dosimeter::web::{Render, Request, Resource};
    /// use dosimeter::web::Method;
    ///
    /// struct Inbox;
    ///
    /// impl Resource for Inbox {
    ///     fn render_post(&self, request: Request) -> Render {
    ///         format!("{} bytes", request.body().len()).into()
    ///     }
    ///
    ///     fn allowed_methods(&self) -> Vec<Method> {
    ///         vec![Method::POST, Method::OPTIONS]
    ///     }
    /// }
    /// ```
    #[doc(alias = "allowedMethods")]
    fn allowed_methods(&self) -> Vec<Method> {
        vec![Method::GET, Method::HEAD, Method::OPTIONS]
    }

    /// Answers that the method is not one of [`allowed_methods`](Resource::allowed_methods).
    fn not_allowed(&self, request: Request) -> Render {
        let (method, allowed) = (request.method().clone(), self.allowed_methods());
        refuse(&request, RoutingError::MethodNotAllowed { method, allowed })
    }
}

/// A shared resource is the resource; every method is passed on, or its overrides would be lost.
impl<R: Resource + ?Sized> Resource for Rc<R> {
    fn is_leaf(&self) -> bool {
        (**self).is_leaf()
    }

    fn child(&self, name: &str, request: &Request) -> Option<Rc<dyn Resource>> {
        (**self).child(name, request)
    }

    fn known_child(&self, name: &str) -> Option<Rc<dyn Resource>> {
        (**self).known_child(name)
    }

    fn accepts_stream(&self, request: &Request) -> bool {
        (**self).accepts_stream(request)
    }

    fn render(&self, request: Request) -> Render {
        (**self).render(request)
    }

    fn render_get(&self, request: Request) -> Render {
        (**self).render_get(request)
    }

    fn render_head(&self, request: Request) -> Render {
        (**self).render_head(request)
    }

    fn render_post(&self, request: Request) -> Render {
        (**self).render_post(request)
    }

    fn render_put(&self, request: Request) -> Render {
        (**self).render_put(request)
    }

    fn render_delete(&self, request: Request) -> Render {
        (**self).render_delete(request)
    }

    fn render_patch(&self, request: Request) -> Render {
        (**self).render_patch(request)
    }

    fn render_options(&self, request: Request) -> Render {
        (**self).render_options(request)
    }

    fn not_allowed(&self, request: Request) -> Render {
        (**self).not_allowed(request)
    }

    fn allowed_methods(&self) -> Vec<Method> {
        (**self).allowed_methods()
    }
}

/// What a resource returns: the answer, or when it will come.
///
/// Made with `into()` from a text, bytes, a [`Response`], `()`, `(StatusCode, answer)`, `Result`, a [`Deferred`] of any of
/// these, or another [`Resource`], which then answers in its place.
///
/// ```
/// use dosimeter::{Deferred, Failure};
/// use dosimeter::web::{Branch, Render};
/// use dosimeter::web::StatusCode;
///
/// let page: Render = "<h1>Hello</h1>".into();
/// let created: Render = (StatusCode::CREATED, "made").into();
/// let failed: Render = Err::<String, _>(Failure::from("answered with 500, and logged")).into();
/// let elsewhere: Render = Branch::new().into();
/// let (completer, later) = Deferred::pair();
/// let later: Render = later.into();
/// completer.callback("text that came later");
/// ```
#[must_use = "a resource returns this; an answer that is dropped is no answer"]
pub struct Render(pub(crate) Answer);

impl Render {
    pub(crate) fn failed(failure: Failure) -> Self {
        Render(Answer::Failed(failure))
    }
}

impl fmt::Debug for Render {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Answer::NotDoneYet => "Render(not done yet)",
            Answer::Response(_) => "Render(response)",
            Answer::Deferred(_) => "Render(deferred)",
            Answer::Resource(_) => "Render(another resource)",
            Answer::Failed(_) => "Render(failed)",
        })
    }
}

/// See [`Render`].
pub(crate) enum Answer {
    NotDoneYet,
    Response(Response),
    Deferred(Deferred<Box<Render>>),
    Resource(Rc<dyn Resource>),
    Failed(Failure),
}

/// What a resource returns when it keeps the request and will answer through it; see [`Request`].
pub const NOT_DONE_YET: Render = Render(Answer::NotDoneYet);

impl<T: IntoRender> From<T> for Render {
    fn from(answer: T) -> Self {
        answer.into_render()
    }
}

/// What a handler may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no answer to a request",
    note = "a text, bytes, `Response`, `(StatusCode, answer)`, `Result`, `Deferred` or a `Resource` is"
)]
pub trait IntoRender {
    /// Makes the answer of it.
    fn into_render(self) -> Render;
}

impl IntoRender for Response {
    fn into_render(self) -> Render {
        Render(Answer::Response(self))
    }
}

impl IntoRender for &'static str {
    fn into_render(self) -> Render {
        Response::new(self).into_render()
    }
}

/// As HTML: what came from a request has to be escaped, or sent with [`Response::text`].
impl IntoRender for String {
    fn into_render(self) -> Render {
        Response::new(self).into_render()
    }
}

impl IntoRender for Vec<u8> {
    fn into_render(self) -> Render {
        Response::new(self).into_render()
    }
}

impl IntoRender for &'static [u8] {
    fn into_render(self) -> Render {
        Response::new(self).into_render()
    }
}

/// An empty `200 OK`.
impl IntoRender for () {
    fn into_render(self) -> Render {
        Response::empty(StatusCode::OK).into_render()
    }
}

/// The answer with this status. A resource that answers in its place, and a request that was kept, set their own.
impl<T: Into<Render>> IntoRender for (StatusCode, T) {
    fn into_render(self) -> Render {
        let (status, answer) = self;
        match answer.into() {
            Render(Answer::Response(response)) => response.with_status(status).into_render(),
            Render(Answer::Deferred(later)) => later.map(move |answer| Render::from((status, *answer))).into_render(),
            other => other,
        }
    }
}

impl<T: Into<Render>, E: Into<Failure>> IntoRender for Result<T, E> {
    fn into_render(self) -> Render {
        match self {
            Ok(answer) => answer.into(),
            Err(error) => Render::failed(error.into()),
        }
    }
}

impl<T: Into<Render> + 'static> IntoRender for Deferred<T> {
    fn into_render(self) -> Render {
        match self.into_result() {
            Ok(result) => result.into_render(),
            Err(pending) => Render(Answer::Deferred(pending.map(|answer| Box::new(answer.into())))),
        }
    }
}

/// The page that it is answered with where nobody handles it.
impl IntoRender for HttpError {
    fn into_render(self) -> Render {
        self.response().into_render()
    }
}

/// The page that it is answered with where nobody handles it.
impl IntoRender for FormError {
    fn into_render(self) -> Render {
        self.response().into_render()
    }
}

/// The page that it is answered with where nobody handles it.
impl IntoRender for RoutingError {
    fn into_render(self) -> Render {
        self.response().into_render()
    }
}

impl<R: Resource> IntoRender for R {
    fn into_render(self) -> Render {
        Render(Answer::Resource(Rc::new(self)))
    }
}

/// A hook around a function that returns an answer ends when the answer is there; one that was promised through the request
/// ([`NOT_DONE_YET`]) or is another resource's counts as there.
impl Outcome for Render {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        match self.0 {
            Answer::Deferred(later) => Render(Answer::Deferred(later.watch(end))),
            Answer::Failed(failure) => {
                end(Some(failure.error()));
                Render(Answer::Failed(failure))
            }
            there => {
                end(None);
                Render(there)
            }
        }
    }
}

impl<T: Outcome> Outcome for (StatusCode, T) {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        (self.0, self.1.watch(end))
    }
}

impl Outcome for Response {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        end(None);
        self
    }
}

/// The answer to a path that leads nowhere.
pub(crate) fn not_found(request: &Request) -> Render {
    request.exchange().leave_routes();
    refuse(request, RoutingError::NotFound)
}

/// Answers that nothing has the path or the method; as a failure, if a router on the way handles those.
pub(crate) fn refuse(request: &Request, error: RoutingError) -> Render {
    match request.exchange().wants_routing_errors() {
        true => Render::failed(Failure::new(error)),
        false => error.into(),
    }
}

/// Walks from `resource` along what is left of the path, and has the resource at the end answer.
pub(crate) fn walk(mut resource: Rc<dyn Resource>, request: Request) -> Render {
    let target = &request.exchange().head;
    if target.asks_the_server() {
        // RFC 9110 section 9.3.7: about the server as a whole, and of no resource. It may have what resources may have.
        return Response::empty(StatusCode::NO_CONTENT).with_allow(&RENDERED).into();
    }
    if target.asks_for_a_tunnel() {
        return no_tunnel(&request);
    }
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

/// The methods that resources have a `render_` method for.
const RENDERED: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];

/// `CONNECT` has no path (RFC 9110 section 9.3.6). A resource that answered it with success would have told the client that
/// what follows reaches another server.
fn no_tunnel(request: &Request) -> Render {
    request.exchange().leave_routes();
    let detail = "Sorry, this server leads to no other one.";
    Response::error_page(StatusCode::NOT_IMPLEMENTED, "Not Implemented", detail).into()
}

/// Whether the body of a request is to be a stream: asks the resource that the known names lead to.
pub(crate) fn accepts_stream(mut resource: Rc<dyn Resource>, request: &Request) -> bool {
    let exchange = request.exchange();
    if exchange.head.asks_the_server() || exchange.is_garbled() || exchange.delegate() >= MAX_DELEGATIONS {
        return false;
    }
    while !resource.is_leaf() {
        let Some(child) = exchange.next_segment().and_then(|name| resource.known_child(name)) else { break };
        exchange.use_segments(1);
        resource = child;
    }
    resource.accepts_stream(request)
}

/// A resource may answer with another one; a chain of more than this is a circle.
pub(crate) const MAX_DELEGATIONS: usize = 32;

/// What is said of a longer one.
pub(crate) const GOES_ROUND: &str = "resources keep handing the request on to one another";
