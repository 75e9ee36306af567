//! Sessions, in virtual time.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::testing::Clock;
use dosimeter::web::{NOT_DONE_YET, Render, Request, Router, SameSite, Session, SessionOptions, Sessions};
use dosimeter::{Clock as _, Result};
use support::{Reply, Server, expect_log, expect_no_log};

/// A clock, its sessions, and a server whose pages count the visits of each session.
struct Fixture {
    clock: Clock,
    sessions: Sessions,
    server: Server,
}

#[derive(Default)]
struct Visits(Cell<u32>);

fn visit(session: &Session) -> String {
    let visits = session.get_or_default::<Visits>();
    visits.0.set(visits.0.get() + 1);
    visits.0.get().to_string()
}

impl Fixture {
    fn new(options: SessionOptions) -> Self {
        let clock = Clock::new();
        let sessions = Sessions::with_options(&clock, options);
        let app = Router::new();
        let of = sessions.clone();
        app.route("/", move |request: Request| -> Result<String> { Ok(visit(&of.of(&request)?)) });
        let of = sessions.clone();
        app.route("/find", move |request: Request| match of.find(&request) {
            Some(session) => visit(&session),
            None => "none".into(),
        });
        let of = sessions.clone();
        app.route("/login", move |request: Request| -> Result<String> {
            let session = of.of(&request)?;
            session.regenerate(&request)?;
            Ok(visit(&session))
        });
        let of = sessions.clone();
        app.route("/logout", move |request: Request| {
            of.find(&request).iter().for_each(Session::expire);
        });
        let of = sessions.clone();
        app.route("/fails", move |request: Request| -> Result<String> {
            of.of(&request)?;
            Err("after the session was made".into())
        });
        let server = Server::new(app);
        Fixture { clock, sessions, server }
    }

    /// Asks with this cookie; returns what comes, and the cookie that was set, if any.
    #[track_caller]
    fn ask(&self, path: &str, cookie: &str) -> (String, Option<String>) {
        let mut client = self.server.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
        let reply = client.reply();
        (reply.text().to_owned(), reply.header("set-cookie").map(|line| line.split(';').next().unwrap().to_owned()))
    }

