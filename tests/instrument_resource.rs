//! Hooks on resources and routes: a request is measured to the end of its answer, and accounted for once, whatever happens.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::web::{
    Branch, Disconnected, HttpError, Instrumented, NOT_DONE_YET, Render, Request, Resource, Response, Router,
};
use dosimeter::{
    Abandoned, Async, Completer, Deferred, Failure, Gauge, Hook, Hooks, Incrementer, Observer, Panicked, Result, time,
};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, StatusCode};
use support::{End, Leaf, Reply, Server, take_log};

// ---- the table --------------------------------------------------------------------------------------

/// Where hooks are put on everything that an application answers.
const PLACES: &[(&str, Put)] = &[
    ("a resource", |app, probe| mounted(Instrumented::with_hooks(app, probe.hooks()))),
    ("a resource, hook by hook", |app, probe| {
        mounted(Instrumented::new(app).time(probe).count_exceptions(probe).track_inprogress(probe))
    }),
    ("a branch above", |app, probe| {
        let (branch, inner) = (Branch::new(), Branch::new());
        inner.put_child("b", app);
        branch.put_child("a", inner);
        mounted(Instrumented::with_hooks(branch, probe.hooks()))
    }),
    ("a route", |app, probe| {
        let outer = Router::new();
        outer.mount("/", app).instrument(probe.hooks());
        outer
    }),
    ("a route that answers with a resource", |app, probe| {
        let outer = Router::new();
        outer.route("/", move |_: Request| app.clone()).branch().instrument(probe.hooks());
        outer
    }),
    ("an async route that answers with a resource", |app, probe| {
        let outer = Router::new();
        let route = outer.route_async("/", async move |_: Request| app.clone());
        route.branch().instrument(probe.hooks());
        outer
    }),
    ("a route whose errors are answered further out", |app, probe| {
        let outer = Router::new();
        outer.handle_all_errors(|_, _| (StatusCode::IM_A_TEAPOT, "handled"));
        outer.mount("/", app).instrument(probe.hooks());
        outer
    }),
];

/// What can become of a request, and what hooks make of that.
const FATES: &[(&str, Outcome, Fate)] = &[
    ("/text", Well, Fate::Answered),
    ("/response", Well, Fate::Answered),
    ("/not_found", Well, Fate::Answered),
    ("/error_page", Well, Fate::Answered),
    ("/elsewhere", Well, Fate::Answered),
    ("/fired", Well, Fate::Answered),
    ("/written", Well, Fate::Answered),
    ("/streamed", Well, Fate::Answered),
    ("/async", Well, Fate::Answered),
    ("/handled", Well, Fate::Answered),
    ("/failed", Badly, Fate::Answered),
    ("/http_error", Badly, Fate::Answered),
    ("/panicked", Badly, Fate::Answered),
    ("/elsewhere_panicked", Badly, Fate::Answered),
    ("/failed_chain", Badly, Fate::Answered),
    ("/chain_of_a_failure", Badly, Fate::Answered),
    ("/chain_of_a_panic", Badly, Fate::Answered),
    ("/failed_async", Badly, Fate::Answered),
    ("/dropped", Badly, Fate::Answered),
    ("/failed_stream", Badly, Fate::Answered),
    ("/round", Badly, Fate::Answered),
    ("/short", Badly, Fate::Reset),
    ("/broken_stream", Badly, Fate::Reset),
    ("/dropped_half_way", Badly, Fate::Reset),
    ("/chain", Well, Fate::Later(|kept| kept.chain().callback("at last".into()))),
    ("/chain", Badly, Fate::Later(|kept| kept.chain().errback(Numbered(7)))),
    ("/chain", Badly, Fate::Later(|kept| drop(kept.chain()))),
    ("/chain", Badly, Fate::Later(|kept| kept.chain().callback(Err::<&str, _>(Numbered(7)).into()))),
    ("/chain", Well, Fate::Later(|kept| kept.chain().callback(Deferred::succeed("at last").into()))),
    ("/chain", Badly, Fate::Later(|kept| kept.chain().callback(Deferred::<&str>::fail("at last").into()))),
    ("/chain", Well, Fate::Later(|kept| kept.chain().callback(Leaf(|_| "elsewhere").into()))),
    ("/keep", Well, Fate::Later(|kept| kept.request().finish())),
    ("/keep", Badly, Fate::Later(|kept| drop(kept.request()))),
    (
        "/keep",
        Well,
        Fate::Later(|kept| {
            let mut request = kept.request();
            request.write("at last");
            request.finish();
        }),
    ),
    (
        "/keep",
        Well,
        Fate::Later(|kept| {
            let _ = kept.request().send_stream(|| Ok(None::<&str>));
        }),
    ),
    ("/chain", Badly, Fate::Left),
    ("/keep", Badly, Fate::Left),
    ("/flood", Badly, Fate::Left),
    ("/async_waits", Badly, Fate::Left),
    ("/chain", Badly, Fate::ServerStops),
    ("/keep", Badly, Fate::ServerStops),
    ("/flood", Badly, Fate::ServerStops),
    ("/async_waits", Badly, Fate::ServerStops),
];

