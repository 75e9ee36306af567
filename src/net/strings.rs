//! [`Int32StringReceiver`] and [`NetstringReceiver`]: protocols of strings that say how long they are.
//!
//! Rules kept here:
//! - A string is handed on whole, however it arrives, and refused before it is read when it is longer than it may be.
//! - After a refusal nothing more is taken for a string: nobody knows where the next one begins.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use crate::failure::Result;
use crate::net::inbox::Inbox;
use crate::net::protocol::{ConnectionLost, Protocol};
use crate::net::transport::Transport;

/// The handler of a connection on which strings come in: any bytes, in one piece. How they are told apart is for the
/// receiver around it to say.
///
/// ```
/// use dosimeter::Result;
/// use dosimeter::net::{Int32StringReceiver, NetstringReceiver, StringProtocol, StringTransport};
/// use dosimeter::testing::MemoryTransport;
///
/// struct Echo;
///
/// impl StringProtocol for Echo {
///     fn string_received(&mut self, strings: &StringTransport, string: &[u8]) -> Result<()> {
///         strings.send_string(string);
///         Ok(())
///     }
/// }
///
/// let wire = MemoryTransport::new(Int32StringReceiver::new(Echo));
/// wire.receive(b"\0\0\0\x03abc");
/// assert_eq!(wire.take(), b"\0\0\0\x03abc");
///
/// let wire = MemoryTransport::new(NetstringReceiver::new(Echo));
/// wire.receive("3:abc,");
/// assert_eq!(wire.take(), b"3:abc,");
/// ```
pub trait StringProtocol: 'static {
    /// The connection is there. Keep a clone of `strings` to write to it later.
    ///
    /// # Errors
    /// An error closes the connection, here and in the other methods, when everything written has been sent.
    fn connection_made(&mut self, strings: &StringTransport) -> Result<()> {
        let _ = strings;
        Ok(())
    }

    /// A string came.
    ///
    /// After [`pause_reading`](Transport::pause_reading) no more come until reading is resumed, and after
    /// [`lose_connection`](Transport::lose_connection) none at all, be they read already. While the peer has more than 64 KiB
    /// of answers to read none come either.
    ///
    /// # Errors
    /// As above.
    fn string_received(&mut self, strings: &StringTransport, string: &[u8]) -> Result<()>;

    /// The peer sent what is no string, or one that is too long. When this returns the connection is closed, once what was
    /// written has been sent.
    ///
    /// # Errors
    /// As above.
    #[doc(alias = "lengthLimitExceeded")]
    fn string_refused(&mut self, strings: &StringTransport, reason: StringRefused) -> Result<()> {
        let _ = (strings, reason);
        Ok(())
    }

    /// The peer will send nothing more; see [`Protocol::read_connection_lost`]. A string that is not whole is dropped.
    ///
    /// # Errors
    /// As above.
    fn read_connection_lost(&mut self, strings: &StringTransport) -> Result<()> {
        strings.lose_connection();
        Ok(())
    }

    /// What [`Transport::lose_write_connection`] asked for is done.
    ///
    /// # Errors
    /// As above.
    fn write_connection_lost(&mut self, strings: &StringTransport) -> Result<()> {
        let _ = strings;
        Ok(())
    }

    /// Everything written has been sent, after [`Transport::is_congested`] was true.
    ///
    /// # Errors
    /// As above.
    fn resume_writing(&mut self, strings: &StringTransport) -> Result<()> {
        let _ = strings;
        Ok(())
    }

    /// The connection is gone. Called exactly once.
    fn connection_lost(&mut self, strings: &StringTransport, reason: ConnectionLost) {
        let _ = (strings, reason);
    }
}

/// Why a [`StringProtocol`] lost its connection to what the peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StringRefused {
    /// It announced more bytes than a string may have.
    TooLong {
        /// How many; of a netstring those that were read as its length.
        length: u64,
        /// How many there may be: [`StringReceiver::max_length`].
        limit: usize,
    },
    /// It is no netstring: its length is not decimal digits without leading zeros and a colon, or it does not end in a comma.
    Malformed,
}

impl fmt::Display for StringRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StringRefused::TooLong { length, limit } => {
                write!(f, "a string of {length} bytes, over the limit of {limit}")
            }
            StringRefused::Malformed => f.write_str("not a netstring"),
        }
    }
}

impl Error for StringRefused {}

/// Strings after their length, four bytes in network order.
pub type Int32StringReceiver<S> = StringReceiver<S, Int32>;

/// Netstrings: the length in decimal digits, a colon, the string, a comma.
pub type NetstringReceiver<S> = StringReceiver<S, Netstring>;

/// Makes a [`Protocol`] of a [`StringProtocol`]; see [`Int32StringReceiver`] and [`NetstringReceiver`].
///
/// A string has at most 99,999 bytes unless [`max_length`](StringReceiver::max_length) says otherwise; one that is on its way
/// is kept in memory.
pub struct StringReceiver<S, F> {
    protocol: S,
    max_length: usize,
    inbox: Inbox,
    framing: PhantomData<F>,
}

/// How strings are told apart.
pub trait StringFraming: private::Framing {}

/// The framing of [`Int32StringReceiver`].
#[derive(Debug, Clone, Copy)]
pub enum Int32 {}

/// The framing of [`NetstringReceiver`].
#[derive(Debug, Clone, Copy)]
pub enum Netstring {}

/// A [`Transport`] that knows of strings; a cheap handle, to be cloned and kept as one.
#[derive(Clone)]
pub struct StringTransport {
    transport: Transport,
    encode: fn(&[u8], &mut Vec<u8>),
}

