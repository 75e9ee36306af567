//! Two ends of a connection that do anything in any order: what a protocol may rely on holds all the same.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::Result;
use dosimeter::net::{Address, ConnectionLost, Producer, ProducerKind, Protocol, Transport};
use dosimeter::testing::{End, MemoryClient, MemoryReactor};
use proptest::prelude::*;

/// One thing that one of the ends does. Numbers of bytes are on both sides of what anybody keeps.
#[derive(Debug, Clone)]
enum Act {
    PeerSends(usize),
    PeerEnds,
    PeerStopsReading(usize),
    PeerReads,
    PeerCutsInput(usize),
    PeerBreaksOff,
    Write(usize),
    Pause,
    Resume,
    Lose,
    LoseWriting,
    Abort,
    Register(ProducerKind),
    Unregister,
    Wait(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let bytes = prop_oneof![
        3 => 1..2_000_usize,
        2 => 60_000..140_000_usize,
        2 => Just(65_536),
        1 => Just(2_200_000),
    ];
    let act = prop_oneof![
        4 => bytes.clone().prop_map(Act::PeerSends),
        2 => Just(Act::PeerEnds),
        2 => (0..100_000_usize).prop_map(Act::PeerStopsReading),
        3 => Just(Act::PeerReads),
        1 => (1..100_usize).prop_map(|size| Act::PeerCutsInput(size * 700)),
        1 => Just(Act::PeerBreaksOff),
        4 => bytes.prop_map(Act::Write),
        2 => Just(Act::Pause),
        3 => Just(Act::Resume),
        1 => Just(Act::Lose),
        2 => Just(Act::LoseWriting),
        1 => Just(Act::Abort),
        1 => prop_oneof![Just(ProducerKind::Push), Just(ProducerKind::Pull)].prop_map(Act::Register),
        1 => Just(Act::Unregister),
        1 => (0..40_000_u64).prop_map(Act::Wait),
    ];
    prop::collection::vec(act, 1..25)
}

/// What the protocol went through.
#[derive(Default)]
struct Told {
    transport: Option<Transport>,
    /// How many bytes; each is looked at when it comes.
    received: usize,
    ended: bool,
    half_ended: bool,
    lost: Option<String>,
    stopped: usize,
}

/// A protocol that checks the order of what it is told, and does something itself when it is told so.
struct Recorder {
    told: Rc<RefCell<Told>>,
    keeps_half: bool,
}

impl Protocol for Recorder {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        let mut told = self.told.borrow_mut();
        assert!(told.transport.replace(transport.clone()).is_none(), "made twice");
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        let mut told = self.told.borrow_mut();
        assert!(!data.is_empty() && transport.is_connected() && told.lost.is_none() && !told.ended);
        assert_eq!(first_wrong(data, told.received), None);
        told.received += data.len();
        Ok(())
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        assert!(!std::mem::replace(&mut self.told.borrow_mut().ended, true), "ended twice");
        if !self.keeps_half {
            transport.lose_connection();
        }
        Ok(())
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        assert_eq!(transport.unsent(), 0, "everything was sent before");
        assert!(!std::mem::replace(&mut self.told.borrow_mut().half_ended, true), "half ended twice");
        Ok(())
    }

    fn connection_lost(&mut self, transport: &Transport, reason: ConnectionLost) {
        assert!(!transport.is_connected());
        let before = self.told.borrow_mut().lost.replace(reason.to_string());
        assert_eq!(before, None, "lost twice");
    }
}

impl Producer for Recorder {
    fn resume_producing(&self) -> Result<()> {
        assert_eq!(self.told.borrow().stopped, 0, "a producer that was stopped is not resumed");
        Ok(())
    }

    fn stop_producing(&self) {
        let mut told = self.told.borrow_mut();
        assert_eq!(told.lost, None, "stopped before the protocol is told");
        told.stopped += 1;
    }
}

/// Bytes that tell where in the stream they stand.
fn bytes(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|place| (place % 251) as u8).collect()
}

/// The first byte that is not the one that stands there in the stream.
fn first_wrong(data: &[u8], from: usize) -> Option<usize> {
    (from..).zip(data).find(|(place, byte)| (place % 251) as u8 != **byte).map(|(place, _)| place)
}

struct Wire {
    memory: MemoryReactor,
    client: Option<MemoryClient>,
    told: Rc<RefCell<Told>>,
    keeps_half: bool,
    written: usize,
    sent: usize,
    peer_ended: bool,
    /// Nothing that is written from now on is sent.
    closed_for_writing: bool,
    /// It is closed as soon as it can be.
    losing: bool,
    producing: bool,
    /// How much the peer has read.
    seen: usize,
}

