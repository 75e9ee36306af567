//! [`Branch`]: a resource that is nothing but its children.
//!
//! Rules kept here:
//! - A child has one decoded segment for a name; the last one put under a name wins.
//! - No user code runs while a cell here is borrowed: a child may change the tree when it is asked, and when it is dropped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::web::request::Request;
use crate::web::resource::{Render, Resource, accepts_stream, not_found};
use crate::web::walk::KnownStep;

/// A resource that is nothing but its children.
///
/// A cheap handle: a clone is the same branch.
///
/// ```
/// use dosimeter::web::{Branch, Site};
///
/// let root = Branch::new();
/// root.put_child("api", Branch::new());
/// let site = Site::new(root);
/// ```
#[derive(Clone, Default)]
pub struct Branch {
    children: Rc<Children>,
}

#[derive(Default)]
struct Children {
    /// The child called `""`, the one most asked for.
    index: RefCell<Option<Child>>,
    named: RefCell<BTreeMap<String, Child>>,
}

struct Child {
    resource: Rc<dyn Resource>,
    step: KnownStep,
}

impl Branch {
    /// A branch without children.
    pub fn new() -> Self {
        Branch::default()
    }

    /// Puts `resource` below this one, under one decoded segment of the path; the last one put under a name wins.
    ///
    /// The child called `""` is the branch itself when its URL ends in a slash: `put_child("", page)` on the root is what
    /// `/` answers. A name with a slash matches only an encoded one.
    #[doc(alias = "putChild")]
    pub fn put_child(&self, name: impl Into<String>, resource: impl Resource) {
        let (name, child) = (name.into(), Child { resource: Rc::new(resource), step: KnownStep::default() });
        // What was there before is dropped after the cell is free again: its drop is user code.
        let _before = match name.is_empty() {
            true => self.children.index.replace(Some(child)),
            false => self.children.named.borrow_mut().insert(name, child),
        };
    }

    /// Takes the child of this name away, and returns whether there was one. Requests that have it go on.
    ///
    /// ```
    /// use dosimeter::testing;
    /// use dosimeter::web::{Branch, Data};
    ///
    /// let root = Branch::new();
    /// root.put_child("news", Data::new("none", "text/plain"));
    /// assert!(root.remove_child("news"));
    /// assert_eq!(testing::get(root, "/news").status(), 404);
    /// ```
    #[doc(alias = "delEntity")]
    pub fn remove_child(&self, name: &str) -> bool {
        // Its drop is user code, and comes after the cell is free again.
        let removed = match name.is_empty() {
            true => self.children.index.take(),
            false => self.children.named.borrow_mut().remove(name),
        };
        removed.is_some()
    }
}

impl Children {
    /// Looks at the child of this name; not with user code.
    #[inline]
    fn find<R>(&self, name: &str, look: impl FnOnce(&Child) -> R) -> Option<R> {
        match name.is_empty() {
            true => self.index.borrow().as_ref().map(look),
            false => self.named.borrow().get(name).map(look),
        }
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.children.index.borrow().as_ref().map(|_| String::new());
        f.debug_set().entries(index.iter().chain(self.children.named.borrow().keys())).finish()
    }
}

impl Resource for Branch {
    fn child(&self, name: &str, request: &Request) -> Option<Rc<dyn Resource>> {
        self.children.find(name, |child| {
            request.exchange().enter_route(&child.step, name);
            child.resource.clone()
        })
    }

    #[inline]
    fn known_child(&self, name: &str) -> Option<Rc<dyn Resource>> {
        self.children.find(name, |child| child.resource.clone())
    }

    /// For who passes requests on to it: the walk along known names does not come here as long as there are some.
    fn accepts_stream(&self, request: &Request) -> bool {
        let Some(child) = request.exchange().next_segment().and_then(|name| self.known_child(name)) else {
            return false;
        };
        request.exchange().use_segments(1);
        accepts_stream(child, request)
    }

    fn render(&self, request: Request) -> Render {
        not_found(&request)
    }
}
