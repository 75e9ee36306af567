//! UDP over the loopback: what a datagram protocol may rely on.

#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{CannotListen, DatagramProtocol, MulticastInterface, UdpPort};
use dosimeter::testing::{assert_no_result, success_result_of};
use dosimeter::{Reactor, Result};
use support::{logged, reactor, settle, turn_until};

type Story = Rc<RefCell<Vec<String>>>;
type OnStart = Option<Box<dyn FnMut(&UdpPort) -> Result<()>>>;
type OnData = Option<Box<dyn FnMut(&UdpPort, &[u8], SocketAddr) -> Result<()>>>;

/// A protocol that tells its story and does what the test wants. It checks itself that no method runs inside another one,
/// before the beginning or after the end.
#[derive(Default)]
struct Probe {
    story: Story,
    on_start: OnStart,
    on_data: OnData,
    inside: bool,
    begun: bool,
    ended: bool,
}

impl Probe {
    fn new(story: &Story) -> Self {
        Probe { story: story.clone(), ..Probe::default() }
    }

    fn on_start(mut self, function: impl FnMut(&UdpPort) -> Result<()> + 'static) -> Self {
        self.on_start = Some(Box::new(function));
        self
    }

    fn on_data(mut self, function: impl FnMut(&UdpPort, &[u8], SocketAddr) -> Result<()> + 'static) -> Self {
        self.on_data = Some(Box::new(function));
        self
    }

    fn enter(&mut self, what: String) {
        assert!(!self.inside && self.begun && !self.ended, "out of order: {what}");
        self.inside = true;
        self.story.borrow_mut().push(what);
    }
}

impl DatagramProtocol for Probe {
    fn start_protocol(&mut self, port: &UdpPort) -> Result<()> {
        assert!(!self.begun, "started twice");
        self.begun = true;
        self.enter("start".to_owned());
        let outcome = self.on_start.as_mut().map_or(Ok(()), |function| function(port));
        self.inside = false;
        outcome
    }

    fn datagram_received(&mut self, port: &UdpPort, data: &[u8], from: SocketAddr) -> Result<()> {
        self.enter(data.escape_ascii().to_string());
        let outcome = self.on_data.as_mut().map_or(Ok(()), |function| function(port, data, from));
        self.inside = false;
        outcome
    }

    fn connection_refused(&mut self, _port: &UdpPort) {
        self.enter("refused".to_owned());
        self.inside = false;
    }

    fn stop_protocol(&mut self, _port: &UdpPort) {
        self.enter("stop".to_owned());
        self.ended = true;
        self.inside = false;
    }
}

fn listen(reactor: &Reactor, probe: Probe) -> UdpPort {
    reactor.listen_udp("127.0.0.1:0", probe).expect("a free port")
}

/// A socket of the system that waits a little for what must come.
fn peer() -> UdpSocket {
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    peer.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    peer
}

fn told(story: &Story) -> Vec<String> {
    story.borrow().clone()
}

#[test]
fn a_port_is_started_before_listen_udp_returns_and_tells_what_port_0_became() {
    let (reactor, story) = (reactor(), Story::default());
    let port = listen(&reactor, Probe::new(&story));
    assert_eq!(told(&story), ["start"]);
    assert!(port.local_addr().ip().is_loopback() && port.local_addr().port() != 0);
}

#[test]
fn each_datagram_is_delivered_whole_with_its_sender_and_can_be_answered() {
    let (reactor, story, peer) = (reactor(), Story::default(), peer());
    let from = peer.local_addr().expect("bound");
    let port = listen(
        &reactor,
        Probe::new(&story).on_data(move |port, data, sender| {
            assert_eq!(sender, from);
            Ok(port.send_to(data.to_ascii_uppercase(), sender)?)
        }),
    );
    for data in ["one", "", "three"] {
        peer.send_to(data.as_bytes(), port.local_addr()).expect("sent");
    }
    turn_until(&reactor, || told(&story).len() == 4);
    assert_eq!(told(&story), ["start", "one", "", "three"]);
    let mut buffer = [0; 100];
    for data in ["ONE", "", "THREE"] {
        let count = peer.recv(&mut buffer).expect("an answer");
        assert_eq!(&buffer[..count], data.as_bytes());
    }
}

