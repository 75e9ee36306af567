//! [`LineReceiver`]: protocols of lines, with raw data in between.
//!
//! Rules kept here:
//! - A line is handed on whole and without its delimiter, however it arrives; it is looked through once.
//! - A line has a greatest length. What is behind it is not kept: memory is bounded by that length and one read.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use crate::failure::Result;
use crate::net::inbox::Inbox;
use crate::net::protocol::{ConnectionLost, Protocol};
use crate::net::transport::Transport;

/// The handler of a connection on which lines come in, as Twisted's `LineReceiver`; [`LineReceiver`] makes a
/// [`Protocol`] of it.
///
/// ```
/// use dosimeter::Result;
/// use dosimeter::net::{LineProtocol, LineReceiver, LineTransport};
/// use dosimeter::testing::MemoryTransport;
///
/// struct Answering;
///
/// impl LineProtocol for Answering {
///     fn line_received(&mut self, lines: &LineTransport, line: &[u8]) -> Result<()> {
///         match line {
///             b"QUIT" => lines.lose_connection(),
///             _ => lines.send_line(b"what?"),
///         }
///         Ok(())
///     }
/// }
///
/// let wire = MemoryTransport::new(LineReceiver::new(Answering));
/// wire.receive("HELO\r\nQU");
/// assert_eq!(wire.take(), b"what?\r\n");
/// wire.receive("IT\r\n");
/// assert!(!wire.is_connected());
/// ```
pub trait LineProtocol: 'static {
    /// The connection is there. Keep a clone of `lines` to write to it later.
    ///
    /// # Errors
    /// An error closes the connection, here and in the other methods, when everything written has been sent.
    fn connection_made(&mut self, lines: &LineTransport) -> Result<()> {
        let _ = lines;
        Ok(())
    }

    /// A line came, without its delimiter.
    ///
    /// After [`pause_reading`](Transport::pause_reading) no more lines come until reading is resumed, and after
    /// [`lose_connection`](Transport::lose_connection) none at all, be they read already. While the peer has more than 64 KiB
    /// of answers to read none come either.
    ///
    /// # Errors
    /// As above.
    fn line_received(&mut self, lines: &LineTransport, line: &[u8]) -> Result<()>;

    /// Data came after [`LineTransport::set_raw_mode`]: as they were read, at least one byte.
    ///
    /// # Errors
    /// As above. A protocol that asks for raw data and does not override this has an error.
    fn raw_data_received(&mut self, lines: &LineTransport, data: &[u8]) -> Result<()> {
        let _ = (lines, data);
        Err("set_raw_mode was called, but raw_data_received is not implemented".into())
    }

    /// A line is longer than [`LineReceiver::max_length`]. Unless overridden the connection is closed.
    ///
    /// A protocol that leaves it open gets what comes after that line; the line itself is dropped.
    ///
    /// # Errors
    /// As above.
    fn line_length_exceeded(&mut self, lines: &LineTransport) -> Result<()> {
        lines.lose_connection();
        Ok(())
    }

    /// The peer will send nothing more; see [`Protocol::read_connection_lost`]. A line without its delimiter is dropped.
    ///
    /// # Errors
    /// As above.
    fn read_connection_lost(&mut self, lines: &LineTransport) -> Result<()> {
        lines.lose_connection();
        Ok(())
    }

    /// What [`Transport::lose_write_connection`] asked for is done.
    ///
    /// # Errors
    /// As above.
    fn write_connection_lost(&mut self, lines: &LineTransport) -> Result<()> {
        let _ = lines;
        Ok(())
    }

    /// Everything written has been sent, after [`Transport::is_congested`] was true.
    ///
    /// # Errors
    /// As above.
    fn resume_writing(&mut self, lines: &LineTransport) -> Result<()> {
        let _ = lines;
        Ok(())
    }

    /// The connection is gone. Called exactly once.
    fn connection_lost(&mut self, lines: &LineTransport, reason: ConnectionLost) {
        let _ = (lines, reason);
    }
}

/// Makes a [`Protocol`] of a [`LineProtocol`].
///
/// Lines end in CR LF unless [`delimiter`](LineReceiver::delimiter) says otherwise, and have at most 16384 bytes unless
/// [`max_length`](LineReceiver::max_length) does.
#[doc(alias = "LineOnlyReceiver")]
pub struct LineReceiver<L> {
    protocol: L,
    framing: Rc<Framing>,
    max_length: usize,
    inbox: Inbox,
    /// How many bytes of what waits hold no delimiter.
    searched: usize,
    /// The rest of a line that was too long is being dropped.
    skipping: bool,
}