impl Wire {
    fn new(keeps_half: bool) -> Self {
        let (memory, told) = (MemoryReactor::new(), Rc::<RefCell<Told>>::default());
        let story = told.clone();
        let make = move |_: &Address| Recorder { told: story.clone(), keeps_half };
        let port = memory.reactor().listen_tcp("127.0.0.1:0", make).expect("a free port");
        let client = Some(memory.connect(port.local_addr()));
        Wire {
            memory,
            client,
            told,
            keeps_half,
            written: 0,
            sent: 0,
            peer_ended: false,
            closed_for_writing: false,
            losing: false,
            producing: false,
            seen: 0,
        }
    }

    fn transport(&self) -> Transport {
        self.told.borrow().transport.clone().expect("connected")
    }

    fn act(&mut self, act: &Act) {
        let transport = self.transport();
        match act {
            Act::Write(count) => {
                let counts = transport.is_connected() && !self.closed_for_writing;
                transport.write(bytes(self.written, *count));
                self.written += if counts { *count } else { 0 };
            }
            Act::Pause => transport.pause_reading(),
            Act::Resume => transport.resume_reading(),
            Act::Lose => {
                transport.lose_connection();
                self.losing = true;
            }
            Act::LoseWriting => {
                transport.lose_write_connection();
                self.closed_for_writing = true;
            }
            Act::Abort => {
                transport.abort_connection();
                self.closed_for_writing = true;
            }
            Act::Register(kind) => {
                let producer = Rc::new(Recorder { told: self.told.clone(), keeps_half: self.keeps_half });
                if transport.is_connected() {
                    assert_eq!(transport.register_producer(producer, *kind).is_err(), self.producing);
                    self.producing = true;
                }
            }
            Act::Unregister => {
                transport.unregister_producer();
                self.producing &= !transport.is_connected();
            }
            Act::Wait(milliseconds) => self.memory.advance(Duration::from_millis(*milliseconds)),
            act => self.peer_acts(act),
        }
        self.memory.settle();
    }

    fn peer_acts(&mut self, act: &Act) {
        let Some(client) = &self.client else { return };
        match act {
            Act::PeerSends(count) if !self.peer_ended => self.sent += client.send(bytes(self.sent, *count)),
            Act::PeerEnds => {
                client.send_end();
                self.peer_ended = true;
            }
            Act::PeerStopsReading(room) => client.stop_reading(*room),
            Act::PeerReads => client.resume_reading(),
            Act::PeerCutsInput(size) => client.send_in_pieces(*size),
            Act::PeerBreaksOff => self.client.take().expect("it is there").reset(),
            _ => {}
        }
    }

    /// With nothing in its way everything arrives.
    fn clear_the_way(&mut self) {
        for act in [Act::Unregister, Act::PeerReads, Act::Resume] {
            self.act(&act);
            self.check();
        }
        let (told, transport) = (self.told.borrow(), self.transport());
        let closes = self.losing || (told.ended && (told.half_ended || !self.keeps_half));
        assert!(!closes || told.lost.is_some(), "nothing keeps it from being closed");
        if transport.is_connected() {
            assert_eq!((told.received, told.ended), (self.sent, self.peer_ended));
            assert_eq!((self.seen, transport.unsent()), (self.written, 0));
        }
    }

    /// What holds at any time.
    fn check(&mut self) {
        if let Some(client) = &self.client {
            let more = client.take();
            assert_eq!(first_wrong(&more, self.seen), None);
            self.seen += more.len();
            assert!(client.end() != Some(End::Closed) || self.seen == self.written, "the end comes behind all");
        }
        let told = self.told.borrow();
        assert!(told.received <= self.sent && self.seen <= self.written);
        assert!(!told.ended || told.received == self.sent, "the end is told behind all that was sent");
        assert_eq!(self.transport().is_connected(), told.lost.is_none());
        if told.lost.is_some() {
            assert_eq!(told.stopped, usize::from(self.producing), "a producer is stopped with the connection");
        }
    }
}

/// Some seconds of a program that is not optimized.
const CASES: u32 = 100;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_two_ends_do_the_protocol_is_told_in_order_and_no_byte_is_lost(
        acts in acts(),
        keeps_half in any::<bool>(),
    ) {
        let mut wire = Wire::new(keeps_half);
        wire.check();
        for act in &acts {
            wire.act(act);
            wire.check();
        }
        wire.clear_the_way();
        wire.memory.reactor().shut_down();
        prop_assert!(wire.told.borrow().lost.is_some(), "the end is told");
        // Dropping the reactor of a test fails it if anything was logged.
    }
}
