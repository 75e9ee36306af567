//! Connecting again: the pauses, and when it ends. The network is in memory and the time moved by hand.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{
    Address, Backoff, CannotConnect, ClientEndpoint, ClientFactory, ConnectErrorKind, ConnectionLost, Connector,
    ConnectorState, Factory, Reconnecting,
};
use dosimeter::testing::MemoryReactor;
use dosimeter::{Deferred, Timers};

use net::{Probe, Story};
use support::{keep_logs, logged};

const SERVER: ([u8; 4], u16) = ([127, 0, 0, 1], 4000);

/// Tells its story, and does nothing about it.
struct Client {
    story: Story,
    again: Cell<bool>,
}

impl Client {
    fn new(story: &Story) -> Self {
        Client { story: story.clone(), again: Cell::new(false) }
    }
}

impl Factory for Client {
    type Protocol = Probe;

    fn build_protocol(&self, _peer: &Address) -> Option<Probe> {
        Some(Probe::new(&self.story))
    }
}

impl ClientFactory for Client {
    fn client_connection_failed(&self, connector: &Connector, reason: CannotConnect) {
        self.story.tell(format!("failed: {:?}", reason.kind()));
        if self.again.take() {
            connector.connect().expect("disconnected");
        }
    }

    fn client_connection_lost(&self, _connector: &Connector, _reason: ConnectionLost) {
        self.story.tell("factory lost");
    }
}

/// Pauses of 1, 2, 4, 8, 8 seconds.
fn plain() -> Backoff {
    Backoff::new().factor(2.0).max_delay(Duration::from_secs(8)).jitter(0.0)
}

fn memory() -> MemoryReactor {
    keep_logs();
    MemoryReactor::new()
}

fn endpoint() -> ClientEndpoint {
    ClientEndpoint::tcp(std::net::SocketAddr::from(SERVER))
}

/// How often each second something of this kind was told, second by second.
fn tries(memory: &MemoryReactor, story: &Story, seconds: usize) -> Vec<usize> {
    let mut before = 0;
    let mut tries = Vec::new();
    memory.settle();
    for _ in 0..seconds {
        let now = story.told().iter().filter(|told| told.starts_with("failed")).count();
        tries.push(now - before);
        before = now;
        memory.advance(Duration::from_secs(1));
    }
    tries
}

// ---- the pauses -------------------------------------------------------------------------------------

#[test]
fn pauses_grow_by_e_from_a_second_to_an_hour() {
    let mut backoff = Backoff::new().jitter(0.0);
    let pauses = [(); 11].map(|()| backoff.next_delay().as_millis());
    assert_eq!(pauses, [1000, 2718, 7389, 20085, 54598, 148413, 403428, 1096633, 2980957, 3600000, 3600000]);
    backoff.reset();
    assert_eq!(backoff.next_delay(), Duration::from_secs(1));
    for _ in 0..100_000 {
        backoff.next_delay();
    }
    assert_eq!(backoff.next_delay(), Duration::from_secs(3600), "however often");
}

#[test]
fn pauses_differ_by_chance_as_a_normal_distribution_does() {
    let mut backoff = Backoff::new().factor(1.0).seed(1);
    let pauses: Vec<f64> = (0..20_000).map(|_| backoff.next_delay().as_secs_f64()).collect();
    let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
    let variance = pauses.iter().map(|pause| (pause - mean).powi(2)).sum::<f64>() / pauses.len() as f64;
    assert!((mean - 1.0).abs() < 0.005, "{mean}");
    assert!((variance.sqrt() - 0.1196).abs() < 0.003, "{}", variance.sqrt());
    let within = pauses.iter().filter(|pause| (*pause - mean).abs() < 0.1196).count() as f64 / pauses.len() as f64;
    assert!((within - 0.683).abs() < 0.02, "{within}");
}

#[test]
fn the_same_seed_gives_the_same_pauses_and_without_one_no_two_clients_have_them() {
    let pauses = |mut backoff: Backoff| [(); 5].map(|()| backoff.next_delay());
    assert_eq!(pauses(Backoff::new().seed(7)), pauses(Backoff::new().seed(7)));
    assert_ne!(pauses(Backoff::new().seed(7)), pauses(Backoff::new().seed(8)));
    assert_ne!(pauses(Backoff::new()), pauses(Backoff::new()));
}

