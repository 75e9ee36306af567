//! The request target and the authority (RFC 9112 section 3.2, RFC 3986 section 3.2.2).
//!
//! Rules:
//! 1. Each of the four forms is accepted only with the methods that may use it. Whoever takes a
//!    target for another form than the proxy before it did serves what that proxy meant to forbid.
//! 2. An authority is a host and a port, checked by the grammar and nothing more: a `Host` with a
//!    path, userinfo or a blank in it reads as two different hosts to two parsers.
//! 3. The target is kept as sent. Decoding happens once, by whoever splits the path into segments.

use std::ops::Range;

use super::error::Refusal;
use super::grammar::leading;

/// A request target and where its parts are.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    text: String,
    authority: Option<Range<usize>>,
    path: Path,
    query: Option<usize>,
}

/// Which methods have a form of their own (RFC 9112 sections 3.2.3 and 3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Connect,
    Options,
    Other,
}

#[derive(Clone, Debug, Default)]
enum Path {
    /// The bytes of the target in this range; empty in authority-form.
    Sent(Range<usize>),
    /// `/`: an absolute-form target without a path (RFC 9110 section 4.2.3).
    #[default]
    Root,
    /// `*`: the server as a whole (RFC 9110 section 9.3.7).
    Server,
}

impl Target {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.authority = None;
        self.path = Path::Root;
        self.query = None;
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn path(&self) -> &str {
        match &self.path {
            Path::Sent(range) => &self.text[range.clone()],
            Path::Root => "/",
            Path::Server => "*",
        }
    }

    /// Whether the path is `*`.
    pub(super) fn is_server(&self) -> bool {
        matches!(self.path, Path::Server)
    }

    /// Whether the path is empty.
    pub(super) fn has_no_path(&self) -> bool {
        matches!(&self.path, Path::Sent(range) if range.is_empty())
    }

    pub(super) fn query(&self) -> Option<&str> {
        self.query.map(|start| &self.text[start..])
    }

    /// The host and port of an absolute-form or authority-form target.
    pub(super) fn authority(&self) -> Option<&str> {
        self.authority.clone().map(|range| &self.text[range])
    }

    /// The scheme of an absolute-form target, in lower case.
    pub(super) fn scheme(&self) -> Option<&'static str> {
        let authority = self.authority.as_ref()?;
        match &self.text.as_bytes()[..authority.start] {
            b"" => None,
            scheme if scheme.len() == b"https://".len() => Some("https"),
            _ => Some("http"),
        }
    }

    /// Takes in the target of a request line.
    pub(super) fn parse(&mut self, text: &[u8], method: Use) -> Result<(), Refusal> {
        self.query = query_start(text)?;
        self.text.push_str(str::from_utf8(text).map_err(|_| Refusal::Target)?);
        match (text, method) {
            (_, Use::Connect) => return self.parse_authority_form(),
            ([b'/', ..], _) => self.set_path(0),
            (b"*", Use::Options) => self.path = Path::Server,
            _ => return self.parse_absolute_form(method),
        }
        Ok(())
    }

    /// `CONNECT host:port`; both are required, and there is no path (RFC 9110 section 9.3.6).
    fn parse_authority_form(&mut self) -> Result<(), Refusal> {
        let authority = Authority::parse(self.text.as_bytes()).ok_or(Refusal::Target)?;
        if matches!(authority.port, None | Some(0)) {
            return Err(Refusal::Target);
        }
        self.authority = Some(0..self.text.len());
        self.path = Path::Sent(0..0);
        Ok(())
    }

    /// `http://host:port/path?query`, what a proxy is sent and every server must accept.
    fn parse_absolute_form(&mut self, method: Use) -> Result<(), Refusal> {
        let start = scheme_len(self.text.as_bytes()).ok_or(Refusal::Target)?;
        let rest = &self.text.as_bytes()[start..];
        let len = rest.iter().position(|&byte| byte == b'/' || byte == b'?').unwrap_or(rest.len());
        Authority::parse(&rest[..len]).ok_or(Refusal::Target)?;
        let end = start + len;
        self.authority = Some(start..end);
        self.set_path(end);
        // The last proxy turns this into `OPTIONS *` (RFC 9112 section 3.2.4).
        if method == Use::Options && end == self.text.len() {
            self.path = Path::Server;
        }
        Ok(())
    }

    /// The path goes from `start` to the query.
    fn set_path(&mut self, start: usize) {
        let end = self.query.map_or(self.text.len(), |query| query - 1);
        self.path = if end == start { Path::Root } else { Path::Sent(start..end) };
    }
}

/// Where the query starts, past the first `?`, of a `text` that is made of what may stand in a URI, or is sent in one by
/// browsers.
///
/// A fragment is not sent (RFC 9112 section 3.2); whether `#` ends the path is what parsers differ in. The quotes and angle
/// brackets that enclose a URI elsewhere are no part of one. Browsers encode these, and a backslash in the path, which they
/// take for a slash; other characters outside of RFC 3986 section 2 they send as they are, so those pass.
fn query_start(text: &[u8]) -> Result<Option<usize>, Refusal> {
    let (_, rest) = text.split_at(leading(text, &IN_PATH));
    match rest {
        [] => Ok(None),
        [b'?', query @ ..] if leading(query, &IN_QUERY) == query.len() => Ok(Some(text.len() - query.len())),
        _ => Err(Refusal::Target),
    }
}

