//! Serves the metrics of this process at http://localhost:8000/metrics.

use dosimeter::web::{Branch, Site};
use dosimeter::{MetricsResource, Reactor};

fn main() -> dosimeter::Result<()> {
    let reactor = Reactor::new()?;
    let root = Branch::new();
    root.put_child("metrics", MetricsResource::new());
    reactor.listen_tcp(8000, Site::new(root))?;
    reactor.run()
}
