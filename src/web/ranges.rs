//! The parts of something that a request asks for (RFC 9110 section 14), and the body that carries several of them.
//!
//! Rules kept here:
//! - What is no valid set of byte ranges is as if it were not there: the whole is always a right answer.
//! - No request makes us send more than the whole and the lines between the parts, however many parts it names, and in
//!   whatever order (CVE-2011-3192).
//! - The length of a body is known before its first byte.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// What to send of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Whole,
    Part(Range<u64>),
    /// At least two, none of them empty, in the order asked for.
    Parts(Vec<Range<u64>>),
    /// Nothing that is asked for is there: 416.
    Nothing,
}

/// What the value of a `Range` field asks for of something of this size.
///
/// Of something empty there is no part that could be named, so it is sent as it is.
pub(crate) fn wanted(field: &[u8], size: u64) -> Wanted {
    let Some(specs) = parse(field).filter(|_| size > 0) else { return Wanted::Whole };
    let mut parts: Vec<Range<u64>> = specs.iter().filter_map(|spec| spec.of(size)).collect();
    match parts.len() {
        0 => Wanted::Nothing,
        1 => Wanted::Part(parts.remove(0)),
        _ if parts.iter().map(length).fold(0, u64::saturating_add) > size => Wanted::Whole,
        _ => Wanted::Parts(parts),
    }
}

/// One part, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

impl Spec {
    fn parse(text: &[u8]) -> Option<Spec> {
        let dash = text.iter().position(|&byte| byte == b'-')?;
        match (&text[..dash], &text[dash + 1..]) {
            (b"", last) => Some(Spec::Last(number(last)?)),
            (first, b"") => Some(Spec::From(number(first)?)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Spec::Between(first, last))
            }
        }
    }

    /// The bytes of it that there are, if any.
    fn of(self, size: u64) -> Option<Range<u64>> {
        let part = match self {
            Spec::From(first) => first..size,
            Spec::Between(first, last) => first..last.saturating_add(1).min(size),
            Spec::Last(count) => size.saturating_sub(count)..size,
        };
        (part.start < part.end).then_some(part)
    }
}

/// `bytes=` and a list; none if it is anything else, or has more members than [`MAX_RANGES`].
fn parse(field: &[u8]) -> Option<Vec<Spec>> {
    let (unit, set) = field.trim_ascii().split_at_checked(UNIT.len())?;
    if !unit.eq_ignore_ascii_case(UNIT) {
        return None;
    }
    let members = set.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let mut specs = Vec::new();
    for member in members.filter(|member| !member.is_empty()) {
        if specs.len() == MAX_RANGES {
            return None;
        }
        specs.push(Spec::parse(member)?);
    }
    (!specs.is_empty()).then_some(specs)
}

/// A number too large to be told from a larger one is behind the end of everything in either case.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let append = |number: u64, &digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, append))
}

fn length(part: &Range<u64>) -> u64 {
    part.end - part.start
}

/// The value of `Content-Range`.
pub(crate) fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end - 1)
}

/// The value of `Content-Range` where no part is.
pub(crate) fn unsatisfied(size: u64) -> String {
    format!("bytes */{size}")
}

/// A body that is put together from text and parts of a file.
#[derive(Debug, Default)]
pub(crate) struct Stretches(VecDeque<Stretch>);

#[derive(Debug)]
pub(crate) enum Stretch {
    Text(Vec<u8>),
    /// These bytes of the file, which are some.
    File(Range<u64>),
}

impl Stretches {
    pub(crate) fn part(part: Range<u64>) -> Self {
        let stretch = (part.start < part.end).then_some(Stretch::File(part));
        Stretches(stretch.into_iter().collect())
    }

