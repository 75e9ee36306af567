//! [`Cookie`]: what a response asks a client to keep; and what a request brings back of it (RFC 6265 and its successor).
//!
//! Rules kept here:
//! - A cookie that a browser would drop, or read in another way than it was meant, is refused when it is encoded, with a
//!   text that says what to change. Nothing is put right in silence.
//! - The value of a cookie may be a secret: neither an error nor `{:?}` shows it.

use std::error::Error;
use std::fmt::{self, Display, Write};
use std::time::{Duration, SystemTime};

use ::http::header::{HeaderValue, SET_COOKIE};

use crate::web::multipart::is_token;
use crate::web::request::Request;
use crate::web::response::Response;

/// A cookie to be set.
///
/// A cookie is sent back to the host that set it, to everything below the path of the request that set it unless
/// [`path`](Cookie::path) says otherwise, until the browser is closed unless it has an end. One with the same name, path and
/// domain takes its place.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::web::{Cookie, CookieError, Request, Response, SameSite};
///
/// fn choose(request: Request) -> Result<Response, CookieError> {
///     let theme = Cookie::new("theme", "dark")
///         .path("/")
///         .max_age(Duration::from_secs(365 * 24 * 3600))
///         .same_site(SameSite::Lax);
///     Response::text("Dark it is.").with_cookie(&theme)
/// }
///
/// fn show(request: Request) -> String {
///     format!("the theme is {}", if request.cookie("theme") == Some("dark") { "dark" } else { "light" })
/// }
/// ```
#[derive(Clone)]
pub struct Cookie {
    name: String,
    value: String,
    path: Option<String>,
    domain: Option<String>,
    max_age: Option<Duration>,
    expires: Option<SystemTime>,
    is_secure: bool,
    is_http_only: bool,
    same_site: Option<SameSite>,
}

/// Whether a cookie goes with requests that another site made the browser send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Never, not even when a link was followed.
    Strict,
    /// Only when a link was followed. This keeps other sites from having forms sent in the name of the user.
    Lax,
    /// Always. Browsers take this from [secure](Cookie::secure) cookies only.
    None,
}

impl Cookie {
    /// A cookie of this name and value, without attributes.
    ///
    /// A value has visible ASCII characters, without `"`, `,`, `;` and `\`; encode what may hold others.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Cookie {
            name: name.into(),
            value: value.into(),
            path: None,
            domain: None,
            max_age: None,
            expires: None,
            is_secure: false,
            is_http_only: false,
            same_site: None,
        }
    }

    /// Has the client forget the cookie of this name. Its path and domain have to be those that it was set with.
    pub fn removal(name: impl Into<String>) -> Self {
        Cookie::new(name, "").max_age(Duration::ZERO).expires(SystemTime::UNIX_EPOCH)
    }

    /// Sent back for this path and everything below it.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Sent back to this domain and all below it, not just to the host that set it.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Kept for this long, in whole seconds.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Kept until then, for clients from before [`max_age`](Cookie::max_age), which wins where both are given.
    #[must_use]
    pub fn expires(mut self, end: SystemTime) -> Self {
        self.expires = Some(end);
        self
    }

    /// Sent back over TLS only.
    #[must_use]
    pub fn secure(mut self) -> Self {
        self.is_secure = true;
        self
    }

    /// Kept from scripts in pages: what steals a cookie is mostly one of those.
    #[must_use]
    pub fn http_only(mut self) -> Self {
        self.is_http_only = true;
        self
    }

    /// Whether it goes with requests that other sites cause. Browsers differ in what they do where this is not said.
    #[must_use]
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = Some(same_site);
        self
    }

    /// The value of the `Set-Cookie` field.
    ///
    /// # Errors
    /// [`CookieError`] when a browser would drop the cookie or read another one.
    pub fn encode(&self) -> Result<HeaderValue, CookieError> {
        self.check()?;
        let mut line = format!("{}={}", self.name, self.value);
        let mut push = |name: &str, value: &dyn Display| write!(line, "; {name}={value}").expect("a text takes all");
        if let Some(path) = &self.path {
            push("Path", path);
        }
        if let Some(domain) = &self.domain {
            push("Domain", domain);
        }
        if let Some(age) = self.max_age {
            push("Max-Age", &age.as_secs());
        }
        if let Some(end) = self.expires {
            push("Expires", &httpdate::HttpDate::from(end));
        }
        if let Some(same_site) = self.same_site {
            push("SameSite", &format_args!("{same_site:?}"));
        }
        if self.is_secure {
            line.push_str("; Secure");
        }
        if self.is_http_only {
            line.push_str("; HttpOnly");
        }
        Ok(HeaderValue::try_from(line).expect("what was checked is visible ASCII and blanks"))
    }

    fn check(&self) -> Result<(), CookieError> {
        let is_wrong = |problem| Err(CookieError { name: self.name.clone(), problem });
        let is_path =
            |path: &String| path.starts_with('/') && path.bytes().all(|byte| is_visible(byte) && byte != b';');
        if !is_token(&self.name) {
            return is_wrong("a name is made of letters, digits and !#$%&'*+-.^_`|~");
        }
        if !self.value.bytes().all(is_cookie_octet) {
            return is_wrong("a value has visible ASCII characters without \" , ; and \\: encode it");
        }
        if self.name.len() + self.value.len() > MAX_COOKIE {
            return is_wrong(
                "name and value have more than 4096 bytes, and browsers drop it: keep a key to it instead",
            );
        }
        if !self.path.as_ref().is_none_or(is_path) {
            return is_wrong("a path starts with a slash and has visible ASCII characters without `;`: encode it");
        }
        if !self.domain.as_deref().is_none_or(is_domain) {
            return is_wrong("a domain is made of letters, digits, hyphens and dots");
        }
        if self.expires.is_some_and(|end| !is_http_date(end)) {
            return is_wrong("it expires before 1970 or after 9999, for which there is no date");
        }
        if self.same_site == Some(SameSite::None) && !self.is_secure {
            return is_wrong("SameSite=None is dropped by browsers unless it is secure, too");
        }
        self.check_prefix()
    }

    /// Names that begin so are a promise, and a cookie that breaks it is dropped (RFC 6265bis section 4.1.3).
    fn check_prefix(&self) -> Result<(), CookieError> {
        let is_wrong = |problem| Err(CookieError { name: self.name.clone(), problem });
        let has = |prefix: &str| self.name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        if has("__Secure-") && !self.is_secure {
            return is_wrong("a name with __Secure- is for secure cookies");
        }
        let is_of_host = self.is_secure && self.domain.is_none() && self.path.as_deref() == Some("/");
        if has("__Host-") && !is_of_host {
            return is_wrong("a name with __Host- is for secure cookies with the path / and without a domain");
        }
        Ok(())
    }

    /// What tells cookies of one response apart.
    fn identity(&self) -> String {
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{};{};{}", self.name, or_empty(&self.path), or_empty(&self.domain))
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookie").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A cookie that no browser would keep as it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieError {
    name: String,
    problem: &'static str,
}

