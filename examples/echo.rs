//! Sends back what it gets: `cargo run --example echo 7000`, then `nc localhost 7000`.

use dosimeter::net::{Address, Protocol, Transport};
use dosimeter::{Reactor, Result};

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        transport.write(data);
        Ok(())
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).unwrap_or("7000".to_owned());
    let port: u16 = port.parse().map_err(|_| "usage: echo [PORT]")?;
    let reactor = Reactor::new()?;
    reactor.listen_tcp(port, |_: &Address| Echo)?;
    reactor.run()
}
