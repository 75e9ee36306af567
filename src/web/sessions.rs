//! [`Sessions`]: what the server remembers of a client from request to request, in memory.
//!
//! Rules kept here:
//! - Who has the id has the session. So it is 256 bits from the operating system, never shown, logged or put in a URL; it is
//!   new for a client who brings one that is not known; and [`Session::regenerate`] replaces it.
//! - A session ends by itself, and there is a largest number of them. Clients who never brought their id back give way first:
//!   a flood of requests without cookies does not log anybody out.
//! - No user code runs while a cell here is borrowed; the end of a session runs the program's callbacks.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ::http::HeaderValue;

use crate::clock::{Clock, DelayedCall, Timers};
use crate::failure::{Failure, Result, guard};
use crate::web::cookies::{Cookie, SameSite};
use crate::web::request::Request;

/// The sessions of a site, or of a part of it.
///
/// A cheap handle: a clone is the same sessions. They are in memory, and gone when the last handle is.
///
/// ```
/// use std::cell::Cell;
/// use dosimeter::Reactor;
/// use dosimeter::web::{Request, Router, Sessions};
///
/// #[derive(Default)]
/// struct Visits(Cell<u32>);
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let sessions = Sessions::new(&reactor);
/// let app = Router::new();
/// app.route("/", move |request: Request| -> dosimeter::Result<String> {
///     let session = sessions.of(&request)?;
///     let visits = session.get_or_default::<Visits>();
///     visits.0.set(visits.0.get() + 1);
///     Ok(format!("visit number {}", visits.0.get()))
/// });
/// # Ok(())
/// # }
/// ```
///
/// # Caches
///
/// An answer that sets the cookie hands a session over. Where a cache stands in front that several clients share, such an answer
/// has to say `Cache-Control: no-store` or `private`; one with `public` or a `max-age` would give its session to them all.
#[doc(alias = "getSession")]
#[derive(Clone)]
pub struct Sessions(Rc<Store>);

/// How sessions are kept; for [`Sessions::with_options`].
///
/// ```
/// use dosimeter::web::{SessionOptions, Sessions};
///
/// let mut options = SessionOptions::default();
/// options.secure = true; // there is a proxy with TLS in front
/// let sessions = Sessions::with_options(&dosimeter::testing::Clock::new(), options);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionOptions {
    /// How long a session lives without a request: 900 s, Twisted's figure.
    pub lifetime: Duration,
    /// How many there are at most: 10 000, a few megabytes besides what the program puts in. One more ends the one that was
    /// used longest ago, of those whose client has never brought its id back if there are any.
    pub max_sessions: usize,
    /// Whether clients reach the server over TLS only: the cookie then goes no other way, and its name begins with
    /// `__Host-`, which keeps neighbours under the same domain from setting it. It is off, because without TLS there would be
    /// no sessions at all.
    pub secure: bool,
    /// The name of the cookie, `session`.
    pub cookie_name: String,
    /// Whether the cookie goes with requests that another site caused: `Lax`, so that nobody else's form is sent in the name
    /// of a user.
    pub same_site: SameSite,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            lifetime: Duration::from_secs(900),
            max_sessions: 10_000,
            secure: false,
            cookie_name: "session".into(),
            same_site: SameSite::Lax,
        }
    }
}

/// What the server remembers of one client.
///
/// A cheap handle: a clone is the same session. It holds one value of each type that was put in.
#[derive(Clone)]
pub struct Session(Rc<Inner>);

struct Store {
    options: SessionOptions,
    timers: Timers,
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<Id, Session>,
    /// Those that are to go first, first.
    order: BTreeMap<Place, Id>,
    uses: u64,
}

type Id = [u8; 32];

type Callback = Box<dyn FnOnce(&Session)>;

/// Whether the client has brought the id back, and the number of the last use.
type Place = (bool, u64);

struct Inner {
    store: Weak<Store>,
    id: Cell<Id>,
    place: Cell<Place>,
    deadline: RefCell<Option<DelayedCall>>,
    is_over: Cell<bool>,
    values: RefCell<Vec<Rc<dyn Any>>>,
    callbacks: RefCell<Vec<Callback>>,
}

impl Sessions {
    /// Sessions that end on the time of this clock, which is mostly the reactor.
    pub fn new(clock: &impl Clock) -> Self {
        Sessions::with_options(clock, SessionOptions::default())
    }