#[test]
fn the_longest_datagram_of_ipv4_passes_and_a_longer_one_is_refused() {
    let (reactor, peer) = (reactor(), peer());
    let sizes: Rc<RefCell<Vec<usize>>> = Rc::default();
    let seen = sizes.clone();
    let port = listen(
        &reactor,
        Probe::default().on_data(move |_, data, _| {
            seen.borrow_mut().push(data.len());
            Ok(())
        }),
    );
    peer.send_to(&[b'x'; LONGEST], port.local_addr()).expect("the longest one");
    turn_until(&reactor, || !sizes.borrow().is_empty());
    assert_eq!(*sizes.borrow(), [LONGEST]);
    let to = peer.local_addr().expect("bound");
    port.send_to([b'x'; LONGEST], to).expect("the longest one");
    assert!(port.send_to([b'x'; LONGEST + 1], to).is_err());
}

#[test]
fn an_error_or_a_panic_in_datagram_received_is_logged_and_the_port_goes_on() {
    let (reactor, story, peer) = (reactor(), Story::default(), peer());
    let port = listen(
        &reactor,
        Probe::new(&story).on_data(|_, data, _| match data {
            b"error" => Err("no good".into()),
            _ => Ok(()),
        }),
    );
    for data in ["error", "after"] {
        peer.send_to(data.as_bytes(), port.local_addr()).expect("sent");
    }
    turn_until(&reactor, || told(&story).len() == 3);
    let lines = logged();
    assert!(lines.len() == 1 && lines[0].contains("no good"), "{lines:?}");

    struct Panics;
    impl DatagramProtocol for Panics {
        fn datagram_received(&mut self, _port: &UdpPort, data: &[u8], _from: SocketAddr) -> Result<()> {
            assert!(data.is_empty(), "not this one");
            Ok(())
        }
    }
    let port = reactor.listen_udp("127.0.0.1:0", Panics).expect("a free port");
    let lines = RefCell::new(Vec::new());
    for _ in 0..2 {
        peer.send_to(b"x", port.local_addr()).expect("sent");
    }
    turn_until(&reactor, || {
        lines.borrow_mut().append(&mut logged());
        lines.borrow().len() == 2
    });
    assert!(lines.borrow().iter().all(|line| line.contains("not this one")), "{lines:?}");
}

#[test]
fn a_flood_leaves_each_turn_to_the_others() {
    let (reactor, story, peer) = (reactor(), Story::default(), peer());
    let port = listen(&reactor, Probe::new(&story));
    // Fewer than the buffer of the system takes, more than one turn does.
    for _ in 0..SENT {
        peer.send_to(b"x", port.local_addr()).expect("sent");
    }
    reactor.turn(Some(Duration::from_secs(5))).expect("a turn");
    let first = told(&story).len();
    assert!((2..SENT).contains(&first), "{first} in one turn");
    turn_until(&reactor, || told(&story).len() == SENT + 1);
}

#[test]
fn stop_protocol_comes_last_and_from_the_loop_then_the_chain_fires_and_the_port_is_free() {
    let (reactor, story, peer) = (reactor(), Story::default(), peer());
    let port = listen(&reactor, Probe::new(&story));
    let addr = port.local_addr();
    peer.send_to(b"too late", addr).expect("sent");
    let (first, second) = (port.stop_listening(), port.stop_listening());
    assert_eq!(told(&story), ["start"]);
    assert_no_result(&first);
    UdpSocket::bind(addr).expect("closed at once");
    turn_until(&reactor, || first.is_fired() && second.is_fired());
    success_result_of(first);
    success_result_of(second);
    assert_eq!(told(&story), ["start", "stop"]);
    success_result_of(port.stop_listening());
    let error = port.send_to(b"x", addr).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    settle(&reactor);
    assert_eq!(told(&story), ["start", "stop"]);
}

#[test]
fn a_protocol_may_stop_its_port_and_send_from_inside_its_methods() {
    let (reactor, story, peer) = (reactor(), Story::default(), peer());
    let own = listen(
        &reactor,
        Probe::new(&story).on_data(|port, _, from| {
            port.send_to(b"to myself", port.local_addr())?;
            port.send_to(b"bye", from)?;
            drop(port.stop_listening());
            Ok(())
        }),
    );
    peer.send_to(b"x", own.local_addr()).expect("sent");
    turn_until(&reactor, || told(&story).last().is_some_and(|last| last == "stop"));
    assert_eq!(told(&story), ["start", "x", "stop"]);
    let mut buffer = [0; 10];
    assert_eq!(peer.recv(&mut buffer).expect("an answer"), 3);

    let story = Story::default();
    listen(
        &reactor,
        Probe::new(&story).on_start(|port| {
            drop(port.stop_listening());
            Ok(())
        }),
    );
    turn_until(&reactor, || told(&story).len() == 2);
    assert_eq!(told(&story), ["start", "stop"]);
}

