//! From inside every callback there is, and every drop: whatever the reactor offers may be asked of it again.
//!
//! A cell of ours that is borrowed meanwhile is a panic, which is logged; so is what a callback finds out of order.

#[path = "support/blackhole.rs"]
mod blackhole;
#[path = "support/reactor.rs"]
mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{
    Address, CannotConnect, ClientEndpoint, ClientFactory, ConnectionLost, Connector, DatagramProtocol, Factory,
    ListeningPort, Producer, ProducerKind, Protocol, Transport, UdpPort,
};
use dosimeter::source::{Descriptor, Interest, Next};
use dosimeter::{Clock, Deferred, LoopingCall, Reactor, ReactorError, Result, cooperate, defer_later};

use blackhole::refusing;
use support::{logged, reactor, turn_until};

/// Who was called, and what each does.
#[derive(Clone)]
struct Inside {
    reactor: Reactor,
    places: Rc<RefCell<BTreeSet<&'static str>>>,
}

impl Inside {
    fn of(reactor: &Reactor) -> Self {
        Inside { reactor: reactor.clone(), places: Rc::default() }
    }

    /// Does everything, in the name of a place.
    fn everything(&self, place: &'static str) {
        self.places.borrow_mut().insert(place);
        everything(&self.reactor);
    }

    fn call(&self, place: &'static str) -> impl Fn() + 'static {
        let inside = self.clone();
        move || inside.everything(place)
    }

    /// Something whose drop does everything.
    fn drop(&self, place: &'static str) -> OnDrop {
        OnDrop(self.clone(), place)
    }

    fn has(&self, places: &[&str]) -> bool {
        places.iter().all(|place| self.places.borrow().contains(place))
    }
}

struct OnDrop(Inside, &'static str);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.everything(self.1);
    }
}

/// What may be asked at any time inside of a turn; at some times it is refused.
fn everything(reactor: &Reactor) {
    assert!(reactor.run().is_err() && reactor.turn(Some(Duration::ZERO)).is_err(), "not inside of itself");
    clocks(reactor);
    threads(reactor);
    sockets(reactor);
    for triggers in [reactor.on_startup(), reactor.on_shutdown()] {
        // After the end nothing is added, and so nothing to be removed.
        let _ = triggers.before(|| ()).remove();
        let _ = triggers.during(|| ()).remove();
        let _ = triggers.after(|| ()).remove();
    }
    let _ = format!("{reactor:?} {:?} {:?}", reactor.timers(), reactor.on_shutdown());
}

fn clocks(reactor: &Reactor) {
    let call = reactor.call_later(Duration::from_secs(1), || {});
    let _ = (call.reset(Duration::ZERO), call.delay(Duration::MAX), call.cancel());
    assert_eq!(reactor.timers().pending().iter().filter(|call| !call.is_active()).count(), 0);
    let beat = LoopingCall::new(reactor, || ());
    drop(beat.start(Duration::from_secs(1)));
    let _ = (beat.reset(), beat.stop());
    let task = cooperate(reactor, [(), ()]);
    let _ = (task.pause(), task.resume(), task.stop());
    drop(task.when_done().add_errback(|_| ()));
    let clock = reactor.clone();
    let spawned = reactor.spawn(async move { defer_later(&clock, Duration::from_secs(1), || ()).await });
    spawned.cancel();
    drop(spawned.add_errback(|_| ()));
}

fn threads(reactor: &Reactor) {
    drop(reactor.defer_to_thread(|| Ok(())).add_errback(|_| ()));
    reactor.set_max_threads(3);
    let remote = reactor.remote();
    let _ = remote.call_from_thread(|_| ());
    let waited = remote.blocking_call_from_thread(|_| Ok(())).expect_err("it would wait for itself");
    assert_eq!(waited.downcast_ref(), Some(&ReactorError::OwnThread));
}

