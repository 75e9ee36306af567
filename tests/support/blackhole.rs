//! Addresses where connecting goes wrong, on the loopback.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A listener whose queue is full: the system drops what comes, and who connects hears nothing.
pub struct Blackhole {
    pub addr: SocketAddr,
    listener: Socket,
    queue: Vec<Socket>,
}

impl Blackhole {
    /// Lets everybody in who still tries: the system repeats itself after a second.
    pub fn open(self) -> TcpListener {
        drop(self.queue);
        let listener = TcpListener::from(self.listener);
        listener.accept().expect("the first of the queue");
        listener
    }
}

pub fn blackhole() -> Blackhole {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    listener.listen(0).expect("bound");
    let addr = listener.local_addr().expect("bound").as_socket().expect("an IP address");
    let mut queue = Vec::new();
    for _ in 0..MOST_QUEUED {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let is_full = client.connect_timeout(&addr.into(), NO_ANSWER).is_err();
        queue.push(client);
        if is_full {
            return Blackhole { addr, listener, queue };
        }
    }
    panic!("the queue of a listener never fills up");
}

/// Where nobody listens.
pub fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound")
}

const MOST_QUEUED: usize = 10;

/// On the loopback an answer comes within microseconds, if one comes.
const NO_ANSWER: Duration = Duration::from_millis(100);
