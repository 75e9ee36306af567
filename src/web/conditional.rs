//! Conditional requests (RFC 9110 section 13): what a client has, compared with what there is now.
//!
//! Rules kept here:
//! - The order is that of section 13.2.2: `If-Match`, without it `If-Unmodified-Since`; then `If-None-Match`, without it
//!   `If-Modified-Since`. A field that is there takes the place of the other one even if it makes no sense.
//! - What makes no sense matches nothing: it can cost a transfer or refuse a change, never skip or overwrite one.
//! - Nothing here knows a request while it compares, so a thread that looks at a file can do it as well.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use ::http::header::{self, HeaderValue};
use ::http::{Method, StatusCode};

use crate::web::request::Request;
use crate::web::response::Response;

/// An entity tag (RFC 9110 section 8.8.3): a name for one state of a resource.
///
/// Two answers with the same strong tag are equal byte for byte; with the same weak one, good enough for one another. What
/// changes without its tag changing is never sent again to who has it, so make a tag of what decides the content: a version,
/// a digest, [`of`](ETag::of) the content itself.
///
/// ```
/// use dosimeter::web::ETag;
///
/// let tag = ETag::weak("v7")?;
/// assert_eq!(tag.to_string(), r#"W/"v7""#);
/// assert_eq!(r#"W/"v7""#.parse(), Ok(tag));
/// assert!(ETag::strong("no blanks").is_err());
/// # Ok::<(), dosimeter::web::InvalidETag>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag {
    text: String,
    is_weak: bool,
}

impl ETag {
    /// A tag that promises equality byte for byte. Ranges and `If-Match` need one.
    ///
    /// # Errors
    /// If `text` holds anything but visible ASCII characters, or a double quote.
    pub fn strong(text: impl Into<String>) -> Result<Self, InvalidETag> {
        ETag::new(text.into(), false)
    }

    /// A tag that promises the same meaning.
    ///
    /// # Errors
    /// If `text` holds anything but visible ASCII characters, or a double quote.
    pub fn weak(text: impl Into<String>) -> Result<Self, InvalidETag> {
        ETag::new(text.into(), true)
    }

    /// The strong tag of this content: a 64-bit hash and the length.
    ///
    /// It is the same in every process of one build of the program. The hash tells versions of a page apart, and is no
    /// defence against somebody who makes two pages with one tag on purpose.
    pub fn of(content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        let mut hasher = DefaultHasher::new();
        hasher.write(content);
        ETag { text: format!("{:x}-{:x}", hasher.finish(), content.len()), is_weak: false }
    }

    fn new(text: String, is_weak: bool) -> Result<Self, InvalidETag> {
        let is_tag = text.bytes().all(|byte| byte.is_ascii() && is_tag_byte(byte));
        if is_tag { Ok(ETag { text, is_weak }) } else { Err(InvalidETag) }
    }

    /// Whether it is a weak one.
    pub fn is_weak(&self) -> bool {
        self.is_weak
    }

    /// What stands between the quotes.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The value of an `ETag` field.
    pub fn to_header_value(&self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("a tag consists of visible characters")
    }

    /// Whether the tag of a list means this one: only if both are strong, for a use that may not mix two states.
    fn matches_strongly(&self, (is_weak, text): (bool, &[u8])) -> bool {
        !self.is_weak && !is_weak && self.text.as_bytes() == text
    }

    fn matches_weakly(&self, (_, text): (bool, &[u8])) -> bool {
        self.text.as_bytes() == text
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.is_weak { "W/" } else { "" };
        write!(f, "{mark}\"{}\"", self.text)
    }
}

impl FromStr for ETag {
    type Err = InvalidETag;

    /// Reads the value of an `ETag` field.
    fn from_str(value: &str) -> Result<Self, InvalidETag> {
        let (is_weak, text) = parse_tag(value.as_bytes()).ok_or(InvalidETag)?;
        let text = std::str::from_utf8(text).map_err(|_| InvalidETag)?;
        ETag::new(text.to_owned(), is_weak)
    }
}