fn sockets(reactor: &Reactor) {
    if let Ok(port) = reactor.listen_tcp("127.0.0.1:0", |_: &Address| Mute) {
        let _ = reactor.connect_tcp(port.local_addr(), |_: &Address| Mute).stop_connecting();
        let attempt = ClientEndpoint::tcp(port.local_addr()).connect(reactor, |_: &Address| Mute);
        attempt.cancel();
        drop(attempt.add_both(|_| ()));
        drop((port.stop_listening(), port.start_listening(), port));
    }
    if let Ok(port) = reactor.listen_udp("127.0.0.1:0", Mute) {
        drop((port.send_to("x", port.local_addr()), port.stop_listening()));
    }
    let (ours, _theirs) = UnixStream::pair().expect("two sockets");
    let ours = Descriptor::nonblocking(ours).expect("a descriptor");
    if let Ok(watch) = reactor.watch(ours, Interest::READABLE, |_, _, _| Ok(Next::Again)) {
        watch.set_interest(Interest::READABLE | Interest::WRITABLE).expect("it is watched");
        drop((watch.call_again(), watch.remove()));
    }
}

struct Mute;

impl Protocol for Mute {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl DatagramProtocol for Mute {
    fn datagram_received(&mut self, _: &UdpPort, _: &[u8], _: SocketAddr) -> Result<()> {
        Ok(())
    }
}

/// A protocol, a factory of either kind and a producer that do everything from each of their methods.
struct Meddler {
    inside: Inside,
    /// How its methods are called in the list of places.
    names: &'static Names,
    transports: Rc<RefCell<Vec<Transport>>>,
    _dropped: OnDrop,
}

struct Names {
    start: &'static str,
    build: &'static str,
    stop: &'static str,
    made: &'static str,
    data: &'static str,
    end: &'static str,
    lost: &'static str,
    dropped: &'static str,
}

const SERVER: Names = Names {
    start: "server: start",
    build: "server: build",
    stop: "server: stop",
    made: "server: made",
    data: "server: data",
    end: "server: end",
    lost: "server: lost",
    dropped: "server: drop",
};

const CLIENT: Names = Names {
    start: "client: start",
    build: "client: build",
    stop: "client: stop",
    made: "client: made",
    data: "client: data",
    end: "client: end",
    lost: "client: lost",
    dropped: "client: drop",
};

impl Meddler {
    fn new(inside: &Inside, names: &'static Names) -> Self {
        Meddler { inside: inside.clone(), names, transports: Rc::default(), _dropped: inside.drop(names.dropped) }
    }

    fn meddle(&self, place: &'static str) {
        let all = self.transports.borrow().clone();
        for transport in all {
            transport.pause_reading();
            transport.resume_reading();
            let _ = (transport.local_addr(), transport.set_nodelay(true), transport.unsent());
        }
        self.inside.everything(place);
    }
}

impl Protocol for Meddler {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        self.transports.borrow_mut().push(transport.clone());
        self.meddle(self.names.made);
        let producer = Rc::new(Meddler::new(&self.inside, self.names));
        transport.register_producer(producer, ProducerKind::Pull)?;
        transport.write("x");
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, _: &[u8]) -> Result<()> {
        self.meddle(self.names.data);
        transport.unregister_producer();
        transport.lose_write_connection();
        Ok(())
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.meddle(self.names.end);
        transport.lose_connection();
        Ok(())
    }

    fn connection_lost(&mut self, _: &Transport, _: ConnectionLost) {
        self.meddle(self.names.lost);
    }
}

impl Producer for Meddler {
    fn resume_producing(&self) -> Result<()> {
        self.meddle("producer: resume");
        Ok(())
    }

    fn stop_producing(&self) {
        self.meddle("producer: stop");
    }
}

impl Factory for Meddler {
    type Protocol = Meddler;

    fn build_protocol(&self, _: &Address) -> Option<Meddler> {
        self.meddle(self.names.build);
        Some(Meddler { transports: self.transports.clone(), ..Meddler::new(&self.inside, self.names) })
    }

    fn start_factory(&self) -> Result<()> {
        self.meddle(self.names.start);
        Ok(())
    }

    fn stop_factory(&self) -> Result<()> {
        self.meddle(self.names.stop);
        Ok(())
    }

    fn listening(&self, port: &ListeningPort<Address>) {
        assert!(port.is_listening());
        self.meddle("server: listening");
    }
}

impl ClientFactory for Meddler {
    fn started_connecting(&self, connector: &Connector) {
        self.meddle("client: started");
        assert!(connector.connect().is_err());
    }

