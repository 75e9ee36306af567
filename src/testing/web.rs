//! Requests to a site, in memory and in no time.
//!
//! Rules kept here:
//! - A request goes through all that one from a network goes through: the bytes of it, the engine, the walk, the bytes of the
//!   answer, and the deadlines between them.

use std::fmt;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::clock::Clock;
use crate::net::Address;
use crate::testing::client::{End, MemoryClient};
use crate::testing::reactor::MemoryReactor;
use crate::testing::reply::Reply;
use crate::web::{Resource, Site};

/// Asks `app` for `target` with GET, and waits for the answer in virtual time: what takes an hour takes none.
///
/// `app` is a [`Site`], or a [`Resource`] that is to be the root of one. `target` is a path, with a query if there is one.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::testing;
/// use dosimeter::web::{Request, Response, Router};
///
/// let app = Router::new();
/// app.route("/hello/<name>", |request: Request| {
///     Response::text(format!("Hello, {}!", request.param::<String>("name").unwrap()))
/// });
/// app.route("/late", |request: Request| {
///     dosimeter::defer_later(&request.reactor(), Duration::from_secs(5), || "Sorry to keep you waiting.")
/// });
///
/// let site = dosimeter::web::Site::new(app);
/// assert_eq!(testing::get(&site, "/hello/Ada").text(), "Hello, Ada!");
/// let reply = testing::get(&site, "/late");
/// assert_eq!((reply.text(), reply.took()), ("Sorry to keep you waiting.", Duration::from_secs(5)));
/// assert_eq!(testing::get(&site, "/nowhere").status(), 404);
/// ```
///
/// # Panics
/// When what comes back is no response; when none has come after an hour of the reactor's time.
#[track_caller]
pub fn get(app: impl IntoSite, target: &str) -> Reply {
    request(Method::GET, target).send(app)
}

/// Sends `body` to `target` with POST, and waits for the answer; see [`get`].
///
/// ```
/// use dosimeter::testing;
/// use dosimeter::web::{Render, Request, Resource, Response};
///
/// struct Echo;
///
/// impl Resource for Echo {
///     fn is_leaf(&self) -> bool {
///         true
///     }
///
///     fn render_post(&self, request: Request) -> Render {
///         Response::text(request.body().to_vec()).into()
///     }
/// }
///
/// assert_eq!(testing::post(Echo, "/", "ping").body(), b"ping");
/// ```
///
/// # Panics
/// As `get`.
#[track_caller]
pub fn post(app: impl IntoSite, target: &str, body: impl Into<Vec<u8>>) -> Reply {
    request(Method::POST, target).body(body).send(app)
}

/// A request to be sent to a site; see [`TestRequest`].
pub fn request(method: Method, target: &str) -> TestRequest {
    TestRequest { method, target: target.to_owned(), fields: Vec::new(), body: Vec::new(), peer: PEER.into() }
}

/// What can answer a [`TestRequest`]: a [`Site`], or a [`Resource`] that is to be the root of one.
pub trait IntoSite {
    /// The site.
    fn into_site(self) -> Site;
}

impl IntoSite for Site {
    fn into_site(self) -> Site {
        self
    }
}

impl IntoSite for &Site {
    fn into_site(self) -> Site {
        self.clone()
    }
}

impl<R: Resource> IntoSite for R {
    fn into_site(self) -> Site {
        Site::new(self)
    }
}

/// A request that a test puts together.
///
/// ```
/// use dosimeter::testing;
/// use dosimeter::web::{Method, Request, Router};
///
/// let app = Router::new();
/// app.route("/who", |request: Request| request.header("user-agent").unwrap_or_default().to_vec());
/// let reply = testing::request(Method::GET, "/who").header("User-Agent", "a test").send(app);
/// assert_eq!(reply.text(), "a test");
/// ```
#[derive(Debug, Clone)]
#[must_use = "it is sent by `send` or `begin`"]
pub struct TestRequest {
    method: Method,
    target: String,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
    peer: Address,
}

