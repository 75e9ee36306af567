//! Reactors, connections and clients in memory: what a test may do with them, and that it finds the truth.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{Address, DatagramProtocol, MulticastInterface, Protocol, Transport, UdpPort};
use dosimeter::testing::{
    End, MemoryReactor, MemoryTransport, Pump, assert_no_result, flush_all_logged_errors, success_result_of,
};
use dosimeter::{Clock, LoopingCall, Reactor, Result, defer_later};
use net::{Probe, Shared, Story};

const SECOND: Duration = Duration::from_secs(1);

// ---- time -------------------------------------------------------------------------------------------

#[test]
fn time_stands_still_until_it_is_moved() {
    let memory = MemoryReactor::new();
    let now = memory.reactor().now();
    (0..10).for_each(|_| memory.turn());
    assert_eq!((memory.reactor().now(), memory.time()), (now, Duration::ZERO));
    memory.advance(SECOND);
    assert_eq!((memory.reactor().now(), memory.time()), (now + SECOND, SECOND));
}

#[test]
fn each_call_runs_at_its_own_time() {
    let memory = MemoryReactor::new();
    let (times, reactor) = (Rc::new(RefCell::new(Vec::new())), memory.reactor());
    let (seen, start, clock) = (times.clone(), reactor.now(), reactor.clone());
    let beat = LoopingCall::with_count(reactor, move |count| seen.borrow_mut().push((clock.now() - start, count)));
    let _ended = beat.start(SECOND);
    memory.advance(3 * SECOND);
    assert_eq!(*times.borrow(), [0, 1, 2, 3].map(|seconds| (seconds * SECOND, 1)));
}

#[test]
fn what_is_due_at_the_end_of_an_advance_is_run_and_what_it_sends_arrives() {
    let memory = MemoryReactor::new();
    let port = memory.reactor().listen_tcp(80, |_: &Address| Late).expect("nobody else listens");
    let client = memory.connect(port.local_addr());
    client.send("x");
    memory.advance(SECOND);
    assert_eq!(client.take(), b"x");
}

/// Gives back what it got, a second later.
struct Late;

impl Protocol for Late {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> dosimeter::Result<()> {
        let (transport, data) = (transport.clone(), data.to_vec());
        transport.reactor().clone().call_later(SECOND, move || transport.write(data));
        Ok(())
    }
}

#[test]
fn run_in_virtual_time_takes_none() {
    let memory = MemoryReactor::new();
    let stop = memory.reactor().clone();
    memory.reactor().call_later(1_000_000 * SECOND, move || stop.stop().expect("it runs"));
    memory.reactor().run().expect("a run");
    assert_eq!(memory.time(), 1_000_000 * SECOND);
}

#[test]
fn waiting_for_something_ends_when_it_is_there_or_the_patience_is_over() {
    let memory = MemoryReactor::new();
    let tea = defer_later(memory.reactor(), 180 * SECOND, || "tea");
    assert!(!memory.advance_until(60 * SECOND, || tea.is_fired()));
    assert_eq!(memory.time(), 60 * SECOND);
    assert!(memory.advance_until(600 * SECOND, || tea.is_fired()));
    assert_eq!((memory.time(), success_result_of(tea)), (180 * SECOND, "tea"));
}

#[test]
fn what_never_comes_to_rest_is_a_failed_test() {
    fn again(reactor: &Reactor) {
        let clone = reactor.clone();
        reactor.call_soon(move || again(&clone));
    }
    let memory = MemoryReactor::new();
    again(memory.reactor());
    let panic = catch_unwind(AssertUnwindSafe(|| memory.settle())).expect_err("it does not come to rest");
    assert!(panic.downcast_ref::<String>().expect("a text").contains("arm itself again"));
}

// ---- threads ----------------------------------------------------------------------------------------

#[test]
fn a_job_for_the_thread_pool_runs_in_this_thread_in_the_next_turn() {
    let memory = MemoryReactor::new();
    let here = std::thread::current().id();
    let job = memory.reactor().defer_to_thread(move || Ok(std::thread::current().id() == here));
    assert_no_result(&job);
    memory.settle();
    assert!(success_result_of(job));
}

