//! What a Deferred tells about itself, and what debugging adds to it.

#[path = "support/log.rs"]
mod log_capture;

use dosimeter::{Deferred, Failure, Metrics, Reactor, Result, set_debugging};
use log_capture::logged;

fn reactor() -> Reactor {
    Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor")
}

#[test]
fn debug_says_whether_a_chain_is_pending_waiting_or_fired() {
    let here = |line: u32| format!("{}:{line}:", file!());
    let (outer, first) = Deferred::<i32>::pair();
    let made = here(line!() - 1);
    let (inner, second) = Deferred::<i32>::pair();
    let waits_for = here(line!() - 1);
    let tail = first.add_callback(|_| second);
    assert!(format!("{tail:?}").starts_with(&format!("Deferred(pending, made at {made}")), "{tail:?}");
    outer.callback(1);
    assert!(format!("{tail:?}").starts_with(&format!("Deferred(waiting for the one made at {waits_for}")), "{tail:?}");
    inner.callback(2);
    assert_eq!(format!("{tail:?}"), "Deferred(fired)");
    assert_eq!(format!("{:?}", tail.map(|number| number)), "Deferred(fired: 2)");
    let failed = Deferred::<i32>::fail("no");
    assert_eq!(format!("{failed:?}"), "Deferred(failed: no)");
    drop(failed.into_result());
}

#[test]
fn debugging_adds_where_callbacks_were_added() {
    let failing = || {
        let (completer, deferred) = Deferred::<i32>::pair();
        drop(deferred.map(|number| number).add_errback(Err::<i32, Failure>));
        completer.errback("nobody looks");
    };
    let line = line!() - 3;
    let quiet = logged(failing);
    assert!(!quiet[0].contains("callback added at"), "{}", quiet[0]);
    set_debugging(true);
    let loud = logged(failing);
    set_debugging(false);
    let added = format!("callback added at: {}:{line}:", file!());
    assert_eq!(loud[0].matches(&added).count(), 2, "{}", loud[0]);
}

#[test]
fn debugging_warns_of_deferreds_that_are_not_fired_when_the_reactor_stops() {
    let run = || {
        let reactor = reactor();
        let (_kept, unfired) = Deferred::<i32>::pair();
        let line = line!() - 1;
        let _task = reactor.spawn(unfired).add_errback(|_| Ok(0));
        let (fired, deferred) = Deferred::<i32>::pair();
        fired.callback(1);
        let stop = reactor.clone();
        reactor.call_soon(move || stop.stop().expect("it runs"));
        reactor.run().expect("to the end");
        drop(deferred);
        line
    };
    let lines = logged(|| _ = run());
    assert!(lines.is_empty(), "{lines:?}");
    set_debugging(true);
    let mut line = 0;
    let lines = logged(|| line = run());
    set_debugging(false);
    let warnings: Vec<_> = lines.iter().filter(|line| line.starts_with("WARN not fired")).collect();
    assert_eq!(warnings.len(), 2, "the pair and the task: {lines:?}");
    assert!(warnings[0].contains(&format!("1 Deferred(s) made at {}:{line}:", file!())), "{}", warnings[0]);
}

#[test]
fn switching_debugging_in_the_middle_of_a_life_is_harmless() {
    let (before, one) = Deferred::<i32>::pair();
    set_debugging(true);
    let (during, two) = Deferred::<i32>::pair();
    before.callback(1);
    set_debugging(false);
    during.callback(2);
    let both = one.add_callback(move |one| two.map(move |two| one + two));
    let result: Result<i32> = both.into_result().expect("fired");
    assert_eq!(result.expect("a value"), 3);
}

/// The environment is read once in a thread, and a test cannot set it for itself alone: a process of its own does.
#[test]
fn the_environment_switches_debugging_on() {
    if std::env::var_os("DOSIMETER_DEBUG_CHILD").is_some() {
        let lines = logged(|| drop(Deferred::<i32>::pair().1.map(|number| number)));
        assert!(lines.is_empty() || lines[0].contains("callback added at"), "{lines:?}");
        let lines = logged(|| {
            let (completer, deferred) = Deferred::<i32>::pair();
            drop(deferred.map(|number| number));
            completer.errback("no");
        });
        assert!(lines[0].contains("callback added at"), "{}", lines[0]);
        return;
    }
    let test = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_environment_switches_debugging_on"])
        .envs([("DOSIMETER_DEBUG", "1"), ("DOSIMETER_DEBUG_CHILD", "1")])
        .output()
        .expect("it starts");
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
}
