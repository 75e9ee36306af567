//! [`Rule`]: one route, as the router keeps it: what it matches, what it calls, what it is called.
//!
//! Rules kept here:
//! - A rule is put together while the statement runs that registers it; from then on nothing of it changes.
//! - What it is called by metrics is its pattern, and nothing of a request.
//! - What is built from it is matched by it.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt::{self, Display};
use std::panic::Location;
use std::rc::Rc;

use ::http::Method;

use crate::web::exchange::Exchange;
use crate::web::handler::Parts;
use crate::web::instrumented::Measure;
use crate::web::pattern::{Misfit, Pattern, Segment, is_dots, quote};
use crate::web::request::Request;
use crate::web::resource::{Render, Resource};
use crate::web::walk::KnownStep;

/// See the top of the file.
pub(crate) struct Rule {
    pub(crate) pattern: Pattern,
    has_values: bool,
    /// Where in the program.
    registered: &'static Location<'static>,
    /// Empty: every method.
    pub(crate) methods: RefCell<Vec<Method>>,
    /// It answers for everything below the pattern, too.
    pub(crate) is_branch: Cell<bool>,
    /// It answers with and without a slash at the end.
    pub(crate) has_either_slash: Cell<bool>,
    /// The handler takes bodies as streams.
    pub(crate) is_streamed: Cell<bool>,
    /// What the handler is, where it is a resource.
    pub(crate) resource: Option<Rc<dyn Resource>>,
    handler: Box<dyn Fn(Request) -> Render>,
    pub(crate) hooks: OnceCell<Box<dyn Measure>>,
    step: KnownStep,
}

impl Rule {
    pub(crate) fn new(pattern: Pattern, (handler, resource): Parts, registered: &'static Location<'static>) -> Self {
        Rule {
            has_values: pattern.has_values(),
            pattern,
            registered,
            methods: RefCell::default(),
            is_branch: Cell::new(false),
            has_either_slash: Cell::new(false),
            is_streamed: Cell::new(false),
            resource,
            handler,
            hooks: OnceCell::new(),
            step: KnownStep::default(),
        }
    }

    /// What has to match before the rule, and whatever it leaves to its resource, begins.
    pub(crate) fn segments(&self) -> &[Segment] {
        match self.pattern.segments.as_slice() {
            [before @ .., Segment::Literal(last)] if self.is_branch.get() && last.is_empty() => before,
            all => all,
        }
    }

    pub(crate) fn has(&self, method: &Method) -> bool {
        let methods = self.methods.borrow();
        methods.is_empty() || methods.contains(method)
    }

    pub(crate) fn shares_method(&self, other: &Rule) -> bool {
        let methods = self.methods.borrow();
        methods.is_empty() || other.methods.borrow().is_empty() || methods.iter().any(|method| other.has(method))
    }

    /// The request goes to the handler: metrics are told.
    pub(crate) fn enter(&self, exchange: &Exchange) {
        self.count_as_entered(exchange);
        self.lead_on(exchange);
    }

    /// Gives names to the parts of the path that matched, and moves the request past them.
    pub(crate) fn lead_on(&self, exchange: &Exchange) {
        if self.has_values {
            self.name_values(exchange);
        }
        exchange.use_segments(if self.is_branch.get() { self.segments().len() } else { usize::MAX });
    }

    fn name_values(&self, exchange: &Exchange) {
        let segments = self.segments();
        for (place, segment) in segments.iter().enumerate() {
            if let (Segment::Variable(variable), Some(part)) = (segment, exchange.segment_ahead(place)) {
                variable.read(part, |name, range| exchange.add_param(name, place, range));
            }
        }
        if let Some(name) = &self.pattern.rest {
            exchange.add_rest_param(name, segments.len());
        }
    }

    /// Tells metrics what the route is called. What is mounted on the root itself adds nothing to the way.
    pub(crate) fn count_as_entered(&self, exchange: &Exchange) {
        if !self.segments().is_empty() || self.pattern.rest.is_some() {
            exchange.enter_pattern(&self.step, || self.label());
        }
    }

    /// Has the handler answer.
    pub(crate) fn answer(&self, request: Request) -> Render {
        match self.hooks.get() {
            None => (self.handler)(request),
            Some(hooks) => hooks.measure(request, &self.handler),
        }
    }

    fn label(&self) -> &str {
        let text = self.pattern.text.as_str();
        if self.is_branch.get() { text.strip_suffix('/').unwrap_or(text) } else { text }
    }

    pub(crate) fn build(&self, url: &mut String, value_of: impl Fn(&str) -> Option<String>) -> Result<(), Misfit> {
        for segment in self.segments() {
            url.push('/');
            segment.build(url, &value_of)?;
        }
        let Some(name) = &self.pattern.rest else { return Ok(()) };
        let value = value_of(name).ok_or_else(|| Misfit::Missing(name.clone()))?;
        if value.is_empty() || value.starts_with('/') || value.split('/').any(is_dots) {
            return Err(Misfit::Wrong(name.clone()));
        }
        for segment in value.split('/') {
            url.push('/');
            quote(url, segment);
        }
        Ok(())
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route \"/{}\" ({})", self.pattern.text, self.registered)
    }
}
