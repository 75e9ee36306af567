//! [`Data`]: a page that is in memory.

use std::fmt;

use ::http::HeaderValue;

use crate::web::conditional::{ETag, Validators};
use crate::web::request::Request;
use crate::web::resource::{Render, Resource};
use crate::web::response::{Body, Response};

/// The same bytes for every `GET`: a style sheet in the program, a page made at start.
///
/// Who has them already is told so: the bytes have an entity tag, and conditional requests are answered by it. The bytes are
/// kept once, whatever the number of requests.
///
/// ```
/// use dosimeter::web::{Branch, Data};
///
/// let root = Branch::new();
/// root.put_child("style.css", Data::new("body { margin: 2em }", "text/css; charset=utf-8"));
/// ```
#[derive(Clone)]
pub struct Data {
    body: Body,
    content_type: HeaderValue,
    validators: Validators,
}

impl Data {
    /// These bytes, as content of this type.
    ///
    /// # Panics
    /// If `content_type` cannot stand in a header: it holds something other than visible ASCII and blanks.
    #[track_caller]
    pub fn new(body: impl Into<Body>, content_type: &'static str) -> Self {
        let body = match body.into() {
            Body::Owned(bytes) => Body::Shared(bytes.into()),
            body => body,
        };
        let validators = ETag::of(&body).into();
        Data { body, content_type: HeaderValue::from_static(content_type), validators }
    }
}

impl Resource for Data {
    fn render_get(&self, mut request: Request) -> Render {
        if let Some(answer) = request.check_conditions(self.validators.clone()) {
            return answer.into();
        }
        Response::new(self.body.clone()).with_content_type(self.content_type.clone()).into()
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes of {:?})", self.body.as_ref().len(), self.content_type)
    }
}
