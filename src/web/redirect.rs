//! [`Response::redirect`], and [`Redirect`], the resource that is elsewhere.
//!
//! Rules kept here:
//! - Whatever a location holds, it is one header field and one attribute of a page: what cannot stand in a URL is encoded.
//! - A place that a client named is gone to only if it is a path of this server.

use std::borrow::Cow;
use std::fmt;

use ::http::StatusCode;
use ::http::header::{HeaderValue, LOCATION};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::web::error::{HttpError, reason};
use crate::web::request::Request;
use crate::web::resource::{Render, Resource, not_found};
use crate::web::response::{Response, escape_html};

impl Response {
    /// A redirect to `location`, a URL or a path; characters that a URL cannot have are encoded.
    ///
    /// | status | the client then asks with | and remembers |
    /// |---|---|---|
    /// | `MOVED_PERMANENTLY` (301) | `GET` instead of `POST` | it |
    /// | `FOUND` (302) | `GET` instead of `POST` | nothing |
    /// | `SEE_OTHER` (303) | `GET`: the way to answer a form | nothing |
    /// | `TEMPORARY_REDIRECT` (307) | the same method and body | nothing |
    /// | `PERMANENT_REDIRECT` (308) | the same method and body | it |
    ///
    /// A location that came with the request leads wherever its author likes, in the name of this server: see
    /// [`redirect_local`](Response::redirect_local).
    ///
    /// ```
    /// use dosimeter::web::{Request, Response, StatusCode};
    ///
    /// fn save(request: Request) -> Response {
    ///     Response::redirect(StatusCode::SEE_OTHER, "/notes/all")
    /// }
    /// ```
    ///
    /// # Panics
    /// With a status that is none of these.
    #[doc(alias = "redirectTo")]
    #[track_caller]
    pub fn redirect(status: StatusCode, location: &str) -> Self {
        assert!(REDIRECTS.contains(&status), "{status} is not the status of a redirect");
        let url: Cow<'_, str> = utf8_percent_encode(location, OUTSIDE_URLS).into();
        let (brief, shown) = (reason(status), escape_html(&url));
        let link = if is_web(&url) { format!("<a href=\"{shown}\">{shown}</a>") } else { shown.into_owned() };
        let page = format!(
            "<!DOCTYPE html>\n<html><head><title>{brief}</title></head>\n\
             <body><h1>{brief}</h1><p>It is here: {link}</p></body></html>\n"
        );
        let location = HeaderValue::try_from(&*url).expect("what is encoded is visible ASCII");
        Response::new(page).with_status(status).with_header(LOCATION, location)
    }

    /// As [`redirect`](Response::redirect), to a path of this server, query included. It may have come with the request.
    ///
    /// ```
    /// use dosimeter::web::{HttpError, Request, Response, StatusCode};
    ///
    /// fn logged_in(request: Request) -> Result<Response, HttpError> {
    ///     let next = request.query("next").unwrap_or("/".into());
    ///     Response::redirect_local(StatusCode::SEE_OTHER, &next)
    /// }
    /// ```
    ///
    /// # Errors
    /// [`HttpError`] with 400 when it is no path that starts with one slash. (`//host` and `/\host` lead to another server.)
    ///
    /// # Panics
    /// As [`redirect`](Response::redirect).
    #[track_caller]
    pub fn redirect_local(status: StatusCode, path: &str) -> Result<Self, HttpError> {
        match path.as_bytes() {
            [b'/'] | [b'/', b'?' | b'#', ..] => {}
            [b'/', next, ..] if !b"/\\".contains(next) => {}
            _ => {
                return Err(HttpError::new(StatusCode::BAD_REQUEST, "the place to go on to is no path of this server"));
            }
        }
        Ok(Response::redirect(status, path))
    }
}

/// A resource that is elsewhere, and everything below it, whatever the method.
///
/// ```
/// use dosimeter::web::{Branch, Redirect, StatusCode};
///
/// let root = Branch::new();
/// root.put_child("", Redirect::new(StatusCode::FOUND, "/app/"));
/// root.put_child("old", Redirect::new(StatusCode::MOVED_PERMANENTLY, "https://old.example.com/"));
/// ```
#[derive(Clone)]
pub struct Redirect {
    status: StatusCode,
    to: Place,
}

#[derive(Clone)]
enum Place {
    /// Always the same, as it is answered.
    Fixed(Response),
    Parent,
}

impl Redirect {
    /// A redirect to `location`; see [`Response::redirect`].
    ///
    /// # Panics
    /// With a status that is not that of a redirect.
    #[track_caller]
    pub fn new(status: StatusCode, location: &str) -> Self {
        Redirect { status, to: Place::Fixed(Response::redirect(status, location)) }
    }

    /// A redirect to what the resource stands in: from `/notes/new` to `/notes/`, from `/notes/old/` to `/notes/`.
    ///
    /// # Panics
    /// With a status that is not that of a redirect.
    #[doc(alias = "ParentRedirect")]
    #[track_caller]
    pub fn to_parent(status: StatusCode) -> Self {
        assert!(REDIRECTS.contains(&status), "{status} is not the status of a redirect");
        Redirect { status, to: Place::Parent }
    }
}

impl Resource for Redirect {
    fn is_leaf(&self) -> bool {
        true
    }

    fn render(&self, request: Request) -> Render {
        match (&self.to, request.path()) {
            (Place::Fixed(response), _) => response.clone().into(),
            // The root stands in nothing; a redirect would lead back here.
            (Place::Parent, "/") => not_found(&request),
            // Relative, and so the same behind a proxy that serves this under another path.
            (Place::Parent, path) => {
                let parent = if path.ends_with('/') { "../" } else { "./" };
                Response::redirect(self.status, parent).into()
            }
        }
    }
}

impl fmt::Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Place::Fixed(response) => {
                let location = response.headers().find(|(name, _)| **name == LOCATION).map(|(_, value)| value);
                write!(f, "Redirect({} to {location:?})", self.status.as_u16())
            }
            Place::Parent => write!(f, "Redirect({} to the parent)", self.status.as_u16()),
        }
    }
}

/// Whether a page may link to it: `javascript:` is a URL, too.
fn is_web(url: &str) -> bool {
    let scheme = url.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| !scheme.contains(['/', '?', '#']));
    scheme.is_none_or(|scheme| ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)))
}

const REDIRECTS: [StatusCode; 5] = [
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
];

/// What RFC 3986 has in no part of a URL. A percent sign is left alone: what is encoded already stays as it is.
const OUTSIDE_URLS: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');
