//! The same programs on a reactor with sockets and on one in memory: what a double claims, it has to keep.
//!
//! A body is written against [`Ground`] and run on each. It may look at what happened and in which order, and at time only by
//! the clock of its ground.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{
    DatagramProtocol, LineProtocol, LineReceiver, LineTransport, MulticastInterface, Producer, ProducerKind, Transport,
    UdpPort,
};
use dosimeter::testing::{self, End, MemoryClient, MemoryReactor};
use dosimeter::{Clock, LoopingCall, Reactor, defer_later};
use net::{Probe, Story};
use support::turn_until;

const STEP: Duration = Duration::from_millis(20);

/// Where a program runs, and how its test waits and connects.
trait Ground {
    type Peer: Peer;

    fn reactor(&self) -> &Reactor;
    fn connect(&self, to: SocketAddr) -> Self::Peer;
    /// Waits until something is so, which it will be.
    fn until(&self, done: impl FnMut() -> bool);
}

/// The far end of a connection.
trait Peer {
    fn send(&mut self, data: &[u8]);
    fn send_end(&mut self);
    fn received(&mut self) -> Vec<u8>;
    fn end(&mut self) -> Option<End>;
    /// Breaks the connection.
    fn reset(self);
}

struct Sockets(Reactor);

impl Ground for Sockets {
    type Peer = net::Client;

    fn reactor(&self) -> &Reactor {
        &self.0
    }

    fn connect(&self, to: SocketAddr) -> net::Client {
        net::Client::connect(to)
    }

    fn until(&self, done: impl FnMut() -> bool) {
        turn_until(&self.0, done);
    }
}

impl Peer for net::Client {
    fn send(&mut self, data: &[u8]) {
        net::Client::send(self, data);
    }

    fn send_end(&mut self) {
        net::Client::send_end(self);
    }

    fn received(&mut self) -> Vec<u8> {
        self.read().to_vec()
    }

    fn end(&mut self) -> Option<End> {
        self.read();
        self.error.map(|_| End::Reset).or(self.ended.then_some(End::Closed))
    }

    fn reset(self) {
        net::Client::reset(self).expect("a socket");
    }
}

impl Ground for MemoryReactor {
    type Peer = MemoryClient;

    fn reactor(&self) -> &Reactor {
        MemoryReactor::reactor(self)
    }

    fn connect(&self, to: SocketAddr) -> MemoryClient {
        MemoryReactor::connect(self, to)
    }

    fn until(&self, done: impl FnMut() -> bool) {
        assert!(self.advance_until(Duration::from_secs(20), done), "it did not happen");
    }
}

impl Peer for MemoryClient {
    fn send(&mut self, data: &[u8]) {
        assert_eq!(MemoryClient::send(self, data), data.len());
    }

    fn send_end(&mut self) {
        MemoryClient::send_end(self);
    }

    fn received(&mut self) -> Vec<u8> {
        MemoryClient::received(self)
    }

    fn end(&mut self) -> Option<End> {
        MemoryClient::end(self)
    }

    fn reset(self) {
        MemoryClient::reset(self);
    }
}

