//! What a transport offers besides writing and closing: options, producers, halves, and patience.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{Address, Producer, ProducerKind, ProducerRegistered, TcpEndpoint, Transport};
use dosimeter::testing::{MemoryTransport, flush_all_logged_errors};
use dosimeter::{Clock, Result};
use net::{Client, Probe, Shared, Story, serve};
use support::{logged, reactor, turn_until};

const KIB: usize = 1024;

// ---- options and writes -------------------------------------------------------------------------------

#[test]
fn nodelay_and_keepalive_are_those_of_the_port_and_can_be_changed() {
    let reactor = reactor();
    let idle = Duration::from_secs(77);
    let plain = TcpEndpoint::new("127.0.0.1:0");
    let other = plain.clone().nodelay(false).keepalive(idle);
    for (endpoint, nodelay, keepalive) in [(plain, true, None), (other, false, Some(idle))] {
        let shared = Shared::default();
        let made = shared.clone();
        let port = reactor.listen(endpoint, move |_: &Address| Probe::new(&Story::default()).sharing(&made));
        let _client = Client::connect(port.expect("a free port").local_addr());
        turn_until(&reactor, || shared.borrow().is_some());
        let transport = shared.borrow().clone().expect("made");
        assert_eq!(transport.nodelay().expect("TCP"), nodelay);
        assert_eq!(transport.keepalive().expect("TCP"), keepalive);
        transport.set_nodelay(!nodelay).expect("TCP");
        assert_eq!(transport.nodelay().expect("TCP"), !nodelay);
        for idle in [Some(Duration::from_secs(33)), None] {
            transport.set_keepalive(idle).expect("TCP");
            assert_eq!(transport.keepalive().expect("TCP"), idle);
        }
        transport.abort_connection();
        turn_until(&reactor, || !transport.is_connected());
        assert_eq!(transport.nodelay().unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(transport.set_keepalive(None).unwrap_err().kind(), ErrorKind::NotConnected);
    }
}

#[test]
fn a_connection_that_has_no_options_says_so() {
    let wire = MemoryTransport::new(Probe::new(&Story::default()));
    assert_eq!(wire.transport().nodelay().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(wire.transport().set_nodelay(true).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn many_slices_are_written_as_one_by_one() {
    let wire = MemoryTransport::new(Probe::new(&Story::default()).on_made(|transport| {
        transport.write_vectored(["a", "", "bc"]);
        transport.write_vectored([vec![b'd'; 3], Vec::new()]);
        transport.write_vectored(Vec::<&[u8]>::new());
    }));
    assert_eq!(wire.take(), b"abcddd");
}

#[test]
fn a_large_output_arrives_whole_and_its_sender_does_not_keep_others_waiting() {
    let reactor = reactor();
    let turns = Rc::new(Cell::new(0));
    let addr = serve(&reactor, || {
        Probe::new(&Story::default()).on_made(|transport| transport.write(vec![b'x'; 64 * KIB * KIB]))
    });
    count_turns(&reactor, &turns);
    let client = Client::connect(addr);
    let reader = std::thread::spawn(move || {
        client.socket.set_nonblocking(false).expect("a socket");
        std::io::copy(&mut std::io::Read::take(&client.socket, 64 << 20), &mut std::io::sink()).expect("all of it")
    });
    turn_until(&reactor, || reader.is_finished());
    assert_eq!(reader.join().expect("no panic"), 64 << 20);
    assert!(turns.get() > 32, "{} turns for 64 MiB: the loop stood still meanwhile", turns.get());
}

fn count_turns(reactor: &dosimeter::Reactor, turns: &Rc<Cell<u32>>) {
    turns.set(turns.get() + 1);
    let (again, turns) = (reactor.clone(), turns.clone());
    reactor.call_soon(move || count_turns(&again, &turns));
}

// ---- the ends of a connection ---------------------------------------------------------------------------

#[test]
fn in_connection_lost_both_addresses_are_still_known() {
    let reactor = reactor();
    let seen = Rc::new(RefCell::new(None));
    let told = seen.clone();
    let addr = serve(&reactor, move || {
        let told = told.clone();
        Probe::new(&Story::default()).on_lost(move |transport, _| {
            told.replace(Some((transport.peer_addr(), transport.local_addr())));
        })
    });
    let client = Client::connect(addr);
    let peer = client.socket.local_addr().expect("connected");
    drop(client);
    turn_until(&reactor, || seen.borrow().is_some());
    let (told_peer, told_local) = seen.take().expect("told");
    assert_eq!(told_peer, Address::Inet(peer));
    assert_eq!(told_local.expect("the socket is not yet closed"), Address::Inet(addr));
}

#[test]
fn the_protocol_is_told_when_its_half_is_closed_and_goes_on_reading() {
    let story = Story::default();
    let probe = Probe::new(&story).on_end(|transport| transport.write("dropped"));
    let wire = MemoryTransport::new(probe);
    wire.stop_reading(0);
    wire.transport().write("all of it");
    wire.transport().lose_write_connection();
    wire.memory().settle();
    assert_eq!(story.told(), ["made"], "not before it is sent");
    wire.resume_reading();
    assert_eq!(story.told(), ["made", "end"]);
    wire.receive("still here");
    wire.receive_end();
    assert_eq!(story.told(), ["made", "end", "still here", "eof", "lost: done"]);
    assert_eq!(wire.take(), b"all of it");
}

#[test]
fn a_protocol_may_close_when_its_half_is_closed() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story).on_end(Transport::lose_connection));
    wire.transport().lose_write_connection();
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "end", "lost: done"]);
}

