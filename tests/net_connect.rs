//! Connecting over the loopback: addresses, failures, and what a factory is told in which order.

#[path = "support/blackhole.rs"]
mod blackhole;
#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{
    Address, CannotConnect, ClientEndpoint, ClientFactory, ConnectErrorKind, ConnectionLost, Connector, ConnectorError,
    ConnectorState, Factory, SharedFactory, Transport,
};
use dosimeter::testing::{Clock, MemoryReactor, assert_no_result, failure_result_of};
use dosimeter::{Cancelled, Deferred, Reactor};

use blackhole::{blackhole, refusing};
use net::{Probe, Story, serve};
use support::{logged, reactor, settle, turn_until};

type Make = Box<dyn Fn(&Address) -> Option<Probe>>;
type OnFailed = Option<Box<dyn Fn(&Connector, &CannotConnect)>>;
type OnLost = Option<Box<dyn Fn(&Connector)>>;
type OnStarted = Option<Box<dyn Fn(&Connector)>>;

/// A factory that tells its story, in one with its protocols.
struct Client {
    story: Story,
    failures: Rc<RefCell<Vec<CannotConnect>>>,
    make: Make,
    on_started: OnStarted,
    on_failed: OnFailed,
    on_lost: OnLost,
}

impl Client {
    fn new(story: &Story) -> Self {
        let probe = story.clone();
        Client {
            story: story.clone(),
            failures: Rc::default(),
            make: Box::new(move |_| Some(Probe::new(&probe))),
            on_started: None,
            on_failed: None,
            on_lost: None,
        }
    }

    fn making(mut self, make: impl Fn(&Address) -> Option<Probe> + 'static) -> Self {
        self.make = Box::new(make);
        self
    }

    fn on_started(mut self, function: impl Fn(&Connector) + 'static) -> Self {
        self.on_started = Some(Box::new(function));
        self
    }

    fn on_failed(mut self, function: impl Fn(&Connector, &CannotConnect) + 'static) -> Self {
        self.on_failed = Some(Box::new(function));
        self
    }

    fn on_lost(mut self, function: impl Fn(&Connector) + 'static) -> Self {
        self.on_lost = Some(Box::new(function));
        self
    }
}

impl Factory for Client {
    type Protocol = Probe;

    fn build_protocol(&self, peer: &Address) -> Option<Probe> {
        (self.make)(peer)
    }
}

impl ClientFactory for Client {
    fn started_connecting(&self, connector: &Connector) {
        self.story.tell("started");
        assert_eq!(connector.state(), ConnectorState::Connecting);
        self.on_started.iter().for_each(|function| function(connector));
    }

    fn client_connection_failed(&self, connector: &Connector, reason: CannotConnect) {
        self.story.tell(format!("failed: {:?}", reason.kind()));
        assert_eq!(connector.state(), ConnectorState::Disconnected);
        self.on_failed.iter().for_each(|function| function(connector, &reason));
        self.failures.borrow_mut().push(reason);
    }

    fn client_connection_lost(&self, connector: &Connector, reason: ConnectionLost) {
        self.story.tell(format!("factory lost: {reason}"));
        assert_eq!(connector.state(), ConnectorState::Disconnected);
        self.on_lost.iter().for_each(|function| function(connector));
    }
}

/// Connects, waits for the failure and gives it.
fn failure_of(reactor: &Reactor, endpoint: ClientEndpoint) -> CannotConnect {
    let story = Story::default();
    let client = Client::new(&story);
    let failures = client.failures.clone();
    reactor.connect(endpoint, client);
    assert_eq!(story.told(), ["started"], "what becomes of it is told later");
    turn_until(reactor, || !failures.borrow().is_empty());
    failures.take().remove(0)
}

/// A server that echoes, in the same reactor.
fn echo(reactor: &Reactor) -> SocketAddr {
    serve(reactor, || {
        Probe::new(&Story::default()).on_data(|transport, data| {
            transport.write(data);
        })
    })
}

/// A listener of the system, whose connections are accepted by the test.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    (listener, addr)
}

/// A resolver that knows these addresses for every name.
fn resolve_to(reactor: &Reactor, addrs: &[SocketAddr]) {
    let addrs = addrs.to_vec();
    reactor.install_resolver(move |_: &str, _: u16| Deferred::succeed(addrs.clone()));
}

// ---- a connection -----------------------------------------------------------------------------------

