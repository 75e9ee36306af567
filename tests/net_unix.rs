//! UNIX sockets: paths and who may use them, what is found at a path, and connections over them.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::RefCell;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dosimeter::Reactor;
use dosimeter::net::{Address, UnixEndpoint};
use dosimeter::testing::success_result_of;
use net::{Probe, Shared, Story};
use support::{logged, reactor, settle, turn_until};

/// A directory of this test's own, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dosimeter-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for temporary files");
        Directory(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn echo(_: &Address) -> Probe {
    Probe::new(&Story::default()).on_data(|transport, data| transport.write(data))
}

#[track_caller]
fn expect_echo(reactor: &Reactor, path: &Path) {
    let mut client = UnixStream::connect(path).expect("somebody listens");
    expect_echo_on(reactor, &mut client);
}

#[track_caller]
fn expect_echo_on(reactor: &Reactor, client: &mut UnixStream) {
    client.set_nonblocking(true).expect("a socket");
    client.write_all(b"hello").expect("room");
    let mut answer = [0; 16];
    let mut count = 0;
    turn_until(reactor, || {
        count += client.read(&mut answer[count..]).unwrap_or(0);
        count == 5
    });
    assert_eq!(&answer[..5], b"hello");
}

#[test]
fn a_unix_connection_is_made_gets_its_data_and_is_lost_in_this_order() {
    let (reactor, story, directory) = (reactor(), Story::default(), Directory::new("order"));
    let probe = story.clone();
    let port = reactor.listen_unix(directory.socket(), move |_: &Address| Probe::new(&probe)).expect("a new path");
    assert_eq!(port.local_addr(), Address::Unix(Some(directory.socket())));
    let mut client = UnixStream::connect(directory.socket()).expect("it listens");
    client.write_all(b"hello").expect("room");
    drop(client);
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "hello", "eof", "lost: done"]);
}

#[test]
fn addresses_carry_paths() {
    let (reactor, directory) = (reactor(), Directory::new("paths"));
    let peers: Rc<RefCell<Vec<Address>>> = Rc::default();
    let (seen, shared) = (peers.clone(), Shared::default());
    let transport = shared.clone();
    let listening = reactor.listen_unix(directory.socket(), move |peer: &Address| {
        seen.borrow_mut().push(peer.clone());
        echo(peer).sharing(&shared)
    });
    listening.expect("a new path");
    let _unnamed = UnixStream::connect(directory.socket()).expect("it listens");
    turn_until(&reactor, || peers.borrow().len() == 1);
    let own = directory.0.join("client");
    let named = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    named.bind(&socket2::SockAddr::unix(&own).expect("short")).expect("a new path");
    named.connect(&socket2::SockAddr::unix(directory.socket()).expect("short")).expect("it listens");
    turn_until(&reactor, || peers.borrow().len() == 2);
    assert_eq!(*peers.borrow(), [Address::Unix(None), Address::Unix(Some(own.clone()))]);
    let transport = transport.borrow().clone().expect("made");
    assert_eq!(transport.peer_addr().path(), Some(&*own));
    assert_eq!(transport.local_addr().expect("connected").path(), Some(&*directory.socket()));
    assert_eq!(transport.peer_addr().to_string(), format!("unix:{}", own.display()));
}

#[test]
fn the_permissions_are_those_that_were_asked_for() {
    let (reactor, directory) = (reactor(), Directory::new("mode"));
    for mode in [0o600, 0o660, 0o666] {
        let endpoint = UnixEndpoint::new(directory.socket()).mode(mode);
        let port = reactor.listen(endpoint, echo).expect("a new path");
        let permissions = fs::metadata(directory.socket()).expect("it is there").permissions();
        assert_eq!(permissions.mode() & 0o777, mode);
        let stopped = port.stop_listening();
        turn_until(&reactor, || stopped.is_fired());
    }
}

