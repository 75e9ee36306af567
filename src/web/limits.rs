//! What a connection may take, in bytes and in time.
//!
//! Rule kept here: every limit is a field with its reason, and a default that is safe on the open internet.

use std::time::Duration;

use crate::http as engine;

/// What a connection may take, in bytes and in time; for [`Site::with_limits`](super::Site::with_limits).
///
/// ```
/// use std::time::Duration;
/// use dosimeter::web::{Branch, Limits, Site};
///
/// let mut limits = Limits::default();
/// limits.request.body = 64 * 1024 * 1024;
/// limits.head_timeout = Duration::from_secs(10);
/// let site = Site::with_limits(Branch::new(), limits);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Sizes of a request.
    pub request: engine::Limits,
    /// From the first byte of a request (or from accepting the connection) to the end of its head: 30 s, hyper's figure.
    /// A peer that dribbles its head holds a connection no longer than this.
    pub head_timeout: Duration,
    /// How long a body may take, to which [`body_rate`](Limits::body_rate) adds time as it comes: 30 s.
    pub body_timeout: Duration,
    /// The slowest a body may come, in bytes per second: 1024. A megabyte may take 17 minutes, and an announced one of which
    /// nothing comes half a minute.
    pub body_rate: u64,
    /// From the end of an answer to the first byte of the next request: 75 s, which is longer than the 60 s after which
    /// common proxies close, so that it is the proxy who closes and no request is lost between the two.
    pub idle_timeout: Duration,
    /// How long a peer may take nothing of an answer: 30 s. One that reads slowly is left to it: on Linux the system tells of
    /// every 64 KiB or so that it takes, which is some 2 KiB/s.
    pub write_timeout: Duration,
    /// How many connections there may be at once: 65,536. An idle one takes some 400 bytes here, and a descriptor, of which
    /// there are often fewer. What comes beyond is closed without a word, and counted.
    pub connections: usize,
    /// How many there may be from one address, or from one network of IPv6 (`/64`): 4096, which is more than all the browsers
    /// behind one address of a provider open, and less than it takes to lock everybody else out. Loopback and UNIX sockets are
    /// exempt: what comes from there is mostly a proxy, which speaks for many and has limits of its own. For a proxy on
    /// another host raise it.
    pub connections_per_peer: usize,
    /// How many requests a connection may ask before it is closed with the last answer; `u32::MAX`, the default, never closes
    /// it. A connection costs the same at its millionth request as at its first. Less makes clients spread anew over servers
    /// behind one name.
    pub requests_per_connection: u32,
    /// How much input behind the request being handled is kept: 16 KiB, Twisted's figure.
    pub read_ahead: usize,
    /// How long a body may be that is [taken as a stream](super::Resource::accepts_stream): 1 GiB. It takes no memory here,
    /// but mostly somewhere else, such as on a disk.
    pub streamed_body: u64,
    /// How much of a streamed body waits here to be taken, before the peer is not read any more: 64 KiB, and at the most what
    /// one read brings more.
    pub stream_buffer: usize,
    /// How much of a body that nobody wanted is read and dropped after the answer, so that the connection can be kept: 64 KiB.
    /// With more to come, or in chunks, the connection is closed: a new one is cheaper.
    pub unread_body: u64,
    /// How long a peer that has closed its sending side is waited with while nothing can be sent to it: 30 s.
    ///
    /// It may have left, or wait for its answer: the two look the same. When this has passed it counts as gone, and the
    /// Deferred it waited for is cancelled. A peer whose system resets the connection is gone at once.
    pub half_closed: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request: engine::Limits::default(),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            body_rate: 1024,
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            connections: 65_536,
            connections_per_peer: 4096,
            requests_per_connection: u32::MAX,
            read_ahead: 16 * 1024,
            streamed_body: 1 << 30,
            stream_buffer: 64 * 1024,
            unread_body: 64 * 1024,
            half_closed: Duration::from_secs(30),
        }
    }
}
