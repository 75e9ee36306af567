//! Sources of the program's own on the loop.

#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::source::{Descriptor, Interest, Next, Readiness, Registry, Source, SourceFd, Token, Watch};
use dosimeter::testing::success_result_of;
use dosimeter::{Reactor, Result};
use support::{logged, reactor, settle, turn_until};

type Pipe = Descriptor<UnixStream>;

fn pipe() -> (Pipe, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    (Descriptor::nonblocking(ours).expect("a descriptor"), theirs)
}

/// What was read, in pieces.
#[derive(Clone, Default)]
struct Pieces(Rc<RefCell<Vec<String>>>);

impl Pieces {
    /// A handler that reads a piece of at most `size` bytes, and says `next`.
    fn up_to(&self, size: usize, next: Next) -> impl FnMut(&Reactor, &mut Pipe, Readiness) -> Result<Next> + 'static {
        let pieces = self.0.clone();
        move |_, pipe, _| {
            let mut piece = vec![0; size];
            let count = pipe.get_mut().read(&mut piece)?;
            piece.truncate(count);
            pieces.borrow_mut().push(piece.escape_ascii().to_string());
            Ok(if count == 0 { Next::Remove } else { next })
        }
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

#[test]
fn a_source_is_told_of_when_it_is_ready_and_not_before() {
    let (reactor, read) = (reactor(), Pieces::default());
    let (ours, mut theirs) = pipe();
    reactor.watch(ours, Interest::READABLE, read.up_to(100, Next::Wait)).expect("it can be polled");
    settle(&reactor);
    assert_eq!(read.take(), [""; 0]);
    for text in ["one", "two"] {
        theirs.write_all(text.as_bytes()).expect("room");
        settle(&reactor);
        assert_eq!(read.take(), [text]);
    }
}

#[test]
fn again_calls_until_there_is_nothing_which_is_no_failure() {
    let (reactor, read) = (reactor(), Pieces::default());
    let (ours, mut theirs) = pipe();
    let watch = reactor.watch(ours, Interest::READABLE, read.up_to(2, Next::Again)).expect("it can be polled");
    theirs.write_all(b"abcdef").expect("room");
    turn_until(&reactor, || read.0.borrow().len() == 3);
    settle(&reactor);
    assert_eq!(read.take(), ["ab", "cd", "ef"]);
    assert!(watch.is_active(), "WouldBlock only means to wait");
    assert_eq!(logged(), [""; 0]);
}

/// Readiness is told once: who reads a part and waits hears of the rest when he asks.
#[test]
fn call_again_calls_the_handler_in_the_next_turn() {
    let (reactor, read) = (reactor(), Pieces::default());
    let (ours, mut theirs) = pipe();
    let watch = reactor.watch(ours, Interest::READABLE, read.up_to(2, Next::Wait)).expect("it can be polled");
    theirs.write_all(b"abcd").expect("room");
    settle(&reactor);
    assert_eq!(read.take(), ["ab"]);
    watch.call_again();
    settle(&reactor);
    assert_eq!(read.take(), ["cd"]);
}

#[test]
fn the_end_of_a_stream_is_readable_and_a_source_is_dropped_when_it_is_removed() {
    let (reactor, read) = (reactor(), Pieces::default());
    let (ours, mut theirs) = pipe();
    let held = Rc::new(());
    let (hold, mut handler) = (held.clone(), read.up_to(100, Next::Again));
    let ready = move |reactor: &Reactor, pipe: &mut Pipe, readiness: Readiness| {
        let _ = &hold;
        assert!(readiness.is_readable());
        handler(reactor, pipe, readiness)
    };
    let watch = reactor.watch(ours, Interest::READABLE, ready).expect("it can be polled");
    theirs.write_all(b"last").expect("room");
    drop(theirs);
    turn_until(&reactor, || !watch.is_active());
    assert_eq!(read.take(), ["last", ""]);
    assert_eq!(Rc::strong_count(&held), 1);
    assert!(watch.remove().is_none());
    watch.call_again();
    assert_eq!(watch.set_interest(Interest::READABLE).unwrap_err().kind(), io::ErrorKind::NotFound);
    let weak = reactor.downgrade();
    drop((reactor, watch));
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_handler_that_fails_or_panics_is_logged_and_called_no_more() {
    for panics in [false, true] {
        let reactor = reactor();
        let (ours, mut theirs) = pipe();
        let calls = Rc::new(Cell::new(0));
        let count = calls.clone();
        let ready = move |_: &Reactor, _: &mut Pipe, _: Readiness| {
            count.set(count.get() + 1);
            if panics { panic!("in the handler") } else { Err("by the handler".into()) }
        };
        let watch = reactor.watch(ours, Interest::READABLE, ready).expect("it can be polled");
        theirs.write_all(b"one").expect("room");
        turn_until(&reactor, || !watch.is_active());
        assert!(theirs.write_all(b"two").is_err(), "the source is closed");
        settle(&reactor);
        assert_eq!(calls.get(), 1);
        let logged = logged();
        assert_eq!(logged.len(), 1, "{logged:?}");
        let text = if panics { "given up: panicked: in the handler" } else { "given up: by the handler" };
        assert!(logged[0].contains(text), "{logged:?}");
    }
}

#[test]
fn a_source_that_is_taken_off_comes_back_and_can_be_watched_elsewhere() {
    let (first, second, read) = (reactor(), reactor(), Pieces::default());
    let (ours, mut theirs) = pipe();
    let watch = first.watch(ours, Interest::READABLE, read.up_to(100, Next::Wait)).expect("it can be polled");
    let ours = watch.remove().expect("it was watched");
    assert!(!watch.is_active());
    theirs.write_all(b"for the second").expect("room");
    settle(&first);
    assert_eq!(read.take(), [""; 0]);
    let again = first.watch(ours, Interest::READABLE, read.up_to(100, Next::Wait)).expect("it has left the poll");
    let ours = again.remove().expect("it was watched");
    second.watch(ours, Interest::READABLE, read.up_to(100, Next::Wait)).expect("it can be polled");
    settle(&second);
    assert_eq!(read.take(), ["for the second"]);
}

#[test]
fn what_is_of_interest_can_be_changed_also_from_inside() {
    let reactor = reactor();
    let (ours, mut theirs) = pipe();
    let (seen, own) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(None::<Watch<Pipe>>)));
    let (see, itself) = (seen.clone(), own.clone());
    let ready = move |_: &Reactor, _: &mut Pipe, readiness: Readiness| {
        see.borrow_mut().push((readiness.is_readable(), readiness.is_writable()));
        if !readiness.is_readable() {
            let watch = itself.borrow().clone().expect("set before the first turn");
            watch.set_interest(Interest::READABLE)?;
        }
        Ok(Next::Wait)
    };
    let watch = reactor.watch(ours, Interest::WRITABLE, ready).expect("it can be polled");
    own.replace(Some(watch.clone()));
    settle(&reactor);
    assert_eq!(seen.take(), [(false, true)]);
    theirs.write_all(b"something").expect("room");
    settle(&reactor);
    assert_eq!(seen.take(), [(true, false)]);
    watch.set_interest(Interest::READABLE | Interest::WRITABLE).expect("it can be polled");
    settle(&reactor);
    assert_eq!(seen.take(), [(true, true)], "what it is ready for already is told again");
    own.take();
}

