//! Who may do what next: the two halves of an exchange, and whether another one follows.
//!
//! Rules:
//! 1. Everything that changes the state of a connection is in this file; it sees no bytes.
//! 2. The halves are independent: a response may end before its request has, and the reverse.
//! 3. The next request begins when *both* halves are over, never earlier: answers go out in the
//!    order asked, and what was left of one request is never read as the next (RFC 9112 section
//!    9.3).
//! 4. A connection that is refused, or that is to close, never reads another request. There is no
//!    way back.
//!
//! ```text
//!             request_began        request_ended
//!   reading:  Head ---------> Body -------------> Ended --.
//!               ^                                          >-- both over --> Head, or Closed
//!   writing:  Nothing ------> Head -> Body -----> Done  --'
//!             response_began     head_ended   response_ended
//! ```

use super::error::Refusal;

/// The state of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    reading: Reading,
    writing: Writing,
    flags: Flags,
}

/// How far the request has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reading {
    /// A head is due, or has arrived in part.
    #[default]
    Head,
    /// The head was read, the body is being read.
    Body,
    /// All of the request was read, its response is not finished.
    Ended,
    /// The request was refused. Terminal.
    Refused(Refusal),
    /// Nothing more is read as a request. Terminal.
    Closed,
}

/// How far the response has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Writing {
    /// Not begun.
    #[default]
    Nothing,
    /// The status line is written, field lines may follow.
    Head,
    /// The head is written, the body may follow.
    Body,
    /// All of it is written.
    Done,
}

/// What a request says about its response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags(u8);

impl Flags {
    /// Set if the method is HEAD: the response has the head of a GET and no body.
    pub(super) const HEAD: Self = Self(1 << 0);
    /// Set if the method is CONNECT: what follows it may not be HTTP, so nothing is read after it.
    pub(super) const CONNECT: Self = Self(1 << 1);
    /// Set if the version is HTTP/1.0: no chunks, and persistence has to be announced.
    pub(super) const HTTP10: Self = Self(1 << 2);
    /// Set if the client waits for `100 Continue` before it sends the body.
    pub(super) const EXPECTS_CONTINUE: Self = Self(1 << 3);
    /// Set if the connection closes after this response, whoever wants it.
    pub(super) const CLOSE: Self = Self(1 << 4);
    /// Set if an empty line was skipped before this request.
    pub(super) const EMPTY_LINE: Self = Self(1 << 5);
    /// Set if the request line of an incomplete head was found to be right.
    pub(super) const REQUEST_LINE: Self = Self(1 << 6);

    /// `self` if the condition holds, else no flag.
    pub(super) fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::default() }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl State {
    pub(super) fn reading(&self) -> Reading {
        self.reading
    }

    pub(super) fn writing(&self) -> Writing {
        self.writing
    }

    pub(super) fn has(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }

    pub(super) fn set(&mut self, flag: Flags) {
        self.flags = self.flags.and(flag);
    }

    pub(super) fn clear(&mut self, flag: Flags) {
        self.flags = self.flags.without(flag);
    }

    /// Whether the connection closes once the response in progress, if any, is written.
    pub(super) fn must_close(&self) -> bool {
        self.has(Flags::CLOSE) || matches!(self.reading, Reading::Refused(_) | Reading::Closed)
    }

    /// Whether the response is to a request that asks for nothing out of the ordinary, with another one allowed behind it.
    pub(super) fn is_plain(&self) -> bool {
        self.flags.0 & !Flags::EMPTY_LINE.0 == 0 && matches!(self.reading, Reading::Body | Reading::Ended)
    }

    /// Whether a response may begin: something was asked or refused, and nothing was answered.
    pub(super) fn may_respond(&self) -> bool {
        self.writing == Writing::Nothing && !matches!(self.reading, Reading::Head | Reading::Closed)
    }

    pub(super) fn request_began(&mut self) {
        self.reading = Reading::Body;
    }

    pub(super) fn request_ended(&mut self) {
        self.reading = Reading::Ended;
        self.clear(Flags::EXPECTS_CONTINUE);
        self.next_exchange();
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        self.reading = Reading::Refused(refusal);
        self.clear(Flags::EXPECTS_CONTINUE);
    }

    pub(super) fn response_began(&mut self) {
        self.writing = Writing::Head;
    }

    pub(super) fn response_head_ended(&mut self) {
        self.writing = Writing::Body;
    }

    pub(super) fn response_ended(&mut self) {
        self.writing = Writing::Done;
        self.next_exchange();
    }

    fn next_exchange(&mut self) {
        match (self.reading, self.writing) {
            // What is left of the request is of no use to a connection that closes.
            (Reading::Body | Reading::Ended, Writing::Done) if self.has(Flags::CLOSE) => self.reading = Reading::Closed,
            (Reading::Ended, Writing::Done) => *self = Self::default(),
            _ => {}
        }
    }
}
