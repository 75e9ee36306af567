//! Listening on UNIX sockets.
//!
//! Rules kept here:
//! - Nobody connects before the permissions are set: the socket begins to listen afterwards.
//! - What stands at the path is removed only if it is a socket that nobody listens on. Asking it is the one proof: a file that
//!   holds the number of a process outlives the process, and the number is given to another one.
//! - The path is removed with the socket, but only while it is that of this socket: a server that was started meanwhile may
//!   have put its own there.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::net::address::Address;
use crate::net::listen::{self, ServerEndpoint};
use crate::net::memory::Network;
use crate::net::port::{CannotListen, ListeningPort, place};
use crate::net::protocol::Factory;
use crate::net::socket::{ListenSocket, Peer, unix_address};
use crate::reactor::Reactor;

impl Reactor {
    /// Listens for connections to the UNIX socket at `path` and has `factory` make the protocol of each.
    ///
    /// The path is removed when the port is closed. If something stands there already, this fails, unless it is a socket that
    /// nobody listens on, as a server leaves it that was killed: that one is replaced. On Linux a path that begins with a zero
    /// byte is an abstract name, for which there is no file. [`Reactor::listen`] with a [`UnixEndpoint`] has the options.
    ///
    /// ```
    /// use dosimeter::Reactor;
    /// use dosimeter::web::{Branch, Site};
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let path = std::env::temp_dir().join(format!("dosimeter-example-{}", std::process::id()));
    /// let port = reactor.listen_unix(&path, Site::new(Branch::new()))?;
    /// assert_eq!(port.local_addr().path(), Some(&*path));
    /// # port.stop_listening();
    /// # reactor.turn(Some(std::time::Duration::ZERO))?;
    /// # assert!(!path.exists());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CannotListen`], with the path and the reason.
    #[doc(alias = "listenUNIX")]
    pub fn listen_unix(
        &self,
        path: impl AsRef<Path>,
        factory: impl Factory,
    ) -> Result<ListeningPort<Address>, CannotListen> {
        self.listen(UnixEndpoint::new(path), factory)
    }
}

/// A UNIX socket to listen on, with options.
///
/// ```no_run
/// use dosimeter::Reactor;
/// use dosimeter::net::UnixEndpoint;
/// use dosimeter::web::{Branch, Site};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// // For the user and the group of this process, and nobody else.
/// reactor.listen(UnixEndpoint::new("/run/counter/http.sock").mode(0o660), Site::new(Branch::new()))?;
/// # Ok(())
/// # }
/// ```
#[doc(alias = "UNIXServerEndpoint")]
#[derive(Debug, Clone)]
pub struct UnixEndpoint {
    path: PathBuf,
    mode: Option<u32>,
    backlog: u32,
}

impl UnixEndpoint {
    /// The same as [`Reactor::listen_unix`] with `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        UnixEndpoint { path: path.as_ref().to_owned(), mode: None, backlog: BACKLOG }
    }

    /// The permissions of the path: who may write to it may connect. Unless told, they are what the umask of the process
    /// leaves; Twisted lets everybody in.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// How many connections the system keeps until they are accepted; 1024. Beyond that a client is refused.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    fn bind(&self) -> io::Result<Listener> {
        let addr = socket_address(&self.path)?;
        let socket = match self.bind_new(&addr) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && !is_abstract(&self.path) => {
                remove_if_dead(&self.path, &addr)?;
                self.bind_new(&addr)?
            }
            outcome => outcome?,
        };
        // Removes the path again if one of the next steps fails.
        let file = SocketFile::at(&self.path)?;
        if let (Some(mode), Some(file)) = (self.mode, &file) {
            fs::set_permissions(&file.path, Permissions::from_mode(mode))?;
        }
        socket.listen(i32::try_from(self.backlog).unwrap_or(i32::MAX))?;
        Ok(Listener { _file: file, socket: UnixListener::from_std(socket.into()) })
    }

    fn bind_new(&self, addr: &SockAddr) -> io::Result<Socket> {
        let socket = new_socket()?;
        socket.bind(addr)?;
        Ok(socket)
    }
}

impl ServerEndpoint for UnixEndpoint {
    type Addr = Address;