#[test]
fn a_connection_is_made_serves_and_ends_and_the_factory_is_told_after_the_protocol() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = echo(&reactor);
    let probe = story.clone();
    let client = Client::new(&story).making(move |peer| {
        assert_eq!(*peer, Address::Inet(addr));
        Some(
            Probe::new(&probe)
                .on_made(|transport| transport.write("hello"))
                .on_data(|transport, _| transport.lose_connection()),
        )
    });
    let connector = reactor.connect_tcp(addr, client);
    assert_eq!(story.told(), ["started"]);
    assert_eq!(connector.state(), ConnectorState::Connecting);
    turn_until(&reactor, || story.told().len() >= 2);
    assert_eq!(connector.state(), ConnectorState::Connected);
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    let told = ["started", "made", "hello", "lost: done", "factory lost: the connection was closed"];
    assert_eq!(story.told(), told);
    settle(&reactor);
    assert_eq!(story.told(), told);
}

#[test]
fn a_closure_is_a_factory_and_the_address_may_be_text() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = echo(&reactor);
    let probe = story.clone();
    reactor.connect_tcp(format!("localhost:{}", addr.port()), move |_: &Address| Probe::new(&probe));
    turn_until(&reactor, || story.has("made"));
}

#[test]
fn a_failure_that_the_factory_does_not_mind_is_logged() {
    let reactor = reactor();
    let addr = refusing();
    let connector = reactor.connect_tcp(addr, |_: &Address| Probe::new(&Story::default()));
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    let lines = logged();
    assert!(
        lines.len() == 1 && lines[0].starts_with(&format!("cannot connect to TCP {addr}: nobody listens")),
        "{lines:?}"
    );
}

#[test]
fn the_connection_comes_from_the_address_it_was_bound_to() {
    let (reactor, story) = (reactor(), Story::default());
    let (listener, addr) = listener();
    let bind = refusing();
    reactor.connect(ClientEndpoint::tcp(addr).bind_address(bind), Client::new(&story));
    turn_until(&reactor, || story.has("made"));
    let (_socket, peer) = listener.accept().expect("connected");
    assert_eq!(peer, bind);
}

// ---- failures ---------------------------------------------------------------------------------------

#[test]
fn a_port_where_nobody_listens_refuses_with_the_number_of_the_system() {
    let reactor = reactor();
    let addr = refusing();
    let error = failure_of(&reactor, ClientEndpoint::tcp(addr));
    assert_eq!((error.kind(), error.addr()), (ConnectErrorKind::Refused, Some(addr)));
    assert!(error.io_error().is_some_and(|error| error.raw_os_error().is_some()));
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot connect to TCP {addr}: nobody listens there: ")), "{text}");
}

/// Ports that the system hands out may be ports of servers that are away: then TCP finds a peer, and it is the client itself.
#[test]
fn a_socket_that_was_connected_to_itself_has_found_nobody() {
    let reactor = reactor();
    let addr = refusing();
    let error = failure_of(&reactor, ClientEndpoint::tcp(addr).bind_address(addr));
    assert_eq!((error.kind(), error.addr()), (ConnectErrorKind::Refused, Some(addr)), "{error}");
}

#[test]
fn a_text_that_is_no_address_is_told_later_with_what_to_change() {
    let reactor = reactor();
    for (text, problem) in [
        ("localhost", "write it as host:port"),
        ("localhost:http", "\"http\" is no port number from 0 to 65535"),
        ("::1:80", "write an IPv6 address in brackets, as in [::1]:80"),
    ] {
        let error = failure_of(&reactor, ClientEndpoint::tcp(text));
        assert_eq!(error.kind(), ConnectErrorKind::Address);
        assert_eq!(error.to_string(), format!("cannot connect to TCP {text}: this is no address: {problem}"));
    }
}

#[test]
fn a_name_that_is_not_found_says_why() {
    let reactor = reactor();
    reactor.install_resolver(|host: &str, port: u16| Deferred::fail(format!("no {host} with {port}")));
    let error = failure_of(&reactor, ClientEndpoint::tcp("a.test:80"));
    assert_eq!(error.kind(), ConnectErrorKind::Lookup);
    assert_eq!(error.to_string(), "cannot connect to TCP a.test:80: the name was not found: no a.test with 80");
    resolve_to(&reactor, &[]);
    let error = failure_of(&reactor, ClientEndpoint::tcp("a.test:80"));
    assert_eq!(error.kind(), ConnectErrorKind::Lookup);
    reactor.install_resolver(|_: &str, _: u16| -> Deferred<Vec<SocketAddr>> { panic!("no such thing") });
    let error = failure_of(&reactor, ClientEndpoint::tcp("a.test:80"));
    assert_eq!(error.kind(), ConnectErrorKind::Lookup);
}

