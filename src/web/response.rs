//! [`Response`]: a whole answer as a value.
//!
//! Rules kept here:
//! - Nothing that came from a request reaches a page unescaped.
//! - A value that cannot stand in a header is refused when the response is made, not when it is sent.

use std::borrow::Cow;
use std::sync::Arc;

use ::http::header::{self, HeaderName, HeaderValue};
use ::http::{Method, StatusCode};

/// A status, header fields and a body.
///
/// ```
/// use dosimeter::web::Response;
/// use dosimeter::web::StatusCode;
///
/// let response = Response::text("no such thing").with_status(StatusCode::NOT_FOUND);
/// assert_eq!(response.status(), StatusCode::NOT_FOUND);
/// ```
#[derive(Debug, Clone)]
pub struct Response {
    /// What the request was given by `set_status` counts where the response says nothing.
    status: Option<StatusCode>,
    content_type: ContentType,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Body,
    /// What the body says, if it is the page of an error, which may be made anew.
    error: Option<Box<ErrorText>>,
}

/// What the page of an error says, before it is escaped.
#[derive(Debug, Clone)]
pub(crate) struct ErrorText {
    pub(crate) brief: String,
    pub(crate) detail: String,
}

#[derive(Debug, Clone)]
enum ContentType {
    /// None, as there is no body.
    Absent,
    /// HTML, unless the request was given another one.
    Default,
    /// Plain text: so common that its line is kept ready.
    Text,
    Given(HeaderValue),
}