/// Twisted waits for ever.
#[test]
fn a_peer_that_takes_nothing_of_the_last_output_is_given_up() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story));
    wire.stop_reading(0);
    wire.transport().write("x");
    wire.transport().lose_connection();
    wire.advance(Duration::from_secs(29));
    assert_eq!(story.told(), ["made"]);
    wire.advance(Duration::from_secs(1));
    assert_eq!(story.told(), ["made", "lost: TimedOut"]);
    wire.resume_reading();
    assert!(wire.is_aborted(), "what it did not take is thrown away");
    assert_eq!(wire.memory().reactor().timers().pending().len(), 0);
}

#[test]
fn a_peer_that_takes_a_little_now_and_then_is_waited_for() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story));
    wire.stop_reading(0);
    wire.transport().write([b'x'; 100]);
    wire.transport().lose_connection();
    for taken in 1..10 {
        wire.advance(Duration::from_secs(25));
        wire.stop_reading(10 * taken);
    }
    assert_eq!(story.told(), ["made"]);
    wire.resume_reading();
    assert_eq!(story.told(), ["made", "lost: done"]);
    assert_eq!(wire.memory().reactor().timers().pending().len(), 0);
}

#[test]
fn the_failure_of_a_protocol_is_the_reason_also_when_its_peer_does_not_read() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story).on_data(|transport, _| {
        transport.write("sorry");
        Err::<(), _>("a slip".into())
    }));
    wire.stop_reading(0);
    wire.receive("x");
    wire.advance(Duration::from_secs(60));
    assert_eq!(story.told(), ["made", "x", "lost: a slip"]);
    assert_eq!(flush_all_logged_errors().len(), 1);
}

// ---- producers --------------------------------------------------------------------------------------------

/// Tells what it is told and does what the test wants.
struct Source {
    story: Story,
    on_resume: RefCell<Box<dyn FnMut() -> Result<()>>>,
}

impl Source {
    fn new(story: &Story, on_resume: impl FnMut() -> Result<()> + 'static) -> Rc<Self> {
        Rc::new(Source { story: story.clone(), on_resume: RefCell::new(Box::new(on_resume)) })
    }

    fn mute(story: &Story) -> Rc<Self> {
        Source::new(story, || Ok(()))
    }
}

impl Producer for Source {
    fn resume_producing(&self) -> Result<()> {
        self.story.tell("resume");
        (self.on_resume.borrow_mut())()
    }

    fn pause_producing(&self) {
        self.story.tell("pause");
    }

    fn stop_producing(&self) {
        self.story.tell("stop");
    }
}

/// A connection whose peer takes `room` bytes, and its story from then on.
fn wire(room: usize) -> (MemoryTransport, Transport, Story) {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story));
    wire.stop_reading(room);
    let transport = wire.transport();
    (wire, transport, story)
}

