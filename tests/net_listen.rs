//! Listening: options, the end of a port and its beginning anew, adopted sockets, and what a factory is told.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;

use dosimeter::net::{Address, CannotListen, Factory, ListeningPort, SharedFactory, TcpEndpoint};
use dosimeter::testing::{failure_result_of, success_result_of};
use dosimeter::{Reactor, Result};
use net::{Client, Probe, Story};
use support::{logged, reactor, settle, turn_until};

const ANY: &str = "127.0.0.1:0";

fn nobody(_: &Address) -> Probe {
    Probe::new(&Story::default())
}

fn echo(_: &Address) -> Probe {
    Probe::new(&Story::default()).on_data(|transport, data| transport.write(data))
}

// ---- options ----------------------------------------------------------------------------------------

#[test]
fn several_ports_share_an_address_if_all_of_them_say_so() {
    let reactor = reactor();
    let first = reactor.listen(TcpEndpoint::new(ANY).reuse_port(true), echo).expect("a free port");
    let addr = first.local_addr();
    let second = reactor.listen(TcpEndpoint::new(addr).reuse_port(true), echo).expect("shared");
    assert_eq!(second.local_addr(), addr);
    let error = reactor.listen(TcpEndpoint::new(addr), echo).unwrap_err();
    assert_eq!(error.io_error().kind(), ErrorKind::AddrInUse);
    for _ in 0..20 {
        let mut client = Client::connect(addr);
        client.send(b"hello");
        client.expect(&reactor, b"hello");
    }
}

/// Nobody accepts here: what connects, connects to the queue of the system.
#[test]
fn the_backlog_is_the_length_of_the_queue() {
    let reactor = reactor();
    let port = reactor.listen(TcpEndpoint::new(ANY).backlog(3), nobody).expect("a free port");
    let connect = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        let _in_progress = socket.connect(&port.local_addr().into());
        socket
    };
    let clients: Vec<_> = (0..20).map(|_| connect()).collect();
    let connected = clients.iter().filter(|client| client.peer_addr().is_ok()).count();
    // Linux takes one more than it is told to.
    assert!((1..=4).contains(&connected), "{connected} connected");
}

#[test]
fn an_ipv6_port_takes_ipv4_as_well_or_not_as_it_is_told() {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let reactor = reactor();
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    for (endpoint, takes_v4) in [
        (TcpEndpoint::new(any), true),
        (TcpEndpoint::new(any).only_v6(false), true),
        (TcpEndpoint::new(any).only_v6(true), false),
    ] {
        let port = reactor.listen(endpoint.clone(), nobody).expect("a free port").local_addr().port();
        TcpStream::connect(("::1", port)).expect("IPv6 in any case");
        assert_eq!(TcpStream::connect(("127.0.0.1", port)).is_ok(), takes_v4, "{endpoint:?}");
    }
}

#[test]
fn a_link_local_address_is_told_with_its_interface_in_and_out() {
    let Some((addr, interface)) = link_local() else { return };
    let reactor = reactor();
    let peers: Rc<RefCell<Vec<Address>>> = Rc::default();
    let seen = peers.clone();
    let port = reactor.listen_tcp(format!("[{addr}%{interface}]:0"), move |peer: &Address| {
        seen.borrow_mut().push(peer.clone());
        nobody(peer)
    });
    let local = port.expect("a free port").local_addr();
    let SocketAddr::V6(v6) = local else { panic!("{local}") };
    assert_ne!(v6.scope_id(), 0);
    let client = Client::connect(local);
    turn_until(&reactor, || !peers.borrow().is_empty());
    assert_eq!(peers.borrow()[0].socket_addr(), Some(client.socket.local_addr().expect("connected")));
    // The number of the interface does as well.
    reactor.listen_tcp(format!("[{addr}%{}]:0", v6.scope_id()), nobody).expect("a free port");
    let error = reactor.listen_tcp(format!("[{addr}%nowhere0]:0"), nobody).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on TCP ["), "{error}");
}

/// A link-local address of this host, with the name of its interface.
fn link_local() -> Option<(Ipv6Addr, String)> {
    let table = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let bits = u128::from_str_radix(fields[0], 16).ok()?;
        // Flag 0x40 is for an address that is not yet usable.
        let is_usable = fields[3] == "20" && !u8::from_str_radix(fields[4], 16).ok()? & 0x40 != 0;
        is_usable.then(|| (Ipv6Addr::from_bits(bits), fields[5].to_owned()))
    })
}

