//! The one error that travels along every chain.

use std::error::Error;
use std::fmt;
use std::io;
use std::num::ParseIntError;
use std::process::Command;

use dosimeter::{Abandoned, Cancelled, Deferred, Failure, Metrics, Panicked, Reactor, Result};

/// An error with a source.
#[derive(Debug)]
struct Wrapper(ParseIntError);

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the setting is broken")
    }
}

impl Error for Wrapper {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

fn no_number() -> ParseIntError {
    "x".parse::<i32>().expect_err("no number")
}

#[test]
fn it_is_one_word_and_may_go_to_another_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<Failure>();
    assert_eq!(size_of::<Failure>(), size_of::<usize>());
    assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
}

#[test]
fn any_error_converts_and_so_does_a_text() {
    fn parse(text: &str) -> Result<i32> {
        if text.is_empty() {
            return Err("nothing to parse".into());
        }
        Ok(text.parse()?)
    }
    assert_eq!(parse("").expect_err("empty").to_string(), "nothing to parse");
    assert!(parse("x").expect_err("no number").is::<ParseIntError>());
    assert_eq!(Failure::from(String::from("a text")).to_string(), "a text");
}

#[test]
fn it_remembers_where_the_error_became_a_failure() {
    let line = line!() + 1;
    let failure = Failure::new(no_number());
    assert_eq!((failure.origin().file(), failure.origin().line()), (file!(), line));
    fn question_mark() -> Result<i32> {
        Ok("x".parse::<i32>()?)
    }
    assert_eq!(question_mark().expect_err("no number").origin().line(), line + 3);
}

#[test]
fn the_error_is_asked_for_by_its_type() {
    let failure = Failure::new(io::Error::from(io::ErrorKind::NotFound));
    assert!(failure.is::<io::Error>() && !failure.is::<ParseIntError>());
    assert_eq!(failure.downcast_ref::<io::Error>().expect("it is one").kind(), io::ErrorKind::NotFound);
    assert!(failure.downcast_ref::<ParseIntError>().is_none());
}

#[test]
fn find_looks_through_the_sources_as_well() {
    let failure = Failure::new(Wrapper(no_number()));
    assert!(failure.find::<Wrapper>().is_some());
    assert!(failure.find::<ParseIntError>().is_some());
    assert!(failure.find::<io::Error>().is_none());
}

#[test]
fn a_trap_gives_the_error_or_the_same_failure_back() {
    let failure = Failure::new(no_number());
    let (address, origin) = (std::ptr::from_ref(failure.error()).cast::<()>(), failure.origin());
    let failure = failure.trap::<io::Error>().expect_err("another type");
    assert!(std::ptr::eq(address, std::ptr::from_ref(failure.error()).cast::<()>()));
    assert!(std::ptr::eq(origin, failure.origin()));
    assert_eq!(failure.trap::<ParseIntError>().expect("this type"), no_number());
}

#[test]
fn the_very_error_comes_out_that_was_put_in() {
    let error: Box<dyn Error + Send + Sync> = Box::new(Wrapper(no_number()));
    let address = std::ptr::from_ref(&*error).cast::<()>();
    let failure = Failure::new(error);
    assert!(std::ptr::eq(address, std::ptr::from_ref(failure.error()).cast::<()>()));
    assert!(std::ptr::eq(address, std::ptr::from_ref(&*failure.into_error()).cast::<()>()));
}

#[test]
fn its_text_is_that_of_the_error_and_longer_forms_name_sources_and_origin() {
    let failure = Failure::new(Wrapper(no_number()));
    assert_eq!(failure.to_string(), "the setting is broken");
    assert_eq!(format!("{failure:#}"), "the setting is broken: invalid digit found in string");
    let report = failure.report();
    let mut lines = report.lines();
    assert_eq!(lines.next(), Some("the setting is broken"));
    assert_eq!(lines.next(), Some("  caused by: invalid digit found in string"));
    assert!(lines.next().expect("the origin").starts_with(&format!("  from: {}:", file!())));
    assert!(format!("{failure:?}").starts_with("the setting is broken\n  caused by: invalid digit"));
}

