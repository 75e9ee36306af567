//! [`FormStream`]: a form that is taken apart while it comes, for files that are not wanted in memory.
//!
//! Rules kept here:
//! - Of a file no more is kept than came at once; of a field its value, within its limit.
//! - The client is read from no faster than the parts are asked for.
//! - A form that came to a bad end has no further parts, however often it is asked.
//! - No cell here is borrowed while a part is handed over: who gets it may ask for the next one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use crate::deferred::Deferred;
use crate::failure::{Abandoned, Result};
use crate::web::body::BodyStream;
use crate::web::error::FormError;
use crate::web::forms::{Form, is_urlencoded, lossy};
use crate::web::multipart::{FormLimits, Multipart, Part, PartHead};
use crate::web::request::Request;

/// A form, part by part as it comes; see [`Request::take_form`].
///
/// ```
/// use std::fs::File;
/// use std::io::Write;
/// use dosimeter::Result;
/// use dosimeter::web::{FormPart, Request, Response, Router};
///
/// /// Writes the files of a form to disk, in the thread pool, while the client waits for the disk and not in memory.
/// async fn upload(mut request: Request) -> Result<Response> {
///     let reactor = request.reactor();
///     let (mut form, mut file, mut bytes) = (request.take_form()?, None, 0);
///     while let Some(part) = form.next_part().await? {
///         match part {
///             FormPart::Field { name, value } => log::info!("{name:?} is {value:?}"),
///             // `head.file_name` is the client's word, and no path to write to.
///             FormPart::File(_head) => file = Some(reactor.defer_to_thread(|| Ok(File::create("upload.new")?)).await?),
///             FormPart::Data(data) => {
///                 bytes += data.len();
///                 let mut open: File = file.take().ok_or("data belong to a file")?;
///                 let write = move || {
///                     open.write_all(&data)?;
///                     Ok(open)
///                 };
///                 file = Some(reactor.defer_to_thread(write).await?);
///             }
///             FormPart::FileEnd => file = None,
///         }
///     }
///     Ok(Response::text(format!("{bytes} bytes")))
/// }
///
/// let app = Router::new();
/// app.route_async("/upload", upload).streamed();
/// ```
pub struct FormStream(Rc<RefCell<State>>);

/// What [`FormStream::next_part`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormPart {
    /// A field that is no file, whole.
    Field {
        /// Its name.
        name: String,
        /// Its value; what is not UTF-8 is replaced.
        value: String,
    },
    /// A file begins. Where none was chosen browsers send one without a name and bytes.
    File(PartHead),
    /// Bytes of the file; never none.
    Data(Vec<u8>),
    /// The file is whole.
    FileEnd,
}

struct State {
    body: BodyStream,
    kind: Kind,
    limits: FormLimits,
    /// What came and could not be used yet.
    input: Vec<u8>,
    /// What is to be handed over.
    ready: VecDeque<FormPart>,
    /// How it ended, once it has.
    end: Option<Result<(), FormError>>,
}

enum Kind {
    /// With the field that is being read.
    Multipart(Multipart, Option<(String, Vec<u8>)>),
    /// It is read when it is whole.
    Urlencoded,
    /// There is no body.
    Nothing,
}

impl Request {
    /// The form in the body, to be taken part by part; the default [`FormLimits`] hold.
    ///
    /// Where the resource [accepts a stream](super::Resource::accepts_stream) the parts come as the client sends them, and the
    /// files of a form may be as large as [`Limits::streamed_body`](super::Limits::streamed_body) lets them be: they are in
    /// memory piece by piece. (Twisted puts a body of more than 100 kB into a temporary file before it calls the resource.)
    ///
    /// # Errors
    /// [`FormError`] when the body is of another type.
    pub fn take_form(&mut self) -> Result<FormStream, FormError> {
        self.take_form_within(&FormLimits::default())
    }

    /// As [`take_form`](Request::take_form), with these limits.
    ///
    /// # Errors
    /// As [`take_form`](Request::take_form).
    pub fn take_form_within(&mut self, limits: &FormLimits) -> Result<FormStream, FormError> {
        let kind = match self.form_type()? {
            None => Kind::Nothing,
            Some(kind) if is_urlencoded(kind)? => Kind::Urlencoded,
            Some(kind) => Kind::Multipart(Multipart::new(kind, limits)?, None),
        };
        let (input, ready) = (Vec::new(), VecDeque::new());
        let state = State { body: self.take_body(), kind, limits: limits.clone(), input, ready, end: None };
        Ok(FormStream(Rc::new(RefCell::new(state))))
    }
}

