//! The HTTP/1.1 server engine: bytes in, events out, bytes out.
//!
//! It performs no I/O, reads no clock and knows neither the reactor nor a `Deferred`, so every rule
//! of
//! [RFC 9110] and [RFC 9112] it keeps is tested by handing it bytes.
//!
//! * [`Connection`] is the state machine of one connection: [`receive`](Connection::receive) turns
//!   what was read into [`Event`]s, the response methods append what is to be written.
//! * [`RequestHead`] holds one request's head and is recycled from request to request.
//! * [`Limits`] says how much of each thing is accepted, [`Refusal`] why something was not.
//! * [`write_field`] appends a header field that cannot break out of its line.
//!
//! The engine is strict on purpose. It sits behind proxies it does not know, and whatever two
//! parsers read differently is how one user's request becomes part of another's (RFC 9112 section
//! 11.2). What the RFCs let a recipient repair, such as a lone LF or a folded line, is refused
//! here.
//!
//! [RFC 9110]: https://www.rfc-editor.org/rfc/rfc9110
//! [RFC 9112]: https://www.rfc-editor.org/rfc/rfc9112

mod body;
mod connection;
mod error;
mod grammar;
mod head;
mod limits;
mod response;
mod state;
mod target;

pub use connection::{Connection, Event, Finished};
pub use error::{ExcessBody, FieldError, Refusal};
pub use head::{BodyFraming, RequestHead};
pub use limits::Limits;
pub use response::write_field;
