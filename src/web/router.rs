//! [`Router`]: routes by pattern, as Klein has them.
//!
//! Rules kept here:
//! - The more specific pattern wins, whatever the order of registration: a literal segment before `<int:x>` before
//!   `<string:x>`, compared from the left.
//! - A segment that does not convert is no match, and so 404: `/user/x` is not a bad `/user/<int:id>` but another URL.
//! - A pattern is checked when it is registered; a wrong one ends the program at its start, naming the pattern.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use ::http::Method;

use crate::web::metrics::same;
use crate::web::request::Request;
use crate::web::resource::{Answer, IntoRender, Render, Resource, not_found};
use crate::web::response::Response;

/// A resource that hands requests to functions, by the pattern of their path.
///
/// A cheap handle: a clone is the same router. It can be the root of a site or a child of a branch; patterns are relative to
/// where it stands.
///
/// ```
/// use dosimeter::web::{Request, Router, Site};
///
/// let app = Router::new();
/// app.route("/", |_request: Request| "Hello");
/// app.route("/user/<int:id>", |request: Request| {
///     let id: u64 = request.param("id").expect("the pattern has it");
///     format!("user {id}")
/// });
/// let site = Site::new(app);
/// ```
#[doc(alias = "Klein")]
#[derive(Clone, Default)]
pub struct Router {
    routes: Rc<RefCell<Vec<Rc<Rule>>>>,
}

/// A route that was registered; see [`Router::route`].
pub struct Route {
    rule: Rc<Rule>,
}

struct Rule {
    pattern: Pattern,
    /// Empty: every method.
    methods: RefCell<Vec<Method>>,
    handler: Box<dyn Fn(Request) -> Render>,
}

/// What a [`Router`] calls: a function from a request to an answer.
///
/// The type parameter only keeps kinds of handlers apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot handle a route",
    note = "a `Resource` can, and a closure `Fn(Request)` that returns an answer (see `Render`)"
)]
pub trait Handler<K>: 'static {
    /// Makes the one kind of function that the router keeps.
    fn into_function(self) -> Box<dyn Fn(Request) -> Render>;
}

/// A function that takes the request.
#[derive(Debug)]
pub struct Function;

impl<F, R> Handler<Function> for F
where
    F: Fn(Request) -> R + 'static,
    R: Into<Render>,
{
    fn into_function(self) -> Box<dyn Fn(Request) -> Render> {
        Box::new(move |request| self(request).into())
    }
}

/// A resource, which answers for its pattern and nothing below it.
#[derive(Debug)]
pub struct Fixed;

impl<R: Resource> Handler<Fixed> for R {
    fn into_function(self) -> Box<dyn Fn(Request) -> Render> {
        let resource: Rc<dyn Resource> = Rc::new(self);
        Box::new(move |_| Render(Answer::Resource(resource.clone())))
    }
}

impl Router {
    /// A router without routes.
    pub fn new() -> Self {
        Router::default()
    }

    /// Has `handler` called for paths that `pattern` matches.
    ///
    /// A pattern starts with a slash; a segment is literal, `<string:name>` (or `<name>`) for any text that is not empty, or
    /// `<int:name>` for digits. What a segment matched is then found with [`Request::param`]. A pattern matches whole paths:
    /// `/a` and `/a/` are two. A handler is a function from [`Request`] to anything that is an answer (see [`Render`]), or a
    /// [`Resource`].
    ///
    /// # Panics
    /// When the pattern is wrong: that is a mistake in the program.
    #[track_caller]
    pub fn route<K>(&self, pattern: &str, handler: impl Handler<K>) -> Route {
        let parsed = Pattern::parse(pattern).unwrap_or_else(|error| panic!("route {pattern:?}: {error}"));
        let mut routes = self.routes.borrow_mut();
        let rule = Rc::new(Rule { pattern: parsed, methods: RefCell::default(), handler: handler.into_function() });
        routes.push(rule.clone());
        // Stable: equal patterns keep the order of registration.
        routes.sort_by_key(|rule| rule.pattern.rank());
        Route { rule }
    }

    /// The route for a path, or what is to be said when there is none for its method.
    fn find(&self, request: &Request) -> Match {
        let mut other: Option<(Rc<Rule>, Vec<Method>)> = None;
        for rule in &*self.routes.borrow() {
            if !rule.pattern.matches(request) {
                continue;
            }
            if rule.allows(request.method()) {
                return Match::Found(rule.clone());
            }
            let (_, allowed) = other.get_or_insert_with(|| (rule.clone(), Vec::new()));
            allowed.extend(rule.methods.borrow().iter().cloned());
        }
        other.map_or(Match::Nothing, |(rule, allowed)| Match::OtherMethods(rule, with_head(allowed)))
    }
}

