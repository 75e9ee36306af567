//! What connections cost the process in descriptors, and what happens when there are none left.
//!
//! Descriptors are counted for the whole process, so these tests take turns and have the process to themselves.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::Cell;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dosimeter::Reactor;
use dosimeter::net::{Address, DatagramProtocol, UdpPort};
use net::{Client, Probe, Story, serve};
use support::{logged, reactor, turn_until};

fn echo(reactor: &Reactor) -> SocketAddr {
    serve(reactor, || Probe::new(&Story::default()).on_data(|transport, data| transport.write(data)))
}

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}

#[test]
fn twenty_thousand_connections_in_waves_leave_no_descriptor_and_no_memory_behind() {
    let _turn = one_at_a_time();
    let wave_size = 500.min((descriptor_limit() - 100) / 2);
    let reactor = reactor();
    let addr = echo(&reactor);
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    let descriptors = open_descriptors();
    // The first wave fills the stores of buffers and of the allocator, which are bounded.
    wave(&reactor, addr, wave_size, 0);
    let memory = resident_memory();
    for number in 1..20_000_usize.div_ceil(wave_size) {
        wave(&reactor, addr, wave_size, number);
    }
    assert_eq!(open_descriptors(), descriptors);
    let grown = resident_memory().saturating_sub(memory);
    println!("{memory} bytes after the first wave, {grown} more at the end");
    assert!(grown <= 1024 * 1024, "{grown} bytes more than after the first wave");
}

/// So many clients connect, are answered, and leave in every way there is.
fn wave(reactor: &Reactor, addr: SocketAddr, size: usize, number: usize) {
    let before = open_descriptors();
    let mut clients: Vec<_> = (0..size).map(|_| Client::connect(addr)).collect();
    clients.iter_mut().for_each(|client| client.send(b"hello"));
    for client in &mut clients {
        client.expect(reactor, b"hello");
    }
    assert!(open_descriptors() >= before + 2 * size, "all of them are open at once");
    for (place, mut client) in clients.into_iter().enumerate() {
        match (number + place) % 3 {
            0 => client.send_end(),
            1 => client.reset().expect("a socket"),
            _ => drop(client),
        }
    }
    turn_until(reactor, || open_descriptors() == before);
}

/// How many descriptors this process may have, from `/proc`.
fn descriptor_limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}

fn resident_memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

/// A child would keep ports taken and connections open for as long as it runs.
#[test]
fn nothing_that_is_opened_is_inherited_by_children() {
    struct Mute;
    impl DatagramProtocol for Mute {
        fn datagram_received(&mut self, _: &UdpPort, _: &[u8], _: SocketAddr) -> dosimeter::Result<()> {
            Ok(())
        }
    }
    let inherited = || {
        let listing = Command::new("ls").arg("/proc/self/fd").output().expect("a child");
        String::from_utf8(listing.stdout).expect("numbers")
    };
    let _turn = one_at_a_time();
    let (before, open) = (inherited(), open_descriptors());
    let (reactor, story) = (reactor(), Story::default());
    let path = std::env::temp_dir().join(format!("dosimeter-inherited-{}", std::process::id()));
    let made = story.clone();
    let make = move |_: &Address| Probe::new(&made);
    reactor.listen_unix(&path, make.clone()).expect("nothing is there");
    reactor.listen_udp("127.0.0.1:0", Mute).expect("a free port");
    reactor.connect_unix(&path, make.clone());
    reactor.connect_tcp(echo(&reactor), make);
    turn_until(&reactor, || story.told().len() == 3);
    // Poll and waker, three ports, the reserve, two connections with both of their ends.
    assert!(open_descriptors() >= open + 10);
    assert_eq!(inherited(), before);
    reactor.shut_down();
}