#[test]
fn the_end_of_the_reactor_delivers_what_jobs_came_to() {
    let memory = MemoryReactor::new();
    let done = Rc::new(Cell::new(0));
    let result = done.clone();
    memory.reactor().defer_to_thread(|| Ok(7)).map(move |seven| result.set(seven));
    drop(memory);
    assert_eq!(done.get(), 7);
}

#[test]
fn a_reactor_that_has_ended_refuses_jobs() {
    let memory = MemoryReactor::new();
    let reactor = memory.reactor().clone();
    drop(memory);
    let refused = reactor.defer_to_thread(|| Ok(()));
    assert_eq!(dosimeter::testing::failure_result_of(refused).to_string(), "the reactor has stopped");
}

// ---- ports and clients ------------------------------------------------------------------------------

#[test]
fn ports_are_listed_and_found_by_their_number_until_they_are_closed() {
    let memory = MemoryReactor::new();
    let listen = |addr: &str| memory.reactor().listen_tcp(addr, |_: &Address| Late).expect("it is free");
    let (one, two) = (listen("127.0.0.1:0"), listen("0.0.0.0:80"));
    assert_ne!(one.local_addr().port(), 0);
    assert_eq!(memory.listening(), [one.local_addr(), two.local_addr()].map(Address::from));
    memory.connect(([192, 0, 2, 7], 80));
    let stopped = one.stop_listening();
    memory.settle();
    success_result_of(stopped);
    assert_eq!(memory.listening(), [two.local_addr().into()]);
}

#[test]
fn a_port_that_is_taken_is_refused_as_the_system_does() {
    let memory = MemoryReactor::new();
    let _port = memory.reactor().listen_tcp(80, |_: &Address| Late).expect("nobody else listens");
    let error = memory.reactor().listen_tcp(80, |_: &Address| Late).expect_err("it is taken");
    assert!(error.to_string().starts_with("cannot listen on"), "{error}");
}

#[test]
fn who_connects_to_nobody_is_told_who_there_is() {
    let memory = MemoryReactor::new();
    let _port = memory.reactor().listen_tcp("127.0.0.1:81", |_: &Address| Late).expect("nobody else listens");
    let panic = catch_unwind(AssertUnwindSafe(|| memory.connect(([127, 0, 0, 1], 80)))).expect_err("nobody listens");
    let message = panic.downcast_ref::<String>().expect("a text");
    assert!(message.starts_with("nobody listens on 127.0.0.1:80, only on "), "{message}");
    assert!(message.contains("127.0.0.1:81"), "{message}");
}

#[test]
fn a_protocol_sees_the_addresses_that_the_test_gives() {
    let memory = MemoryReactor::new();
    let seen = Rc::new(RefCell::new(String::new()));
    let (told, story) = (seen.clone(), Story::default());
    let make = move |peer: &Address| {
        let (told, peer) = (told.clone(), peer.clone());
        Probe::new(&story).on_made(move |transport| {
            let here = transport.local_addr().expect("connected");
            *told.borrow_mut() = format!("{peer} {} {here}", transport.peer_addr());
        })
    };
    memory.reactor().listen_tcp("10.0.0.1:80", make).expect("nobody else listens");
    let _client = memory.connect_from(([203, 0, 113, 9], 4000), ([10, 0, 0, 1], 80));
    assert_eq!(*seen.borrow(), "203.0.113.9:4000 203.0.113.9:4000 10.0.0.1:80");
}

#[test]
fn a_client_that_does_not_read_makes_the_server_wait_and_loses_nothing() {
    let wire = MemoryTransport::new(Probe::new(&Story::default()).on_resume(|transport| transport.write("!")));
    wire.stop_reading(1000);
    let transport = wire.transport();
    transport.write(vec![b'x'; 100_000]);
    wire.memory().settle();
    assert_eq!(transport.unsent(), 99_000);
    assert!(transport.is_congested() && !wire.is_reading());
    wire.resume_reading();
    let all = wire.take();
    assert_eq!((all.len(), all.last()), (100_001, Some(&b'!')));
    assert!(wire.is_reading());
}