/// What an application does at each path.
fn application(kept: &Rc<Kept>) -> Router {
    let app = Router::new();
    app.route("/text", |_: Request| "text");
    app.route("/response", |_: Request| Response::text("text"));
    app.route("/error_page", |_: Request| Response::internal_error());
    app.route("/elsewhere", |_: Request| Leaf(|_| "elsewhere"));
    app.route("/fired", |_: Request| Deferred::succeed("fired"));
    app.route("/written", |mut request: Request| {
        request.write("one");
        request.finish();
        NOT_DONE_YET
    });
    app.route("/streamed", |request: Request| {
        let mut pieces = ["one", "two"].into_iter();
        request.send_stream(move || Ok(pieces.next()))
    });
    app.route_async("/async", async |_: Request| "text");
    let inner = Router::new();
    inner.route("/", |_: Request| -> Result<&str> { Err(Numbered(7).into()) });
    inner.handle_errors(|_, error: Numbered| error.to_string());
    app.route("/handled", inner);
    failing(&app);
    breaking(&app);
    waiting(&app, kept);
    app
}

fn failing(app: &Router) {
    app.route("/failed", |_: Request| -> Result<&str> { Err(Numbered(7).into()) });
    app.route("/http_error", |_: Request| -> Result<&str> {
        Err(HttpError::new(StatusCode::BAD_REQUEST, "no").into())
    });
    app.route("/panicked", |_: Request| -> Render { panic!("on purpose") });
    app.route("/elsewhere_panicked", |_: Request| Leaf(|_| -> Render { panic!("on purpose") }));
    app.route("/failed_chain", |_: Request| Deferred::<&str>::fail(Numbered(7)));
    app.route("/chain_of_a_failure", |_: Request| Deferred::succeed(Err::<&str, _>(Numbered(7))));
    app.route("/chain_of_a_panic", |_: Request| Deferred::succeed(7).map(|_| -> &str { panic!("on purpose") }));
    app.route_async("/failed_async", async |_: Request| Err::<&str, _>(Numbered(7)));
    app.route("/dropped", |_: Request| NOT_DONE_YET);
    app.route("/failed_stream", |request: Request| {
        request.send_stream(|| Err::<Option<&str>, Failure>(Numbered(7).into()))
    });
    app.route("/round", |_: Request| Round);
}

fn breaking(app: &Router) {
    app.route("/short", |mut request: Request| {
        request.add_header(CONTENT_LENGTH, HeaderValue::from_static("10"));
        request.write("short");
        request.finish();
        NOT_DONE_YET
    });
    app.route("/broken_stream", |request: Request| {
        let mut pieces = vec![Err(Numbered(7).into()), Ok(Some("one"))];
        request.send_stream(move || pieces.pop().unwrap())
    });
    app.route("/dropped_half_way", |mut request: Request| {
        request.write("one");
        NOT_DONE_YET
    });
}

fn waiting(app: &Router, kept: &Rc<Kept>) {
    let (keeping_chain, keeping_request) = (kept.clone(), kept.clone());
    app.route("/chain", move |_: Request| {
        let (completer, chain) = Deferred::<Render>::pair();
        keeping_chain.chains.borrow_mut().push(completer);
        chain
    });
    app.route("/keep", move |request: Request| {
        keeping_request.requests.borrow_mut().push(request);
        NOT_DONE_YET
    });
    app.route("/flood", |request: Request| request.send_stream(|| Ok(Some([b'x'; 10_000]))));
    app.route_async("/async_waits", async |_: Request| std::future::pending::<&str>().await);
}