/// Whom it cannot serve it closes, so that they go elsewhere; it goes on serving those it has, takes others when these leave,
/// and does not spin.
#[test]
fn a_server_without_descriptors_closes_whom_it_cannot_serve_and_serves_the_others() {
    let _turn = one_at_a_time();
    let (server, addr) = server_with_descriptors(FEW);
    let mut clients: Vec<_> = (0..FEW * 3).map(|_| connect(addr)).collect();
    let served: Vec<_> = clients.iter_mut().map(|client| ask(client, b"hello").is_some()).collect();
    let count = served.iter().filter(|served| **served).count();
    assert!((FEW / 2..FEW).contains(&count), "{count} are served");
    assert!(served[..count].iter().all(|served| *served), "those that came first");
    let before = processor_time(&server);
    for _ in 0..5 {
        assert_eq!(ask(&mut clients[0], b"again").as_deref(), Some(&b"again"[..]));
        assert_eq!(ask(&mut connect(addr), b"hello"), None, "there is no room");
    }
    let spent = processor_time(&server) - before;
    assert!(spent < Duration::from_millis(500), "it spent {spent:?} on nothing");
    clients.clear();
    let mut later = (0..FEW / 2).map(|_| connect(addr)).collect::<Vec<_>>();
    // It may take them before it has noticed that the others have left.
    while ask(&mut later[0], b"hello").is_none() {
        later[0] = connect(addr);
    }
}

/// Under attack each new client would otherwise cost a line in the log.
#[test]
fn clients_that_keep_coming_to_a_server_without_descriptors_do_not_fill_its_log() {
    let _turn = one_at_a_time();
    let (_server, addr) = server_with_descriptors(FEW);
    let mut clients: Vec<_> = (0..FEW * 2).map(|_| connect(addr)).collect();
    let mut logged = || {
        let answer = ask(&mut clients[0], LOG_LINES).expect("the first client is served");
        String::from_utf8(answer).expect("digits").parse::<u32>().expect("a number")
    };
    let before = logged();
    // Each question makes sure that the server has seen the client before it.
    let more: Vec<_> = (0..100).map(|_| (connect(addr), logged())).collect();
    let lines = logged() - before;
    assert!(lines < 50, "{lines} lines were logged for {} clients", more.len());
}

fn connect(addr: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(addr).expect("the system completes the connection");
    client.set_read_timeout(Some(PATIENCE)).expect("not zero");
    client
}

/// What the server answers, unless it has closed the connection.
fn ask(client: &mut TcpStream, question: &[u8]) -> Option<Vec<u8>> {
    let mut answer = [0; 5];
    client.write_all(question).ok()?;
    match client.read_exact(&mut answer) {
        Ok(()) => Some(answer.to_vec()),
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "neither an answer nor a close");
            None
        }
    }
}

/// User and system time of a process, from `/proc`; a tick is 10 ms.
fn processor_time(process: &Server) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.0.id())).expect("it runs");
    // The name of the program, in parentheses, may hold blanks.
    let fields = stat.rsplit(')').next().expect("a stat line").split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// A second process, ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed otherwise.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn server_with_descriptors(count: usize) -> (Server, SocketAddr) {
    let program = std::env::current_exe().expect("this file");
    let child = Command::new("sh")
        .args(["-c", &format!("ulimit -n {count}; exec \"$0\" --exact child_echo_server --ignored --nocapture")])
        .arg(program)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut server = Server(child.expect("a second process"));
    let lines = BufReader::new(server.0.stdout.take().expect("piped")).lines();
    let line = lines.map_while(Result::ok).find_map(|line| line.split(" listens on ").nth(1).map(str::to_owned));
    (server, line.expect("it tells where it listens").parse().expect("an address"))
}

#[test]
#[ignore = "the server of another test, in a process of its own"]
fn child_echo_server() {
    let reactor = reactor();
    let lines = Rc::new(Cell::new(0));
    let addr = serve(&reactor, move || {
        let lines = lines.clone();
        Probe::new(&Story::default()).on_data(move |transport, data| {
            lines.set(lines.get() + logged().len());
            match data {
                LOG_LINES => transport.write(format!("{:05}", lines.get())),
                other => transport.write(other),
            }
        })
    });
    println!("it listens on {addr}");
    reactor.run().expect("it is ended by its parent");
}

const FEW: usize = 64;

/// A question to the server of these tests.
const LOG_LINES: &[u8] = b"how many lines were logged?";

/// Far beyond what anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);
