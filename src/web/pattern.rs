//! [`Pattern`]: what a route says of its path, read once and then matched segment by segment.
//!
//! Rules kept here:
//! - Segments are compared decoded and written encoded; a slash inside of one stays there.
//! - A segment is read from the left with no way back: its length is what matching it costs, whoever made it up.
//! - What is built from a pattern is matched by it, and with the same values.

use std::cmp::Reverse;
use std::ops::Range;
use std::rc::Rc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::web::kind::{Kind, Rank};

/// The pattern of a route.
pub(crate) struct Pattern {
    /// As written, without the first slash: what metrics call the route.
    pub(crate) text: String,
    pub(crate) segments: Vec<Segment>,
    /// What a `path` behind the segments is called.
    pub(crate) rest: Option<Rc<str>>,
}

/// What stands between two slashes of a pattern.
pub(crate) enum Segment {
    Literal(String),
    Variable(Variable),
}

/// A segment with values in it, and perhaps text around them. No two values stand side by side.
#[derive(Clone)]
pub(crate) struct Variable {
    parts: Vec<Part>,
}

#[derive(Clone)]
enum Part {
    Text(String),
    Value(Kind, Rc<str>),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('/').ok_or("a pattern starts with a slash")?;
        let (text_before, last) = text.rsplit_once('/').map_or((None, text), |(before, last)| (Some(before), last));
        let rest = last.strip_prefix("<path:").and_then(|rest| rest.strip_suffix('>')).map(parse_name).transpose()?;
        let mut pieces: Vec<&str> = text_before.map(|before| before.split('/').collect()).unwrap_or_default();
        if pieces.contains(&"") {
            return Err("a doubled slash is never matched: a request with one is redirected".into());
        }
        if rest.is_none() {
            pieces.push(last);
        }
        let segments = pieces.into_iter().map(Segment::parse).collect::<Result<Vec<_>, String>>()?;
        let pattern = Pattern { text: text.to_owned(), segments, rest };
        pattern.check_names()?;
        Ok(pattern)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.names().any(|known| &**known == name)
    }

    pub(crate) fn has_values(&self) -> bool {
        self.names().next().is_some()
    }

    fn names(&self) -> impl Iterator<Item = &Rc<str>> {
        self.segments.iter().flat_map(Segment::names).chain(self.rest.as_ref())
    }

    fn check_names(&self) -> Result<(), String> {
        let names: Vec<_> = self.names().collect();
        match names.iter().enumerate().find(|(place, name)| names[..*place].contains(name)) {
            Some((_, name)) => Err(format!("two values are called {name:?}")),
            None => Ok(()),
        }
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts: Vec<Part> = Vec::new();
        let mut left = text;
        while let Some((before, inside)) = left.split_once('<') {
            let values_touch = before.is_empty() && !parts.is_empty();
            let (inside, after) =
                inside.split_once('>').ok_or_else(|| format!("segment {text:?} has no closing `>`"))?;
            if values_touch {
                return Err(format!("segment {text:?}: nothing says where one value ends and the next begins"));
            }
            parts.extend(Part::literal(text, before)?);
            parts.push(Part::value(text, inside)?);
            left = after;
        }
        let end = Part::literal(text, left)?;
        if parts.is_empty() {
            return Ok(Segment::Literal(left.to_owned()));
        }
        parts.extend(end);
        Ok(Segment::Variable(Variable { parts }))
    }

    fn names(&self) -> impl Iterator<Item = &Rc<str>> {
        let parts = match self {
            Segment::Literal(_) => &[],
            Segment::Variable(variable) => variable.parts.as_slice(),
        };
        parts.iter().filter_map(Part::name)
    }

    /// Appends the segment with these values, encoded. The error is the name of the value that is missing, or is none of
    /// its kind.
    pub(crate) fn build(&self, url: &mut String, value_of: impl Fn(&str) -> Option<String>) -> Result<(), Misfit> {
        let variable = match self {
            Segment::Literal(text) => {
                quote(url, text);
                return Ok(());
            }
            Segment::Variable(variable) => variable,
        };
        let (mut text, mut values) = (String::new(), Vec::new());
        for part in &variable.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Value(kind, name) => {
                    let value = kind.written(value_of(name).ok_or_else(|| Misfit::Missing(name.clone()))?);
                    text.push_str(&value);
                    values.push((name, value));
                }
            }
        }
        if let Some(name) = variable.misfit(&text, &values) {
            return Err(Misfit::Wrong(name));
        }
        quote(url, &text);
        Ok(())
    }
}

/// Why there is no URL.
pub(crate) enum Misfit {
    Missing(Rc<str>),
    Wrong(Rc<str>),
}

