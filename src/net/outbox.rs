//! What a connection has to send and to do: written by its transport, read by its driver.
//!
//! Rules kept here:
//! - Nothing here calls anybody: no user code runs while a cell is empty.
//! - An idle connection holds no buffer, and what few connections need stands behind one pointer that the others leave empty.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use crate::buffer::Pending;
use crate::clock::DelayedCall;
use crate::failure::Failure;
use crate::net::producer::{Producer, ProducerKind};
use crate::reactor::Reactor;

/// What a connection has to send, and what else it is to do.
pub(crate) struct Outbox {
    /// Absent when there is nothing to send.
    gathered: Cell<Option<Box<Pending>>>,
    /// Absent for most connections for all their life.
    rare: Cell<Option<Box<Rare>>>,
    /// How often the system took something: tells whether a peer reads at all.
    sends: Cell<u32>,
    state: Cell<State>,
}

/// What few connections have.
#[derive(Default)]
pub(crate) struct Rare {
    /// The error of the protocol that is to be the reason of the end.
    pub(crate) failure: Option<Failure>,
    pub(crate) producer: Option<Registered>,
    /// The end of patience with a peer that takes nothing of the last output, and what it had taken before.
    pub(crate) deadline: Option<(DelayedCall, u32)>,
}

/// The producer of a transport.
pub(crate) struct Registered {
    pub(crate) producer: Rc<dyn Producer>,
    pub(crate) kind: ProducerKind,
    /// It makes nothing until it is resumed.
    pub(crate) waits: bool,
}

/// How far sending got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Everything,
    /// The socket is full.
    Some,
    /// The socket takes more than one turn may give it.
    Enough,
}

/// The state of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    /// Until the connection is lost.
    pub(crate) open: bool,
    /// To be closed when everything is sent.
    pub(crate) losing: bool,
    /// To be reset.
    pub(crate) aborted: bool,
    pub(crate) output: Output,
    pub(crate) reading: Reading,
    /// The socket may have data that were not read: poll will not tell again.
    pub(crate) unread: bool,
    /// The reactor was asked for another turn to read.
    pub(crate) queued: bool,
    pub(crate) input: Input,
    /// The socket was full; poll will tell when it is not.
    pub(crate) blocked: bool,
    /// More than `HIGH_WATER` was unsent, and the protocol is to be told when that is over.
    pub(crate) congested: bool,
    /// A producer is registered: nothing is closed yet.
    pub(crate) producing: bool,
    /// The driver will look at the outbox by itself.
    pub(crate) scheduled: bool,
}

/// Whether the protocol wants data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Wanted,
    Paused,
    /// It wants data again, and is to be told before it gets any.
    Resumed,
}

/// How far the half of a connection that is written to is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Output {
    Open,
    /// To be closed when everything is sent.
    Closing,
    Closed,
}

/// How far the half of a connection that is read from is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Input {
    Open,
    /// Poll told of the end of the stream, or of an error, which it does once: reading goes on until it is found.
    Ending,
    /// The end of the stream was found, and the protocol told.
    Ended,
}

impl State {
    fn takes_writes(self) -> bool {
        self.open && !self.aborted && self.output == Output::Open
    }

    /// Whether data from the peer are wanted. A peer that sends but does not read is not read from either: what it asks for
    /// would only pile up here.
    pub(crate) fn reads(self, unsent: usize) -> bool {
        self.open && !self.losing && !self.aborted && self.reading != Reading::Paused && unsent <= HIGH_WATER
    }
}

impl Outbox {
    pub(crate) fn new() -> Self {
        let state = State {
            open: true,
            losing: false,
            aborted: false,
            output: Output::Open,
            reading: Reading::Wanted,
            unread: false,
            queued: false,
            input: Input::Open,
            blocked: false,
            congested: false,
            producing: false,
            scheduled: false,
        };
        Outbox { gathered: Cell::new(None), rare: Cell::new(None), sends: Cell::new(0), state: Cell::new(state) }
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.get();
        change(&mut state);
        self.state.set(state);
    }

    /// Lets `encode`, which must not be user code, append to what is to be sent, in a new `buffer` if there is none; `false` when
    /// nothing is sent any more.
    pub(crate) fn gather(&self, buffer: impl FnOnce() -> Box<Pending>, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        if !self.state().takes_writes() {
            return false;
        }
        let mut gathered = self.gathered.take().unwrap_or_else(buffer);
        encode(&mut gathered.bytes);
        self.gathered.set(Some(gathered));
        true
    }

    /// Gives what few connections have. No user code may run meanwhile.
    pub(crate) fn rarely<R>(&self, user: impl FnOnce(&mut Rare) -> R) -> R {
        let mut rare = self.rare.take().unwrap_or_default();
        let answer = user(&mut rare);
        self.rare.set(Some(rare));
        answer
    }