#[test]
fn the_system_is_asked_for_a_name_off_the_loop() {
    let reactor = reactor();
    // Not a name at all, which it finds out without asking anybody.
    let error = failure_of(&reactor, ClientEndpoint::tcp("a\0b:80"));
    assert_eq!(error.kind(), ConnectErrorKind::Lookup);
}

#[test]
fn a_literal_address_is_not_looked_up() {
    let (reactor, story) = (reactor(), Story::default());
    reactor.install_resolver(|host: &str, _: u16| -> Deferred<Vec<SocketAddr>> { panic!("{host} is looked up") });
    let addr = echo(&reactor);
    reactor.connect_tcp(addr.to_string(), Client::new(&story));
    turn_until(&reactor, || story.has("made"));
}

#[test]
fn a_bind_address_that_is_taken_is_told_apart() {
    let reactor = reactor();
    let (_holder, taken) = listener();
    let (_listener, addr) = listener();
    let error = failure_of(&reactor, ClientEndpoint::tcp(addr).bind_address(taken));
    assert_eq!(error.kind(), ConnectErrorKind::Bind);
    assert_eq!(error.io_error().map(std::io::Error::kind), Some(ErrorKind::AddrInUse));
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot connect to TCP {addr} from {taken}: the address to connect from")),
        "{text}"
    );
}

#[test]
fn only_addresses_of_the_family_of_the_bind_address_are_tried() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = echo(&reactor);
    resolve_to(&reactor, &[(Ipv6Addr::LOCALHOST, addr.port()).into(), addr]);
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    reactor.connect(ClientEndpoint::tcp("both.test:80").bind_address(bind), Client::new(&story));
    turn_until(&reactor, || story.has("made"));
    let other = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let error = failure_of(&reactor, ClientEndpoint::tcp(addr).bind_address(other));
    assert_eq!(error.kind(), ConnectErrorKind::Bind);
    assert!(error.to_string().ends_with("the host has no address of its family"), "{error}");
}

#[test]
fn silence_ends_with_the_timeout_whether_of_the_host_or_of_its_name() {
    let (reactor, clock) = (reactor(), Clock::new());
    let hole = blackhole();
    let cancelled = Rc::new(Cell::new(false));
    let seen = cancelled.clone();
    let waiting = Rc::new(RefCell::new(Vec::new()));
    reactor.install_resolver(move |_: &str, _: u16| {
        let (completer, found) = Deferred::pair();
        let seen = seen.clone();
        completer.on_cancel(move || seen.set(true));
        waiting.borrow_mut().push(completer);
        found
    });
    for addr in [hole.addr.to_string(), "a.test:80".to_owned()] {
        let story = Story::default();
        let endpoint = ClientEndpoint::tcp(addr).timeout(Duration::from_secs(7)).clock(&clock);
        reactor.connect(endpoint, Client::new(&story));
        settle(&reactor);
        clock.advance(Duration::from_millis(6999));
        settle(&reactor);
        assert_eq!(story.told(), ["started"]);
        clock.advance(Duration::from_millis(1));
        assert_eq!(story.told(), ["started"], "told from the loop");
        settle(&reactor);
        assert_eq!(story.told(), ["started", "failed: TimedOut"]);
    }
    assert!(cancelled.get(), "nobody waits for the name any more");
}

#[test]
fn an_attempt_takes_thirty_seconds_unless_told_otherwise() {
    let (reactor, story, clock) = (reactor(), Story::default(), Clock::new());
    let hole = blackhole();
    reactor.connect(ClientEndpoint::tcp(hole.addr).clock(&clock), Client::new(&story));
    clock.advance(Duration::from_millis(29_999));
    settle(&reactor);
    assert_eq!(story.told(), ["started"]);
    clock.advance(Duration::from_millis(1));
    settle(&reactor);
    assert_eq!(story.told(), ["started", "failed: TimedOut"]);
}

// ---- several addresses ------------------------------------------------------------------------------

