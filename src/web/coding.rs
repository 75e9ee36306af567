//! [`Coding`]: what a response passes through on its way out, as the exchange sees it.

use ::http::StatusCode;

use crate::http::ExcessBody;

/// What a body that is written piece by piece passes through on its way out: a content coding.
pub(crate) trait Coding {
    /// Sees the head before it goes out, and may change its fields. `true`: the body is to pass, and its length is not known.
    fn begin(&mut self, status: StatusCode, length: Option<u64>, fields: &mut Vec<u8>) -> bool;

    /// Takes a part of the body in, and appends what is ready to be sent.
    ///
    /// # Errors
    /// When it is more than was announced; the rest of it is dropped.
    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), ExcessBody>;

    /// Appends what the peer needs to read all that was written so far.
    fn flush(&mut self, out: &mut Vec<u8>);

    /// Appends the end. `false`: the body is shorter than announced.
    fn finish(&mut self, out: &mut Vec<u8>) -> bool;
}