impl TestRequest {
    /// Adds a header field. Without one of these names `Host` is sent, and `Content-Length` with a body.
    ///
    /// # Panics
    /// When it is no field: what a server does with such is to be tested through [`MemoryClient::send`].
    #[track_caller]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap_or_else(|_| panic!("no name of a field: {name:?}"));
        let value = HeaderValue::from_str(value).unwrap_or_else(|_| panic!("no value of a field: {value:?}"));
        self.fields.push((name, value));
        self
    }

    /// Gives it a body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Gives it the body of a form with these fields, as a browser sends one without files, and its `Content-Type`.
    ///
    /// ```
    /// use dosimeter::testing;
    /// use dosimeter::web::{FormError, Method, Request, Response, Router};
    ///
    /// let app = Router::new();
    /// app.route("/login", |request: Request| -> Result<Response, FormError> {
    ///     Ok(Response::text(format!("Hello, {}!", request.form()?.parse::<String>("user")?)))
    /// });
    /// let reply = testing::request(Method::POST, "/login").form(&[("user", "Ada & Co"), ("password", "...")]).send(app);
    /// assert_eq!(reply.text(), "Hello, Ada & Co!");
    /// ```
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        self.header("content-type", "application/x-www-form-urlencoded").body(fields.join("&"))
    }

    /// Has it come from this address; 127.0.0.1 with some port unless told otherwise.
    pub fn from(mut self, peer: impl Into<Address>) -> Self {
        self.peer = peer.into();
        self
    }

    /// Sends it and waits for the answer, in virtual time; see [`get`].
    ///
    /// # Panics
    /// As `get`.
    #[track_caller]
    pub fn send(self, app: impl IntoSite) -> Reply {
        self.begin(app).wait()
    }

    /// Sends it and lets the test wait by itself.
    pub fn begin(self, app: impl IntoSite) -> Asked {
        Asked::new(self, app.into_site())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let has = |wanted: HeaderName| self.fields.iter().any(|(name, _)| *name == wanted);
        if !has(http::header::HOST) {
            bytes.extend_from_slice(b"Host: localhost\r\n");
        }
        let is_sized = has(http::header::CONTENT_LENGTH) || has(http::header::TRANSFER_ENCODING);
        if !is_sized && (!self.body.is_empty() || self.method == Method::POST) {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        for (name, value) in &self.fields {
            bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A request that was sent, and may be answered.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::testing;
/// use dosimeter::web::{Method, NOT_DONE_YET, Render, Request, Resource};
/// use dosimeter::Clock;
///
/// struct Slow;
///
/// impl Resource for Slow {
///     fn is_leaf(&self) -> bool {
///         true
///     }
///
///     fn render_get(&self, request: Request) -> Render {
///         let reactor = request.reactor();
///         reactor.call_later(Duration::from_secs(2), move || {
///             let mut request = request;
///             request.write("done");
///             request.finish();
///         });
///         NOT_DONE_YET
///     }
/// }
///
/// let asked = testing::request(Method::GET, "/").begin(Slow);
/// asked.advance(Duration::from_secs(1));
/// assert!(asked.reply().is_none());
/// asked.advance(Duration::from_secs(1));
/// assert_eq!(asked.reply().unwrap().text(), "done");
/// ```
pub struct Asked {
    // In the order in which they are to be dropped.
    client: MemoryClient,
    memory: MemoryReactor,
    method: Method,
    began: Instant,
}

impl Asked {
    fn new(request: TestRequest, site: Site) -> Self {
        let memory = MemoryReactor::new();
        memory.reactor().listen_tcp(PORT, site).expect("nobody else listens in here");
        let client = memory.connect_from(request.peer.clone(), ([127, 0, 0, 1], PORT));
        let began = memory.now();
        client.send(request.bytes());
        Asked { client, memory, method: request.method, began }
    }

    /// The answer, when it is whole.
    ///
    /// # Panics
    /// When what came is no response, when more came than one, and when the connection ended before it was whole.
    #[track_caller]
    pub fn reply(&self) -> Option<Reply> {
        let (input, end) = (self.client.received(), self.client.end());
        let reply = Reply::read(&self.method, &input, end == Some(End::Closed), self.memory.now() - self.began);
        match (reply, end) {
            (Some((reply, length)), _) => {
                assert_eq!(length, input.len(), "there is more than the response: {}", input.escape_ascii());
                Some(reply)
            }
            (None, None) => None,
            (None, Some(end)) => panic!("the connection ended ({end:?}) after {:?}", input.escape_ascii().to_string()),
        }
    }

    /// What has come of the answer so far, as it is.
    pub fn received(&self) -> Vec<u8> {
        self.client.received()
    }

    /// Lets time pass; see [`MemoryReactor::advance`].
    pub fn advance(&self, amount: Duration) {
        self.memory.advance(amount);
    }

    /// Waits for the answer, in virtual time.
    ///
    /// # Panics
    /// As [`reply`](Asked::reply); when there is no answer after an hour.
    #[track_caller]
    pub fn wait(&self) -> Reply {
        let end = self.memory.now() + PATIENCE;
        loop {
            if let Some(reply) = self.reply() {
                return reply;
            }
            assert!(self.memory.now() < end, "no answer after {PATIENCE:?}, only {:?}", self.client);
            self.memory.advance_to_next(end - self.memory.now());
        }
    }

    /// The connection, to do with it what clients do: send more, stop reading.
    pub fn client(&self) -> &MemoryClient {
        &self.client
    }

    /// Has the client leave with a reset, whether it has its answer or not; gives back the reactor.
    ///
    /// A client that just closes ([`MemoryClient::close`]) may as well be one that has sent its last and waits: a server finds
    /// out when it answers.
    pub fn leave(self) -> MemoryReactor {
        self.client.reset();
        self.memory
    }

    /// The reactor of the site, with its time and its figures.
    pub fn memory(&self) -> &MemoryReactor {
        &self.memory
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("method", &self.method).field("client", &self.client).finish()
    }
}

const PORT: u16 = 80;

const PEER: ([u8; 4], u16) = ([127, 0, 0, 1], 49_152);

/// No test means to wait longer, and no server should.
const PATIENCE: Duration = Duration::from_secs(3600);