#[test]
fn the_next_address_is_tried_when_one_has_said_nothing_for_250_ms() {
    let (reactor, story, clock) = (reactor(), Story::default(), Clock::new());
    let (hole, addr) = (blackhole(), echo(&reactor));
    resolve_to(&reactor, &[hole.addr, addr]);
    let connector = reactor.connect(ClientEndpoint::tcp("a.test:80").clock(&clock), Client::new(&story));
    settle(&reactor);
    clock.advance(Duration::from_millis(249));
    settle(&reactor);
    assert_eq!(story.told(), ["started"]);
    clock.advance(Duration::from_millis(1));
    turn_until(&reactor, || story.has("made"));
    assert!(dosimeter::Timers::pending(dosimeter::Clock::timers(&clock)).is_empty(), "nothing is left armed");
    assert_eq!(connector.state(), ConnectorState::Connected);
}

#[test]
fn an_address_that_refuses_costs_no_pause() {
    let (reactor, story, clock) = (reactor(), Story::default(), Clock::new());
    let addr = echo(&reactor);
    resolve_to(&reactor, &[refusing(), refusing(), addr]);
    reactor.connect(ClientEndpoint::tcp("a.test:80").clock(&clock), Client::new(&story));
    turn_until(&reactor, || story.has("made"));
}

#[test]
fn the_first_address_may_still_win_after_the_second_has_begun() {
    let (reactor, story, clock) = (reactor(), Story::default(), Clock::new());
    let (hole, other) = (blackhole(), blackhole());
    let peers: Rc<RefCell<Vec<Address>>> = Rc::default();
    let (seen, probe) = (peers.clone(), story.clone());
    resolve_to(&reactor, &[hole.addr, other.addr]);
    let client = Client::new(&story).making(move |peer| {
        seen.borrow_mut().push(peer.clone());
        Some(Probe::new(&probe))
    });
    reactor.connect(ClientEndpoint::tcp("a.test:80").clock(&clock), client);
    settle(&reactor);
    clock.advance(Duration::from_millis(250));
    settle(&reactor);
    let first = hole.addr;
    let _listener = hole.open();
    turn_until(&reactor, || story.has("made"));
    assert_eq!(*peers.borrow(), [Address::Inet(first)]);
}

#[test]
fn of_several_failures_the_one_that_came_furthest_is_told() {
    let reactor = reactor();
    // The system refuses it to who has not asked for broadcasts.
    let nowhere = SocketAddr::from((Ipv4Addr::BROADCAST, 80));
    let addr = refusing();
    for addrs in [[nowhere, addr], [addr, nowhere]] {
        resolve_to(&reactor, &addrs);
        let error = failure_of(&reactor, ClientEndpoint::tcp("a.test:80"));
        assert_eq!((error.kind(), error.addr()), (ConnectErrorKind::Refused, Some(addr)));
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("cannot connect to TCP a.test:80 ({addr}): nobody listens there: ")),
            "{text}"
        );
    }
}

// ---- the connector ----------------------------------------------------------------------------------

#[test]
fn an_attempt_can_be_stopped_at_any_point_and_only_then() {
    let reactor = reactor();
    let (listener, addr) = listener();
    let hole = blackhole();
    let (_completer, found) = Deferred::pair();
    let found = Cell::new(Some(found));
    reactor.install_resolver(move |_: &str, _: u16| found.take().expect("asked once"));
    // While the name is looked up, while the host is silent, and when it is connected but not yet told.
    for (addr, turns) in [("a.test:80".to_owned(), 0), (hole.addr.to_string(), 2), (addr.to_string(), 1)] {
        let story = Story::default();
        let connector = reactor.connect_tcp(&addr, Client::new(&story));
        for _ in 0..turns {
            reactor.turn(Some(Duration::from_millis(20))).expect("a turn");
        }
        assert_eq!(connector.stop_connecting(), Ok(()), "{addr}");
        assert_eq!(story.told(), ["started"], "{addr}: told later");
        assert_eq!(connector.state(), ConnectorState::Connecting);
        assert_eq!(connector.stop_connecting(), Err(ConnectorError::NotConnecting));
        settle(&reactor);
        assert_eq!(story.told(), ["started", "failed: Stopped"], "{addr}");
        assert_eq!(connector.stop_connecting(), Err(ConnectorError::NotConnecting));
    }
    let (mut socket, _) = listener.accept().expect("the system has connected it");
    assert_eq!(socket.read(&mut [0]).expect("an end, or a reset"), 0, "the socket is closed");
}