impl FormStream {
    /// The next part; `None` at the end of the form.
    ///
    /// It fails as [`BodyStream::next_piece`] does, and with [`FormError`] when the form breaks the rules or a limit, from then
    /// on whenever asked. Passed on by the resource that is answered with 400 or 413.
    #[track_caller]
    pub fn next_part(&mut self) -> Deferred<Option<FormPart>> {
        next(&self.0)
    }
}

/// What is there, or else what comes next: a chain that replaces itself, and does not grow.
fn next(shared: &Rc<RefCell<State>>) -> Deferred<Option<FormPart>> {
    let mut state = shared.borrow_mut();
    if let Some(part) = state.ready.pop_front() {
        return Deferred::succeed(Some(part));
    }
    match &state.end {
        Some(Ok(())) => return Deferred::succeed(None),
        Some(Err(error)) => return Deferred::fail(error.clone()),
        None => {}
    }
    let piece = state.body.next_piece();
    drop(state);
    // It holds the body, which holds this callback for as long as it waits.
    let shared = Rc::downgrade(shared);
    piece.add_callback(move |piece: Option<Vec<u8>>| -> Deferred<Option<FormPart>> {
        let Some(shared) = shared.upgrade() else { return Deferred::fail(Abandoned) };
        shared.borrow_mut().take(piece);
        next(&shared)
    })
}

impl State {
    /// A piece of the body has come, or its end.
    fn take(&mut self, piece: Option<Vec<u8>>) {
        let is_over = piece.is_none();
        self.input.extend(piece.unwrap_or_default());
        if let Err(error) = self.read(is_over) {
            self.end = Some(Err(error));
        } else if is_over {
            self.end = Some(Ok(()));
        }
    }

    fn read(&mut self, is_over: bool) -> Result<(), FormError> {
        match &mut self.kind {
            Kind::Nothing => Ok(()),
            Kind::Urlencoded if is_over => {
                let form = Form::read_urlencoded(&String::from_utf8_lossy(&self.input), &self.limits)?;
                let fields = form.fields().map(|(name, value)| (name.to_owned(), value.to_owned()));
                self.ready.extend(fields.map(|(name, value)| FormPart::Field { name, value }));
                Ok(())
            }
            // No form without files is longer than its fields may be.
            Kind::Urlencoded if self.input.len() > self.limits.field => {
                Err(FormError::TooLarge { what: "bytes in a field", limit: self.limits.field })
            }
            Kind::Urlencoded => Ok(()),
            Kind::Multipart(multipart, field) => {
                let used = read_parts(multipart, field, &self.input, &mut self.ready)?;
                self.input.drain(..used);
                if is_over { multipart.finish() } else { Ok(()) }
            }
        }
    }
}

/// Reads what is whole, and returns how much of the input that was. What came before a fault is handed over first.
fn read_parts(
    multipart: &mut Multipart,
    field: &mut Option<(String, Vec<u8>)>,
    input: &[u8],
    ready: &mut VecDeque<FormPart>,
) -> Result<usize, FormError> {
    let mut used = 0;
    loop {
        let (count, part) = multipart.receive(&input[used..])?;
        used += count;
        match (part, field.take()) {
            (Part::Head(head), _) if head.file_name.is_none() => *field = Some((head.name, Vec::new())),
            (Part::Head(head), _) => ready.push_back(FormPart::File(head)),
            (Part::Data(data), Some((name, mut value))) => {
                value.extend_from_slice(data);
                *field = Some((name, value));
            }
            (Part::Data(data), None) => ready.push_back(FormPart::Data(data.to_vec())),
            (Part::End, Some((name, value))) => ready.push_back(FormPart::Field { name, value: lossy(value) }),
            (Part::End, None) => ready.push_back(FormPart::FileEnd),
            (Part::NeedData, current) => {
                *field = current;
                return Ok(used);
            }
        }
    }
}

impl fmt::Debug for FormStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ready, end) = match self.0.try_borrow() {
            Ok(state) => (state.ready.len(), state.end.clone()),
            Err(_) => return f.write_str("FormStream"),
        };
        f.debug_struct("FormStream").field("ready", &ready).field("end", &end).finish()
    }
}