#[test]
fn a_handler_may_take_itself_off() {
    let reactor = reactor();
    let (ours, mut theirs) = pipe();
    let (own, calls) = (Rc::new(RefCell::new(None::<Watch<Pipe>>)), Rc::new(Cell::new(0)));
    let (itself, count) = (own.clone(), calls.clone());
    let ready = move |_: &Reactor, _: &mut Pipe, _: Readiness| {
        count.set(count.get() + 1);
        assert!(itself.take().expect("called once").remove().is_none(), "it is in use just now");
        Ok(Next::Again)
    };
    own.replace(Some(reactor.watch(ours, Interest::READABLE, ready).expect("it can be polled")));
    theirs.write_all(b"one").expect("room");
    settle(&reactor);
    assert_eq!(calls.get(), 1);
    assert!(theirs.write_all(b"two").is_err(), "the source is closed");
}

#[test]
fn the_end_of_the_reactor_drops_the_sources() {
    let (reactor, held) = (reactor(), Rc::new(()));
    let (ours, mut theirs) = pipe();
    let (hold, own) = (held.clone(), reactor.clone());
    let ready = move |_: &Reactor, _: &mut Pipe, _: Readiness| {
        let _ = (&hold, &own);
        Ok(Next::Wait)
    };
    let watch = reactor.watch(ours, Interest::READABLE, ready).expect("it can be polled");
    success_result_of(reactor.shut_down());
    assert!(!watch.is_active());
    assert_eq!(Rc::strong_count(&held), 1);
    assert!(theirs.write_all(b"one").is_err());
    let (late, _theirs) = pipe();
    let refused = reactor.watch(late, Interest::READABLE, |_, _, _| Ok(Next::Wait));
    assert!(refused.is_err(), "nobody would ever close it");
}