#[test]
fn an_attempt_can_be_stopped_from_inside_started_connecting() {
    let (reactor, story) = (reactor(), Story::default());
    let client = Client::new(&story).on_started(|connector| connector.stop_connecting().expect("it connects"));
    reactor.connect_tcp(refusing(), client);
    settle(&reactor);
    assert_eq!(story.told(), ["started", "failed: Stopped"]);
}

#[test]
fn disconnect_does_what_there_is_to_be_done() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = echo(&reactor);
    let connector = reactor.connect_tcp(addr, Client::new(&story));
    connector.disconnect();
    settle(&reactor);
    assert_eq!(story.told(), ["started", "failed: Stopped"]);
    connector.disconnect();
    connector.connect().expect("disconnected");
    assert_eq!(connector.connect(), Err(ConnectorError::AlreadyConnecting));
    turn_until(&reactor, || story.has("made"));
    assert_eq!(connector.connect(), Err(ConnectorError::AlreadyConnecting));
    connector.disconnect();
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    assert_eq!(story.told()[2..], ["started", "made", "lost: done", "factory lost: the connection was closed"]);
}

#[test]
fn disconnect_while_the_protocol_is_made_closes_the_connection_at_once() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = echo(&reactor);
    let handle: Rc<RefCell<Option<Connector>>> = Rc::default();
    let (probe, connector) = (story.clone(), handle.clone());
    let client = Client::new(&story).making(move |_| {
        connector.borrow().as_ref().expect("kept").disconnect();
        Some(Probe::new(&probe))
    });
    handle.replace(Some(reactor.connect_tcp(addr, client)));
    turn_until(&reactor, || story.told().len() == 4);
    assert_eq!(story.told(), ["started", "made", "lost: done", "factory lost: the connection was closed"]);
}

#[test]
fn a_factory_may_connect_again_from_inside_each_method() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = serve(&reactor, || Probe::new(&Story::default()).on_made(|transport| transport.lose_connection()));
    let rounds = Rc::new(Cell::new(0));
    let client = Client::new(&story).on_lost(move |connector| {
        rounds.set(rounds.get() + 1);
        if rounds.get() < 3 {
            connector.connect().expect("disconnected");
        }
    });
    reactor.connect_tcp(addr, client);
    turn_until(&reactor, || story.told().len() >= 12);
    settle(&reactor);
    assert_eq!(story.told().iter().filter(|told| *told == "made").count(), 3);

    let (story, tries) = (Story::default(), Rc::new(Cell::new(0)));
    let client = Client::new(&story).on_failed(move |connector, _| {
        tries.set(tries.get() + 1);
        if tries.get() < 3 {
            connector.connect().expect("disconnected");
        }
    });
    reactor.connect_tcp(refusing(), client);
    turn_until(&reactor, || story.told().len() >= 6);
    settle(&reactor);
    assert_eq!(story.told(), ["started", "failed: Refused"].repeat(3));
}

#[test]
fn without_a_protocol_the_connection_is_closed_and_the_factory_told() {
    let reactor = reactor();
    let (listener, addr) = listener();
    let story = Story::default();
    let connector = reactor.connect_tcp(addr, Client::new(&story).making(|_| None));
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    assert_eq!(story.told(), ["started", "factory lost: the connection was closed"]);
    let (mut socket, _) = listener.accept().expect("connected");
    assert_eq!(socket.read(&mut [0]).expect("an orderly end"), 0);

    let story = Story::default();
    let connector = reactor.connect_tcp(addr, Client::new(&story).making(|_| panic!("none today")));
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    assert_eq!(story.told(), ["started", "factory lost: the protocol failed: panicked: none today"]);
    assert_eq!(logged().len(), 1);
}

#[test]
fn the_error_of_a_protocol_is_the_reason_for_the_factory_as_well() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = echo(&reactor);
    let probe = story.clone();
    let client = Client::new(&story)
        .making(move |_| Some(Probe::new(&probe).on_made(|_| dosimeter::Result::<()>::Err("no good".into()))));
    let connector = reactor.connect_tcp(addr, client);
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    let told = ["started", "made", "lost: no good", "factory lost: the protocol failed: no good"];
    assert_eq!(story.told(), told);
}

