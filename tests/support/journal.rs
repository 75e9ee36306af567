//! A list of what happened, shared by the callbacks of a test.

use std::cell::RefCell;
use std::rc::Rc;

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Journal(Rc<RefCell<Vec<String>>>);

#[allow(dead_code, reason = "each test program uses its part")]
impl Journal {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn note(&self, what: impl ToString) {
        self.0.borrow_mut().push(what.to_string());
    }

    /// What was noted since the last call.
    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }

    /// A closure that notes what it is called with and passes it on.
    pub fn noting<T: ToString>(&self, name: &str) -> impl FnOnce(T) -> dosimeter::Result<T> + 'static {
        let (journal, name) = (self.clone(), name.to_string());
        move |value: T| {
            journal.note(format!("{name} {}", value.to_string()));
            Ok(value)
        }
    }

    /// A closure that notes `name` when it is called.
    pub fn noting_unit(&self, name: &'static str) -> impl FnOnce(()) + 'static {
        let journal = self.clone();
        move |()| journal.note(name)
    }
}
