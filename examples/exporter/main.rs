//! An exporter: tells Prometheus how a Linux host is, as far as `/proc` knows. `cargo run --example exporter -- --help`.
//!
//! Rules kept here, those of everybody who writes one:
//! - What is told is read when it is asked for, in the thread pool, and made into metrics of that scrape: nothing is remembered,
//!   so nothing can be stale, and what is gone is gone from the page.
//! - What cannot be read costs its own figures. `host_collector_up` says which part that was; the scrape succeeds.
//! - A part that hangs is given up after a while and left alone until it comes back.

mod collect;
mod options;
mod proc;

use std::process::ExitCode;

use collect::PARTS;
use dosimeter::exposition::{Landing, ProcessCollector};
use dosimeter::prometheus::Registry;
use dosimeter::web::{Branch, Site};
use dosimeter::{MetricsResource, Reactor, Result};
use options::{HELP, Options, Wish};

fn main() -> ExitCode {
    let outcome = match options::parse(std::env::args().skip(1), &PARTS.map(|part| part.name)) {
        Ok(Wish::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(Wish::Version) => {
            println!("exporter {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Wish::Serve(options)) => serve(&options),
        Err(error) => {
            eprintln!("exporter: {error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    if let Err(failure) = outcome {
        eprintln!("exporter: {failure}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn serve(options: &Options) -> Result<()> {
    // Of its own, so that what is on the page is what is put there.
    let registry = Registry::new();
    for part in PARTS.iter().filter(|part| !options.without.iter().any(|name| name == part.name)) {
        registry.register(Box::new(part.collector(&options.proc)?))?;
    }
    registry.register(Box::new(ProcessCollector::new()))?;
    let reactor = Reactor::builder().metrics(registry.clone()).build()?;
    let root = Branch::new();
    root.put_child("metrics", MetricsResource::with_registry(registry));
    let landing = Landing::new("Host exporter", env!("CARGO_PKG_VERSION"))
        .about("Load, memory, disks and pressure of this host.");
    root.put_child("", landing.link("metrics", "Metrics"));
    let port = reactor.listen_tcp(options.listen.as_str(), Site::new(root))?;
    println!("http://{}/metrics", port.local_addr());
    reactor.run()
}
