//! [`HttpError`], [`RoutingError`] and [`FormError`]: errors that know which answer they are.
//!
//! Rules kept here:
//! - A handler fails with them like with any other error; where nobody handles them they are answered with their status and
//!   not with 500.
//! - What the peer is told was written for the peer. The error behind it goes to the log alone.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Display};

use ::http::header::{HeaderName, HeaderValue};
use ::http::{Method, StatusCode};

use crate::failure::Failure;
use crate::web::metrics::known_method;
use crate::web::response::Response;

/// An error with the status that it is answered with.
///
/// A handler returns it as any error, with `?`, from however deep. Where no
/// [error handler](super::Router::handle_errors) takes it, the answer is a page with the status and the text. One that is the
/// [source](Error::source) of another error counts as well, so an error of your own has a status if it keeps one inside.
///
/// What is the client's mistake (4xx) is logged as `debug`, what is the server's (5xx) as `error`.
///
/// ```
/// use dosimeter::web::{HttpError, Request, StatusCode};
///
/// fn page_number(request: &Request) -> Result<u32, HttpError> {
///     let text = request.query("page").unwrap_or("1".into());
///     text.parse().map_err(|error| HttpError::new(StatusCode::BAD_REQUEST, "`page` is a number").because(error))
/// }
///
/// fn show(request: Request) -> dosimeter::Result<String> {
///     Ok(format!("page {}", page_number(&request)?))
/// }
/// ```
#[derive(Debug)]
pub struct HttpError {
    status: StatusCode,
    detail: Cow<'static, str>,
    fields: Vec<(HeaderName, HeaderValue)>,
    source: Option<Failure>,
}

impl HttpError {
    /// An error that is answered with this status and a page that shows `detail`, escaped.
    ///
    /// # Panics
    /// With a status that is no error.
    #[track_caller]
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        assert!(status.is_client_error() || status.is_server_error(), "{status} is not the status of an error");
        HttpError { status, detail: detail.into(), fields: Vec::new(), source: None }
    }

    /// With the error behind it, for the log. The peer is not told.
    #[must_use]
    #[track_caller]
    pub fn because(mut self, source: impl Into<Failure>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// With one more header field in the answer: `WWW-Authenticate` for a 401, `Retry-After` for a 503.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.push((name, value));
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The text for the peer.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn response(&self) -> Response {
        let page = Response::error_page(self.status, reason(self.status), &self.detail);
        self.fields.iter().fold(page, |page, (name, value)| page.with_header(name.clone(), value.clone()))
    }
}

impl Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.detail)
    }
}

impl Error for HttpError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref()?.error())
    }
}

/// No route of a [`Router`](super::Router) fits a request.
///
/// It is an answer as well, the one that is given where nobody [handles it](super::Router::handle_errors): a page, with
/// `Allow` where that belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoutingError {
    /// Nothing has the path.
    NotFound,
    /// Something has the path, and it has not the method: 405, or 501 if the method is none of those that HTTP has (RFC 9110
    /// section 9.1).
    #[non_exhaustive]
    MethodNotAllowed {
        /// The method of the request.
        method: Method,
        /// The methods there are.
        allowed: Vec<Method>,
    },
}

impl RoutingError {
    /// 404, 405 or 501.
    pub fn status(&self) -> StatusCode {
        match self {
            RoutingError::NotFound => StatusCode::NOT_FOUND,
            RoutingError::MethodNotAllowed { method, .. } if !is_of_http(method) => StatusCode::NOT_IMPLEMENTED,
            RoutingError::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    pub(crate) fn response(&self) -> Response {
        match self {
            RoutingError::NotFound => Response::not_found(),
            RoutingError::MethodNotAllowed { method, allowed } => {
                Response::other_method(self.status(), method, allowed)
            }
        }
    }
}

impl Display for RoutingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoutingError::NotFound => f.write_str("no route matches the path"),
            RoutingError::MethodNotAllowed { method, .. } => write!(f, "no route that matches the path has {method}"),
        }
    }
}

impl Error for RoutingError {}

/// A body is not the form that was expected of it; see [`Request::form`](super::Request::form).
///
/// A handler that fails with it answers with its [status](FormError::status) and a page that says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormError {
    /// The body is of another type: 415.
    NotAForm,
    /// The body breaks the rules of its type: 400.
    #[non_exhaustive]
    Malformed {
        /// Which one.
        reason: &'static str,
    },
    /// There is more of something than a [limit](super::FormLimits) allows: 413.
    #[non_exhaustive]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The body is a [stream](super::Resource::accepts_stream), and nowhere whole: 500, for it is the program that is wrong.
    Streamed,
    /// The form has no field of this name: 400.
    #[non_exhaustive]
    Missing {
        /// The name that was asked for.
        field: String,
    },
    /// The value of a field is no value of its type: 400.
    #[non_exhaustive]
    Invalid {
        /// The name of the field.
        field: String,
    },
}

impl FormError {
    /// The status that it is answered with.
    pub fn status(&self) -> StatusCode {
        match self {
            FormError::NotAForm => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            FormError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            FormError::Streamed => StatusCode::INTERNAL_SERVER_ERROR,
            FormError::Malformed { .. } | FormError::Missing { .. } | FormError::Invalid { .. } => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    pub(crate) fn response(&self) -> Response {
        match self {
            // It is told to the log.
            FormError::Streamed => Response::internal_error(),
            _ => Response::error_page(self.status(), reason(self.status()), &self.to_string()),
        }
    }
}

impl Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FormError::NotAForm => f.write_str(
                "the body is no form: its Content-Type is neither application/x-www-form-urlencoded nor \
                 multipart/form-data",
            ),
            FormError::Malformed { reason } => write!(f, "the form cannot be read: {reason}"),
            FormError::TooLarge { what, limit } => write!(f, "the form has more than {limit} {what}"),
            FormError::Streamed => {
                f.write_str("the body is a stream, of which there is no form: read it with `take_form`")
            }
            FormError::Missing { field } => write!(f, "the form has no field {field:?}"),
            FormError::Invalid { field } => write!(f, "the field {field:?} has a wrong value"),
        }
    }
}

impl Error for FormError {}

/// Whether it is a method of RFC 9110 section 9.3 or `PATCH` (RFC 5789).
fn is_of_http(method: &Method) -> bool {
    known_method(method).is_some()
}

/// The answer that a failure is, if it or a source of it knows one.
pub(crate) fn response_of(failure: &Failure) -> Option<Response> {
    let http = failure.find::<HttpError>().map(HttpError::response);
    let routing = || failure.find::<RoutingError>().map(RoutingError::response);
    let form = || failure.find::<FormError>().map(FormError::response);
    http.or_else(routing).or_else(form)
}

pub(crate) fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}
