//! [`Multipart`]: the parts of a `multipart/form-data` body, as they come (RFC 7578).
//!
//! Rules kept here:
//! - It keeps no bytes. What cannot be decided yet is left with the caller, to be shown again with more behind it: never more
//!   than the head of one part, or the length of a delimiter.
//! - However the body is cut, the same parts come out.
//! - What two readers could take for two different forms is refused: text before the first delimiter or behind the last, a
//!   delimiter that goes on, blanks behind it, a field that is named twice. Browsers and the usual clients send none of it.
//! - The work is proportional to the bytes, whatever they are.

use std::fmt;

use crate::web::error::FormError;

/// How much of each thing one form may have; for [`Request::form_within`](super::Request::form_within).
///
/// The whole body is limited by [`http::Limits::body`](crate::http::Limits::body) before that.
///
/// ```
/// use dosimeter::web::{FormError, FormLimits, Request};
///
/// fn save_table(request: Request) -> Result<(), FormError> {
///     let mut limits = FormLimits::default();
///     limits.fields = 10_000;
///     let cells = request.form_within(&limits)?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormLimits {
    /// Fields and files together: 1000, the figure of PHP and Django. Each costs some memory besides its bytes: a megabyte of
    /// `a=&a=&...` would be fifty times as large when taken apart.
    pub fields: usize,
    /// Bytes of the head of one part: 4 KiB. It holds two names and a type; a file name has 255 characters at most.
    pub part_head: usize,
    /// Bytes of one field that is no file: 1 MiB, which is all there can be as long as the limit of a body is that. It is of
    /// use where that one is raised, for the sake of files.
    pub field: usize,
}

impl Default for FormLimits {
    fn default() -> Self {
        FormLimits { fields: 1000, part_head: 4 * 1024, field: 1024 * 1024 }
    }
}

/// Takes a `multipart/form-data` body apart while it comes: bytes in, parts out.
///
/// [`Request::form`](super::Request::form) does this for a whole body, and [`Request::take_form`](super::Request::take_form)
/// with the body of a request as it comes. This is for bytes from elsewhere.
///
/// ```
/// use dosimeter::web::{FormLimits, Multipart, Part};
///
/// let mut multipart = Multipart::new("multipart/form-data; boundary=x", &FormLimits::default())?;
/// let mut body: &[u8] = b"--x\r\nContent-Disposition: form-data; name=\"greeting\"\r\n\r\nHello\r\n--x--\r\n";
/// let mut seen = Vec::new();
/// loop {
///     let (used, part) = multipart.receive(body)?;
///     body = &body[used..]; // what is left is shown again, with what comes next
///     match part {
///         Part::Head(head) => seen.push(head.name),
///         Part::Data(data) => seen.push(String::from_utf8_lossy(data).into_owned()),
///         Part::End => {}
///         Part::NeedData => break,
///     }
/// }
/// multipart.finish()?; // the body is over
/// assert_eq!(seen, ["greeting", "Hello"]);
/// # Ok::<(), dosimeter::web::FormError>(())
/// ```
pub struct Multipart {
    /// CRLF, two hyphens, the boundary.
    delimiter: Vec<u8>,
    limits: FormLimits,
    state: State,
    parts: usize,
    /// How much of the head that is not whole was searched for its end.
    searched: usize,
    /// How much more the current part may have.
    room: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Start,
    Head,
    Data,
    /// Behind the last delimiter, of whose line end so much has come.
    Over(usize),
}

/// What [`Multipart::receive`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<'a> {
    /// A part begins.
    Head(PartHead),
    /// Bytes of the part; never none.
    Data(&'a [u8]),
    /// The part is whole.
    End,
    /// Nothing can be said before more comes.
    NeedData,
}

/// What the head of a part says. All of it is the client's word.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartHead {
    /// The name of the field.
    pub name: String,
    /// What the file was called where it came from, if this is a file; empty where none was chosen. No path to write to.
    pub file_name: Option<String>,
    /// The type of the file.
    pub content_type: Option<String>,
}

impl Multipart {
    /// A reader for a body of this `Content-Type`.
    ///
    /// # Errors
    /// [`FormError`] when that is another type, or has no boundary as RFC 2046 section 5.1.1 allows them.
    pub fn new(content_type: &str, limits: &FormLimits) -> Result<Self, FormError> {
        let (kind, parameters) =
            value_and_parameters(content_type).ok_or(malformed("its Content-Type is malformed"))?;
        if !kind.eq_ignore_ascii_case(FORM_DATA) {
            return Err(FormError::NotAForm);
        }
        let boundary = parameter(&parameters, "boundary").ok_or(malformed("its Content-Type names no boundary"))?;
        if !is_boundary(boundary) {
            return Err(malformed("its boundary is not 1 to 70 characters of those allowed"));
        }
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        Ok(Multipart { delimiter, limits: limits.clone(), state: State::Start, parts: 0, searched: 0, room: 0 })
    }

