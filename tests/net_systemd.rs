//! What a service of systemd does, with this test in the place of systemd.
//!
//! What systemd tells a service stands in its environment, so each service here is a process of its own: this program again,
//! with one of the ignored tests.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dosimeter::Clock;
use dosimeter::net::systemd;
use support::reactor;

/// A socket that messages are sent to, in the place of systemd's.
struct Manager {
    socket: UnixDatagram,
    address: String,
    path: Option<PathBuf>,
}

impl Manager {
    fn new(socket: UnixDatagram, address: String, path: Option<PathBuf>) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
        Manager { socket, address, path }
    }

    fn at_path(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dosimeter-{}-{name}", std::process::id()));
        let socket = UnixDatagram::bind(&path).expect("a new path");
        Manager::new(socket, path.to_str().expect("plain").to_owned(), Some(path))
    }

    fn start(&self, service: &str, environment: &[(&str, &str)]) -> Service {
        start(service, environment.iter().copied().chain([("NOTIFY_SOCKET", &*self.address)]))
    }

    fn next_message(&self) -> String {
        let mut message = [0; 100];
        let count = self.socket.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..count]).into_owned()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Ended with the test.
struct Service(Child);

impl Service {
    fn ends_well(mut self) -> bool {
        self.0.wait().expect("a child").success()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed otherwise.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start<'a>(service: &str, environment: impl IntoIterator<Item = (&'a str, &'a str)>) -> Service {
    let mut command = Command::new(std::env::current_exe().expect("this file"));
    command.args(["--exact", service, "--ignored"]).envs(environment);
    Service(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a second process"))
}

#[test]
fn a_service_tells_when_it_runs_and_when_it_stops_and_feeds_its_watchdog_meanwhile() {
    let manager = Manager::at_path("notify");
    let service = manager.start("service_that_runs_for_a_while", &[("WATCHDOG_USEC", "20000")]);
    let mut messages = vec![manager.next_message()];
    while messages.last().is_some_and(|message| message != "STOPPING=1") {
        messages.push(manager.next_message());
    }
    assert!(service.ends_well());
    let meals = messages.iter().filter(|message| *message == "WATCHDOG=1").count();
    let ready = messages.iter().position(|message| message == "READY=1").expect("told");
    assert!(meals >= 3 && ready <= 1 && messages.len() == meals + 2, "{messages:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn messages_go_to_an_abstract_name_as_well() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let name = format!("dosimeter-{}-notify", std::process::id());
    let addr = SocketAddr::from_abstract_name(&name).expect("short");
    let manager = Manager::new(UnixDatagram::bind_addr(&addr).expect("a new name"), format!("@{name}"), None);
    let service = manager.start("service_that_runs_for_a_while", &[]);
    assert_eq!([manager.next_message(), manager.next_message()], ["READY=1", "STOPPING=1"]);
    assert!(service.ends_well());
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_is_not_fed() {
    let manager = Manager::at_path("other");
    let service = manager.start("service_that_runs_for_a_while", &[("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", "1")]);
    assert_eq!([manager.next_message(), manager.next_message()], ["READY=1", "STOPPING=1"]);
    assert!(service.ends_well());
}

#[test]
fn a_service_runs_as_well_when_nobody_watches_it_or_nobody_can_be_told() {
    for address in ["", "/nowhere/to/be/found", "vsock:2:1234"] {
        let service = start("service_that_runs_for_a_while", [("NOTIFY_SOCKET", address)]);
        assert!(service.ends_well(), "{address:?}");
    }
}

#[test]
#[ignore = "a service of another test, in a process of its own"]
fn service_that_runs_for_a_while() {
    let reactor = reactor();
    systemd::announce(&reactor);
    let stop = reactor.clone();
    reactor.call_later(Duration::from_millis(100), move || stop.stop().expect("it runs"));
    reactor.run().expect("a run");
}

#[cfg(feature = "systemd")]
mod listening {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::rc::Rc;

    use super::*;
    use crate::net::{Probe, Story};
    use dosimeter::net::Address;

    /// Gives the service these sockets as descriptors 3 and 4, as systemd does.
    fn start_with(service: &str, names: &str, sockets: [OwnedFd; 2]) -> Service {
        let [third, fourth] = sockets;
        let script = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" --exact \"$1\" --ignored 3<&0 4<&2 2>/dev/null </dev/null";
        let program = std::env::current_exe().expect("this file");
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(program).arg(service).env("LISTEN_FDNAMES", names);
        command.stdin(Stdio::from(third)).stderr(Stdio::from(fourth)).stdout(Stdio::null());
        Service(command.spawn().expect("a second process"))
    }

    #[test]
    fn inherited_sockets_are_listened_on_by_name() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = tcp.local_addr().expect("bound");
        let path = std::env::temp_dir().join(format!("dosimeter-{}-inherited", std::process::id()));
        let unix = UnixListener::bind(&path).expect("a new path");
        let service = start_with("listening::service_that_greets_with_names", "web:admin", [tcp.into(), unix.into()]);
        let mut greeting = String::new();
        let mut client = TcpStream::connect(addr).expect("systemd listens");
        client.read_to_string(&mut greeting).expect("greeted");
        let mut client = UnixStream::connect(&path).expect("systemd listens");
        client.read_to_string(&mut greeting).expect("greeted");
        std::fs::remove_file(&path).expect("the service leaves it");
        assert_eq!(greeting, "web admin ");
        assert!(service.ends_well());
    }

    #[test]
    fn an_endpoint_may_name_an_inherited_socket() {
        let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [web, admin] = sockets.each_ref().map(|socket| socket.local_addr().expect("bound"));
        let service = start_with("listening::service_that_listens_by_name", "web:admin", sockets.map(OwnedFd::from));
        let mut greeting = String::new();
        for addr in [admin, web] {
            let mut client = TcpStream::connect(addr).expect("systemd listens");
            client.read_to_string(&mut greeting).expect("greeted");
        }
        assert_eq!(greeting, "admin web ");
        assert!(service.ends_well());
    }

    #[test]
    #[ignore = "a service of another test, in a process of its own"]
    fn service_that_listens_by_name() {
        let reactor = reactor();
        let greeter = |name: &'static str, last: bool| {
            move |_: &Address| {
                let greeter = Probe::new(&Story::default()).on_made(move |transport| {
                    transport.write(format!("{name} "));
                    transport.lose_connection();
                });
                greeter.on_lost(move |transport, _| {
                    if last {
                        transport.reactor().stop().expect("it runs");
                    }
                })
            }
        };
        reactor.listen("systemd:admin", greeter("admin", false)).expect("it is there");
        let error = reactor.listen("systemd:admin", greeter("admin", false)).unwrap_err().to_string();
        assert!(error.ends_with("systemd has opened no such socket; there are \"web\""), "{error}");
        reactor.listen("systemd:web", greeter("web", true)).expect("it is there");
        reactor.run().expect("a run");
    }

    #[test]
    fn an_inherited_socket_that_does_not_listen_is_told_by_name() {
        let (one, mut other) = UnixStream::pair().expect("two sockets");
        let service = start_with(
            "listening::service_that_expects_an_error",
            "web:log",
            [TcpListener::bind("127.0.0.1:0").expect("a free port").into(), one.into()],
        );
        assert!(service.ends_well());
        // Nothing keeps it open here.
        let _ = other.write_all(b"x");
    }

    #[test]
    fn without_systemd_there_are_no_inherited_sockets() {
        assert!(start("listening::service_that_has_none", [("LISTEN_PID", "1"), ("LISTEN_FDS", "2")]).ends_well());
        assert!(start("listening::service_that_has_none", []).ends_well());
    }

    #[test]
    #[ignore = "a service of another test, in a process of its own"]
    fn service_that_greets_with_names() {
        let sockets = systemd::listeners().expect("two");
        assert!(systemd::listeners().expect("no error").is_empty(), "they are taken once");
        let (reactor, left) = (reactor(), Rc::new(Cell::new(sockets.len())));
        for socket in sockets {
            let (name, left) = (socket.name().to_owned(), left.clone());
            let listening = reactor.listen(socket, move |_: &Address| {
                let (name, left) = (name.clone(), left.clone());
                let greeter = Probe::new(&Story::default()).on_made(move |transport| {
                    transport.write(format!("{name} "));
                    transport.lose_connection();
                });
                greeter.on_lost(move |transport, _| {
                    left.set(left.get() - 1);
                    if left.get() == 0 {
                        transport.reactor().stop().expect("it runs");
                    }
                })
            });
            listening.expect("a listener");
        }
        reactor.run().expect("a run");
    }

    #[test]
    #[ignore = "a service of another test, in a process of its own"]
    fn service_that_expects_an_error() {
        let error = systemd::listeners().expect_err("one does not listen").to_string();
        assert!(error.contains("\"log\": it does not listen"), "{error}");
    }

    #[test]
    #[ignore = "a service of another test, in a process of its own"]
    fn service_that_has_none() {
        assert!(systemd::listeners().expect("no error").is_empty());
    }
}

/// Far beyond what anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);
