//! Limits in time and number: connections that nothing happens on, and more connections than there may be.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{Address, Factory, LimitConnections, LineProtocol, LineReceiver, LineTransport, Timeout};
use dosimeter::testing::{Clock, End, MemoryClient, MemoryReactor, MemoryTransport, flush_all_logged_errors};
use dosimeter::{Clock as _, Reactor, Result};
use net::{Probe, Story};

const SECOND: Duration = Duration::from_secs(1);

// ---- time -------------------------------------------------------------------------------------------

#[test]
fn a_timeout_acts_once_when_nothing_has_reset_it_for_so_long() {
    let (clock, count) = (Clock::new(), Rc::new(Cell::new(0)));
    let counter = count.clone();
    let timeout = Timeout::new(&clock, 10 * SECOND, move || counter.set(counter.get() + 1));
    for _ in 0..5 {
        clock.advance(9 * SECOND);
        timeout.reset();
    }
    assert!(timeout.is_active());
    clock.advance(10 * SECOND);
    assert_eq!(count.get(), 1);
    timeout.reset();
    clock.advance(100 * SECOND);
    assert_eq!((count.get(), timeout.is_active(), clock.timers().pending().len()), (1, false, 0));
}

#[test]
fn a_timeout_can_be_given_another_duration() {
    let (clock, done) = (Clock::new(), Rc::new(Cell::new(false)));
    let flag = done.clone();
    let timeout = Timeout::new(&clock, 10 * SECOND, move || flag.set(true));
    timeout.set(3 * SECOND);
    clock.advance(2 * SECOND);
    timeout.reset();
    clock.advance(2 * SECOND);
    assert!(!done.get());
    clock.advance(SECOND);
    assert!(done.get());
}

#[test]
fn a_timeout_that_is_cancelled_or_dropped_leaves_nothing_armed_and_frees_its_action() {
    let (clock, held) = (Clock::new(), Rc::new(()));
    let make = || {
        let held = held.clone();
        Timeout::new(&clock, SECOND, move || unreachable!("{held:?}"))
    };
    let (cancelled, dropped) = (make(), make());
    cancelled.cancel();
    cancelled.reset();
    drop(dropped);
    assert_eq!((clock.timers().pending().len(), Rc::strong_count(&held)), (0, 1));
    clock.advance(2 * SECOND);
}

#[test]
fn a_timeout_may_be_reset_cancelled_and_dropped_by_its_own_action() {
    let clock = Clock::new();
    let slot: Rc<RefCell<Option<Timeout>>> = Rc::default();
    let own = slot.clone();
    slot.replace(Some(Timeout::new(&clock, SECOND, move || {
        let timeout = own.take().expect("it is kept here");
        timeout.reset();
        timeout.cancel();
        assert!(!timeout.is_active());
    })));
    clock.advance(SECOND);
    assert!(slot.borrow().is_none());
    assert_eq!(clock.timers().pending().len(), 0);
}

#[test]
fn losing_by_timeout_sends_what_was_written() {
    let wire = MemoryTransport::new(with_timeout(Timeout::lose).on_data(|transport, data| transport.write(data)));
    wire.stop_reading(2);
    wire.receive("abcd");
    wire.advance(10 * SECOND);
    assert!(wire.is_losing());
    wire.advance(5 * SECOND);
    wire.resume_reading();
    assert_eq!((wire.take(), wire.lost().as_deref()), (b"abcd".to_vec(), Some("the connection was closed")));
    assert_eq!(wire.memory().timers().pending().len(), 0);
}

#[test]
fn a_peer_that_reads_nothing_after_the_timeout_is_given_up_after_the_second() {
    let wire = MemoryTransport::new(with_timeout(Timeout::lose).on_data(|transport, data| transport.write(data)));
    wire.stop_reading(0);
    wire.receive("abcd");
    wire.advance(19 * SECOND);
    assert!(wire.is_losing());
    wire.advance(SECOND);
    assert_eq!(wire.lost().as_deref(), Some("the connection was aborted"));
}

#[test]
fn aborting_by_timeout_waits_for_nobody() {
    let wire = MemoryTransport::new(with_timeout(Timeout::abort));
    wire.advance(10 * SECOND);
    assert!(wire.is_aborted());
}

