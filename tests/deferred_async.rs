//! Awaiting Deferreds, and running futures as Deferreds.

#[path = "support/journal.rs"]
mod journal;
#[path = "support/log.rs"]
mod log_capture;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use dosimeter::{
    Abandoned, Cancelled, Completer, Deferred, Failure, Metrics, Panicked, Reactor, Result, defer_later, gather_results,
};
use journal::Journal;
use log_capture::logged;

fn result<T: 'static>(deferred: Deferred<T>) -> Result<T> {
    deferred.into_result().ok().expect("fired")
}

fn reactor() -> Reactor {
    Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor")
}

/// Runs the loop until `deferred` is fired.
fn run_until<T: 'static>(reactor: &Reactor, deferred: Deferred<T>) -> Result<T> {
    let stop = reactor.clone();
    let stopping = deferred.add_both(move |result| {
        stop.stop().expect("it runs");
        result
    });
    reactor.run().expect("to the end");
    self::result(stopping)
}

// ---- running ------------------------------------------------------------------------------------------

#[test]
fn a_task_starts_at_once_and_one_that_never_waits_is_fired_when_spawn_returns() {
    let reactor = reactor();
    let journal = Journal::new();
    let noting = journal.clone();
    let task = reactor.spawn(async move {
        noting.note("started");
        let one = Deferred::succeed(1).await?;
        Ok(one + async { 2 }.await)
    });
    assert_eq!(journal.take(), ["started"]);
    assert_eq!(result(task).expect("a value"), 3);
}

#[test]
fn the_error_of_the_body_is_the_failure_of_the_chain() {
    let reactor = reactor();
    let failed = reactor.spawn(async { Ok("x".parse::<i32>()?) });
    assert!(result(failed).expect_err("no number").is::<std::num::ParseIntError>());
    let panicked = reactor.spawn(async { if true { panic!("at once") } else { Ok(()) } });
    assert_eq!(result(panicked).expect_err("a panic").downcast_ref::<Panicked>().expect("a panic").message, "at once");
}

#[test]
fn a_failure_comes_out_of_the_await_and_is_handled_by_that() {
    let reactor = reactor();
    let lines = logged(|| {
        let (completer, later) = Deferred::<i32>::pair();
        let task = reactor.spawn(async move {
            let before = Deferred::<i32>::fail("before").await.expect_err("failed").to_string();
            let after = later.await.expect_err("fails").to_string();
            Ok(format!("{before} {after}"))
        });
        completer.errback("after");
        assert_eq!(result(task).expect("handled"), "before after");
    });
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn a_task_goes_on_inside_the_call_that_fires_what_it_waits_for() {
    let reactor = reactor();
    let journal = Journal::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let noting = journal.clone();
    let task = reactor.spawn(async move {
        noting.note("waits");
        noting.note(deferred.await?);
        Ok(())
    });
    drop(task.add_callback(journal.noting_unit("the end")));
    journal.note("fires");
    completer.callback(1);
    journal.note("fired");
    assert_eq!(journal.take(), ["waits", "fires", "1", "the end", "fired"]);
}

#[test]
fn awaiting_a_chain_that_waits_or_is_paused_resumes_when_it_really_has_a_result() {
    let reactor = reactor();
    let (outer, first) = Deferred::<i32>::pair();
    let (inner, second) = Deferred::<i32>::pair();
    let (waiting, pause) = first.add_callback(|_| second).pause();
    let task = reactor.spawn(async move { Ok(waiting.await? + 1) });
    outer.callback(1);
    assert!(!task.is_fired());
    inner.callback(2);
    assert!(!task.is_fired());
    pause.unpause();
    assert_eq!(result(task).expect("a value"), 3);
}

#[test]
fn tasks_and_callbacks_take_turns_in_the_same_order() {
    let journal = Journal::new();
    let reactor = reactor();
    let (completer, deferred) = Deferred::<i32>::pair();
    let (reply, replied) = Deferred::<i32>::pair();
    let noting = journal.clone();
    let task = reactor.spawn(async move {
        let number = deferred.await?;
        noting.note(format!("task {number}"));
        // Fired from inside a task: its callbacks run at once, as from inside a callback.
        reply.callback(number + 1);
        noting.note("task goes on");
        Ok(number)
    });
    drop(replied.add_callback(journal.noting("callback")));
    let tail = task.add_callback(journal.noting("after"));
    completer.callback(1);
    assert_eq!(journal.take(), ["task 1", "callback 2", "task goes on", "after 1"]);
    assert_eq!(result(tail).expect("a value"), 1);
}

#[test]
fn a_task_that_fires_what_it_waits_for_itself_goes_on() {
    let reactor = reactor();
    let (completer, deferred) = Deferred::<i32>::pair();
    let task = reactor.spawn(async move {
        let mut deferred = deferred;
        let mut completer = Some(completer);
        poll_fn(|context| {
            let polled = Pin::new(&mut deferred).poll(context);
            // Only now, so that the chain has a task to run: this one, which is being polled.
            completer.take().into_iter().for_each(|completer| completer.callback(5));
            polled
        })
        .await
    });
    assert_eq!(result(task).expect("a value"), 5);
}

#[test]
fn two_tasks_play_ping_pong() {
    let reactor = reactor();
    let balls: Rc<RefCell<Vec<Completer<u32>>>> = Rc::default();
    let player = |balls: Rc<RefCell<Vec<Completer<u32>>>>| async move {
        loop {
            let (completer, deferred) = Deferred::pair();
            let other = balls.borrow_mut().pop();
            balls.borrow_mut().push(completer);
            if let Some(other) = other {
                other.callback(1);
            }
            if deferred.await.is_err() {
                return Ok(());
            }
        }
    };
    let (one, two) = (reactor.spawn(player(balls.clone())), reactor.spawn(async { Ok(()) }));
    assert!(!one.is_fired() && two.is_fired());
    balls.borrow_mut().pop().expect("waits").errback("over");
    assert!(one.is_fired());
}

#[test]
fn a_deferred_is_awaited_under_any_executor() {
    struct Flag(Mutex<bool>);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            *self.0.lock().expect("no panic") = true;
        }
    }
    let flag = Arc::new(Flag(Mutex::new(false)));
    let waker = Waker::from(flag.clone());
    let mut context = Context::from_waker(&waker);
    let (completer, deferred) = Deferred::<i32>::pair();
    let mut deferred = pin!(deferred.map(|number| number + 1));
    assert!(deferred.as_mut().poll(&mut context).is_pending());
    completer.callback(1);
    assert!(*flag.0.lock().expect("no panic"));
    assert!(matches!(deferred.as_mut().poll(&mut context), Poll::Ready(Ok(2))));
}

