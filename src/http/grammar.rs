//! The grammar shared by heads, trailers and responses (RFC 9110 section 5.6, RFC 9112 sections 2.2
//! and 5).
//!
//! Rules:
//! 1. A line ends in CRLF. A LF without its CR and a CR without its LF are errors where they stand:
//!    another parser may end the line there, and then the two disagree on every line that follows.
//! 2. A search never looks at a byte twice over all calls, however small the pieces that arrive: it
//!    is told where it stopped. A growing head that is parsed from its start each time costs the
//!    square of its size.
//! 3. The answer depends on the bytes alone, not on how they were cut.

use super::error::Refusal;

/// Where the head that starts at `input[0]` ends, past its empty line; `None` if that has not
/// arrived.
///
/// The first `scanned` bytes were searched before. A head longer than `limit` is refused.
pub(super) fn head_end(input: &[u8], scanned: usize, limit: usize) -> Result<Option<usize>, Refusal> {
    let window = &input[..input.len().min(limit)];
    let mut at = scanned.min(window.len());
    while let Some(found) = find_lf(&window[at..]) {
        let lf = at + found;
        // What precedes is never another CRLF alone: empty lines were skipped before the head
        // began.
        match window[..lf] {
            [.., b'\n', b'\r'] => return Ok(Some(lf + 1)),
            [.., b'\r'] => at = lf + 1,
            _ => return Err(Refusal::BareLf),
        }
    }
    if input.len() < limit { Ok(None) } else { Err(too_large(window)) }
}

/// The length of the line that starts at `input[0]`, CRLF included; `None` if it has not arrived.
///
/// The first `scanned` bytes were searched before. A line longer than `limit` is refused as
/// `too_long`.
pub(super) fn line_end(
    input: &[u8],
    scanned: usize,
    limit: usize,
    too_long: Refusal,
) -> Result<Option<usize>, Refusal> {
    let window = &input[..input.len().min(limit)];
    let start = scanned.min(window.len());
    match find_lf(&window[start..]) {
        Some(found) if window[..start + found].ends_with(b"\r") => Ok(Some(start + found + 1)),
        Some(_) => Err(Refusal::BareLf),
        None if input.len() < limit => Ok(None),
        None => Err(too_long),
    }
}

/// Where the parts of a field line are; `next` is the start of the line after it.
pub(super) struct FieldLine {
    pub(super) name_end: usize,
    pub(super) value_start: usize,
    pub(super) value_end: usize,
    pub(super) next: usize,
}

/// Reads the field line that starts at `text[start]` (RFC 9112 section 5).
///
/// Blanks around the value are not part of it; only SP and HTAB are blanks.
#[inline(always)] // one of its callers is the loop over requests
pub(super) fn field_line(text: &[u8], start: usize) -> Result<FieldLine, Refusal> {
    let name_end = start + token_len(&text[start..]);
    if name_end == start || text.get(name_end) != Some(&b':') {
        return Err(name_fault(&text[start..], name_end - start));
    }
    let value_start = skip_blanks(text, name_end + 1);
    let line_end = value_line_end(text, value_start)?;
    let value_end = value_start + trim_end(&text[value_start..line_end]).len();
    Ok(FieldLine { name_end, value_start, value_end, next: line_end + 2 })
}

/// The members of a comma-separated list, trimmed; empty ones included (RFC 9110 section 5.6.1).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_blanks)
}

/// The number of leading bytes of `text` that form a token (RFC 9110 section 5.6.2).
pub(super) fn token_len(text: &[u8]) -> usize {
    leading(text, &TOKEN)
}

/// Whether `text` is a token.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && token_len(text) == text.len()
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// SP or HTAB. VT, FF and NBSP are not: a parser that trims them sees `chunked` where this one does
/// not.
pub(super) fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// The index of the first byte of `text` at or after `at` that is not a blank.
pub(super) fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(|&byte| is_blank(byte)) {
        at += 1;
    }
    at
}

/// The first control character: 0x00 to 0x1F, and 0x7F.
pub(super) fn find_control(text: &[u8]) -> Option<usize> {
    find(text, |word| below(word, 0x20) | equal(word, 0x7f))
}

/// The first byte that is not a visible ASCII character.
pub(super) fn find_not_visible(text: &[u8]) -> Option<usize> {
    find(text, |word| below(word, 0x21) | equal(word, 0x7f) | word)
}

fn find_lf(text: &[u8]) -> Option<usize> {
    find(text, |word| equal(word, b'\n'))
}

/// The request line alone can exceed the limit, and then it is the target that is too long.
#[cold]
fn too_large(window: &[u8]) -> Refusal {
    if find_lf(window).is_some() { Refusal::HeadTooLarge } else { Refusal::TargetTooLong }
}

