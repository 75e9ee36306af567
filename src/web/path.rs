//! The path of a request, as the walk along the tree sees it.
//!
//! Rule kept here: the path is split at its slashes first and each segment decoded after, so that an encoded slash stays
//! inside of one.

use std::cell::Cell;
use std::ops::Range;

use percent_encoding::percent_decode_str;

use crate::http::RequestHead;

/// The segments of a path, decoded.
#[derive(Default)]
pub(crate) struct Path {
    /// The path as sent, and the reading of the head that it is from. The next request often has the same, and then there is
    /// nothing to do.
    sent: String,
    reading: u64,
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
    pub(crate) fn fill(&mut self, head: &RequestHead) {
        self.cursor.set(0);
        if self.reading != head.reading() {
            self.reading = head.reading();
            if self.sent.is_empty() || self.sent != head.path() {
                self.split(head.path());
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Connection, Event, Limits};

    fn read(head: &mut RequestHead, target: &str) {
        let input = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(Connection::new().receive(input.as_bytes(), head, &Limits::default()), (input.len(), Event::Head));
    }

    fn segments(path: &Path) -> Vec<&str> {
        path.segments(..).collect()
    }

    #[test]
    fn a_path_is_that_of_the_head_also_when_one_between_was_never_asked_for() {
        let (mut head, mut path) = (RequestHead::new(), Path::default());
        read(&mut head, "/a/b?c");
        path.fill(&head);
        assert_eq!(segments(&path), ["a", "b"]);
        read(&mut head, "/secret");
        read(&mut head, "/secret");
        path.fill(&head);
        assert_eq!(segments(&path), ["secret"]);
    }

    #[test]
    fn a_path_that_comes_again_begins_at_its_first_segment() {
        let (mut head, mut path) = (RequestHead::new(), Path::default());
        for _ in 0..2 {
            read(&mut head, "/a");
            path.fill(&head);
            assert_eq!((path.cursor.replace(1), segments(&path)), (0, vec!["a"]));
        }
    }
}