// ---- wakers -------------------------------------------------------------------------------------------

/// A future that is ready when it is told so, from any thread.
#[derive(Clone, Default)]
struct Signal(Arc<Mutex<(bool, Option<Waker>)>>);

impl Signal {
    fn tell(&self) {
        let waker = {
            let mut state = self.0.lock().expect("no panic");
            state.0 = true;
            state.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Future for Signal {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().expect("no panic");
        state.1 = Some(context.waker().clone());
        if state.0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[test]
fn another_thread_wakes_a_task_and_the_reactor_that_sleeps() {
    let reactor = reactor();
    let signal = Signal::default();
    let awaited = signal.clone();
    let here = std::thread::current().id();
    let task = reactor.spawn(async move {
        awaited.await;
        Ok(std::thread::current().id())
    });
    assert!(!task.is_fired());
    let thread = std::thread::spawn(move || signal.tell());
    assert_eq!(run_until(&reactor, task).expect("woken"), here);
    thread.join().expect("no panic");
}

#[test]
fn a_channel_of_another_crate_is_received_from_in_a_task() {
    let reactor = reactor();
    let (sender, receiver) = async_channel::bounded(2);
    let task = reactor.spawn(async move {
        let mut sum = 0;
        while let Ok(number) = receiver.recv().await {
            sum += number;
        }
        Ok(sum)
    });
    let thread =
        std::thread::spawn(move || (1..=100).for_each(|number| sender.send_blocking(number).expect("received")));
    assert_eq!(run_until(&reactor, task).expect("the sum"), 5050);
    thread.join().expect("no panic");
}

#[test]
fn a_waker_called_in_the_task_s_own_thread_does_not_run_the_task_inside_of_it() {
    let reactor = reactor();
    let journal = Journal::new();
    let signal = Signal::default();
    let (awaited, noting) = (signal.clone(), journal.clone());
    let task = reactor.spawn(async move {
        awaited.await;
        noting.note("task");
        Ok(())
    });
    signal.tell();
    journal.note("told");
    run_until(&reactor, task).expect("woken");
    assert_eq!(journal.take(), ["told", "task"]);
}

#[test]
fn a_task_that_yields_lets_the_loop_turn() {
    let reactor = reactor();
    let polls = Rc::new(Cell::new(0));
    let counting = polls.clone();
    let task = reactor.spawn(async move {
        poll_fn(|context| {
            counting.set(counting.get() + 1);
            context.waker().wake_by_ref();
            if counting.get() > 10 { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    });
    assert_eq!(polls.get(), 1, "not again before the loop has turned");
    run_until(&reactor, task).expect("woken");
    assert_eq!(polls.get(), 11);
}

/// Polls a future with a waker of its own, as combinators for many futures do.
struct Wrapped<F>(F);

impl<F: Future + Unpin> Future for Wrapped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        struct Outer(Waker);
        impl Wake for Outer {
            fn wake(self: Arc<Self>) {
                self.0.wake_by_ref();
            }
        }
        let waker = Waker::from(Arc::new(Outer(context.waker().clone())));
        Pin::new(&mut self.0).poll(&mut Context::from_waker(&waker))
    }
}

#[test]
fn a_task_goes_on_inside_the_firing_call_though_the_wait_is_inside_a_combinator_with_wakers_of_its_own() {
    let reactor = reactor();
    let journal = Journal::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let noting = journal.clone();
    let task = reactor.spawn(async move {
        noting.note(Wrapped(deferred).await?);
        Ok(())
    });
    completer.callback(1);
    journal.note("fired");
    assert_eq!(journal.take(), ["1", "fired"]);
    result(task).expect("a value");
}

#[test]
fn a_wake_after_the_end_is_nothing() {
    let reactor = reactor();
    let (kept, late) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(0)));
    let slot = kept.clone();
    let task = reactor.spawn(poll_fn(move |context| {
        slot.set(Some(context.waker().clone()));
        Poll::Ready(Ok(()))
    }));
    result(task).expect("a value");
    let counting = late.clone();
    let next = reactor.spawn(poll_fn(move |_| {
        counting.set(counting.get() + 1);
        Poll::<Result<()>>::Pending
    }));
    kept.take().expect("kept").wake();
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(late.get(), 1, "another task in its place is not woken");
    next.cancel();
    drop(next.into_result());
}

// ---- cancelling ---------------------------------------------------------------------------------------

#[test]
fn cancelling_a_task_cancels_what_it_awaits_and_the_error_comes_out_of_the_await() {
    let reactor = reactor();
    let (completer, deferred) = Deferred::<i32>::pair();
    let task = reactor.spawn(async move { Ok(deferred.await? + 1) });
    task.cancel();
    assert!(completer.is_cancelled());
    assert!(result(task).expect_err("cancelled").is::<Cancelled>());
}

#[test]
fn the_body_may_survive_a_cancellation_and_the_next_one_hits_the_next_await() {
    let reactor = reactor();
    let journal = Journal::new();
    let (one, first) = Deferred::<i32>::pair();
    let (two, second) = Deferred::<i32>::pair();
    let noting = journal.clone();
    let task = reactor.spawn(async move {
        if first.await.is_err() {
            noting.note("first");
        }
        if second.await.is_err() {
            noting.note("second");
        }
        Ok("survived")
    });
    task.cancel();
    assert!(one.is_cancelled() && !two.is_cancelled() && !task.is_fired());
    assert_eq!(journal.take(), ["first"]);
    task.cancel();
    assert!(two.is_cancelled());
    assert_eq!(journal.take(), ["second"]);
    assert_eq!(result(task).expect("survived"), "survived");
}

#[test]
fn a_cancellation_goes_through_stacked_tasks_and_chains_to_the_innermost_wait() {
    let reactor = reactor();
    let (done, deferred) = Deferred::<i32>::pair();
    let (completer, innermost) = Deferred::<i32>::pair();
    let inner = reactor.spawn(async move { Ok(deferred.await? + innermost.await?) });
    let middle = Deferred::succeed(()).add_callback(|()| inner);
    let outer =
        reactor.spawn(async move { middle.await.map_err(|failure| Failure::from(format!("outer: {failure}"))) });
    done.callback(1);
    outer.cancel();
    assert!(completer.is_cancelled());
    assert_eq!(result(outer).expect_err("cancelled").to_string(), "outer: cancelled");
}

#[test]
fn a_task_that_waits_for_several_chains_at_a_time_has_all_of_them_cancelled() {
    let reactor = reactor();
    let (one, mut first) = Deferred::<i32>::pair();
    let (two, mut second) = Deferred::<i32>::pair();
    let task = reactor.spawn(async move {
        let both = poll_fn(|context| {
            let polled = (Pin::new(&mut first).poll(context), Pin::new(&mut second).poll(context));
            if polled.0.is_ready() { polled.0 } else { polled.1 }
        });
        both.await
    });
    task.cancel();
    assert!(one.is_cancelled() && two.is_cancelled());
    assert!(result(task).expect_err("cancelled").is::<Cancelled>());
}

#[test]
fn a_task_that_waits_for_anything_else_is_dropped_where_it_stands() {
    let reactor = reactor();
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    let task = reactor.spawn(async move {
        pending::<()>().await;
        drop(token);
        Ok(())
    });
    assert!(watch.upgrade().is_some());
    task.cancel();
    assert!(watch.upgrade().is_none());
    assert!(result(task).expect_err("cancelled").is::<Cancelled>());
}

#[test]
fn a_task_that_cancels_itself_does_nothing() {
    let reactor = reactor();
    let slot: Rc<RefCell<Option<Deferred<i32>>>> = Rc::default();
    let own = slot.clone();
    let (completer, deferred) = Deferred::<i32>::pair();
    let task = reactor.spawn(async move {
        let number = deferred.await?;
        own.borrow().as_ref().expect("put there").cancel();
        Ok(number)
    });
    slot.replace(Some(task));
    completer.callback(1);
    assert_eq!(result(slot.take().expect("put there")).expect("not cancelled"), 1);
}

#[test]
fn cancelling_a_finished_task_is_nothing() {
    let reactor = reactor();
    let task = reactor.spawn(async { Ok(1) });
    task.cancel();
    assert_eq!(result(task).expect("kept"), 1);
}

#[test]
fn dropping_an_awaited_deferred_detaches_it() {
    let reactor = reactor();
    let (completer, deferred) = Deferred::<i32>::pair();
    let (_never, unfired) = Deferred::<i32>::pair();
    let mut deferred = Some(deferred);
    let task = reactor.spawn(async move {
        poll_fn(|context| {
            assert!(Pin::new(deferred.as_mut().expect("kept")).poll(context).is_pending());
            deferred = None;
            Poll::Ready(())
        })
        .await;
        unfired.await
    });
    assert!(!completer.is_cancelled());
    completer.callback(1);
    assert!(!task.is_fired());
    drop(task);
}

// ---- the end of things --------------------------------------------------------------------------------

#[test]
fn a_finished_task_frees_its_body_before_its_result_is_passed_on() {
    let reactor = reactor();
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    let (completer, deferred) = Deferred::<i32>::pair();
    let task = reactor.spawn(async move {
        let number = deferred.await?;
        Ok(number + Rc::strong_count(&token) as i32)
    });
    let tail = task.map(move |number| {
        assert!(watch.upgrade().is_none());
        number
    });
    completer.callback(1);
    assert_eq!(result(tail).expect("a value"), 2);
}

#[test]
fn a_task_whose_chain_is_dropped_goes_on() {
    let reactor = reactor();
    let journal = Journal::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let noting = journal.clone();
    drop(reactor.spawn(async move {
        noting.note(deferred.await?);
        Ok(())
    }));
    completer.callback(1);
    assert_eq!(journal.take(), ["1"]);
}

#[test]
fn the_reactor_that_is_dropped_abandons_its_tasks_and_frees_them() {
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    let reactor = reactor();
    let task = reactor.spawn(async move {
        pending::<()>().await;
        drop(token);
        Ok(())
    });
    drop(reactor);
    assert!(watch.upgrade().is_none());
    assert!(result(task).expect_err("abandoned").is::<Abandoned>());
}

#[test]
fn the_reactor_that_stops_abandons_its_tasks_though_they_hold_it() {
    let reactor = reactor();
    let (own, weak) = (reactor.clone(), reactor.downgrade());
    let task = reactor.spawn(async move {
        pending::<()>().await;
        own.stop()?;
        Ok(())
    });
    let stop = reactor.clone();
    reactor.call_soon(move || stop.stop().expect("it runs"));
    reactor.run().expect("to the end");
    assert!(result(task).expect_err("abandoned").is::<Abandoned>());
    drop(reactor);
    assert!(weak.upgrade().is_none());
}

#[test]
fn reactors_that_are_gone_leave_no_descriptors_behind() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let come_and_go = || {
        let reactor = reactor();
        (0..10).for_each(|number| drop(reactor.spawn(async move { Ok(number) })));
    };
    come_and_go();
    let before = descriptors();
    (0..100).for_each(|_| come_and_go());
    // Other tests of this program open and close some of their own meanwhile.
    assert!(descriptors() < before + 90, "{before} became {}", descriptors());
}

#[test]
fn timers_and_tasks_work_together() {
    let reactor = reactor();
    let clock = reactor.clone();
    let task = reactor.spawn(async move {
        let ticks = (0..3).map(|number| defer_later(&clock, Duration::from_millis(1), move || number));
        let numbers = gather_results(ticks).await?;
        Ok(numbers.into_iter().sum::<i32>())
    });
    assert_eq!(run_until(&reactor, task).expect("a value"), 3);
}

// ---- the end of a thread ------------------------------------------------------------------------------

thread_local! {
    /// Dropped at the end of the thread, after what the crate has there itself: this is in use first.
    static KEPT: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn a_completer_that_is_dropped_with_its_thread_does_not_end_the_process() {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        KEPT.with_borrow(Vec::len);
        let reactor = reactor();
        // One that a task awaits, and one that another executor polls.
        let (awaited, deferred) = Deferred::<i32>::pair();
        let ended = tell.clone();
        drop(reactor.spawn(async move {
            let told = OnDrop(ended, "the task is gone");
            deferred.await?;
            drop(told);
            Ok(())
        }));
        let (polled, mut deferred) = Deferred::<i32>::pair();
        let waker = Arc::new(Telling(tell)).into();
        assert!(Pin::new(&mut deferred).poll(&mut Context::from_waker(&waker)).is_pending());
        let (fired, mut first) = Deferred::<i32>::pair();
        assert!(Pin::new(&mut first).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        fired.callback(7);
        KEPT.with_borrow_mut(|kept| kept.extend([Box::new(awaited) as Box<dyn Any>, Box::new((polled, deferred))]));
        std::mem::forget(reactor);
    });
    thread.join().expect("no panic");
    let mut told: Vec<&str> = told.iter().collect();
    told.sort_unstable();
    assert_eq!(told, ["the task is gone", "woken"]);
}

struct OnDrop(mpsc::Sender<&'static str>, &'static str);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

struct Telling(mpsc::Sender<&'static str>);

impl Wake for Telling {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send("woken");
    }
}

// ---- depth --------------------------------------------------------------------------------------------

fn on_a_small_stack(body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 * 1024).spawn(body).expect("a thread").join().expect("no panic");
}

#[test]
fn a_million_awaits_of_fired_deferreds_need_no_stack() {
    on_a_small_stack(|| {
        let reactor = reactor();
        let task = reactor.spawn(async {
            let mut sum = 0;
            for _ in 0..1_000_000 {
                sum += Deferred::succeed(1).await?;
            }
            Ok(sum)
        });
        assert_eq!(result(task).expect("a value"), 1_000_000);
    });
}

#[test]
fn a_hundred_thousand_tasks_each_awaiting_the_one_before_need_no_stack() {
    on_a_small_stack(|| {
        let reactor = reactor();
        let stack = |wrap: bool| {
            let (completer, deferred) = Deferred::<usize>::pair();
            let tail = (0..100_000).fold(deferred, |before, _| {
                reactor.spawn(async move { Ok(if wrap { Wrapped(before).await? } else { before.await? } + 1) })
            });
            (completer, tail)
        };
        for wrap in [false, true] {
            let (completer, tail) = stack(wrap);
            completer.callback(0);
            assert_eq!(result(tail).expect("a value"), 100_000);
        }
        let (completer, tail) = stack(false);
        tail.cancel();
        assert!(completer.is_cancelled());
        assert!(result(tail).expect_err("cancelled").is::<Cancelled>());
        let (completer, tail) = stack(false);
        drop(tail.add_errback(|_| Ok(0)));
        drop(completer);
    });
}

#[test]
fn cancelling_ten_thousand_tasks_each_awaiting_two_needs_no_stack() {
    on_a_small_stack(|| {
        let reactor = reactor();
        let (completer, deferred) = Deferred::<usize>::pair();
        let mut others = Vec::new();
        let tail = (0..10_000).fold(deferred, |mut one, _| {
            let (completer, mut other) = Deferred::<usize>::pair();
            others.push(completer);
            reactor.spawn(poll_fn(move |context| match Pin::new(&mut one).poll(context) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => Pin::new(&mut other).poll(context),
            }))
        });
        tail.cancel();
        assert!(completer.is_cancelled());
        assert!(result(tail).expect_err("cancelled").is::<Cancelled>());
    });
}
