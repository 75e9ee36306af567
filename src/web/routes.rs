//! [`Routes`]: the routes of one router, as a tree by the segments of their patterns.
//!
//! Rules kept here:
//! - The more specific rule is found, whatever the order of registration. Two that cannot be told apart are a
//!   [conflict](Routes::conflict).
//! - Finding a rule looks each segment up once and allocates nothing. It goes no deeper than the patterns do, whatever was asked.
//! - What was asked for is never a place to go: a redirect leads to another path of this server, whatever the path holds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use ::http::Method;
use ::http::header::HeaderValue;
use percent_encoding::{CONTROLS, utf8_percent_encode};

use crate::web::pattern::{Segment, Variable, quote};
use crate::web::request::Request;
use crate::web::rule::Rule;

/// The routes of a router, as its handles share them.
pub(crate) type Table = Rc<RefCell<Routes>>;

/// See the top of the file.
#[derive(Default)]
pub(crate) struct Routes {
    root: Node,
    /// In the order of registration.
    all: Vec<Rc<Rule>>,
    names: BTreeMap<String, Rc<Rule>>,
    /// The routers that are mounted, and where.
    mounts: Vec<(Rc<Rule>, Table)>,
}

/// What is to be done with a request.
pub(crate) enum Match {
    Found(Rc<Rule>),
    /// What matches the path has not the method; the rule is the most specific one.
    OtherMethods(Rc<Rule>, Vec<Method>),
    /// The rule matches the path when its slashes are put right.
    Elsewhere(Rc<Rule>, HeaderValue),
    Nothing,
}

impl Routes {
    /// Adds a rule, and what is mounted there if that is a router.
    pub(crate) fn insert(&mut self, rule: &Rc<Rule>, mounted: Option<Table>) {
        self.all.push(rule.clone());
        self.mounts.extend(mounted.map(|table| (rule.clone(), table)));
        self.root.at(rule.segments()).list_of(rule).push(rule.clone());
    }

    pub(crate) fn remove(&mut self, rule: &Rc<Rule>) {
        let is_other = |known: &Rc<Rule>| !Rc::ptr_eq(known, rule);
        self.all.retain(is_other);
        self.names.retain(|_, known| is_other(known));
        self.mounts.retain(|(known, _)| is_other(known));
        self.root.at(rule.segments()).list_of(rule).retain(is_other);
        if rule.has_either_slash.get() {
            self.root.twin_of(rule).ends.retain(is_other);
        }
    }

    /// The rule answers for everything below its pattern from now on.
    pub(crate) fn make_branch(&mut self, rule: &Rc<Rule>) {
        self.root.at(rule.segments()).ends.retain(|known| !Rc::ptr_eq(known, rule));
        rule.is_branch.set(true);
        self.root.at(rule.segments()).below.push(rule.clone());
    }

    /// The rule answers with and without a slash at its end from now on.
    pub(crate) fn make_either_slash(&mut self, rule: &Rc<Rule>) {
        if !rule.has_either_slash.replace(true) {
            self.root.twin_of(rule).ends.push(rule.clone());
        }
    }

    /// Gives the rule a name, unless another one has it, which is returned.
    pub(crate) fn name(&mut self, rule: &Rc<Rule>, name: &str) -> Option<Rc<Rule>> {
        let known = self.names.entry(name.to_owned()).or_insert_with(|| rule.clone());
        (!Rc::ptr_eq(known, rule)).then(|| known.clone())
    }