#[test]
fn a_panic_in_a_hook_is_logged_and_harms_nothing() {
    let (reactor, story) = (reactor(), Story::default());
    let client = Client::new(&story).on_started(|_| panic!("at the start")).on_failed(|_, _| panic!("at the end"));
    let connector = reactor.connect_tcp(refusing(), client);
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    let lines = logged();
    assert!(lines.len() == 2 && lines[0].contains("at the start") && lines[1].contains("at the end"), "{lines:?}");
    assert_eq!(connector.connect(), Ok(()));
}

#[test]
fn a_panic_in_connection_lost_does_not_keep_the_factory_from_being_told() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = serve(&reactor, || Probe::new(&Story::default()).on_made(|transport| transport.lose_connection()));
    let probe = story.clone();
    let client = Client::new(&story).making(move |_| Some(Probe::new(&probe).on_lost(|_, _| panic!("at the end"))));
    let connector = reactor.connect_tcp(addr, client);
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected && story.told().len() > 2);
    assert!(story.has("factory lost: the connection was closed"), "{:?}", story.told());
}

#[test]
fn the_end_of_the_reactor_is_told_to_clients_in_every_state() {
    let (reactor, connecting, connected) = (reactor(), Story::default(), Story::default());
    let (_listener, addr) = listener();
    let hole = blackhole();
    let silent = reactor.connect_tcp(
        hole.addr,
        Client::new(&connecting).on_failed(|connector, _| {
            assert_eq!(connector.connect(), Err(ConnectorError::ReactorStopped));
        }),
    );
    let (_completer, found) = Deferred::pair();
    let found = Cell::new(Some(found));
    reactor.install_resolver(move |_: &str, _: u16| found.take().expect("asked once"));
    reactor.connect_tcp("a.test:80", Client::new(&connecting));
    let stop = reactor.clone();
    let probe = connected.clone();
    let client = Client::new(&connected).making(move |_| {
        let stop = stop.clone();
        Some(Probe::new(&probe).on_made(move |_| Ok(stop.stop()?)))
    });
    reactor.connect_tcp(addr, client);
    reactor.run().expect("a run");
    assert_eq!(connecting.told()[2..], ["failed: ReactorStopped"; 2]);
    assert_eq!(connected.told(), ["started", "made", "lost: reactor stopped", "factory lost: the reactor stopped"]);
    assert_eq!(silent.state(), ConnectorState::Disconnected);
    assert_eq!(reactor.connect_tcp(addr, Client::new(&connected)).state(), ConnectorState::Disconnected);
}

#[test]
fn the_factory_is_started_with_the_first_attempt_and_stopped_when_nothing_is_left_to_do() {
    let (reactor, story) = (reactor(), Story::default());
    let (addr, nobody) = (echo(&reactor), refusing());
    let factory = SharedFactory::new(Lifed { story: story.clone(), fails: Cell::new(false), again: Cell::new(1) });
    let connector = reactor.connect_tcp(nobody, factory.clone());
    assert_eq!(story.told(), ["factory started"]);
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    assert_eq!(story.told(), ["factory started", "failed", "failed", "factory stopped"], "it has tried twice");

    let connector = reactor.connect_tcp(addr, factory.clone());
    let other = reactor.connect_tcp(addr, factory.clone());
    turn_until(&reactor, || [&connector, &other].iter().all(|one| one.state() == ConnectorState::Connected));
    connector.disconnect();
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    other.disconnect();
    turn_until(&reactor, || other.state() == ConnectorState::Disconnected);
    assert_eq!(story.told()[4..], ["factory started", "lost", "lost", "factory stopped"], "one of both");

    factory.get().fails.set(true);
    let error = failure_result_after(&reactor, ClientEndpoint::tcp(addr), factory);
    assert_eq!(error.to_string(), format!("cannot connect to TCP {addr}: the factory could not be started: not today"));
}

/// A factory that tells of its own life.
struct Lifed {
    story: Story,
    fails: Cell<bool>,
    /// How often it tries again.
    again: Cell<u32>,
}

impl Factory for Lifed {
    type Protocol = Probe;

    fn build_protocol(&self, _peer: &Address) -> Option<Probe> {
        Some(Probe::new(&Story::default()))
    }

    fn start_factory(&self) -> dosimeter::Result<()> {
        if self.fails.get() {
            return Err("not today".into());
        }
        self.story.tell("factory started");
        Ok(())
    }

    fn stop_factory(&self) -> dosimeter::Result<()> {
        self.story.tell("factory stopped");
        Ok(())
    }
}

