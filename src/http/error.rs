//! Why a request is refused, and what a response was not allowed to do.
//!
//! Rules:
//! 1. The peer's faults are [`Refusal`]s, ours are the other types: neither is ever reported as the
//!    other.
//! 2. A refusal carries no bytes of the request: it can be a metric label, logged and sent back as
//!    it is.

use std::fmt;

use ::http::StatusCode;

/// Why a request was refused.
///
/// The set is closed, so it can label a metric; [`ALL`](Self::ALL) lists it. A refused connection
/// is answered with [`status`](Self::status) and closed, because where the next request starts is
/// not known.
///
/// # Example
///
/// ```
/// use dosimeter::http::Refusal;
///
/// assert_eq!(Refusal::BodyTooLarge.status(), 413);
/// assert_eq!(Refusal::BodyTooLarge.as_str(), "body_too_large");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// `Content-Length` and `Transfer-Encoding` in one request (RFC 9112 section 6.1).
    AmbiguousLength,
    /// A CR that is not followed by LF (RFC 9112 section 2.2).
    BareCr,
    /// A LF that does not follow a CR (RFC 9112 section 2.2).
    BareLf,
    /// The body is longer than [`Limits::body`](super::Limits::body).
    BodyTooLarge,
    /// The data of a chunk is not followed by CRLF (RFC 9112 section 7.1).
    ChunkEnd,
    /// A chunk extension outside the grammar (RFC 9112 section 7.1.1).
    ChunkExtension,
    /// The line that opens a chunk is longer than
    /// [`Limits::chunk_line`](super::Limits::chunk_line).
    ChunkLineTooLong,
    /// A chunk size that is not 1 to 16 hexadecimal digits (RFC 9112 section 7.1).
    ChunkSize,
    /// `Content-Length` is not only digits, or is a list (RFC 9112 section 6.3).
    ContentLength,
    /// `Content-Length` came twice, be it with the same value (RFC 9112 section 6.3).
    ContentLengthRepeated,
    /// A control character within a field value (RFC 9110 section 5.5).
    ControlCharacter,
    /// A second empty line where a request was due (RFC 9112 section 2.2 forgives at least one).
    EmptyLines,
    /// `Expect` asks for something other than `100-continue` (RFC 9110 section 10.1.1).
    Expectation,
    /// A field line without a colon (RFC 9112 section 5).
    FieldColon,
    /// A field name that is empty or not a token (RFC 9110 section 5.1).
    FieldName,
    /// A field line that starts with a blank: `obs-fold`, or a blank before the first field
    /// (RFC 9112 sections 5.2 and 2.2).
    Folded,
    /// The head is longer than [`Limits::head`](super::Limits::head).
    HeadTooLarge,
    /// `Host` is not `uri-host [ ":" port ]` (RFC 9112 section 3.2).
    Host,
    /// No `Host` in an HTTP/1.1 request (RFC 9112 section 3.2).
    HostMissing,
    /// More than one `Host` line (RFC 9112 section 3.2).
    HostRepeated,
    /// The connection preface of HTTP/2 (RFC 9113 section 3.4).
    Http2Preface,
    /// A method longer than any in use (RFC 9112 section 3).
    MethodTooLong,
    /// An `https` target on a connection without TLS; the caller, who knows the connection, says so
    /// with [`Connection::refuse`](super::Connection::refuse) (RFC 9110 section 7.4).
    Misdirected,
    /// A NUL (RFC 9110 section 5.5).
    Nul,
    /// `PUT` with `Content-Range`, to a server whose resources do not take parts; the caller says so
    /// with [`Connection::refuse`](super::Connection::refuse) (RFC 9110 section 14.5).
    PartialPut,
    /// Not `method SP request-target SP HTTP-version` (RFC 9112 section 3).
    RequestLine,
    /// A blank between a field name and its colon (RFC 9112 section 5.1).
    SpaceBeforeColon,
    /// A request target that is in none of the four forms, or in one its method may not use
    /// (RFC 9112 section 3.2).
    Target,
    /// The request target is longer than [`Limits::target`](super::Limits::target).
    TargetTooLong,
    /// The request did not arrive in time; the caller, who has the clock, says so with
    /// [`Connection::refuse`](super::Connection::refuse) (RFC 9110 section 15.5.9).
    Timeout,
    /// A TLS handshake on a port that speaks plain HTTP.
    TlsHandshake,
    /// More field lines than [`Limits::headers`](super::Limits::headers).
    TooManyFields,
    /// Trailers or chunk extensions beyond [`Limits::trailers`](super::Limits::trailers).
    TrailersTooLarge,
    /// A transfer coding other than `chunked` before the final `chunked` (RFC 9112 section 6.1).
    TransferCoding,
    /// `Transfer-Encoding` does not end in one `chunked` (RFC 9112 section 6.3).
    TransferEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 request (RFC 9112 section 6.1).
    TransferEncodingHttp10,
    /// A version other than HTTP/1.x (RFC 9110 section 15.6.6).
    Version,
    /// Not `HTTP/` DIGIT `.` DIGIT (RFC 9112 section 2.3).
    VersionSyntax,
}

