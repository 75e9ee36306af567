//! Buffers that are shared and used again.
//!
//! Rules kept here:
//! - What is idle holds no buffer: a connection takes one when it has something to send and gives it back when it is sent.
//! - What is kept for later use is bounded, in number and in size.

use std::cell::{Cell, RefCell};

/// Buffers that many sources share, so that an idle one needs none.
#[derive(Default)]
pub(crate) struct Buffers {
    read: Cell<Option<Box<[u8]>>>,
    #[expect(clippy::vec_box, reason = "the boxes themselves are handed out and taken back")]
    spare: RefCell<Vec<Box<Pending>>>,
}

/// Bytes that wait: to be sent, or to be understood. Boxed, so that an idle connection has a word for them.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) bytes: Vec<u8>,
    /// How many of them are done with.
    pub(crate) done: usize,
    /// How many of them were left over when the system was last asked to take them.
    pub(crate) left: usize,
}

impl Pending {
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    /// Marks `count` more bytes as done with. Their room is reclaimed when there is enough of it to be worth a move, and as much
    /// as there is to be moved: otherwise a large output that goes out in small pieces would be moved once for each.
    pub(crate) fn advance(&mut self, count: usize) {
        self.done += count;
        if self.done > RECLAIM && self.done >= self.bytes.len() - self.done {
            self.bytes.drain(..self.done);
            self.done = 0;
        }
    }
}

impl Buffers {
    /// Calls `user` with the buffer to read into. A nested call, from a turn inside a turn, gets one of its own.
    pub(crate) fn with_read_buffer<R>(&self, user: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut buffer = self.read.take().unwrap_or_else(|| vec![0; READ_BUFFER].into());
        let answer = user(&mut buffer);
        self.read.set(Some(buffer));
        answer
    }

    /// An empty buffer, used before if there is one.
    pub(crate) fn take(&self) -> Box<Pending> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_back(&self, mut buffer: Box<Pending>) {
        let mut spare = self.spare.borrow_mut();
        if buffer.bytes.capacity() <= MAX_SPARE_CAPACITY && spare.len() < MAX_SPARE_BUFFERS {
            buffer.bytes.clear();
            buffer.done = 0;
            buffer.left = 0;
            spare.push(buffer);
        }
    }
}

/// What one read takes at most: a flooding peer gets 64 KiB a turn, like everyone else.
const READ_BUFFER: usize = 64 * 1024;

/// Moving the rest of a buffer costs more than a system call long before this, and a peer that reads slowly must not make us
/// keep what it has read.
const RECLAIM: usize = 64 * 1024;

/// A buffer that once held a large response is freed rather than kept.
const MAX_SPARE_CAPACITY: usize = 64 * 1024;

/// As many as a turn full of events may use at once, and 4 MiB at the very most.
const MAX_SPARE_BUFFERS: usize = 64;