#[test]
fn the_end_of_the_reactor_stops_the_protocol_also_one_that_is_just_stopping() {
    let (reactor, story) = (reactor(), Story::default());
    listen(&reactor, Probe::new(&story));
    let other = listen(&reactor, Probe::new(&story));
    let stop = reactor.clone();
    let stopped = Rc::new(Cell::new(false));
    let fired = stopped.clone();
    reactor.call_soon(move || {
        stop.stop().expect("it runs");
        other.stop_listening().map(move |()| fired.set(true));
    });
    reactor.run().expect("a run");
    assert_eq!(told(&story), ["start", "start", "stop", "stop"]);
    assert!(stopped.get());
}

#[test]
fn an_error_in_start_protocol_is_the_reason_that_listen_udp_fails_with() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = Rc::new(Cell::new(None));
    let seen = addr.clone();
    let probe = Probe::new(&story).on_start(move |port| {
        seen.set(Some(port.local_addr()));
        Err("not today".into())
    });
    let error = reactor.listen_udp("127.0.0.1:0", probe).unwrap_err();
    assert_eq!(error.to_string(), "cannot listen on UDP 127.0.0.1:0: not today");
    assert_eq!(told(&story), ["start"]);
    UdpSocket::bind(addr.get().expect("started")).expect("closed again");
}

#[test]
fn cannot_listen_names_the_address_and_the_reason() {
    let (reactor, holder) = (reactor(), peer());
    let taken = holder.local_addr().expect("bound");
    let story = Story::default();
    let error: CannotListen = reactor.listen_udp(taken, Probe::new(&story)).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on UDP {taken}: ")), "{error}");
    assert!(told(&story).is_empty());
}

#[test]
fn two_ports_of_one_reactor_do_not_share_an_address_unless_both_say_so() {
    let reactor = reactor();
    let one = listen(&reactor, Probe::default());
    assert!(reactor.listen_multicast(one.local_addr(), Probe::default()).is_err());
    let one = reactor.listen_multicast("127.0.0.1:0", Probe::default()).expect("a free port");
    assert!(reactor.listen_udp(one.local_addr(), Probe::default()).is_err());
    reactor.listen_multicast(one.local_addr(), Probe::default()).expect("a shared port");
}

// ---- connected --------------------------------------------------------------------------------------

#[test]
fn a_connected_port_sends_there_and_hears_nobody_else() {
    let (reactor, story, peer, stranger) = (reactor(), Story::default(), peer(), peer());
    let to = peer.local_addr().expect("bound");
    let port = listen(&reactor, Probe::new(&story).on_start(move |port| Ok(port.connect(to)?)));
    stranger.send_to(b"stranger", port.local_addr()).expect("sent");
    port.send(b"hello").expect("connected");
    let mut buffer = [0; 10];
    let (count, from) = peer.recv_from(&mut buffer).expect("a datagram");
    assert_eq!((&buffer[..count], from), (b"hello".as_slice(), port.local_addr()));
    peer.send_to(b"peer", port.local_addr()).expect("sent");
    turn_until(&reactor, || told(&story).len() == 2);
    assert_eq!(told(&story), ["start", "peer"]);
}

#[test]
fn a_port_is_connected_once_and_sends_without_an_address_only_then() {
    let (reactor, peer) = (reactor(), peer());
    let to = peer.local_addr().expect("bound");
    let port = listen(&reactor, Probe::default());
    assert_eq!(port.send(b"x").unwrap_err().kind(), ErrorKind::NotConnected);
    port.connect(to).expect("a peer");
    let error = port.connect(to).unwrap_err();
    assert_eq!(error.to_string(), format!("the port is connected to {to} already"));
}

