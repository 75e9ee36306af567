//! TCP over the loopback: what a protocol may rely on, and what a transport does with what it is given.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{Address, CannotListen, ConnectionLost, Factory, Protocol, Transport};
use dosimeter::testing::success_result_of;
use dosimeter::{Reactor, Result};
use net::{Client, Probe, Shared, Story, serve};
use support::{logged, reactor, settle, turn_until};

// ---- listening --------------------------------------------------------------------------------------

#[test]
fn a_port_listens_when_listen_tcp_returns_and_tells_what_port_0_became() {
    let (reactor, story) = (reactor(), Story::default());
    let addr = serve(&reactor, {
        let story = story.clone();
        move || Probe::new(&story)
    });
    assert_ne!(addr.port(), 0);
    let _client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
}

#[test]
fn a_port_number_listens_on_all_interfaces_of_both_families() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let peers: Rc<RefCell<Vec<Address>>> = Rc::default();
    let seen = peers.clone();
    let port = reactor.listen_tcp(0, move |peer: &Address| {
        seen.borrow_mut().push(peer.clone());
        Probe::new(&probe)
    });
    let port = port.expect("a free port").local_addr().port();
    let v4 = Client::connect((Ipv4Addr::LOCALHOST, port).into());
    turn_until(&reactor, || peers.borrow().len() == 1);
    let told = peers.borrow()[0].socket_addr();
    assert_eq!(told, Some(v4.socket.local_addr().expect("connected")), "an IPv4 peer is told as one");
    if has_ipv6() {
        let v6 = Client::connect((Ipv6Addr::LOCALHOST, port).into());
        turn_until(&reactor, || peers.borrow().len() == 2);
        assert_eq!(peers.borrow()[1].socket_addr(), Some(v6.socket.local_addr().expect("connected")));
    }
}

#[test]
fn an_address_may_be_given_as_such_or_as_text() {
    let reactor = reactor();
    let factory = |_: &Address| Probe::new(&Story::default());
    let addr: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    for port in [
        reactor.listen_tcp(addr, factory),
        reactor.listen_tcp("127.0.0.1:0", factory),
        reactor.listen_tcp("localhost:0".to_owned(), factory),
    ] {
        let local = port.expect("a free port").local_addr();
        assert!(local.ip().is_loopback() && local.port() != 0);
    }
    if has_ipv6() {
        let local = reactor.listen_tcp("[::1]:0", factory).expect("a free port").local_addr();
        assert_eq!(local.ip(), Ipv6Addr::LOCALHOST);
    }
}

#[test]
fn cannot_listen_names_the_address_and_the_reason() {
    let reactor = reactor();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let holder = TcpListener::bind(taken).expect("free again");
    let calls = Rc::new(Cell::new(0));
    let called = calls.clone();
    let error: CannotListen = reactor
        .listen_tcp(taken, move |_: &Address| {
            called.set(called.get() + 1);
            Probe::new(&Story::default())
        })
        .unwrap_err();
    drop(holder);
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot listen on TCP {taken}: ")), "{text}");
    let source = std::error::Error::source(&error).expect("the reason of the system");
    assert_eq!(source.downcast_ref::<std::io::Error>().map(std::io::Error::kind), Some(ErrorKind::AddrInUse));
    assert_eq!(calls.get(), 0);
}

/// Half of what was asked for would look like success.
#[test]
fn a_port_that_is_taken_in_one_family_cannot_be_listened_on_in_both() {
    if !has_ipv6() {
        return;
    }
    let holder = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).expect("a socket");
    holder.set_only_v6(true).expect("a socket");
    holder.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).expect("a free port");
    holder.listen(1).expect("bound");
    let port = holder.local_addr().expect("bound").as_socket().expect("IPv6").port();
    let error = reactor().listen_tcp(port, |_: &Address| Probe::new(&Story::default())).unwrap_err();
    let text = format!("cannot listen on TCP port {port} of all interfaces: ");
    assert!(error.to_string().starts_with(&text), "{error}");
}

#[test]
fn an_address_that_is_none_cannot_be_listened_on() {
    let reactor = reactor();
    for text in ["", "here", "127.0.0.1", "127.0.0.1:http:80", "127.0.0.1:99999", "[::1:80"] {
        let error = reactor.listen_tcp(text, |_: &Address| Probe::new(&Story::default())).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot listen on TCP {text}: ")), "{error}");
    }
}

#[test]
fn a_port_that_was_stopped_can_be_listened_on_again_and_its_connections_go_on() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let echo = move |_: &Address| Probe::new(&probe).on_data(|transport, data| transport.write(data));
    let port = reactor.listen_tcp("127.0.0.1:0", echo).expect("a free port");
    let addr = port.local_addr();
    let mut client = Client::connect(addr);
    client.send(b"before");
    client.expect(&reactor, b"before");
    let stopped = port.stop_listening();
    assert!(!stopped.is_fired(), "later, not at once");
    let second = port.stop_listening();
    turn_until(&reactor, || stopped.is_fired() && second.is_fired());
    success_result_of(stopped);
    success_result_of(second);
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    client.send(b" after");
    client.expect(&reactor, b"before after");
    let again = reactor.listen_tcp(addr, |_: &Address| Probe::new(&Story::default())).expect("free again");
    assert_eq!(again.local_addr(), addr);
}

