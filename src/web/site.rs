//! [`Site`]: the HTTP server, a factory of connections that serve a tree of resources.

use std::fmt;
use std::rc::Rc;

use crate::deferred::Deferred;
use crate::failure::Result;
use crate::net::{Address, Factory, ListeningPort};
use crate::reactor::{Reactor, Trigger};
use crate::web::access_log::{Access, AccessLog};
use crate::web::connection::HttpProtocol;
use crate::web::drain::{Drain, Readiness};
use crate::web::forwarded::TrustedProxies;
use crate::web::limits::Limits;
use crate::web::pages::{ErrorPage, maker};
use crate::web::resource::Resource;
use crate::web::response::Response;
use crate::web::shared::Shared;

/// Serves a tree of resources over HTTP/1.1; give it to [`Reactor::listen_tcp`](crate::Reactor::listen_tcp).
///
/// ```no_run
/// use dosimeter::web::{Branch, Site};
/// use dosimeter::{MetricsResource, Reactor};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let root = Branch::new();
/// root.put_child("metrics", MetricsResource::new());
/// reactor.listen_tcp(8000, Site::new(root))?;
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct Site(Rc<Shared>);

impl Site {
    /// A site that serves `root` with the default limits.
    pub fn new(root: impl Resource) -> Self {
        Site::with_limits(root, Limits::default())
    }

    /// A site that serves `root` with these limits.
    pub fn with_limits(root: impl Resource, limits: Limits) -> Self {
        Site(Rc::new(Shared::new(Rc::new(root), limits)))
    }

    /// Has `make` make the error pages of this site, as [`ErrorPages`](super::ErrorPages) does for a part of its tree: also
    /// the answers to what is no request at all.
    ///
    /// ```
    /// use dosimeter::web::{Branch, Response, Site};
    ///
    /// let site = Site::new(Branch::new())
    ///     .error_pages(|error| Response::text(format!("{}: {}", error.status(), error.detail())));
    /// ```
    ///
    /// # Panics
    /// When it was called before.
    #[track_caller]
    #[must_use = "it is the same site, to go on with"]
    pub fn error_pages(self, make: impl Fn(&ErrorPage<'_>) -> Response + 'static) -> Self {
        assert!(self.0.pages.set(maker(make)).is_ok(), "the site has error pages already");
        self
    }

    /// Writes a line for each request to the log, with `format` and the target `dosimeter::access`, at the level `info`.
    ///
    /// One line for each request that was answered or left by its client (as 499), when that is over, and for whatever was
    /// refused. [`combined`](super::combined) makes the lines that every analyser reads; an empty line is written as well.
    ///
    /// ```
    /// use dosimeter::web::{Branch, Site, combined};
    ///
    /// let site = Site::new(Branch::new()).access_log(combined);
    /// // Or with less, or in JSON, or with the time it took:
    /// let site = Site::new(Branch::new())
    ///     .access_log(|access| format!("{} in {:?}", combined(access), access.duration()));
    /// ```
    ///
    /// # Panics
    /// When it was called before.
    #[doc(alias = "logFormatter")]
    #[track_caller]
    #[must_use = "it is the same site, to go on with"]
    pub fn access_log(self, format: impl Fn(&Access<'_>) -> String + 'static) -> Self {
        assert!(self.0.access_log.set(AccessLog::new(format)).is_ok(), "the site has an access log already");
        self
    }

    /// Lets these proxies say on whose behalf they ask; see [`Request::client_addr`](super::Request::client_addr) and
    /// [`is_secure`](super::Request::is_secure).
    ///
    /// Without it nobody is believed: a header can be written by everybody. Requests for `https://` targets, which a server
    /// without TLS has to refuse (421, RFC 9110 section 7.4), are taken from these proxies alone.
    ///
    /// # Panics
    /// When it was called before.
    #[track_caller]
    #[must_use = "it is the same site, to go on with"]
    pub fn trust_proxies(self, proxies: TrustedProxies) -> Self {
        assert!(self.0.proxies.set(proxies).is_ok(), "the site trusts proxies already");
        self
    }

    /// Lets `PUT` requests with `Content-Range` through to resources, all of which have to know what to do with a part.
    ///
    /// Without it they are refused with 400, because a resource that does not look at the field would take the part for the
    /// whole and lose the rest (RFC 9110 section 14.5).
    ///
    /// ```
    /// use dosimeter::web::{Branch, Site};
    ///
    /// let site = Site::new(Branch::new()).accept_partial_put();
    /// ```
    #[must_use = "it is the same site, to go on with"]
    pub fn accept_partial_put(self) -> Self {
        self.0.accepts_partial_put.set(true);
        self
    }

    /// Ends in good order; the chain fires when no connection is left.
    ///
    /// [`readiness`](Site::readiness) turns false. The ports are closed, at once or when [`Drain::accepting`] has passed. From
    /// now on each answer says `Connection: close` and is the last of its connection, and what a connection has begun to ask
    /// is still answered. Connections without a request are closed; those that were used within the last second are given the
    /// rest of it, because their next request may be on its way. What is left at [`Drain::deadline`] is aborted, and whoever
    /// waits for it told so.
    ///
    /// There is no way back. Asked again it goes on, to the earlier of the deadlines.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dosimeter::Reactor;
    /// use dosimeter::web::{Branch, Drain, Site};
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let site = Site::new(Branch::new());
    /// reactor.listen_tcp("127.0.0.1:0", site.clone())?;
    /// let stop = reactor.clone();
    /// site.shutdown(Drain::new(Duration::from_secs(10))).add_both(move |_| Ok(stop.stop()?));
    /// reactor.run()
    /// # }
    /// ```
    pub fn shutdown(&self, drain: Drain) -> Deferred<()> {
        let shared = self.0.clone();
        self.0.draining.begin(&drain, move || shared.is_empty())
    }

    /// Has the end of `reactor` wait for the end of this site: on SIGTERM, SIGINT or [`Reactor::stop`] it is
    /// [shut down](Site::shutdown) first.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use dosimeter::Reactor;
    /// use dosimeter::web::{Branch, Drain, Site};
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let site = Site::new(Branch::new());
    /// site.drain_on_shutdown(&reactor, Drain::new(Duration::from_secs(30)));
    /// reactor.listen_tcp(8000, site)?;
    /// reactor.run()
    /// # }
    /// ```
    pub fn drain_on_shutdown(&self, reactor: &Reactor, drain: Drain) -> Trigger {
        let site = self.clone();
        reactor.on_shutdown().before(move || site.shutdown(drain))
    }

    /// Whether requests are welcome; a resource for those who ask.
    pub fn readiness(&self) -> Readiness {
        self.0.draining.readiness().clone()
    }

    /// Whether requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.0.draining.readiness().is_ready()
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

impl Factory for Site {
    type Protocol = HttpProtocol;

    fn build_protocol(&self, _peer: &Address) -> Option<HttpProtocol> {
        Some(HttpProtocol::new(self.0.clone()))
    }

    fn listening(&self, port: &ListeningPort<Address>) {
        self.0.draining.add_port(port);
    }

    fn stop_factory(&self) -> Result<()> {
        self.0.draining.forget_stopped_ports();
        Ok(())
    }
}