    /// The patterns, in the order of registration.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|rule| rule.pattern.text.as_str())
    }

    /// The rules on the way to the one called `name`. A router may be mounted below itself; it is looked at once.
    pub(crate) fn locate(table: &Table, name: &str, seen: &mut Vec<*const RefCell<Routes>>) -> Option<Vec<Rc<Rule>>> {
        if seen.contains(&Rc::as_ptr(table)) {
            return None;
        }
        seen.push(Rc::as_ptr(table));
        let routes = table.borrow();
        if let Some(rule) = routes.names.get(name) {
            return Some(vec![rule.clone()]);
        }
        routes.mounts.iter().find_map(|(rule, mounted)| {
            let mut way = vec![rule.clone()];
            way.extend(Routes::locate(mounted, name, seen)?);
            Some(way)
        })
    }

    /// Another rule that matches the same paths and has one of the methods.
    pub(crate) fn conflict(&mut self, rule: &Rc<Rule>) -> Option<Rc<Rule>> {
        let is_other = |other: &&Rc<Rule>| !Rc::ptr_eq(other, rule) && other.shares_method(rule);
        let other = self.root.at(rule.segments()).list_of(rule).iter().find(is_other).cloned();
        if other.is_some() || !rule.has_either_slash.get() {
            return other;
        }
        self.root.twin_of(rule).ends.iter().find(is_other).cloned()
    }

    pub(crate) fn find(&self, request: &Request) -> Match {
        let (exchange, mut search) = (request.exchange(), Search::new(request.method()));
        if let Some(rule) = self.root.search(0, &|place| exchange.segment_ahead(place), &mut search) {
            return Match::Found(rule.clone());
        }
        match search.other {
            Some(rule) => Match::OtherMethods(rule.clone(), with_implied(search.allowed)),
            None => self.find_elsewhere(request).unwrap_or(Match::Nothing),
        }
    }

    /// Looks whether the path, its doubled slashes merged, would be one, or would with a slash at its end.
    fn find_elsewhere(&self, request: &Request) -> Option<Match> {
        let path: Vec<&str> = request.postpath().collect();
        let is_end = |place: usize| place + 1 == path.len();
        let kept = path.iter().enumerate().filter(|(place, part)| !part.is_empty() || is_end(*place));
        let mut merged: Vec<&str> = kept.map(|(_, part)| *part).collect();
        let mut rule = self.root.matching(&merged, request.method()).filter(|_| merged.len() < path.len());
        if rule.is_none() && merged.last().is_none_or(|last| !last.is_empty()) {
            merged.push("");
            rule = self.root.matching(&merged, request.method());
        }
        Some(Match::Elsewhere(rule?, location(request, &merged)))
    }
}

/// The path that led here, then `path`, then the query.
///
/// `//host` would lead to another server, and `/\host` too where a browser follows it.
fn location(request: &Request, path: &[&str]) -> HeaderValue {
    let mut url = String::new();
    for segment in request.prepath().chain(path.iter().copied()) {
        url.push('/');
        quote(&mut url, segment);
    }
    if url.starts_with("//") {
        url.insert_str(0, "/.");
    }
    if let Some(query) = request.query_string() {
        url.push('?');
        url.extend(utf8_percent_encode(query, CONTROLS));
    }
    HeaderValue::try_from(url).expect("what is encoded is visible ASCII")
}

/// A node of the tree of patterns: what they have in common up to a segment.
#[derive(Default)]
struct Node {
    /// Where a pattern ends in a slash. It is kept by itself: empty texts are slow to compare (see `metrics::same`).
    slash: Option<Box<Node>>,
    literals: BTreeMap<String, Node>,
    /// The more specific first.
    variables: Vec<(Variable, Node)>,
    /// The patterns that end here.
    ends: Vec<Rc<Rule>>,
    /// Those that go on with a `path`.
    rest: Vec<Rc<Rule>>,
    /// Those that answer for what is below, too.
    below: Vec<Rc<Rule>>,
}

impl Node {
    /// The node behind `segments`, which is made if need be.
    fn at(&mut self, segments: &[Segment]) -> &mut Node {
        let [first, others @ ..] = segments else { return self };
        let child = match first {
            Segment::Literal(text) if text.is_empty() => self.slash.get_or_insert_default(),
            Segment::Literal(text) => self.literals.entry(text.clone()).or_default(),
            Segment::Variable(variable) => self.behind(variable),
        };
        child.at(others)
    }