/// The text of an entity tag has a character that none may have: it takes visible ASCII without `"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidETag;

impl fmt::Display for InvalidETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entity tag consists of visible ASCII characters without double quotes")
    }
}

impl std::error::Error for InvalidETag {}

/// What tells whether a client's copy is that of now: an entity tag, a date, both or none.
///
/// ```
/// use std::time::SystemTime;
/// use dosimeter::web::{ETag, Validators};
///
/// let by_tag: Validators = ETag::strong("v7")?.into();
/// let by_both = Validators::from(ETag::weak("v7")?).with_last_modified(SystemTime::now());
/// # Ok::<(), dosimeter::web::InvalidETag>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Validators {
    etag: Option<ETag>,
    last_modified: Option<SystemTime>,
    is_missing: bool,
}

impl Validators {
    /// Those of something that there is not yet: `If-Match` fails whatever it names, and `If-None-Match: *`, with which a
    /// `PUT` says that it will not overwrite, holds.
    pub fn missing() -> Self {
        Validators { is_missing: true, ..Validators::default() }
    }

    /// With this entity tag.
    #[must_use]
    pub fn with_etag(mut self, etag: ETag) -> Self {
        self.etag = Some(etag);
        self
    }

    /// With this date, of which whole seconds count. In place of one in the future clients are told the time of the answer
    /// (RFC 9110 section 8.8.2.1), and are sent the whole each time until it has come.
    ///
    /// One that HTTP cannot express, before 1970 or after 9999, is as none.
    #[must_use]
    pub fn with_last_modified(mut self, date: SystemTime) -> Self {
        self.last_modified = in_seconds(date);
        self
    }

    /// The entity tag.
    pub fn etag(&self) -> Option<&ETag> {
        self.etag.as_ref()
    }

    /// The date of the last change, in whole seconds.
    pub fn last_modified(&self) -> Option<SystemTime> {
        self.last_modified
    }

    /// Has the response say them.
    pub(crate) fn announce(&self, request: &mut Request) {
        if let Some(etag) = &self.etag {
            request.add_header(header::ETAG, etag.to_header_value());
        }
        if let Some(date) = self.last_modified {
            // `Date` is that of the turn of the loop, and so may be that of the second before.
            let latest = SystemTime::now() - Duration::from_secs(1);
            // A clock that was never set stands at 1970, before which there is no date.
            let date = date.min(latest.max(SystemTime::UNIX_EPOCH));
            let date = HeaderValue::try_from(httpdate::fmt_http_date(date)).expect("a date is visible ASCII");
            request.add_header(header::LAST_MODIFIED, date);
        }
    }
}

impl From<ETag> for Validators {
    fn from(etag: ETag) -> Self {
        Validators::default().with_etag(etag)
    }
}

impl Request {
    /// Checks the conditions of this request (`If-None-Match` and its like) against what there is now, and returns the answer
    /// if that is all that is to be said: `304 Not Modified` or `412 Precondition Failed`.
    ///
    /// Call it once, when it is clear that the answer would otherwise be a success, and for a method that changes something
    /// before the change. The answer to `GET` and `HEAD`, whichever it will be, says the validators. What a 304 has to repeat
    /// of the full answer (`Cache-Control`, `Expires`, `Vary`; RFC 9110 section 15.4.5), give the request with
    /// [`add_header`](Request::add_header), before or after.
    ///
    /// ```
    /// use dosimeter::web::{ETag, Render, Request};
    ///
    /// fn page(version: u64, mut request: Request) -> Render {
    ///     let Ok(tag) = ETag::strong(format!("v{version}")) else { unreachable!("a number is a tag") };
    ///     if let Some(answer) = request.check_conditions(tag) {
    ///         return answer.into();
    ///     }
    ///     format!("<p>This is version {version}.").into()
    /// }
    /// ```
    #[doc(alias = "setETag")]
    #[doc(alias = "setLastModified")]
    #[must_use = "what is returned is the answer, and the only one that the client expects"]
    pub fn check_conditions(&mut self, current: impl Into<Validators>) -> Option<Response> {
        let current = current.into();
        let conditions = Conditions::of(self);
        if conditions.is_read {
            current.announce(self);
        }
        match conditions.check(&current) {
            Verdict::Proceed => None,
            Verdict::NotModified => Some(Response::empty(StatusCode::NOT_MODIFIED)),
            Verdict::Failed => Some(precondition_failed()),
        }
    }
}