impl<S: StringProtocol, F: StringFraming> StringReceiver<S, F> {
    /// A protocol that cuts its input into strings for `protocol`.
    pub fn new(protocol: S) -> Self {
        StringReceiver { protocol, max_length: MAX_STRING_LENGTH, inbox: Inbox::default(), framing: PhantomData }
    }

    /// How many bytes a string may have, up to 4 GiB.
    #[doc(alias = "MAX_LENGTH")]
    pub fn max_length(mut self, max_length: usize) -> Self {
        self.max_length = max_length.min(LONGEST);
        self
    }

    fn go_on(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        let (strings, protocol, limit) = (handle::<F>(transport), &mut self.protocol, self.max_length);
        self.inbox.receive(transport, data, |input| match F::next(input, limit) {
            Ok(Some((string, used))) => {
                protocol.string_received(&strings, string)?;
                Ok(Some(used))
            }
            Ok(None) => Ok(None),
            Err(reason) => {
                log::debug!(target: "dosimeter::net", "{}: {reason}", transport.peer_addr());
                let outcome = protocol.string_refused(&strings, reason);
                transport.lose_connection();
                outcome.map(|()| None)
            }
        })
    }
}

fn handle<F: StringFraming>(transport: &Transport) -> StringTransport {
    StringTransport { transport: transport.clone(), encode: F::encode }
}

impl<S: StringProtocol, F: StringFraming> Protocol for StringReceiver<S, F> {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.connection_made(&handle::<F>(transport))
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        self.go_on(transport, data)
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.read_connection_lost(&handle::<F>(transport))
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.write_connection_lost(&handle::<F>(transport))
    }

    fn resume_writing(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.resume_writing(&handle::<F>(transport))?;
        self.go_on(transport, &[])
    }

    fn resume_reading(&mut self, transport: &Transport) -> Result<()> {
        self.go_on(transport, &[])
    }

    fn connection_lost(&mut self, transport: &Transport, reason: ConnectionLost) {
        self.protocol.connection_lost(&handle::<F>(transport), reason);
    }
}

impl<S, F> fmt::Debug for StringReceiver<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StringReceiver").field("max_length", &self.max_length).finish_non_exhaustive()
    }
}

impl StringTransport {
    /// Sends `string` in the framing of the connection.
    ///
    /// # Panics
    /// When it has more than 4 GiB.
    #[doc(alias = "sendString")]
    pub fn send_string(&self, string: impl AsRef<[u8]>) {
        let string = string.as_ref();
        assert!(string.len() <= LONGEST, "a string has at most 4 GiB, not {} bytes", string.len());
        self.transport.write_with(|gathered| (self.encode)(string, gathered));
    }

    /// The transport below.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }
}

/// A string transport can do what a transport can.
impl Deref for StringTransport {
    type Target = Transport;

    fn deref(&self) -> &Transport {
        &self.transport
    }
}

impl fmt::Debug for StringTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StringTransport").field("transport", &self.transport).finish()
    }
}

mod private {
    use super::StringRefused;

    pub trait Framing: 'static {
        /// The string that `input` begins with, and how many bytes it takes with its frame; `None` when it is not whole.
        fn next(input: &[u8], limit: usize) -> Result<Option<(&[u8], usize)>, StringRefused>;

        fn encode(string: &[u8], out: &mut Vec<u8>);
    }
}

impl StringFraming for Int32 {}

impl private::Framing for Int32 {
    fn next(input: &[u8], limit: usize) -> Result<Option<(&[u8], usize)>, StringRefused> {
        let Some((prefix, rest)) = input.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix);
        if length as usize > limit {
            return Err(StringRefused::TooLong { length: length.into(), limit });
        }
        let string = rest.get(..length as usize);
        Ok(string.map(|string| (string, prefix.len() + string.len())))
    }

    fn encode(string: &[u8], out: &mut Vec<u8>) {
        let length = u32::try_from(string.len()).expect("looked at by who calls this");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(string);
    }
}

impl StringFraming for Netstring {}

impl private::Framing for Netstring {
    fn next(input: &[u8], limit: usize) -> Result<Option<(&[u8], usize)>, StringRefused> {
        let Some((length, begin)) = netstring_length(input, limit)? else { return Ok(None) };
        let end = begin + length;
        match input.get(end) {
            None => Ok(None),
            Some(b',') => Ok(Some((&input[begin..end], end + 1))),
            Some(_) => Err(StringRefused::Malformed),
        }
    }

    fn encode(string: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(string.len()).as_bytes());
        out.push(b':');
        out.extend_from_slice(string);
        out.push(b',');
    }
}

/// The length that `input` begins with, and where the string begins; `None` when it is not whole.
fn netstring_length(input: &[u8], limit: usize) -> Result<Option<(usize, usize)>, StringRefused> {
    let mut length = 0_u64;
    for (at, byte) in input.iter().enumerate() {
        match byte {
            // No number goes on after a leading zero.
            b'0'..=b'9' if at == 0 || length > 0 => length = length * 10 + u64::from(byte - b'0'),
            b':' if at > 0 => return Ok(Some((length as usize, at + 1))),
            _ => return Err(StringRefused::Malformed),
        }
        // Checked digit by digit, so that it can neither overflow nor go on for ever.
        if length > limit as u64 {
            return Err(StringRefused::TooLong { length, limit });
        }
    }
    Ok(None)
}

/// Twisted's figure.
const MAX_STRING_LENGTH: usize = 99_999;

/// What 32 bits can tell.
const LONGEST: usize = u32::MAX as usize;
