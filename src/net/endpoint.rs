//! Endpoints as text, so that a command line flag or a configuration file can choose: Twisted's endpoint descriptions.
//!
//! Rules kept here:
//! - A text is read whole before anything is opened, and nothing in it is passed over: an option that nobody knows is an
//!   error that says which there are.
//! - `\` takes the meaning from the character behind it, so every path and every address can be written.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::net::address::Address;
use crate::net::client::{ClientEndpoint, Place};
use crate::net::connect::IntoClientEndpoint;
use crate::net::listen::ServerEndpoint;
use crate::net::port::{CannotListen, ListeningPort};
use crate::net::protocol::Factory;
use crate::net::systemd;
use crate::net::tcp::{ListenAddr, TcpEndpoint};
use crate::net::unix::UnixEndpoint;
use crate::reactor::Reactor;

/// Where to listen, chosen by a text.
///
/// | text | what it is |
/// |---|---|
/// | `tcp:8000` | a port on all interfaces; options `interface`, `backlog`, `reuse_port` |
/// | `tcp:8000:interface=127.0.0.1` | on one of them: an address or a name |
/// | `unix:/run/x.sock` | a UNIX socket; options `mode`, in octal, and `backlog` |
/// | `unix:/run/x.sock:mode=660` | for its user and its group only |
/// | `unix:@name` | an abstract name of Linux; a file of this name is `unix:./@name` |
/// | `systemd:web` | the socket that systemd has opened under this name (needs the feature `systemd`) |
///
/// What comes first may be given by name as well: `tcp:port=8000`, `unix:address=/run/x.sock`. A colon that belongs to a value
/// is written `\:`, or the value begins with a bracket, as in `interface=[::1]`; a backslash is written `\\`.
///
/// [`Reactor::listen`] takes the text itself, too. Parsing it first finds a mistake before anything else has begun, as the
/// parser of a command line does.
///
/// ```
/// use dosimeter::Reactor;
/// use dosimeter::net::AnyEndpoint;
/// use dosimeter::web::{Branch, Site};
///
/// # fn main() -> dosimeter::Result<()> {
/// let endpoint: AnyEndpoint = "tcp:0:interface=127.0.0.1".parse()?;
/// let error = "tcp:8000:interfase=::1".parse::<AnyEndpoint>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#""tcp:8000:interfase=::1" is no endpoint: tcp has no option "interfase"; it has interface, backlog, reuse_port"#
/// );
///
/// let reactor = Reactor::new()?;
/// reactor.listen(endpoint, Site::new(Branch::new()))?;
/// # Ok(())
/// # }
/// ```
#[doc(alias = "serverFromString")]
#[derive(Debug, Clone)]
pub struct AnyEndpoint(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Tcp(TcpEndpoint<Interface>),
    Unix(UnixEndpoint),
    /// The name of a socket.
    Systemd(String),
}

/// All interfaces, or one, and a port.
#[derive(Debug, Clone)]
enum Interface {
    All(u16),
    Addr(SocketAddr),
    Name(String),
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interface::All(port) => port.fmt(f),
            Interface::Addr(addr) => addr.fmt(f),
            Interface::Name(name) => name.fmt(f),
        }
    }
}

impl ListenAddr for Interface {
    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Interface::All(port) => port.candidates(),
            Interface::Addr(addr) => addr.candidates(),
            Interface::Name(name) => name.candidates(),
        }
    }

    fn place(&self) -> String {
        match self {
            Interface::All(port) => port.place(),
            Interface::Addr(addr) => addr.place(),
            Interface::Name(name) => name.place(),
        }
    }
}

impl FromStr for AnyEndpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        read(text, |description| match description.kind.as_str() {
            "tcp" => read_tcp_server(description).map(Kind::Tcp),
            "unix" => read_unix_server(description).map(Kind::Unix),
            "systemd" => description.first("name", "systemd:web").map(Kind::Systemd),
            other => Err(unknown_kind(other, "tcp, unix and systemd", "tcp:8000")),
        })
        .map(AnyEndpoint)
    }
}

fn read_tcp_server(description: &mut Description) -> Result<TcpEndpoint<Interface>, String> {
    let port = description.first("port", "tcp:8000")?;
    let port = parse_port(&port).map_err(|problem| match description.words.is_empty() {
        true => problem,
        false => format!("{problem}; write an interface as in tcp:8000:interface=127.0.0.1"),
    })?;
    let interface = match description.option("interface") {
        None => Interface::All(port),
        Some(text) => interface(&text, port),
    };
    let mut endpoint = TcpEndpoint::new(interface);
    if let Some(backlog) = description.option("backlog") {
        endpoint = endpoint.backlog(parse_backlog(&backlog)?);
    }
    if let Some(reuse) = description.option("reuse_port") {
        endpoint = endpoint.reuse_port(parse_flag("reuse_port", &reuse)?);
    }
    Ok(endpoint)
}