/// A test of each of these bodies on both grounds.
macro_rules! on_both_grounds {
    ($($body:ident)*) => {
        mod sockets {
            $(#[test] fn $body() { super::$body(&super::Sockets(super::support::reactor())); })*
        }
        mod memory {
            $(#[test] fn $body() { super::$body(&super::MemoryReactor::new()); })*
        }
    };
}

on_both_grounds! {
    calls_run_by_deadline_and_equal_ones_in_order
    a_call_without_delay_runs_after_those_of_its_turn
    what_is_due_together_may_be_cancelled_and_moved
    loops_and_chains_wait_on_the_clock
    jobs_and_calls_from_threads_come_back
    a_connection_tells_its_story
    a_half_closed_peer_gets_all_of_its_answer
    a_paused_connection_reads_nothing
    more_than_anybody_keeps_is_sent_when_the_peer_reads
    an_aborted_connection_is_reset
    a_connection_that_is_over_in_both_directions_is_lost
    a_reset_ends_a_connection_that_waits_for_its_producer
    the_end_is_told_to_everybody_be_they_paused_or_waited_for
    lines_come_and_go
    a_port_that_is_stopped_can_be_opened_again
    datagrams_are_delivered_whole_and_in_order
    a_connected_datagram_port_hears_one_peer_and_is_told_of_its_absence
    a_datagram_port_has_its_address_alone_until_it_is_stopped
}

fn calls_run_by_deadline_and_equal_ones_in_order(ground: &impl Ground) {
    let told = told_by(|note| {
        for (number, steps) in [3, 1, 2, 1, 3].into_iter().enumerate() {
            let note = note.clone();
            ground.reactor().call_later(steps * STEP, move || note(format!("{steps}:{number}")));
        }
        ground.until(|| ground.reactor().timers().pending().is_empty());
    });
    assert_eq!(told, ["1:1", "1:3", "2:2", "3:0", "3:4"]);
}

fn a_call_without_delay_runs_after_those_of_its_turn(ground: &impl Ground) {
    let told = told_by(|note| {
        let (clock, outer, inner, other) = (ground.reactor().clone(), note.clone(), note.clone(), note.clone());
        ground.reactor().call_soon(move || {
            clock.call_soon(move || inner("inner".into()));
            outer("outer".into());
        });
        ground.reactor().call_soon(move || other("other".into()));
        ground.until(|| ground.reactor().timers().pending().is_empty());
    });
    assert_eq!(told, ["outer", "other", "inner"]);
}

fn what_is_due_together_may_be_cancelled_and_moved(ground: &impl Ground) {
    let told = told_by(|note| {
        let (moved, cancelled) = (note.clone(), note.clone());
        let acts = Rc::new(RefCell::new(Vec::new()));
        let others = acts.clone();
        ground.reactor().call_later(STEP, move || {
            let [moved, cancelled]: [dosimeter::DelayedCall; 2] = others.take().try_into().expect("two calls");
            moved.delay(STEP).expect("it is pending");
            cancelled.cancel().expect("it is pending");
        });
        acts.borrow_mut().push(ground.reactor().call_later(STEP, move || moved("moved".into())));
        acts.borrow_mut().push(ground.reactor().call_later(STEP, move || cancelled("cancelled".into())));
        let last = note.clone();
        ground.reactor().call_later(STEP, move || last("last".into()));
        ground.until(|| ground.reactor().timers().pending().is_empty());
    });
    assert_eq!(told, ["last", "moved"]);
}

fn loops_and_chains_wait_on_the_clock(ground: &impl Ground) {
    let (reactor, count) = (ground.reactor(), Rc::new(RefCell::new(0)));
    let (start, counter) = (reactor.now(), count.clone());
    let beat = LoopingCall::with_count(reactor, move |ticks| *counter.borrow_mut() += ticks);
    let ended = beat.start(STEP);
    let late = defer_later(reactor, 5 * STEP, || "late");
    ground.until(|| late.is_fired());
    beat.stop().expect("it runs");
    let steps = (reactor.now() - start).as_nanos() / STEP.as_nanos();
    assert!(ended.is_fired() && steps >= 5);
    let ticks = u128::from(*count.borrow());
    assert!((5..=steps + 1).contains(&ticks), "{ticks} ticks in {steps} steps");
}

fn jobs_and_calls_from_threads_come_back(ground: &impl Ground) {
    let job = ground.reactor().defer_to_thread(|| Ok(6 * 7));
    let failing = ground.reactor().defer_to_thread(|| -> dosimeter::Result<()> { panic!("in a job") });
    let (sender, receiver) = std::sync::mpsc::channel();
    for number in 0..3 {
        let sender = sender.clone();
        let note = move |_: &Reactor| sender.send(number).expect("the test waits for it");
        ground.reactor().remote().call_from_thread(note).expect("the reactor lives");
    }
    ground.until(|| job.is_fired() && failing.is_fired());
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(testing::success_result_of(job), 42);
    assert!(testing::failure_result_of(failing).is_panic());
}

fn a_connection_tells_its_story(ground: &impl Ground) {
    let story = Story::default();
    let make = echo(&story);
    let mut peer = ground.connect(net::serve(ground.reactor(), make));
    peer.send(b"hello");
    ground.until(|| peer.received() == b"hello");
    peer.send_end();
    ground.until(|| peer.end().is_some());
    assert_eq!((peer.end(), story.told()), (Some(End::Closed), list(&["made", "hello", "eof", "lost: done"])));
}

fn a_half_closed_peer_gets_all_of_its_answer(ground: &impl Ground) {
    let story = Story::default();
    let told = story.clone();
    let addr = net::serve(ground.reactor(), move || {
        Probe::new(&told).on_eof(|transport| {
            transport.write(vec![b'x'; 300_000]);
            transport.lose_connection();
        })
    });
    let mut peer = ground.connect(addr);
    peer.send(b"all of it");
    peer.send_end();
    ground.until(|| peer.end().is_some());
    assert_eq!((peer.received().len(), peer.end()), (300_000, Some(End::Closed)));
    assert_eq!(story.told(), list(&["made", "all of it", "eof", "lost: done"]));
}

fn a_paused_connection_reads_nothing(ground: &impl Ground) {
    let (story, shared) = (Story::default(), net::Shared::default());
    let (told, transport) = (story.clone(), shared.clone());
    let addr = net::serve(ground.reactor(), move || {
        Probe::new(&told).sharing(&transport).on_data(|transport, _| transport.pause_reading())
    });
    let mut peer = ground.connect(addr);
    peer.send(b"one");
    ground.until(|| story.has("one"));
    peer.send(b"two");
    let later = defer_later(ground.reactor(), STEP, || ());
    ground.until(|| later.is_fired());
    assert!(!story.has("two"));
    shared.borrow().as_ref().expect("connected").resume_reading();
    ground.until(|| story.has("two"));
}

fn more_than_anybody_keeps_is_sent_when_the_peer_reads(ground: &impl Ground) {
    let story = Story::default();
    let told = story.clone();
    let addr = net::serve(ground.reactor(), move || {
        Probe::new(&told)
            .on_made(|transport| transport.write(vec![b'x'; 20_000_000]))
            .on_resume(|transport| transport.lose_connection())
    });
    let mut peer = ground.connect(addr);
    ground.until(|| peer.end().is_some());
    assert_eq!((peer.received().len(), peer.end()), (20_000_000, Some(End::Closed)));
    assert_eq!(story.told(), list(&["made", "resume", "lost: done"]));
}

fn an_aborted_connection_is_reset(ground: &impl Ground) {
    let story = Story::default();
    let told = story.clone();
    let addr =
        net::serve(ground.reactor(), move || Probe::new(&told).on_data(|transport, _| transport.abort_connection()));
    let mut peer = ground.connect(addr);
    peer.send(b"go");
    ground.until(|| peer.end().is_some());
    assert_eq!((peer.end(), story.told()), (Some(End::Reset), list(&["made", "go", "lost: aborted"])));
}

/// Nothing can come any more, so nobody has to close it.
fn a_connection_that_is_over_in_both_directions_is_lost(ground: &impl Ground) {
    for ours_first in [true, false] {
        let story = Story::default();
        let told = story.clone();
        let addr = net::serve(ground.reactor(), move || {
            let at_once = move |transport: &Transport| ours_first.then(|| transport.lose_write_connection());
            let then = move |transport: &Transport| (!ours_first).then(|| transport.lose_write_connection());
            Probe::new(&told).on_made(move |it| _ = at_once(it)).on_eof(move |it| _ = then(it)).on_end(|_| ())
        });
        let mut peer = ground.connect(addr);
        if ours_first {
            ground.until(|| peer.end().is_some());
        }
        peer.send_end();
        ground.until(|| story.is_over());
        let order =
            if ours_first { ["made", "end", "eof", "lost: done"] } else { ["made", "eof", "end", "lost: done"] };
        assert_eq!(story.told(), list(&order));
        assert_eq!(peer.end(), Some(End::Closed));
    }
}

/// Or it would keep its descriptor for as long as the producer has nothing to write.
fn a_reset_ends_a_connection_that_waits_for_its_producer(ground: &impl Ground) {
    struct Slow(Story);
    impl Producer for Slow {
        fn resume_producing(&self) -> dosimeter::Result<()> {
            Ok(())
        }
        fn stop_producing(&self) {
            self.0.tell("stopped");
        }
    }
    let story = Story::default();
    let told = story.clone();
    let addr = net::serve(ground.reactor(), move || {
        let slow = told.clone();
        Probe::new(&told).on_made(move |transport| {
            let producer = Rc::new(Slow(slow.clone()));
            transport.register_producer(producer, ProducerKind::Push).expect("the only one");
            transport.lose_connection();
        })
    });
    let peer = ground.connect(addr);
    ground.until(|| story.has("made"));
    peer.reset();
    ground.until(|| story.is_over());
    assert_eq!(story.told(), list(&["made", "stopped", "lost: ConnectionReset"]));
}

fn the_end_is_told_to_everybody_be_they_paused_or_waited_for(ground: &impl Ground) {
    let story = Story::default();
    let told = story.clone();
    let addr = net::serve(ground.reactor(), move || {
        Probe::new(&told).on_eof(|_| ()).on_data(|transport, data| match data {
            b"pause" => transport.pause_reading(),
            b"much" => transport.write(vec![b'x'; 20_000_000]),
            b"lose" => {
                transport.write(vec![b'x'; 20_000_000]);
                transport.lose_connection();
            }
            _ => transport.lose_write_connection(),
        })
    });
    let texts = ["pause", "much", "lose", "end"];
    let mut peers = texts.map(|text| {
        let mut peer = ground.connect(addr);
        peer.send(text.as_bytes());
        ground.until(|| story.has(text));
        peer
    });
    ground.reactor().shut_down();
    let told = story.told();
    let lost: Vec<_> = told.iter().filter(|told| told.starts_with("lost")).collect();
    assert_eq!(lost.len(), texts.len(), "{told:?}");
    // One may have had the time to take all of it.
    assert!(lost.iter().filter(|told| **told == "lost: reactor stopped").count() >= texts.len() - 1, "{told:?}");
    assert!(peers.iter_mut().all(|peer| peer.end().is_some()));
}

fn lines_come_and_go(ground: &impl Ground) {
    struct Shout;

    impl LineProtocol for Shout {
        fn line_received(&mut self, lines: &LineTransport, line: &[u8]) -> dosimeter::Result<()> {
            lines.send_line(line.to_ascii_uppercase());
            Ok(())
        }
    }

    let make = |_: &dosimeter::net::Address| LineReceiver::new(Shout);
    let port = ground.reactor().listen_tcp("127.0.0.1:0", make).expect("a free port");
    let mut peer = ground.connect(port.local_addr());
    peer.send(b"one\r\ntwo\r\nthr");
    ground.until(|| peer.received() == b"ONE\r\nTWO\r\n");
    peer.send(b"ee\r\n");
    ground.until(|| peer.received() == b"ONE\r\nTWO\r\nTHREE\r\n");
}

fn a_port_that_is_stopped_can_be_opened_again(ground: &impl Ground) {
    let (story, reactor) = (Story::default(), ground.reactor());
    let make = echo(&story);
    let port = reactor.listen_tcp("127.0.0.1:0", move |_: &dosimeter::net::Address| make()).expect("a free port");
    let addr = port.local_addr();
    let make = echo(&story);
    let taken = reactor.listen_tcp(addr, move |_: &dosimeter::net::Address| make());
    assert!(taken.is_err(), "two of them on one port");
    let stopped = port.stop_listening();
    testing::assert_no_result(&stopped);
    ground.until(|| stopped.is_fired());
    let make = echo(&story);
    reactor.listen_tcp(addr, move |_: &dosimeter::net::Address| make()).expect("it is free again");
    let mut peer = ground.connect(addr);
    peer.send(b"again");
    ground.until(|| peer.received() == b"again");
}

/// Tells of its datagrams, and answers them.
struct Datagrams {
    story: Story,
    answers: bool,
}

impl DatagramProtocol for Datagrams {
    fn datagram_received(&mut self, port: &UdpPort, data: &[u8], from: SocketAddr) -> dosimeter::Result<()> {
        self.story.tell(format!("{} from {from}", data.escape_ascii()));
        if self.answers {
            port.send_to(data.to_ascii_uppercase(), from)?;
        }
        Ok(())
    }

    fn connection_refused(&mut self, _port: &UdpPort) {
        self.story.tell("refused");
    }

    fn stop_protocol(&mut self, _port: &UdpPort) {
        self.story.tell("stop");
    }
}

fn datagrams(ground: &impl Ground, answers: bool) -> (UdpPort, Story) {
    let story = Story::default();
    let protocol = Datagrams { story: story.clone(), answers };
    (ground.reactor().listen_udp("127.0.0.1:0", protocol).expect("a free port"), story)
}

fn datagrams_are_delivered_whole_and_in_order(ground: &impl Ground) {
    let ((server, asked), (client, answered)) = (datagrams(ground, true), datagrams(ground, false));
    let (to, from) = (server.local_addr(), client.local_addr());
    for text in ["one", "", "two"] {
        client.send_to(text, to).expect("room");
    }
    ground.until(|| answered.told().len() == 3);
    assert_eq!(asked.told(), ["one", "", "two"].map(|text| format!("{text} from {from}")));
    assert_eq!(answered.told(), ["ONE", "", "TWO"].map(|text| format!("{text} from {to}")));
    assert!(client.send_to(vec![0; 65_508], to).is_err(), "longer than a datagram can be");
    client.send_to(vec![b'x'; 65_507], to).expect("the longest");
    ground.until(|| asked.told().len() == 4 && answered.told().len() == 4);
    let groups = client.join_group([224, 0, 0, 251].into(), MulticastInterface::Index(1));
    assert_eq!(groups.expect_err("the interface of the other family").kind(), std::io::ErrorKind::InvalidInput);
}

fn a_connected_datagram_port_hears_one_peer_and_is_told_of_its_absence(ground: &impl Ground) {
    let ((server, _), (stranger, _), (client, told)) =
        (datagrams(ground, true), datagrams(ground, false), datagrams(ground, false));
    assert!(client.send("too early").is_err());
    client.connect(server.local_addr()).expect("an address of its family");
    assert!(client.connect(server.local_addr()).is_err(), "once");
    stranger.send_to("not heard", client.local_addr()).expect("sent all the same");
    client.send("heard").expect("connected");
    ground.until(|| !told.told().is_empty());
    assert_eq!(told.told(), [format!("HEARD from {}", server.local_addr())]);
    let gone = server.stop_listening();
    ground.until(|| gone.is_fired());
    client.send("to nobody").expect("who knows");
    ground.until(|| told.has("refused"));
}

fn a_datagram_port_has_its_address_alone_until_it_is_stopped(ground: &impl Ground) {
    let (port, story) = datagrams(ground, false);
    let addr = port.local_addr();
    let again = || {
        let protocol = Datagrams { story: Story::default(), answers: false };
        ground.reactor().listen_udp(addr, protocol)
    };
    let taken = again().expect_err("two of them on one port");
    assert!(taken.to_string().starts_with(&format!("cannot listen on UDP {addr}: ")), "{taken}");
    let stopped = port.stop_listening();
    testing::assert_no_result(&stopped);
    ground.until(|| stopped.is_fired());
    assert_eq!(story.told(), ["stop"]);
    assert!(port.send_to("x", addr).is_err(), "it is closed");
    again().expect("it is free again");
}

fn echo(story: &Story) -> impl Fn() -> Probe + 'static {
    let story = story.clone();
    move || Probe::new(&story).on_data(|transport, data| transport.write(data))
}

fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

/// What `body` noted, in order.
fn told_by(body: impl FnOnce(Rc<dyn Fn(String)>)) -> Vec<String> {
    let told: Rc<RefCell<Vec<String>>> = Rc::default();
    let list = told.clone();
    body(Rc::new(move |text| list.borrow_mut().push(text)));
    told.take()
}
