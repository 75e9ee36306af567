//! How figures get from a reactor into its registry.
//!
//! Rules kept here:
//! - What is published is published for as long as the reactor is there, and taken back when it is gone.
//! - Series of two reactors are never one: the first without a name has no label, each further one a number.
//! - Figures that cannot be published are not forgotten silently.

use std::sync::Arc;

use prometheus::Registry;

use super::Reactor;
use super::metrics::{Figures, Publication};

/// Unnamed reactors that may publish to one registry at the same time; more is a leak of reactors.
const MOST_UNNAMED: usize = 1000;

impl Reactor {
    /// Where its figures are published.
    pub(crate) fn registry(&self) -> Option<Registry> {
        self.0.registry.clone()
    }

    /// Publishes figures with the reactor's own, for as long as the reactor lives.
    pub(crate) fn publish<F: Figures>(&self, figures: Arc<F>) {
        if let Some(publish) = self.publisher(figures) {
            self.keep(publish());
        }
    }

    /// What publishes these figures, in any thread: a registry that gathers makes whoever registers wait. What it returns is
    /// to be [kept](Reactor::keep). None when nothing is published.
    pub(crate) fn publisher<F: Figures>(
        &self,
        figures: Arc<F>,
    ) -> Option<impl FnOnce() -> prometheus::Result<Publication> + Send + use<F>> {
        let (registry, label) = (self.0.registry.clone()?, self.0.label.borrow().clone());
        Some(move || Publication::new(&registry, label, figures))
    }

    /// Keeps figures published for as long as the reactor is there.
    pub(crate) fn keep(&self, publication: prometheus::Result<Publication>) {
        match publication {
            Ok(publication) => self.0.publications.borrow_mut().push(publication),
            Err(error) => self.warn_unpublished(&error),
        }
    }

    /// Publishes the reactor's own figures, which settles its label: a second reactor without a name gets a number, or its
    /// series and those of the first would be one.
    pub(super) fn publish_first(&self) {
        let Some(registry) = &self.0.registry else { return };
        let mut outcome = Publication::new(registry, self.0.label.borrow().clone(), self.0.figures.clone());
        for number in 2..=MOST_UNNAMED {
            if !matches!(outcome, Err(prometheus::Error::AlreadyReg)) || !self.0.name.is_empty() {
                break;
            }
            self.0.label.replace(number.to_string().into());
            outcome = Publication::new(registry, self.0.label.borrow().clone(), self.0.figures.clone());
        }
        match outcome {
            Ok(publication) => self.0.publications.borrow_mut().push(publication),
            Err(error) => self.warn_unpublished(&error),
        }
    }

    fn warn_unpublished(&self, error: &prometheus::Error) {
        log::warn!(
            target: "dosimeter::metrics",
            "figures of reactor {:?} are not exported: {error}; give each reactor of a process a name of its own",
            self.0.name
        );
    }
}