impl Variable {
    /// Variables sort by this: much text before little, then the kinds from the left.
    pub(crate) fn rank(&self) -> (Reverse<usize>, Vec<Rank>) {
        let text = self.parts.iter().filter_map(Part::text).map(str::len).sum();
        (Reverse(text), self.parts.iter().filter_map(Part::kind).map(Kind::rank).collect())
    }

    /// Whether the two match the same segments: they differ in names only.
    pub(crate) fn has_shape_of(&self, other: &Variable) -> bool {
        let shape = |variable: &Variable| -> Vec<(Option<Rank>, Option<String>)> {
            variable.parts.iter().map(|part| (part.kind().map(Kind::rank), part.text().map(str::to_owned))).collect()
        };
        shape(self) == shape(other)
    }

    pub(crate) fn matches(&self, segment: &str) -> bool {
        self.read(segment, |_, _| ())
    }

    /// Tells where in `segment` the values are, if it matches; told values of a segment that does not mean nothing.
    pub(crate) fn read(&self, segment: &str, mut tell: impl FnMut(&Rc<str>, Range<usize>)) -> bool {
        let (mut at, mut end, mut parts) = (0, segment.len(), self.parts.as_slice());
        if let [Part::Text(text), others @ ..] = parts {
            if !segment.starts_with(text.as_str()) {
                return false;
            }
            (at, parts) = (text.len(), others);
        }
        if let [others @ .., Part::Text(text)] = parts {
            if !segment[at..].ends_with(text.as_str()) {
                return false;
            }
            (end, parts) = (end - text.len(), others);
        }
        // What is left begins and ends with a value.
        while let [Part::Value(kind, name), others @ ..] = parts {
            let left = &segment[at..end];
            let (length, separator) = match others.first().and_then(Part::text) {
                None => (left.len(), 0),
                Some(text) => match kind.length_before(left, text) {
                    None => return false,
                    Some(length) => (length, text.len()),
                },
            };
            if !kind.matches(&left[..length]) {
                return false;
            }
            tell(name, at..at + length);
            at += length + separator;
            parts = others.get(1..).unwrap_or_default();
        }
        true
    }

    /// The name of a value that would not come out of `text` again.
    fn misfit(&self, text: &str, values: &[(&Rc<str>, String)]) -> Option<Rc<str>> {
        let mut read = Vec::new();
        let matches = self.read(text, |name, range| read.push((name.clone(), range))) && !is_dots(text);
        let wrong = |(place, (name, value)): (usize, &(&Rc<str>, String))| match read.get(place) {
            Some((_, range)) if text[range.clone()] == **value => None,
            _ => Some((*name).clone()),
        };
        let wrong = values.iter().enumerate().find_map(wrong);
        wrong.or_else(|| (!matches).then(|| values[0].0.clone()))
    }
}

impl Part {
    fn literal(segment: &str, text: &str) -> Result<Option<Part>, String> {
        match text.contains('>') {
            true => Err(format!("segment {segment:?} has a `>` without its `<`")),
            false if text.is_empty() => Ok(None),
            false => Ok(Some(Part::Text(text.to_owned()))),
        }
    }

    fn value(segment: &str, text: &str) -> Result<Part, String> {
        let (kind, name) = text.rsplit_once(':').unwrap_or(("string", text));
        let kind = Kind::parse(kind).map_err(|error| format!("segment {segment:?}: {error}"))?;
        Ok(Part::Value(kind, parse_name(name)?))
    }

    fn text(&self) -> Option<&str> {
        match self {
            Part::Text(text) => Some(text),
            Part::Value(..) => None,
        }
    }

    fn kind(&self) -> Option<&Kind> {
        match self {
            Part::Text(_) => None,
            Part::Value(kind, _) => Some(kind),
        }
    }

    fn name(&self) -> Option<&Rc<str>> {
        match self {
            Part::Text(_) => None,
            Part::Value(_, name) => Some(name),
        }
    }
}

/// What a client resolves before it asks, however it is encoded (RFC 3986 section 6.2.2.3).
pub(crate) fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

fn parse_name(name: &str) -> Result<Rc<str>, String> {
    match !name.is_empty() && name.chars().all(|char| char.is_alphanumeric() || char == '_') {
        true => Ok(name.into()),
        false => Err(format!("{name:?} is no name: one is made of letters, digits and `_`")),
    }
}

/// Appends one segment of a path, encoded.
pub(crate) fn quote(url: &mut String, segment: &str) {
    url.extend(utf8_percent_encode(segment, OUTSIDE_SEGMENTS));
}

/// Appends a name or a value of a query, encoded.
pub(crate) fn quote_query(url: &mut String, text: &str) {
    url.extend(utf8_percent_encode(text, OUTSIDE_QUERIES));
}

/// Everything but the unreserved characters of RFC 3986 section 2.3.
const OUTSIDE_QUERIES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Everything but `pchar` of RFC 3986 section 3.3.
const OUTSIDE_SEGMENTS: &AsciiSet = &OUTSIDE_QUERIES
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');