impl Refusal {
    /// Every refusal there is, for metrics that register their labels ahead.
    pub const ALL: &[Self] = &[
        Self::AmbiguousLength,
        Self::BareCr,
        Self::BareLf,
        Self::BodyTooLarge,
        Self::ChunkEnd,
        Self::ChunkExtension,
        Self::ChunkLineTooLong,
        Self::ChunkSize,
        Self::ContentLength,
        Self::ContentLengthRepeated,
        Self::ControlCharacter,
        Self::EmptyLines,
        Self::Expectation,
        Self::FieldColon,
        Self::FieldName,
        Self::Folded,
        Self::HeadTooLarge,
        Self::Host,
        Self::HostMissing,
        Self::HostRepeated,
        Self::Http2Preface,
        Self::MethodTooLong,
        Self::Misdirected,
        Self::Nul,
        Self::PartialPut,
        Self::RequestLine,
        Self::SpaceBeforeColon,
        Self::Target,
        Self::TargetTooLong,
        Self::Timeout,
        Self::TlsHandshake,
        Self::TooManyFields,
        Self::TrailersTooLarge,
        Self::TransferCoding,
        Self::TransferEncoding,
        Self::TransferEncodingHttp10,
        Self::Version,
        Self::VersionSyntax,
    ];

    /// The status that answers it: 400, 408, 413, 414, 417, 421, 431, 501 or 505.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::HeadTooLarge | Self::TooManyFields | Self::TrailersTooLarge => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::MethodTooLong | Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Http2Preface | Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Its name as a metric label, in `snake_case`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AmbiguousLength => "ambiguous_length",
            Self::BareCr => "bare_cr",
            Self::BareLf => "bare_lf",
            Self::BodyTooLarge => "body_too_large",
            Self::ChunkEnd => "chunk_end",
            Self::ChunkExtension => "chunk_extension",
            Self::ChunkLineTooLong => "chunk_line_too_long",
            Self::ChunkSize => "chunk_size",
            Self::ContentLength => "content_length",
            Self::ContentLengthRepeated => "content_length_repeated",
            Self::ControlCharacter => "control_character",
            Self::EmptyLines => "empty_lines",
            Self::Expectation => "expectation",
            Self::FieldColon => "field_colon",
            Self::FieldName => "field_name",
            Self::Folded => "folded",
            Self::HeadTooLarge => "head_too_large",
            Self::Host => "host",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::Http2Preface => "http2_preface",
            Self::MethodTooLong => "method_too_long",
            Self::Misdirected => "misdirected",
            Self::Nul => "nul",
            Self::PartialPut => "partial_put",
            Self::RequestLine => "request_line",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::Target => "target",
            Self::TargetTooLong => "target_too_long",
            Self::Timeout => "timeout",
            Self::TlsHandshake => "tls_handshake",
            Self::TooManyFields => "too_many_fields",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::TransferCoding => "transfer_coding",
            Self::TransferEncoding => "transfer_encoding",
            Self::TransferEncodingHttp10 => "transfer_encoding_http10",
            Self::Version => "version",
            Self::VersionSyntax => "version_syntax",
        }
    }
}