#[test]
fn a_text_that_is_no_place_to_listen_at_says_what_to_change() {
    let reactor = reactor();
    let how = "write it as host:port; for all interfaces give the port alone, as a number";
    for (text, problem) in [
        ("8000", how),
        ("localhost", how),
        (":8000", how),
        ("*:8000", how),
        ("localhost:http", r#""http" is no port number from 0 to 65535"#),
        ("127.0.0.1:65536", r#""65536" is no port number from 0 to 65535"#),
        ("::1:8000", "write an IPv6 address in brackets, as in [::1]:80"),
    ] {
        let error = reactor.listen_tcp(text, nobody).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on TCP {text}: {problem}"));
        assert_eq!(error.io_error().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn cannot_listen_names_what_a_host_name_stood_for() {
    let reactor = reactor();
    let taken = TcpListener::bind(ANY).expect("a free port").local_addr().expect("bound");
    let _holder = TcpListener::bind(taken).expect("free again");
    let error = reactor.listen_tcp(format!("localhost:{}", taken.port()), nobody);
    // A host whose localhost is ::1 as well listens there; nothing is to be told then.
    if let Err(error) = error {
        let place = format!("cannot listen on TCP localhost:{} ({taken}): Address already in use", taken.port());
        assert!(error.to_string().starts_with(&place), "{error}");
    }
    let error = reactor.listen_tcp("192.0.2.1:80", nobody).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on TCP 192.0.2.1:80: "), "{error}");
    assert_eq!(error.io_error().kind(), ErrorKind::AddrNotAvailable);
}

// ---- the end of a port, and its beginning anew ----------------------------------------------------------

#[test]
fn a_port_that_was_stopped_can_be_started_again_at_the_same_address() {
    let reactor = reactor();
    let port = reactor.listen_tcp(ANY, echo).expect("a free port");
    for round in 0..3 {
        assert!(port.is_listening());
        let mut client = Client::connect(port.local_addr());
        client.send(b"hello");
        client.expect(&reactor, b"hello");
        let stopped = port.stop_listening();
        assert!(!port.is_listening());
        turn_until(&reactor, || stopped.is_fired());
        success_result_of(stopped);
        assert!(TcpStream::connect(port.local_addr()).is_err(), "round {round}");
        port.start_listening().expect("nobody else is there");
    }
}

#[test]
fn a_port_is_not_started_twice_nor_before_it_has_stopped() {
    let reactor = reactor();
    let port = reactor.listen_tcp(ANY, echo).expect("a free port");
    let error = port.start_listening().unwrap_err();
    assert!(error.to_string().ends_with("listening already"), "{error}");
    let stopped = port.stop_listening();
    let error = port.start_listening().unwrap_err();
    assert!(error.to_string().contains("has not yet stopped"), "{error}");
    turn_until(&reactor, || stopped.is_fired());
    let _holder = TcpListener::bind(port.local_addr()).expect("free");
    let error: CannotListen = port.start_listening().unwrap_err();
    assert_eq!(error.io_error().kind(), ErrorKind::AddrInUse);
    assert!(!port.is_listening());
    success_result_of(port.stop_listening());
}

#[test]
fn another_socket_can_listen_as_soon_as_the_chain_has_fired() {
    let reactor = reactor();
    let port = reactor.listen_tcp(ANY, echo).expect("a free port");
    let (addr, again) = (port.local_addr(), reactor.clone());
    let second = port.stop_listening().map(move |()| again.listen_tcp(addr, echo).expect("free").local_addr());
    turn_until(&reactor, || second.is_fired());
    assert_eq!(success_result_of(second), addr);
}

// ---- adopted sockets ------------------------------------------------------------------------------------

#[test]
fn a_listener_of_std_is_adopted_and_another_handle_of_it_goes_on() {
    let reactor = reactor();
    let listener = TcpListener::bind(ANY).expect("a free port");
    let other = listener.try_clone().expect("a descriptor");
    let port = reactor.listen(listener, echo).expect("a listener");
    assert_eq!(port.local_addr(), other.local_addr().expect("bound"));
    let mut client = Client::connect(port.local_addr());
    client.send(b"hello");
    client.expect(&reactor, b"hello");
    let stopped = port.stop_listening();
    turn_until(&reactor, || stopped.is_fired());
    let _waiting = Client::connect(port.local_addr());
    let error = port.start_listening().unwrap_err();
    assert_eq!(error.io_error().kind(), ErrorKind::Unsupported);
}

// ---- what a factory is told -------------------------------------------------------------------------------

/// Tells when it is started and stopped; fails at it when the test wants.
#[derive(Clone, Default)]
struct Told {
    story: Story,
    fails: Rc<Cell<bool>>,
    ports: Rc<RefCell<Vec<ListeningPort<Address>>>>,
}

impl Told {
    fn tell(&self, what: &str) -> Result<()> {
        self.story.tell(what);
        if self.fails.get() { Err(format!("cannot {what}").into()) } else { Ok(()) }
    }
}

impl Factory for Told {
    type Protocol = Probe;

    fn build_protocol(&self, _peer: &Address) -> Option<Probe> {
        Some(Probe::new(&self.story))
    }

    fn start_factory(&self) -> Result<()> {
        self.tell("start")
    }

    fn stop_factory(&self) -> Result<()> {
        self.tell("stop")
    }

    fn listening(&self, port: &ListeningPort<Address>) {
        assert!(port.is_listening());
        self.story.tell("listening");
        self.ports.borrow_mut().push(port.clone());
    }
}

#[test]
fn a_factory_is_started_after_the_socket_is_there_and_stopped_in_a_later_turn() {
    let (reactor, told) = (reactor(), Told::default());
    let taken = reactor.listen_tcp(ANY, nobody).expect("a free port").local_addr();
    reactor.listen_tcp(taken, told.clone()).unwrap_err();
    assert!(told.story.told().is_empty(), "the port is not to be had");
    let port = reactor.listen_tcp(ANY, told.clone()).expect("a free port");
    assert_eq!(told.story.told(), ["start", "listening"]);
    assert_eq!(told.ports.borrow()[0].local_addr(), Address::Inet(port.local_addr()));
    let stopped = port.stop_listening();
    assert_eq!(told.story.told(), ["start", "listening"]);
    turn_until(&reactor, || stopped.is_fired());
    assert_eq!(told.story.told(), ["start", "listening", "stop"]);
    port.start_listening().expect("free");
    assert_eq!(told.story.told()[3..], ["start", "listening"]);
}

#[test]
fn a_factory_may_close_its_ports_itself() {
    let (reactor, told) = (reactor(), Told::default());
    let port = reactor.listen_tcp(ANY, told.clone()).expect("a free port");
    let own = told.ports.borrow_mut().pop().expect("one");
    let stopped = own.stop_listening();
    turn_until(&reactor, || stopped.is_fired());
    assert!(!port.is_listening());
}

#[test]
fn a_shared_factory_is_started_with_the_first_port_and_stopped_with_the_last() {
    let (reactor, told) = (reactor(), Told::default());
    let shared = SharedFactory::new(told.clone());
    let [first, second, third] = std::array::from_fn(|_| reactor.listen_tcp(ANY, shared.clone()).expect("a free port"));
    assert_eq!(told.story.told(), ["start", "listening", "listening", "listening"]);
    for port in [&first, &second] {
        let stopped = port.stop_listening();
        turn_until(&reactor, || stopped.is_fired());
    }
    assert_eq!(told.story.told().last().map(String::as_str), Some("listening"));
    first.start_listening().expect("free");
    for port in [&first, &third] {
        let stopped = port.stop_listening();
        turn_until(&reactor, || stopped.is_fired());
    }
    let starts = told.story.told().iter().filter(|what| *what == "start").count();
    assert_eq!((starts, told.story.told().last().map(String::as_str)), (1, Some("stop")));
    shared.stop_factory().expect("below none it is ignored");
    assert_eq!(told.story.told().iter().filter(|what| *what == "stop").count(), 1);
}

#[test]
fn a_factory_that_cannot_start_keeps_its_port_from_listening() {
    let (reactor, told) = (reactor(), Told::default());
    let shared = SharedFactory::new(told.clone());
    told.fails.set(true);
    let addr = TcpListener::bind(ANY).expect("a free port").local_addr().expect("bound");
    let error = reactor.listen_tcp(addr, shared.clone()).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on TCP {addr}: cannot start"));
    assert!(TcpStream::connect(addr).is_err());
    told.fails.set(false);
    reactor.listen_tcp(addr, shared).expect("nothing is left of the first attempt");
    assert_eq!(told.story.told(), ["start", "start", "listening"]);
}

#[test]
fn stop_listening_fails_as_the_factory_does_and_the_port_can_be_started_again() {
    let (reactor, told) = (reactor(), Told::default());
    let port = reactor.listen_tcp(ANY, told.clone()).expect("a free port");
    told.fails.set(true);
    let (first, second) = (port.stop_listening(), port.stop_listening());
    turn_until(&reactor, || first.is_fired() && second.is_fired());
    assert_eq!(failure_result_of(first).to_string(), "cannot stop");
    success_result_of(second);
    told.fails.set(false);
    port.start_listening().expect("free");
    assert_eq!(logged(), [""; 0], "the chain has it");
}

#[test]
fn a_reactor_that_stops_tells_every_factory_also_of_a_port_that_is_just_being_stopped() {
    let (reactor, told, failing) = (reactor(), Told::default(), Told::default());
    let port = reactor.listen_tcp(ANY, told.clone()).expect("a free port");
    reactor.listen_tcp(ANY, told.clone()).expect("a free port");
    reactor.listen_tcp(ANY, failing.clone()).expect("a free port");
    failing.fails.set(true);
    let (stop, stopped) = (reactor.clone(), Rc::new(RefCell::new(None)));
    let later = stopped.clone();
    reactor.call_soon(move || {
        later.replace(Some(port.stop_listening()));
        stop.stop().expect("it runs");
    });
    reactor.run().expect("a run");
    assert_eq!(told.story.told().iter().filter(|what| *what == "stop").count(), 2);
    success_result_of(stopped.take().expect("the call ran"));
    assert!(logged().iter().any(|line| line.ends_with("failed: cannot stop") || line.contains("cannot stop")));
}

#[test]
fn an_error_or_a_panic_in_what_a_factory_is_told_harms_nobody() {
    struct Panics;
    impl Factory for Panics {
        type Protocol = Probe;
        fn build_protocol(&self, peer: &Address) -> Option<Probe> {
            Some(echo(peer))
        }
        fn stop_factory(&self) -> Result<()> {
            panic!("on stop");
        }
        fn listening(&self, _port: &ListeningPort<Address>) {
            panic!("on listening");
        }
    }
    let reactor = reactor();
    let port = reactor.listen_tcp(ANY, Panics).expect("a free port");
    let mut client = Client::connect(port.local_addr());
    client.send(b"hello");
    client.expect(&reactor, b"hello");
    let stopped = port.stop_listening();
    turn_until(&reactor, || stopped.is_fired());
    assert!(failure_result_of(stopped).is_panic());
    assert_eq!(logged().len(), 1, "that of listening; the other one is in the chain");
}

#[test]
fn a_port_may_be_stopped_while_its_factory_is_told_that_it_listens() {
    struct Shy;
    impl Factory for Shy {
        type Protocol = Probe;
        fn build_protocol(&self, peer: &Address) -> Option<Probe> {
            Some(nobody(peer))
        }
        fn listening(&self, port: &ListeningPort<Address>) {
            let _later = port.stop_listening();
        }
    }
    let reactor = reactor();
    let port = reactor.listen_tcp(ANY, Shy).expect("a free port");
    assert!(!port.is_listening());
    settle(&reactor);
    assert!(TcpStream::connect(port.local_addr()).is_err());
    success_result_of(port.stop_listening());
}

// ---- figures --------------------------------------------------------------------------------------------

#[test]
fn connections_and_their_bytes_are_counted() {
    let registry = dosimeter::prometheus::Registry::new();
    let reactor = Reactor::builder().metrics(registry.clone()).signal_handlers(false).build().expect("a reactor");
    let port = reactor.listen_tcp(ANY, echo).expect("a free port");
    let figure = |name: &str, labels: &[(&str, &str)]| net::figure(&registry, name, labels);
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(port.local_addr())).collect();
    for client in &mut clients {
        client.send(b"12345");
        client.expect(&reactor, b"12345");
    }
    assert_eq!(figure("dosimeter_connections", &[]), 3.0);
    assert_eq!(figure("dosimeter_connections_accepted_total", &[]), 3.0);
    assert_eq!(figure("dosimeter_receive_bytes_total", &[]), 15.0);
    assert_eq!(figure("dosimeter_transmit_bytes_total", &[]), 15.0);
    clients.pop().expect("three").reset().expect("a socket");
    clients.pop().expect("two").send_end();
    turn_until(&reactor, || figure("dosimeter_connections", &[]) == 1.0);
    assert_eq!(figure("dosimeter_connections_closed_total", &[("reason", "done")]), 1.0);
    assert_eq!(figure("dosimeter_connections_closed_total", &[("reason", "io")]), 1.0);
    assert_eq!(figure("dosimeter_accept_errors_total", &[("error", "fd_limit")]), 0.0);
}