fn interface(text: &str, port: u16) -> Interface {
    match bare(text).parse::<IpAddr>() {
        Ok(ip) => Interface::Addr((ip, port).into()),
        Err(_) if text.is_empty() => Interface::All(port),
        Err(_) => Interface::Name(format!("{text}:{port}")),
    }
}

fn read_unix_server(description: &mut Description) -> Result<UnixEndpoint, String> {
    let mut endpoint = UnixEndpoint::new(description.path("address")?);
    if let Some(mode) = description.option("mode") {
        endpoint = endpoint.mode(parse_mode(&mode)?);
    }
    if let Some(backlog) = description.option("backlog") {
        endpoint = endpoint.backlog(parse_backlog(&backlog)?);
    }
    Ok(endpoint)
}

impl ServerEndpoint for AnyEndpoint {
    type Addr = Address;

    fn listen(self, reactor: &Reactor, factory: impl Factory) -> Result<ListeningPort<Address>, CannotListen> {
        match self.0 {
            Kind::Tcp(endpoint) => endpoint.listen(reactor, factory).map(Into::into),
            Kind::Unix(endpoint) => endpoint.listen(reactor, factory),
            Kind::Systemd(name) => systemd::listen(reactor, &name, factory),
        }
    }
}

/// The text of an [`AnyEndpoint`].
impl ServerEndpoint for &str {
    type Addr = Address;

    fn listen(self, reactor: &Reactor, factory: impl Factory) -> Result<ListeningPort<Address>, CannotListen> {
        let endpoint: AnyEndpoint =
            self.parse().map_err(|error| CannotListen::new(self, io::Error::new(ErrorKind::InvalidInput, error)))?;
        endpoint.listen(reactor, factory)
    }
}

/// The text of an [`AnyEndpoint`].
impl ServerEndpoint for String {
    type Addr = Address;

    fn listen(self, reactor: &Reactor, factory: impl Factory) -> Result<ListeningPort<Address>, CannotListen> {
        self.as_str().listen(reactor, factory)
    }
}

/// A client's endpoint as text: `tcp:example.org:80` or `unix:/run/x.sock`, both with the option `timeout` in seconds, TCP
/// with `bind_address` (or Twisted's `bindAddress`), an IP address. `unix:@name` is an abstract name, as in an [`AnyEndpoint`].
///
/// What comes first may be given by name as well: `tcp:host=example.org:port=80`. A colon that belongs to a value is written
/// `\:`, or the value begins with a bracket, as in `tcp:[::1]:80`; a backslash is written `\\`.
///
/// ```
/// use dosimeter::net::ClientEndpoint;
///
/// # fn main() -> dosimeter::Result<()> {
/// let endpoint: ClientEndpoint = "tcp:example.org:80:timeout=5".parse()?;
/// assert_eq!(endpoint.to_string(), "TCP example.org:80");
/// # Ok(())
/// # }
/// ```
impl FromStr for ClientEndpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        read(text, |description| {
            let endpoint = match description.kind.as_str() {
                "tcp" => read_tcp_client(description)?,
                "unix" => ClientEndpoint::unix(description.path("path")?),
                other => return Err(unknown_kind(other, "tcp and unix", "tcp:example.org:80")),
            };
            match description.option("timeout") {
                Some(seconds) => Ok(endpoint.timeout(parse_seconds(&seconds)?)),
                None => Ok(endpoint),
            }
        })
    }
}

fn read_tcp_client(description: &mut Description) -> Result<ClientEndpoint, String> {
    let host = description.first("host", "tcp:example.org:80")?;
    let port = parse_port(&description.first("port", "tcp:example.org:80")?)?;
    let host = bare(&host);
    let endpoint =
        ClientEndpoint::tcp(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
    let bind = description.option("bind_address").or_else(|| description.option("bindAddress"));
    match bind {
        None => Ok(endpoint),
        Some(text) => match bare(&text).parse::<IpAddr>() {
            Ok(ip) => Ok(endpoint.bind_address((ip, 0).into())),
            Err(_) if description.has_two_colons() => Err(IN_BRACKETS.to_owned()),
            Err(_) => Err(format!("bind_address={text} is no IP address")),
        },
    }
}

/// The text of a [`ClientEndpoint`].
impl IntoClientEndpoint for &str {
    fn into_client_endpoint(self) -> ClientEndpoint {
        self.parse().unwrap_or_else(|error: InvalidEndpoint| {
            ClientEndpoint::new(Place::Invalid { text: self.to_owned(), problem: error.problem })
        })
    }
}

/// The text of a [`ClientEndpoint`].
impl IntoClientEndpoint for String {
    fn into_client_endpoint(self) -> ClientEndpoint {
        self.as_str().into_client_endpoint()
    }
}

/// A text that is no endpoint, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidEndpoint {
    text: String,
    problem: String,
}