/// What a protocol and its handles share.
struct Framing {
    delimiter: Box<[u8]>,
    raw: Cell<bool>,
    /// How many of the raw data in hand are lines again.
    rest: Cell<usize>,
}

/// A [`Transport`] that knows of lines; a cheap handle, to be cloned and kept as one.
#[derive(Clone)]
pub struct LineTransport {
    transport: Transport,
    framing: Rc<Framing>,
}

impl<L: LineProtocol> LineReceiver<L> {
    /// A protocol that cuts its input into lines for `protocol`.
    pub fn new(protocol: L) -> Self {
        LineReceiver {
            protocol,
            framing: Rc::new(Framing::new(b"\r\n")),
            max_length: MAX_LINE_LENGTH,
            inbox: Inbox::default(),
            searched: 0,
            skipping: false,
        }
    }

    /// What ends a line, `"\n"` for example. For lines that are sent as well.
    ///
    /// # Panics
    /// When it is empty.
    pub fn delimiter(mut self, delimiter: impl AsRef<[u8]>) -> Self {
        let delimiter = delimiter.as_ref();
        assert!(!delimiter.is_empty(), "a line ends in something: the delimiter is empty");
        self.framing = Rc::new(Framing::new(delimiter));
        self
    }

    /// How many bytes a line may have, its delimiter not counted.
    #[doc(alias = "MAX_LENGTH")]
    pub fn max_length(mut self, max_length: usize) -> Self {
        self.max_length = max_length;
        self
    }

    fn handle(&self, transport: &Transport) -> LineTransport {
        LineTransport { transport: transport.clone(), framing: self.framing.clone() }
    }

    fn go_on(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        let lines = self.handle(transport);
        let mut inbox = std::mem::take(&mut self.inbox);
        let outcome = inbox.receive(transport, data, |input| self.next(&lines, input));
        self.inbox = inbox;
        outcome
    }

    /// Hands on what `input` begins with, and says how long that was.
    fn next(&mut self, lines: &LineTransport, input: &[u8]) -> Result<Option<usize>> {
        if self.framing.raw.get() {
            return self.raw_data(lines, input).map(Some);
        }
        let delimiter = &lines.framing.delimiter;
        match find(&input[self.searched..], delimiter) {
            Some(at) => {
                let (line, used) = (&input[..self.searched + at], self.searched + at + delimiter.len());
                self.searched = 0;
                self.line(lines, line)?;
                Ok(Some(used))
            }
            None => self.part_of_a_line(lines, input),
        }
    }

    fn line(&mut self, lines: &LineTransport, line: &[u8]) -> Result<()> {
        if std::mem::take(&mut self.skipping) {
            Ok(())
        } else if line.len() > self.max_length {
            self.protocol.line_length_exceeded(lines)
        } else {
            self.protocol.line_received(lines, line)
        }
    }

    /// Waits for the end of a line, as long as it can be one.
    fn part_of_a_line(&mut self, lines: &LineTransport, input: &[u8]) -> Result<Option<usize>> {
        // The last bytes may be the beginning of the delimiter.
        let searched = (input.len() + 1).saturating_sub(self.framing.delimiter.len());
        let too_long = searched > self.max_length;
        if !too_long && !self.skipping {
            self.searched = searched;
            return Ok(None);
        }
        self.searched = 0;
        if !std::mem::replace(&mut self.skipping, true) {
            self.protocol.line_length_exceeded(lines)?;
        }
        Ok((searched > 0).then_some(searched))
    }

    fn raw_data(&mut self, lines: &LineTransport, data: &[u8]) -> Result<usize> {
        (self.searched, self.skipping) = (0, false);
        self.framing.rest.set(0);
        self.protocol.raw_data_received(lines, data)?;
        let rest = self.framing.rest.take().min(data.len());
        // Who asked for raw data again has had these.
        Ok(if self.framing.raw.get() { data.len() } else { data.len() - rest })
    }
}

impl<L: LineProtocol> Protocol for LineReceiver<L> {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.connection_made(&self.handle(transport))
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        self.go_on(transport, data)
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.read_connection_lost(&self.handle(transport))
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.write_connection_lost(&self.handle(transport))
    }

    fn resume_writing(&mut self, transport: &Transport) -> Result<()> {
        self.protocol.resume_writing(&self.handle(transport))?;
        self.go_on(transport, &[])
    }

    fn resume_reading(&mut self, transport: &Transport) -> Result<()> {
        self.go_on(transport, &[])
    }

    fn connection_lost(&mut self, transport: &Transport, reason: ConnectionLost) {
        self.protocol.connection_lost(&self.handle(transport), reason);
    }
}