#[test]
fn the_path_is_removed_when_the_port_stops_and_when_the_reactor_does() {
    let (reactor, directory) = (reactor(), Directory::new("removed"));
    let port = reactor.listen_unix(directory.socket(), echo).expect("a new path");
    expect_echo(&reactor, &directory.socket());
    let stopped = port.stop_listening();
    turn_until(&reactor, || stopped.is_fired());
    success_result_of(stopped);
    assert!(!directory.socket().exists());
    port.start_listening().expect("free again");
    expect_echo(&reactor, &directory.socket());
    let stop = reactor.clone();
    reactor.call_soon(move || stop.stop().expect("it runs"));
    reactor.run().expect("a run");
    assert!(!directory.socket().exists());
}

#[test]
fn a_path_that_another_server_has_taken_over_is_left_to_it() {
    let (reactor, directory) = (reactor(), Directory::new("theirs"));
    let port = reactor.listen_unix(directory.socket(), echo).expect("a new path");
    fs::remove_file(directory.socket()).expect("ours");
    let _theirs = UnixListener::bind(directory.socket()).expect("free");
    let stopped = port.stop_listening();
    turn_until(&reactor, || stopped.is_fired());
    UnixStream::connect(directory.socket()).expect("they still listen");
}

#[test]
fn a_socket_that_somebody_listens_on_is_refused_also_when_its_queue_is_full() {
    let (reactor, directory) = (reactor(), Directory::new("taken"));
    let _holder = UnixListener::bind(directory.socket()).expect("a new path");
    let refused = || {
        let error = reactor.listen_unix(directory.socket(), echo).unwrap_err();
        assert_eq!(error.io_error().kind(), ErrorKind::AddrInUse);
        error.to_string()
    };
    let place = format!("cannot listen on unix:{}: ", directory.socket().display());
    assert_eq!(refused(), format!("{place}somebody listens there already"));
    // Fill the queue of who does not accept.
    let connect = || {
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
        client.set_nonblocking(true).expect("a socket");
        client.connect(&socket2::SockAddr::unix(directory.socket()).expect("short")).map(|()| client)
    };
    let _waiting: Vec<_> = std::iter::from_fn(|| connect().ok()).take(10_000).collect();
    assert_eq!(refused(), format!("{place}somebody listens there already"));
    assert!(directory.socket().exists());
}

#[test]
fn a_socket_that_a_killed_server_left_behind_is_replaced() {
    let (reactor, directory) = (reactor(), Directory::new("stale"));
    drop(UnixListener::bind(directory.socket()).expect("a new path"));
    assert!(fs::metadata(directory.socket()).expect("it stays").file_type().is_socket());
    reactor.listen_unix(directory.socket(), echo).expect("nobody listens there");
    expect_echo(&reactor, &directory.socket());
    let lines = logged();
    assert!(lines.len() == 1 && lines[0].contains("nobody listens on"), "{lines:?}");
}

#[test]
fn what_is_no_socket_or_belongs_to_somebody_else_is_left_alone() {
    let (reactor, directory) = (reactor(), Directory::new("file"));
    let path = directory.socket();
    fs::write(&path, "precious").expect("a new path");
    let error = reactor.listen_unix(&path, echo).unwrap_err();
    assert!(error.to_string().contains("exists and is not a socket"), "{error}");
    assert_eq!(fs::read(&path).expect("untouched"), b"precious");
    fs::remove_file(&path).expect("ours");
    let _datagrams = UnixDatagram::bind(&path).expect("a new path");
    reactor.listen_unix(&path, echo).unwrap_err();
    assert!(path.exists());
    let link = directory.0.join("link");
    std::os::unix::fs::symlink(directory.0.join("nothing"), &link).expect("a new path");
    reactor.listen_unix(&link, echo).unwrap_err();
    assert!(fs::symlink_metadata(&link).is_ok());
}