#[test]
fn a_port_may_be_stopped_from_inside_its_factory() {
    let (reactor, story) = (reactor(), Story::default());
    let port: Rc<RefCell<Option<dosimeter::net::ListeningPort>>> = Rc::default();
    let (own, probe) = (port.clone(), story.clone());
    let listening = reactor.listen_tcp("127.0.0.1:0", move |_: &Address| {
        let _later = own.borrow().as_ref().expect("listening").stop_listening();
        Probe::new(&probe)
    });
    let addr = listening.as_ref().expect("a free port").local_addr();
    port.replace(listening.ok());
    let (_first, mut second) = (Client::connect(addr), Client::connect(addr));
    turn_until(&reactor, || story.has("made"));
    second.expect_close(&reactor);
    assert_eq!(story.told(), ["made"], "the second was not accepted any more");
}

#[test]
fn stopping_the_reactor_closes_ports_and_connections_and_tells_them() {
    let (reactor, story) = (reactor(), Story::default());
    let (probe, stop) = (story.clone(), reactor.clone());
    let addr = serve(&reactor, move || {
        let stop = stop.clone();
        // A paused connection is told as well.
        Probe::new(&probe).on_made(Transport::pause_reading).on_lost(move |_, _| {
            assert!(!stop.is_running());
        })
    });
    let _clients = [Client::connect(addr), Client::connect(addr)];
    turn_until(&reactor, || story.told().len() == 2);
    let stop = reactor.clone();
    reactor.call_soon(move || stop.stop().expect("it runs"));
    reactor.run().expect("a clean end");
    assert_eq!(story.told(), ["made", "made", "lost: reactor stopped", "lost: reactor stopped"]);
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_factory_that_has_no_protocol_closes_the_connection_and_goes_on() {
    struct EverySecond(Story, Cell<u32>);
    impl Factory for EverySecond {
        type Protocol = Probe;
        fn build_protocol(&self, peer: &Address) -> Option<Probe> {
            assert!(peer.socket_addr().expect("TCP").ip().is_loopback());
            self.1.set(self.1.get() + 1);
            self.1.get().is_multiple_of(2).then(|| Probe::new(&self.0))
        }
    }
    let (reactor, story) = (reactor(), Story::default());
    let port = reactor.listen_tcp("127.0.0.1:0", EverySecond(story.clone(), Cell::new(0))).expect("a free port");
    let mut refused = Client::connect(port.local_addr());
    let _served = Client::connect(port.local_addr());
    refused.expect_close(&reactor);
    turn_until(&reactor, || story.has("made"));
    assert_eq!(story.told(), ["made"]);
    assert_eq!(logged(), [""; 0]);
}

#[test]
fn a_factory_that_panics_is_logged_closes_the_connection_and_goes_on() {
    let (reactor, story) = (reactor(), Story::default());
    let (probe, first) = (story.clone(), Cell::new(true));
    let addr = serve(&reactor, move || {
        assert!(!first.take(), "no protocol today");
        Probe::new(&probe)
    });
    let mut refused = Client::connect(addr);
    let _served = Client::connect(addr);
    refused.expect_close(&reactor);
    turn_until(&reactor, || story.has("made"));
    let logged = logged();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("no protocol for 127.0.0.1:") && logged[0].contains("no protocol today"), "{logged:?}");
}

#[test]
fn a_burst_of_connections_is_accepted_in_full() {
    const BURST: usize = 700;
    let (reactor, count) = (reactor(), Rc::new(Cell::new(0)));
    let counted = count.clone();
    let addr = serve(&reactor, move || {
        counted.set(counted.get() + 1);
        Probe::new(&Story::default())
    });
    let clients: Vec<_> = (0..BURST).map(|_| Client::connect(addr)).collect();
    turn_until(&reactor, || count.get() == BURST);
    drop(clients);
}

// ---- the contract of a protocol ---------------------------------------------------------------------

#[test]
fn a_connection_is_made_gets_its_data_and_is_lost_in_this_order() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || Probe::new(&probe));
    let mut client = Client::connect(addr);
    client.send(b"hello");
    turn_until(&reactor, || story.has("hello"));
    drop(client);
    turn_until(&reactor, || story.is_over());
    settle(&reactor);
    assert_eq!(story.told(), ["made", "hello", "eof", "lost: done"]);
}

#[test]
fn data_sent_before_the_connection_was_accepted_and_its_end_arrive() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || Probe::new(&probe));
    let mut client = Client::connect(addr);
    client.send(b"hello");
    drop(client);
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "hello", "eof", "lost: done"]);
}