impl Refusal {
    /// What the peer may know of it: what is wrong, and what a client can change.
    pub(crate) fn for_peer(self) -> &'static str {
        let text = self.text();
        text.split_once(';').map_or(text, |(for_peer, _)| for_peer)
    }

    /// What is wrong, and behind a colon what the client can change; behind a semicolon what the server can.
    fn text(self) -> &'static str {
        match self {
            Self::AmbiguousLength => "Content-Length beside Transfer-Encoding: send one of them",
            Self::BareCr => "CR without LF: lines end in CRLF",
            Self::BareLf => "LF without CR: lines end in CRLF",
            Self::BodyTooLarge => {
                "body too large; raise http::Limits::body, or web::Limits::streamed_body if it is taken as a stream"
            }
            Self::ChunkEnd => "chunk data not followed by CRLF: its size is wrong",
            Self::ChunkExtension => "malformed chunk extension: send none",
            Self::ChunkLineTooLong => "chunk extension too long; raise http::Limits::chunk_line",
            Self::ChunkSize => "chunk size is not 1 to 16 hexadecimal digits",
            Self::ContentLength => "Content-Length is not one decimal number",
            Self::ContentLengthRepeated => "Content-Length repeated: send it once",
            Self::ControlCharacter => "control character in a field value: encode it",
            Self::EmptyLines => "empty lines instead of a request",
            Self::Expectation => "unknown expectation: only 100-continue is supported",
            Self::FieldColon => "field line without a colon",
            Self::FieldName => "field name empty or not a token",
            Self::Folded => "folded field: send each field on one line",
            Self::HeadTooLarge => "head too large: cut cookies; raise http::Limits::head",
            Self::Host => "Host is not a host name or address with a port",
            Self::HostMissing => "no Host: HTTP/1.1 requires one",
            Self::HostRepeated => "Host repeated: send it once",
            Self::Http2Preface => "HTTP/2 preface: configure the client for HTTP/1.1",
            Self::MethodTooLong => "method too long",
            Self::Misdirected => "https target on a connection without TLS; trust the proxy that had it with TLS",
            Self::Nul => "NUL in the head",
            Self::PartialPut => "Content-Range with PUT: send the whole",
            Self::RequestLine => "request line is not `method SP target SP version`",
            Self::SpaceBeforeColon => "blank between field name and colon",
            Self::Target => "malformed target, or a form its method may not use",
            Self::TargetTooLong => "target too long: use a body; raise http::Limits::target",
            Self::Timeout => "the request did not arrive in time",
            Self::TlsHandshake => "TLS on a plain HTTP port: use http:// or a TLS proxy",
            Self::TooManyFields => "too many fields; raise http::Limits::headers",
            Self::TrailersTooLarge => "trailers too large; raise http::Limits::trailers",
            Self::TransferCoding => "transfer coding not supported: only chunked is",
            Self::TransferEncoding => "Transfer-Encoding does not end in a single chunked",
            Self::TransferEncodingHttp10 => "Transfer-Encoding in HTTP/1.0: use HTTP/1.1",
            Self::Version => "HTTP version not supported: use HTTP/1.1",
            Self::VersionSyntax => "malformed HTTP version",
        }
    }
}

impl fmt::Display for Refusal {
    /// What is wrong and what to change, for the operator who reads the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Refusal {}

/// A response body turned out longer than the length declared for it.
///
/// The excess was not sent: the peer would have read it as the start of the next response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExcessBody {
    /// How many bytes were dropped.
    pub bytes: usize,
}

impl fmt::Display for ExcessBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "response body exceeds its declared length, {} bytes dropped", self.bytes)
    }
}

impl std::error::Error for ExcessBody {}

/// A response field that was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldError {
    /// The name is empty or not a token (RFC 9110 section 5.1).
    InvalidName,
    /// The name is one the engine writes itself: `Connection`, `Content-Length`,
    /// `Transfer-Encoding`.
    ///
    /// A second one would contradict the first about where the response ends.
    Framing,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidName => "response field name empty or not a token",
            Self::Framing => "response field is written by the server itself",
        })
    }
}

impl std::error::Error for FieldError {}