/// A descriptor that is nothing but a number.
struct Number(RawFd);

impl Source for Number {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.0).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.0).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0).deregister(registry)
    }
}

#[test]
fn a_descriptor_that_cannot_be_polled_is_refused_and_leaves_nothing() {
    // No process has so many.
    let closed = Number(RawFd::MAX);
    let reactor = reactor();
    let error = reactor.watch(closed, Interest::READABLE, |_, _, _| Ok(Next::Wait)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(9), "EBADF: {error}");
    let file = Descriptor::new(File::open(file!()).expect("this file"));
    let error = reactor.watch(file, Interest::READABLE, |_, _, _| Ok(Next::Wait)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(
        error.to_string(),
        "a file of this kind cannot be polled, it is always ready; read it in the thread pool"
    );
    let (socket, _other) = UnixStream::pair().expect("two sockets");
    let watch = reactor.watch(Number(socket.as_raw_fd()), Interest::READABLE, |_, _, _| Ok(Next::Wait)).expect("once");
    let error = reactor.watch(Number(socket.as_raw_fd()), Interest::READABLE, |_, _, _| Ok(Next::Wait)).unwrap_err();
    assert_eq!(
        (error.kind(), &*error.to_string()),
        (io::ErrorKind::AlreadyExists, "this descriptor is watched already")
    );
    watch.remove();
    drop(watch);
    let weak = reactor.downgrade();
    drop(reactor);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_descriptor_that_was_closed_behind_our_back_is_never_told_of_again() {
    let (reactor, calls) = (reactor(), Rc::new(Cell::new(0)));
    let (ours, mut theirs) = UnixStream::pair().expect("two sockets");
    let count = calls.clone();
    let number = Number(ours.as_raw_fd());
    let ready = move |_: &Reactor, _: &mut Number, _: Readiness| {
        count.set(count.get() + 1);
        Ok(Next::Wait)
    };
    let watch = reactor.watch(number, Interest::READABLE, ready).expect("it can be polled");
    theirs.write_all(b"one").expect("room");
    settle(&reactor);
    drop(ours);
    settle(&reactor);
    assert_eq!(calls.get(), 1);
    assert!(watch.remove().is_some());
}

/// The number of a descriptor is given out again at once, while the event of its last owner is still to be told.
#[test]
fn a_source_does_not_get_the_event_of_one_whose_descriptor_it_inherited() {
    type Watched = Rc<RefCell<Option<(Watch<Pipe>, RawFd)>>>;
    let (reactor, heirs) = (reactor(), Pieces::default());
    let (one, other): (Watched, Watched) = Default::default();
    let rooms = Rc::new(RefCell::new(Vec::new()));
    let mut far_ends = Vec::new();
    for (own, rival) in [(one.clone(), other.clone()), (other, one)] {
        let (ours, theirs) = pipe();
        far_ends.push(theirs);
        let (heirs, rooms, fd) = (heirs.clone(), rooms.clone(), ours.get_ref().as_raw_fd());
        // Whoever of the two comes first takes the other one off the loop, and puts something else in its place.
        let handler = move |reactor: &Reactor, _: &mut Pipe, _: Readiness| {
            let Some((watch, number)) = rival.take() else { return Ok(Next::Wait) };
            drop(watch.remove().expect("its handler does not run"));
            loop {
                let (ours, theirs) = pipe();
                let is_heir = ours.get_ref().as_raw_fd() == number;
                rooms.borrow_mut().push(theirs);
                let heir = reactor.watch(ours, Interest::READABLE, heirs.up_to(100, Next::Wait))?;
                if is_heir {
                    return Ok(Next::Wait);
                }
                assert!(rooms.borrow().len() < 100, "the lowest number that is free is given out");
                drop(heir);
            }
        };
        own.replace(Some((reactor.watch(ours, Interest::READABLE, handler).expect("it can be polled"), fd)));
    }
    far_ends.iter_mut().for_each(|end| end.write_all(b"x").expect("room"));
    turn_until(&reactor, || !rooms.borrow().is_empty());
    settle(&reactor);
    assert_eq!(heirs.take(), [""; 0], "nobody has written to them");
    rooms.borrow_mut().last_mut().expect("an heir").write_all(b"for the heir").expect("room");
    settle(&reactor);
    assert_eq!(heirs.take(), ["for the heir"]);
    assert_eq!(logged(), [""; 0]);
}

/// A source is the program's own, and may call back while it is registered.
#[test]
fn a_source_may_do_anything_to_its_watch_while_its_interest_changes() {
    type Slot = Rc<RefCell<Option<Watch<Meddler>>>>;
    struct Meddler {
        pipe: Pipe,
        watch: Slot,
        alive: Rc<()>,
    }
    impl Meddler {
        fn meddle(&self) {
            let watch = self.watch.borrow().clone();
            if let Some(watch) = watch {
                // Refused once it was taken off.
                let _ = watch.set_interest(Interest::READABLE);
                watch.call_again();
                assert!(watch.remove().is_none(), "it is in use");
            }
        }
    }
    impl Source for Meddler {
        fn register(&mut self, to: &Registry, token: Token, interest: Interest) -> io::Result<()> {
            self.pipe.register(to, token, interest)
        }
        fn reregister(&mut self, to: &Registry, token: Token, interest: Interest) -> io::Result<()> {
            self.meddle();
            self.pipe.reregister(to, token, interest)
        }
        fn deregister(&mut self, from: &Registry) -> io::Result<()> {
            self.meddle();
            self.pipe.deregister(from)
        }
    }
    let (reactor, slot, alive) = (reactor(), Slot::default(), Rc::new(()));
    let (pipe, _theirs) = pipe();
    let source = Meddler { pipe, watch: slot.clone(), alive: alive.clone() };
    let watch = reactor.watch(source, Interest::READABLE, |_, it, _| {
        assert_eq!(Rc::strong_count(&it.alive), 2);
        Ok(Next::Wait)
    });
    let watch = watch.expect("it can be polled");
    slot.replace(Some(watch.clone()));
    watch.set_interest(Interest::READABLE | Interest::WRITABLE).expect("it is watched");
    settle(&reactor);
    assert!(!watch.is_active(), "it was taken off from inside");
    assert_eq!((Rc::strong_count(&alive), logged()), (1, vec![]));
}

/// The poll is in use then, be it that nobody turns the reactor.
#[test]
fn a_source_may_neither_turn_nor_end_its_reactor_while_it_is_registered() {
    struct Hasty(Pipe, Reactor);
    impl Source for Hasty {
        fn register(&mut self, to: &Registry, token: Token, interest: Interest) -> io::Result<()> {
            assert!(self.1.turn(Some(Duration::ZERO)).is_err() && self.1.run().is_err());
            assert!(!self.1.shut_down().is_fired(), "later");
            self.0.register(to, token, interest)
        }
        fn reregister(&mut self, to: &Registry, token: Token, interest: Interest) -> io::Result<()> {
            self.0.reregister(to, token, interest)
        }
        fn deregister(&mut self, from: &Registry) -> io::Result<()> {
            self.0.deregister(from)
        }
    }
    let (reactor, (pipe, _theirs)) = (reactor(), pipe());
    drop(reactor.defer_to_thread(|| Ok(())));
    let hasty = Hasty(pipe, reactor.clone());
    let watch = reactor.watch(hasty, Interest::READABLE, |_, _, _| Ok(Next::Wait)).expect("it can be polled");
    assert!(watch.is_active());
    let over = reactor.shut_down();
    assert!(over.is_fired() && !watch.is_active());
}

#[test]
fn a_pipe_of_the_system_is_watched_for_room_to_write() {
    let reactor = reactor();
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let written = Rc::new(Cell::new(0));
    let total = written.clone();
    let ready = move |_: &Reactor, pipe: &mut Descriptor<io::PipeWriter>, readiness: Readiness| {
        assert!(readiness.is_writable() || readiness.is_again());
        total.set(total.get() + pipe.get_mut().write(&[7; 4096])?);
        Ok(if total.get() < 200_000 { Next::Again } else { Next::Remove })
    };
    let writer = Descriptor::nonblocking(writer).expect("a descriptor");
    let watch = reactor.watch(writer, Interest::WRITABLE, ready).expect("it can be polled");
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all.len())
    });
    turn_until(&reactor, || !watch.is_active());
    assert_eq!(reading.join().expect("no panic").expect("it reads"), written.get());
}