/// The system announces the end once, with the first of the data it stands behind.
#[test]
fn an_end_behind_more_data_than_one_read_takes_arrives() {
    for size in [64 * 1024, 64 * 1024 + 1, 200_000] {
        let (reactor, story, count) = (reactor(), Story::default(), Rc::new(Cell::new(0)));
        let (probe, counted) = (story.clone(), count.clone());
        let addr = serve(&reactor, move || {
            let counted = counted.clone();
            Probe::new(&probe).on_data(move |_, data| counted.set(counted.get() + data.len()))
        });
        let mut client = Client::connect(addr);
        client.send(&vec![b'x'; size]);
        client.send_end();
        turn_until(&reactor, || story.is_over());
        assert_eq!(count.get(), size);
    }
}

#[test]
fn a_reset_by_the_peer_is_the_reason() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || Probe::new(&probe));
    let client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
    client.reset().expect("a socket");
    turn_until(&reactor, || story.is_over());
    settle(&reactor);
    assert_eq!(story.told(), ["made", "lost: ConnectionReset"]);
    assert_eq!(logged(), [""; 0], "what peers do is not our error");
}

#[test]
fn a_reset_by_the_peer_is_noticed_while_reading_is_paused() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || Probe::new(&probe).on_made(Transport::pause_reading));
    let mut client = Client::connect(addr);
    client.send(b"never read");
    turn_until(&reactor, || story.has("made"));
    client.reset().expect("a socket");
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "lost: ConnectionReset"]);
}

#[test]
fn a_reset_that_comes_with_the_data_for_which_reading_is_paused_is_noticed() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || Probe::new(&probe).on_data(|transport, _| transport.pause_reading()));
    let mut client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
    client.send(b"a request");
    client.reset().expect("a socket");
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "a request", "lost: ConnectionReset"]);
}

#[test]
fn a_write_to_a_peer_that_is_gone_ends_a_connection_whose_reading_is_paused() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport).on_made(Transport::pause_reading));
    drop(Client::connect(addr));
    turn_until(&reactor, || story.has("made"));
    settle(&reactor);
    assert_eq!(story.told(), ["made"], "it may only have sent its last");
    let transport = shared.take().expect("made");
    turn_until(&reactor, || {
        transport.write(b"is anybody there?");
        story.is_over()
    });
    let told = story.told();
    assert!(matches!(told[1].as_str(), "lost: ConnectionReset" | "lost: BrokenPipe"), "{told:?}");
}

#[test]
fn the_end_of_a_peer_during_a_pause_is_noticed_after_it() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport).on_made(Transport::pause_reading));
    let mut client = Client::connect(addr);
    client.send(b"last words");
    drop(client);
    turn_until(&reactor, || story.has("made"));
    settle(&reactor);
    assert_eq!(story.told(), ["made"], "a pause in connection_made holds");
    shared.take().expect("made").resume_reading();
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "last words", "eof", "lost: done"]);
}

/// Where the user's code goes wrong, and how.
#[derive(Clone, Copy, Debug)]
enum Slip {
    Error,
    Panic,
}

impl Slip {
    fn slip(self) -> Result<()> {
        match self {
            Slip::Error => Err("a slip".into()),
            Slip::Panic => panic!("a slip"),
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Slip::Error => "lost: a slip",
            Slip::Panic => "lost: panicked: a slip",
        }
    }
}

#[test]
fn an_error_or_a_panic_in_any_method_ends_that_connection_with_that_reason_and_no_other() {
    for slip in [Slip::Error, Slip::Panic] {
        for place in ["made", "data", "eof", "end"] {
            let (reactor, story, other) = (reactor(), Story::default(), Story::default());
            let (probe, bystander, first) = (story.clone(), other.clone(), Cell::new(true));
            let at = move |here: &str| if here == place { slip.slip() } else { Ok(()) };
            let addr = serve(&reactor, move || match first.take() {
                true => Probe::new(&bystander).on_data(|transport, data| transport.write(data)),
                false => Probe::new(&probe)
                    .on_made(move |transport| {
                        transport.write(b"said before");
                        at("made")
                    })
                    .on_data(move |_, _| at("data"))
                    .on_eof(move |transport| {
                        transport.lose_write_connection();
                        at("eof")
                    })
                    .on_end(move |_| at("end")),
            });
            let mut untouched = Client::connect(addr);
            turn_until(&reactor, || other.has("made"));
            let mut client = Client::connect(addr);
            client.send(b"x");
            client.send_end();
            client.expect_close(&reactor);
            turn_until(&reactor, || story.is_over());
            settle(&reactor);
            assert_eq!(client.received, b"said before", "{place}, {slip:?}");
            assert_eq!(story.told().last().map(String::as_str), Some(slip.reason()), "{place}");
            assert_eq!(story.told().iter().filter(|told| told.starts_with("lost")).count(), 1);
            let logged = logged();
            assert_eq!(logged.len(), 1, "logged once: {logged:?}");
            assert!(logged[0].contains("Probe of 127.0.0.1:") && logged[0].contains("a slip"), "{logged:?}");
            untouched.send(b"still here");
            untouched.expect(&reactor, b"still here");
        }
    }
}