impl ClientFactory for Lifed {
    fn client_connection_failed(&self, connector: &Connector, _reason: CannotConnect) {
        self.story.tell("failed");
        if self.again.get() > 0 {
            self.again.set(self.again.get() - 1);
            connector.connect().expect("disconnected");
        }
    }

    fn client_connection_lost(&self, _connector: &Connector, _reason: ConnectionLost) {
        self.story.tell("lost");
    }
}

fn failure_result_after(reactor: &Reactor, endpoint: ClientEndpoint, factory: impl Factory) -> CannotConnect {
    let connected = endpoint.connect(reactor, factory);
    turn_until(reactor, || connected.is_fired());
    failure_result_of(connected).trap().expect("it was not made")
}

// ---- UNIX sockets, and in memory --------------------------------------------------------------------

#[test]
fn a_unix_socket_is_connected_to_by_its_path() {
    let (reactor, story) = (reactor(), Story::default());
    let path = std::env::temp_dir().join(format!("dosimeter-connect-{}.sock", std::process::id()));
    let echo = |_: &Address| Probe::new(&Story::default()).on_data(|transport, data| transport.write(data));
    let port = reactor.listen_unix(&path, echo).expect("a free path");
    let (probe, there) = (story.clone(), path.clone());
    let client = Client::new(&story).making(move |peer| {
        assert_eq!(*peer, Address::Unix(Some(there.clone())));
        Some(Probe::new(&probe).on_made(|transport| transport.write("hello")))
    });
    let connector = reactor.connect_unix(&path, client);
    turn_until(&reactor, || story.has("hello"));
    connector.disconnect();
    port.stop_listening();
    turn_until(&reactor, || connector.state() == ConnectorState::Disconnected);
    let error = failure_of(&reactor, ClientEndpoint::unix(&path));
    assert_eq!(error.kind(), ConnectErrorKind::Refused, "there is no such path any more");
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot connect to unix:{}: nobody listens there: ", path.display())), "{text}");
}

