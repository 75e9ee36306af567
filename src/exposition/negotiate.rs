//! [`Format`]: which format a scraper gets, by its `Accept` field.
//!
//! Rules this file keeps:
//! 1. Proactive negotiation as in RFC 9110 section 12.5.1: the most specific range that matches a format gives its quality,
//!    `q=0` excludes it, and the highest quality wins.
//! 2. Who asks for nothing that there is still gets an answer, in text format 0.0.4: a scrape is worth more than a 406.
//! 3. Nothing of the field goes into the answer. The content types are constants.

use prometheus::proto::MetricFamily;

use super::{openmetrics, text};
use crate::web::accept::{Member, members};

/// A format in which metrics are exposed.
///
/// ```
/// use dosimeter::exposition::Format;
///
/// let accept = b"application/openmetrics-text;version=1.0.0;q=0.8, text/plain;version=0.0.4;q=0.5, */*;q=0.1";
/// assert_eq!(Format::accepted([&accept[..]]), Format::OpenMetrics);
/// assert_eq!(Format::accepted([&b"*/*"[..]]), Format::Text);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The Prometheus text format, version 0.0.4; see [`text`].
    Text,
    /// OpenMetrics 1.0.0; see [`openmetrics`].
    OpenMetrics,
}

impl Format {
    /// The best format for a request with these `Accept` fields; [`Text`](Format::Text) if there are none, and where they
    /// give no preference.
    ///
    /// Ranges with a `version` count only if it is the one that is written here; other parameters make no difference. A range
    /// that makes no sense is passed over. Of two formats of equal quality it is the one named more exactly, then the one
    /// named first.
    ///
    /// An answer that was chosen so needs `Vary: Accept`.
    pub fn accepted<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Format {
        let ranges: Vec<Range<'_>> = members(fields).filter_map(Range::of).collect();
        let (text, openmetrics) = (TEXT.rank(&ranges), OPENMETRICS.rank(&ranges));
        if openmetrics > text { Format::OpenMetrics } else { Format::Text }
    }

    /// The `Content-Type`, version included.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => text::CONTENT_TYPE,
            Format::OpenMetrics => openmetrics::CONTENT_TYPE,
        }
    }

    /// Appends `families` to `out` in this format.
    ///
    /// ```
    /// use dosimeter::exposition::Format;
    ///
    /// let mut page = Vec::new();
    /// Format::OpenMetrics.encode(&[], &mut page);
    /// assert_eq!(page, b"# EOF\n");
    /// ```
    pub fn encode(self, families: &[MetricFamily], out: &mut Vec<u8>) {
        match self {
            Format::Text => text::encode(families, out),
            Format::OpenMetrics => openmetrics::encode(families, out),
        }
    }
}

/// A media type that can be sent.
struct Offer {
    kind: &'static str,
    subtype: &'static str,
    version: &'static str,
}

impl Offer {
    /// How much this is wanted; none if it is not wanted at all.
    fn rank(&self, ranges: &[Range<'_>]) -> Option<Rank> {
        let matches = ranges.iter().enumerate().filter_map(|(at, range)| {
            let specificity = self.specificity(range)?;
            Some((specificity, Earliness(usize::MAX - at), range.quality))
        });
        let (specificity, earliness, quality) = matches.max()?;
        (quality > 0).then_some((quality, specificity.min(Specificity::Type), earliness))
    }

    /// How exactly the range names this, if it does.
    fn specificity(&self, range: &Range<'_>) -> Option<Specificity> {
        let is = |part: &[u8], name: &str| part.eq_ignore_ascii_case(name.as_bytes());
        if range.kind == b"*" {
            return (range.subtype == b"*").then_some(Specificity::Anything);
        }
        if !is(range.kind, self.kind) {
            return None;
        }
        if range.subtype == b"*" {
            return Some(Specificity::Kind);
        }
        match range.version {
            _ if !is(range.subtype, self.subtype) => None,
            None => Some(Specificity::Type),
            Some(version) => (version == self.version.as_bytes()).then_some(Specificity::Version),
        }
    }
}

/// By quality, then by how exactly it was asked for, then by place. Formats that one wildcard matches have the same rank.
type Rank = (u16, Specificity, Earliness);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    Anything,
    Kind,
    Type,
    Version,
}

/// Grows towards the front of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Earliness(usize);

/// A member of an `Accept` field.
struct Range<'a> {
    kind: &'a [u8],
    subtype: &'a [u8],
    version: Option<&'a [u8]>,
    /// In thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    /// None if it is no media range.
    fn of(member: Member<'a>) -> Option<Self> {
        let slash = member.name.iter().position(|&byte| byte == b'/')?;
        let (kind, subtype) = (&member.name[..slash], &member.name[slash + 1..]);
        Some(Range { kind, subtype, version: member.parameter("version"), quality: member.quality })
    }
}

const TEXT: Offer = Offer { kind: "text", subtype: "plain", version: "0.0.4" };
const OPENMETRICS: Offer = Offer { kind: "application", subtype: "openmetrics-text", version: "1.0.0" };
