//! Responses as bytes.
//!
//! Rule kept here: field names go out as they are commonly written, whoever set them. Their case means nothing (RFC 9110 section
//! 5.1), but there are clients and scripts that look for `Content-Type`, as there are people.

use std::ops::Range;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderName, HeaderValue, StatusCode};

use crate::http::Finished;
use crate::web::response::Response;

/// Appends a whole response, with the fields that `more_fields` appends.
pub(crate) fn encode_response(
    out: &mut Vec<u8>,
    engine: &mut crate::http::Connection,
    status: StatusCode,
    response: &Response,
    more_fields: impl FnOnce(&mut Vec<u8>),
) -> Finished {
    engine.respond(out, status, response.body(), |out| {
        more_fields(out);
        if let Some(line) = response.ready_line() {
            out.extend_from_slice(line);
        }
        for (name, value) in response.other_fields() {
            push_field(out, name, value);
        }
    })
}

/// The types vouch for name and value: neither can hold anything that would end the line.
pub(crate) fn push_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    // The one that nearly every response has.
    if *name == CONTENT_TYPE {
        out.extend_from_slice(b"Content-Type");
    } else {
        push_name(out, name.as_str());
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a name that is in lower case: each of its words with a capital, but for those that are known to be written otherwise.
fn push_name(out: &mut Vec<u8>, name: &str) {
    let irregular = IRREGULAR.iter().find(|known| known.eq_ignore_ascii_case(name));
    if let Some(known) = irregular {
        return out.extend_from_slice(known.as_bytes());
    }
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    let mut is_first = true;
    for byte in &mut out[start..] {
        if is_first {
            byte.make_ascii_uppercase();
        }
        is_first = *byte == b'-';
    }
}

/// Removes the encoded lines of fields with this name.
pub(crate) fn remove_fields(lines: &mut Vec<u8>, name: &HeaderName) {
    while let Some(line) = find_field(lines, name) {
        lines.drain(line);
    }
}

/// Where the first encoded line of a field with this name is.
pub(crate) fn find_field(lines: &[u8], name: &HeaderName) -> Option<Range<usize>> {
    let mut start = 0;
    while let Some(length) = lines[start..].windows(2).position(|end| end == b"\r\n") {
        let line = start..start + length + 2;
        let is_named = lines[line.clone()]
            .split_at_checked(name.as_str().len())
            .is_some_and(|(start, rest)| rest[0] == b':' && start.eq_ignore_ascii_case(name.as_str().as_bytes()));
        if is_named {
            return Some(line);
        }
        start = line.end;
    }
    None
}

pub(crate) fn has_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// As their registrations have them.
const IRREGULAR: [&str; 14] = [
    "Content-MD5",
    "DAV",
    "DNT",
    "ETag",
    "Expect-CT",
    "NEL",
    "P3P",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
    "TE",
    "WWW-Authenticate",
    "X-XSS-Protection",
];

#[cfg(test)]
mod tests {
    use ::http::header;

    use super::*;

    fn written(name: &HeaderName) -> String {
        let mut line = Vec::new();
        push_field(&mut line, name, &HeaderValue::from_static("x"));
        String::from_utf8(line).expect("ASCII")
    }

    #[test]
    fn names_are_written_as_is_common() {
        for (name, expected) in [
            (header::CONTENT_TYPE, "Content-Type"),
            (header::SET_COOKIE, "Set-Cookie"),
            (header::VARY, "Vary"),
            (header::ETAG, "ETag"),
            (header::WWW_AUTHENTICATE, "WWW-Authenticate"),
            (HeaderName::from_static("x-request--id-"), "X-Request--Id-"),
            (HeaderName::from_static("9-!x"), "9-!x"),
        ] {
            assert_eq!(written(&name), format!("{expected}: x\r\n"));
        }
    }

    #[test]
    fn a_field_is_removed_by_its_whole_name_in_any_case() {
        let mut lines = b"ETag: 1\r\nETag-Like: ETag: 2\r\nX: etag\r\netag: 3\r\nET: 4\r\n".to_vec();
        remove_fields(&mut lines, &header::ETAG);
        assert_eq!(lines.escape_ascii().to_string(), r"ETag-Like: ETag: 2\r\nX: etag\r\nET: 4\r\n");
    }
}
