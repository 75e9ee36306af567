//! [`Capped`]: labels whose values come from outside, in bounds.
//!
//! Rules kept here:
//! - What a peer makes up can add a fixed number of series and no more.
//! - Two sets of values are never counted as one. `prometheus` finds a series by a hash of its values written together, so for
//!   it `["ab", "c"]` and `["a", "bc"]` are the same.
//! - The lock is held for a look, never while anything else runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc, MetricVec, MetricVecBuilder};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, Opts};

/// A metric with labels that has at most so many series; whatever comes beyond is counted under `other`.
///
/// For values that are not the program's own: users, tenants, hosts. Without a cap whoever sends enough of them fills the
/// memory, here and in Prometheus. When there are as many series as there may be, further values fold into the one series
/// whose values are all `other`, and `metrics_label_overflow_total{metric="..."}` counts how often. So do values that
/// `prometheus` could not tell from others: it takes `["ab", "c"]` for `["a", "bc"]`.
///
/// A cheap handle, and a collector: register a clone of it instead of the metric. In a static it is a
/// `Capped<IntCounterVec>`, as in the example `klein_counter`.
///
/// ```
/// use dosimeter::Capped;
/// use dosimeter::prometheus::{IntCounterVec, Opts, Registry};
///
/// let logins = IntCounterVec::new(Opts::new("logins_total", "logins by tenant"), &["tenant"])?;
/// let logins = Capped::new(logins, 2)?;
/// let registry = Registry::new();
/// registry.register(Box::new(logins.clone()))?;
///
/// for tenant in ["acme", "globex", "initech", "acme", "umbrella"] {
///     logins.with_label_values(&[tenant]).inc();
/// }
/// assert_eq!(logins.with_label_values(&["acme"]).get(), 2);
/// assert_eq!(logins.with_label_values(&["other"]).get(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "cardinality")]
#[derive(Clone)]
pub struct Capped<V> {
    vec: V,
    overflow: IntCounter,
    /// How many labels there are.
    width: usize,
    cap: usize,
    known: Arc<Mutex<Known>>,
}

/// The values in use, written together, and where each of them ends.
type Known = HashMap<String, Box<[usize]>>;

impl<B: MetricVecBuilder> Capped<MetricVec<B>> {
    /// This metric with at most `cap` series, and `other`.
    ///
    /// # Errors
    /// Those of `prometheus` about the counter of what came beyond; there are none for a metric that could be made.
    pub fn new(vec: MetricVec<B>, cap: usize) -> prometheus::Result<Self> {
        let (name, width) = match vec.desc().first() {
            Some(desc) => (desc.fq_name.clone(), desc.variable_labels.len()),
            None => return Err(prometheus::Error::Msg("a metric without a description".to_owned())),
        };
        let help = "Values of labels that were counted as `other` because there were too many.";
        let opts = Opts::new("metrics_label_overflow_total", help).const_label("metric", name);
        Ok(Capped { vec, overflow: IntCounter::with_opts(opts)?, width, cap, known: Arc::default() })
    }

    /// The metric with these values, or `other`.
    ///
    /// # Panics
    /// When there are not as many values as labels, as in `prometheus`.
    #[track_caller]
    pub fn with_label_values(&self, values: &[&str]) -> B::M {
        let width = self.width;
        assert!(values.len() == width, "{} values for {width} labels", values.len());
        if self.admits(values) {
            return self.vec.with_label_values(values);
        }
        self.overflow.inc();
        self.vec.with_label_values(&vec![OTHER; width])
    }

    /// Whether these values have a series of their own, or get one now.
    fn admits(&self, values: &[&str]) -> bool {
        let ends = values.iter().scan(0, |end, value| {
            *end += value.len();
            Some(*end)
        });
        // What a user calls `other` is in good company there; it takes no place from anybody.
        if values.iter().all(|value| *value == OTHER) {
            return true;
        }
        let text = values.concat();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&text) {
            return known.iter().copied().eq(ends);
        }
        let is_free = known.len() < self.cap && text != OTHER.repeat(self.width);
        if is_free {
            known.insert(text, ends.collect());
        }
        is_free
    }
}

impl<B: MetricVecBuilder> Collector for Capped<MetricVec<B>> {
    fn desc(&self) -> Vec<&Desc> {
        [self.vec.desc(), self.overflow.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        [self.vec.collect(), self.overflow.collect()].concat()
    }
}

impl<V> fmt::Debug for Capped<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capped").field("cap", &self.cap).finish_non_exhaustive()
    }
}

/// The value of what is beyond the cap.
const OTHER: &str = "other";