#[test]
fn a_source_that_its_error_has_told_is_not_told_again() {
    let taken = dosimeter::Reactor::builder().metrics(dosimeter::Metrics::Off).build().expect("a reactor");
    let error = taken.listen_tcp("127.0.0.1:x", |_: &dosimeter::net::Address| Deaf).expect_err("no port");
    let text = error.to_string();
    assert!(error.source().is_some_and(|source| text.ends_with(&source.to_string())), "{text}");
    let failure = Failure::new(error);
    assert_eq!(format!("{failure:#}"), text);
    assert!(failure.report().starts_with(&format!("{text}\n  from: ")), "{}", failure.report());
}

struct Deaf;

impl dosimeter::net::Protocol for Deaf {
    fn data_received(&mut self, _: &dosimeter::net::Transport, _: &[u8]) -> dosimeter::Result<()> {
        Ok(())
    }
}

#[test]
fn what_an_error_quotes_is_not_taken_for_a_line_of_the_log() {
    let failure = Failure::from("no such user: \"x\r\nERROR root logged in\u{1b}[2K\u{9b}\ttab\n\"");
    let report = failure.report();
    assert!(
        report.starts_with("no such user: \"x\\r\n  | ERROR root logged in\\u{1b}[2K\\u{9b}\ttab\n  | \"\n  from: "),
        "{report:?}"
    );
    assert_eq!(failure.to_string().lines().count(), 3, "the text itself is left as it is");
}

#[test]
fn a_report_survives_an_error_whose_text_panics() {
    #[derive(Debug)]
    struct Broken;
    impl fmt::Display for Broken {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("no text")
        }
    }
    impl Error for Broken {}
    assert!(Failure::new(Broken).report().starts_with("an error whose Display panics, from tests"));
}

#[test]
fn a_panic_is_a_failure_with_its_text() {
    for (failed, text) in [
        (Deferred::succeed(()).map(|()| panic!("a text")), "a text"),
        (Deferred::succeed(()).map(|()| panic!("a number: {}", 1)), "a number: 1"),
        (Deferred::succeed(()).map(|()| std::panic::panic_any(5)), "(not a text)"),
    ] {
        let failure = failed.into_result().expect("fired").expect_err("panicked");
        assert!(failure.is_panic());
        assert_eq!(failure.downcast_ref::<Panicked>().expect("a panic").message, text);
    }
    assert!(!Failure::from("no panic").is_panic());
}

#[test]
fn a_failure_made_in_a_worker_thread_arrives_whole() {
    let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor");
    let line = line!() + 1;
    let failed = reactor.defer_to_thread(|| -> Result<()> { Err(Failure::new(Wrapper(no_number()))) });
    let stop = reactor.clone();
    let failed = failed.add_both(move |result| {
        stop.stop().expect("it runs");
        result
    });
    reactor.run().expect("to the end");
    let failure = failed.into_result().expect("fired").expect_err("failed");
    assert!(failure.is::<Wrapper>() && failure.find::<ParseIntError>().is_some());
    assert_eq!(failure.origin().line(), line);
}

#[test]
fn the_errors_of_the_crate_have_texts() {
    let (completer, deferred) = Deferred::<()>::pair();
    drop(completer);
    let abandoned = deferred.into_result().expect("fired").expect_err("abandoned");
    assert!(abandoned.is::<Abandoned>());
    assert_eq!(abandoned.to_string(), "abandoned: the Completer was dropped without being fired");
    let (_completer, deferred) = Deferred::<()>::pair();
    deferred.cancel();
    let cancelled = deferred.into_result().expect("fired").expect_err("cancelled");
    assert!(cancelled.is::<Cancelled>());
    assert_eq!(cancelled.to_string(), "cancelled");
}

/// What `RUST_BACKTRACE` says is read once in a process, so each case is a process of its own.
#[test]
fn a_backtrace_is_there_only_when_it_was_asked_for() {
    if std::env::var_os("DOSIMETER_TEST_CHILD").is_some() {
        let wanted = std::env::var("RUST_BACKTRACE").is_ok_and(|value| value == "1");
        let failure = Failure::from("here");
        assert_eq!(failure.backtrace().is_some(), wanted);
        assert_eq!(failure.report().contains("a_backtrace_is_there_only_when_it_was_asked_for"), wanted);
        return;
    }
    for value in ["0", "1"] {
        let test = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "a_backtrace_is_there_only_when_it_was_asked_for"])
            .envs([("RUST_BACKTRACE", value), ("DOSIMETER_TEST_CHILD", "1")])
            .env_remove("RUST_LIB_BACKTRACE")
            .output()
            .expect("it starts");
        assert!(test.status.success(), "{value}: {}", String::from_utf8_lossy(&test.stdout));
    }
}
