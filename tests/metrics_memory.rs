//! What large pages take in memory: one page, however many scrapers are slow to read it.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use dosimeter::MetricsResource;
use dosimeter::prometheus::{IntGaugeVec, Opts, Registry};
use support::Server;

#[test]
fn scrapers_that_do_not_read_share_one_page_in_memory() {
    let registry = Registry::new();
    let wide = IntGaugeVec::new(Opts::new("wide", "x"), &["at"]).unwrap();
    registry.register(Box::new(wide.clone())).unwrap();
    for at in 0..100_000 {
        wide.with_label_values(&[&format!("{at:0>80}")]).set(at);
    }
    let server = Server::new(MetricsResource::with_registry(registry));
    let length = server.get("/").body.len();
    assert!(length > 8_000_000, "{length}");
    let before = LIVE.load(Relaxed);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = server.connect();
            client.send_request("GET", "/");
            client
        })
        .collect();
    server.until_true("all have begun", || server.in_progress() == 20.0);
    let taken = || LIVE.load(Relaxed).saturating_sub(before);
    server.until_true("the page is there", || taken() > length);
    server.until_true("what was gathered is gone, and no copies have come", || {
        server.until_quiet();
        taken() < 3 * length / 2
    });
    assert!(clients.into_iter().all(|mut client| client.reply().body.len() == length));
}

/// Bytes allocated and not freed, by all threads.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
