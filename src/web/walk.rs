//! The walk of a request along the tree: how far it has come on its path, and what the way is called.
//!
//! Rule kept here: the names of a way come from a closed set. What a client makes up is never one of them.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use crate::web::exchange::Exchange;
use crate::web::metrics::{HttpFigures, Route, WILDCARD};

/// The last step into a child or a pattern that was taken: the routes before and behind it. A branch has many children, a
/// router many patterns, and nearly always it stands in one place.
#[derive(Default)]
pub(crate) struct KnownStep(RefCell<Option<(Rc<Route>, Rc<Route>)>>);

impl KnownStep {
    fn follow(&self, parent: &Rc<Route>, find: impl FnOnce() -> Rc<Route>) -> Rc<Route> {
        let mut known = self.0.borrow_mut();
        match &*known {
            Some((before, behind)) if Rc::ptr_eq(before, parent) => behind.clone(),
            _ => known.insert((parent.clone(), find())).1.clone(),
        }
    }
}

impl Exchange {
    /// The next segment on the way to the resource.
    pub(crate) fn next_segment(&self) -> Option<&str> {
        if self.path.garbled {
            return None;
        }
        let segment = self.path.segments.get(self.path.cursor.get())?;
        Some(&self.path.text[segment.clone()])
    }

    /// Whether nothing can have the name that is asked for.
    pub(crate) fn is_garbled(&self) -> bool {
        self.path.garbled
    }

    pub(crate) fn use_segments(&self, count: usize) {
        self.path.cursor.set(self.path.cursor.get().saturating_add(count).min(self.path.segments.len()));
    }

    pub(crate) fn prepath(&self) -> impl Iterator<Item = &str> {
        self.path.segments(..self.path.cursor.get())
    }

    pub(crate) fn postpath(&self) -> impl Iterator<Item = &str> {
        self.path.segments(self.path.cursor.get()..)
    }

    /// The walk went one segment down. A child that was not put there by name has no name of its own among the routes.
    pub(crate) fn descend(&self) {
        self.use_segments(1);
        if !self.entered.replace(false) {
            self.go_on_to(|figures, parent| figures.child(parent, WILDCARD));
        }
    }

    /// The way to the resource led on to `name`, which comes from a closed set: a child that was put, a pattern.
    pub(crate) fn enter_route(&self, known: &KnownStep, name: &str) {
        if self.go_on_to(|figures, parent| known.follow(parent, || figures.child(parent, name))) {
            self.entered.set(true);
        }
    }

    /// The way led nowhere.
    pub(crate) fn leave_routes(&self) {
        let figures = self.channel().figures();
        figures.route_entered(figures.unmatched());
        self.route.replace(Some(figures.unmatched().clone()));
    }

    /// The way led to the pattern of a router. What a resource makes up below that has no name of its own.
    pub(crate) fn enter_pattern<'a>(&self, known: &KnownStep, pattern: impl FnOnce() -> &'a str) {
        self.go_on_to(|figures, parent| known.follow(parent, || figures.child(parent, pattern())));
    }

    /// Goes to the route that `find` finds behind that of now, if the request has one.
    #[inline]
    fn go_on_to(&self, find: impl FnOnce(&HttpFigures, &Rc<Route>) -> Rc<Route>) -> bool {
        let mut route = self.route.borrow_mut();
        let Some(parent) = &*route else { return false };
        let figures = self.channel().figures();
        let next = find(figures, parent);
        figures.route_entered(&next);
        *route = Some(next);
        true
    }

    /// The segment `place` behind the next one.
    pub(crate) fn segment_ahead(&self, place: usize) -> Option<&str> {
        let segment = self.path.segments.get(self.path.cursor.get() + place)?;
        Some(&self.path.text[segment.clone()])
    }

    /// Gives the part `range` of the segment `place` behind the next one a name.
    pub(crate) fn add_param(&self, name: &Rc<str>, place: usize, range: Range<usize>) {
        let start = self.path.segments[self.path.cursor.get() + place].start;
        self.params.borrow_mut().push((name.clone(), start + range.start..start + range.end));
    }

    /// Gives everything from the segment `place` behind the next one a name.
    pub(crate) fn add_rest_param(&self, name: &Rc<str>, place: usize) {
        let start = self.path.segments[self.path.cursor.get() + place].start;
        self.params.borrow_mut().push((name.clone(), start..self.path.text.len()));
    }

    /// What is called `name`; the pattern nearest to the resource counts.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        let range = self.params.borrow().iter().rev().find(|(known, _)| &**known == name)?.1.clone();
        Some(&self.path.text[range])
    }

    /// From here on whoever finds no route fails with it.
    pub(crate) fn want_routing_errors(&self) {
        self.routing_errors_wanted.set(true);
    }

    /// Counts that the request is handed on, and returns how often it was before.
    pub(crate) fn delegate(&self) -> usize {
        self.delegations.replace(self.delegations.get() + 1)
    }

    pub(crate) fn wants_routing_errors(&self) -> bool {
        self.routing_errors_wanted.get()
    }
}