#[test]
fn figures_are_those_of_this_reactor_alone() {
    let (one, other) = (MemoryReactor::new(), MemoryReactor::new());
    one.turn();
    let turns = |memory: &MemoryReactor| {
        let families = memory.registry().gather();
        let family = families.iter().find(|family| family.name() == "dosimeter_loop_iterations_total");
        family.expect("every reactor has it").get_metric()[0].get_counter().get_value()
    };
    assert_eq!((turns(&one), turns(&other)), (1.0, 0.0));
}

#[test]
fn a_dropped_reactor_tells_its_connections_and_is_freed() {
    let (story, shared) = (Story::default(), Shared::default());
    let memory = MemoryReactor::new();
    let weak = memory.reactor().downgrade();
    let make = {
        let (story, shared) = (story.clone(), shared.clone());
        move |_: &Address| Probe::new(&story).sharing(&shared)
    };
    memory.reactor().listen_tcp(80, make).expect("nobody else listens");
    let client = memory.connect(([127, 0, 0, 1], 80));
    drop(memory);
    assert_eq!(story.told(), ["made", "lost: reactor stopped"]);
    drop((client, shared.take()));
    assert!(weak.upgrade().is_none(), "something holds the reactor");
}

// ---- one protocol -----------------------------------------------------------------------------------

#[test]
fn a_protocol_is_told_what_the_test_does() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story));
    assert!(wire.is_connected() && wire.is_reading() && wire.lost().is_none());
    wire.receive("one");
    wire.receive("two");
    wire.receive_end();
    assert_eq!(story.told(), ["made", "one", "two", "eof", "lost: done"]);
    assert_eq!(wire.lost().as_deref(), Some("the connection was closed"));
}

#[test]
fn a_broken_connection_is_lost_with_an_error() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story));
    wire.break_off();
    assert_eq!(story.told(), ["made", "lost: ConnectionReset"]);
    assert!(!wire.is_connected());
}

#[test]
fn losing_waits_for_a_peer_that_does_not_read() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story).on_data(|transport, _| {
        transport.write("last words");
        transport.lose_connection();
    }));
    wire.stop_reading(4);
    wire.receive("quit");
    assert!(wire.is_losing() && wire.is_connected() && !wire.is_reading());
    wire.resume_reading();
    assert_eq!(wire.take(), b"last words");
    assert!(!wire.is_losing() && !wire.is_connected() && wire.has_ended() && !wire.is_aborted());
}

#[test]
fn aborting_is_a_reset_and_drops_what_was_not_sent() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story).on_data(|transport, _| transport.abort_connection()));
    wire.stop_reading(0);
    wire.transport().write("never seen");
    wire.receive("go");
    wire.resume_reading();
    assert!(wire.is_aborted());
    assert_eq!((wire.take(), story.told()), (Vec::new(), vec!["made".into(), "go".into(), "lost: aborted".into()]));
}

#[test]
fn a_paused_protocol_gets_nothing_until_it_goes_on() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story).on_data(|transport, _| transport.pause_reading()));
    wire.receive("one");
    wire.receive("two");
    assert!(!wire.is_reading());
    assert_eq!(story.told(), ["made", "one"]);
    wire.transport().resume_reading();
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "one", "two"]);
}

#[test]
fn the_end_of_the_peer_is_found_behind_data_that_were_held_back() {
    let story = Story::default();
    let wire = MemoryTransport::new(Probe::new(&story).on_made(|transport| transport.pause_reading()));
    wire.receive("data");
    wire.receive_end();
    assert_eq!(story.told(), ["made"]);
    wire.transport().resume_reading();
    wire.memory().settle();
    assert_eq!(story.told(), ["made", "data", "eof", "lost: done"]);
}

#[test]
fn a_protocol_that_fails_loses_its_connection_with_that_failure() {
    let wire = MemoryTransport::new(
        Probe::new(&Story::default()).on_data(|_, _| -> dosimeter::Result<()> { Err("no such command".into()) }),
    );
    wire.receive("jump");
    assert_eq!(wire.lost().as_deref(), Some("the protocol failed: no such command"));
    assert_eq!(flush_all_logged_errors().len(), 1);
}

#[test]
fn closing_with_input_unread_resets_the_peer_as_tcp_does() {
    let memory = MemoryReactor::new();
    let make = |_: &Address| Probe::new(&Story::default()).on_made(|transport| transport.pause_reading());
    let transport = Shared::default();
    let shared = transport.clone();
    memory.reactor().listen_tcp(80, move |peer: &Address| make(peer).sharing(&shared)).expect("nobody else listens");
    let client = memory.connect(([127, 0, 0, 1], 80));
    client.send("unread");
    transport.borrow().as_ref().expect("connected").lose_connection();
    assert_eq!(client.end(), Some(End::Reset));
}