    /// Reads on, and returns how much of `input` is used up and what was found in it.
    ///
    /// What is not used up has to be shown again, at the beginning of the next input.
    ///
    /// # Errors
    /// [`FormError`] when the body breaks the rules or a limit. The reader is of no use from then on.
    pub fn receive<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Part<'a>), FormError> {
        match self.state {
            // The first delimiter has no line end before it.
            State::Start => self.read_delimiter(input, 2),
            State::Head => self.read_head(input),
            State::Data => self.read_data(input),
            State::Over(seen) => self.read_end(input, seen),
        }
    }

    /// The body is over; so has to be the form.
    ///
    /// # Errors
    /// [`FormError::Malformed`] when the last delimiter is still to come.
    pub fn finish(&self) -> Result<(), FormError> {
        match self.state {
            State::Over(_) => Ok(()),
            State::Start | State::Head | State::Data => Err(malformed("it ends before its last delimiter")),
        }
    }

    /// Reads a delimiter, of which the first `cut` bytes are not there, and the two bytes that say what follows it.
    fn read_delimiter<'a>(&mut self, input: &'a [u8], cut: usize) -> Result<(usize, Part<'a>), FormError> {
        let delimiter = &self.delimiter[cut..];
        let known = input.len().min(delimiter.len());
        if input[..known] != delimiter[..known] {
            return Err(malformed("it does not begin with its delimiter"));
        }
        let end = delimiter.len() + 2;
        let Some(mark) = input.get(delimiter.len()..end) else { return Ok((0, Part::NeedData)) };
        let was_first = self.state == State::Start;
        self.state = match mark {
            b"\r\n" => State::Head,
            b"--" => State::Over(0),
            _ => return Err(malformed("something follows a delimiter in its line")),
        };
        if !was_first {
            return Ok((end, Part::End));
        }
        let (used, part) = self.receive(&input[end..])?;
        Ok((end + used, part))
    }

    fn read_head<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Part<'a>), FormError> {
        let unseen = &input[self.searched.min(input.len())..];
        let Some(found) = unseen.windows(4).position(|window| window == b"\r\n\r\n") else {
            self.check_part_head(input.len())?;
            self.searched = input.len().saturating_sub(3);
            return Ok((0, Part::NeedData));
        };
        let end = std::mem::take(&mut self.searched) + found;
        self.check_part_head(end)?;
        self.parts += 1;
        if self.parts > self.limits.fields {
            return Err(FormError::TooLarge { what: "fields", limit: self.limits.fields });
        }
        let text = str::from_utf8(&input[..end]).map_err(|_| malformed("the head of a part is not UTF-8"))?;
        let head = PartHead::parse(text)?;
        self.room = if head.file_name.is_some() { usize::MAX } else { self.limits.field };
        self.state = State::Data;
        Ok((end + 4, Part::Head(head)))
    }

    fn check_part_head(&self, length: usize) -> Result<(), FormError> {
        let limit = self.limits.part_head;
        if length > limit { Err(FormError::TooLarge { what: "bytes in the head of a part", limit }) } else { Ok(()) }
    }

    fn read_data<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Part<'a>), FormError> {
        let end = self.data_before_delimiter(input);
        if end == 0 {
            return match input.len() < self.delimiter.len() {
                true => Ok((0, Part::NeedData)),
                false => self.read_delimiter(input, 0),
            };
        }
        let limit = self.limits.field;
        self.room = self.room.checked_sub(end).ok_or(FormError::TooLarge { what: "bytes in a field", limit })?;
        Ok((end, Part::Data(&input[..end])))
    }

    /// How many bytes there are before a delimiter, or before what may become one. A delimiter has one CR, its first byte, so
    /// no byte is compared twice.
    fn data_before_delimiter(&self, input: &[u8]) -> usize {
        let mut at = 0;
        while let Some(next) = input[at..].iter().position(|&byte| byte == b'\r') {
            at += next;
            let known = self.delimiter.len().min(input.len() - at);
            if input[at..at + known] == self.delimiter[..known] {
                return at;
            }
            at += 1;
        }
        input.len()
    }

    /// One line end may follow the last delimiter.
    fn read_end<'a>(&mut self, input: &'a [u8], seen: usize) -> Result<(usize, Part<'a>), FormError> {
        if !b"\r\n"[seen..].starts_with(input) {
            return Err(malformed("something follows its last delimiter"));
        }
        self.state = State::Over(seen + input.len());
        Ok((input.len(), Part::NeedData))
    }
}