    /// Sessions that are kept so.
    ///
    /// # Panics
    /// When the name is none that a cookie can have, or `SameSite::None` goes without `secure`.
    #[track_caller]
    pub fn with_options(clock: &impl Clock, options: SessionOptions) -> Self {
        let store = Store { options, timers: clock.timers().clone(), table: RefCell::default() };
        if let Err(error) = store.cookie(&[0; 32]).encode() {
            panic!("sessions cannot be kept: {error}");
        }
        Sessions(Rc::new(store))
    }

    /// The session of the client that sent `request`, which counts as used. One is made, and its cookie set, if the client
    /// has none: it brought no id, or that of a session that is over.
    ///
    /// During one request this is always the same session.
    ///
    /// # Errors
    /// When a cookie would have to be set and the answer has begun, or the operating system gives no random numbers.
    pub fn of(&self, request: &Request) -> Result<Session> {
        match self.find(request) {
            Some(session) => Ok(session),
            None => self.create(request),
        }
    }

    /// The session of the client that sent `request`, which counts as used, if the client has one.
    pub fn find(&self, request: &Request) -> Option<Session> {
        let is_ours = |inner: &Inner| inner.store.as_ptr() == Rc::as_ptr(&self.0) && !inner.is_over.get();
        if let Some(inner) = request.exchange().find_note(is_ours) {
            return Some(Session(inner));
        }
        let name = self.0.cookie_name();
        let ids = request.cookies().filter(|(known, _)| *known == name).filter_map(|(_, text)| parse_id(text));
        let session = ids.filter_map(|id| self.0.table.borrow().sessions.get(&id).cloned()).next()?;
        self.0.use_again(&session, true);
        request.exchange().add_note(session.0.clone());
        Some(session)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.table.borrow().sessions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn create(&self, request: &Request) -> Result<Session> {
        check_open(request)?;
        let id = new_id()?;
        let session = Session(Rc::new(Inner {
            store: Rc::downgrade(&self.0),
            id: Cell::new(id),
            place: Cell::new((false, 0)),
            deadline: RefCell::default(),
            is_over: Cell::new(false),
            values: RefCell::default(),
            callbacks: RefCell::default(),
        }));
        self.0.make_room();
        self.0.table.borrow_mut().sessions.insert(id, session.clone());
        self.0.arm(&session);
        self.0.use_again(&session, false);
        self.0.set_cookie(request, &session);
        request.exchange().add_note(session.0.clone());
        Ok(session)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({})", self.len())
    }
}

impl Store {
    fn cookie_name(&self) -> String {
        let prefix = if self.options.secure { "__Host-" } else { "" };
        format!("{prefix}{}", self.options.cookie_name)
    }

    fn cookie(&self, id: &Id) -> Cookie {
        let cookie = Cookie::new(self.cookie_name(), id_text(id)).path("/").http_only();
        let cookie = cookie.same_site(self.options.same_site);
        if self.options.secure { cookie.secure() } else { cookie }
    }

    fn set_cookie(&self, request: &Request, session: &Session) {
        let line: HeaderValue =
            self.cookie(&session.0.id.get()).encode().expect("one like it was encoded when the sessions were made");
        request.exchange().set_cookie(self.cookie_name(), line);
    }

    /// Arms the end of a session.
    fn arm(&self, session: &Session) {
        let ending = Rc::downgrade(&session.0);
        let deadline = self.timers.call_later(self.options.lifetime, move || {
            if let Some(inner) = ending.upgrade() {
                Session(inner).expire();
            }
        });
        session.0.deadline.replace(Some(deadline));
    }

    /// The session is the one that was used last.
    fn use_again(&self, session: &Session, was_brought: bool) {
        let (inner, mut table) = (&session.0, self.table.borrow_mut());
        table.order.remove(&inner.place.get());
        table.uses += 1;
        let place = (was_brought || inner.place.get().0, table.uses);
        inner.place.set(place);
        table.order.insert(place, inner.id.get());
        if let Some(deadline) = &*inner.deadline.borrow() {
            // It may just be ringing, and then the session is over.
            let _ = deadline.reset(self.options.lifetime);
        }
    }

    fn make_room(&self) {
        loop {
            let first = {
                let table = self.table.borrow();
                let is_full = table.sessions.len() >= self.options.max_sessions.max(1);
                let id = table.order.first_key_value().map(|(_, id)| *id).filter(|_| is_full);
                id.and_then(|id| table.sessions.get(&id).cloned())
            };
            let Some(session) = first else { return };
            session.expire();
        }
    }

