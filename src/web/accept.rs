//! Which content coding a client wants, by its `Accept-Encoding` (RFC 9110 section 12.5.3).
//!
//! Rule kept here: a quality of zero forbids, whatever else the field says; a member that makes no sense says nothing.

/// Whether a client with these `Accept-Encoding` fields wants gzip at least as much as no coding at all.
///
/// Without a field any coding is allowed, and yet none is used: who says nothing is more likely to know none.
///
/// An answer that was chosen so needs `Vary: Accept-Encoding`.
pub(crate) fn prefers_gzip<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let (mut gzip, mut identity, mut other) = (None, None, None);
    for member in fields.into_iter().flat_map(|field| field.split(|&byte| byte == b',')) {
        let Some((coding, quality)) = weighed(member) else { continue };
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

/// The coding that a member names, and its quality in thousandths.
fn weighed(member: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let coding = parts.next()?;
    let mut quality = WHOLE;
    for part in parts {
        let (name, value) = part.split_at_checked(2)?;
        if name.eq_ignore_ascii_case(b"q=") {
            quality = thousandths(value)?;
        }
    }
    Some((coding, quality))
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
