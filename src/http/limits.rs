//! How much of each thing one request may take.
//!
//! Rule: everything a peer can make longer has a limit here. What has none is bounded by what has
//! one: a method by [`Limits::head`], a chunk's data by [`Limits::body`].

/// How much one request may take before it is refused.
///
/// The defaults are safe on the open internet. What the engine leaves unconsumed while it waits for
/// more is never longer than `head`, `chunk_line` or `trailers`, whatever the peer announces.
///
/// # Example
///
/// ```
/// use dosimeter::http::Limits;
///
/// let mut limits = Limits::default();
/// limits.body = 64 * 1024 * 1024; // this server takes uploads
/// assert_eq!(limits.target, 8 * 1024);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of the request target, 8 KiB. Past it: 414.
    ///
    /// RFC 9112 section 3 asks for request lines of at least 8000 bytes; browsers and proxies stop
    /// near there too.
    pub target: usize,
    /// Bytes of the whole head, from the method to the empty line, 16 KiB. Past it: 431 (or 414, if
    /// the request line alone is longer).
    ///
    /// The figure of nginx, Tomcat and Twisted lies between 8 and 32 KiB. It is what one slow peer
    /// can make a server keep.
    pub head: usize,
    /// Number of field lines in the head, 100. Past it: 431.
    ///
    /// Browsers send about 20, chains of proxies add some; the work per request is proportional to
    /// it.
    pub headers: usize,
    /// Bytes of a body, 1 MiB, counted after chunks are decoded. Past it: 413, before a byte of it
    /// is read where the length was declared.
    ///
    /// A limit on `Content-Length` alone is evaded by sending chunks.
    pub body: u64,
    /// Bytes of the line that opens a chunk, 4 KiB. Past it: 400.
    ///
    /// A size has at most 16 digits; the remainder is for extensions, which have to be ignored and
    /// not refused (RFC 9112 section 7.1.1), so there is room for a signature in one.
    pub chunk_line: usize,
    /// Bytes of the trailer section and of all chunk extensions of one body, 16 KiB. Past it: 431.
    ///
    /// They are checked and dropped, so the limit guards the work and not the memory: without it,
    /// one byte of data could bring a full `chunk_line` with it, each time. The figure is that of
    /// hyper and Node.
    pub trailers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            target: 8 * 1024,
            head: 16 * 1024,
            headers: 100,
            body: 1024 * 1024,
            chunk_line: 4 * 1024,
            trailers: 16 * 1024,
        }
    }
}