    /// A body of type `multipart/byteranges` (RFC 9110 section 14.6).
    pub(crate) fn multipart(parts: Vec<Range<u64>>, size: u64, content_type: &[u8], boundary: &str) -> Self {
        let mut stretches = VecDeque::with_capacity(2 * parts.len() + 1);
        for (at, part) in parts.into_iter().enumerate() {
            let line_end = if at == 0 { "" } else { "\r\n" };
            let mut text = format!("{line_end}--{boundary}\r\nContent-Type: ").into_bytes();
            text.extend_from_slice(content_type);
            text.extend_from_slice(format!("\r\nContent-Range: {}\r\n\r\n", content_range(&part, size)).as_bytes());
            stretches.push_back(Stretch::Text(text));
            stretches.push_back(Stretch::File(part));
        }
        stretches.push_back(Stretch::Text(format!("\r\n--{boundary}--\r\n").into_bytes()));
        Stretches(stretches)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes the body has.
    pub(crate) fn length(&self) -> u64 {
        let lengths = self.0.iter().map(|stretch| match stretch {
            Stretch::Text(text) => text.len() as u64,
            Stretch::File(part) => length(part),
        });
        lengths.sum()
    }

    /// Takes the next stretch off, and no more than `most` bytes if it is one of the file.
    pub(crate) fn next(&mut self, most: usize) -> Option<Stretch> {
        let next = self.0.pop_front()?;
        match next {
            Stretch::File(part) if length(&part) > most as u64 => {
                let middle = part.start + most as u64;
                self.0.push_front(Stretch::File(middle..part.end));
                Some(Stretch::File(part.start..middle))
            }
            next => Some(next),
        }
    }
}

/// What no content can contain except by a chance of one in 2^64.
pub(crate) fn boundary() -> String {
    format!("{:016x}", RandomState::new().hash_one(()))
}

const UNIT: &[u8] = b"bytes=";

/// More parts than a viewer of documents or a tool that patches files asks for at once; Apache's figure. Each costs some
/// hundred bytes of lines.
pub(crate) const MAX_RANGES: usize = 200;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(size: u64, cases: &[(&str, Wanted)]) {
        for (field, expected) in cases {
            assert_eq!(wanted(field.as_bytes(), size), *expected, "{field} of {size}");
        }
    }

    /// The examples of RFC 9110 section 14.1.2.
    #[test]
    fn the_examples_of_the_rfc() {
        check(
            10_000,
            &[
                ("bytes=0-499", Wanted::Part(0..500)),
                ("bytes=500-999", Wanted::Part(500..1000)),
                ("bytes=-500", Wanted::Part(9500..10_000)),
                ("bytes=9500-", Wanted::Part(9500..10_000)),
                ("bytes=0-0,-1", Wanted::Parts(vec![0..1, 9999..10_000])),
                ("bytes= 0-0, -1 ", Wanted::Parts(vec![0..1, 9999..10_000])),
                ("bytes=500-600,601-999", Wanted::Parts(vec![500..601, 601..1000])),
                ("bytes=500-700,601-999", Wanted::Parts(vec![500..701, 601..1000])),
                ("bytes=0-999, 4500-5499, -1000", Wanted::Parts(vec![0..1000, 4500..5500, 9000..10_000])),
            ],
        );
    }

    #[test]
    fn ranges_end_with_the_file() {
        check(
            10,
            &[
                ("bytes=0-", Wanted::Part(0..10)),
                ("bytes=5-99", Wanted::Part(5..10)),
                ("bytes=9-", Wanted::Part(9..10)),
                ("bytes=-99", Wanted::Part(0..10)),
                ("bytes=-18446744073709551616", Wanted::Part(0..10)),
                ("bytes=0-18446744073709551615", Wanted::Part(0..10)),
                ("bytes=0-99999999999999999999999", Wanted::Part(0..10)),
                ("BYTES=1-1", Wanted::Part(1..2)),
                ("bytes=,, 1-1 ,", Wanted::Part(1..2)),
                ("bytes=10-, 2-2", Wanted::Part(2..3)),
            ],
        );
    }