impl fmt::Display for InvalidEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no endpoint: {}", self.text, self.problem)
    }
}

impl Error for InvalidEndpoint {}

// ---------------------------------------------------------------------------------------------------------------------
// The text
// ---------------------------------------------------------------------------------------------------------------------

/// A text in its parts, of which those are taken out that somebody knows.
struct Description {
    kind: String,
    /// What was given without a name.
    words: VecDeque<String>,
    options: Vec<(String, String)>,
    /// The options that were asked for.
    known: Vec<&'static str>,
}

/// Has `reader` make something of `text`.
fn read<T>(text: &str, reader: impl FnOnce(&mut Description) -> Result<T, String>) -> Result<T, InvalidEndpoint> {
    let outcome = Description::split(text).and_then(|mut description| {
        let endpoint = reader(&mut description)?;
        description.expect_nothing_left()?;
        Ok(endpoint)
    });
    outcome.map_err(|problem| InvalidEndpoint { text: text.to_owned(), problem })
}

impl Description {
    fn split(text: &str) -> Result<Self, String> {
        let mut description =
            Description { kind: String::new(), words: VecDeque::new(), options: Vec::new(), known: Vec::new() };
        for (number, Part { name, value }) in parts(text)?.into_iter().enumerate() {
            match name {
                None if number == 0 => description.kind = value,
                None => description.words.push_back(value),
                Some(name) if description.options.iter().any(|(other, _)| *other == name) => {
                    return Err(format!("{name} is given twice"));
                }
                Some(name) => description.options.push((name, value)),
            }
        }
        Ok(description)
    }

    /// What is given by its place, or by its name.
    fn first(&mut self, name: &'static str, example: &str) -> Result<String, String> {
        let value = match self.named(name) {
            Some(value) => Some(value),
            None => self.words.pop_front(),
        };
        let value = value.filter(|value| !value.is_empty());
        value.ok_or_else(|| match self.has_two_colons() {
            true => IN_BRACKETS.to_owned(),
            false => format!("the {name} is missing; write it as in {example}"),
        })
    }

    /// A path, or an abstract name: no command line can have the zero byte that it begins with.
    fn path(&mut self, name: &'static str) -> Result<String, String> {
        let path = self.first(name, "unix:/run/x.sock")?;
        Ok(path.strip_prefix('@').map(|name| format!("\0{name}")).unwrap_or(path))
    }

    /// Whether there are two colons in a row in what is left: nothing but an IPv6 address has that.
    fn has_two_colons(&self) -> bool {
        self.words.iter().rev().skip(1).any(String::is_empty)
    }

    fn option(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.named(name)
    }

    fn named(&mut self, name: &str) -> Option<String> {
        let place = self.options.iter().position(|(other, _)| other == name)?;
        Some(self.options.remove(place).1)
    }

    fn expect_nothing_left(&self) -> Result<(), String> {
        let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
        if let Some((name, _)) = self.options.first() {
            return Err(format!("{} has no option {name:?}; it has {known}", self.kind));
        }
        match self.words.front() {
            Some(_) if self.has_two_colons() => Err(IN_BRACKETS.to_owned()),
            Some(word) if word.is_empty() => Err("nothing stands behind the last colon".to_owned()),
            Some(word) => {
                Err(format!("{word:?} is one too many; options are written name=value, and there are {known}"))
            }
            None => Ok(()),
        }
    }
}

/// What stands between two colons.
#[derive(Default)]
struct Part {
    name: Option<String>,
    value: String,
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = vec![Part::default()];
    let mut in_brackets = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let part = parts.last_mut().expect("there is always one");
        match character {
            '\\' => part.value.push(characters.next().ok_or(r"nothing follows the last \; write \\ for a backslash")?),
            ':' if !in_brackets => parts.push(Part::default()),
            '=' if part.name.is_none() && !in_brackets => part.name = Some(std::mem::take(&mut part.value)),
            _ => {
                match character {
                    '[' if part.value.is_empty() => in_brackets = true,
                    ']' => in_brackets = false,
                    _ => {}
                }
                part.value.push(character);
            }
        }
    }
    if in_brackets { Err("a bracket is never closed".to_owned()) } else { Ok(parts) }
}

/// Without the brackets of an IPv6 address.
fn bare(text: &str) -> &str {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text)
}

fn unknown_kind(kind: &str, known: &str, example: &str) -> String {
    format!("{kind:?} is no kind of endpoint; there are {known}, as in {example}")
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text:?} is no port number from 0 to 65535"))
}

fn parse_backlog(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("backlog={text} is no number of connections"))
}

fn parse_flag(name: &str, text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        _ => Err(format!("{name}={text} is neither yes nor no")),
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("mode={text} are no permissions; write them in octal, as in mode=660")),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("timeout={text} is no number of seconds"))
}

const IN_BRACKETS: &str = "write an IPv6 address in brackets, as in [::1]";