enum Match {
    Found(Rc<Rule>),
    OtherMethods(Rc<Rule>, Vec<Method>),
    Nothing,
}

impl Resource for Router {
    fn is_leaf(&self) -> bool {
        true
    }

    fn render(&self, request: Request) -> Render {
        match self.find(&request) {
            Match::Found(rule) => {
                rule.pattern.enter(&request);
                (rule.handler)(request)
            }
            Match::OtherMethods(rule, allowed) => {
                rule.pattern.enter(&request);
                Response::method_not_allowed(request.method(), &allowed).into_render()
            }
            Match::Nothing => not_found(&request),
        }
    }
}

impl Route {
    /// Restricts the route to these methods; `GET` brings `HEAD` with it. Without this, or with none, it answers every method.
    ///
    /// ```
    /// use dosimeter::web::{Request, Router};
    /// use http::Method;
    ///
    /// let app = Router::new();
    /// app.route("/notes", |_: Request| "all notes").methods([Method::GET]);
    /// app.route("/notes", |request: Request| request.body().to_vec()).methods([Method::POST]);
    /// ```
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        *self.rule.methods.borrow_mut() = methods.into_iter().collect();
        self
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.borrow().iter().map(|rule| &rule.pattern.text)).finish()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Route(/{})", self.rule.pattern.text)
    }
}

impl Rule {
    fn allows(&self, method: &Method) -> bool {
        let methods = self.methods.borrow();
        methods.is_empty() || methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
    }
}

fn with_head(mut methods: Vec<Method>) -> Vec<Method> {
    if methods.contains(&Method::GET) {
        methods.push(Method::HEAD);
    }
    methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    methods.dedup();
    methods
}

/// A pattern, segment by segment.
struct Pattern {
    /// As written, without the first slash: what metrics call the route.
    text: String,
    segments: Vec<Segment>,
}

/// A segment of a pattern; the order is that of specificity.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Int(Rc<str>),
    Text(Rc<str>),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('/').ok_or("a pattern starts with a slash")?;
        let segments = text.split('/').map(Segment::parse).collect::<Result<Vec<_>, String>>()?;
        let names: Vec<_> = segments.iter().filter_map(Segment::name).collect();
        match names.iter().enumerate().find(|(place, name)| names[..*place].contains(name)) {
            Some((_, name)) => Err(format!("two segments are called {name:?}")),
            None => Ok(Pattern { text: text.to_owned(), segments }),
        }
    }

    /// Patterns sort by this: kind of each segment from the left.
    fn rank(&self) -> Vec<u8> {
        self.segments.iter().map(Segment::rank).collect()
    }

    fn matches(&self, request: &Request) -> bool {
        let mut parts = request.postpath();
        self.segments.iter().all(|segment| parts.next().is_some_and(|part| segment.matches(part)))
            && parts.next().is_none()
    }

    /// Hands the parts that were matched to the request and moves it past them.
    fn enter(&self, request: &Request) {
        let exchange = request.exchange();
        if self.segments.iter().any(|segment| segment.name().is_some()) {
            let named = self.segments.iter().zip(request.postpath());
            let params = named.filter_map(|(segment, part)| Some((segment.name()?.clone(), part.to_owned())));
            exchange.set_params(params.collect());
        }
        exchange.enter_route(&self.text);
        exchange.use_segments(self.segments.len());
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        let Some(inner) = text.strip_prefix('<') else {
            return match text.contains(['<', '>']) {
                true => Err(format!("segment {text:?}: `<` and `>` stand around a whole segment")),
                false => Ok(Segment::Literal(text.to_owned())),
            };
        };
        let inner = inner.strip_suffix('>').ok_or_else(|| format!("segment {text:?} has no closing `>`"))?;
        let (kind, name) = inner.split_once(':').unwrap_or(("string", inner));
        if name.is_empty() || !name.chars().all(|char| char.is_alphanumeric() || char == '_') {
            return Err(format!("segment {text:?}: a name is made of letters, digits and `_`"));
        }
        match kind {
            "string" => Ok(Segment::Text(name.into())),
            "int" => Ok(Segment::Int(name.into())),
            other => Err(format!("segment {text:?}: {other:?} is no kind of segment; there are `string` and `int`")),
        }
    }

    fn name(&self) -> Option<&Rc<str>> {
        match self {
            Segment::Literal(_) => None,
            Segment::Int(name) | Segment::Text(name) => Some(name),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Segment::Literal(_) => 0,
            Segment::Int(_) => 1,
            Segment::Text(_) => 2,
        }
    }

    fn matches(&self, part: &str) -> bool {
        match self {
            Segment::Literal(text) => same(text, part),
            Segment::Int(_) => !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()),
            Segment::Text(_) => !part.is_empty(),
        }
    }
}