pub(crate) fn precondition_failed() -> Response {
    let detail = "Sorry, this is not in the state that the request was made for.";
    Response::error_page(StatusCode::PRECONDITION_FAILED, "Precondition Failed", detail)
}

/// The conditions of a request, apart from it: the lines of each field, joined.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Conditions {
    /// The method is GET or HEAD.
    is_read: bool,
    if_match: Option<Vec<u8>>,
    if_unmodified_since: Option<Vec<u8>>,
    if_none_match: Option<Vec<u8>>,
    if_modified_since: Option<Vec<u8>>,
    if_range: Option<Vec<u8>>,
}

/// What the conditions say of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Proceed,
    /// 304
    NotModified,
    /// 412
    Failed,
}

impl Conditions {
    pub(crate) fn of(request: &Request) -> Self {
        Conditions::parse(request.method(), request.headers())
    }

    fn parse<'a>(method: &Method, fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let mut conditions = Conditions { is_read, ..Conditions::default() };
        // They select no representation that could be compared (RFC 9110 section 13.2.1).
        if matches!(*method, Method::CONNECT | Method::OPTIONS | Method::TRACE) {
            return conditions;
        }
        for (name, value) in fields {
            if let Some(lines) = conditions.field(name) {
                match lines {
                    Some(lines) => lines.extend([b",", value].concat()),
                    None => *lines = Some(value.to_vec()),
                }
            }
        }
        conditions
    }

    fn field(&mut self, name: &str) -> Option<&mut Option<Vec<u8>>> {
        let name = name.split_at_checked(PREFIX.len()).filter(|(start, _)| start.eq_ignore_ascii_case(PREFIX))?.1;
        Some(match name.to_ascii_lowercase().as_str() {
            "match" => &mut self.if_match,
            "unmodified-since" => &mut self.if_unmodified_since,
            "none-match" => &mut self.if_none_match,
            "modified-since" => &mut self.if_modified_since,
            "range" => &mut self.if_range,
            _ => return None,
        })
    }

    /// RFC 9110 section 13.2.2, up to `If-Range`.
    pub(crate) fn check(&self, current: &Validators) -> Verdict {
        let has_changed = |since: &Option<Vec<u8>>| Some(current.last_modified? > date(since.as_deref()?)?);
        let may_go_on = match &self.if_match {
            Some(list) => is_any(list) && !current.is_missing || current.is_in(list, ETag::matches_strongly),
            None => has_changed(&self.if_unmodified_since) != Some(true),
        };
        if !may_go_on {
            return Verdict::Failed;
        }
        let is_known = match &self.if_none_match {
            Some(list) => is_any(list) && !current.is_missing || current.is_in(list, ETag::matches_weakly),
            None => self.is_read && has_changed(&self.if_modified_since) == Some(false),
        };
        match (is_known, self.is_read) {
            (false, _) => Verdict::Proceed,
            (true, true) => Verdict::NotModified,
            (true, false) => Verdict::Failed,
        }
    }

    /// Whether the part that is asked for fits the parts that the client has (RFC 9110 section 13.1.5).
    pub(crate) fn allow_range(&self, current: &Validators) -> bool {
        let Some(value) = self.if_range.as_deref() else { return true };
        match parse_tag(value.trim_ascii()) {
            Some(tag) => current.etag.as_ref().is_some_and(|etag| etag.matches_strongly(tag)),
            // What changed so lately that its tag is a weak one may change once more within the same second.
            None if current.etag.as_ref().is_some_and(ETag::is_weak) => false,
            None => current.last_modified.is_some() && date(value) == current.last_modified,
        }
    }
}