    fn remove(&self, inner: &Inner) {
        let mut table = self.table.borrow_mut();
        table.order.remove(&inner.place.get());
        let _ended = table.sessions.remove(&inner.id.get());
    }
}

impl Session {
    /// The value of this type, if there is one.
    ///
    /// It is shared: what has to change in it stands in a `Cell` or `RefCell`.
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.0.values.borrow().iter().find_map(|value| value.clone().downcast().ok())
    }

    /// The value of this type, which is made if there is none.
    pub fn get_or_default<T: Default + 'static>(&self) -> Rc<T> {
        self.get().unwrap_or_else(|| {
            let value = Rc::new(T::default());
            self.put(value.clone());
            value
        })
    }

    /// Puts a value in, and returns the one of the same type that was there.
    pub fn insert<T: 'static>(&self, value: T) -> Option<Rc<T>> {
        self.put(Rc::new(value))
    }

    fn put<T: 'static>(&self, value: Rc<T>) -> Option<Rc<T>> {
        let before = self.remove();
        self.0.values.borrow_mut().push(value);
        before
    }

    /// Takes the value of this type out.
    pub fn remove<T: 'static>(&self) -> Option<Rc<T>> {
        let mut values = self.0.values.borrow_mut();
        let place = values.iter().position(|value| value.is::<T>())?;
        values.remove(place).downcast().ok()
    }

    /// Gives the session another id, in a new cookie; the old one is worth nothing from now on.
    ///
    /// Call it where the client becomes somebody, or somebody with more rights: when it logs in. Whoever knew the id before, or
    /// had the client use one of theirs, does not have the session of a user then.
    ///
    /// # Errors
    /// When the answer has begun, so that the cookie cannot be set any more; when the session is over; or when the operating
    /// system gives no random numbers.
    pub fn regenerate(&self, request: &Request) -> Result<()> {
        check_open(request)?;
        let store = self.0.store.upgrade().filter(|_| !self.is_expired()).ok_or("the session is over")?;
        let id = new_id()?;
        store.remove(&self.0);
        self.0.id.set(id);
        store.table.borrow_mut().sessions.insert(id, self.clone());
        store.use_again(self, false);
        store.set_cookie(request, self);
        Ok(())
    }

    /// Counts as a use, from which the lifetime is counted anew; [`Sessions::of`] does this by itself.
    pub fn touch(&self) {
        if let Some(store) = self.0.store.upgrade().filter(|_| !self.is_expired()) {
            store.use_again(self, false);
        }
    }

    /// Ends the session: its user logs out. The callbacks of [`on_expire`](Session::on_expire) are called.
    ///
    /// Who still has a handle still has the values; the client is a new one with its next request.
    pub fn expire(&self) {
        if self.0.is_over.replace(true) {
            return;
        }
        if let Some(store) = self.0.store.upgrade() {
            store.remove(&self.0);
        }
        let deadline = self.0.deadline.take();
        if let Some(deadline) = deadline {
            // It may just be ringing.
            let _ = deadline.cancel();
        }
        for callback in self.0.callbacks.take() {
            if let Err(panic) = guard(|| callback(self)) {
                panic.log("dosimeter::web", format_args!("at the end of a session"));
            }
        }
    }

    /// Whether the session is over.
    pub fn is_expired(&self) -> bool {
        self.0.is_over.get()
    }

    /// Has `callback` called when the session ends, whatever ends it; at once if it is over. It is not called when the
    /// [`Sessions`] themselves are dropped.
    #[doc(alias = "notifyOnExpire")]
    pub fn on_expire(&self, callback: impl FnOnce(&Session) + 'static) {
        match self.is_expired() {
            true => callback(self),
            false => self.0.callbacks.borrow_mut().push(Box::new(callback)),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(deadline) = self.deadline.take() {
            let _ = deadline.cancel();
        }
    }
}

/// The id is not shown.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_expired() { "Session(over)" } else { "Session(live)" })
    }
}

fn check_open(request: &Request) -> Result<()> {
    match request.exchange().is_started() {
        true => Err("the cookie of a session cannot be set any more: ask for it before the first write".into()),
        false => Ok(()),
    }
}

fn new_id() -> Result<Id> {
    let mut id = [0; 32];
    getrandom::fill(&mut id).map_err(|error| Failure::from(format!("no random numbers for a session: {error}")))?;
    Ok(id)
}

fn id_text(id: &Id) -> String {
    id.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes all");
        text
    })
}

fn parse_id(text: &str) -> Option<Id> {
    let digit = |byte: u8| (byte as char).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut id = [0; 32];
    if pairs.len() != id.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in id.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
    }
    Some(id)
}
