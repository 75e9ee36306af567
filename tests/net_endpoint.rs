//! Endpoints as text: what is understood, what is refused and how.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dosimeter::net::{Address, AnyEndpoint, ClientEndpoint, ConnectErrorKind, ServerEndpoint};
use dosimeter::testing::{Clock, failure_result_of};

use net::{Probe, Story};
use support::{logged, reactor, settle, turn_until};

/// A path that nobody else has; what is there is removed at the end.
struct TempPath(PathBuf);

fn temp_path(name: &str) -> TempPath {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("dosimeter-endpoint-{}-{number}{name}", std::process::id()));
    TempPath(path)
}

impl Drop for TempPath {
    fn drop(&mut self) {
        // The port has usually removed it.
        let _ = fs::remove_file(&self.0);
    }
}

fn factory(_: &Address) -> Probe {
    Probe::new(&Story::default())
}

fn listens_at(text: &str) -> Address {
    let reactor = reactor();
    let port = reactor.listen(text, factory).unwrap_or_else(|error| panic!("{text}: {error}"));
    port.local_addr()
}

fn server_problem(text: &str) -> String {
    let error = text.parse::<AnyEndpoint>().expect_err(text).to_string();
    error.strip_prefix(&format!("{text:?} is no endpoint: ")).expect("it begins with the text").to_owned()
}

fn client_problem(text: &str) -> String {
    let error = text.parse::<ClientEndpoint>().expect_err(text).to_string();
    error.strip_prefix(&format!("{text:?} is no endpoint: ")).expect("it begins with the text").to_owned()
}

// ---- servers ----------------------------------------------------------------------------------------

#[test]
fn a_tcp_port_listens_on_all_interfaces_or_on_one() {
    for text in ["tcp:0", "tcp:port=0", "tcp:0:interface=", "tcp:0:backlog=5:reuse_port=yes"] {
        assert!(listens_at(text).socket_addr().expect("TCP").ip().is_unspecified(), "{text}");
    }
    for text in ["tcp:0:interface=127.0.0.1", "tcp:interface=localhost:port=0"] {
        assert!(listens_at(text).socket_addr().expect("TCP").ip().is_loopback(), "{text}");
    }
    if std::net::UdpSocket::bind("[::1]:0").is_ok() {
        for text in [r"tcp:0:interface=\:\:1", "tcp:0:interface=[::1]"] {
            assert_eq!(listens_at(text).socket_addr().expect("TCP").ip().to_string(), "::1", "{text}");
        }
    }
}

#[test]
fn reuse_port_lets_several_listen() {
    let reactor = reactor();
    let port = reactor.listen("tcp:0:interface=127.0.0.1:reuse_port=1", factory).expect("a free port");
    let port = port.local_addr().socket_addr().expect("TCP").port();
    reactor.listen(format!("tcp:{port}:interface=127.0.0.1:reuse_port=1"), factory).expect("a shared port");
    let error = reactor.listen(format!("tcp:{port}:interface=127.0.0.1"), factory).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on TCP 127.0.0.1:{port}: ")), "{error}");
}

#[test]
fn a_unix_path_may_contain_anything_and_gets_its_permissions() {
    let path = temp_path(r" a:b=c\d[e");
    let escaped = path.0.to_str().expect("plain").replace('\\', r"\\").replace(':', r"\:").replace('=', r"\=");
    let reactor = reactor();
    let port = reactor.listen(format!("unix:{escaped}:mode=640"), factory).expect("a free path");
    assert_eq!(port.local_addr(), Address::Unix(Some(path.0.clone())));
    assert_eq!(fs::metadata(&path.0).expect("it is there").permissions().mode() & 0o777, 0o640);
    port.stop_listening();
    settle(&reactor);
    assert!(!Path::exists(&path.0));
    let endpoint: AnyEndpoint = format!("unix:address={escaped}").parse().expect("the same");
    endpoint.listen(&reactor, factory).expect("free again");
}