#[test]
fn a_panic_in_connection_lost_or_in_the_drop_of_a_protocol_is_logged_and_the_socket_is_closed() {
    struct PanicsLate(bool);
    impl Protocol for PanicsLate {
        fn data_received(&mut self, _: &Transport, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn connection_lost(&mut self, _: &Transport, _: ConnectionLost) {
            assert!(self.0, "in connection_lost");
        }
    }
    impl Drop for PanicsLate {
        fn drop(&mut self) {
            assert!(!self.0 || std::thread::panicking(), "in drop");
        }
    }
    for (in_drop, text) in [(false, "in connection_lost"), (true, "in drop")] {
        let reactor = reactor();
        let port = reactor.listen_tcp("127.0.0.1:0", move |_: &Address| PanicsLate(in_drop)).expect("a free port");
        let mut client = Client::connect(port.local_addr());
        client.send_end();
        client.expect_close(&reactor);
        let logged = logged();
        assert_eq!(logged.len(), 1, "{logged:?}");
        assert!(logged[0].contains(text), "{logged:?}");
    }
}

#[test]
fn an_error_after_abort_is_the_reason_all_the_same() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || {
        Probe::new(&probe).on_data(|transport, _| {
            transport.abort_connection();
            Slip::Error.slip()
        })
    });
    let mut client = Client::connect(addr);
    client.send(b"x");
    client.expect_close(&reactor);
    assert_eq!(client.error, Some(ErrorKind::ConnectionReset));
    assert_eq!(story.told(), ["made", "x", "lost: a slip"]);
}

#[test]
fn the_error_of_a_protocol_is_the_reason_also_when_the_peer_is_gone_as_well() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || {
        Probe::new(&probe).sharing(&transport).on_data(|transport, _| {
            // More than the system keeps, so that closing has to wait for the peer.
            transport.write(vec![0; 20 << 20]);
            Slip::Error.slip()
        })
    });
    let mut client = Client::connect(addr);
    client.send(b"x");
    turn_until(&reactor, || story.has("x"));
    settle(&reactor);
    client.reset().expect("a socket");
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "x", "lost: a slip"]);
}

#[test]
fn in_connection_lost_the_transport_is_disconnected_and_harmless() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || {
        let story = probe.clone();
        Probe::new(&probe).on_lost(move |transport, _| {
            assert!(!transport.is_connected());
            transport.write(b"too late");
            transport.lose_connection();
            transport.abort_connection();
            transport.lose_write_connection();
            transport.pause_reading();
            transport.resume_reading();
            assert_eq!(transport.unsent(), 0);
            assert!(transport.peer_addr().socket_addr().expect("TCP").ip().is_loopback());
            story.tell("checked");
        })
    });
    let mut client = Client::connect(addr);
    client.send_end();
    client.expect_close(&reactor);
    settle(&reactor);
    assert_eq!(story.told(), ["made", "eof", "lost: done", "checked"]);
    assert_eq!(client.received, b"");
}

#[test]
fn a_transport_kept_beyond_the_end_accepts_everything_and_does_nothing() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport));
    let client = Client::connect(addr);
    let peer = client.socket.local_addr().expect("connected");
    drop(client);
    turn_until(&reactor, || story.is_over());
    let transport = shared.take().expect("made");
    transport.write(b"too late");
    transport.lose_connection();
    transport.abort_connection();
    transport.pause_reading();
    transport.resume_reading();
    settle(&reactor);
    assert!(!transport.is_connected() && transport.unsent() == 0);
    assert_eq!(transport.peer_addr(), Address::Inet(peer));
    assert_eq!(story.told(), ["made", "eof", "lost: done"]);
}

#[test]
fn both_ends_are_told_while_connected() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let ends: Rc<RefCell<Option<(Address, Address)>>> = Rc::default();
    let told = ends.clone();
    let addr = serve(&reactor, move || {
        let told = told.clone();
        Probe::new(&probe).on_made(move |transport| {
            told.replace(Some((transport.peer_addr(), transport.local_addr().expect("connected"))));
        })
    });
    let client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
    let expected = (client.socket.local_addr().expect("connected").into(), addr.into());
    assert_eq!(ends.take(), Some(expected));
}

