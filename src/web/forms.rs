//! [`Form`]: the fields and files of a form, however they were sent.
//!
//! Rules kept here:
//! - The type that the body declares decides how it is read; nothing is guessed from its bytes.
//! - A `name=value` without its `=` is none, here as in a query.
//! - What is not UTF-8 in a text is replaced; the bytes of a file are left as they are.

use std::borrow::Cow;
use std::collections::HashSet;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::web::error::FormError;
use crate::web::multipart::{BLANKS, FORM_DATA, FormLimits, Multipart, Part, PartHead};

/// The fields and files of a form, in the order sent; see [`Request::form`](super::Request::form).
///
/// ```
/// use dosimeter::web::{FormError, Request, Response};
///
/// fn sign_up(request: Request) -> Result<Response, FormError> {
///     let form = request.form()?;
///     let name = form.get("name").unwrap_or("nobody");
///     let age: u8 = form.parse("age")?; // 400 where it is missing or no number
///     let portrait = form.file("portrait").map_or(0, |file| file.bytes.len());
///     Ok(Response::text(format!("{name}, {age}, {portrait} bytes")))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Form {
    fields: Vec<(String, String)>,
    files: Vec<(String, FormFile)>,
}

/// A file that came with a form. All but the bytes' number is the client's word.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormFile {
    /// What it was called where it came from. It is no path to write to: think of a name of your own.
    pub file_name: String,
    /// Its type.
    pub content_type: Option<String>,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl Form {
    /// The first field of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_all(name).next()
    }

    /// All fields of this name, in the order sent: the boxes that are ticked.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.fields().filter(move |(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The first field of this name as a `T`.
    ///
    /// # Errors
    /// [`FormError::Missing`] when there is none, [`FormError::Invalid`] when its text is no `T`.
    pub fn parse<T: FromStr>(&self, name: &str) -> Result<T, FormError> {
        let text = self.get(name).ok_or_else(|| FormError::Missing { field: name.to_owned() })?;
        text.parse().map_err(|_| FormError::Invalid { field: name.to_owned() })
    }

    /// All fields that are no files.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The first file in a field of this name. Where none was chosen there is none.
    pub fn file(&self, name: &str) -> Option<&FormFile> {
        self.files().find(|(known, _)| *known == name).map(|(_, file)| file)
    }

    /// All files, with the names of their fields.
    pub fn files(&self) -> impl Iterator<Item = (&str, &FormFile)> {
        self.files.iter().map(|(name, file)| (name.as_str(), file))
    }

    /// All files, to keep them without copying.
    pub fn into_files(self) -> Vec<(String, FormFile)> {
        self.files
    }

    /// Reads a whole body of this type.
    pub(crate) fn read(content_type: &str, body: &[u8], limits: &FormLimits) -> Result<Self, FormError> {
        match is_urlencoded(content_type)? {
            true => Form::read_urlencoded(&String::from_utf8_lossy(body), limits),
            false => Form::read_multipart(content_type, body, limits),
        }
    }

    /// Reads `name=value&name=value`.
    pub(crate) fn read_urlencoded(text: &str, limits: &FormLimits) -> Result<Self, FormError> {
        let mut form = Form::default();
        for (name, value) in pairs(text) {
            if form.fields.len() == limits.fields {
                return Err(FormError::TooLarge { what: "fields", limit: limits.fields });
            }
            if value.len() > limits.field {
                return Err(FormError::TooLarge { what: "bytes in a field", limit: limits.field });
            }
            form.fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(form)
    }

    fn read_multipart(content_type: &str, mut body: &[u8], limits: &FormLimits) -> Result<Self, FormError> {
        let mut multipart = Multipart::new(content_type, limits)?;
        let (mut form, mut current) = (Form::default(), None);
        loop {
            let (used, part) = multipart.receive(body)?;
            body = &body[used..];
            match (part, &mut current) {
                (Part::Head(head), _) => current = Some((head, Vec::new())),
                (Part::Data(data), Some((_, bytes))) => bytes.extend_from_slice(data),
                (Part::End, Some(_)) => current.take().into_iter().for_each(|(head, bytes)| form.add(head, bytes)),
                (Part::Data(_) | Part::End, None) => unreachable!("data and end of a part follow its head"),
                (Part::NeedData, _) => break,
            }
        }
        multipart.finish()?;
        Ok(form)
    }

    fn add(&mut self, head: PartHead, bytes: Vec<u8>) {
        match head.file_name {
            None => self.fields.push((head.name, lossy(bytes))),
            // What a browser sends for a file that nobody chose.
            Some(file_name) if file_name.is_empty() && bytes.is_empty() => {}
            Some(file_name) => {
                self.files.push((head.name, FormFile { file_name, content_type: head.content_type, bytes }));
            }
        }
    }

    /// With the fields of `other` in place of those that have their names.
    pub(crate) fn overlaid(mut self, mut other: Form) -> Form {
        // Each name is looked up: compared with each other a thousand of both would take milliseconds.
        let names: HashSet<&str> = other.fields().map(|(name, _)| name).collect();
        self.fields.retain(|(name, _)| !names.contains(name.as_str()));
        self.fields.append(&mut other.fields);
        Form { fields: self.fields, files: other.files }
    }
}

/// The arguments of a query or of a urlencoded body, decoded.
pub(crate) fn pairs(text: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decode(name), decode(value)))
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return text.into();
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

/// Whether a form of this type is `name=value&name=value`, or else multipart.
pub(crate) fn is_urlencoded(content_type: &str) -> Result<bool, FormError> {
    let essence = content_type.split(';').next().unwrap_or_default().trim_matches(BLANKS);
    match essence {
        _ if essence.eq_ignore_ascii_case(URLENCODED) => Ok(true),
        _ if essence.eq_ignore_ascii_case(FORM_DATA) => Ok(false),
        _ => Err(FormError::NotAForm),
    }
}

/// What is not UTF-8 is replaced.
pub(crate) fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

const URLENCODED: &str = "application/x-www-form-urlencoded";