    fn client_connection_failed(&self, _: &Connector, _: CannotConnect) {
        self.meddle("client: failed");
    }

    fn client_connection_lost(&self, _: &Connector, _: ConnectionLost) {
        self.meddle("client: factory lost");
    }
}

impl DatagramProtocol for Meddler {
    fn start_protocol(&mut self, port: &UdpPort) -> Result<()> {
        self.meddle("udp: start");
        Ok(port.send_to("x", port.local_addr())?)
    }

    fn datagram_received(&mut self, port: &UdpPort, _: &[u8], _: SocketAddr) -> Result<()> {
        self.meddle("udp: datagram");
        drop(port.stop_listening().map(self.inside.call("udp: stopped").into_map()));
        Ok(())
    }

    fn stop_protocol(&mut self, _: &UdpPort) {
        self.meddle("udp: stop");
    }
}

trait IntoMap {
    fn into_map(self) -> impl Fn(()) + 'static;
}

impl<F: Fn() + 'static> IntoMap for F {
    fn into_map(self) -> impl Fn(()) + 'static {
        move |()| self()
    }
}

#[test]
fn every_callback_of_the_loop_may_do_everything() {
    let reactor = reactor();
    let inside = Inside::of(&reactor);
    reactor.call_soon(inside.call("timed call"));
    in_a_turn(&inside, |inside| {
        let dropped = inside.drop("timed call: drop");
        let call = inside.reactor.call_later(Duration::from_secs(1), move || drop(dropped));
        call.cancel().expect("it is pending");
    });
    let (thread_call, answer) = (inside.call("job"), inside.call("job: answer").into_map());
    drop(reactor.defer_to_thread(|| Ok(())).map(move |()| thread_call()).map(answer));
    drop(LoopingCall::new(&reactor, inside.call("loop")).start_after(Duration::ZERO));
    cooperate(&reactor, std::iter::from_fn(inside.call("step").into_step()));
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    let (ready, source) = (inside.call("source"), inside.drop("source: drop"));
    let watched = Descriptor::nonblocking(ours).expect("a descriptor");
    let watch = reactor.watch(watched, Interest::WRITABLE, move |_, _, _| {
        let _ = &source;
        ready();
        Ok(Next::Remove)
    });
    watch.expect("it can be polled");
    let places = ["timed call", "timed call: drop", "job", "job: answer", "loop", "step", "source", "source: drop"];
    turn_until(&reactor, || inside.has(&places));
    reactor.shut_down();
    assert_eq!(logged(), [""; 0]);
    drop(theirs);
}

trait IntoStep {
    fn into_step(self) -> impl FnMut() -> Option<()> + 'static;
}

impl<F: Fn() + 'static> IntoStep for F {
    /// Once, and then the work is done.
    fn into_step(self) -> impl FnMut() -> Option<()> + 'static {
        let mut step = Some(self);
        move || step.take().map(|step| step())
    }
}

#[test]
fn every_callback_of_a_connection_may_do_everything() {
    let reactor = reactor();
    let inside = Inside::of(&reactor);
    let resolver = inside.call("resolver");
    reactor.install_resolver(move |_: &str, _: u16| {
        resolver();
        Deferred::fail("nobody is known")
    });
    let port = in_a_turn(&inside, |inside| {
        let port = serve_and_connect(inside);
        inside.reactor.connect_tcp(refusing(), Meddler::new(inside, &CLIENT));
        inside.reactor.connect_tcp("a.test:80", Meddler::new(inside, &CLIENT));
        port
    });
    let both = [&SERVER, &CLIENT].map(|names| [names.build, names.made, names.data, names.end, names.lost]);
    turn_until(&reactor, || inside.has(both.as_flattened()));
    drop(port.stop_listening().map(inside.call("port stopped").into_map()));
    drop(port);
    let rest = [SERVER.start, SERVER.stop, "server: listening", "port stopped", SERVER.dropped];
    turn_until(&reactor, || inside.has(&rest));
    let rest = [CLIENT.start, "client: started", "client: failed", "client: factory lost", CLIENT.stop, CLIENT.dropped];
    turn_until(&reactor, || inside.has(&rest));
    assert!(inside.has(&["producer: resume", "resolver"]));
    reactor.shut_down();
    assert_eq!(errors(), [""; 0]);
}