/// Two peers send; the protocol of the first closes the second, whose event is in the same batch.
#[test]
fn a_connection_that_an_earlier_handler_of_the_batch_ended_gets_no_data() {
    let (reactor, story) = (reactor(), Story::default());
    let transports: Rc<RefCell<Vec<Transport>>> = Rc::default();
    let (probe, all) = (story.clone(), transports.clone());
    let addr = serve(&reactor, move || {
        let (joining, others) = (all.clone(), all.clone());
        Probe::new(&probe)
            .on_made(move |transport| {
                joining.borrow_mut().push(transport.clone());
            })
            .on_data(move |_, _| {
                others.borrow().iter().for_each(Transport::abort_connection);
            })
    });
    let mut clients = [Client::connect(addr), Client::connect(addr)];
    turn_until(&reactor, || transports.borrow().len() == 2);
    clients.iter_mut().for_each(|client| client.send(b"x"));
    turn_until(&reactor, || story.told().iter().filter(|told| told.starts_with("lost")).count() == 2);
    settle(&reactor);
    assert_eq!(story.told().iter().filter(|told| *told == "x").count(), 1, "{:?}", story.told());
}

#[test]
fn a_peer_that_floods_does_not_starve_another_one() {
    let (reactor, count, story) = (reactor(), Rc::new(Cell::new(0)), Story::default());
    let (counted, other, first) = (count.clone(), story.clone(), Cell::new(true));
    let addr = serve(&reactor, move || {
        let counted = counted.clone();
        match first.take() {
            true => Probe::new(&Story::default()).on_data(move |_, data| {
                assert!(data.len() <= 64 * 1024);
                counted.set(counted.get() + 1);
            }),
            false => Probe::new(&other).on_data(|transport, data| transport.write(data)),
        }
    });
    let mut flood = Client::connect(addr);
    turn_until(&reactor, || count.get() > 0 || flood.send_some(&[0; 1 << 20]) == 0);
    let mut polite = Client::connect(addr);
    polite.send(b"please");
    let before = count.get();
    turn_until(&reactor, || {
        flood.send_some(&[0; 1 << 20]);
        polite.read() == b"please"
    });
    let meanwhile = count.get() - before;
    assert!(meanwhile < 20, "the flood was read {meanwhile} times first");
}

/// New data are announced while old data are still to be read: that must not add up to more than a read a turn.
#[test]
fn a_peer_that_floods_is_read_once_a_turn() {
    let (reactor, count) = (reactor(), Rc::new(Cell::new(0)));
    let counted = count.clone();
    let addr = serve(&reactor, move || {
        let counted = counted.clone();
        Probe::new(&Story::default()).on_data(move |_, _| counted.set(counted.get() + 1))
    });
    let mut flood = Client::connect(addr);
    turn_until(&reactor, || flood.send_some(&[0; 1 << 20]) == 0);
    for _ in 0..200 {
        count.set(0);
        reactor.turn(Some(Duration::ZERO)).expect("a turn");
        assert!(count.get() <= 1, "{} reads in one turn", count.get());
        flood.send_some(&[0; 1 << 20]);
    }
}

// ---- writing and closing ----------------------------------------------------------------------------

#[test]
fn writes_arrive_in_order_and_nothing_is_sent_for_an_empty_one() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || {
        Probe::new(&probe).on_made(|transport| {
            transport.write("");
            assert_eq!(transport.unsent(), 0);
            transport.write("one ");
            transport.write(b"two ");
            transport.write(vec![b'3']);
            assert_eq!(transport.unsent(), 9, "gathered, not sent");
        })
    });
    Client::connect(addr).expect(&reactor, b"one two 3");
}

#[test]
fn what_is_written_outside_of_a_handler_goes_out_by_itself() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport));
    let mut client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
    shared.take().expect("made").write(b"from outside");
    client.expect(&reactor, b"from outside");
}

#[test]
fn lose_connection_sends_everything_even_what_is_written_after_it() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || {
        Probe::new(&probe).on_made(|transport| {
            transport.write("1");
            transport.lose_connection();
            transport.lose_connection();
            transport.write("2");
            assert!(transport.is_connected());
        })
    });
    let mut client = Client::connect(addr);
    client.expect_close(&reactor);
    assert_eq!((client.received.as_slice(), client.error), (&b"12"[..], None));
    assert_eq!(story.told(), ["made", "lost: done"]);
}

#[test]
fn lose_connection_sends_more_than_the_system_can_keep() {
    const SIZE: usize = 20 << 20;
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || {
        Probe::new(&probe).on_made(|transport| {
            let data: Vec<u8> = (0..SIZE).map(pattern).collect();
            transport.write(data);
            transport.lose_connection();
        })
    });
    let mut client = Client::connect(addr);
    settle(&reactor);
    assert_eq!(story.told(), ["made"], "not lost before everything is sent");
    client.expect_close(&reactor);
    assert!(client.received.iter().copied().eq((0..SIZE).map(pattern)));
    assert_eq!(story.told(), ["made", "lost: done"]);
}