#[test]
fn whatever_becomes_of_a_request_is_accounted_for_once() {
    let mut cases = 0;
    for (place, put) in PLACES {
        for (path, outcome, fate) in FATES {
            let (probe, kept) = (Probe::default(), Rc::<Kept>::default());
            let server = Server::new(put(application(&kept), &probe));
            let case = format!("{place}, {path}, {fate:?}");
            let below = if *place == "a branch above" { "/a/b" } else { "" };
            fate.come(&case, &format!("{below}{path}"), &server, &probe, &kept);
            assert_eq!(probe.account(), outcome.account(), "{case}");
            drop((kept, server));
            assert_eq!(probe.account(), outcome.account(), "{case}, when all is gone");
            cases += 1;
        }
    }
    assert!(cases > 250, "{cases}: where is the rest?");
    take_log();
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    /// With a whole answer.
    Answered,
    /// The connection breaks.
    Reset,
    /// Pending, until this is done.
    Later(fn(&Kept)),
    /// Pending, when the client leaves.
    Left,
    /// Pending, when the server stops.
    ServerStops,
}

impl Fate {
    #[track_caller]
    fn come(self, case: &str, path: &str, server: &Server, probe: &Probe, kept: &Kept) {
        let mut client = server.connect();
        client.send_request("GET", path);
        match self {
            Fate::Answered => {
                let reply = client.reply();
                assert_eq!(reply.status == 404, path.ends_with("/not_found"), "{case}");
            }
            Fate::Reset => assert_eq!(client.end(), End::Reset, "{case}"),
            Fate::Later(end) => {
                server.until_true("it is being handled", || !kept.is_empty());
                assert_eq!(probe.account(), UNDER_WAY, "{case}: pending");
                end(kept);
                client.reply();
            }
            Fate::Left => {
                under_way(server, probe);
                client.reset();
                server.until_true("the server has noticed", || server.in_progress() == 0.0);
            }
            Fate::ServerStops => {
                under_way(server, probe);
                server.reactor.call_soon({
                    let reactor = server.reactor.clone();
                    move || reactor.stop().unwrap()
                });
                server.reactor.run().unwrap();
            }
        }
    }
}

#[track_caller]
fn under_way(server: &Server, probe: &Probe) {
    server.until_true("it is being handled", || server.in_progress() == 1.0);
    server.until_quiet();
    assert_eq!(probe.account(), UNDER_WAY);
}

// ---- what is told -----------------------------------------------------------------------------------

#[test]
fn errors_come_with_their_types() {
    let (kept, probes) = (Rc::<Kept>::default(), [(); 4].map(|()| Probe::default()));
    let [numbered, panicked, abandoned, disconnected] = &probes;
    let app =
        Instrumented::new(application(&kept))
            .count_exceptions(&numbered.only::<Numbered>())
            .count_exceptions(&panicked.only_if(|error| {
                error.downcast_ref::<Panicked>().is_some_and(|panicked| panicked.message == "on purpose")
            }))
            .count_exceptions(&abandoned.only::<Abandoned>())
            .count_exceptions(&disconnected.only::<Disconnected>());
    let server = Server::new(app);
    let counts = || probes.each_ref().map(|probe| probe.account().counted);
    for path in ["/failed", "/failed_chain", "/failed_async", "/failed_stream", "/text"] {
        server.get(path);
    }
    assert_eq!(counts(), [4, 0, 0, 0]);
    server.get("/panicked");
    server.get("/chain_of_a_panic");
    assert_eq!(counts(), [4, 2, 0, 0]);
    server.get("/dropped");
    assert_eq!(counts(), [4, 2, 1, 0]);
    let mut client = server.connect();
    client.send_request("GET", "/keep");
    server.until_true("it is being handled", || !kept.is_empty());
    client.reset();
    server.until_true("it is over", || counts() == [4, 2, 1, 1]);
    take_log();
}

#[test]
fn the_time_is_that_of_the_whole_answer() {
    let (kept, probe) = (Rc::<Kept>::default(), Probe::default());
    let server = Server::new(Instrumented::new(application(&kept)).time(&probe));
    let mut client = server.connect();
    client.send_request("GET", "/keep");
    server.until_true("it is being handled", || !kept.is_empty());
    client.idle_for(Duration::from_millis(20));
    let mut request = kept.request();
    request.write("half");
    client.idle_for(Duration::from_millis(20));
    assert_eq!(probe.account().observed, 0);
    request.finish();
    assert!(probe.0.get().seconds >= 0.040, "{} s", probe.0.get().seconds);
}

