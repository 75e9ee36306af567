//! Locks, semaphores and queues.

#[path = "support/journal.rs"]
mod journal;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dosimeter::{Cancelled, Deferred, DeferredLock, DeferredQueue, DeferredSemaphore, Permit, QueueUnderflow, Result};
use journal::Journal;

fn result<T: 'static>(deferred: Deferred<T>) -> Result<T> {
    deferred.into_result().ok().expect("fired")
}

fn permit(deferred: Deferred<Permit>) -> Permit {
    result(deferred).expect("a permit")
}

// ---- lock ---------------------------------------------------------------------------------------------

#[test]
fn a_free_lock_is_acquired_at_once_and_a_held_one_in_the_order_asked() {
    let journal = Journal::new();
    let lock = DeferredLock::new();
    assert!(!lock.is_locked());
    let held = permit(lock.acquire());
    assert!(lock.is_locked());
    for name in ["first", "second"] {
        let journal = journal.clone();
        drop(lock.acquire().map(move |_permit| journal.note(name)));
    }
    assert_eq!(lock.waiting(), 2);
    drop(held);
    assert_eq!(journal.take(), ["first", "second"]);
    assert!(!lock.is_locked());
}

#[test]
fn a_lock_that_is_handed_over_is_never_seen_free() {
    let lock = DeferredLock::new();
    let held = permit(lock.acquire());
    let seen = Rc::new(Cell::new(true));
    let (probe, own) = (seen.clone(), lock.clone());
    let next = lock.acquire().inspect(move |_| probe.set(own.is_locked()));
    let late = Rc::new(RefCell::new(None));
    let (slot, own) = (late.clone(), lock.clone());
    let next = next.map(move |permit| {
        // Somebody who asks now comes after those who wait.
        slot.replace(Some(own.acquire()));
        permit
    });
    drop(held);
    assert!(seen.get() && next.is_fired() && lock.is_locked());
    let late = late.take().expect("asked");
    assert!(!late.is_fired());
    drop(next);
    drop(permit(late));
    assert!(!lock.is_locked());
}

#[test]
fn cancelling_in_the_queue_leaves_it() {
    let lock = DeferredLock::new();
    let held = permit(lock.acquire());
    let (one, two) = (lock.acquire(), lock.acquire());
    one.cancel();
    assert_eq!(lock.waiting(), 1);
    assert!(result(one).expect_err("cancelled").is::<Cancelled>());
    drop(held);
    assert!(two.is_fired());
    two.cancel();
    assert!(lock.is_locked(), "cancelling what was acquired does nothing");
    drop(two);
    assert!(!lock.is_locked());
}

#[test]
fn run_holds_the_lock_until_what_the_function_returned_has_ended() {
    let journal = Journal::new();
    let lock = DeferredLock::new();
    let (completer, slow) = Deferred::<i32>::pair();
    let first = lock.run(move || slow);
    let second = lock.run({
        let journal = journal.clone();
        move || {
            journal.note("second");
            Ok(2)
        }
    });
    assert!(journal.take().is_empty() && lock.is_locked());
    completer.callback(1);
    assert_eq!(journal.take(), ["second"]);
    assert!(!lock.is_locked());
    assert_eq!((result(first).expect("one"), result(second).expect("two")), (1, 2));
}

#[test]
fn run_releases_the_lock_when_the_function_fails_or_panics() {
    let lock = DeferredLock::new();
    assert_eq!(result(lock.run(|| Err::<i32, _>("no".into()))).expect_err("a failure").to_string(), "no");
    assert!(!lock.is_locked());
    assert!(result(lock.run(|| -> Result<i32> { panic!("at once") })).expect_err("a panic").is_panic());
    assert!(!lock.is_locked());
    let (completer, slow) = Deferred::<i32>::pair();
    let running = lock.run(move || slow);
    drop(completer);
    assert!(!lock.is_locked() && result(running).is_err());
}

#[test]
fn a_run_that_is_cancelled_in_the_queue_never_calls_its_function() {
    let lock = DeferredLock::new();
    let held = permit(lock.acquire());
    let queued = lock.run(|| -> Result<i32> { unreachable!("cancelled before") });
    queued.cancel();
    drop(held);
    assert!(result(queued).expect_err("cancelled").is::<Cancelled>());
    assert!(!lock.is_locked());
}

#[test]
fn cancelling_a_run_under_way_cancels_its_work_and_releases_the_lock() {
    let lock = DeferredLock::new();
    let (completer, slow) = Deferred::<i32>::pair();
    let running = lock.run(move || slow);
    running.cancel();
    assert!(completer.is_cancelled() && !lock.is_locked());
    assert!(result(running).expect_err("cancelled").is::<Cancelled>());
}

#[test]
fn a_permit_that_nobody_takes_is_given_back() {
    let lock = DeferredLock::new();
    let held = permit(lock.acquire());
    drop(lock.acquire());
    let next = lock.acquire();
    drop(held);
    assert!(next.is_fired());
}

