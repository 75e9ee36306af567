//! The path of a request, as the walk along the tree sees it.
//!
//! Rule kept here: the path is split at its slashes first and each segment decoded after, so that an encoded slash stays
//! inside of one.

use std::cell::Cell;
use std::ops::Range;

use percent_encoding::percent_decode_str;

/// The segments of a path, decoded.
#[derive(Default)]
pub(crate) struct Path {
    /// The path as sent. The next request often has the same, and then there is nothing to do.
    sent: String,
    /// The segments, decoded, with a slash between them.
    pub(crate) text: String,
    pub(crate) segments: Vec<Range<usize>>,
    /// How many segments were used up on the way to the resource.
    pub(crate) cursor: Cell<usize>,
    /// A segment was not UTF-8; nothing can have such a name.
    pub(crate) garbled: bool,
}

impl Path {
    #[inline]
    pub(crate) fn fill(&mut self, path: &str) {
        self.cursor.set(0);
        if self.sent.is_empty() || self.sent != path {
            self.split(path);
        }
    }

    fn split(&mut self, path: &str) {
        self.sent.clear();
        self.sent.push_str(path);
        self.text.clear();
        self.segments.clear();
        self.garbled = false;
        for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
            if !self.segments.is_empty() {
                self.text.push('/');
            }
            let start = self.text.len();
            if !segment.contains('%') {
                self.text.push_str(segment);
            } else if let Ok(decoded) = percent_decode_str(segment).decode_utf8() {
                self.text.push_str(&decoded);
            } else {
                self.garbled = true;
            }
            self.segments.push(start..self.text.len());
        }
    }

    pub(crate) fn segments(
        &self,
        which: impl std::slice::SliceIndex<[Range<usize>], Output = [Range<usize>]>,
    ) -> impl Iterator<Item = &str> {
        self.segments[which].iter().map(|range| &self.text[range.clone()])
    }
}