    pub(crate) fn take_rare(&self) -> Option<Box<Rare>> {
        self.rare.take()
    }

    pub(crate) fn unsent(&self) -> usize {
        let gathered = self.gathered.take();
        let unsent = gathered.as_ref().map_or(0, |gathered| gathered.rest().len());
        self.gathered.set(gathered);
        unsent
    }

    pub(crate) fn sends(&self) -> u32 {
        self.sends.get()
    }

    /// How many bytes the system did not take when it was last asked to.
    pub(crate) fn backlog(&self) -> usize {
        let gathered = self.gathered.take();
        let backlog = gathered.as_ref().map_or(0, |gathered| gathered.left);
        self.gathered.set(gathered);
        backlog
    }

    /// Sends as much as `send` takes, but no more than one turn may. Tells how far that got, and by how much the backlog has
    /// grown.
    pub(crate) fn send(
        &self,
        reactor: &Reactor,
        send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<(Sent, isize)> {
        let Some(mut gathered) = self.gathered.take() else { return Ok((Sent::Everything, 0)) };
        let mut sent = 0;
        let outcome = self.send_gathered(&mut gathered, &mut sent, send);
        reactor.connection_figures().sent_bytes.add(sent as u64);
        let before = gathered.left;
        if outcome.is_ok() {
            gathered.left = gathered.rest().len();
        }
        let grown = gathered.left as isize - before as isize;
        match outcome {
            Ok(Sent::Everything) => reactor.buffers().give_back(gathered),
            _ => self.gathered.set(Some(gathered)),
        }
        Ok((outcome?, grown))
    }

    fn send_gathered(
        &self,
        gathered: &mut Pending,
        sent: &mut usize,
        mut send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<Sent> {
        while !gathered.rest().is_empty() {
            if *sent >= SENT_PER_TURN {
                return Ok(Sent::Enough);
            }
            match send(gathered.rest()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    gathered.advance(count);
                    *sent += count;
                    self.sends.set(self.sends.get().wrapping_add(1));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Some),
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::Everything)
    }

    /// The connection is lost: nothing is to be sent or done any more. Answers what was the backlog.
    pub(crate) fn close(&self) -> usize {
        self.update(|state| (state.open, state.producing) = (false, false));
        self.gathered.take().map_or(0, |gathered| gathered.left)
    }
}

/// With more than this unsent nothing more is read from the peer until it has read. Twisted's figure.
pub(crate) const HIGH_WATER: usize = 64 * 1024;

/// A peer that takes everything at once gets this much, and then the others their turn.
const SENT_PER_TURN: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Metrics;

    /// Sends with a system that answers `answers`, one after the other, and gives what it took of `data` besides the outcome.
    fn send(data: &[u8], answers: &[io::Result<usize>]) -> (io::Result<Sent>, Vec<u8>, usize) {
        let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor");
        let outbox = Outbox::new();
        outbox.gather(|| reactor.buffers().take(), |gathered| gathered.extend_from_slice(data));
        let (mut taken, mut answers) = (Vec::new(), answers.iter());
        let outcome = outbox.send(&reactor, |rest| match answers.next().expect("it is asked no more often") {
            Ok(count) => {
                taken.extend_from_slice(&rest[..*count]);
                Ok(*count)
            }
            Err(error) => Err(error.kind().into()),
        });
        (outcome.map(|(sent, _)| sent), taken, outbox.unsent())
    }

    #[test]
    fn an_interrupted_and_a_short_send_go_on_where_they_ended() {
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        let (outcome, taken, unsent) = send(b"abcdef", &[interrupted(), Ok(2), interrupted(), Ok(1), Ok(3)]);
        assert_eq!((outcome.expect("sent"), &*taken, unsent), (Sent::Everything, &b"abcdef"[..], 0));
    }

    #[test]
    fn what_the_system_does_not_take_is_kept_in_order() {
        let (outcome, taken, unsent) = send(b"abcdef", &[Ok(4), Err(io::ErrorKind::WouldBlock.into())]);
        assert_eq!((outcome.expect("no error"), &*taken, unsent), (Sent::Some, &b"abcd"[..], 2));
    }

    #[test]
    fn a_system_that_takes_nothing_and_says_so_is_an_error_and_not_a_loop() {
        let (outcome, ..) = send(b"abcdef", &[Ok(0)]);
        assert_eq!(outcome.expect_err("broken").kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn a_peer_that_takes_everything_gets_no_more_than_its_share_of_a_turn() {
        let data = vec![0; 3 * SENT_PER_TURN];
        let (outcome, taken, unsent) = send(&data, &[Ok(SENT_PER_TURN)]);
        let expected = (Sent::Enough, SENT_PER_TURN, 2 * SENT_PER_TURN);
        assert_eq!((outcome.expect("no error"), taken.len(), unsent), expected);
    }
}