impl<L> fmt::Debug for LineReceiver<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineReceiver").field("max_length", &self.max_length).finish_non_exhaustive()
    }
}

impl LineTransport {
    /// Sends `line` and the delimiter.
    #[doc(alias = "sendLine")]
    pub fn send_line(&self, line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        self.transport.write_with(|gathered| {
            gathered.extend_from_slice(line);
            gathered.extend_from_slice(&self.framing.delimiter);
        });
    }

    /// From the next byte on, which may be read already, what comes goes to [`LineProtocol::raw_data_received`].
    #[doc(alias = "setRawMode")]
    pub fn set_raw_mode(&self) {
        self.framing.raw.set(true);
    }

    /// What comes are lines again.
    ///
    /// Called from [`LineProtocol::raw_data_received`], the last `rest` bytes of the data that it was given are lines already.
    /// Elsewhere there is no such rest: `rest` is 0.
    ///
    /// ```
    /// use dosimeter::Result;
    /// use dosimeter::net::{LineProtocol, LineReceiver, LineTransport};
    /// use dosimeter::testing::MemoryTransport;
    ///
    /// /// Lines with a number, each followed by so many bytes.
    /// #[derive(Default)]
    /// struct Upload(usize);
    ///
    /// impl LineProtocol for Upload {
    ///     fn line_received(&mut self, lines: &LineTransport, line: &[u8]) -> Result<()> {
    ///         self.0 = std::str::from_utf8(line)?.parse()?;
    ///         lines.set_raw_mode();
    ///         Ok(())
    ///     }
    ///
    ///     fn raw_data_received(&mut self, lines: &LineTransport, data: &[u8]) -> Result<()> {
    ///         let count = self.0.min(data.len());
    ///         self.0 -= count;
    ///         if self.0 == 0 {
    ///             lines.send_line("got it");
    ///             lines.set_line_mode(data.len() - count);
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let wire = MemoryTransport::new(LineReceiver::new(Upload::default()));
    /// wire.receive("3\r\nabc2\r\nxy1\r\n");
    /// assert_eq!(wire.take(), b"got it\r\ngot it\r\n");
    /// ```
    #[doc(alias = "setLineMode")]
    pub fn set_line_mode(&self, rest: usize) {
        self.framing.raw.set(false);
        self.framing.rest.set(rest);
    }

    /// The transport below.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }
}

/// A line transport can do what a transport can.
impl Deref for LineTransport {
    type Target = Transport;

    fn deref(&self) -> &Transport {
        &self.transport
    }
}

impl fmt::Debug for LineTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delimiter = self.framing.delimiter.escape_ascii().to_string();
        f.debug_struct("LineTransport").field("transport", &self.transport).field("delimiter", &delimiter).finish()
    }
}

impl Framing {
    fn new(delimiter: &[u8]) -> Self {
        Framing { delimiter: delimiter.into(), raw: Cell::new(false), rest: Cell::new(0) }
    }
}

/// Where `what` is first found in `bytes`.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let (&last, begin) = what.split_last()?;
    let mut from = begin.len();
    loop {
        let at = from + bytes.get(from..)?.iter().position(|&byte| byte == last)?;
        if bytes[..at].ends_with(begin) {
            return Some(at - begin.len());
        }
        from = at + 1;
    }
}

/// Twisted's figure: longer than any line a person or a common protocol sends.
const MAX_LINE_LENGTH: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryTransport;

    struct Deaf;

    impl LineProtocol for Deaf {
        fn line_received(&mut self, _lines: &LineTransport, _line: &[u8]) -> Result<()> {
            Ok(())
        }
    }

    /// Or a peer that sends its line byte by byte would cost the square of its length.
    #[test]
    fn a_line_that_dribbles_in_is_looked_through_once() {
        let wire = MemoryTransport::new(LineReceiver::new(Deaf));
        let transport = wire.transport();
        let mut lines = LineReceiver::new(Deaf);
        for length in 1..=1000 {
            lines.data_received(&transport, b"x").expect("no error");
            assert_eq!(lines.searched, length - 1, "the last byte may begin the delimiter");
        }
        lines.data_received(&transport, b"\r\n").expect("no error");
        assert_eq!(lines.searched, 0);
        assert!(lines.inbox.is_empty(), "what is idle holds no buffer");
    }
}
