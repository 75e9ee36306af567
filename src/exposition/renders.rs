//! The pages of metrics that are being made, each for all who want the same.
//!
//! Rules kept here:
//! - Gathering and encoding run in the thread pool: a scrape of a large registry takes long, and the loop serves everybody
//!   else meanwhile. They give way to it where there is no processor for each: at equal priority the scheduler moves the loop
//!   to the processor of its clients, for as long as a page is made.
//! - Who asks for a page that is being made waits for that one. A thousand scrapers cost one gathering, and a collector that
//!   never returns costs a thread of the pool, and the one that gathers, for each kind of page, up to [`MAX_RENDERS`], not for
//!   each scrape.
//! - Nothing here waits for the lock of a registry on the loop.
//! - Nor is a large page freed on the loop: an allocator may use the moment to give everything back that gathering has left, which was
//!   seen to take 2 ms after a page of 4 MB.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use prometheus::Registry;

use crate::deferred::{Completer, Deferred};
use crate::exposition::gather::{Gathered, Page, Wish, make_page};
use crate::failure::{Failure, Result};
use crate::instrument::Stopwatch;
use crate::reactor::metrics::{Count, Families, Figures, Level};
use crate::reactor::threads::give_way;
use crate::reactor::{Reactor, WeakReactor};

/// The pages that a reactor makes at present, and who waits for them.
pub(super) struct Renders {
    /// In the order asked for, each kind once.
    renders: RefCell<Vec<Rendering>>,
    figures: Arc<RenderFigures>,
}

/// A page being made, or waiting until it can be.
struct Rendering {
    kind: Kind,
    is_running: bool,
    /// None is a page that could not be made, which the log tells.
    waiting: Vec<Completer<Option<Rc<SharedPage>>>>,
}

/// A page on the loop, for all who read it.
pub(super) struct SharedPage {
    page: Page,
    reactor: WeakReactor,
}

impl Deref for SharedPage {
    type Target = Page;

    fn deref(&self) -> &Page {
        &self.page
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        if self.page.bytes.len() >= LARGE
            && let Some(reactor) = self.reactor.upgrade()
        {
            reactor.drop_in_thread(std::mem::take(&mut self.page.bytes));
        }
    }
}

/// What a page is made of: equal kinds at one time are one page.
#[derive(Clone, PartialEq)]
pub(super) struct Kind {
    pub(super) source: Source,
    pub(super) wish: Wish,
}

/// Where metrics come from. `prometheus::Registry` cannot be compared, so two are one only if they are clones.
#[derive(Debug, Clone)]
pub(super) struct Source(Arc<[Registry]>);

impl Source {
    pub(super) fn default_registry() -> Self {
        static DEFAULT: LazyLock<Source> = LazyLock::new(|| Source::new([prometheus::default_registry().clone()]));
        DEFAULT.clone()
    }