/// Whether `text` is `uri-host [ ":" port ]`, or empty: the client knows no host (RFC 9110 section
/// 7.2).
pub(super) fn is_host(text: &[u8]) -> bool {
    text.is_empty() || Authority::parse(text).is_some()
}

/// A host that is not empty, and its port, if one is given.
struct Authority {
    port: Option<u16>,
}

impl Authority {
    fn parse(text: &[u8]) -> Option<Self> {
        let host_len = match text {
            [b'[', rest @ ..] => ip_literal_len(rest)? + 1,
            _ => reg_name_len(text)?,
        };
        // No `http` URI has an empty host, and one with it has to be rejected (RFC 9110 section
        // 4.2.1).
        match text[host_len..] {
            _ if host_len == 0 => None,
            [] | [b':'] => Some(Self { port: None }),
            [b':', ref digits @ ..] => Some(Self { port: Some(port_number(digits)?) }),
            _ => None,
        }
    }
}

/// At most five digits: leading zeros beyond that are no port anybody writes.
fn port_number(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// The length of the registered name or IPv4 address at the start of `text`; `None` if `%` is not
/// an escape.
fn reg_name_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'%' if !is_escape(&text[at..]) => return None,
            _ if !is_reg_name_byte(byte) => break,
            _ => at += 1,
        }
    }
    Some(at)
}

fn is_escape(text: &[u8]) -> bool {
    matches!(text, [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// `unreserved`, `sub-delims` and the `%` of an escape (RFC 3986 section 3.2.2).
fn is_reg_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'%' | b'&'..=b',' | b';' | b'=')
}

/// The length of an IPv6 address and its closing bracket.
///
/// The address of a future version is refused, as RFC 3986 section 3.2.2 tells who does not know it
/// to.
fn ip_literal_len(text: &[u8]) -> Option<usize> {
    let len = text.iter().position(|&byte| byte == b']')?;
    str::from_utf8(&text[..len]).ok().filter(|address| is_ipv6(address)).map(|_| len + 1)
}

/// RFC 4291 section 2.2: eight groups, `::` once for one or more of them, the last two as IPv4.
fn is_ipv6(address: &str) -> bool {
    match address.split_once("::") {
        None => groups(address, true) == Some(8),
        Some((left, right)) => match (groups(left, false), groups(right, true)) {
            (Some(left), Some(right)) => left + right <= 7,
            _ => false,
        },
    }
}

/// The number of groups in a list of them, which may end in an IPv4 address if it is the `last`.
fn groups(list: &str, last: bool) -> Option<usize> {
    if list.is_empty() {
        return Some(0);
    }
    let (start, ipv4) = match list.rsplit_once(':') {
        _ if !(last && list.contains('.')) => (list, false),
        Some((start, address)) if is_ipv4(address) => (start, true),
        None if is_ipv4(list) => return Some(2),
        _ => return None,
    };
    let all = start.split(':').all(|group| matches!(group.len(), 1..=4) && is_hex(group));
    all.then(|| start.split(':').count() + if ipv4 { 2 } else { 0 })
}

fn is_hex(group: &str) -> bool {
    group.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_ipv4(address: &str) -> bool {
    address.split('.').count() == 4 && address.split('.').all(is_ipv4_part)
}

/// Leading zeros are refused: some read them as octal.
fn is_ipv4_part(part: &str) -> bool {
    let digits = part.bytes().all(|byte| byte.is_ascii_digit());
    digits && (part == "0" || !part.starts_with('0')) && part.parse::<u8>().is_ok()
}

/// The length of `http://` or `https://` at the start of `text`, in any case.
fn scheme_len(text: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .map(<[u8]>::len)
}

const IN_PATH: [bool; 256] = visible_but(b"#\"<>\\`?");
const IN_QUERY: [bool; 256] = visible_but(b"#\"<>");

/// The visible characters of ASCII without some.
const fn visible_but(excluded: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        table[byte as usize] = true;
        byte += 1;
    }
    let mut at = 0;
    while at < excluded.len() {
        table[excluded[at] as usize] = false;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hand-written check of an address agrees with that of the standard library.
    #[test]
    fn ipv6_literals_are_those_the_standard_library_reads() {
        let addresses = [
            "::",
            "::1",
            "1::",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7::",
            "::2:3:4:5:6:7:8",
            "1::8",
            "fe80::1",
            "::ffff:1.2.3.4",
            "1:2:3:4:5:6:1.2.3.4",
            "::1.2.3.4",
            "1:2:3:4:5:6:7",
            "1:2:3:4:5:6:7:8:9",
            "1::2::3",
            ":::",
            ":1",
            "1:",
            "",
            "g::",
            "12345::",
            "1.2.3.4",
            "1.2.3.4::",
            "::1.2.3",
            "::1.2.3.256",
            "::01.2.3.4",
            "1:2:3:4:5:6:7:1.2.3.4",
            "::1%eth0",
            "1::2:3:4:5:6:7:8",
            "1:2:3:4::5:6:7:8",
            "::1:",
            ":1::",
            "::+1.2.3.4",
            "::1.2.3.4.5",
        ];
        for address in addresses {
            let expected = address.parse::<std::net::Ipv6Addr>().is_ok();
            assert_eq!(is_ipv6(address), expected, "{address}");
        }
    }
}