#[test]
fn the_end_comes_before_the_client_could_see_it() {
    let (kept, probe) = (Rc::<Kept>::default(), Probe::default());
    let server = Server::new(Instrumented::with_hooks(application(&kept), probe.hooks()));
    let mut client = server.connect();
    client.send_request("GET", "/keep");
    server.until_true("it is being handled", || !kept.is_empty());
    kept.request().finish();
    assert_eq!(probe.account(), ENDED_WELL);
    client.reply();
}

#[test]
fn requests_of_one_connection_are_accounted_for_each_on_its_own() {
    let (kept, probe) = (Rc::<Kept>::default(), Probe::default());
    let server = Server::new(Instrumented::with_hooks(application(&kept), probe.hooks()));
    let mut client = server.connect();
    client.send(["/text", "/failed", "/written", "/fired"].map(|path| support::request("GET", path)).concat());
    let replies: Vec<Reply> = (0..4).map(|_| client.reply()).collect();
    assert_eq!(replies.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200, 500, 200, 200]);
    assert_eq!(probe.account(), Account { observed: 4, counted: 1, raised: 4, level: 0 });
    take_log();
}

#[test]
fn hooks_within_hooks_measure_each_what_is_theirs() {
    let (outer, inner, kept) = (Probe::default(), Probe::default(), Rc::<Kept>::default());
    let app = Router::new();
    app.handle_all_errors(|_, _| "handled");
    app.mount("/in", Instrumented::with_hooks(application(&kept), inner.hooks()));
    app.route("/out", |_: Request| "text");
    let server = Server::new(Instrumented::with_hooks(app, outer.hooks()));
    assert_eq!(server.get("/in/failed").text(), "handled");
    assert_eq!((outer.account(), inner.account()), (ENDED_WELL, ENDED_BADLY));
    server.get("/out");
    assert_eq!((outer.account().observed, inner.account().observed), (2, 1));
    take_log();
}

#[test]
fn a_hook_around_an_async_function_handles_a_route_and_ends_with_the_function() {
    let (probe, app) = (Probe::default(), Router::new());
    app.route("/number/<int:number>", time(&probe, Async(number)));
    app.route("/waits", probe.hooks().wrap(Async(async |_: Request| std::future::pending::<&str>().await)));
    app.route("/fails", probe.hooks().wrap(Async(async |_: Request| Err::<&str, _>(Failure::new(Numbered(7))))));
    let server = Server::new(app);
    assert_eq!(server.get("/number/7").brief(), (200, "number 7"));
    assert_eq!(probe.0.take().account, Account { observed: 1, ..Account::default() });
    assert_eq!(server.get("/fails").status, 500);
    assert_eq!(probe.0.take().account, ENDED_BADLY);
    Fate::Left.come("left", "/waits", &server, &probe, &Kept::default());
    assert_eq!(probe.account(), ENDED_BADLY, "cancelled");
    take_log();
}

async fn number(request: Request) -> String {
    format!("number {}", request.param::<u32>("number").unwrap())
}

#[test]
fn routes_keep_their_names_in_the_metrics_of_the_server() {
    let app = Router::new();
    app.route("/user/<int:id>", |_: Request| "x").instrument(Hooks::new());
    let root = Branch::new();
    root.put_child("app", Instrumented::new(app));
    let server = Server::new(root);
    server.get("/app/user/7");
    assert_eq!(server.routes(), ["/app/user/<int:id>"]);
}

#[test]
fn a_resource_with_hooks_answers_as_it_would_without() {
    let branch = Branch::new();
    branch.put_child("post", PostOnly);
    let server = Server::new(Instrumented::new(branch));
    let plain = {
        let branch = Branch::new();
        branch.put_child("post", PostOnly);
        Server::new(branch)
    };
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/post"),
        ("POST", "/post"),
        ("HEAD", "/post"),
        ("OPTIONS", "/post"),
        ("GET", "/post/x"),
        ("GET", "/%ff"),
    ] {
        let (with, without) = (server.ask(method, target), plain.ask(method, target));
        assert_eq!((with.status, with.text()), (without.status, without.text()), "{method} {target}");
        assert_eq!(with.header("allow"), without.header("allow"), "{method} {target}");
    }
}

