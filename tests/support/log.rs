//! What the thread that asks writes to the log.

use std::cell::RefCell;
use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Capture;

impl Log for Capture {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // How busy the machine is is none of the test's business.
        if record.target() == "dosimeter::stalls" {
            return;
        }
        LINES.with_borrow_mut(|lines| lines.push(format!("{} {}", record.level(), record.args())));
    }

    fn flush(&self) {}
}

/// Runs `body` and gives what it wrote to the log, `LEVEL text` each.
pub fn logged(body: impl FnOnce()) -> Vec<String> {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        log::set_logger(&Capture).expect("the only logger of this program");
        log::set_max_level(LevelFilter::Warn);
    });
    LINES.take();
    body();
    LINES.take()
}

/// Writes a line of the test's own in between.
#[allow(dead_code, reason = "each test program uses its part")]
pub fn note(line: String) {
    LINES.with_borrow_mut(|lines| lines.push(line));
}