#[test]
fn after_lose_connection_nothing_more_is_read() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || {
        Probe::new(&probe).on_data(|transport, _| {
            // More than the system keeps: the connection cannot be closed until the client reads.
            transport.write(vec![b'x'; 20 << 20]);
            transport.lose_connection();
        })
    });
    let mut client = Client::connect(addr);
    client.send(b"first");
    turn_until(&reactor, || story.has("first"));
    client.send(b"second");
    settle(&reactor);
    assert_eq!(story.told(), ["made", "first"]);
    client.expect_close(&reactor);
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "first", "lost: done"]);
}

#[test]
fn abort_drops_what_was_not_sent_and_resets_the_peer_later() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport));
    let mut client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
    let transport = shared.take().expect("made");
    transport.write("never sent");
    transport.abort_connection();
    transport.abort_connection();
    transport.lose_connection();
    assert_eq!(story.told(), ["made"], "not from inside the call");
    client.expect_close(&reactor);
    assert_eq!((client.received.len(), client.error), (0, Some(ErrorKind::ConnectionReset)));
    assert_eq!(story.told(), ["made", "lost: aborted"]);
}

#[test]
fn abort_ends_a_connection_that_waits_for_a_slow_reader() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || {
        Probe::new(&probe).sharing(&transport).on_made(|transport| {
            transport.write(vec![0; 20 << 20]);
            transport.lose_connection();
        })
    });
    let _client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
    settle(&reactor);
    shared.take().expect("made").abort_connection();
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "lost: aborted"]);
}

#[test]
fn after_a_half_close_the_other_direction_goes_on() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || {
        Probe::new(&probe).on_made(|transport| {
            transport.write("all I have");
            transport.lose_write_connection();
            transport.write(" too late");
        })
    });
    let mut client = Client::connect(addr);
    client.expect_close(&reactor);
    assert_eq!((client.received.as_slice(), client.error), (&b"all I have"[..], None));
    client.send(b"still listening?");
    turn_until(&reactor, || story.has("still listening?"));
    client.send_end();
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "still listening?", "eof", "lost: done"]);
}

#[test]
fn lose_connection_after_a_half_close_ends_the_connection_later() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr =
        serve(&reactor, move || Probe::new(&probe).sharing(&transport).on_made(Transport::lose_write_connection));
    let mut client = Client::connect(addr);
    client.expect_close(&reactor);
    shared.take().expect("made").lose_connection();
    assert_eq!(story.told(), ["made"]);
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "lost: done"]);
}

/// The classic race of a server that closes on the end of a request: the answer is lost.
#[test]
fn a_peer_that_ends_its_request_with_its_stream_gets_the_whole_answer() {
    const SIZE: usize = 4 << 20;
    for _ in 0..20 {
        let (reactor, story) = (reactor(), Story::default());
        let probe = story.clone();
        let addr =
            serve(&reactor, move || Probe::new(&probe).on_data(|transport, _| transport.write(vec![b'x'; SIZE])));
        let mut client = Client::connect(addr);
        client.send(b"request");
        client.send_end();
        client.expect_close(&reactor);
        assert_eq!((client.received.len(), client.error), (SIZE, None));
        turn_until(&reactor, || story.is_over());
        assert_eq!(story.told(), ["made", "request", "eof", "lost: done"]);
    }
}

#[test]
fn a_protocol_that_still_has_something_to_say_keeps_a_half_closed_connection() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport).on_eof(|_| Ok(())));
    let mut client = Client::connect(addr);
    client.send(b"question");
    client.send_end();
    turn_until(&reactor, || story.has("eof"));
    settle(&reactor);
    let transport = shared.take().expect("made");
    transport.write(b"answer");
    client.expect(&reactor, b"answer");
    assert!(!client.is_closed());
    transport.lose_connection();
    client.expect_close(&reactor);
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "question", "eof", "lost: done"], "the end is told once");
}

#[test]
fn the_end_of_the_stream_is_told_once_also_when_the_answer_takes_a_while_to_send() {
    const SIZE: usize = 20 << 20;
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || Probe::new(&probe).on_eof(|transport| transport.write(vec![b'x'; SIZE])));
    let mut client = Client::connect(addr);
    client.send_end();
    turn_until(&reactor, || client.read().len() == SIZE);
    settle(&reactor);
    assert_eq!(story.told(), ["made", "eof"]);
}

#[test]
fn the_end_of_a_half_closed_peer_is_noticed() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport).on_eof(|_| Ok(())));
    let mut client = Client::connect(addr);
    client.send_end();
    turn_until(&reactor, || story.has("eof"));
    client.reset().expect("a socket");
    let transport = shared.take().expect("made");
    turn_until(&reactor, || {
        transport.write(b"anybody?");
        story.is_over()
    });
    assert_eq!(story.told().len(), 3, "{:?}", story.told());
}

// ---- pausing and slow peers -------------------------------------------------------------------------

