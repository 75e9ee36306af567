//! How the figures of a reactor get into its registry.
//!
//! Rules kept here:
//! - The registry is told once, when the reactor is made. It holds a lock while it gathers, and a collector of the program may
//!   keep it waiting for ever: a loop that registered something then would stand still. Figures that come later move into a
//!   place that was taken for them.
//! - What is published is published for as long as the reactor is there, and taken back when it is gone.
//! - Series of two reactors are never one: the first without a name has no label, each further one a number.
//! - Figures that cannot be published are not forgotten silently.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::metrics::{Families, Figures, LoopFigures, REACTOR_LABEL};

/// What a reactor has published.
pub(super) struct Publications {
    name: Arc<str>,
    /// The value of the label of all series; none if it is empty.
    label: Arc<str>,
    registry: Option<Registry>,
    /// Taken back when this is dropped.
    published: Vec<Publication>,
    rooms: Vec<Room>,
}

/// The place of figures that come later.
struct Room {
    names: &'static [&'static str],
    tenant: Arc<Tenant>,
    /// Why there is no place for it in the registry.
    refused: Option<prometheus::Error>,
}

impl Publications {
    /// Publishes the figures of a reactor, which settles its label: a second reactor without a name gets a number, or its
    /// series and those of the first would be one.
    pub(super) fn new(registry: Option<Registry>, name: Arc<str>, figures: &Arc<LoopFigures>) -> Self {
        let label = name.clone();
        let mut publications = Publications { name, label, registry, published: Vec::new(), rooms: Vec::new() };
        if let Some(registry) = publications.registry.clone() {
            publications.publish_first(&registry, figures);
            publications.rooms = ROOMS.map(|names| publications.take_room(&registry, names)).into();
        }
        publications
    }

    /// Publishes the figures of the reactor itself, which finds the label that all of them have.
    fn publish_first(&mut self, registry: &Registry, figures: &Arc<LoopFigures>) {
        let descs = families(&**figures, &self.label);
        let descs = || descs.iter().map(|family| (family.name(), family.help()));
        let mut outcome = Publication::new(registry, &self.label, descs(), figures.clone());
        for number in 2..=MOST_UNNAMED {
            if !matches!(outcome, Err(prometheus::Error::AlreadyReg)) || !self.name.is_empty() {
                break;
            }
            self.label = number.to_string().into();
            outcome = Publication::new(registry, &self.label, descs(), figures.clone());
        }
        match outcome {
            Ok(publication) => self.published.push(publication),
            Err(error) => self.warn(&error),
        }
    }

    fn take_room(&mut self, registry: &Registry, names: &'static [&'static str]) -> Room {
        let tenant = Arc::new(Tenant(OnceLock::new()));
        let descs = names.iter().map(|name| (*name, PLACE));
        let outcome = Publication::new(registry, &self.label, descs, tenant.clone());
        let refused = outcome.map(|publication| self.published.push(publication)).err();
        Room { names, tenant, refused }
    }

    pub(super) fn label(&self) -> &Arc<str> {
        &self.label
    }

    pub(super) fn registry(&self) -> Option<Registry> {
        self.registry.clone()
    }

    /// Publishes figures in the place that has the names of their families, once; further ones are not.
    pub(super) fn publish(&self, figures: Arc<dyn Figures>) {
        let families = families(&*figures, &self.name);
        let names = || families.iter().map(MetricFamily::name);
        let Some(room) = self.rooms.iter().find(|room| room.names.iter().copied().eq(names())) else {
            debug_assert!(self.rooms.is_empty(), "no place is kept for {:?}", names().collect::<Vec<_>>());
            return;
        };
        if room.tenant.0.set(figures).is_ok()
            && let Some(error) = &room.refused
        {
            self.warn(error);
        }
    }

    fn warn(&self, error: &prometheus::Error) {
        log::warn!(
            target: "dosimeter::metrics",
            "figures of reactor {:?} are not exported: {error}; give each reactor of a process a name of its own, and no \
             metric of the program the name of a built-in one",
            self.name
        );
    }
}

/// Figures that come later, when they are there.
struct Tenant(OnceLock<Arc<dyn Figures>>);

impl Figures for Tenant {
    fn tell(&self, families: &mut Families) {
        if let Some(figures) = self.0.get() {
            figures.tell(families);
        }
    }
}

/// A group of figures under the name of its reactor, as `prometheus` collects it.
#[derive(Clone)]
struct Publisher {
    figures: Arc<dyn Figures>,
    reactor: Arc<str>,
    descs: Vec<Desc>,
}

impl Collector for Publisher {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&*self.figures, &self.reactor)
    }
}

fn families(figures: &dyn Figures, reactor: &Arc<str>) -> Vec<MetricFamily> {
    let mut families = Families::of(reactor);
    figures.tell(&mut families);
    families.into_vec()
}

/// Figures in a registry; taken out again when this is dropped.
struct Publication(Registry, Publisher);

impl Publication {
    /// # Errors
    /// Those of `prometheus`: above all, that a family of this name and reactor is there already.
    fn new<'a>(
        registry: &Registry,
        reactor: &Arc<str>,
        descs: impl Iterator<Item = (&'a str, &'a str)>,
        figures: Arc<dyn Figures>,
    ) -> prometheus::Result<Self> {
        let label = HashMap::from([(REACTOR_LABEL.to_owned(), reactor.to_string())]);
        let descs = descs.map(|(name, help)| Desc::new(name.to_owned(), help.to_owned(), Vec::new(), label.clone()));
        let descs = descs.collect::<prometheus::Result<_>>()?;
        let publisher = Publisher { figures, reactor: reactor.clone(), descs };
        registry.register(Box::new(publisher.clone()))?;
        Ok(Publication(registry.clone(), publisher))
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        // It may be gone already when the owner of the registry cleared it; then there is nothing to take out.
        let _ = self.0.unregister(Box::new(self.1.clone()));
    }
}

/// What floors above will publish, by the names of its families: what HTTP servers count, and what pages of metrics cost. Only
/// names, and here, because they are taken when a reactor is made: it must not depend on who comes first whether a metric of
/// the program may have one of them.
const ROOMS: [&[&str]; 2] = [
    &[
        "http_server_connections",
        "http_server_connections_accepted_total",
        "http_server_connections_closed_total",
        "http_server_connections_rejected_total",
        "http_server_write_buffered_bytes",
        "http_server_connections_paused",
        "http_server_requests_in_progress",
        "http_server_requests_aborted_total",
        "http_server_requests_total",
        "http_server_request_duration_seconds",
        "http_server_bad_requests_total",
    ],
    &["metrics_render_duration_seconds", "metrics_render_bytes", "metrics_series", "metrics_render_errors_total"],
];

/// Unnamed reactors that may publish to one registry at the same time; more is a leak of reactors.
const MOST_UNNAMED: usize = 1000;

/// `prometheus` wants a help text of everything that is registered. Who gathers is told the real one.
const PLACE: &str = "The place of figures that a reactor has when they are first needed.";