#[test]
fn metrics_that_panic_cost_their_own_figures_only() {
    let server = Server::new(
        Instrumented::new(Leaf(|_| Render::from("text")))
            .time(&Broken)
            .count_exceptions(&Broken)
            .track_inprogress(&Broken),
    );
    assert_eq!(server.get("/").text(), "text");
    let failing = Leaf(|_| Render::from(Err::<&str, _>(Numbered(7))));
    let server = Server::new(Instrumented::new(failing).count_exceptions(&Broken));
    assert_eq!(server.get("/").status, 500);
    take_log();
}

#[test]
#[should_panic(expected = "has hooks already")]
fn a_route_has_hooks_once() {
    Router::new().route("/", |_: Request| "x").instrument(Hooks::new()).instrument(Hooks::new());
}

// ---- below ------------------------------------------------------------------------------------------

/// What handlers leave for the test.
#[derive(Default)]
struct Kept {
    chains: RefCell<Vec<Completer<Render>>>,
    requests: RefCell<Vec<Request>>,
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.chains.borrow().is_empty() && self.requests.borrow().is_empty()
    }

    #[track_caller]
    fn chain(&self) -> Completer<Render> {
        self.chains.borrow_mut().pop().expect("a chain is pending")
    }

    #[track_caller]
    fn request(&self) -> Request {
        self.requests.borrow_mut().pop().expect("a request is kept")
    }
}

/// Hands every request on to itself.
struct Round;

impl Resource for Round {
    fn render(&self, _: Request) -> Render {
        Round.into()
    }
}

struct PostOnly;

impl Resource for PostOnly {
    fn render_post(&self, _: Request) -> Render {
        "posted".into()
    }

    fn allowed_methods(&self) -> Vec<Method> {
        vec![Method::POST]
    }
}

/// A router that has nothing but this.
fn mounted(resource: impl Resource) -> Router {
    let router = Router::new();
    router.mount("/", resource);
    router
}

type Put = fn(Router, &Probe) -> Router;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Well,
    Badly,
}
use Outcome::{Badly, Well};

impl Outcome {
    fn account(self) -> Account {
        if self == Well { ENDED_WELL } else { ENDED_BADLY }
    }
}

/// A metric that is all three kinds at once and notes every call.
#[derive(Clone, Default)]
struct Probe(Rc<Cell<Notes>>);

#[derive(Clone, Copy, Default)]
struct Notes {
    account: Account,
    seconds: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Account {
    observed: u32,
    counted: u32,
    raised: u32,
    level: i32,
}

const UNDER_WAY: Account = Account { observed: 0, counted: 0, raised: 1, level: 1 };
const ENDED_WELL: Account = Account { observed: 1, counted: 0, raised: 1, level: 0 };
const ENDED_BADLY: Account = Account { observed: 1, counted: 1, raised: 1, level: 0 };

impl Probe {
    fn hooks(&self) -> Hooks<impl Hook> {
        Hooks::new().time(self).count_exceptions(self).track_inprogress(self)
    }

    fn account(&self) -> Account {
        self.0.get().account
    }

    fn note(&self, change: impl FnOnce(&mut Notes)) {
        let mut notes = self.0.get();
        change(&mut notes);
        self.0.set(notes);
    }
}

impl Observer for Probe {
    fn observe(&self, seconds: f64) {
        self.note(|notes| (notes.account.observed, notes.seconds) = (notes.account.observed + 1, seconds));
    }
}

impl Incrementer for Probe {
    fn inc(&self) {
        self.note(|notes| notes.account.counted += 1);
    }
}

impl Gauge for Probe {
    fn inc(&self) {
        self.note(|Notes { account, .. }| (account.raised, account.level) = (account.raised + 1, account.level + 1));
    }

    fn dec(&self) {
        self.note(|notes| notes.account.level -= 1);
    }
}

/// A metric all of whose methods panic.
#[derive(Clone)]
struct Broken;

impl Observer for Broken {
    fn observe(&self, _: f64) {
        panic!("a broken histogram");
    }
}

impl Incrementer for Broken {
    fn inc(&self) {
        panic!("a broken counter");
    }
}

impl Gauge for Broken {
    fn inc(&self) {
        panic!("a broken gauge");
    }

    fn dec(&self) {
        panic!("a broken gauge");
    }
}

/// An error that knows which one it is.
#[derive(Debug)]
struct Numbered(u32);

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}", self.0)
    }
}

impl Error for Numbered {}