impl Display for CookieError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cookie {:?}: {}", self.name, self.problem)
    }
}

impl Error for CookieError {}

impl Response {
    /// With a cookie, in a `Set-Cookie` field of its own.
    ///
    /// # Errors
    /// As [`Cookie::encode`].
    pub fn with_cookie(self, cookie: &Cookie) -> Result<Self, CookieError> {
        Ok(self.with_header(SET_COOKIE, cookie.encode()?))
    }
}

impl Request {
    /// The value of the first cookie of this name.
    ///
    /// Browsers send the one with the longest path first. A client may send what it likes: only the server's own check of the
    /// value makes it more than a claim.
    #[doc(alias = "getCookie")]
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All cookies, in the order sent, as sent. What has no `=`, or is not UTF-8, is none.
    #[doc(alias = "received_cookies")]
    pub fn cookies(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = self.exchange().head.header_all("cookie");
        let items = fields.flat_map(|field| field.split(|byte| *byte == b';'));
        items.filter_map(|item| str::from_utf8(item).ok()?.trim_start_matches([' ', '\t']).split_once('='))
    }

    /// Has the answer set a cookie, whatever the answer will be: also when it is an error.
    ///
    /// A later one with the same name, path and domain takes its place.
    ///
    /// # Errors
    /// As [`Cookie::encode`], and when the answer has begun.
    #[doc(alias = "addCookie")]
    pub fn add_cookie(&self, cookie: &Cookie) -> Result<(), CookieError> {
        let line = cookie.encode()?;
        if self.exchange().is_started() {
            let problem = "the head of the answer is sent already: set it before the first write";
            return Err(CookieError { name: cookie.name.clone(), problem });
        }
        self.exchange().set_cookie(cookie.identity(), line);
        Ok(())
    }
}

/// `cookie-octet` of RFC 6265 section 4.1.1.
fn is_cookie_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)
}

fn is_visible(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' '
}

fn is_domain(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

/// Whether the form of RFC 9110 section 5.6.7 can say it.
fn is_http_date(time: SystemTime) -> bool {
    time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.as_secs() < YEAR_10000)
}

/// What browsers keep (RFC 6265bis section 5.6).
const MAX_COOKIE: usize = 4096;

/// Its first second, counted from 1970.
const YEAR_10000: u64 = 253_402_300_800;