#[test]
fn a_path_that_cannot_be_one_is_refused_by_name() {
    let (reactor, directory) = (reactor(), Directory::new("bad"));
    let long = directory.0.join("x".repeat(200));
    for (path, reason) in [
        (Path::new(""), "the path is empty"),
        (Path::new("a\0b"), "zero byte"),
        (&*long, "path must be shorter"),
        (&*directory.0.join("nowhere/sock"), "No such file"),
    ] {
        let error = reactor.listen_unix(path, echo).unwrap_err().to_string();
        assert!(error.starts_with("cannot listen on unix:") && error.contains(reason), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_needs_no_file() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let reactor = reactor();
    let name = format!("dosimeter-{}", std::process::id());
    let path = PathBuf::from(format!("\0{name}"));
    let port = reactor.listen(UnixEndpoint::new(&path).mode(0o600), echo).expect("a new name");
    assert_eq!(port.local_addr(), Address::Unix(Some(path.clone())));
    assert_eq!(port.local_addr().to_string(), format!("unix:@{name}"));
    let addr = SocketAddr::from_abstract_name(&name).expect("short");
    let mut client = UnixStream::connect_addr(&addr).expect("it listens");
    expect_echo_on(&reactor, &mut client);
    let error = reactor.listen_unix(&path, echo).unwrap_err();
    assert_eq!(error.io_error().kind(), ErrorKind::AddrInUse);
    let stopped = port.stop_listening();
    turn_until(&reactor, || stopped.is_fired());
    reactor.listen_unix(&path, echo).expect("free again");
}

#[test]
fn an_adopted_unix_listener_keeps_its_path() {
    let (reactor, directory) = (reactor(), Directory::new("adopted"));
    let listener = UnixListener::bind(directory.socket()).expect("a new path");
    let port = reactor.listen(listener, echo).expect("a listener");
    assert_eq!(port.local_addr().path(), Some(&*directory.socket()));
    expect_echo(&reactor, &directory.socket());
    let stopped = port.stop_listening();
    turn_until(&reactor, || stopped.is_fired());
    assert!(directory.socket().exists());
}

#[test]
fn half_closes_and_aborts_work_over_unix_as_over_tcp() {
    let (reactor, story, directory) = (reactor(), Story::default(), Directory::new("half"));
    let (probe, shared) = (story.clone(), Shared::default());
    let made = shared.clone();
    let listening =
        reactor.listen_unix(directory.socket(), move |_: &Address| Probe::new(&probe).sharing(&made).on_eof(|_| ()));
    listening.expect("a new path");
    let mut client = UnixStream::connect(directory.socket()).expect("it listens");
    client.set_nonblocking(true).expect("a socket");
    turn_until(&reactor, || story.has("made"));
    let transport = shared.borrow().clone().expect("made");
    transport.write("bye");
    transport.lose_write_connection();
    settle(&reactor);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("all of it, and the end");
    assert_eq!(answer, b"bye");
    client.write_all(b"still there").expect("room");
    turn_until(&reactor, || story.has("still there"));
    transport.abort_connection();
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told().last().map(String::as_str), Some("lost: aborted"));
}

/// A peer that closes before it has read everything counts as one that breaks the connection; what it has sent was sent.
#[test]
fn data_of_a_unix_peer_that_is_gone_are_kept_while_reading_is_paused() {
    let (reactor, story, shared, directory) = (reactor(), Story::default(), Shared::default(), Directory::new("kept"));
    let (probe, made) = (story.clone(), shared.clone());
    let listening = reactor.listen_unix(directory.socket(), move |_: &Address| {
        Probe::new(&probe).sharing(&made).on_made(|transport| {
            transport.write("who are you?");
            transport.pause_reading();
        })
    });
    listening.expect("a new path");
    let mut client = UnixStream::connect(directory.socket()).expect("it listens");
    turn_until(&reactor, || story.has("made"));
    client.write_all(b"a parcel").expect("room");
    drop(client);
    settle(&reactor);
    assert_eq!(story.told(), ["made"]);
    shared.take().expect("made").resume_reading();
    turn_until(&reactor, || story.is_over());
    assert_eq!(story.told(), ["made", "a parcel", "lost: ConnectionReset"]);
}