// ---- two protocols ----------------------------------------------------------------------------------

#[test]
fn a_pump_delivers_both_ways_and_in_order_whatever_the_pieces() {
    for size in [1, 2, 3, 7, usize::MAX] {
        let (client, server) = (Story::default(), Story::default());
        let heard = Rc::new(RefCell::new(Vec::new()));
        let ear = heard.clone();
        let pump = Pump::in_pieces(
            size,
            Probe::new(&client).on_made(|transport| transport.write("the quick brown fox")).on_data(
                move |transport, data| {
                    ear.borrow_mut().extend_from_slice(data);
                    if data.ends_with(b"x") {
                        transport.lose_connection();
                    }
                },
            ),
            Probe::new(&server).on_data(|transport, data| transport.write(data)),
        );
        pump.flush();
        assert_eq!(*heard.borrow(), b"the quick brown fox", "in pieces of {size}");
        assert_eq!(server.told().len() - 3, 19_usize.div_ceil(size), "{:?}", server.told());
        assert!(client.is_over() && server.is_over());
        assert_eq!(pump.server_lost().as_deref(), Some("the connection was closed"));
    }
}

#[test]
fn a_pump_has_a_clock() {
    let client = Story::default();
    let pump = Pump::new(Probe::new(&client).on_made(|transport| transport.write("x")), Late);
    pump.flush();
    assert_eq!(client.told(), ["made"]);
    pump.advance(SECOND);
    assert_eq!((client.told(), pump.memory().time()), (vec!["made".into(), "x".into()], SECOND));
}

#[test]
fn members_of_a_group_in_memory_get_what_is_sent_to_it() {
    struct Member(Rc<RefCell<Vec<Vec<u8>>>>);
    impl DatagramProtocol for Member {
        fn start_protocol(&mut self, port: &UdpPort) -> Result<()> {
            port.set_multicast_ttl(4)?;
            Ok(port.join_group(GROUP.into(), MulticastInterface::Any)?)
        }
        fn datagram_received(&mut self, _: &UdpPort, data: &[u8], _: SocketAddr) -> Result<()> {
            self.0.borrow_mut().push(data.to_vec());
            Ok(())
        }
    }
    const GROUP: [u8; 4] = [239, 1, 2, 3];
    let memory = MemoryReactor::new();
    let heard = [(); 2].map(|()| Rc::<RefCell<Vec<Vec<u8>>>>::default());
    let [one, other] = heard
        .each_ref()
        .map(|heard| memory.reactor().listen_multicast(5353, Member(heard.clone())).expect("all of them share it"));
    let socket = memory.socket(([10, 0, 0, 9], 0));
    socket.send_to("to all", (GROUP, 5353));
    other.leave_group(GROUP.into(), MulticastInterface::Any).expect("it is a member");
    assert!(other.leave_group(GROUP.into(), MulticastInterface::Any).is_err(), "no longer");
    socket.send_to("to one", (GROUP, 5353));
    assert_eq!(
        heard.map(|heard| heard.take()),
        [vec![b"to all".to_vec(), b"to one".to_vec()], vec![b"to all".to_vec()]]
    );
    one.send_to("back", socket.local_addr()).expect("sent");
    assert_eq!(socket.take(), [(b"back".to_vec(), SocketAddr::from(([127, 0, 0, 1], 5353)))]);
}

/// A test of a shutdown looks at what its clients got.
#[test]
fn after_the_end_clients_can_still_be_looked_at() {
    let memory = MemoryReactor::new();
    let addr =
        net::serve(memory.reactor(), || Probe::new(&Story::default()).on_made(|transport| transport.write("bye")));
    let client = memory.connect(addr);
    memory.reactor().shut_down();
    memory.settle();
    memory.advance(SECOND);
    assert!(!memory.advance_until(SECOND, || false));
    client.send("to nobody");
    assert_eq!((client.take(), client.end()), (b"bye".to_vec(), Some(End::Closed)));
}
