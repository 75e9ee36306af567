//! Who is connected: how many at all, and how many from one peer.
//!
//! Rules kept here:
//! - A peer is an IPv4 address, or the half of an IPv6 address that its provider gave it: the other half it chooses itself.
//! - What comes from this host, by loopback or a UNIX socket, is one peer in name only: a proxy that speaks for many.
//! - A peer without a connection takes no room.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;

use crate::net::Address;
use crate::web::metrics::Rejected;

/// The connections of a site, counted.
#[derive(Default)]
pub(crate) struct Guests {
    all: Cell<usize>,
    by_peer: RefCell<HashMap<u64, usize>>,
}

impl Guests {
    /// Counts one from `peer`, unless it is one too many.
    pub(crate) fn admit(&self, peer: &Address, most: usize, most_of_one: usize) -> Result<(), Rejected> {
        if self.all.get() >= most {
            return Err(Rejected::Max);
        }
        if let Some(peer) = key(peer) {
            let mut by_peer = self.by_peer.borrow_mut();
            let count = by_peer.get(&peer).copied().unwrap_or(0);
            if count >= most_of_one {
                return Err(Rejected::PerPeer);
            }
            by_peer.insert(peer, count + 1);
        }
        self.all.set(self.all.get() + 1);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.get() == 0
    }

    /// One that was admitted has left.
    pub(crate) fn leave(&self, peer: &Address) {
        self.all.set(self.all.get() - 1);
        if let Some(peer) = key(peer) {
            let mut by_peer = self.by_peer.borrow_mut();
            match by_peer.get_mut(&peer) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(by_peer.remove(&peer)),
            }
        }
    }
}

/// What a peer is counted by; `None` for this host.
fn key(peer: &Address) -> Option<u64> {
    match peer.socket_addr()?.ip() {
        ip if ip.is_loopback() => None,
        // No network of IPv6 begins like this.
        IpAddr::V4(ip) => Some(u64::from(ip.to_bits())),
        IpAddr::V6(ip) => Some((ip.to_bits() >> 64) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: &str) -> Address {
        Address::Inet((ip.parse::<IpAddr>().unwrap(), 1234).into())
    }

    #[test]
    fn a_peer_may_have_so_many_connections_and_others_as_many() {
        let guests = Guests::default();
        for ip in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"] {
            assert_eq!(guests.admit(&peer(ip), 100, 2), Ok(()));
            assert_eq!(guests.admit(&peer(ip), 100, 2), Ok(()));
            assert_eq!(guests.admit(&peer(ip), 100, 2), Err(Rejected::PerPeer), "{ip}");
        }
        assert_eq!(guests.admit(&peer("2001:db8::ffff:1"), 100, 2), Err(Rejected::PerPeer), "the same network");
        guests.leave(&peer("192.0.2.1"));
        assert_eq!(guests.admit(&peer("192.0.2.1"), 100, 2), Ok(()));
        assert_eq!(guests.all.get(), 8);
    }

    #[test]
    fn this_host_is_many_peers() {
        let guests = Guests::default();
        for here in [peer("127.0.0.1"), peer("127.9.9.9"), peer("::1"), Address::Unix(None)] {
            for _ in 0..10 {
                assert_eq!(guests.admit(&here, 100, 1), Ok(()), "{here}");
            }
        }
        assert_eq!(guests.admit(&peer("127.0.0.1"), 40, 1), Err(Rejected::Max));
    }

    #[test]
    fn a_peer_that_has_left_takes_no_room() {
        let guests = Guests::default();
        for count in 0..1000_u32 {
            let peer = Address::Inet((std::net::Ipv4Addr::from_bits(count), 1).into());
            guests.admit(&peer, 100, 2).unwrap();
            guests.admit(&peer, 100, 2).unwrap();
            guests.leave(&peer);
            guests.leave(&peer);
        }
        assert_eq!((guests.all.get(), guests.by_peer.borrow().len()), (0, 0));
    }
}