#[test]
fn while_reading_is_paused_no_data_come_and_after_it_all_of_them() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || {
        Probe::new(&probe).sharing(&transport).on_data(|transport, _| transport.pause_reading())
    });
    let mut client = Client::connect(addr);
    client.send(b"one");
    turn_until(&reactor, || story.has("one"));
    client.send(b"two");
    settle(&reactor);
    assert_eq!(story.told(), ["made", "one"]);
    let transport = shared.take().expect("made");
    transport.resume_reading();
    transport.resume_reading();
    turn_until(&reactor, || story.has("two"));
    client.send(b"three");
    settle(&reactor);
    transport.pause_reading();
    transport.resume_reading();
    turn_until(&reactor, || story.has("three"));
    assert_eq!(story.told(), ["made", "one", "two", "three"]);
}

#[test]
fn a_half_close_together_with_a_resume_forgets_no_data() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport).on_made(Transport::pause_reading));
    let mut client = Client::connect(addr);
    client.send(b"waiting");
    turn_until(&reactor, || story.has("made"));
    settle(&reactor);
    let transport = shared.take().expect("made");
    transport.lose_write_connection();
    transport.resume_reading();
    turn_until(&reactor, || story.has("waiting"));
}

#[test]
fn resuming_a_connection_that_is_being_lost_reads_nothing() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport).on_made(Transport::pause_reading));
    let mut client = Client::connect(addr);
    client.send(b"unread");
    turn_until(&reactor, || story.has("made"));
    let transport = shared.take().expect("made");
    transport.lose_connection();
    transport.resume_reading();
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "lost: done"]);
}

/// An echo answers every byte: without a bound, a peer that sends and never reads would fill the memory.
#[test]
fn a_peer_that_sends_and_does_not_read_costs_bounded_memory_and_loses_nothing() {
    const SIZE: usize = 32 << 20;
    let (reactor, most) = (reactor(), Rc::new(Cell::new(0)));
    let peak = most.clone();
    let addr = serve(&reactor, move || {
        let peak = peak.clone();
        Probe::new(&Story::default()).on_data(move |transport, data| {
            transport.write(data);
            peak.set(peak.get().max(transport.unsent()));
        })
    });
    let mut client = Client::connect(addr);
    let data: Vec<u8> = (0..SIZE).map(pattern).collect();
    let mut sent = 0;
    // It sends until nothing moves any more, and only then reads.
    let mut idle = 0;
    while idle < 200 {
        let count = client.send_some(&data[sent..]);
        sent += count;
        idle = if count == 0 { idle + 1 } else { 0 };
        reactor.turn(Some(Duration::ZERO)).expect("a turn");
    }
    assert!(sent < SIZE, "the server took everything");
    assert!(most.get() <= 128 * 1024, "{} bytes were kept", most.get());
    turn_until(&reactor, || {
        sent += client.send_some(&data[sent..]);
        client.read().len() == SIZE
    });
    assert!(client.received == data);
}

#[test]
fn a_protocol_that_has_written_too_much_is_told_once_when_all_of_it_is_sent() {
    const SIZE: usize = 20 << 20;
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || {
        let made = |transport: &Transport| {
            transport.write(vec![0; 64 * 1024]);
            assert!(!transport.is_congested());
            transport.write(vec![0; SIZE - 64 * 1024]);
            assert!(transport.is_congested());
        };
        let resumed = |transport: &Transport| assert_eq!((transport.unsent(), transport.is_congested()), (0, false));
        Probe::new(&probe).on_made(made).on_resume(resumed)
    });
    let mut client = Client::connect(addr);
    settle(&reactor);
    assert_eq!(story.told(), ["made"], "the client has not read");
    turn_until(&reactor, || client.read().len() == SIZE);
    settle(&reactor);
    assert_eq!(story.told(), ["made", "resume"]);
}

#[test]
fn a_protocol_that_writes_a_piece_whenever_it_may_sends_it_all_in_bounded_memory() {
    const PIECE: usize = 100_000;
    const PIECES: usize = 300;
    let (reactor, most) = (reactor(), Rc::new(Cell::new(0)));
    let peak = most.clone();
    let addr = serve(&reactor, move || {
        let (peak, written) = (peak.clone(), Rc::new(Cell::new(0)));
        let piece = move |transport: &Transport| {
            written.set(written.get() + 1);
            transport.write(vec![b'x'; PIECE]);
            peak.set(peak.get().max(transport.unsent()));
            if written.get() == PIECES {
                transport.lose_connection();
            }
        };
        Probe::new(&Story::default()).on_made(piece.clone()).on_resume(piece)
    });
    let mut client = Client::connect(addr);
    client.expect_close(&reactor);
    assert_eq!((client.received.len(), client.error), (PIECE * PIECES, None));
    assert_eq!(most.get(), PIECE);
}

