//! Who asks, and for whom: what a request tells of its client, as far as it is to be believed.

use std::fmt;
use std::net::IpAddr;

use crate::web::request::Request;

/// A name and a password, as a client sends them; see [`Request::credentials`].
///
/// Its `Debug` form leaves the password out.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password. Compare it in a time that tells nothing of it.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Request {
    /// The address of the client: that of the peer, or what a [trusted proxy](super::TrustedProxies) says.
    ///
    /// `None` behind a UNIX socket, unless such a proxy is there.
    #[doc(alias = "getClientIP")]
    pub fn client_addr(&self) -> Option<IpAddr> {
        self.exchange().client_addr()
    }

    /// Whether the client uses HTTPS, as far as is known: a [trusted proxy](super::TrustedProxies) says so, or asks for an
    /// `https` target.
    #[doc(alias = "isSecure")]
    pub fn is_secure(&self) -> bool {
        let channel = self.exchange().channel();
        channel.proxies().is_some_and(|proxies| proxies.is_secure(&self.peer_addr(), &self.exchange().head))
    }

    /// What a URL of this server begins with, as the client sees it: `https://example.com:8443`. With the path of
    /// [`Router::url_for`](super::Router::url_for) behind it it is a whole URL, for a feed or a mail.
    ///
    /// The scheme is that of [`is_secure`](Request::is_secure), host and port are those that were asked for. They are the
    /// client's word: what is sent to somebody else, such as the link in a mail that sets a new password, must not lead to
    /// wherever its sender liked. Serve only hosts that are known ([`VirtualHosts`](super::VirtualHosts)), or use a constant.
    /// `None` where no host is named.
    ///
    /// ```
    /// use dosimeter::testing;
    /// use dosimeter::web::{Request, Response, Router};
    ///
    /// let app = Router::new();
    /// let routes = app.clone();
    /// app.route("/notes/<int:id>", |_| "...").named("note");
    /// app.route("/feed", move |request: Request| {
    ///     let path = routes.url_for("note", &[("id", &7)]).expect("the pattern has an id and nothing else");
    ///     Response::text(format!("{}{path}", request.origin().unwrap_or_default()))
    /// });
    /// assert_eq!(testing::get(app, "/feed").text(), "http://localhost/notes/7");
    /// ```
    #[doc(alias = "force_external")]
    #[doc(alias = "prePathURL")]
    pub fn origin(&self) -> Option<String> {
        let host = self.exchange().head.host().filter(|host| !host.is_empty())?;
        let scheme = if self.is_secure() { "https" } else { "http" };
        Some(format!("{scheme}://{host}"))
    }

    /// The name and password of `Authorization: Basic` (RFC 7617).
    ///
    /// `None` when there are none, they are broken or not UTF-8, or the field came twice. They are encoded, not encrypted:
    /// without HTTPS in front everybody on the way reads them.
    ///
    /// ```
    /// use dosimeter::web::{Request, Response, StatusCode};
    /// use dosimeter::web::header::{HeaderValue, WWW_AUTHENTICATE};
    ///
    /// # fn is_known(credentials: &dosimeter::web::Credentials) -> bool { false }
    /// fn private(request: Request) -> Response {
    ///     if request.credentials().is_some_and(|credentials| is_known(&credentials)) {
    ///         return Response::text("welcome");
    ///     }
    ///     let challenge = HeaderValue::from_static("Basic realm=\"private\", charset=\"UTF-8\"");
    ///     Response::empty(StatusCode::UNAUTHORIZED).with_header(WWW_AUTHENTICATE, challenge)
    /// }
    /// ```
    #[doc(alias = "getUser")]
    #[doc(alias = "getPassword")]
    pub fn credentials(&self) -> Option<Credentials> {
        let mut fields = self.exchange().head.header_all("authorization");
        let (Some(field), None) = (fields.next(), fields.next()) else { return None };
        let (scheme, encoded) = str::from_utf8(field).ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(decode_base64(encoded.trim_start_matches(' '))?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Credentials { user: user.to_owned(), password: password.to_owned() })
    }
}

/// RFC 4648 section 4. The padding may be left out, but nothing may stand that decodes to nothing.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    if digits.len() < text.len() && !text.len().is_multiple_of(4) {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in digits.bytes() {
        bits = bits << 6 | digit_value(digit)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0 && count < 6).then_some(bytes)
}

fn digit_value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_or_refused() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zg", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm8", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm9vYmFy", Some(b"foobar")),
            ("+/+/", Some(b"\xfb\xff\xbf")),
            ("Z", None),
            ("Zm9vY", None),
            ("Zh==", None),
            ("Zg=", None),
            ("Zm9v=", None),
            ("Zg==Zg==", None),
            ("Zm9v\n", None),
            ("Zm 9v", None),
            ("-_-_", None),
        ] {
            assert_eq!(decode_base64(text).as_deref(), bytes, "{text:?}");
        }
    }
}