#[test]
fn every_callback_of_datagrams_may_do_everything() {
    let reactor = reactor();
    let inside = Inside::of(&reactor);
    in_a_turn(&inside, |inside| {
        drop(inside.reactor.listen_udp("127.0.0.1:0", Meddler::new(inside, &SERVER)).expect("a free port"));
    });
    turn_until(&reactor, || inside.has(&["udp: start", "udp: datagram", "udp: stop", "udp: stopped", SERVER.dropped]));
    reactor.shut_down();
    assert_eq!(errors(), [""; 0]);
}

/// The worst time: half of the reactor is gone already.
#[test]
fn every_callback_of_the_end_may_do_everything() {
    let reactor = reactor();
    let inside = Inside::of(&reactor);
    let (startup, shutdown) = (reactor.on_startup().clone(), reactor.on_shutdown().clone());
    startup.before(inside.call("startup: before"));
    startup.during(inside.call("startup: during"));
    startup.after(inside.call("startup: after"));
    shutdown.before(inside.call("shutdown: before"));
    shutdown.during(inside.call("shutdown: during"));
    shutdown.after(inside.call("shutdown: after"));
    let begin = inside.clone();
    reactor.call_when_running(move || {
        serve_and_connect(&begin);
        leave_much_behind(&begin);
        stop_when_connected(&begin);
    });
    reactor.run().expect("a clean end");
    let places = [
        "startup: before",
        "startup: during",
        "startup: after",
        "shutdown: before",
        "shutdown: during",
        "shutdown: after",
        "server: stop",
        "server: lost",
        "client: lost",
        "client: factory lost",
        "producer: stop",
        "end: timed call",
        "end: task",
        "end: task told",
        "end: job",
        "end: job told",
    ];
    let missing: Vec<_> = places.into_iter().filter(|place| !inside.has(&[place])).collect();
    assert_eq!((missing, errors()), (vec![], vec![]));
    assert!(reactor.listen_tcp("127.0.0.1:0", |_: &Address| Mute).is_err(), "nothing begins any more");
}

fn serve_and_connect(inside: &Inside) -> ListeningPort {
    let port = inside.reactor.listen_tcp("127.0.0.1:0", Meddler::new(inside, &SERVER)).expect("a free port");
    inside.reactor.connect_tcp(port.local_addr(), Meddler::new(inside, &CLIENT));
    port
}

/// What is still to come when the end does.
fn leave_much_behind(inside: &Inside) {
    let reactor = &inside.reactor;
    let dropped = inside.drop("end: timed call");
    reactor.call_later(Duration::from_secs(600), move || drop(dropped));
    let dropped = inside.drop("end: task");
    let waiting = reactor.spawn(async move {
        let _dropped = dropped;
        std::future::pending::<Result<()>>().await
    });
    let told = inside.call("end: task told");
    drop(waiting.add_both(move |_| told()));
    let (dropped, told) = (inside.drop("end: job"), inside.call("end: job told"));
    drop(reactor.defer_to_thread(|| Ok(())).add_both(move |_| drop((dropped, told()))));
}

fn stop_when_connected(inside: &Inside) {
    if inside.has(&[SERVER.made, CLIENT.made]) {
        return inside.reactor.stop().expect("it runs");
    }
    let again = inside.clone();
    inside.reactor.call_soon(move || stop_when_connected(&again));
}

/// Does something inside of a turn, where nothing else may turn or run.
fn in_a_turn<T: 'static>(inside: &Inside, function: impl FnOnce(&Inside) -> T + 'static) -> T {
    let (done, begin) = (Rc::new(RefCell::new(None)), inside.clone());
    let tell = done.clone();
    inside.reactor.call_soon(move || _ = tell.replace(Some(function(&begin))));
    turn_until(&inside.reactor, || done.borrow().is_some());
    done.take().expect("done")
}

/// What was logged, but for clients that were given up while the reactor ended, or found nobody.
fn errors() -> Vec<String> {
    logged().into_iter().filter(|line| !line.starts_with("cannot connect to")).collect()
}
