//! Serves the families of the golden files, for scrapers that are not ours: `golden_server PORT`.
//!
//! What it says is what `tests/golden` shows, so that whoever reads its pages can be asked whether it got just that. Only the
//! family with timestamps is left out: a Prometheus drops samples from years ago, and counts that as trouble. One more family
//! makes the pages as large as those that are compressed and sent piece by piece.

use dosimeter::prometheus::Registry;
use dosimeter::prometheus::core::{Collector, Desc};
use dosimeter::prometheus::proto::{MetricFamily, MetricType};
use dosimeter::web::{Branch, Site};
use dosimeter::{MetricsResource, Reactor};

#[path = "../support/families.rs"]
mod families;

struct Golden(Desc);

impl Collector for Golden {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let golden = families::golden().into_iter().filter(|family| family.name() != "seen");
        golden.chain([many()]).collect()
    }
}

/// Each has its number as its value.
fn many() -> MetricFamily {
    let metric = |number: u32| families::gauge(families::labels(&[("number", &number.to_string())]), number.into());
    families::family("many", "Numbers.", MetricType::GAUGE, (0..MANY).map(metric).collect())
}

fn main() -> dosimeter::Result<()> {
    let port: u16 = std::env::args().nth(1).ok_or("which port?")?.parse()?;
    let registry = Registry::new();
    let of_all = Desc::new("golden".into(), "stands for all of them".into(), vec![], Default::default())?;
    registry.register(Box::new(Golden(of_all)))?;

    let reactor = Reactor::new()?;
    let root = Branch::new();
    root.put_child("metrics", MetricsResource::with_registry(registry.clone()));
    #[cfg(feature = "gzip")]
    root.put_child("compressed", MetricsResource::with_registry(registry).with_gzip());
    root.put_child("own", MetricsResource::new());
    reactor.listen_tcp(format!("127.0.0.1:{port}"), Site::new(root))?;
    reactor.run()
}

/// Enough for more than one piece of a page.
const MANY: u32 = 4000;
