//! Responses as bytes.

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
    let body = response.body();
    engine.begin_response(out, status, Some(body.len() as u64));
    more_fields(out);
    for (name, value) in response.headers() {
        push_field(out, name, value);
    }
    engine.end_head(out);
    engine.send_body(out, body).expect("the length is that of the body");
    engine.finish(out)
}

/// The types vouch for name and value: neither can hold anything that would end the line.
pub(crate) fn push_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Removes the encoded lines of fields with this name.
pub(crate) fn remove_fields(lines: &mut Vec<u8>, name: &HeaderName) {
    let mut start = 0;
    while let Some(length) = lines[start..].windows(2).position(|end| end == b"\r\n") {
        let line = start..start + length + 2;
        let is_named = lines[line.clone()].strip_prefix(name.as_str().as_bytes()).is_some_and(|rest| rest[0] == b':');
        match is_named {
            true => drop(lines.drain(line)),
            false => start = line.end,
        }
    }
}

pub(crate) fn has_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
