//! What large pages take in memory: one page, however many scrapers are slow to read it; and who frees it.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use dosimeter::MetricsResource;
use dosimeter::prometheus::{IntGaugeVec, Opts, Registry};
use support::Server;

#[test]
fn scrapers_that_do_not_read_share_one_page_in_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::new(MetricsResource::with_registry(large_registry()));
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

/// To free megabytes takes an allocator milliseconds, now and then.
#[test]
fn a_page_is_not_freed_on_the_loop() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::new(MetricsResource::with_registry(large_registry()));
    let length = server.get("/").body.len();
    server.until_quiet();
    PAGE.store(length, Relaxed);
    IS_LOOP.set(true);
    // The client is in the thread of the loop as well, and frees what it got: so it gets the head alone.
    let reply = server.ask("HEAD", "/");
    assert_eq!(reply.header("content-length"), Some(length.to_string().as_str()));
    server.until_true("it is freed", || FREED.load(Relaxed) + FREED_BY_LOOP.load(Relaxed) > 0);
    assert_eq!((FREED.load(Relaxed), FREED_BY_LOOP.load(Relaxed)), (1, 0));
}

fn large_registry() -> Registry {
    let registry = Registry::new();
    let wide = IntGaugeVec::new(Opts::new("wide", "x"), &["at"]).unwrap();
    registry.register(Box::new(wide.clone())).unwrap();
    for at in 0..100_000 {
        wide.with_label_values(&[&format!("{at:0>80}")]).set(at);
    }
    registry
}

/// Bytes allocated and not freed, by all threads.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// The size of a page, and how many blocks of that size were freed: by others, and by the loop.
static PAGE: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);
static FREED_BY_LOOP: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IS_LOOP: Cell<bool> = const { Cell::new(false) };
}

/// What one test allocates is not to be in the figures of another.
static ALONE: Mutex<()> = Mutex::new(());

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        if layout.size() == PAGE.load(Relaxed) {
            if IS_LOOP.get() { &FREED_BY_LOOP } else { &FREED }.fetch_add(1, Relaxed);
        }
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
