//! What a resource needs that is not for everybody: to compare credentials, and to ask for them (RFC 7617).
//!
//! Rule kept here: how long a comparison takes tells nothing of how much was right.

use ::http::StatusCode;
use ::http::header::{HeaderValue, WWW_AUTHENTICATE};

use crate::web::client::Credentials;
use crate::web::error::HttpError;

impl Credentials {
    /// Whether they are these, in a time that depends on the lengths alone.
    ///
    /// ```
    /// use dosimeter::MetricsResource;
    /// use dosimeter::web::{HttpError, Render, Request};
    ///
    /// fn metrics(request: Request) -> Render {
    ///     match request.credentials() {
    ///         Some(credentials) if credentials.are("prometheus", "secret") => MetricsResource::new().into(),
    ///         _ => HttpError::unauthorized("metrics").into(),
    ///     }
    /// }
    /// ```
    pub fn are(&self, user: &str, password: &str) -> bool {
        // Both are compared whatever the first comes to, or the time would tell which names there are.
        same(&self.user, user) & same(&self.password, password)
    }
}

impl HttpError {
    /// 401, which has a browser ask its user for name and password. The `realm` says what for.
    ///
    /// # Panics
    /// When `realm` has other than visible ASCII characters and blanks, or a quote or backslash.
    #[track_caller]
    pub fn unauthorized(realm: &str) -> Self {
        let is_plain = |byte: u8| (byte == b' ' || byte.is_ascii_graphic()) && !b"\"\\".contains(&byte);
        assert!(realm.bytes().all(is_plain), "{realm:?} cannot be the name of a realm");
        let challenge = HeaderValue::try_from(format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        HttpError::new(StatusCode::UNAUTHORIZED, "Name and password are needed here.")
            .with_header(WWW_AUTHENTICATE, challenge.expect("visible ASCII and blanks"))
    }
}

/// Compares all of both, whatever their bytes.
fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let differing = one.iter().zip(other).fold(0, |differing, (a, b)| differing | std::hint::black_box(a ^ b));
    one.len() == other.len() && differing == 0
}