    #[track_caller]
    fn new_client(&self) -> String {
        self.ask("/", "").1.expect("a new client is given a cookie")
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

fn fixture() -> Fixture {
    Fixture::new(SessionOptions::default())
}

fn set_cookie(reply: &Reply) -> &str {
    reply.header("set-cookie").expect("a cookie")
}

// ---- who has which ----------------------------------------------------------------------------------

#[test]
fn a_client_that_brings_its_cookie_has_its_session_and_another_one_another() {
    let fixture = fixture();
    let one = fixture.new_client();
    let other = fixture.new_client();
    assert_ne!(one, other);
    assert_eq!(fixture.ask("/", &one), ("2".into(), None), "a known client is given no new cookie");
    assert_eq!(fixture.ask("/", &format!("x=y; {one}")), ("3".into(), None));
    assert_eq!(fixture.ask("/", &other), ("2".into(), None));
    assert_eq!(fixture.sessions.len(), 2);
    expect_no_log();
}

#[test]
fn the_cookie_keeps_scripts_and_other_sites_out() {
    let fixture = fixture();
    let reply = fixture.server.get("/");
    let (id, attributes) = set_cookie(&reply).split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; SameSite=Lax; HttpOnly");
    let id = id.strip_prefix("session=").unwrap();
    assert!(id.len() == 64 && id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{id}");
    let mut options = SessionOptions::default();
    (options.secure, options.same_site, options.cookie_name) = (true, SameSite::Strict, "sid".into());
    let fixture = Fixture::new(options);
    let reply = fixture.server.get("/");
    let (id, attributes) = set_cookie(&reply).split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; SameSite=Strict; Secure; HttpOnly");
    assert!(id.starts_with("__Host-sid="), "{id}");
    assert_eq!(fixture.ask("/", id).0, "2");
    assert_eq!(fixture.ask("/", &id.replace("__Host-", "")).0, "1", "a cookie that a neighbour may have set");
}

#[test]
fn an_id_that_is_not_known_is_never_taken_over() {
    let fixture = fixture();
    let known = fixture.new_client();
    let (zeros, short) = (format!("session={}", "0".repeat(64)), &known[..known.len() - 1]);
    let wrong = [
        &*zeros,
        short,
        &format!("{known}0"),
        &known.to_uppercase().replace("SESSION", "session"),
        "session=",
        "session=ä",
    ];
    for cookie in wrong {
        let (visits, given) = fixture.ask("/", cookie);
        assert_eq!(visits, "1", "{cookie}");
        assert_ne!(given.expect(cookie), *cookie);
    }
    assert_eq!(fixture.ask("/", &format!("{zeros}; {known}")).0, "2", "of several the known one counts");
    let ids: BTreeSet<String> = (0..50).map(|_| fixture.new_client()).collect();
    assert_eq!(ids.len(), 50);
    expect_no_log();
}

#[test]
fn during_one_request_a_session_is_the_same() {
    let (clock, other_clock) = (Clock::new(), Clock::new());
    let (sessions, others) = (Sessions::new(&clock), Sessions::new(&other_clock));
    let server = Server::new(support::Leaf(move |request: Request| -> Result<String> {
        let first = sessions.of(&request)?;
        first.insert(7_u32);
        let again = sessions.clone().of(&request)?;
        let found = sessions.find(&request);
        assert!(others.find(&request).is_none(), "other sessions");
        first.expire();
        let after = sessions.of(&request)?;
        Ok(format!("{:?} {:?} {:?}", again.get::<u32>(), found.map(|found| found.get::<u32>()), after.get::<u32>()))
    }));
    let reply = server.get("/");
    assert_eq!(reply.text(), "Some(7) Some(Some(7)) None");
    assert!(set_cookie(&reply).starts_with("session="), "one cookie, that of the last session");
    expect_no_log();
}

#[test]
fn find_makes_no_session() {
    let fixture = fixture();
    assert_eq!(fixture.ask("/find", ""), ("none".into(), None));
    assert!(fixture.sessions.is_empty());
    let known = fixture.new_client();
    assert_eq!(fixture.ask("/find", &known), ("2".into(), None));
}

#[test]
fn a_session_that_is_given_a_new_id_is_not_found_by_the_old_one() {
    let fixture = fixture();
    let before = fixture.new_client();
    let (visits, after) = fixture.ask("/login", &before);
    let after = after.expect("a new cookie");
    assert_eq!(visits, "2", "the values stay");
    assert_ne!(before, after);
    assert_eq!(fixture.ask("/find", &before).0, "none");
    assert_eq!(fixture.ask("/", &after), ("3".into(), None));
    let (visits, made) = fixture.ask("/login", "");
    assert_eq!(visits, "1");
    assert_eq!(fixture.ask("/", &made.expect("one cookie, of the last id")).0, "2");
    assert_eq!(fixture.sessions.len(), 2);
    fixture.pass(900);
    assert!(fixture.sessions.is_empty(), "it ends under its new id");
    expect_no_log();
}

#[test]
fn the_cookie_of_a_new_session_goes_with_an_error_too() {
    let fixture = fixture();
    let (_, cookie) = fixture.ask("/fails", "");
    assert_eq!(fixture.ask("/", &cookie.expect("it is set")).0, "1");
    expect_log(&["after the session was made"]);
}

#[test]
fn a_session_cannot_begin_once_the_answer_has() {
    let sessions = Sessions::new(&Clock::new());
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (seer, all) = (seen.clone(), sessions.clone());
    let server = Server::new(support::Leaf(move |mut request: Request| -> Render {
        request.write("x");
        seer.borrow_mut().push(sessions.of(&request).unwrap_err().to_string());
        request.finish();
        NOT_DONE_YET
    }));
    assert_eq!(server.get("/").text(), "x");
    assert!(seen.borrow()[0].contains("before the first write"), "{seen:?}");
    assert!(all.is_empty());
}

// ---- how they end -----------------------------------------------------------------------------------

#[test]
fn a_session_ends_after_its_lifetime_without_a_request() {
    let fixture = fixture();
    let known = fixture.new_client();
    fixture.pass(899);
    assert_eq!(fixture.ask("/", &known).0, "2");
    fixture.pass(899);
    assert_eq!(fixture.ask("/find", &known).0, "3", "finding it is a use");
    fixture.pass(900);
    assert!(fixture.sessions.is_empty());
    let (visits, given) = fixture.ask("/", &known);
    assert_eq!(visits, "1");
    assert_ne!(given, Some(known));
}

#[test]
fn a_user_who_logs_out_is_a_new_client() {
    let fixture = fixture();
    let known = fixture.new_client();
    fixture.ask("/logout", &known);
    assert!(fixture.sessions.is_empty());
    assert_eq!(fixture.ask("/", &known).0, "1");
    assert_eq!(fixture.clock.timers().pending().len(), 1, "the deadline of the new one alone");
}

/// Hands a new session out to the test. The server keeps none of the sessions.
fn handed_out(sessions: &Sessions) -> Session {
    let (of, out) = (Rc::new(Cell::new(Some(sessions.clone()))), Rc::new(RefCell::new(None)));
    let handed = out.clone();
    let server = Server::new(support::Leaf(move |request: Request| -> Result<&str> {
        handed.replace(Some(of.take().expect("it is asked once").of(&request)?));
        Ok("")
    }));
    assert_eq!(server.get("/").status, 200);
    out.take().unwrap()
}

#[test]
fn whoever_waits_for_the_end_of_a_session_is_called_once_whatever_ends_it() {
    let fixture = fixture();
    let told = Rc::new(Cell::new(0));
    let watched = || {
        let (session, told) = (handed_out(&fixture.sessions), told.clone());
        session.insert(5);
        session.on_expire(move |session| told.set(told.get() + *session.get::<i32>().expect("its values are there")));
        session
    };
    let (ended, timed) = (watched(), watched());
    ended.expire();
    ended.expire();
    assert_eq!(told.get(), 5);
    fixture.pass(900);
    assert_eq!(told.get(), 10);
    assert!(ended.is_expired() && timed.is_expired());
    timed.touch();
    assert_eq!(format!("{timed:?} {:?}", fixture.sessions), "Session(over) Sessions(0)");
    let late = told.clone();
    timed.on_expire(move |_| late.set(0));
    assert_eq!(told.get(), 0, "at once where it is over");
    assert_eq!(timed.get::<i32>().as_deref(), Some(&5));
    expect_no_log();
}

#[test]
fn the_end_of_a_session_may_do_anything_to_the_sessions() {
    let fixture = fixture();
    let (one, other) = (handed_out(&fixture.sessions), handed_out(&fixture.sessions));
    let (sessions, also) = (fixture.sessions.clone(), other.clone());
    one.on_expire(|_| panic!("in a callback"));
    one.on_expire(move |one| {
        assert_eq!(sessions.len(), 1);
        one.expire();
        one.touch();
        one.insert(1);
        also.expire();
        one.on_expire(|one| one.touch());
    });
    fixture.pass(900);
    assert!(fixture.sessions.is_empty() && other.is_expired());
    expect_log(&["at the end of a session", "in a callback"]);
}

#[test]
fn touching_puts_the_end_off() {
    let fixture = fixture();
    let session = handed_out(&fixture.sessions);
    fixture.pass(800);
    session.touch();
    fixture.pass(899);
    assert!(!session.is_expired());
    fixture.pass(1);
    assert!(session.is_expired());
}

#[test]
fn of_too_many_those_go_first_whose_clients_never_came_back() {
    let mut options = SessionOptions::default();
    options.max_sessions = 3;
    let fixture = Fixture::new(options);
    let user = fixture.new_client();
    assert_eq!(fixture.ask("/", &user).0, "2");
    let ended = Rc::new(Cell::new(0));
    let count = ended.clone();
    let stranger = handed_out(&fixture.sessions);
    stranger.on_expire(move |_| count.set(1));
    for _ in 0..20 {
        fixture.new_client();
        assert!(fixture.sessions.len() <= 3);
    }
    assert_eq!(ended.get(), 1, "its end is an end like any other");
    assert_eq!(fixture.ask("/find", &user).0, "3", "a flood of new clients logs nobody out");
    let (second, third) = (fixture.new_client(), fixture.new_client());
    assert_eq!((fixture.ask("/find", &second).0, fixture.ask("/find", &third).0), ("2".into(), "2".into()));
    assert_eq!(fixture.ask("/find", &second).0, "3");
    fixture.new_client();
    assert_eq!(fixture.ask("/find", &user).0, "none", "of those who came back the one that did longest ago");
    assert_eq!(fixture.ask("/find", &second).0, "4");
    expect_no_log();
}

#[test]
fn sessions_that_are_dropped_leave_nothing_behind() {
    let clock = Clock::new();
    let sessions = Sessions::new(&clock);
    let session = handed_out(&sessions);
    let value = Rc::new(());
    session.insert(value.clone());
    session.on_expire(|_| panic!("it has not ended"));
    assert_eq!(clock.timers().pending().len(), 1);
    drop(session);
    drop(sessions);
    assert_eq!(clock.timers().pending().len(), 0);
    assert_eq!(Rc::strong_count(&value), 1);
    expect_no_log();
}

// ---- what is in them --------------------------------------------------------------------------------

#[test]
fn a_session_holds_one_value_of_each_type() {
    let session = handed_out(&Sessions::new(&Clock::new()));
    assert_eq!(session.get::<u8>(), None);
    assert_eq!(session.insert(1_u8), None);
    assert_eq!(session.insert("text"), None);
    assert_eq!(session.insert(2_u8).as_deref(), Some(&1));
    assert_eq!((session.get::<u8>().as_deref(), session.get::<&str>().as_deref()), (Some(&2), Some(&"text")));
    assert_eq!(*session.get_or_default::<u8>(), 2);
    assert_eq!(*session.get_or_default::<u16>(), 0);
    assert_eq!(session.remove::<u8>().as_deref(), Some(&2));
    assert_eq!((session.get::<u8>(), session.remove::<u8>()), (None, None));
}

#[test]
fn the_drop_of_a_value_may_use_the_session() {
    struct Meddler(Session);
    impl Drop for Meddler {
        fn drop(&mut self) {
            self.0.insert(1_u8);
            self.0.get::<u8>();
            self.0.expire();
        }
    }
    let fixture = fixture();
    let session = handed_out(&fixture.sessions);
    session.insert(Meddler(session.clone()));
    session.insert(Meddler(session.clone()));
    session.remove::<Meddler>();
    assert_eq!(session.get::<u8>().as_deref(), Some(&1));
    assert!(session.is_expired() && fixture.sessions.is_empty());
}

#[test]
fn options_that_make_no_cookie_end_the_program_at_its_start() {
    let mut no_name = SessionOptions::default();
    no_name.cookie_name = "a b".into();
    let mut insecure = SessionOptions::default();
    insecure.same_site = SameSite::None;
    for options in [no_name, insecure] {
        let made = catch_unwind(AssertUnwindSafe(|| Sessions::with_options(&Clock::new(), options)));
        assert!(made.is_err());
    }
}