impl fmt::Debug for Multipart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multipart").field("state", &self.state).field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl PartHead {
    fn parse(text: &str) -> Result<Self, FormError> {
        let (mut disposition, mut content_type) = (None, None);
        for line in text.split("\r\n") {
            let (name, value) = line.split_once(':').ok_or(malformed("a line in the head of a part has no colon"))?;
            if !is_token(name) || value.contains(|char: char| char.is_control() && char != '\t') {
                return Err(malformed("a line in the head of a part has a character that cannot stand there"));
            }
            let place = match name.to_ascii_lowercase().as_str() {
                "content-disposition" => &mut disposition,
                "content-type" => &mut content_type,
                "content-transfer-encoding" if !is_plain(value) => {
                    return Err(malformed("a part has a Content-Transfer-Encoding; send the bytes as they are"));
                }
                _ => continue,
            };
            if place.replace(value.trim_matches(BLANKS)).is_some() {
                return Err(malformed("a part has a field line twice"));
            }
        }
        let disposition = disposition.ok_or(malformed("a part has no Content-Disposition"))?;
        let (name, file_name) = names(disposition)?;
        Ok(PartHead { name, file_name, content_type: content_type.map(str::to_owned) })
    }
}

/// The name of the field, and that of the file (RFC 7578 section 4.2, which says not to look at `filename*`).
fn names(disposition: &str) -> Result<(String, Option<String>), FormError> {
    let error = malformed("a part has a malformed Content-Disposition");
    let (kind, parameters) = value_and_parameters(disposition).ok_or(error.clone())?;
    if !kind.eq_ignore_ascii_case("form-data") {
        return Err(error);
    }
    let name = parameter(&parameters, "name").ok_or(malformed("a part has no name"))?;
    let file_name = parameter(&parameters, "filename");
    // Others take it for a file; here its bytes would be read as text.
    if file_name.is_none() && parameter(&parameters, "filename*").is_some() {
        return Err(malformed("a part names its file with `filename*` alone; send `filename`, in UTF-8"));
    }
    Ok((unescape(name), file_name.map(unescape)))
}

/// RFC 7578 section 4.7: these say nothing, and others are not to be sent.
fn is_plain(encoding: &str) -> bool {
    let encoding = encoding.trim_matches(BLANKS);
    ["7bit", "8bit", "binary"].iter().any(|plain| encoding.eq_ignore_ascii_case(plain))
}

type Parameters<'a> = Vec<(&'a str, String)>;

/// Takes `value; name=token; name="text"` apart (RFC 9110 section 5.6.6); `None` if it is no such thing, or names one parameter
/// twice.
fn value_and_parameters(text: &str) -> Option<(&str, Parameters<'_>)> {
    let (value, mut rest) = text.split_at(text.find(';').unwrap_or(text.len()));
    let mut parameters = Parameters::new();
    while let Some(behind) = rest.strip_prefix(';') {
        rest = behind.trim_start_matches(BLANKS);
        if rest.is_empty() || rest.starts_with(';') {
            continue;
        }
        let (name, behind) = rest.split_once('=')?;
        let is_one_too_many = parameter(&parameters, name).is_some() || parameters.len() == MAX_PARAMETERS;
        if !is_token(name) || is_one_too_many {
            return None;
        }
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, behind) = behind.split_at(behind.find([';', ' ', '\t']).unwrap_or(behind.len()));
                (is_token(value).then(|| value.to_owned())?, behind)
            }
        };
        parameters.push((name, value));
        rest = behind.trim_start_matches(BLANKS);
    }
    rest.is_empty().then(|| (value.trim_matches(BLANKS), parameters))
}

fn parameter<'a>(parameters: &'a Parameters<'_>, name: &str) -> Option<&'a str> {
    let (_, value) = parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    Some(value)
}

/// The text up to the closing quote, and what is behind it. A backslash that escapes nothing is one: old browsers send whole
/// paths of Windows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let (mut unquoted, mut chars) = (String::new(), text.char_indices().peekable());
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((unquoted, &text[at + 1..])),
            '\\' => unquoted.push(chars.next_if(|(_, next)| matches!(next, '"' | '\\')).map_or('\\', |(_, next)| next)),
            other => unquoted.push(other),
        }
    }
    None
}

/// Browsers send the characters that would end a name or its line as these, and a percent sign as itself.
fn unescape(name: &str) -> String {
    let name = name.replace("%22", "\"");
    let name = name.replace("%0D", "\r").replace("%0d", "\r");
    name.replace("%0A", "\n").replace("%0a", "\n")
}

/// RFC 2046 section 5.1.1.
fn is_boundary(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    (1..=70).contains(&text.len()) && text.bytes().all(allowed) && !text.ends_with(' ')
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

pub(crate) fn malformed(reason: &'static str) -> FormError {
    FormError::Malformed { reason }
}

/// The type of the bodies that are read here.
pub(crate) const FORM_DATA: &str = "multipart/form-data";

/// Nobody sends more than three. Each is compared with those before it.
const MAX_PARAMETERS: usize = 16;

/// OWS of RFC 9110 section 5.6.3.
pub(crate) const BLANKS: [char; 2] = [' ', '\t'];
