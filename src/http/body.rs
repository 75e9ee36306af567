//! Where a body ends: of a request, as it is read; of a response, as it is written (RFC 9112
//! sections 6 and 7).
//!
//! Rules:
//! 1. The end of a body is known exactly or the request is refused. One byte more or less is a
//!    request that the peer did not send, or somebody else's.
//! 2. The limit counts what the application will see, after chunks are decoded, and is applied
//!    before the data it forbids is waited for.
//! 3. Extensions and trailers are checked, counted and dropped. They never become fields of the
//!    request.

use super::error::{ExcessBody, Refusal};
use super::grammar::{field_line, is_token_byte, line_end, skip_blanks, token_len};
use super::limits::Limits;

/// Reads the body of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Decoder {
    /// Bytes to come: of the body, or of this chunk.
    left: u64,
    /// Bytes of all chunks begun.
    announced: u64,
    /// Bytes of extensions and trailers so far.
    discarded: u32,
    phase: Phase,
}

/// What is read next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The rest of a body of declared length.
    #[default]
    Length,
    /// The line that opens a chunk.
    ChunkLine,
    /// The data of a chunk, and the CRLF behind it.
    ChunkData,
    /// The field lines after the last chunk, and the empty line.
    Trailers,
}

/// What the next bytes of a body are.
pub(super) enum Decoded<'a> {
    NeedData,
    Data(&'a [u8]),
    End,
}

impl Decoder {
    pub(super) fn length(length: u64) -> Self {
        Self { left: length, ..Self::default() }
    }

    pub(super) fn chunked() -> Self {
        Self { phase: Phase::ChunkLine, ..Self::default() }
    }

    /// How many bytes are to come, if they are counted ahead.
    pub(super) fn left(&self) -> Option<u64> {
        (self.phase == Phase::Length).then_some(self.left)
    }

    /// How many bytes of `input` were used, and what they say.
    ///
    /// An incomplete line is not used; `scanned` of its bytes need not be searched again.
    #[inline(always)] // one of its callers is the loop over requests
    pub(super) fn decode<'a>(
        &mut self,
        input: &'a [u8],
        scanned: &mut u32,
        limits: &Limits,
    ) -> Result<(usize, Decoded<'a>), Refusal> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let step = match self.phase {
                Phase::Length if self.left == 0 => return Ok((used, Decoded::End)),
                Phase::Length => 0,
                Phase::ChunkData if self.left > 0 => 0,
                Phase::ChunkData => self.chunk_end(rest)?,
                Phase::ChunkLine => self.chunk_line(rest, scanned, limits)?,
                Phase::Trailers => match self.trailer_line(rest, scanned, limits)? {
                    EMPTY_LINE => return Ok((used + EMPTY_LINE, Decoded::End)),
                    step => step,
                },
            };
            if step == 0 {
                let data = self.take_data(rest);
                let event = if data.is_empty() { Decoded::NeedData } else { Decoded::Data(data) };
                return Ok((used + data.len(), event));
            }
            used += step;
        }
    }

    /// What is there of the data due, which is none within a line.
    fn take_data<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
        self.left -= len as u64;
        &rest[..len]
    }

    /// CRLF must follow, so that a size which does not match its data is noticed (RFC 9112 section
    /// 7.1).
    fn chunk_end(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        match rest {
            [] | [b'\r'] => Ok(0),
            [b'\r', b'\n', ..] => {
                self.phase = Phase::ChunkLine;
                Ok(2)
            }
            _ => Err(Refusal::ChunkEnd),
        }
    }

    fn chunk_line(&mut self, rest: &[u8], scanned: &mut u32, limits: &Limits) -> Result<usize, Refusal> {
        let Some(len) = next_line(rest, scanned, limits.chunk_line, Refusal::ChunkLineTooLong)? else {
            return Ok(0);
        };
        let (size, extension) = chunk_size(&rest[..len - 2])?;
        check_extension(extension)?;
        self.discard(extension.len(), limits)?;
        self.announced = self.announced.saturating_add(size);
        if self.announced > limits.body {
            return Err(Refusal::BodyTooLarge);
        }
        self.left = size;
        self.phase = if size == 0 { Phase::Trailers } else { Phase::ChunkData };
        Ok(len)
    }

    fn trailer_line(&mut self, rest: &[u8], scanned: &mut u32, limits: &Limits) -> Result<usize, Refusal> {
        // The empty line that ends the body is due even where no trailers are allowed.
        let limit = limits.trailers.saturating_sub(self.discarded as usize).max(EMPTY_LINE);
        let Some(len) = next_line(rest, scanned, limit, Refusal::TrailersTooLarge)? else {
            return Ok(0);
        };
        if len > EMPTY_LINE {
            self.discard(len, limits)?;
            field_line(&rest[..len], 0)?;
        }
        Ok(len)
    }

    fn discard(&mut self, len: usize, limits: &Limits) -> Result<(), Refusal> {
        let total = self.discarded as usize + len;
        self.discarded = u32::try_from(total).map_err(|_| Refusal::TrailersTooLarge)?;
        if total > limits.trailers { Err(Refusal::TrailersTooLarge) } else { Ok(()) }
    }
}