#[test]
fn a_timeout_ends_with_the_protocol_that_keeps_it() {
    let wire = MemoryTransport::new(with_timeout(Timeout::lose));
    assert_eq!(wire.memory().timers().pending().len(), 1);
    wire.break_off();
    assert_eq!(wire.memory().timers().pending().len(), 0);
}

type MakeTimeout = fn(&dosimeter::net::Transport, Duration) -> Timeout;

/// A protocol that keeps a timeout of ten seconds.
fn with_timeout(make: MakeTimeout) -> Probe {
    let kept = RefCell::new(None);
    Probe::new(&Story::default()).on_made(move |transport| {
        kept.replace(Some(make(transport, 10 * SECOND)));
    })
}

// ---- numbers ----------------------------------------------------------------------------------------

#[test]
fn connections_beyond_the_total_are_closed_at_once_until_others_end() {
    let (limit, server) = limited(|limit| limit, 2);
    let clients = [server.connect(), server.connect()];
    let refused = server.connect();
    assert_eq!((refused.end(), refused.received()), (Some(End::Closed), Vec::new()));
    assert_eq!((limit.open(), limit.refused(), limit.refused_per_peer()), (2, 1, 0));
    assert_eq!(server.figure("dosimeter_connections_refused_total"), 1.0);
    let [one, _two] = clients;
    one.close();
    assert_eq!(limit.open(), 1);
    assert_eq!(server.connect().end(), None);
}

#[test]
fn a_peer_has_its_share_and_takes_nobody_elses() {
    let (limit, server) = limited(|limit| limit.per_peer(2), 100);
    let ends = ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|ip| server.connect_from(ip));
    assert_eq!(ends.each_ref().map(MemoryClient::end), [None, None, Some(End::Closed), None]);
    assert_eq!((limit.open(), limit.refused(), limit.refused_per_peer()), (3, 1, 1));
    let [one, ..] = ends;
    one.close();
    assert_eq!(server.connect_from("192.0.2.1").end(), None);
}

#[test]
fn this_host_is_no_single_peer() {
    let (limit, server) = limited(|limit| limit.per_peer(1), 100);
    let ends = ["127.0.0.1", "127.0.0.1", "::1", "::1"].map(|ip| server.connect_from(ip));
    assert_eq!(ends.each_ref().map(MemoryClient::end), [None; 4]);
    assert_eq!(limit.open(), 4);
}

#[test]
fn an_ipv6_network_is_one_peer() {
    let (_limit, server) = limited(|limit| limit.per_peer(1), 100);
    let ends = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"].map(|ip| server.connect_from(ip));
    assert_eq!(ends.each_ref().map(MemoryClient::end), [None, Some(End::Closed), None]);
}

#[test]
fn the_count_comes_down_however_a_connection_ends() {
    let (limit, server) = limited(|limit| limit.per_peer(1), 1);
    let ends: [fn(MemoryClient); 5] = [
        MemoryClient::close,
        MemoryClient::reset,
        |client| client.send_end(),
        |client| _ = client.send("error"),
        |client| _ = client.send("panic"),
    ];
    for end in ends {
        let client = server.connect();
        assert_eq!((client.end(), limit.open()), (None, 1));
        end(client);
        server.memory.settle();
        assert_eq!(limit.open(), 0);
    }
    assert_eq!(flush_all_logged_errors().len(), 2);
    let _client = server.connect();
    drop(server);
    assert_eq!(limit.open(), 0, "the reactor has ended");
}

#[test]
fn the_count_comes_down_when_the_factory_has_no_protocol_or_panics() {
    struct Fails(Cell<bool>);

    impl Factory for Fails {
        type Protocol = Probe;

        fn build_protocol(&self, _peer: &Address) -> Option<Probe> {
            assert!(!self.0.replace(true), "no protocol this time");
            None
        }
    }

    let limit = LimitConnections::new(Fails(Cell::new(false)), 1);
    let memory = MemoryReactor::new();
    memory.reactor().listen_tcp(80, limit.clone()).expect("nobody else listens");
    for _ in 0..2 {
        assert_eq!(memory.connect(([127, 0, 0, 1], 80)).end(), Some(End::Closed));
        assert_eq!((limit.open(), limit.refused()), (0, 0));
    }
    assert_eq!(flush_all_logged_errors().len(), 1);
}