#[test]
fn what_is_no_server_endpoint_says_what_to_change() {
    for (text, problem) in [
        ("", r#""" is no kind of endpoint; there are tcp, unix and systemd, as in tcp:8000"#),
        ("8000", r#""8000" is no kind of endpoint; there are tcp, unix and systemd, as in tcp:8000"#),
        ("ssl:443", r#""ssl" is no kind of endpoint; there are tcp, unix and systemd, as in tcp:8000"#),
        ("tcp", "the port is missing; write it as in tcp:8000"),
        ("tcp:", "the port is missing; write it as in tcp:8000"),
        ("tcp:http", r#""http" is no port number from 0 to 65535"#),
        ("tcp:65536", r#""65536" is no port number from 0 to 65535"#),
        (
            "tcp:80:localhost",
            r#""localhost" is one too many; options are written name=value, and there are interface, backlog, reuse_port"#,
        ),
        ("tcp:80:interfase=::1", r#"tcp has no option "interfase"; it has interface, backlog, reuse_port"#),
        (
            "tcp:127.0.0.1:80",
            r#""127.0.0.1" is no port number from 0 to 65535; write an interface as in tcp:8000:interface=127.0.0.1"#,
        ),
        ("tcp:80:", "nothing stands behind the last colon"),
        ("tcp:80:backlog=many", "backlog=many is no number of connections"),
        ("tcp:80:reuse_port=maybe", "reuse_port=maybe is neither yes nor no"),
        ("tcp:80:interface=a:interface=b", "interface is given twice"),
        ("tcp:80:interface=[::1", "a bracket is never closed"),
        ("tcp:80:interface=::1", "write an IPv6 address in brackets, as in [::1]"),
        ("tcp:80:interface=2001:db8::1", "write an IPv6 address in brackets, as in [::1]"),
        (r"unix:\", r"nothing follows the last \; write \\ for a backslash"),
        ("unix", "the address is missing; write it as in unix:/run/x.sock"),
        ("systemd", "the name is missing; write it as in systemd:web"),
        ("systemd:web:mode=660", r#"systemd has no option "mode"; it has none"#),
        ("unix:/x:mode=999", "mode=999 are no permissions; write them in octal, as in mode=660"),
        ("unix:/x:mode=1777", "mode=1777 are no permissions; write them in octal, as in mode=660"),
        ("unix:/x:interface=a", r#"unix has no option "interface"; it has mode, backlog"#),
    ] {
        assert_eq!(server_problem(text), problem);
    }
    let error = reactor().listen("tcp:http", factory).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"cannot listen on tcp:http: "tcp:http" is no endpoint: "http" is no port number from 0 to 65535"#
    );
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_is_written_as_it_is_shown_and_is_no_file() {
    let (reactor, story) = (reactor(), Story::default());
    let (name, probe) = (format!("unix:@dosimeter-endpoint-{}", std::process::id()), story.clone());
    let port = reactor.listen(&*name, move |_: &Address| Probe::new(&probe)).expect("a free name");
    assert_eq!(port.local_addr().to_string(), name);
    assert!(!Path::new(&name["unix:".len()..]).exists());
    reactor.connect(name, factory);
    turn_until(&reactor, || story.has("made"));
}

/// With the feature, tests/net_systemd.rs has more.
#[test]
fn a_socket_of_systemd_that_is_not_there_is_told() {
    let error = reactor().listen("systemd:web", factory).unwrap_err().to_string();
    let problem = match cfg!(feature = "systemd") {
        true => "systemd has opened no such socket; there are none",
        false => "build dosimeter with the feature systemd",
    };
    assert_eq!(error, format!("cannot listen on systemd:web: {problem}"));
}

// ---- clients ----------------------------------------------------------------------------------------

#[test]
fn a_client_connects_to_what_the_text_says() {
    let (reactor, path) = (reactor(), temp_path(".sock"));
    let tcp = reactor.listen("tcp:0:interface=127.0.0.1", factory).expect("a free port").local_addr();
    let port = tcp.socket_addr().expect("TCP").port();
    reactor.listen_unix(&path.0, factory).expect("a free path");
    for text in [
        format!("tcp:127.0.0.1:{port}"),
        format!("tcp:host=127.0.0.1:port={port}:timeout=5:bind_address=127.0.0.1"),
        format!("tcp:port={port}:127.0.0.1:bindAddress=127.0.0.1"),
        format!("unix:{}:timeout=0.5", path.0.display()),
        format!("unix:path={}", path.0.display()),
    ] {
        let story = Story::default();
        let probe = story.clone();
        let connector = reactor.connect(text.as_str(), move |_: &Address| Probe::new(&probe));
        turn_until(&reactor, || story.has("made"));
        connector.disconnect();
        turn_until(&reactor, || story.is_over());
    }
}

#[test]
fn options_of_a_client_are_kept() {
    let endpoint: ClientEndpoint = r"tcp:\:\:1:80:bind_address=[::1]".parse().expect("an endpoint");
    assert_eq!(endpoint.to_string(), "TCP [::1]:80 from [::1]:0");
    let same: ClientEndpoint = "tcp:[::1]:80:bind_address=[::1]".parse().expect("an endpoint");
    assert_eq!(same.to_string(), endpoint.to_string());
    let reactor = reactor();
    let clock = Clock::new();
    // Nobody looks a name up: the timeout is all that happens.
    let (_completer, found) = dosimeter::Deferred::pair();
    let found = std::cell::Cell::new(Some(found));
    reactor.install_resolver(move |_: &str, _: u16| found.take().expect("asked once"));
    let endpoint: ClientEndpoint = "tcp:a.test:80:timeout=2.5".parse().expect("an endpoint");
    let connected = endpoint.clock(&clock).connect(&reactor, factory);
    clock.advance(Duration::from_millis(2_499));
    settle(&reactor);
    assert!(!connected.is_fired());
    clock.advance(Duration::from_millis(1));
    settle(&reactor);
    let failure = failure_result_of(connected);
    let kind = failure.downcast_ref::<dosimeter::net::CannotConnect>().map(|error| error.kind());
    assert_eq!(kind, Some(ConnectErrorKind::TimedOut));
}

#[test]
fn what_is_no_client_endpoint_says_what_to_change() {
    for (text, problem) in [
        ("udp:a:80", r#""udp" is no kind of endpoint; there are tcp and unix, as in tcp:example.org:80"#),
        ("tcp:80", "the port is missing; write it as in tcp:example.org:80"),
        ("tcp::80", "the host is missing; write it as in tcp:example.org:80"),
        ("tcp:::1:80", "write an IPv6 address in brackets, as in [::1]"),
        ("tcp:localhost:80:bind_address=::1", "write an IPv6 address in brackets, as in [::1]"),
        ("tcp:a:b", r#""b" is no port number from 0 to 65535"#),
        ("tcp:a:80:", "nothing stands behind the last colon"),
        ("tcp:a:80:timeout=soon", "timeout=soon is no number of seconds"),
        ("tcp:a:80:timeout=-1", "timeout=-1 is no number of seconds"),
        ("tcp:a:80:bind_address=home", "bind_address=home is no IP address"),
        (
            "tcp:a:80:5",
            r#""5" is one too many; options are written name=value, and there are bind_address, bindAddress, timeout"#,
        ),
        ("unix", "the path is missing; write it as in unix:/run/x.sock"),
        ("unix:/x:bind_address=::1", r#"unix has no option "bind_address"; it has timeout"#),
    ] {
        assert_eq!(client_problem(text), problem);
    }
}

#[test]
fn a_text_that_is_none_is_told_to_who_connects() {
    let reactor = reactor();
    let connector = reactor.connect("tcp:a".to_owned(), factory);
    settle(&reactor);
    assert_eq!(connector.state(), dosimeter::net::ConnectorState::Disconnected);
    let problem = "this is no address: the port is missing; write it as in tcp:example.org:80";
    assert_eq!(logged(), [format!("cannot connect to tcp:a: {problem}")]);
}