    #[test]
    fn what_begins_behind_the_end_is_nothing() {
        for field in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-", "bytes=10-,11-,-0"] {
            check(10, &[(field, Wanted::Nothing)]);
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_there() {
        let fields = [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=1-2,x",
            "bytes=1-2;3-4",
            "bytes =1-2",
            "items=1-2",
            "bytes=0x1-2",
            "bytes=1 - 2",
            "bytes=--1",
            "bytes=1-2,bytes=3-4",
            "byte=1-2",
            "bytes=1\u{660}-2",
        ];
        for field in fields {
            check(10, &[(field, Wanted::Whole)]);
        }
    }

    #[test]
    fn more_than_the_whole_is_the_whole() {
        check(10, &[("bytes=0-,0-,0-", Wanted::Whole), ("bytes=0-5,5-9", Wanted::Whole)]);
        check(10, &[("bytes=0-4,5-9", Wanted::Parts(vec![0..5, 5..10]))]);
        let many = |count| format!("bytes={}", vec!["0-0"; count].join(","));
        assert_eq!(wanted(many(MAX_RANGES + 1).as_bytes(), 1 << 40), Wanted::Whole);
        assert!(
            matches!(wanted(many(MAX_RANGES).as_bytes(), 1 << 40), Wanted::Parts(parts) if parts.len() == MAX_RANGES)
        );
    }

    #[test]
    fn of_nothing_there_is_no_part() {
        check(0, &[("bytes=0-", Wanted::Whole), ("bytes=-5", Wanted::Whole), ("bytes=7-9", Wanted::Whole)]);
    }

    /// The same, byte by byte: which of `size` bytes a valid set names, in its order.
    fn named(specs: &[(Option<u64>, Option<u64>)], size: u64) -> Vec<Vec<u64>> {
        let is_named = |byte: u64, &(first, last): &(Option<u64>, Option<u64>)| match (first, last) {
            (Some(first), Some(last)) => (first..=last).contains(&byte),
            (Some(first), None) => byte >= first,
            (None, Some(count)) => byte + count >= size,
            (None, None) => false,
        };
        let parts = specs.iter().map(|spec| (0..size).filter(|&byte| is_named(byte, spec)).collect());
        parts.filter(|part: &Vec<u64>| !part.is_empty()).collect()
    }

    fn spec() -> impl Strategy<Value = (Option<u64>, Option<u64>)> {
        let number = 0..12_u64;
        prop_oneof![
            (number.clone(), number.clone()).prop_map(|(one, more)| (Some(one), Some(one + more))),
            number.clone().prop_map(|first| (Some(first), None)),
            number.prop_map(|count| (None, Some(count))),
        ]
    }

    proptest! {
        #[test]
        fn ranges_name_the_bytes_that_a_count_of_them_names(
            specs in prop::collection::vec(spec(), 1..6),
            size in 1..10_u64,
        ) {
            let number = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
            let members: Vec<_> = specs.iter().map(|(one, other)| number(*one) + "-" + &number(*other)).collect();
            let expected = named(&specs, size);
            let sum: usize = expected.iter().map(Vec::len).sum();
            let found = match wanted(format!("bytes={}", members.join(", ")).as_bytes(), size) {
                Wanted::Nothing => vec![],
                Wanted::Part(part) => vec![part],
                Wanted::Parts(parts) => parts,
                Wanted::Whole => {
                    prop_assert!(expected.len() > 1 && sum as u64 > size, "refused for no reason");
                    return Ok(());
                }
            };
            let found: Vec<Vec<u64>> = found.into_iter().map(Iterator::collect).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn whatever_the_field_says_no_more_than_the_whole_is_sent(
            field in "(bytes)?=?[-0-9, a]{0,30}",
            size in 0..30_u64,
        ) {
            let parts = match wanted(field.as_bytes(), size) {
                Wanted::Whole | Wanted::Nothing => vec![],
                Wanted::Part(part) => vec![part],
                Wanted::Parts(parts) => parts,
            };
            prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
            prop_assert!(parts.iter().map(length).sum::<u64>() <= size);
        }

        #[test]
        fn a_body_is_as_long_as_announced_however_it_is_cut(
            starts in prop::collection::vec((0..50_u64, 1..50_u64), 1..5),
            most in 1..60_usize,
        ) {
            let parts: Vec<_> = starts.iter().map(|(start, length)| *start..start + length).collect();
            let mut body = Stretches::multipart(parts.clone(), 100, b"text/plain", "mark");
            let announced = body.length();
            let (mut sent, mut bytes) = (0, Vec::new());
            while let Some(stretch) = body.next(most) {
                match stretch {
                    Stretch::Text(text) => sent += text.len() as u64,
                    Stretch::File(part) => {
                        prop_assert!(length(&part) as usize <= most);
                        sent += length(&part);
                        bytes.extend(part);
                    }
                }
            }
            prop_assert_eq!(sent, announced);
            prop_assert_eq!(bytes, parts.into_iter().flatten().collect::<Vec<_>>());
        }
    }
}