    /// Where the pattern of `rule` would end if it had the slash at its end that it has not, or had not the one it has.
    fn twin_of(&mut self, rule: &Rule) -> &mut Node {
        match rule.segments() {
            [before @ .., Segment::Literal(last)] if last.is_empty() => self.at(before),
            all => self.at(all).slash.get_or_insert_default(),
        }
    }

    fn behind(&mut self, variable: &Variable) -> &mut Node {
        let known = self.variables.iter().position(|(known, _)| known.has_shape_of(variable));
        let place = known.unwrap_or_else(|| {
            let place = self.variables.partition_point(|(known, _)| known.rank() <= variable.rank());
            self.variables.insert(place, (variable.clone(), Node::default()));
            place
        });
        &mut self.variables[place].1
    }

    fn list_of(&mut self, rule: &Rule) -> &mut Vec<Rc<Rule>> {
        match rule.is_branch.get() {
            true => &mut self.below,
            false if rule.pattern.rest.is_some() => &mut self.rest,
            false => &mut self.ends,
        }
    }

    /// The most specific rule below this node that matches `path` from `place` on and has the method.
    ///
    /// It goes no deeper than the patterns, and comes to each node once at most.
    fn search<'a, 'p>(
        &'a self,
        place: usize,
        path: &impl Fn(usize) -> Option<&'p str>,
        search: &mut Search<'a>,
    ) -> Option<&'a Rc<Rule>> {
        let found = match path(place) {
            None => search.among(&self.ends),
            Some("") => self.slash.as_ref().and_then(|child| child.search(place + 1, path, search)),
            Some(part) => self.search_below(part, place, path, search),
        };
        found.or_else(|| search.among(&self.below))
    }

    fn search_below<'a, 'p>(
        &'a self,
        part: &str,
        place: usize,
        path: &impl Fn(usize) -> Option<&'p str>,
        search: &mut Search<'a>,
    ) -> Option<&'a Rc<Rule>> {
        if let Some(child) = self.literals.get(part)
            && let Some(found) = child.search(place + 1, path, search)
        {
            return Some(found);
        }
        let fitting = self.variables.iter().filter(|(variable, _)| variable.matches(part));
        for (_, child) in fitting {
            if let Some(found) = child.search(place + 1, path, search) {
                return Some(found);
            }
        }
        search.among(&self.rest)
    }

    /// The most specific rule that matches `path` and has the method, or else one that matches.
    fn matching(&self, path: &[&str], method: &Method) -> Option<Rc<Rule>> {
        let mut search = Search::new(method);
        let found = self.search(0, &|place| path.get(place).copied(), &mut search);
        found.or(search.other).cloned()
    }
}

/// Looks for a rule with a method, and remembers what else there is.
struct Search<'a> {
    method: &'a Method,
    other: Option<&'a Rc<Rule>>,
    allowed: Vec<Method>,
}

impl<'a> Search<'a> {
    fn new(method: &'a Method) -> Self {
        Search { method, other: None, allowed: Vec::new() }
    }

    fn among(&mut self, rules: &'a [Rc<Rule>]) -> Option<&'a Rc<Rule>> {
        let implied = |rule: &&Rc<Rule>| *self.method == Method::HEAD && rule.has(&Method::GET);
        let found = rules.iter().find(|rule| rule.has(self.method)).or_else(|| rules.iter().find(implied));
        if found.is_none()
            && let Some(first) = rules.first()
        {
            self.other.get_or_insert(first);
            self.allowed.extend(rules.iter().flat_map(|rule| rule.methods.borrow().clone()));
        }
        found
    }
}

/// The methods that these bring with them, in the order of the alphabet.
fn with_implied(mut methods: Vec<Method>) -> Vec<Method> {
    if methods.contains(&Method::GET) {
        methods.push(Method::HEAD);
    }
    methods.push(Method::OPTIONS);
    methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    methods.dedup();
    methods
}