#[test]
fn a_unix_listener_whose_queue_is_full_is_tried_again() {
    let (reactor, story, clock) = (reactor(), Story::default(), Clock::new());
    let path = std::env::temp_dir().join(format!("dosimeter-queue-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let addr = socket2::SockAddr::unix(&path).expect("a path");
    let new = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    let (listener, waiting) = (new(), new());
    listener.bind(&addr).expect("a free path");
    listener.listen(0).expect("bound");
    waiting.connect(&addr).expect("the first of the queue");
    reactor.connect(ClientEndpoint::unix(&path).clock(&clock), Client::new(&story));
    settle(&reactor);
    clock.advance(Duration::from_secs(1));
    settle(&reactor);
    assert_eq!(story.told(), ["started"]);
    listener.accept().expect("the first of the queue");
    clock.advance(Duration::from_secs(1));
    settle(&reactor);
    assert_eq!(story.told(), ["started", "made"]);
    std::fs::remove_file(&path).expect("it is there");
}

#[test]
fn in_virtual_time_clients_and_servers_meet_in_memory() {
    let (memory, story) = (MemoryReactor::new(), Story::default());
    let echo = |_: &Address| Probe::new(&Story::default()).on_data(|transport, data| transport.write(data));
    memory.reactor().listen_tcp(7, echo).expect("a free port");
    for text in ["tcp:localhost:7", "tcp:127.0.0.1:7"] {
        let story = Story::default();
        let probe = story.clone();
        let client =
            Client::new(&story).making(move |_| Some(Probe::new(&probe).on_made(|transport| transport.write("hello"))));
        memory.reactor().connect(text, client);
        memory.settle();
        assert_eq!(story.told(), ["started", "made", "hello"]);
    }
    memory.reactor().connect("tcp:a.test:7", Client::new(&story));
    memory.reactor().connect("tcp:localhost:8", Client::new(&story));
    memory.settle();
    assert_eq!(story.told()[2..], ["failed: Lookup", "failed: Refused"]);
}

#[test]
fn connections_made_and_not_made_are_counted() {
    let memory = MemoryReactor::new();
    memory.reactor().listen_tcp(7, |_: &Address| Probe::new(&Story::default())).expect("a free port");
    for text in ["tcp:localhost:7", "tcp:localhost:8", "tcp:localhost:8", "tcp:localhost"] {
        memory.reactor().connect(text, Client::new(&Story::default()));
    }
    memory.settle();
    let families = memory.registry().gather();
    let figure = |name: &str, error: &str| {
        let family = families.iter().find(|family| family.name() == name).expect(name);
        let has = |metric: &&dosimeter::prometheus::proto::Metric| {
            error.is_empty() || metric.get_label().iter().any(|label| label.value() == error)
        };
        family.get_metric().iter().find(has).expect(error).get_counter().get_value()
    };
    assert_eq!(figure("dosimeter_connections_made_total", ""), 1.0);
    assert_eq!(figure("dosimeter_connect_errors_total", "refused"), 2.0);
    assert_eq!(figure("dosimeter_connect_errors_total", "address"), 1.0);
    assert_eq!(figure("dosimeter_connect_errors_total", "unreachable"), 0.0);
}

// ---- as a Deferred ----------------------------------------------------------------------------------

#[test]
fn the_chain_gets_the_transport_when_the_protocol_has_been_told() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = echo(&reactor);
    let probe = story.clone();
    let connected = ClientEndpoint::tcp(addr).connect(&reactor, move |_: &Address| Probe::new(&probe));
    assert_no_result(&connected);
    let (done, seen) = (Rc::new(Cell::new(None)), story.clone());
    let transport = done.clone();
    connected.map(move |made: Transport| {
        assert_eq!(seen.told(), ["made"]);
        made.write("hello");
        transport.set(Some(made));
    });
    turn_until(&reactor, || story.has("hello"));
    let transport = done.take().expect("connected");
    assert_eq!(transport.peer_addr(), Address::Inet(addr));
    transport.lose_connection();
    turn_until(&reactor, || story.is_over());
}

#[test]
fn the_chain_fails_with_what_kept_the_connection_from_being_made() {
    let reactor = reactor();
    let connected = ClientEndpoint::tcp(refusing()).connect(&reactor, |_: &Address| Probe::new(&Story::default()));
    turn_until(&reactor, || connected.is_fired());
    let failure = failure_result_of(connected);
    let kind = failure.downcast_ref::<CannotConnect>().map(CannotConnect::kind);
    assert_eq!(kind, Some(ConnectErrorKind::Refused));
    assert!(logged().is_empty(), "it is the chain that tells");
}

#[test]
fn the_chain_fails_with_the_end_of_a_connection_that_was_lost_in_the_making() {
    let reactor = reactor();
    let (_listener, addr) = listener();
    let connected = ClientEndpoint::tcp(addr).connect(&reactor, |_: &Address| {
        Probe::new(&Story::default()).on_made(|transport| transport.abort_connection())
    });
    turn_until(&reactor, || connected.is_fired());
    assert!(matches!(failure_result_of(connected).downcast_ref(), Some(ConnectionLost::Aborted)));
}

#[test]
fn cancelling_gives_the_attempt_up_at_any_point() {
    let reactor = reactor();
    let (listener, addr) = listener();
    let hole = blackhole();
    for (addr, turns) in [(hole.addr, 2), (addr, 0), (addr, 1)] {
        let story = Story::default();
        let probe = story.clone();
        let connected = ClientEndpoint::tcp(addr).connect(&reactor, move |_: &Address| Probe::new(&probe));
        for _ in 0..turns {
            reactor.turn(Some(Duration::from_millis(20))).expect("a turn");
        }
        connected.cancel();
        assert!(failure_result_of(connected).is::<Cancelled>());
        settle(&reactor);
        assert!(story.told().is_empty());
    }
    for _ in 0..2 {
        let (mut socket, _) = listener.accept().expect("the system has connected it");
        assert_eq!(socket.read(&mut [0]).expect("an end"), 0, "the socket is closed");
    }
    assert!(logged().is_empty());
}

#[test]
fn on_a_reactor_that_has_stopped_the_chain_fails() {
    let reactor = reactor();
    let stop = reactor.clone();
    reactor.call_soon(move || stop.stop().expect("it runs"));
    reactor.run().expect("a run");
    let connected = ClientEndpoint::tcp("127.0.0.1:1").connect(&reactor, |_: &Address| Probe::new(&Story::default()));
    let failure = failure_result_of(connected);
    let kind = failure.downcast_ref::<CannotConnect>().map(CannotConnect::kind);
    assert_eq!(kind, Some(ConnectErrorKind::ReactorStopped));
}
