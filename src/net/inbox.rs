//! What was read and is not used yet, for protocols that cut their input into messages.
//!
//! Rules kept here:
//! - Input is used where it was read, and copied only when it has to wait: a whole message costs no copy, and a byte is copied
//!   once however it arrives.
//! - Messages are handed out in a loop, one after the other, for as long as the protocol wants them: pausing, closing and
//!   falling behind with the answers take effect between two messages of one read.
//! - What is idle holds no buffer.

use crate::buffer::Pending;
use crate::failure::Result;
use crate::net::transport::Transport;

/// Input that waits.
#[derive(Default)]
pub(super) struct Inbox(Option<Box<Pending>>);

impl Inbox {
    /// Gives `next` what waits and then `data`, again and again; it says how much of it is used up, or `None` to wait for more.
    ///
    /// What is left when the transport no longer reads is kept for the next call, which may bring nothing new.
    pub(super) fn receive(
        &mut self,
        transport: &Transport,
        data: &[u8],
        next: impl FnMut(&[u8]) -> Result<Option<usize>>,
    ) -> Result<()> {
        match self.0.take() {
            None => {
                let used = hand_out(transport, data, next)?;
                if used < data.len() && !is_ending(transport) {
                    let mut rest = transport.reactor().buffers().take();
                    rest.bytes.extend_from_slice(&data[used..]);
                    self.0 = Some(rest);
                }
            }
            Some(mut waiting) => {
                waiting.bytes.extend_from_slice(data);
                let used = hand_out(transport, waiting.rest(), next)?;
                waiting.advance(used);
                if waiting.rest().is_empty() || is_ending(transport) {
                    transport.reactor().buffers().give_back(waiting);
                } else {
                    self.0 = Some(waiting);
                }
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

fn hand_out(
    transport: &Transport,
    input: &[u8],
    mut next: impl FnMut(&[u8]) -> Result<Option<usize>>,
) -> Result<usize> {
    let mut used = 0;
    while used < input.len() && transport.state().reads(transport.unsent()) {
        match next(&input[used..])? {
            Some(count) => used += count,
            None => break,
        }
    }
    Ok(used)
}

/// Whether no input will ever be wanted again.
fn is_ending(transport: &Transport) -> bool {
    let state = transport.state();
    !state.open || state.losing || state.aborted
}
