//! A reactor on each core: shared ports, one registry, and one end.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dosimeter::net::{Address, CannotListen, DatagramProtocol, Protocol, Transport, UdpPort};
use dosimeter::prometheus::Registry;
use dosimeter::{Builder, Clock, Reactor, Result, run_on_cores};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;
use socket2::{Domain, Socket, Type};

/// Tells the name of its reactor; stops it when the peer says so.
struct Name;

impl Protocol for Name {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        transport.write(transport.reactor().name());
        transport.lose_write_connection();
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, _data: &[u8]) -> Result<()> {
        Ok(transport.reactor().stop()?)
    }
}

/// An address that is kept for reactors that share it, and that nobody else gets.
fn shared_address() -> (Socket, SocketAddr) {
    let holder = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    holder.set_reuse_port(true).expect("a socket");
    holder.set_reuse_address(true).expect("a socket");
    holder.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let addr = holder.local_addr().expect("bound").as_socket().expect("IPv4");
    (holder, addr)
}

/// A builder whose figures nobody else sees and that leaves signals alone.
fn builder() -> Builder {
    Reactor::builder().metrics(Registry::new()).signal_handlers(false)
}

fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).expect("somebody listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

fn who_answers(addr: SocketAddr) -> String {
    let mut name = String::new();
    connect(addr).read_to_string(&mut name).expect("a name");
    name
}

fn names(registry: &Registry, family: &str) -> BTreeSet<String> {
    let families = registry.gather();
    let family = families.iter().find(|one| one.name() == family).expect("a family of every reactor");
    let labels = family.get_metric().iter().flat_map(|metric| metric.get_label());
    labels.filter(|label| label.name() == "reactor").map(|label| label.value().to_owned()).collect()
}

#[test]
fn the_reactors_share_a_port_and_a_registry_and_stop_together() {
    let (_holder, addr) = shared_address();
    let registry = Registry::new();
    let (ready, is_ready) = mpsc::channel();
    let runner = thread::spawn({
        let registry = registry.clone();
        move || {
            builder().metrics(registry).run_on_cores(2, |reactor| {
                reactor.listen_tcp(addr, |_: &Address| Name)?;
                let ready = ready.clone();
                reactor.call_when_running(move || Ok(ready.send(())?));
                Ok(())
            })
        }
    });
    is_ready.iter().take(2).for_each(drop);
    let answers: BTreeSet<String> = (0..CLIENTS).map(|_| who_answers(addr)).collect();
    assert_eq!(answers, both());
    assert_eq!(names(&registry, "dosimeter_connections_accepted_total"), both());
    let mut last = connect(addr);
    last.write_all(b"stop").expect("connected");
    runner.join().expect("no panic").expect("a clean end");
    TcpStream::connect(addr).expect_err("nobody listens any more");
}

/// What one sender sends goes to one of them, always the same.
#[test]
fn the_reactors_share_an_address_for_datagrams_as_well() {
    struct Namer;
    impl DatagramProtocol for Namer {
        fn datagram_received(&mut self, port: &UdpPort, data: &[u8], from: SocketAddr) -> Result<()> {
            if data == b"stop" {
                port.reactor().stop()?;
            }
            Ok(port.send_to(port.reactor().name(), from)?)
        }
    }
    let addr = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let (ready, is_ready) = mpsc::channel();
    let runner = thread::spawn(move || {
        builder().run_on_cores(2, move |reactor| {
            reactor.listen_udp(addr, Namer)?;
            let ready = ready.clone();
            reactor.call_when_running(move || _ = ready.send(()));
            Ok(())
        })
    });
    is_ready.iter().take(2).for_each(drop);
    let ask = |socket: &UdpSocket, text: &str| {
        socket.send(text.as_bytes()).expect("room");
        let mut answer = [0; 8];
        let count = socket.recv(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    let mut names = BTreeSet::new();
    for _ in 0..64 {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.connect(addr).and_then(|()| socket.set_read_timeout(Some(PATIENCE))).expect("a socket");
        let name = ask(&socket, "who?");
        assert_eq!(ask(&socket, "who?"), name);
        names.insert(name);
    }
    assert_eq!(names, BTreeSet::from(["0", "1"].map(str::to_owned)));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(addr).and_then(|()| socket.set_read_timeout(Some(PATIENCE))).expect("a socket");
    ask(&socket, "stop");
    runner.join().expect("no panic").expect("a clean end");
}

#[test]
fn nobody_runs_when_one_cannot_be_set_up_and_nothing_is_left_behind() {
    let (holder, addr) = shared_address();
    let set_up = AtomicUsize::new(0);
    let running = Arc::new(AtomicUsize::new(0));
    let error = builder()
        .run_on_cores(3, |reactor| {
            reactor.listen_tcp(addr, |_: &Address| Name)?;
            set_up.fetch_add(1, Ordering::Relaxed);
            if reactor.name() == "1" {
                reactor.listen("unix:/nonexistent/x.sock", |_: &Address| Name)?;
            }
            let running = running.clone();
            reactor.call_when_running(move || {
                running.fetch_add(1, Ordering::Relaxed);
            });
            Ok(())
        })
        .unwrap_err();
    assert!(error.is::<CannotListen>(), "{error}");
    assert_eq!((set_up.into_inner(), running.load(Ordering::Relaxed)), (3, 0));
    drop(holder);
    TcpListener::bind(addr).expect("all ports are closed");
}

#[test]
fn a_panic_in_setup_is_the_result_of_all() {
    let error = builder().run_on_cores(2, |reactor| match reactor.name() {
        "1" => panic!("not here"),
        _ => Ok(()),
    });
    let failure = error.unwrap_err();
    assert!(failure.is_panic() && failure.to_string().contains("not here"), "{failure}");
}

#[test]
fn the_number_is_added_to_a_name_and_without_a_number_the_machine_has_its_own() {
    let stop = |reactor: &Reactor| {
        let stop = reactor.clone();
        reactor.call_when_running(move || {
            // Another one may have been quicker.
            let _ = stop.stop();
        });
    };
    let (tell, told) = mpsc::channel();
    let outcome = builder().name("web").run_on_cores(2, |reactor| {
        stop(reactor);
        Ok(tell.send(reactor.name().to_owned())?)
    });
    outcome.expect("a clean end");
    drop(tell);
    assert_eq!(told.iter().collect::<BTreeSet<_>>(), BTreeSet::from(["web-0".to_owned(), "web-1".to_owned()]));

    let count = AtomicUsize::new(0);
    let outcome = builder().run_on_cores(0, |reactor| {
        stop(reactor);
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    outcome.expect("a clean end");
    assert_eq!(count.into_inner(), thread::available_parallelism().expect("a number").get());
}

#[test]
fn what_is_to_be_done_before_the_shutdown_is_done_on_every_core() {
    let done = Arc::new(AtomicUsize::new(0));
    let outcome = builder().run_on_cores(2, |reactor| {
        let (clock, done) = (reactor.clone(), done.clone());
        reactor.on_shutdown().before(move || {
            dosimeter::defer_later(&clock, Duration::from_millis(1), move || done.fetch_add(1, Ordering::Relaxed))
                .map(drop)
        });
        if reactor.name() == "0" {
            let stop = reactor.clone();
            reactor.call_later(Duration::ZERO, move || stop.stop().expect("it runs"));
        }
        Ok(())
    });
    outcome.expect("a clean end");
    assert_eq!(done.load(Ordering::Relaxed), 2);
}

/// The only test of this program whose reactors listen for signals.
#[test]
fn a_signal_stops_all_of_them() {
    let (ready, is_ready) = mpsc::channel();
    let runner = thread::spawn(move || {
        run_on_cores(2, |reactor| {
            let ready = ready.clone();
            reactor.call_when_running(move || Ok(ready.send(())?));
            Ok(())
        })
    });
    is_ready.iter().take(2).for_each(drop);
    raise(SIGTERM).expect("a signal to oneself");
    runner.join().expect("no panic").expect("a clean end");
}

fn both() -> BTreeSet<String> {
    BTreeSet::from(["0".to_owned(), "1".to_owned()])
}

/// That all of them come to one of two reactors happens once in 2^63 runs.
const CLIENTS: usize = 64;

const PATIENCE: Duration = Duration::from_secs(20);