/// The bytes of a body.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Body {
    /// From the program itself.
    Static(&'static [u8]),
    /// Made for this response.
    Owned(Vec<u8>),
    /// Made for several.
    Shared(Arc<[u8]>),
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        match self {
            Body::Static(bytes) => bytes,
            Body::Owned(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Body::Static(text.as_bytes())
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Body::Static(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::Owned(text.into_bytes())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Owned(bytes)
    }
}

impl From<Arc<[u8]>> for Body {
    fn from(bytes: Arc<[u8]>) -> Self {
        Body::Shared(bytes)
    }
}

impl Response {
    /// `200 OK` with this body, as `text/html; charset=utf-8` unless told otherwise.
    ///
    /// Nothing is escaped: a text with anything from a request in it goes through [`text`](Response::text).
    pub fn new(body: impl Into<Body>) -> Self {
        Response {
            status: None,
            content_type: ContentType::Default,
            fields: Vec::new(),
            body: body.into(),
            error: None,
        }
    }

    /// `200 OK` with plain text.
    pub fn text(body: impl Into<Body>) -> Self {
        Response { content_type: ContentType::Text, ..Response::new(body) }
    }

    /// A status without a body.
    pub fn empty(status: StatusCode) -> Self {
        Response { content_type: ContentType::Absent, ..Response::new("").with_status(status) }
    }

    /// A small HTML page that says what went wrong. Both texts are escaped. A program may have such pages made in
    /// [its own way](super::ErrorPages).
    #[doc(alias = "errorPage")]
    pub fn error_page(status: StatusCode, brief: &str, detail: &str) -> Self {
        let text = ErrorText { brief: brief.to_owned(), detail: detail.to_owned() };
        let (code, brief, detail) = (status.as_u16(), escape_html(brief), escape_html(detail));
        let page = format!(
            "<!DOCTYPE html>\n<html><head><title>{code} - {brief}</title></head>\n\
             <body><h1>{brief}</h1><p>{detail}</p></body></html>\n"
        );
        Response { error: Some(Box::new(text)), ..Response::new(page).with_status(status) }
    }

    /// `404 Not Found`.
    #[doc(alias = "notFound")]
    pub fn not_found() -> Self {
        Response::error_page(StatusCode::NOT_FOUND, "No Such Resource", "Sorry. No luck finding that resource.")
    }

    /// `403 Forbidden`.
    pub fn forbidden() -> Self {
        Response::error_page(StatusCode::FORBIDDEN, "Forbidden Resource", "Sorry, resource is forbidden.")
    }

    /// `405 Method Not Allowed`, with the methods that are allowed (RFC 9110 section 15.5.6).
    pub fn method_not_allowed(method: &Method, allowed: &[Method]) -> Self {
        Response::other_method(StatusCode::METHOD_NOT_ALLOWED, method, allowed)
    }

    /// 405, or 501.
    pub(crate) fn other_method(status: StatusCode, method: &Method, allowed: &[Method]) -> Self {
        let brief = status.canonical_reason().unwrap_or("Error");
        let detail =
            format!("Your browser approached me with the method \"{method}\". I only allow {}.", list(allowed));
        Response::error_page(status, brief, &detail).with_allow(allowed)
    }

    /// `500 Internal Server Error`. The page says nothing of the error, which is in the log.
    pub fn internal_error() -> Self {
        let detail = "Sorry, the server failed on this request.";
        Response::error_page(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error", detail)
    }

    /// With another status.
    ///
    /// # Panics
    /// With a status 1xx: it announces a response and is none.
    #[must_use]
    #[track_caller]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        assert!(!status.is_informational(), "{status} announces a response and is none");
        self.status = Some(status);
        self
    }

    /// With another `Content-Type`.
    #[must_use]
    pub fn with_content_type(mut self, content_type: HeaderValue) -> Self {
        self.content_type = ContentType::Given(content_type);
        self
    }

    /// With one more header field. `Content-Length`, `Transfer-Encoding` and `Connection` are the server's own, and are left
    /// out when they are given here.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if name == header::CONTENT_TYPE {
            self.content_type = ContentType::Given(value);
        } else if !is_own_field(&name) {
            self.fields.push((name, value));
        }
        self
    }

    /// With an `Allow` field.
    pub(crate) fn with_allow(self, allowed: &[Method]) -> Self {
        let value = HeaderValue::try_from(list(allowed)).expect("methods are tokens");
        self.with_header(header::ALLOW, value)
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or(StatusCode::OK)
    }

    pub(crate) fn explicit_status(&self) -> Option<StatusCode> {
        self.status
    }

    /// What it says, if it is the page of an error.
    pub(crate) fn error_text(&self) -> Option<&ErrorText> {
        self.error.as_deref()
    }

    /// It is what is sent, whoever makes the pages of errors.
    #[cfg(feature = "gzip")]
    pub(crate) fn settle(&mut self) {
        self.error = None;
    }

    /// This page for an error, with the status of the plain one and the fields that are missing here.
    pub(crate) fn in_place_of(mut self, plain: &Response) -> Self {
        self.status = self.status.or(plain.status);
        for (name, value) in &plain.fields {
            if !self.fields.iter().any(|(known, _)| known == name) {
                self.fields.push((name.clone(), value.clone()));
            }
        }
        self
    }

    /// Appends the type that the body has, if there is one, unless somebody said otherwise.
    pub(crate) fn default_content_type(&self, out: &mut Vec<u8>) {
        if matches!(self.content_type, ContentType::Default) && !self.body().is_empty() {
            out.extend_from_slice(DEFAULT_CONTENT_TYPE);
        }
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        self.body.as_ref()
    }

    #[cfg(feature = "gzip")]
    pub(crate) fn take_body(&mut self) -> Body {
        std::mem::replace(&mut self.body, Body::Static(b""))
    }

    #[cfg(feature = "gzip")]
    pub(crate) fn with_body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// Takes the fields away, a given `Content-Type` included.
    #[cfg(feature = "gzip")]
    pub(crate) fn take_fields(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = std::mem::take(&mut self.fields);
        if let Some(value) = self.content_type.value() {
            fields.push((header::CONTENT_TYPE, value.clone()));
            self.content_type = ContentType::Default;
        }
        fields
    }

    /// The header fields that were given, `Content-Type` first.
    pub fn headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let content_type = self.content_type.value().map(|value| (&header::CONTENT_TYPE, value));
        content_type.into_iter().chain(self.fields())
    }

    /// The line of the `Content-Type`, where it is one that is kept ready.
    pub(crate) fn ready_line(&self) -> Option<&'static [u8]> {
        matches!(self.content_type, ContentType::Text).then_some(TEXT_LINE)
    }

    /// The header fields that were given, but for one that has a [ready line](Response::ready_line).
    pub(crate) fn other_fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let content_type = match &self.content_type {
            ContentType::Given(value) => Some((&header::CONTENT_TYPE, value)),
            ContentType::Absent | ContentType::Default | ContentType::Text => None,
        };
        content_type.into_iter().chain(self.fields())
    }

    /// The header fields that were given, but for `Content-Type`, which goes with the body.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.fields.iter().map(|(name, value)| (name, value))
    }
}

impl ContentType {
    fn value(&self) -> Option<&HeaderValue> {
        match self {
            ContentType::Given(value) => Some(value),
            ContentType::Text => Some(&TEXT),
            ContentType::Absent | ContentType::Default => None,
        }
    }
}

/// Whether a field is one that the server writes itself: one given by a resource is left out, with a word in the log.
pub(crate) fn is_own_field(name: &HeaderName) -> bool {
    let own = OWN_FIELDS.contains(name);
    if own {
        log::warn!(target: "dosimeter::web", "header {name} left out: the server writes it itself");
    }
    own
}

/// Text as it can stand in HTML, inside of quotes as well.
///
/// ```
/// use dosimeter::web::escape_html;
///
/// assert_eq!(escape_html("<a href='x'>"), "&lt;a href=&#39;x&#39;&gt;");
/// ```
pub fn escape_html(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped.into()
}

fn list(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

/// What Twisted assumes, and what a page that is written piecewise is likely to be.
pub(crate) const DEFAULT_CONTENT_TYPE: &[u8] = b"Content-Type: text/html; charset=utf-8\r\n";
static TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const TEXT_LINE: &[u8] = b"Content-Type: text/plain; charset=utf-8\r\n";

/// What says where a message ends and what becomes of the connection, and what may stand in a head only once.
const OWN_FIELDS: [HeaderName; 5] =
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::DATE, header::SERVER];
