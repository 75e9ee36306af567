//! [`TrustedProxies`]: who may say on whose behalf a request was made.
//!
//! Rules kept here:
//! - What a proxy says counts only if the connection comes from one that is trusted; everybody can write a header.
//! - One of the two fields is looked at, the one that the proxies write. They pass the other one on as the client sent it.
//! - Fields are read from the right, which is where the nearest proxy wrote, and no further than the proxies are trusted.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::http::RequestHead;
use crate::net::Address;

/// The proxies that may say on whose behalf they ask, for [`Site::trust_proxies`](super::Site::trust_proxies).
///
/// ```
/// use dosimeter::web::{Branch, Site, TrustedProxies};
///
/// # fn main() -> dosimeter::Result<()> {
/// let proxies = TrustedProxies::new(["127.0.0.1", "10.1.0.0/16", "fd00::/8", "unix"])?;
/// let site = Site::new(Branch::new()).trust_proxies(proxies);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    unix: bool,
    field: Field,
}

/// The field in which proxies tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    XForwarded,
    Forwarded,
}

impl TrustedProxies {
    /// Those with these addresses, or in these networks: `"192.0.2.1"`, `"10.0.0.0/8"`, `"fd00::/8"`; `"unix"` is whoever
    /// comes through a UNIX socket. They tell with `X-Forwarded-For` and `X-Forwarded-Proto`, as nearly all do.
    ///
    /// # Errors
    /// [`InvalidNetwork`] when one of them is none of that.
    pub fn new<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Result<Self, InvalidNetwork> {
        let mut proxies = TrustedProxies { networks: Vec::new(), unix: false, field: Field::XForwarded };
        for text in networks {
            match text.as_ref() {
                "unix" => proxies.unix = true,
                text => proxies.networks.push(Network::parse(text).ok_or_else(|| InvalidNetwork(text.to_owned()))?),
            }
        }
        Ok(proxies)
    }

    /// They tell with `Forwarded` instead (RFC 7239).
    #[must_use]
    pub fn with_forwarded(self) -> Self {
        TrustedProxies { field: Field::Forwarded, ..self }
    }

    /// The client of a request that came from `peer`; `None` when that is a UNIX socket and nothing else is known.
    pub(crate) fn client(&self, peer: &Address, head: &RequestHead) -> Option<IpAddr> {
        let mut client = peer.socket_addr().map(|addr| addr.ip());
        let mut trusted = self.trusts_peer(peer);
        let mut hops = match self.field {
            Field::XForwarded => elements(head, "x-forwarded-for"),
            Field::Forwarded => elements(head, "forwarded"),
        };
        while trusted && let Some(hop) = hops.pop() {
            let Some(ip) = self.address(&hop) else { break };
            client = Some(ip);
            trusted = self.trusts(ip);
        }
        client
    }

    /// Whether a trusted proxy says that it was asked by HTTPS, or asks for an `https` target itself. What the nearest one
    /// says counts.
    pub(crate) fn is_secure(&self, peer: &Address, head: &RequestHead) -> bool {
        if !self.trusts_peer(peer) {
            return false;
        }
        let scheme = match self.field {
            Field::XForwarded => elements(head, "x-forwarded-proto").pop(),
            Field::Forwarded => elements(head, "forwarded").pop().and_then(|hop| parameter(&hop, "proto")),
        };
        scheme.as_deref().or(head.scheme()).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
    }

    fn address(&self, hop: &str) -> Option<IpAddr> {
        match self.field {
            Field::XForwarded => parse_node(hop),
            Field::Forwarded => parse_node(&parameter(hop, "for")?),
        }
    }

    pub(crate) fn trusts_peer(&self, peer: &Address) -> bool {
        peer.socket_addr().map_or(self.unix, |addr| self.trusts(addr.ip()))
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.has(ip))
    }
}

/// A text that names no address and no network; see [`TrustedProxies::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidNetwork(String);

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no address and no network: write 192.0.2.1, 10.0.0.0/8, fd00::/8 or unix", self.0)
    }
}

impl Error for InvalidNetwork {}

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy)]
struct Network {
    /// IPv4 addresses as IPv6 has them, so that there is one kind.
    bits: u128,
    length: u32,
}

impl Network {
    /// An address with bits behind its length set is none: one of the two is a mistake.
    fn parse(text: &str) -> Option<Self> {
        let (ip, length) = match text.split_once('/') {
            Some((ip, length)) if length.bytes().all(|byte| byte.is_ascii_digit()) => (ip, Some(length.parse().ok()?)),
            Some(_) => return None,
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().ok()?;
        let (most, before) = if ip.is_ipv4() { (32, 96) } else { (128, 0) };
        let length = before + length.unwrap_or(most);
        let network = Network { bits: bits(ip), length };
        (length <= 128 && network.bits & !network.mask() == 0).then_some(network)
    }

    fn has(&self, ip: IpAddr) -> bool {
        bits(ip) & self.mask() == self.bits
    }

    fn mask(&self) -> u128 {
        u128::MAX.checked_shl(128 - self.length).unwrap_or(0)
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The members of all fields of this name, in order. A comma inside of quotes is none between members.
fn elements(head: &RequestHead, name: &str) -> Vec<String> {
    let mut elements = Vec::new();
    for value in head.header_all(name) {
        let text = String::from_utf8_lossy(value);
        elements.extend(split_unquoted(&text, ',').map(|member| member.trim().to_owned()));
    }
    elements.retain(|element| !element.is_empty());
    elements
}

fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |char| {
        if escaped {
            escaped = false;
        } else {
            match char {
                '"' => quoted = !quoted,
                '\\' => escaped = quoted,
                _ => return char == separator && !quoted,
            }
        }
        false
    })
}

/// The value of a parameter of an element of `Forwarded`, without its quotes.
fn parameter(element: &str, name: &str) -> Option<String> {
    let mut pairs = split_unquoted(element, ';').filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    match value.strip_prefix('"') {
        Some(rest) => Some(rest.strip_suffix('"')?.replace('\\', "")),
        None => Some(value.to_owned()),
    }
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_node(text: &str) -> Option<IpAddr> {
    let ip = if let Ok(ip) = text.parse::<IpAddr>() {
        ip
    } else if let Ok(addr) = text.parse::<SocketAddr>() {
        addr.ip()
    } else if let Some(host) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        host.parse::<Ipv6Addr>().ok()?.into()
    } else {
        // A port that is no number: `unknown` ports may be hidden (RFC 7239 section 6).
        text.rsplit_once(':')?.0.parse::<Ipv4Addr>().ok()?.into()
    };
    Some(ip.to_canonical())
}
