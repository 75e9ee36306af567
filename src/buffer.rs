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
    spare: RefCell<Vec<Vec<u8>>>,
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
    pub(crate) fn take(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if buffer.capacity() <= MAX_SPARE_CAPACITY && spare.len() < MAX_SPARE_BUFFERS {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

/// What one read takes at most: a flooding peer gets 64 KiB a turn, like everyone else.
const READ_BUFFER: usize = 64 * 1024;

/// A buffer that once held a large response is freed rather than kept.
const MAX_SPARE_CAPACITY: usize = 64 * 1024;

/// As many as a turn full of events may use at once, and 4 MiB at the very most.
const MAX_SPARE_BUFFERS: usize = 64;