#[test]
fn several_ports_may_share_a_limit() {
    let (limit, server) = limited(|limit| limit, 1);
    server.memory.reactor().listen_tcp(81, limit.clone()).expect("nobody else listens");
    let _client = server.connect();
    assert_eq!(server.memory.connect(([127, 0, 0, 1], 81)).end(), Some(End::Closed));
}

#[test]
fn the_protocol_inside_gets_all_it_would_get_without_a_limit() {
    let story = Story::default();
    let told = story.clone();
    let make = move |_: &Address| {
        let echo = Probe::new(&told).on_data(|transport, data| transport.write(data));
        echo.on_resume(|transport| transport.write("resumed")).on_eof(|transport| transport.lose_connection())
    };
    let limit = LimitConnections::new(make, 1);
    let wire = MemoryTransport::new(limit.build_protocol(&([127, 0, 0, 1], 1).into()).expect("a place"));
    wire.receive("data");
    wire.stop_reading(4);
    wire.transport().write(vec![b'x'; 100_000]);
    wire.memory().settle();
    wire.resume_reading();
    assert!(wire.take().ends_with(b"xresumed"));
    wire.receive_end();
    assert_eq!(story.told(), ["made", "data", "resume", "eof", "lost: done"]);
    assert_eq!(limit.open(), 0);
}

#[test]
fn the_protocol_inside_is_told_that_its_half_is_closed() {
    struct Farewell(Story);

    impl LineProtocol for Farewell {
        fn line_received(&mut self, lines: &LineTransport, _line: &[u8]) -> Result<()> {
            lines.lose_write_connection();
            Ok(())
        }

        fn write_connection_lost(&mut self, _lines: &LineTransport) -> Result<()> {
            self.0.tell("said all");
            Ok(())
        }
    }

    let told = Story::default();
    let inside = told.clone();
    let limit = LimitConnections::new(move |_: &Address| LineReceiver::new(Farewell(inside.clone())), 1);
    let wire = MemoryTransport::new(limit.build_protocol(&([127, 0, 0, 1], 1).into()).expect("a place"));
    wire.receive("bye\r\n");
    assert!(wire.has_ended() && wire.is_connected());
    assert_eq!(told.told(), ["said all"]);
}

#[test]
fn the_protocol_inside_is_told_that_reading_goes_on() {
    struct OneByOne;

    impl LineProtocol for OneByOne {
        fn line_received(&mut self, lines: &LineTransport, line: &[u8]) -> Result<()> {
            lines.send_line(line);
            lines.pause_reading();
            Ok(())
        }
    }

    let limit = LimitConnections::new(|_: &Address| LineReceiver::new(OneByOne).delimiter(b"."), 1);
    let wire = MemoryTransport::new(limit.build_protocol(&([127, 0, 0, 1], 1).into()).expect("a place"));
    wire.receive("one.two.");
    assert_eq!(wire.take(), b"one.");
    wire.transport().resume_reading();
    assert_eq!(wire.take(), b"two.");
}

struct Server {
    memory: MemoryReactor,
}

type Limit = LimitConnections<Box<dyn Fn(&Address) -> Probe>>;

/// A server with a limit of `total`, and whatever `more` makes of it. "error" and "panic" are what its protocols do.
fn limited(more: impl FnOnce(Limit) -> Limit, total: usize) -> (Limit, Server) {
    let make: Box<dyn Fn(&Address) -> Probe> = Box::new(|_: &Address| {
        Probe::new(&Story::default()).on_data(|_, data| match data {
            b"error" => Err("as told".into()),
            b"panic" => panic!("as told"),
            _ => Ok(()),
        })
    });
    let limit = more(LimitConnections::new(make, total));
    let memory = MemoryReactor::new();
    listen(memory.reactor(), &limit);
    (limit, Server { memory })
}

fn listen(reactor: &Reactor, limit: &Limit) {
    reactor.listen_tcp(80, limit.clone()).expect("nobody else listens");
}

impl Server {
    fn figure(&self, name: &str) -> f64 {
        let families = self.memory.registry().gather();
        let family = families.iter().find(|family| family.name() == name).expect("every reactor has it");
        family.get_metric()[0].get_counter().get_value()
    }

    fn connect(&self) -> MemoryClient {
        self.memory.connect(([127, 0, 0, 1], 80))
    }

    fn connect_from(&self, ip: &str) -> MemoryClient {
        let ip: IpAddr = ip.parse().expect("an address");
        self.memory.connect_from((ip, 4000), ([127, 0, 0, 1], 80))
    }
}