#[test]
fn a_connected_port_is_told_that_nobody_listens_and_goes_on() {
    let (reactor, story) = (reactor(), Story::default());
    let nobody = peer().local_addr().expect("bound");
    let port = listen(&reactor, Probe::new(&story).on_start(move |port| Ok(port.connect(nobody)?)));
    port.send(b"anybody?").expect("sent");
    turn_until(&reactor, || told(&story).len() == 2);
    // The answer to the first one may come out of the second.
    port.send(b"anybody?").expect("sent");
    port.send(b"anybody?").expect("no error of this one");
    turn_until(&reactor, || told(&story).len() >= 3);
    assert!(told(&story)[1..].iter().all(|told| told == "refused"), "{story:?}");
    let late = UdpSocket::bind(nobody).expect("still free");
    late.send_to(b"here", port.local_addr()).expect("sent");
    turn_until(&reactor, || told(&story).last().is_some_and(|last| last == "here"));
    assert!(logged().is_empty());
}

#[test]
fn a_port_that_is_not_connected_hears_nothing_of_refusals() {
    let (reactor, story) = (reactor(), Story::default());
    let nobody = peer().local_addr().expect("bound");
    let port = listen(&reactor, Probe::new(&story));
    for _ in 0..3 {
        port.send_to(b"anybody?", nobody).expect("sent");
        settle(&reactor);
    }
    assert_eq!(told(&story), ["start"]);
}

// ---- families ---------------------------------------------------------------------------------------

#[test]
fn a_port_of_both_families_answers_each_in_its_own() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = Probe::new(&story).on_data(|port, data, from| {
        assert_eq!(from.is_ipv4(), data == b"four", "{from}");
        Ok(port.send_to(data, from)?)
    });
    let port = reactor.listen_udp(0, probe);
    let number = port.expect("a free port").local_addr().port();
    let v4 = peer();
    v4.send_to(b"four", (Ipv4Addr::LOCALHOST, number)).expect("sent");
    turn_until(&reactor, || told(&story).len() == 2);
    let mut buffer = [0; 10];
    let (count, from) = v4.recv_from(&mut buffer).expect("an answer");
    assert_eq!((&buffer[..count], from), (b"four".as_slice(), (Ipv4Addr::LOCALHOST, number).into()));
    if let Ok(v6) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        v6.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        v6.send_to(b"six", (Ipv6Addr::LOCALHOST, number)).expect("sent");
        turn_until(&reactor, || told(&story).len() == 3);
        assert_eq!(v6.recv(&mut buffer).expect("an answer"), 3);
    }
}

#[test]
fn an_address_of_the_wrong_family_is_refused_with_what_to_change() {
    let reactor = reactor();
    let port = listen(&reactor, Probe::default());
    let error = port.send_to(b"x", (Ipv6Addr::LOCALHOST, 53).into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().ends_with("cannot reach [::1]:53: listen on an address of its family"), "{error}");
    assert_eq!(port.connect((Ipv6Addr::LOCALHOST, 53).into()).unwrap_err().kind(), ErrorKind::InvalidInput);
}

// ---- multicast --------------------------------------------------------------------------------------

#[test]
fn the_members_of_a_group_get_what_is_sent_to_it_until_they_leave() {
    let (reactor, story) = (reactor(), Story::default());
    let loopback = MulticastInterface::Address(Ipv4Addr::LOCALHOST);
    let member = |probe| reactor.listen_multicast("0.0.0.0:0", probe).expect("a free port");
    let port = member(Probe::new(&story));
    port.join_group(GROUP.into(), loopback).expect("a multicast address");
    let to = SocketAddr::from((GROUP, port.local_addr().port()));
    let sender = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    sender.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).expect("the loopback");
    sender.send_to(b"all", &to.into()).expect("sent");
    turn_until(&reactor, || told(&story).len() == 2);
    assert_eq!(told(&story), ["start", "all"]);
    port.leave_group(GROUP.into(), loopback).expect("a member");
    assert!(port.leave_group(GROUP.into(), loopback).is_err(), "no longer a member");
    port.set_multicast_ttl(4).expect("a socket");
    port.set_multicast_loop(false).expect("a socket");
    port.set_broadcast(true).expect("a socket");
}

#[test]
fn an_interface_is_named_as_its_family_names_it() {
    let reactor = reactor();
    let port = listen(&reactor, Probe::default());
    let error = port.join_group(IpAddr::V4(GROUP), MulticastInterface::Index(1)).unwrap_err();
    assert_eq!(error.to_string(), "for an IPv4 group the interface is named by its address");
}

/// 65 535, less the headers of IPv4 and UDP.
const LONGEST: usize = 65_507;

const SENT: usize = 200;

/// Of the block for use within an organisation.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 1);