#[test]
fn a_push_producer_is_paused_when_much_is_unsent_and_resumed_when_all_is_sent() {
    let (wire, transport, story) = wire(0);
    transport.register_producer(Source::mute(&story), ProducerKind::Push).expect("the first");
    transport.write(vec![0; 64 * KIB]);
    wire.memory().settle();
    assert_eq!(story.told(), ["made"], "neither resumed at the beginning nor paused yet");
    transport.write([0]);
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "pause"]);
    transport.write([0; 100]);
    wire.memory().settle();
    wire.stop_reading(60 * KIB);
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "pause"], "once, and some is unsent");
    wire.resume_reading();
    assert_eq!(story.told(), ["made", "pause", "resume"]);
    transport.write("a little");
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "pause", "resume"], "it was not paused");
}

#[test]
fn a_pull_producer_is_resumed_at_once_and_whenever_all_is_sent() {
    let (wire, transport, story) = wire(1 << 20);
    let (left, to) = (Cell::new(3), transport.clone());
    let source = Source::new(&story, move || {
        match left.replace(left.get() - 1) {
            0 => to.unregister_producer(),
            _ => to.write(vec![b'x'; 100 * KIB]),
        }
        Ok(())
    });
    transport.register_producer(source, ProducerKind::Pull).expect("the first");
    assert_eq!(story.told(), ["made"], "never from inside a method of the transport");
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "resume", "resume", "resume", "resume"], "never paused");
    wire.resume_reading();
    assert_eq!(wire.take().len(), 300 * KIB);
}

#[test]
fn a_pull_producer_that_has_nothing_is_asked_again_when_something_else_was_sent() {
    let (wire, transport, story) = wire(1 << 20);
    transport.register_producer(Source::mute(&story), ProducerKind::Pull).expect("the first");
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "resume"], "it does not spin");
    transport.write("something else");
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "resume", "resume"]);
}

#[test]
fn a_producer_that_fills_the_transport_again_when_resumed_is_paused_again() {
    let (wire, transport, story) = wire(0);
    let to = transport.clone();
    let source = Source::new(&story, move || {
        to.write(vec![b'x'; 100 * KIB]);
        Ok(())
    });
    transport.register_producer(source, ProducerKind::Push).expect("the first");
    transport.write(vec![b'x'; 100 * KIB]);
    for round in 0..3 {
        wire.memory().settle();
        assert_eq!(story.told().len(), 2 + 2 * round, "{:?}", story.told());
        assert_eq!(story.told().last().map(String::as_str), Some("pause"));
        assert_eq!(transport.unsent(), 100 * KIB);
        // Room for what waits, and for nothing more.
        wire.stop_reading(100 * KIB * (round + 1));
    }
}

#[test]
fn a_transport_has_one_producer_at_a_time() {
    let (_wire, transport, story) = wire(0);
    transport.register_producer(Source::mute(&story), ProducerKind::Push).expect("the first");
    for kind in [ProducerKind::Push, ProducerKind::Pull] {
        let _: ProducerRegistered = transport.register_producer(Source::mute(&story), kind).unwrap_err();
    }
    transport.unregister_producer();
    transport.unregister_producer();
    transport.register_producer(Source::mute(&story), ProducerKind::Push).expect("the first again");
}

#[test]
fn a_producer_on_a_lost_connection_is_stopped_at_once() {
    let (wire, transport, story) = wire(0);
    wire.break_off();
    transport.register_producer(Source::mute(&story), ProducerKind::Pull).expect("not an error");
    assert_eq!(story.told().last().map(String::as_str), Some("stop"));
    transport.unregister_producer();
}

#[test]
fn closing_waits_for_the_producer_and_goes_on_when_it_is_unregistered() {
    let (wire, transport, story) = wire(1 << 20);
    transport.register_producer(Source::mute(&story), ProducerKind::Push).expect("the first");
    transport.lose_connection();
    wire.advance(Duration::from_secs(3600));
    transport.write("the last words");
    wire.memory().settle();
    assert_eq!(story.told(), ["made"]);
    transport.unregister_producer();
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "lost: done"], "and it is not stopped: it had ended by itself");
    wire.resume_reading();
    assert_eq!(wire.take(), b"the last words");
}