    pub(super) fn new(registries: impl IntoIterator<Item = Registry>) -> Self {
        Source(registries.into_iter().collect())
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Renders {
    /// Those of `reactor`.
    pub(super) fn of(reactor: &Reactor) -> Rc<Self> {
        reactor.local(|| {
            let figures = Arc::<RenderFigures>::default();
            reactor.publish(figures.clone());
            Renders { renders: RefCell::default(), figures }
        })
    }

    /// The page of this kind that is being made, or else a new one.
    pub(super) fn page(self: Rc<Self>, kind: Kind, reactor: &Reactor) -> Deferred<Option<Rc<SharedPage>>> {
        let (completer, page) = Deferred::pair();
        self.drop_unwanted();
        self.join(kind, completer);
        self.start(reactor);
        page
    }

    /// Drops what has not begun and nobody waits for any more.
    fn drop_unwanted(&self) {
        let is_unwanted = |render: &mut Rendering| {
            let mut waiting = render.waiting.iter();
            !render.is_running && waiting.all(Completer::is_cancelled)
        };
        // Collected, so that they are dropped when the cell is free again: the last handle of a registry drops user code.
        let _unwanted: Vec<Rendering> = self.renders.borrow_mut().extract_if(.., is_unwanted).collect();
    }

    fn join(&self, kind: Kind, completer: Completer<Option<Rc<SharedPage>>>) {
        let mut renders = self.renders.borrow_mut();
        if let Some(render) = renders.iter_mut().find(|render| render.kind == kind) {
            // Or those that gave up on a page that is never finished would grow in number. Not at every one, or a thousand
            // scrapers would be a million looks.
            if render.waiting.len().is_power_of_two() {
                render.waiting.retain(|completer| !completer.is_cancelled());
            }
            return render.waiting.push(completer);
        }
        renders.push(Rendering { kind, is_running: false, waiting: vec![completer] });
    }

    /// Starts what may run.
    fn start(self: &Rc<Self>, reactor: &Reactor) {
        while let Some(kind) = self.next() {
            let (renders, made, reactor_then) = (self.clone(), kind.clone(), reactor.downgrade());
            reactor.defer_to_thread(move || Ok(Done::job(&kind))).add_both(move |done| {
                renders.finish(&made, done, &reactor_then);
                // Not from here: a pool that takes no more jobs fails them at once, each inside the one before.
                if let Some(reactor) = reactor_then.upgrade() {
                    reactor.call_soon(move || renders.start_in(&reactor_then));
                }
            });
        }
    }

    fn start_in(self: &Rc<Self>, reactor: &WeakReactor) {
        if let Some(reactor) = reactor.upgrade() {
            self.start(&reactor);
        }
    }

    /// What to make next; it counts as running from now.
    fn next(&self) -> Option<Kind> {
        let mut renders = self.renders.borrow_mut();
        if renders.iter().filter(|render| render.is_running).count() >= MAX_RENDERS {
            return None;
        }
        let next = renders.iter_mut().find(|render| !render.is_running)?;
        next.is_running = true;
        Some(next.kind.clone())
    }

    /// Gives the page to all who wait for it.
    fn finish(&self, kind: &Kind, done: Result<Done>, reactor: &WeakReactor) {
        let done = done.unwrap_or_else(Done::nothing);
        for trouble in &done.gathered.troubles {
            log::error!(target: LOG, "{trouble}");
        }
        self.figures.note(&done);
        let page = done.gathered.page.map(|page| Rc::new(SharedPage { page, reactor: reactor.clone() }));
        let at = self.renders.borrow().iter().position(|render| render.kind == *kind);
        let render = at.map(|at| self.renders.borrow_mut().remove(at));
        for completer in render.into_iter().flat_map(|render| render.waiting) {
            completer.callback(page.clone());
        }
    }
}

/// What a job in the pool comes back with.
struct Done {
    gathered: Gathered,
    seconds: f64,
}

impl Done {
    fn job(kind: &Kind) -> Self {
        let watch = Stopwatch::start();
        let gathered = give_way("metrics-page", || make_page(&kind.source.0, &kind.wish));
        Done { gathered, seconds: watch.seconds() }
    }

    /// The pool has not done the job.
    fn nothing(failure: Failure) -> Self {
        let troubles = vec![format!("metrics could not be collected: {}", failure.report())];
        Done { gathered: Gathered { missing: 1, troubles, ..Gathered::default() }, seconds: 0.0 }
    }
}

/// What the pages that a reactor serves cost; about the last one.
#[derive(Default)]
struct RenderFigures {
    micros: Level,
    bytes: Level,
    series: Level,
    failures: Count,
}

impl RenderFigures {
    fn note(&self, done: &Done) {
        self.failures.add(done.gathered.missing);
        if let Some(page) = &done.gathered.page {
            self.micros.set((done.seconds * 1e6) as u64);
            self.bytes.set(page.bytes.len() as u64);
            self.series.set(page.series);
        }
    }
}

impl Figures for RenderFigures {
    fn tell(&self, to: &mut Families) {
        let help = "How long the last page of metrics took to gather and encode, in the thread pool.";
        to.gauge("metrics_render_duration_seconds", help, self.micros.get() as f64 / 1e6);
        to.gauge("metrics_render_bytes", "Size of the last page of metrics, as sent.", self.bytes.get() as f64);
        let help = "Metrics on the last page, a histogram counted as one.";
        to.gauge("metrics_series", help, self.series.get() as f64);
        let help = "Gatherings of a registry that failed, so that its families were left out.";
        to.counter("metrics_render_errors_total", help, self.failures.get() as f64);
    }
}

const LOG: &str = "dosimeter::metrics";

/// Pages made at the same time, further ones wait: of the ten threads of a pool most are left to the program, also when
/// collectors are stuck.
const MAX_RENDERS: usize = 4;

/// Bytes of a page, from which it is freed in the pool: a smaller one is not worth a job.
const LARGE: usize = 64 * 1024;