/// Writes the body of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoder {
    /// There is no body, whatever is offered: HEAD, 204, 304 (RFC 9112 section 6.3).
    #[default]
    Nothing,
    /// This many bytes are still to come.
    Length(u64),
    /// Chunks, and one of size zero at the end.
    Chunked,
    /// The end of the connection is the end of the body.
    UntilClose,
}

impl Encoder {
    /// Appends `data` as the framing has it.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>, data: &[u8]) -> Result<(), ExcessBody> {
        match self {
            Self::Nothing => {}
            Self::UntilClose => out.extend_from_slice(data),
            Self::Length(left) => return encode_length(left, out, data),
            // A chunk of size zero would end the body.
            Self::Chunked if data.is_empty() => {}
            Self::Chunked => {
                push_hex(out, data.len());
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Appends what ends the body, and returns how many bytes it lacks.
    pub(super) fn finish(self, out: &mut Vec<u8>) -> u64 {
        match self {
            Self::Length(left) => left,
            Self::Chunked => {
                out.extend_from_slice(b"0\r\n\r\n");
                0
            }
            Self::Nothing | Self::UntilClose => 0,
        }
    }
}

fn encode_length(left: &mut u64, out: &mut Vec<u8>, data: &[u8]) -> Result<(), ExcessBody> {
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
    out.extend_from_slice(&data[..len]);
    *left -= len as u64;
    match data.len() - len {
        0 => Ok(()),
        bytes => Err(ExcessBody { bytes }),
    }
}

/// Appends a chunk size: hexadecimal, without leading zeros.
fn push_hex(out: &mut Vec<u8>, value: usize) {
    let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|digit| b"0123456789abcdef"[(value >> (4 * digit)) & 0xf]));
}

/// The length of the next line, CRLF included, if it is there; else notes how far it was searched.
fn next_line(rest: &[u8], scanned: &mut u32, limit: usize, too_long: Refusal) -> Result<Option<usize>, Refusal> {
    let end = line_end(rest, *scanned as usize, limit, too_long)?;
    *scanned = if end.is_some() { 0 } else { rest.len() as u32 };
    Ok(end)
}

/// Splits `line` into the chunk size and what follows its digits.
///
/// Only digits: `0x10`, `+10` and `1_0` are numbers to some parsers and not to others.
fn chunk_size(line: &[u8]) -> Result<(u64, &[u8]), Refusal> {
    let len = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    if !(1..=MAX_SIZE_DIGITS).contains(&len) {
        return Err(Refusal::ChunkSize);
    }
    let digit = |size, &byte: &u8| size << 4 | u64::from((byte as char).to_digit(16).unwrap_or(0));
    let (digits, rest) = line.split_at(len);
    // Blanks may stand before a `;`, but a size that only ends in one is not a size.
    match rest.get(skip_blanks(rest, 0)) {
        None if rest.is_empty() => Ok((digits.iter().fold(0, digit), rest)),
        Some(b';') => Ok((digits.iter().fold(0, digit), rest)),
        _ => Err(Refusal::ChunkSize),
    }
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 section 7.1.1).
fn check_extension(text: &[u8]) -> Result<(), Refusal> {
    let mut at = 0;
    while at < text.len() {
        at = skip_blanks(text, at);
        if text.get(at) != Some(&b';') {
            return Err(Refusal::ChunkExtension);
        }
        at = extension_name(text, skip_blanks(text, at + 1))?;
        let equals = skip_blanks(text, at);
        if text.get(equals) == Some(&b'=') {
            at = extension_value(text, skip_blanks(text, equals + 1))?;
        }
    }
    Ok(())
}

/// The end of the token at `text[at]`.
fn extension_name(text: &[u8], at: usize) -> Result<usize, Refusal> {
    match token_len(&text[at..]) {
        0 => Err(Refusal::ChunkExtension),
        len => Ok(at + len),
    }
}

/// The end of the token or quoted string at `text[at]`.
fn extension_value(text: &[u8], at: usize) -> Result<usize, Refusal> {
    match text.get(at) {
        Some(b'"') => quoted_string_end(text, at + 1).ok_or(Refusal::ChunkExtension),
        Some(&byte) if is_token_byte(byte) => extension_name(text, at),
        _ => Err(Refusal::ChunkExtension),
    }
}

/// The index past the quote that closes a quoted string; `text[at]` is its first character.
fn quoted_string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += match text.get(at..)? {
            [b'"', ..] => return Some(at + 1),
            [b'\\', quoted, ..] if is_text(*quoted) => 2,
            [byte, ..] if *byte != b'\\' && is_text(*byte) => 1,
            _ => return None,
        };
    }
}

/// HTAB, SP, a visible character or `obs-text` (RFC 9110 section 5.6.4).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// The size of CRLF.
const EMPTY_LINE: usize = 2;

/// Enough for every `u64`; one more digit and the sum may wrap.
const MAX_SIZE_DIGITS: usize = 16;