#[test]
fn a_hundred_thousand_waiters_that_are_done_at_once_drain_on_a_small_stack() {
    let body = || {
        let lock = DeferredLock::new();
        let held = permit(lock.acquire());
        let count = Rc::new(Cell::new(0));
        for _ in 0..100_000 {
            let count = count.clone();
            drop(lock.run(move || {
                count.set(count.get() + 1);
                Ok(())
            }));
        }
        drop(held);
        assert_eq!(count.get(), 100_000);
        assert!(!lock.is_locked());
        // The same with waiters that are dropped unfired, or cancelled.
        let held = permit(lock.acquire());
        let queued: Vec<_> = (0..100_000).map(|_| lock.acquire()).collect();
        queued.iter().for_each(Deferred::cancel);
        assert_eq!(lock.waiting(), 0);
        drop((held, queued.into_iter().map(Deferred::into_result).collect::<Vec<_>>()));
    };
    std::thread::Builder::new().stack_size(256 * 1024).spawn(body).expect("a thread").join().expect("no panic");
}

// ---- semaphore ----------------------------------------------------------------------------------------

#[test]
fn a_semaphore_lets_as_many_in_as_it_has_places() {
    let semaphore = DeferredSemaphore::new(2);
    let (one, two) = (permit(semaphore.acquire()), permit(semaphore.acquire()));
    assert_eq!((semaphore.available(), semaphore.limit()), (0, 2));
    let (three, four) = (semaphore.acquire(), semaphore.acquire());
    assert_eq!(semaphore.waiting(), 2);
    drop(two);
    assert!(three.is_fired() && !four.is_fired());
    drop(one);
    assert!(four.is_fired());
    drop((three, four));
    assert_eq!(semaphore.available(), 2);
}

#[test]
#[should_panic(expected = "at least one place")]
fn a_semaphore_without_places_is_refused() {
    let _never = DeferredSemaphore::new(0);
}

// ---- queue --------------------------------------------------------------------------------------------

#[test]
fn values_are_kept_and_handed_out_in_order() {
    let queue = DeferredQueue::new();
    queue.put(1).expect("no limit");
    queue.put(2).expect("no limit");
    assert_eq!(queue.len(), 2);
    assert_eq!(result(queue.get()).expect("a value"), 1);
    assert_eq!(result(queue.get()).expect("a value"), 2);
    assert!(queue.is_empty());
}

#[test]
fn those_who_wait_are_served_by_the_put_in_the_order_they_came() {
    let journal = Journal::new();
    let queue = DeferredQueue::new();
    drop(queue.get().add_callback(journal.noting("first")));
    drop(queue.get().add_callback(journal.noting("second")));
    assert_eq!(queue.waiting(), 2);
    queue.put(1).expect("no limit");
    assert_eq!(journal.take(), ["first 1"]);
    queue.put(2).expect("no limit");
    assert_eq!(journal.take(), ["second 2"]);
}

#[test]
fn a_value_too_many_is_given_back() {
    let queue = DeferredQueue::with_limits(1, None);
    queue.put("kept").expect("one fits");
    let overflow = queue.put("too much").expect_err("two do not");
    assert_eq!((overflow.value, overflow.to_string().as_str()), ("too much", "the queue is full"));
    let hand_over = DeferredQueue::with_limits(0, None);
    assert!(hand_over.put(1).is_err());
    let waiting = hand_over.get();
    hand_over.put(1).expect("handed over");
    assert_eq!(result(waiting).expect("a value"), 1);
    fn fails() -> Result<()> {
        Ok(DeferredQueue::with_limits(0, None).put(1)?)
    }
    assert!(fails().expect_err("too much").is::<dosimeter::QueueOverflow<i32>>());
}

#[test]
fn one_too_many_to_wait_fails_at_once() {
    let queue = DeferredQueue::<i32>::with_limits(None, 1);
    let waiting = queue.get();
    assert!(result(queue.get()).expect_err("one may wait").is::<QueueUnderflow>());
    queue.put(1).expect("no limit");
    assert_eq!(result(waiting).expect("a value"), 1);
    let nobody = DeferredQueue::<i32>::with_limits(None, 0);
    assert!(result(nobody.get()).expect_err("nobody may").is::<QueueUnderflow>());
    nobody.put(1).expect("no limit");
    assert_eq!(result(nobody.get()).expect("a value"), 1);
}

#[test]
fn who_cancels_leaves_and_the_next_put_goes_to_the_next() {
    let queue = DeferredQueue::new();
    let (one, two) = (queue.get(), queue.get());
    one.cancel();
    assert_eq!(queue.waiting(), 1);
    queue.put(1).expect("no limit");
    assert_eq!(result(two).expect("a value"), 1);
    drop(one.into_result());
    let three = queue.get();
    three.cancel();
    queue.put(2).expect("no limit");
    assert_eq!(queue.len(), 1);
    drop(three.into_result());
}

#[test]
fn a_consumer_that_asks_again_and_a_producer_that_puts_again_need_no_stack() {
    fn consume(queue: DeferredQueue<usize>, seen: Rc<Cell<usize>>) {
        let next = queue.clone();
        drop(queue.get().map(move |value| {
            seen.set(seen.get() + 1);
            consume(next.clone(), seen);
            if value > 0 {
                next.put(value - 1).expect("no limit");
            }
        }));
    }
    let body = || {
        let (queue, seen) = (DeferredQueue::new(), Rc::new(Cell::new(0)));
        consume(queue.clone(), seen.clone());
        queue.put(100_000).expect("no limit");
        assert_eq!(seen.get(), 100_001);
    };
    std::thread::Builder::new().stack_size(256 * 1024).spawn(body).expect("a thread").join().expect("no panic");
}
