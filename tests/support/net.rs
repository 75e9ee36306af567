//! A protocol that tells what happened to it, and a client that never waits.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use dosimeter::net::{Address, ConnectionLost, Protocol, Transport};
use dosimeter::prometheus::Registry;
use dosimeter::prometheus::proto::MetricType;
use dosimeter::{Reactor, Result};

use crate::support::turn_until;

/// What the protocols of one test went through, in order.
#[derive(Clone, Default)]
pub struct Story(Rc<RefCell<Vec<String>>>);

impl Story {
    pub fn tell(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    pub fn told(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    pub fn has(&self, what: &str) -> bool {
        self.0.borrow().iter().any(|told| told == what)
    }

    /// Whether the last thing told is the end of a connection.
    pub fn is_over(&self) -> bool {
        self.0.borrow().last().is_some_and(|told| told.starts_with("lost"))
    }
}

type OnEvent = Option<Box<dyn FnMut(&Transport) -> Result<()>>>;
type OnData = Option<Box<dyn FnMut(&Transport, &[u8]) -> Result<()>>>;
type OnLost = Option<Box<dyn FnMut(&Transport, &ConnectionLost)>>;

/// A protocol that tells its story and does what the test wants. It checks itself that no method runs inside another one,
/// before the beginning or after the end.
pub struct Probe {
    story: Story,
    pub transport: Shared,
    inside: Rc<Cell<bool>>,
    begun: bool,
    ended: bool,
    on_made: OnEvent,
    on_data: OnData,
    on_eof: OnEvent,
    on_end: OnEvent,
    on_resume: OnEvent,
    on_lost: OnLost,
}

/// What a function of a test may return: something that can go wrong, or nothing.
pub trait Outcome {
    fn result(self) -> Result<()>;
}

impl Outcome for Result<()> {
    fn result(self) -> Result<()> {
        self
    }
}

impl Outcome for () {
    fn result(self) -> Result<()> {
        Ok(())
    }
}

/// The transport of the last connection made.
pub type Shared = Rc<RefCell<Option<Transport>>>;

impl Probe {
    pub fn new(story: &Story) -> Self {
        Probe {
            story: story.clone(),
            transport: Shared::default(),
            inside: Rc::default(),
            begun: false,
            ended: false,
            on_made: None,
            on_data: None,
            on_eof: None,
            on_end: None,
            on_resume: None,
            on_lost: None,
        }
    }

    pub fn sharing(mut self, transport: &Shared) -> Self {
        self.transport = transport.clone();
        self
    }

    pub fn on_made<O: Outcome>(mut self, mut function: impl FnMut(&Transport) -> O + 'static) -> Self {
        self.on_made = Some(Box::new(move |transport| function(transport).result()));
        self
    }

    pub fn on_data<O: Outcome>(mut self, mut function: impl FnMut(&Transport, &[u8]) -> O + 'static) -> Self {
        self.on_data = Some(Box::new(move |transport, data| function(transport, data).result()));
        self
    }

    /// Without this the end of what the peer sends has the effect that the trait gives it.
    pub fn on_eof<O: Outcome>(mut self, mut function: impl FnMut(&Transport) -> O + 'static) -> Self {
        self.on_eof = Some(Box::new(move |transport| function(transport).result()));
        self
    }

    /// When the end of what is sent was sent.
    pub fn on_end<O: Outcome>(mut self, mut function: impl FnMut(&Transport) -> O + 'static) -> Self {
        self.on_end = Some(Box::new(move |transport| function(transport).result()));
        self
    }

    pub fn on_resume<O: Outcome>(mut self, mut function: impl FnMut(&Transport) -> O + 'static) -> Self {
        self.on_resume = Some(Box::new(move |transport| function(transport).result()));
        self
    }

    pub fn on_lost(mut self, function: impl FnMut(&Transport, &ConnectionLost) + 'static) -> Self {
        self.on_lost = Some(Box::new(function));
        self
    }

    fn enter(&mut self) -> Inside {
        assert!(!self.inside.replace(true), "a method runs inside another one: {:?}", self.story.told());
        assert!(self.begun && !self.ended, "a method runs too early or too late: {:?}", self.story.told());
        Inside(self.inside.clone())
    }
}

/// A panic leaves a method as well.
struct Inside(Rc<Cell<bool>>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Protocol for Probe {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        assert!(!self.begun, "made twice");
        self.begun = true;
        let _inside = self.enter();
        self.story.tell("made");
        self.transport.replace(Some(transport.clone()));
        self.on_made.as_mut().map_or(Ok(()), |function| function(transport))
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        let _inside = self.enter();
        assert!(!data.is_empty());
        let text = data.escape_ascii().to_string();
        self.story.tell(if text.len() > 40 { format!("{} bytes", data.len()) } else { text });
        self.on_data.as_mut().map_or(Ok(()), |function| function(transport, data))
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        let _inside = self.enter();
        self.story.tell("eof");
        match &mut self.on_eof {
            Some(function) => function(transport),
            None => {
                transport.lose_connection();
                Ok(())
            }
        }
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        let _inside = self.enter();
        let Some(function) = &mut self.on_end else { return Ok(()) };
        self.story.tell("end");
        function(transport)
    }

    fn resume_writing(&mut self, transport: &Transport) -> Result<()> {
        let _inside = self.enter();
        let Some(function) = &mut self.on_resume else { return Ok(()) };
        self.story.tell("resume");
        function(transport)
    }

    fn connection_lost(&mut self, transport: &Transport, reason: ConnectionLost) {
        let _inside = self.enter();
        self.ended = true;
        self.story.tell(match &reason {
            ConnectionLost::Done => "lost: done".to_owned(),
            ConnectionLost::Aborted => "lost: aborted".to_owned(),
            ConnectionLost::Io(error) => format!("lost: {:?}", error.kind()),
            ConnectionLost::Failed(failure) => format!("lost: {failure}"),
            ConnectionLost::ReactorStopped => "lost: reactor stopped".to_owned(),
            other => format!("lost: {other:?}"),
        });
        if let Some(function) = &mut self.on_lost {
            function(transport, &reason);
        }
    }
}

/// A listening port whose connections are all handled by what `make` makes; tells where it listens.
pub fn serve(reactor: &Reactor, make: impl Fn() -> Probe + 'static) -> SocketAddr {
    let port = reactor.listen_tcp("127.0.0.1:0", move |_: &Address| make()).expect("a free port");
    port.local_addr()
}

/// A counter or a gauge as it stands, with these labels among its own.
#[track_caller]
pub fn figure(registry: &Registry, name: &str, labels: &[(&str, &str)]) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).expect("a family of this name");
    let metric = family.get_metric().iter().find(|metric| {
        let has = |(name, value): &(&str, &str)| {
            metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
        };
        labels.iter().all(has)
    });
    let metric = metric.unwrap_or_else(|| panic!("{name} has no series with {labels:?}"));
    if family.get_field_type() == MetricType::COUNTER {
        metric.get_counter().get_value()
    } else {
        metric.get_gauge().get_value()
    }
}

