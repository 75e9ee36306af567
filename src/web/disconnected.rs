//! [`Disconnected`]: the failure of what a peer that has left was waited for or waited itself.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::net::ConnectionLost;

/// The peer left before its answer was whole: the failure of [`Request::notify_finish`](super::Request::notify_finish).
#[derive(Debug, Clone)]
pub struct Disconnected(Arc<ConnectionLost>);

impl Disconnected {
    pub(crate) fn new(reason: ConnectionLost) -> Self {
        Disconnected(Arc::new(reason))
    }

    /// How the connection ended.
    pub fn reason(&self) -> &ConnectionLost {
        &self.0
    }
}

impl fmt::Display for Disconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer left before the answer was whole: {}", self.0)
    }
}

impl Error for Disconnected {}