impl Validators {
    fn is_in(&self, list: &[u8], matches: fn(&ETag, (bool, &[u8])) -> bool) -> bool {
        self.etag.as_ref().is_some_and(|etag| tags(list).any(|tag| matches(etag, tag)))
    }
}

fn is_any(list: &[u8]) -> bool {
    list.trim_ascii() == b"*"
}

/// The entity tags of a list, each with whether it is weak; other members are passed over.
fn tags(list: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    let mut in_quotes = false;
    let members = list.split(move |&byte| {
        in_quotes ^= byte == b'"';
        byte == b',' && !in_quotes
    });
    members.filter_map(|member| parse_tag(member.trim_ascii()))
}

/// `[ W/ ] " *etagc "`: nothing is escaped in there, and `W` is a capital letter.
fn parse_tag(text: &[u8]) -> Option<(bool, &[u8])> {
    let (is_weak, quoted) = match text.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, text),
    };
    let tag = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    tag.iter().all(|&byte| is_tag_byte(byte)).then_some((is_weak, tag))
}

/// `etagc` of RFC 9110 section 8.8.3.
fn is_tag_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"' || !byte.is_ascii()
}

/// A date in any of the three formats of RFC 9110 section 5.6.7.
fn date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?.trim()).ok()
}

/// Rounded down to the seconds that a field can say.
fn in_seconds(date: SystemTime) -> Option<SystemTime> {
    let seconds = date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    (seconds < END_OF_DATES).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

const PREFIX: &str = "if-";

/// The year 10000 has one digit too many for a date (RFC 9110 section 5.6.7).
const END_OF_DATES: u64 = 253_402_300_800;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(list: &[u8]) -> Vec<(bool, Vec<u8>)> {
        tags(list).map(|(is_weak, text)| (is_weak, text.to_vec())).collect()
    }

    /// Between the tags of a list: a comma, blanks, and members that are none.
    fn separator() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![",", ", ", " ,\t", ",,", ", ,", ",garbage,", ",w/\"lower\",", ",W/ \"apart\", "])
    }

    proptest! {
        #[test]
        fn every_tag_of_a_list_is_found(
            members in prop::collection::vec((any::<bool>(), "[!#-~]{0,6}", separator()), 0..6),
        ) {
            let expected: Vec<_> = members.iter().map(|(weak, text, _)| (*weak, text.clone().into_bytes())).collect();
            let list: String = members.iter().fold(String::new(), |list, (weak, text, separator)| {
                format!("{list}{}\"{text}\"{separator}", if *weak { "W/" } else { "" })
            });
            prop_assert_eq!(found(list.as_bytes()), expected);
        }

        #[test]
        fn whatever_is_in_a_list_is_read_without_harm(list in prop::collection::vec(any::<u8>(), 0..40)) {
            for (_, text) in found(&list) {
                prop_assert!(text.iter().all(|&byte| byte > b' ' && byte != b'"' && byte != 0x7f));
            }
        }

        #[test]
        fn a_list_is_searched_like_one_that_is_cut_by_hand(list in "[\"aW/*, ]{0,12}") {
            let tag = ETag::strong("a").expect("a letter is a tag");
            let conditions = Conditions { if_none_match: Some(list.clone().into_bytes()), is_read: true, ..Default::default() };
            let is_listed = cut(&list).iter().any(|member| member == "\"a\"" || member == "W/\"a\"");
            let expected = if is_listed || list.trim() == "*" { Verdict::NotModified } else { Verdict::Proceed };
            prop_assert_eq!(conditions.check(&tag.into()), expected);
        }
    }

    /// A list cut at its commas, character by character.
    fn cut(list: &str) -> Vec<String> {
        let (mut members, mut in_quotes) = (vec![String::new()], false);
        for char in list.chars() {
            match char {
                ',' if !in_quotes => members.push(String::new()),
                _ => {
                    in_quotes ^= char == '"';
                    members.last_mut().expect("one at least").push(char);
                }
            }
        }
        members.iter().map(|member| member.trim().to_owned()).collect()
    }
}
