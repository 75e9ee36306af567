//! How long a peer is waited for that may send on behind its last answer.
//!
//! Rule kept here: who is silent is given a moment, who sends on a while, and nobody for ever.

use std::time::Duration;

/// How long a peer is waited for that sends on behind its last answer: perhaps it looks for that when it is done.
///
/// In one byte, because every idle connection has one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Patience(u8);

impl Patience {
    /// With a peer that has asked for the end, and so sends nothing more.
    pub(super) const NONE: Self = Patience(0);
    pub(super) const ALL: Self = Patience(MOST_LINGERS);
    /// Set if the peer has sent something since this was last looked at.
    const HEARD: u8 = 1 << 7;

    pub(super) fn after_input(self) -> Self {
        Patience(self.0 | Self::HEARD)
    }

    /// What is left after one more [`LINGER`]; nothing for a peer that was silent.
    pub(super) fn spent(self) -> Self {
        let left = self.0 & !Self::HEARD;
        if self.0 == left { Self::NONE } else { Patience(left.saturating_sub(1)) }
    }
}

/// Long enough for an answer to cross the world; nginx waits 5 s.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// How many times [`LINGER`] a peer that sends on is given: 30 s in all, nginx's figure. Longer would let whoever is
/// refused keep a connection for nothing.
const MOST_LINGERS: u8 = 15;
