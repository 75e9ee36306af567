//! [`VirtualHosts`]: several sites on one port, told apart by the host that is asked.
//!
//! Rules kept here:
//! - A host has one spelling here: small letters, no port, no dot at its end, an IPv6 address in its shortest form. Names are
//!   compared in it, so that no spelling leads past a host to the default.
//! - What a client calls the server is no label of a metric and part of no page.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::rc::Rc;

use crate::web::request::Request;
use crate::web::resource::{Answer, Render, Resource, accepts_stream, not_found};

/// A resource that hands a request to another one by the host that it is for.
///
/// That is the host of an absolute-form target, else that of the `Host` field (RFC 9112 section 3.2.2). A request for a host
/// that nobody has goes to the [default](VirtualHosts::default_host), and is answered with 404 if there is none. The default
/// is also what clients without a host get, and scanners that try addresses.
///
/// In the metrics, hosts with the same paths count as one.
///
/// ```
/// use dosimeter::web::{Branch, Page, Response, Site, StatusCode, VirtualHosts};
///
/// let (shop, users) = (Branch::new(), Branch::new());
/// let hosts = VirtualHosts::new()
///     .add("shop.example.com", shop)
///     .add("*.users.example.com", users)
///     .default_host(Page::new(Response::empty(StatusCode::MISDIRECTED_REQUEST)));
/// let site = Site::new(hosts);
/// ```
#[doc(alias = "NameVirtualHost")]
#[derive(Default)]
pub struct VirtualHosts {
    hosts: BTreeMap<String, Rc<dyn Resource>>,
    /// By what follows `*.`.
    wildcards: BTreeMap<String, Rc<dyn Resource>>,
    default: Option<Rc<dyn Resource>>,
}

impl VirtualHosts {
    /// No hosts.
    pub fn new() -> Self {
        VirtualHosts::default()
    }

    /// Has `resource` answer for `host`: a name, an address (`[::1]` with its brackets), or `*.` and a name for everything
    /// below that name. The longest name that fits counts.
    ///
    /// # Panics
    /// When `host` is none of these (a port is not part of it, and a name of other than ASCII letters has to be given in
    /// punycode), or was added before.
    #[doc(alias = "addHost")]
    #[must_use]
    #[track_caller]
    pub fn add(mut self, host: &str, resource: impl Resource) -> Self {
        let (hosts, name) = match host.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcards, parent),
            None => (&mut self.hosts, host),
        };
        let known = normal(name).filter(|_| !has_port(name) && name.bytes().all(is_of_host));
        let known =
            known.unwrap_or_else(|| panic!("{host:?} is no host: give a name in ASCII or an address, without a port"));
        let before = hosts.insert(known.into_owned(), Rc::new(resource));
        assert!(before.is_none(), "the host {host:?} was added before");
        self
    }

    /// Has `resource` answer for all other hosts, and where none is named.
    #[must_use]
    pub fn default_host(mut self, resource: impl Resource) -> Self {
        self.default = Some(Rc::new(resource));
        self
    }

    /// The resource that answers a request.
    fn chosen(&self, request: &Request) -> Option<Rc<dyn Resource>> {
        let host = request.hostname();
        host.and_then(|host| self.find(&host)).or(self.default.as_ref()).cloned()
    }

    fn find(&self, host: &str) -> Option<&Rc<dyn Resource>> {
        let parents = host.match_indices('.').filter(|(dot, _)| *dot > 0).map(|(dot, _)| &host[dot + 1..]);
        self.hosts.get(host).or_else(|| parents.into_iter().find_map(|parent| self.wildcards.get(parent)))
    }
}

impl Resource for VirtualHosts {
    fn is_leaf(&self) -> bool {
        true
    }

    fn accepts_stream(&self, request: &Request) -> bool {
        self.chosen(request).is_some_and(|resource| accepts_stream(resource, request))
    }

    fn render(&self, request: Request) -> Render {
        match self.chosen(&request) {
            Some(resource) => Render(Answer::Resource(resource)),
            None => not_found(&request),
        }
    }
}

impl fmt::Debug for VirtualHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wildcards = self.wildcards.keys().map(|parent| format!("*.{parent}"));
        f.debug_set().entries(self.hosts.keys().cloned().chain(wildcards)).finish()
    }
}

impl Request {
    /// The host that is asked, in small letters and without its port; an IPv6 address without its brackets.
    ///
    /// It is the client's word. `None` where none is named, and where it is longer than a name can be.
    #[doc(alias = "getRequestHostname")]
    pub fn hostname(&self) -> Option<Cow<'_, str>> {
        normal(self.exchange().head.host()?)
    }
}

/// The one spelling of a host that was sent as `host` or `host:port`.
fn normal(authority: &str) -> Option<Cow<'_, str>> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, _port) = rest.split_once(']')?;
        let address: Option<Ipv6Addr> = literal.parse().ok();
        return Some(address.map_or_else(|| literal.to_ascii_lowercase(), |address| address.to_string()).into());
    }
    let host = authority.split(':').next().unwrap_or_default();
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() || host.len() > MAX_NAME {
        return None;
    }
    match host.contains(|char: char| char.is_ascii_uppercase()) {
        true => Some(host.to_ascii_lowercase().into()),
        false => Some(host.into()),
    }
}

fn has_port(host: &str) -> bool {
    host.rsplit(']').next().is_some_and(|behind| behind.contains(':'))
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.[:]".contains(&byte)
}

/// RFC 1035 section 2.3.4. It also limits how many parents of a name are looked up.
const MAX_NAME: usize = 253;
