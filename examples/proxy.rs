//! A port forwarder: `cargo run --example proxy tcp:7200 tcp:localhost:7000`, between any two endpoints.
//!
//! What one side sends the other one gets, no faster than it reads: each connection is the producer of the other. The end of
//! what one side sends is passed on by itself, so a client may close its half and still get its answer. A client that breaks
//! its connection before there is one to the target is not connected any more.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use dosimeter::net::{Address, AnyEndpoint, ClientEndpoint, ConnectionLost, ProducerKind, Protocol, Transport};
use dosimeter::{Cancelled, Canceller, Failure, Reactor, Result};

/// One of two connections, and the way to the other one.
struct Side {
    other: Rc<OnceCell<Transport>>,
    /// Where to connect to when this connection is made: that of a client.
    target: Option<ClientEndpoint>,
    /// Gives that up.
    connecting: Option<Canceller>,
    /// What a client has sent before.
    early: Rc<Cell<Vec<u8>>>,
    /// Both directions are over with the second end.
    ends: Rc<Cell<u8>>,
}

impl Side {
    fn of_client(target: ClientEndpoint) -> Self {
        let (other, early, ends) = Default::default();
        Side { other, target: Some(target), connecting: None, early, ends }
    }

    /// The server's connection, which is the other one of the client's.
    fn of_server(client: &Transport, ends: &Rc<Cell<u8>>) -> Self {
        let other = Rc::new(OnceCell::from(client.clone()));
        Side { other, target: None, connecting: None, early: Rc::default(), ends: ends.clone() }
    }

    fn connect(&mut self, client: &Transport, target: &ClientEndpoint) {
        let (transport, ends) = (client.clone(), self.ends.clone());
        let connecting = target.connect(client.reactor(), move |_: &Address| Side::of_server(&transport, &ends));
        self.connecting = Some(connecting.canceller());
        let (client, refused) = (client.clone(), client.clone());
        let (other, early, ends) = (self.other.clone(), self.early.clone(), self.ends.clone());
        connecting
            .add_callback(move |server| {
                join(&client, &server)?;
                server.write(early.take());
                if ends.get() > 0 {
                    // The client has sent its last.
                    server.unregister_producer();
                    server.lose_write_connection();
                }
                other.set(server).expect("a client is connected once");
                client.resume_reading();
                Ok(())
            })
            .add_errback(move |failure: Failure| {
                if !failure.is::<Cancelled>() {
                    eprintln!("{}: {failure}", refused.peer_addr());
                }
                refused.abort_connection();
                Ok(())
            });
    }

    /// What comes before there is anybody to send it to is kept: a client that is read from is noticed when it breaks off. One
    /// that sends much waits.
    fn keep(&self, client: &Transport, data: &[u8]) {
        let mut early = self.early.take();
        early.extend_from_slice(data);
        if early.len() >= MOST_EARLY {
            client.pause_reading();
        }
        self.early.set(early);
    }
}

/// Has each connection keep the pace of the other.
fn join(one: &Transport, other: &Transport) -> Result<()> {
    one.register_producer(Rc::new(other.clone()), ProducerKind::Push)?;
    other.register_producer(Rc::new(one.clone()), ProducerKind::Push)?;
    Ok(())
}

impl Protocol for Side {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        if let Some(target) = self.target.take() {
            self.connect(transport, &target);
        }
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        match self.other.get() {
            Some(other) => other.write(data),
            None => self.keep(transport, data),
        }
        Ok(())
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.ends.set(self.ends.get() + 1);
        if let Some(other) = self.other.get() {
            other.unregister_producer();
            other.lose_write_connection();
        }
        if self.ends.get() == 2 {
            transport.unregister_producer();
            transport.lose_connection();
        }
        Ok(())
    }

    fn connection_lost(&mut self, _transport: &Transport, reason: ConnectionLost) {
        let Some(other) = self.other.get() else {
            return self.connecting.iter().for_each(Canceller::cancel);
        };
        other.unregister_producer();
        match reason {
            ConnectionLost::Done => other.lose_connection(),
            _ => other.abort_connection(),
        }
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen: AnyEndpoint = arguments.next().unwrap_or("tcp:7200".to_owned()).parse()?;
    let target: ClientEndpoint = arguments.next().unwrap_or("tcp:localhost:7000".to_owned()).parse()?;
    let reactor = Reactor::new()?;
    reactor.listen(listen, move |_: &Address| Side::of_client(target.clone()))?;
    reactor.run()
}

/// Bytes that a client may send before it is connected.
const MOST_EARLY: usize = 64 * 1024;