/// The other end: a socket that never blocks, read and written while the test turns the reactor.
pub struct Client {
    pub socket: TcpStream,
    pub received: Vec<u8>,
    pub ended: bool,
    pub error: Option<ErrorKind>,
}

impl Client {
    /// The system completes the connection before anybody accepts it.
    pub fn connect(to: SocketAddr) -> Self {
        let socket = TcpStream::connect(to).expect("somebody listens");
        socket.set_nonblocking(true).expect("a socket");
        Client { socket, received: Vec::new(), ended: false, error: None }
    }

    /// For what surely fits in the buffers of the system.
    #[track_caller]
    pub fn send(&mut self, data: &[u8]) {
        self.socket.write_all(data).expect("room for a few bytes");
    }

    /// As much as fits; how much that was.
    pub fn send_some(&mut self, data: &[u8]) -> usize {
        match self.socket.write(data) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.error = Some(error.kind());
                0
            }
        }
    }

    pub fn send_end(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Write).expect("still connected");
    }

    /// Takes what is there now.
    pub fn read(&mut self) -> &[u8] {
        let mut buffer = [0; 64 * 1024];
        while !self.ended && self.error.is_none() {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.error = Some(error.kind()),
            }
        }
        &self.received
    }

    #[track_caller]
    pub fn expect(&mut self, reactor: &Reactor, data: &[u8]) {
        turn_until(reactor, || self.read().len() >= data.len() || self.is_closed());
        assert_eq!(self.received.escape_ascii().to_string(), data.escape_ascii().to_string());
    }

    /// Turns until the connection is closed, in whichever way.
    #[track_caller]
    pub fn expect_close(&mut self, reactor: &Reactor) {
        turn_until(reactor, || {
            self.read();
            self.is_closed()
        });
    }

    pub fn is_closed(&self) -> bool {
        self.ended || self.error.is_some()
    }

    /// Makes the system send a reset instead of an orderly end.
    pub fn reset(self) -> io::Result<()> {
        socket2::SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO))
    }
}