#[test]
fn figures_that_make_no_sense_make_no_panic() {
    for backoff in [
        Backoff::new().factor(f64::NAN),
        Backoff::new().factor(-3.0),
        Backoff::new().factor(f64::INFINITY),
        Backoff::new().jitter(f64::NAN),
        Backoff::new().jitter(1e300),
        Backoff::new().initial_delay(Duration::MAX).max_delay(Duration::MAX),
    ] {
        let mut backoff = backoff;
        for _ in 0..100 {
            backoff.next_delay();
        }
    }
}

// ---- connecting again -------------------------------------------------------------------------------

#[test]
fn a_server_that_is_away_is_tried_with_growing_pauses_and_found_when_it_is_back() {
    let (memory, story) = (memory(), Story::default());
    let factory = Reconnecting::new(Client::new(&story)).backoff(plain());
    let retry = factory.retry();
    let connector = memory.reactor().connect(endpoint(), factory);
    assert_eq!(tries(&memory, &story, 16), [1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(retry.retries(), 5);
    memory.reactor().listen_tcp(SERVER.1, |_: &Address| Probe::new(&Story::default())).expect("a free port");
    memory.advance(Duration::from_secs(8));
    assert_eq!(connector.state(), ConnectorState::Connected);
    assert!(story.has("made"));
}

#[test]
fn a_connection_that_is_lost_is_made_again() {
    let (memory, story, server) = (memory(), Story::default(), Story::default());
    memory
        .reactor()
        .listen_tcp(SERVER.1, move |_: &Address| {
            Probe::new(&server).on_data(|transport, _| transport.lose_connection())
        })
        .expect("a free port");
    let factory = Reconnecting::new(Client::new(&story)).backoff(plain());
    let connector = memory.reactor().connect(endpoint(), factory);
    memory.settle();
    connector.disconnect();
    memory.settle();
    assert_eq!(story.told(), ["made", "lost: done", "factory lost"]);
    memory.advance(Duration::from_millis(999));
    assert_eq!(connector.state(), ConnectorState::Disconnected);
    memory.advance(Duration::from_millis(1));
    assert_eq!(connector.state(), ConnectorState::Connected);
}

#[test]
fn pauses_begin_anew_after_a_connection_that_lasted_and_not_after_one_that_did_not() {
    let (memory, story) = (memory(), Story::default());
    memory.reactor().listen_tcp(SERVER.1, |_: &Address| Probe::new(&Story::default())).expect("a free port");
    let factory = Reconnecting::new(Client::new(&story)).backoff(plain());
    let retry = factory.retry();
    let connector = memory.reactor().connect(endpoint(), factory);
    memory.settle();
    // The first one has no pause before it: it lasted long enough. Those after it do not.
    for (number, pause) in [1, 2, 4, 8].into_iter().enumerate() {
        connector.disconnect();
        memory.settle();
        assert_eq!(retry.retries(), number as u32 + 1);
        memory.advance(Duration::from_secs(pause) - Duration::from_millis(1));
        assert_eq!(connector.state(), ConnectorState::Disconnected, "{pause}");
        memory.advance(Duration::from_millis(1));
        assert_eq!(connector.state(), ConnectorState::Connected, "{pause}");
    }
    memory.advance(Duration::from_secs(8));
    connector.disconnect();
    memory.settle();
    memory.advance(Duration::from_secs(1));
    assert_eq!(connector.state(), ConnectorState::Connected);
    assert_eq!(retry.retries(), 1);
}

#[test]
fn reset_delay_begins_anew() {
    let (memory, story) = (memory(), Story::default());
    let factory = Reconnecting::new(Client::new(&story)).backoff(plain());
    let retry = factory.retry();
    memory.reactor().connect(endpoint(), factory);
    assert_eq!(tries(&memory, &story, 3), [1, 1, 0]);
    retry.reset_delay();
    assert_eq!(retry.retries(), 0);
    // The pause of four seconds that has begun, and from then on those of one and two.
    assert_eq!(tries(&memory, &story, 8)[1..], [0, 0, 0, 1, 1, 0, 1]);
}

#[test]
fn after_the_last_retry_it_is_given_up_and_told() {
    let (memory, story) = (memory(), Story::default());
    let factory = Reconnecting::new(Client::new(&story)).backoff(plain()).max_retries(2);
    let retry = factory.retry();
    memory.reactor().connect(endpoint(), factory);
    memory.advance(Duration::from_secs(3600));
    assert_eq!(story.told(), ["failed: Refused"; 3]);
    assert!(!retry.is_trying());
    assert_eq!(logged(), ["giving up on TCP 127.0.0.1:4000 after 2 attempts"]);
    assert!(Timers::pending(dosimeter::Clock::timers(&memory)).is_empty());
}

#[test]
fn stop_trying_ends_pauses_and_attempts_and_leaves_connections() {
    let (memory, story) = (memory(), Story::default());
    let factory = Reconnecting::new(Client::new(&story)).backoff(plain());
    let retry = factory.retry();
    memory.reactor().connect(endpoint(), factory);
    memory.settle();
    retry.stop_trying();
    assert!(Timers::pending(dosimeter::Clock::timers(&memory)).is_empty(), "no timer is left");
    memory.advance(Duration::from_secs(3600));
    assert_eq!(story.told(), ["failed: Refused"]);

    memory.reactor().listen_tcp(SERVER.1, |_: &Address| Probe::new(&Story::default())).expect("a free port");
    let story = Story::default();
    let factory = Reconnecting::new(Client::new(&story)).backoff(plain());
    let retry = factory.retry();
    memory.reactor().connect(endpoint(), factory);
    retry.stop_trying();
    memory.advance(Duration::from_secs(3600));
    assert_eq!(story.told(), ["failed: Stopped"]);

    let story = Story::default();
    let factory = Reconnecting::new(Client::new(&story)).backoff(plain());
    let retry = factory.retry();
    let connector = memory.reactor().connect(endpoint(), factory);
    memory.settle();
    retry.stop_trying();
    memory.advance(Duration::from_secs(3600));
    assert_eq!(connector.state(), ConnectorState::Connected);
    connector.disconnect();
    memory.advance(Duration::from_secs(3600));
    assert_eq!(story.told(), ["made", "lost: done", "factory lost"]);
}

#[test]
fn what_cannot_get_better_is_not_tried_again() {
    let memory = memory();
    memory.reactor().listen_tcp(SERVER.1, |_: &Address| Probe::new(&Story::default())).expect("a free port");
    for (endpoint, stops, kind) in [
        (ClientEndpoint::tcp("nowhere"), false, ConnectErrorKind::Address),
        (endpoint(), true, ConnectErrorKind::Stopped),
    ] {
        let story = Story::default();
        let connector = memory.reactor().connect(endpoint, Reconnecting::new(Client::new(&story)));
        if stops {
            connector.stop_connecting().expect("it connects");
        }
        memory.advance(Duration::from_secs(3600));
        assert_eq!(story.told(), [format!("failed: {kind:?}")]);
    }
}

#[test]
fn a_factory_that_connects_again_by_itself_is_not_helped() {
    let (memory, story) = (memory(), Story::default());
    let client = Client::new(&story);
    client.again.set(true);
    memory.reactor().connect(endpoint(), Reconnecting::new(client).backoff(plain()));
    assert_eq!(tries(&memory, &story, 4), [2, 1, 0, 1]);
}

#[test]
fn the_end_of_the_reactor_ends_it() {
    let (memory, pausing, connected) = (memory(), Story::default(), Story::default());
    memory.reactor().listen_tcp(SERVER.1, |_: &Address| Probe::new(&Story::default())).expect("a free port");
    let factory = Reconnecting::new(Client::new(&connected));
    let retry = factory.retry();
    let connector = memory.reactor().connect(endpoint(), factory);
    memory.reactor().connect("tcp:127.0.0.1:1", Reconnecting::new(Client::new(&pausing)));
    memory.settle();
    memory.reactor().shut_down();
    assert_eq!(connected.told(), ["made", "lost: reactor stopped", "factory lost"]);
    assert_eq!(pausing.told(), ["failed: Refused"]);
    assert_eq!((connector.state(), retry.retries()), (ConnectorState::Disconnected, 0));
    assert!(logged().is_empty());
}

#[test]
fn nothing_keeps_the_reactor_when_it_has_ended() {
    let memory = memory();
    let gone = Rc::new(());
    let seen = Rc::downgrade(&gone);
    let factory = move |_: &Address| {
        let _ = &gone;
        Probe::new(&Story::default())
    };
    let reconnecting = Reconnecting::new(factory);
    let retry = reconnecting.retry();
    memory.reactor().install_resolver(|_: &str, _: u16| Deferred::pair().1);
    memory.reactor().connect("tcp:a.test:80", reconnecting);
    memory.settle();
    drop(memory);
    assert!(seen.upgrade().is_none(), "the factory is dropped, although somebody has kept the handle");
    drop(retry);
    logged();
}
