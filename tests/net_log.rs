//! What an operator reads of ports and connections.

#[path = "support/log.rs"]
mod support;

use std::net::SocketAddr;

use dosimeter::net::{Address, DatagramProtocol, LineProtocol, LineReceiver, LineTransport, UdpPort};
use dosimeter::testing::MemoryReactor;
use dosimeter::{Failure, Result};
use log::LevelFilter;
use support::logged;

struct Picky;

impl LineProtocol for Picky {
    fn line_received(&mut self, _: &LineTransport, line: &[u8]) -> Result<()> {
        Err(Failure::new(format!("no line is good enough, {:?} neither", line.escape_ascii().to_string())))
    }
}

impl DatagramProtocol for Picky {
    fn datagram_received(&mut self, _: &UdpPort, _: &[u8], _: SocketAddr) -> Result<()> {
        Err("no datagram is good enough".into())
    }
}

fn factory(_: &Address) -> LineReceiver<Picky> {
    LineReceiver::new(Picky)
}

#[test]
fn the_beginning_and_the_end_of_a_port_are_told_with_its_place_and_its_factory() {
    let lines = logged(|| {
        log::set_max_level(LevelFilter::Info);
        let memory = MemoryReactor::new();
        let ports = [
            memory.reactor().listen("tcp:7100:interface=10.0.0.1", factory).expect("free"),
            memory.reactor().listen("unix:/run/x.sock", factory).expect("free"),
        ];
        let datagrams = memory.reactor().listen_udp("10.0.0.1:7101", Picky).expect("free");
        ports.iter().for_each(|port| drop(port.stop_listening()));
        drop(datagrams.stop_listening());
        memory.settle();
    });
    let told = |text: &str| lines.iter().any(|line| line.starts_with(&format!("INFO {text}")));
    for place in ["10.0.0.1:7100 for net_log::factory", "unix:/run/x.sock for net_log::factory", "UDP 10.0.0.1:7101"] {
        assert!(told(&format!("listening on {place}")), "{lines:?}");
        assert!(told(&format!("no longer listening on {place}")), "{lines:?}");
    }
}

#[test]
fn what_goes_wrong_on_a_connection_is_told_with_its_protocol_and_its_peer() {
    let lines = logged(|| {
        log::set_max_level(LevelFilter::Info);
        let memory = MemoryReactor::new();
        memory.reactor().listen_tcp(7100, factory).expect("free");
        memory.connect_from(([192, 0, 2, 7], 4000), ([10, 0, 0, 1], 7100)).send("hello\r\n");
        let port = memory.reactor().listen_udp("10.0.0.1:7101", Picky).expect("free");
        memory.socket(([192, 0, 2, 7], 4000)).send_to("hello", port.local_addr());
        assert_eq!(dosimeter::testing::flush_all_logged_errors().len(), 2);
    });
    let told = |text: &str| lines.iter().any(|line| line.starts_with("ERROR ") && line.contains(text));
    let stream = "LineReceiver<net_log::Picky> of 192.0.2.7:4000 failed: no line is good enough, \"hello\" neither";
    assert!(told(stream), "{lines:?}");
    assert!(told("the protocol of UDP 10.0.0.1:7101 failed: no datagram is good enough"), "{lines:?}");
}
