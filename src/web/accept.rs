//! What a client would rather have: lists of which each member has a quality (RFC 9110 section 12.4), and whether gzip is wanted.
//!
//! Rules kept here:
//! - A quality of zero forbids, whatever else the field says.
//! - A member that makes no sense says nothing: a quality is from 0 to 1 with at most three digits behind the point.
//! - Several fields are one list. What stands in quotes separates nothing.

/// Whether a client with these `Accept-Encoding` fields wants gzip at least as much as no coding at all (section 12.5.3).
///
/// Without a field any coding is allowed, and yet none is used: who says nothing is more likely to know none.
///
/// An answer that was chosen so needs `Vary: Accept-Encoding`.
pub(crate) fn prefers_gzip<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let (mut gzip, mut identity, mut other) = (None, None, None);
    for Member { name: coding, quality, .. } in members(fields) {
        let weight = match coding.to_ascii_lowercase().as_slice() {
            b"gzip" | b"x-gzip" => &mut gzip,
            b"identity" => &mut identity,
            b"*" => &mut other,
            _ => continue,
        };
        // Named twice, the smaller one counts: zero forbids.
        *weight = Some(weight.map_or(quality, |known: u16| known.min(quality)));
    }
    let gzip = gzip.or(other).unwrap_or(0);
    // No coding at all is always there to fall back on, and is asked for only by name.
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// Something a client names, and how much it wants that.
pub(crate) struct Member<'a> {
    /// Without parameters.
    pub(crate) name: &'a [u8],
    /// The text of the parameters, quality included.
    parameters: &'a [u8],
    /// In thousandths, the finest that there is.
    pub(crate) quality: u16,
}

/// The members of these fields that make sense.
pub(crate) fn members<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> impl Iterator<Item = Member<'a>> {
    fields.into_iter().flat_map(|field| split(field, b',')).filter_map(Member::parse)
}

impl<'a> Member<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let name = split(text, b';').next()?;
        let mut member = Member { name: name.trim_ascii(), parameters: &text[name.len()..], quality: WHOLE };
        if let Some(value) = member.parameter("q") {
            member.quality = thousandths(value)?;
        }
        Some(member)
    }

    /// The value of a parameter, without its quotes. An escape inside is left: no value that is looked for has one.
    pub(crate) fn parameter(&self, name: &str) -> Option<&'a [u8]> {
        split(self.parameters, b';').find_map(|parameter| {
            let equals = parameter.iter().position(|&byte| byte == b'=')?;
            let is_named = parameter[..equals].trim_ascii().eq_ignore_ascii_case(name.as_bytes());
            is_named.then(|| unquoted(parameter[equals + 1..].trim_ascii()))
        })
    }
}

/// `qvalue`: from 0 to 1, with at most three digits behind the point.
fn thousandths(value: &[u8]) -> Option<u16> {
    let (whole, digits) = match value {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut quality = u16::from(whole - b'0') * WHOLE;
    for (digit, weight) in digits.iter().zip([100, 10, 1]) {
        quality += u16::from((*digit as char).to_digit(10)? as u8) * weight;
    }
    (quality <= WHOLE).then_some(quality)
}

/// The parts between separators, of which those in quotes are none.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut in_quotes, mut is_escaped) = (false, false);
    text.split(move |&byte| {
        in_quotes ^= byte == b'"' && !is_escaped;
        is_escaped = in_quotes && byte == b'\\' && !is_escaped;
        byte == separator && !in_quotes
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// A quality of 1.
const WHOLE: u16 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_where_it_is_wanted() {
        for field in [
            "gzip",
            "GZip",
            "x-gzip",
            "gzip, deflate, br",
            "br;q=1.0, gzip;q=0.8, *;q=0.1",
            "*",
            "deflate, *;q=0.5",
            "gzip;q=0.001",
            "gzip;q=1",
            "gzip;q=1.000",
            "gzip ; q=0.5",
            "gzip;Q=0.5",
            "identity;q=0.5, gzip;q=0.5",
            "identity;q=0",
            "gzip, identity",
            "gzip;x=y",
            "gzip;q=0.5, identity;q=0",
            " ,gzip,,",
            "gzip;q=0.5,*;q=0",
        ] {
            let expected = field != "identity;q=0";
            assert_eq!(prefers_gzip([field.as_bytes()]), expected, "{field}");
        }
        assert!(prefers_gzip([&b"br"[..], b"gzip"]), "two lines are one list");
    }

    #[test]
    fn gzip_is_not_used_where_it_is_refused_or_less_wanted() {
        for field in [
            "",
            "br",
            "identity",
            "gzip;q=0",
            "gzip;q=0.0",
            "gzip;q=0.000",
            "*;q=0",
            "gzip;q=0, *",
            "gzip;q=0, *;q=1",
            "identity, gzip;q=0.5",
            "*;q=0.5, identity",
            "gzip;q=2",
            "gzip;q=1.001",
            "gzip;q=0.0001",
            "gzip;q=-1",
            "gzip;q=",
            "gzip;q=a",
            "gzip;q=.5",
            "gzip;q=1e0",
            "gzipped",
            "gzip x",
            "\"gzip\"",
            "gzip, gzip;q=0",
        ] {
            assert!(!prefers_gzip([field.as_bytes()]), "{field}");
        }
        assert!(!prefers_gzip([]), "no field");
        assert!(!prefers_gzip([&b"gzip"[..], b"gzip;q=0"]), "two lines are one list");
    }
}