    fn listen(self, reactor: &Reactor, factory: impl Factory) -> Result<ListeningPort<Address>, CannotListen> {
        let local = Address::Unix(Some(self.path.clone()));
        if let Some(network) = Network::of(reactor) {
            let (again, addr) = (reactor.clone(), local.clone());
            let open = move || network.listen(&again, addr.clone());
            let listener = open().map_err(|error| CannotListen::new(place(&local), error))?;
            return listen::start(reactor, listener, local, open, factory);
        }
        let listener = self.bind().map_err(|error| CannotListen::new(place(&local), error))?;
        listen::start(reactor, listener, local, move || self.bind(), factory)
    }
}

/// A listener that was opened elsewhere: by the program, or by who started it. Its path is left alone.
///
/// It is made non-blocking. [`stop_listening`](ListeningPort::stop_listening) closes this handle of it; whoever has another one
/// still listens.
impl ServerEndpoint for std::os::unix::net::UnixListener {
    type Addr = Address;

    fn listen(self, reactor: &Reactor, factory: impl Factory) -> Result<ListeningPort<Address>, CannotListen> {
        let cannot_listen = |error| CannotListen::new("an adopted UNIX listener", error);
        let local = unix_address(&self.local_addr().map_err(cannot_listen)?);
        self.set_nonblocking(true).map_err(cannot_listen)?;
        let listener = Listener { _file: None, socket: UnixListener::from_std(self) };
        listen::adopt(reactor, listener, local, factory)
    }
}

/// Connects at once, or not at all: the system tells nobody when there is room in a queue that is full (`WouldBlock`).
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = new_socket()?;
    socket.connect(&socket_address(path)?)?;
    Ok(UnixStream::from_std(socket.into()))
}

fn new_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The system takes an empty path for the wish to choose one, and a path to end at a zero byte.
fn socket_address(path: &Path) -> io::Result<SockAddr> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the path is empty"));
    }
    if !is_abstract(path) && bytes.contains(&0) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the path contains a zero byte"));
    }
    SockAddr::unix(path)
}

fn is_abstract(path: &Path) -> bool {
    cfg!(any(target_os = "linux", target_os = "android")) && path.as_os_str().as_bytes().first() == Some(&0)
}

/// Removes a socket that nobody listens on.
fn remove_if_dead(path: &Path, addr: &SockAddr) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            ErrorKind::AddrInUse,
            "the path exists and is not a socket; remove it or choose another one",
        ));
    }
    // It does not wait, so a server whose queue is full counts as alive, and so does whatever else is not a plain refusal.
    let refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if !new_socket()?.connect(addr).is_err_and(refused) {
        return Err(io::Error::new(ErrorKind::AddrInUse, "somebody listens there already"));
    }
    // Another server may have come to the same conclusion, and have put its own socket there.
    if !is_same_file(&fs::symlink_metadata(path)?, &found) {
        return Err(io::Error::new(ErrorKind::AddrInUse, "another process begins to listen there"));
    }
    log::warn!(target: "dosimeter::net", "removing {}, a socket that nobody listens on", path.display());
    fs::remove_file(path)
}

fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// A listening socket and its path.
struct Listener {
    _file: Option<SocketFile>,
    socket: UnixListener,
}

impl ListenSocket for Listener {
    type Stream = UnixStream;

    fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (socket, peer) = self.socket.accept().map_err(|error| match error.kind() {
            // The door is closed and the queue empty.
            ErrorKind::InvalidInput => ErrorKind::WouldBlock.into(),
            _ => error,
        })?;
        Ok((socket, Peer::new(unix_address(&peer))))
    }

    /// From now on who connects is refused. To be in the queue and to be connected are one, so nobody is half way in.
    fn close_door(&self) -> io::Result<bool> {
        SockRef::from(&self.socket).shutdown(Shutdown::Read).map(|()| false)
    }
}

impl Source for Listener {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}

/// The path of a bound socket; removed when this is dropped.
struct SocketFile {
    path: PathBuf,
    metadata: Metadata,
}

impl SocketFile {
    /// `None` for an abstract name. The path is made absolute: the process may change its directory.
    fn at(path: &Path) -> io::Result<Option<Self>> {
        if is_abstract(path) {
            return Ok(None);
        }
        Ok(Some(SocketFile { path: std::path::absolute(path)?, metadata: fs::symlink_metadata(path)? }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| is_same_file(&found, &self.metadata))
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!(target: "dosimeter::net", "cannot remove {}: {error}", self.path.display());
        }
    }
}

/// As for TCP.
const BACKLOG: u32 = 1024;