#[test]
fn a_half_close_waits_for_the_producer_as_well() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story).on_end(|_| ()));
    let transport = wire.transport();
    transport.register_producer(Source::mute(&story), ProducerKind::Push).expect("the first");
    transport.lose_write_connection();
    wire.memory().settle();
    assert_eq!(story.told(), ["made"]);
    transport.unregister_producer();
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "end"]);
}

#[test]
fn a_producer_is_stopped_before_the_protocol_is_told_of_the_end() {
    type Ending = fn(&MemoryTransport);
    let endings: [Ending; 4] = [
        |wire| wire.break_off(),
        |wire| {
            wire.transport().abort_connection();
            wire.memory().settle();
        },
        |wire| {
            // With this much unsent it would not be read.
            wire.resume_reading();
            wire.receive("fail");
        },
        // The end of a paused connection is told as well.
        |wire| {
            let stop = wire.memory().reactor().clone();
            stop.clone().call_soon(move || stop.stop().expect("it runs"));
            wire.memory().reactor().run().expect("a run");
        },
    ];
    for end in endings {
        let story = Story::default();
        let wire = MemoryTransport::new(Probe::new(&story).on_data(|_, _| Err::<(), _>("a slip".into())));
        wire.stop_reading(0);
        let transport = wire.transport();
        transport.register_producer(Source::mute(&story), ProducerKind::Push).expect("the first");
        transport.write(vec![0; 100 * KIB]);
        wire.memory().settle();
        end(&wire);
        let told = story.told();
        let stop = told.iter().position(|told| told == "stop").expect("stopped");
        assert!(told[stop + 1].starts_with("lost") && story.is_over() && told.len() == stop + 2, "{told:?}");
        flush_all_logged_errors();
    }
}

#[test]
fn an_error_or_a_panic_of_a_producer_ends_the_connection() {
    support::keep_logs();
    for panics in [false, true] {
        let (wire, transport, story) = wire(1 << 20);
        let source = Source::new(&story, move || if panics { panic!("a slip") } else { Err("a slip".into()) });
        transport.register_producer(source, ProducerKind::Pull).expect("the first");
        wire.memory().settle();
        let reason = if panics { "lost: panicked: a slip" } else { "lost: a slip" };
        assert_eq!(story.told(), ["made", "resume", "stop", reason]);
        let lines = logged();
        assert!(lines.len() == 1 && lines[0].contains("a slip"), "{lines:?}");
        assert_eq!(flush_all_logged_errors().len(), 1);
    }
}

/// Twisted's port forwarder: what one peer sends the other one gets, no faster than it reads.
#[test]
fn two_connections_that_are_each_others_producers_keep_each_others_pace() {
    let reactor = reactor();
    let pair: Rc<RefCell<Vec<Transport>>> = Rc::default();
    let made = pair.clone();
    let addr = serve(&reactor, move || {
        let (joined, to) = (made.clone(), made.clone());
        Probe::new(&Story::default())
            .on_made(move |transport| -> Result<()> {
                joined.borrow_mut().push(transport.clone());
                if let [first, second] = &joined.borrow()[..] {
                    first.register_producer(Rc::new(second.clone()), ProducerKind::Push)?;
                    second.register_producer(Rc::new(first.clone()), ProducerKind::Push)?;
                }
                Ok(())
            })
            .on_data(move |transport, data| {
                let peer = to.borrow().iter().find(|other| other.peer_addr() != transport.peer_addr()).cloned();
                peer.expect("both are there").write(data);
            })
    });
    let mut one = Client::connect(addr);
    turn_until(&reactor, || pair.borrow().len() == 1);
    let mut other = Client::connect(addr);
    turn_until(&reactor, || pair.borrow().len() == 2);
    let (block, mut sent, mut most) = (vec![b'x'; 64 * KIB], 0, 0);
    // Until the other end, which does not read, has stopped this one.
    let mut idle = 0;
    turn_until(&reactor, || {
        let count = one.send_some(&block);
        sent += count;
        most = most.max(pair.borrow()[1].unsent());
        idle = if count == 0 { idle + 1 } else { 0 };
        idle > 20
    });
    assert!(most <= 192 * KIB, "{most} bytes waited in between");
    turn_until(&reactor, || other.read().len() == sent);
    one.send(b"and on");
    turn_until(&reactor, || other.read().len() == sent + 6);
}
