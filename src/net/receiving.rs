//! Receiving datagrams: the life of a UDP port, and the loop that reads.
//!
//! Rules kept here:
//! - The port owns the protocol, and no method of it runs inside another one: it is taken out of its cell while it runs.
//! - A datagram is delivered whole.
//! - A flood takes a bounded part of each turn; what is left waits for the next.
//! - No error of reading ends the port, and none is met again and again without a pause.

use std::any::type_name;
use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use crate::clock::Clock;
use crate::failure::{Result, guard};
use crate::net::datagram::DatagramSocket;
use crate::net::port::CannotListen;
use crate::net::tcp::ListenAddr;
use crate::net::udp::{DatagramProtocol, Shared, UdpPort};
use crate::reactor::poller::{Readiness, Wants};
use crate::reactor::{Handler, Reactor};

impl Reactor {
    /// Opens a UDP socket and gives `protocol` what comes in.
    ///
    /// `addr` is what [`listen_tcp`](Reactor::listen_tcp) takes; a client that only asks and gets answers listens on
    /// `"0.0.0.0:0"` and uses [`UdpPort::connect`]. `start_protocol` is called before this returns.
    ///
    /// ```no_run
    /// use std::net::SocketAddr;
    /// use dosimeter::{Reactor, Result};
    /// use dosimeter::net::{DatagramProtocol, UdpPort};
    ///
    /// struct Echo;
    /// impl DatagramProtocol for Echo {
    ///     fn datagram_received(&mut self, port: &UdpPort, data: &[u8], from: SocketAddr) -> Result<()> {
    ///         // What the system does not take is lost, as it may be on the way.
    ///         let _ = port.send_to(data, from);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// let reactor = Reactor::new()?;
    /// reactor.listen_udp(7, Echo)?;
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CannotListen`], with the address and the reason: the system's, or the error of `start_protocol`.
    #[doc(alias = "listenUDP")]
    pub fn listen_udp(&self, addr: impl ListenAddr, protocol: impl DatagramProtocol) -> Result<UdpPort, CannotListen> {
        self.open_udp(addr, protocol, false)
    }

    /// As [`listen_udp`](Reactor::listen_udp), on an address that other sockets may listen on as well.
    ///
    /// That is what a port for multicast needs, where every program of the host is to get every datagram of a group: see
    /// [`UdpPort::join_group`]. A datagram that is sent to one host goes to one of the sockets only.
    ///
    /// # Errors
    /// [`CannotListen`], with the address and the reason: the system's, or the error of `start_protocol`.
    #[doc(alias = "listenMulticast")]
    pub fn listen_multicast(
        &self,
        addr: impl ListenAddr,
        protocol: impl DatagramProtocol,
    ) -> Result<UdpPort, CannotListen> {
        self.open_udp(addr, protocol, true)
    }

    fn open_udp<P: DatagramProtocol>(
        &self,
        addr: impl ListenAddr,
        protocol: P,
        shared: bool,
    ) -> Result<UdpPort, CannotListen> {
        let refused = |error| CannotListen::new(format!("UDP {addr}"), error);
        let socket = DatagramSocket::bind(self, &addr, shared).map_err(refused)?;
        let shared = Rc::new(Shared::new(self, socket).map_err(refused)?);
        let driver =
            Rc::new(Driver { shared: shared.clone(), protocol: Cell::new(Some(protocol)), rests: Cell::new(false) });
        driver.start().map_err(refused)?;
        log::info!(target: LOG, "listening on UDP {} for {}", shared.local, type_name::<P>());
        Ok(UdpPort::new(shared))
    }
}

struct Driver<P> {
    shared: Rc<Shared>,
    /// Absent while one of its methods runs, and after the end.
    protocol: Cell<Option<P>>,
    /// Reading has failed and is tried again by time, not for each datagram that comes.
    rests: Cell<bool>,
}

impl<P: DatagramProtocol> Driver<P> {
    fn start(self: &Rc<Self>) -> io::Result<()> {
        let shared = &self.shared;
        let key = shared.reactor.add_source(
            shared.socket.borrow_mut().as_mut().expect("a new port has its socket"),
            self.clone(),
            Wants::Reading,
        )?;
        shared.key.set(Some(key));
        match self.call(P::start_protocol) {
            Ok(()) => Ok(()),
            Err(failure) => {
                self.close();
                Err(io::Error::other(failure.into_error()))
            }
        }
    }

    fn call(&self, method: impl FnOnce(&mut P, &UdpPort) -> Result<()>) -> Result<()> {
        let Some(mut protocol) = self.protocol.take() else { return Ok(()) };
        let port = UdpPort::new(self.shared.clone());
        let outcome = guard(|| method(&mut protocol, &port)).flatten();
        self.protocol.set(Some(protocol));
        outcome.inspect_err(|failure| self.shared.reactor.count_panic(failure))
    }

    fn call_logged(&self, method: impl FnOnce(&mut P, &UdpPort) -> Result<()>) {
        if let Err(failure) = self.call(method) {
            failure.log(LOG, format_args!("the protocol of UDP {} failed", self.shared.local));
        }
    }

    /// Reads until nothing is left or this turn's share is taken; `true` in the latter case.
    fn receive_some(&self) -> bool {
        self.shared.reactor.buffers().with_read_buffer(|buffer| {
            let mut share = BYTES_PER_TURN;
            while share > 0 {
                match self.shared.with_socket(|socket| socket.recv_from(buffer)) {
                    Ok((count, from)) => {
                        self.call_logged(|protocol, port| protocol.datagram_received(port, &buffer[..count], from));
                        share = share.saturating_sub(count.max(LEAST_COST));
                    }
                    Err(error) => match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::NotConnected => return false,
                        ErrorKind::Interrupted => {}
                        ErrorKind::ConnectionRefused => {
                            self.tell_refused();
                            share = share.saturating_sub(LEAST_COST);
                        }
                        _ => {
                            self.receive_later(&error);
                            return false;
                        }
                    },
                }
            }
            true
        })
    }

    fn tell_refused(&self) {
        self.call_logged(|protocol, port| {
            protocol.connection_refused(port);
            Ok(())
        });
    }

    /// What the network says of a datagram sent before is gone once it was read; a lack of memory is not. Nothing is lost by
    /// reading on a little later, and nothing spins.
    fn receive_later(&self, error: &io::Error) {
        log::debug!(target: LOG, "cannot receive on UDP {}: {error}", self.shared.local);
        if let Some(key) = self.shared.key.get() {
            self.rests.set(true);
            let reactor = self.shared.reactor.clone();
            self.shared.reactor.call_later(RECEIVE_PAUSE, move || reactor.ready_again(key));
        }
    }

    /// The end: tells the protocol, once, and then who waits for it.
    fn finish(&self) {
        if self.shared.key.get().is_none() {
            return;
        }
        self.shared.socket.take();
        self.call_logged(|protocol, port| {
            protocol.stop_protocol(port);
            Ok(())
        });
        self.close();
    }

    fn close(&self) {
        self.shared.socket.take();
        if let Some(key) = self.shared.key.take() {
            self.shared.reactor.remove_source(key);
        }
        if let Err(failure) = guard(|| drop(self.protocol.take())) {
            failure.log(LOG, format_args!("dropping a protocol failed"));
        }
        for completer in self.shared.stopping.take() {
            completer.callback(());
        }
    }
}

impl<P: DatagramProtocol> Handler for Driver<P> {
    fn ready(self: Rc<Self>, readiness: Readiness) {
        if self.shared.refused.take() {
            self.tell_refused();
        }
        // It was asked to be called again, be it that the pause is over or that something else is to be looked at.
        if readiness.again {
            self.rests.set(false);
        }
        let more = !self.rests.get() && self.receive_some();
        if self.shared.socket.borrow().is_none() {
            self.finish();
        } else if more {
            self.shared.look_again();
        }
    }

    fn flush(self: Rc<Self>) {}

    fn shut_down(self: Rc<Self>) {
        self.finish();
    }
}

const LOG: &str = "dosimeter::net";

/// What a port reads in one turn at the most. Twisted's figure.
const BYTES_PER_TURN: usize = 256 * 1024;

/// What a datagram counts for at the least: a flood of small ones costs by number, not by size.
const LEAST_COST: usize = 2 * 1024;

/// Long enough not to spin, short enough that peers do not notice.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);
