//! The head of a response: status line and field lines (RFC 9112 sections 4 and 5).
//!
//! Rule: no byte of a value can end its line. A CR or LF that reaches the wire starts a new field,
//! or a new response, that the application did not write (RFC 9110 section 5.5).

use ::http::StatusCode;

use super::error::FieldError;
use super::grammar::{find_control, is_token};

/// Appends the field line `name: value`.
///
/// Control characters in the value, CR, LF and NUL among them, are replaced by blanks, as RFC 9110
/// section 5.5 tells a recipient to; HTAB stays.
///
/// # Errors
///
/// Nothing is written if `name` is not a token ([`FieldError::InvalidName`]), or is a field the
/// engine writes itself ([`FieldError::Framing`]).
///
/// # Example
///
/// ```
/// use dosimeter::http::{FieldError, write_field};
///
/// let mut out = Vec::new();
/// write_field(&mut out, "Location", b"/a\r\nSet-Cookie: b")?;
/// assert_eq!(out, b"Location: /a  Set-Cookie: b\r\n");
/// assert_eq!(write_field(&mut out, "Content-Length", b"0"), Err(FieldError::Framing));
/// # Ok::<(), FieldError>(())
/// ```
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), FieldError> {
    if !is_token(name.as_bytes()) {
        return Err(FieldError::InvalidName);
    }
    if is_framing(name) {
        return Err(FieldError::Framing);
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    push_value(out, value);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends the status line.
///
/// The version is always the highest this server conforms to (RFC 9110 section 6.2).
pub(super) fn push_status_line(out: &mut Vec<u8>, status: StatusCode) {
    if status == StatusCode::OK {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or("Unknown Status").as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(super) fn push_content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn is_framing(name: &str) -> bool {
    match name.len() {
        10 => name.eq_ignore_ascii_case("connection"),
        14 => name.eq_ignore_ascii_case("content-length"),
        17 => name.eq_ignore_ascii_case("transfer-encoding"),
        _ => false,
    }
}

fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value;
    while let Some(at) = find_control(rest) {
        out.extend_from_slice(&rest[..at]);
        out.push(if rest[at] == b'\t' { b'\t' } else { b' ' });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}