/// Says what is wrong with a field name of which `len` bytes are right.
#[cold]
fn name_fault(line: &[u8], len: usize) -> Refusal {
    let rest = &line[len..];
    match rest {
        [b' ' | b'\t', ..] if len == 0 => Refusal::Folded,
        [b' ' | b'\t', ..] if rest.get(skip_blanks(rest, 0)) == Some(&b':') => Refusal::SpaceBeforeColon,
        [b'\r', b'\n', ..] => Refusal::FieldColon,
        [b'\r', ..] => Refusal::BareCr,
        [0, ..] => Refusal::Nul,
        _ => Refusal::FieldName,
    }
}

/// The index of the CR that ends the line in which `text[from]` is part of a value.
fn value_line_end(text: &[u8], from: usize) -> Result<usize, Refusal> {
    let mut at = from;
    while let Some(found) = find_control(&text[at..]) {
        at += found;
        match text[at..] {
            [b'\t', ..] => at += 1,
            [b'\r', b'\n', ..] => return Ok(at),
            [b'\r', ..] => return Err(Refusal::BareCr),
            [0, ..] => return Err(Refusal::Nul),
            _ => return Err(Refusal::ControlCharacter),
        }
    }
    Err(Refusal::FieldColon)
}

fn trim_blanks(text: &[u8]) -> &[u8] {
    trim_end(&text[skip_blanks(text, 0)..])
}

fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [before @ .., b' ' | b'\t'] = text {
        text = before;
    }
    text
}

/// The number of leading bytes of `text` that are in `class`.
///
/// Eight bytes at a time, as such a loop is unrolled: one that asks at each byte whether it is the last takes twice as long.
pub(super) fn leading(text: &[u8], class: &[bool; 256]) -> usize {
    let (chunks, tail) = text.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        if let Some(at) = chunk.iter().position(|&byte| !class[usize::from(byte)]) {
            return index * 8 + at;
        }
    }
    let len = tail.iter().take_while(|&&byte| class[usize::from(byte)]).count();
    text.len() - tail.len() + len
}

/// Searches eight bytes at a time; `hits` marks a hit by the high bit of its byte.
///
/// Only the lowest mark has to be right: the subtractions below borrow from a hit into what follows
/// it.
#[inline]
fn find(text: &[u8], hits: impl Fn(u64) -> u64) -> Option<usize> {
    let (words, tail) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marks = hits(u64::from_le_bytes(*word)) & HIGH_BITS;
        if marks != 0 {
            return Some(index * 8 + first_mark(marks));
        }
    }
    let mut word = [0; 8];
    word[..tail.len()].copy_from_slice(tail);
    // The padding may be a hit itself, but then it is past the end.
    let hit = first_mark(hits(u64::from_le_bytes(word)) & HIGH_BITS);
    (hit < tail.len()).then_some(words.len() * 8 + hit)
}

fn first_mark(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// Marks the bytes of `word` that are less than `bound`, which is at most 0x80.
fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(LOW_BITS * u64::from(bound)) & !word
}

/// Marks the bytes of `word` that equal `byte`.
fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (LOW_BITS * u64::from(byte)), 1)
}

const LOW_BITS: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);

/// `tchar` of RFC 9110 section 5.6.2.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut mark = 0;
    while mark < marks.len() {
        table[marks[mark] as usize] = true;
        mark += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Every search agrees with the loop it stands for, at every position and length and for every
    /// byte.
    #[test]
    fn a_word_wise_search_finds_what_a_byte_wise_one_finds() {
        for byte in 0..=255_u8 {
            for len in 1..20 {
                for at in 0..len {
                    let mut text = vec![b'a'; len];
                    text[at] = byte;
                    text[len - 1] ^= 0x81 * u8::from(at % 3 == 0);
                    let naive = |test: fn(u8) -> bool| text.iter().position(|&byte| test(byte));
                    assert_eq!(find_lf(&text), naive(|byte| byte == b'\n'), "{text:?}");
                    assert_eq!(find_control(&text), naive(|byte| byte.is_ascii_control()), "{text:?}");
                    assert_eq!(find_not_visible(&text), naive(|byte| !byte.is_ascii_graphic()), "{text:?}");
                    assert_eq!(token_len(&text), naive(|byte| !is_token_byte(byte)).unwrap_or(len), "{text:?}");
                }
            }
        }
    }

    /// A search that resumes inside a word must not see the bytes it was told to skip.
    #[test]
    fn a_resumed_search_gives_the_answer_of_a_fresh_one() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET";
        for scanned in 0..head.len() - 4 {
            assert_eq!(head_end(head, scanned, 1000), Ok(Some(head.len() - 3)));
        }
    }
}
