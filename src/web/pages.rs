//! [`Page`], a response that is a resource, and [`ErrorPages`], pages of a program's own in place of the plain ones.
//!
//! Rules kept here:
//! - An error page changes what an error looks like, and not what it is: its status and the fields that belong to it stay.
//! - A function that fails to make a page gets the plain one sent.

use std::fmt;
use std::rc::Rc;

use ::http::StatusCode;

use crate::failure::guard;
use crate::web::exchange::{Exchange, PageMaker};
use crate::web::request::Request;
use crate::web::resource::{Render, Resource};
use crate::web::response::{ErrorText, Response};

/// The same response for a path and everything below it, whatever the method.
///
/// ```
/// use dosimeter::web::{Branch, Page, Response};
///
/// let root = Branch::new();
/// root.put_child("private", Page::new(Response::forbidden()));
/// ```
#[doc(alias = "ErrorPage")]
#[derive(Debug, Clone)]
pub struct Page(Response);

impl Page {
    /// A resource that answers with this response.
    pub fn new(response: Response) -> Self {
        Page(response)
    }
}

impl Resource for Page {
    fn is_leaf(&self) -> bool {
        true
    }

    fn render(&self, _request: Request) -> Render {
        self.0.clone().into()
    }
}

/// A resource whose error pages, and those of everything below it, are made by a function.
///
/// All pages that the server makes pass through the function: for a path or a method that nothing has, for a failure, for a
/// request that was dropped; and those that a handler makes with [`Response::error_page`] and its like. Of several such
/// resources on the way the last one counts. [`Site::error_pages`](super::Site::error_pages) does this for a whole site.
///
/// ```
/// use dosimeter::web::{Branch, ErrorPage, ErrorPages, Response, escape_html};
///
/// let root = Branch::new();
/// let root = ErrorPages::new(root, |error: &ErrorPage<'_>| {
///     Response::new(format!("<h1>{}</h1><p>{}</p>", error.status(), escape_html(error.detail())))
/// });
/// ```
#[derive(Clone)]
pub struct ErrorPages<R> {
    inner: R,
    maker: Rc<PageMaker>,
}

impl<R: Resource> ErrorPages<R> {
    /// `inner`, with its error pages made by `make`.
    ///
    /// What `make` returns has the status of the error unless it sets another, and the fields of the error that it does not
    /// set itself, such as `Allow`. If it panics the plain page is sent.
    pub fn new(inner: R, make: impl Fn(&ErrorPage<'_>) -> Response + 'static) -> Self {
        ErrorPages { inner, maker: maker(make) }
    }
}

impl<R: Resource> Resource for ErrorPages<R> {
    fn is_leaf(&self) -> bool {
        self.inner.is_leaf()
    }

    fn child(&self, name: &str, request: &Request) -> Option<Rc<dyn Resource>> {
        request.exchange().set_pages(self.maker.clone());
        self.inner.child(name, request)
    }

    fn known_child(&self, name: &str) -> Option<Rc<dyn Resource>> {
        self.inner.known_child(name)
    }

    fn accepts_stream(&self, request: &Request) -> bool {
        self.inner.accepts_stream(request)
    }

    fn render(&self, request: Request) -> Render {
        request.exchange().set_pages(self.maker.clone());
        self.inner.render(request)
    }
}

impl<R: fmt::Debug> fmt::Debug for ErrorPages<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ErrorPages").field(&self.inner).finish()
    }
}

/// What an error page is to say.
#[derive(Debug)]
pub struct ErrorPage<'a> {
    response: &'a Response,
    text: &'a ErrorText,
    request: Option<Request>,
}

impl ErrorPage<'_> {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The error in a few words. It is not escaped.
    pub fn brief(&self) -> &str {
        &self.text.brief
    }

    /// What the client may know of it. It is not escaped, and may repeat what the client sent.
    pub fn detail(&self) -> &str {
        &self.text.detail
    }

    /// The request; `None` where the bytes that came were none.
    pub fn request(&self) -> Option<&Request> {
        self.request.as_ref()
    }
}

/// Makes the one kind of function that an exchange keeps.
pub(crate) fn maker(make: impl Fn(&ErrorPage<'_>) -> Response + 'static) -> Rc<PageMaker> {
    Rc::new(move |exchange: Option<&Rc<Exchange>>, response: &Response| {
        let request = exchange.map(|exchange| Request::new(exchange.clone()));
        let page = ErrorPage { response, text: response.error_text()?, request };
        match guard(|| make(&page)) {
            Ok(made) => Some(made.in_place_of(response)),
            Err(panic) => {
                panic.log("dosimeter::web", format_args!("an error page was not made"));
                None
            }
        }
    })
}