/// Or one that takes its time could not be told from one that takes nothing: left to itself the system keeps megabytes, and asks
/// for more when a third of them was read.
#[cfg(target_os = "linux")]
#[test]
fn a_peer_that_reads_little_is_seen_to_read() {
    let reactor = reactor();
    let served: Rc<RefCell<Option<Transport>>> = Rc::default();
    let made = served.clone();
    let protocol = move || {
        let made = made.clone();
        Probe::new(&Story::default()).on_made(move |transport| {
            transport.write(vec![0; 16 << 20]);
            made.replace(Some(transport.clone()));
        })
    };
    let adopted = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = reactor.listen(adopted, {
        let protocol = protocol.clone();
        move |_: &Address| protocol()
    });
    for addr in [serve(&reactor, protocol), port.expect("it listens").local_addr()] {
        let mut client = TcpStream::connect(addr).expect("somebody listens");
        turn_until(&reactor, || served.borrow().is_some());
        settle(&reactor);
        let transport = served.take().expect("made");
        let unsent = transport.unsent();
        client.read_exact(&mut vec![0; 256 * 1024]).expect("there is more");
        turn_until(&reactor, || transport.unsent() < unsent);
    }
}

#[test]
fn an_error_when_writing_is_resumed_ends_the_connection() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || {
        let made = |transport: &Transport| transport.write(vec![0; 100_000]);
        Probe::new(&probe).on_made(made).on_resume(|_| Slip::Error.slip())
    });
    let mut client = Client::connect(addr);
    client.expect_close(&reactor);
    turn_until(&reactor, || story.is_over());
    assert_eq!(client.received.len(), 100_000);
    assert_eq!(story.told(), ["made", "resume", "lost: a slip"]);
}

#[test]
fn a_slow_reader_does_not_hold_up_others() {
    let reactor = reactor();
    let addr = serve(&reactor, || {
        Probe::new(&Story::default()).on_data(|transport, data| {
            let size = if data == b"much" { 20 << 20 } else { 4 };
            transport.write(vec![b'x'; size]);
        })
    });
    let mut slow = Client::connect(addr);
    slow.send(b"much");
    settle(&reactor);
    for _ in 0..100 {
        let mut quick = Client::connect(addr);
        quick.send(b"few");
        quick.expect(&reactor, b"xxxx");
    }
    turn_until(&reactor, || slow.read().len() == 20 << 20);
}

#[test]
fn a_big_transfer_in_both_directions_arrives_whole() {
    const SIZE: usize = 16 << 20;
    let reactor = reactor();
    let addr = serve(&reactor, || Probe::new(&Story::default()).on_data(|transport, data| transport.write(data)));
    let reader = std::thread::spawn(move || {
        let mut socket = TcpStream::connect(addr).expect("somebody listens");
        let mut writer = socket.try_clone().expect("a descriptor");
        let writer = std::thread::spawn(move || {
            let data: Vec<u8> = (0..SIZE).map(pattern).collect();
            writer.write_all(&data).expect("it is read");
            writer.shutdown(std::net::Shutdown::Write).expect("connected");
        });
        let mut received = Vec::new();
        socket.read_to_end(&mut received).expect("an orderly end");
        writer.join().expect("no panic");
        received
    });
    turn_until(&reactor, || reader.is_finished());
    let received = reader.join().expect("no panic");
    assert!(received.iter().copied().eq((0..SIZE).map(pattern)));
}

// ---- re-entrancy ------------------------------------------------------------------------------------

#[test]
fn a_protocol_may_do_anything_to_any_transport_from_inside_any_method() {
    fn everything(reactor: &Reactor, transports: &RefCell<Vec<Transport>>) {
        let all = transports.borrow().clone();
        for transport in &all {
            transport.write("x");
            transport.pause_reading();
            transport.resume_reading();
            transport.lose_write_connection();
            transport.lose_connection();
        }
        let port = reactor.listen_tcp("127.0.0.1:0", |_: &Address| Probe::new(&Story::default())).expect("a port");
        let _stopped = port.stop_listening();
        reactor.call_soon(|| {}).cancel().expect("pending");
    }
    let (reactor, story) = (reactor(), Story::default());
    let transports: Rc<RefCell<Vec<Transport>>> = Rc::default();
    let (probe, inside, all) = (story.clone(), reactor.clone(), transports.clone());
    let addr = serve(&reactor, move || {
        let act = {
            let (inside, all) = (inside.clone(), all.clone());
            move || everything(&inside, &all)
        };
        let (made, data, eof, lost, all) = (act.clone(), act.clone(), act.clone(), act, all.clone());
        Probe::new(&probe)
            .on_made(move |transport| {
                all.borrow_mut().push(transport.clone());
                if all.borrow().len() == 3 {
                    made();
                }
            })
            .on_data(move |_, _| data())
            .on_eof(move |_| eof())
            .on_lost(move |_, _| lost())
    });
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(addr)).collect();
    clients.iter_mut().for_each(|client| client.send(b"x"));
    clients.iter_mut().for_each(|client| client.expect_close(&reactor));
    turn_until(&reactor, || story.told().iter().filter(|told| told.starts_with("lost")).count() == 3);
    assert_eq!(logged(), [""; 0]);
}

fn pattern(position: usize) -> u8 {
    (position % 251) as u8
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}
