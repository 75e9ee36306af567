//! Requests in memory: that they get the answer a network would bring, and what is said when there is none.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::testing::{self, End, Reply};
use dosimeter::web::{Branch, Method, NOT_DONE_YET, Render, Request, Resource, Response, Router, Site, StatusCode};
use dosimeter::{Deferred, MetricsResource, Panicked, defer_later, prometheus};

const SECOND: Duration = Duration::from_secs(1);

/// A resource that answers for everything below with a function.
struct Leaf<F>(F);

impl<F, R> Resource for Leaf<F>
where
    F: Fn(Request) -> R + 'static,
    R: Into<Render>,
{
    fn is_leaf(&self) -> bool {
        true
    }

    fn render(&self, request: Request) -> Render {
        (self.0)(request).into()
    }
}

#[test]
fn a_site_and_a_resource_can_be_asked() {
    let root = Branch::new();
    root.put_child("a", Leaf(|_| "one"));
    let site = Site::new(root);
    assert_eq!(testing::get(&site, "/a").text(), "one");
    assert_eq!(testing::get(site, "/b").status(), 404);
    assert_eq!(testing::get(Leaf(|_| "two"), "/").text(), "two");
}

#[test]
fn a_request_arrives_as_it_was_put_together() {
    let seen = Leaf(|request: Request| {
        let header = |name| String::from_utf8_lossy(request.header(name).unwrap_or(b"-")).into_owned();
        Response::text(format!(
            "{} {} host={} length={} x={} peer={} body={}",
            request.method(),
            request.uri(),
            header("host"),
            header("content-length"),
            header("x"),
            request.peer_addr(),
            request.body().escape_ascii(),
        ))
    });
    let site = Site::new(seen);
    let plain = testing::get(&site, "/p?q=1");
    assert_eq!(plain.text(), "GET /p?q=1 host=localhost length=- x=- peer=127.0.0.1:49152 body=");
    let post = testing::post(&site, "/", "");
    assert_eq!(post.text(), "POST / host=localhost length=0 x=- peer=127.0.0.1:49152 body=");
    let full = testing::request(Method::PUT, "/f").header("Host", "h").header("X", "y").body(*b"\0b");
    let full = full.from(([203, 0, 113, 9], 5)).send(&site);
    assert_eq!(full.text(), "PUT /f host=h length=2 x=y peer=203.0.113.9:5 body=\\x00b");
}

#[test]
fn a_form_arrives_as_its_fields() {
    let fields = [("name", "Ada & Grace = ä+1%\r\n"), ("empty", ""), ("name", "again"), ("é [0]", "x")];
    let app = Leaf(move |request: Request| {
        let form = request.form().expect("a form");
        assert!(form.fields().eq(fields));
        "read"
    });
    assert_eq!(testing::request(Method::PUT, "/").form(&fields).send(app).text(), "read");
}

#[test]
fn the_reply_is_all_that_was_answered() {
    let reply = testing::get(Leaf(|_| Response::text("short and stout").with_status(StatusCode::IM_A_TEAPOT)), "/");
    assert_eq!((reply.status(), reply.text()), (StatusCode::IM_A_TEAPOT, "short and stout"));
    assert_eq!(reply.header("content-length"), Some("15"));
    assert_eq!(reply.header("x-absent"), None);
    assert_eq!(reply.headers()["content-type"], "text/plain; charset=utf-8");
}

#[test]
fn a_body_without_a_length_comes_put_together() {
    let pieces = Leaf(|mut request: Request| {
        request.write("one ");
        request.write("two");
        request.finish();
        NOT_DONE_YET
    });
    let reply = testing::get(pieces, "/");
    assert_eq!((reply.text(), reply.header("transfer-encoding")), ("one two", Some("chunked")));
}

#[test]
fn an_answer_that_is_long_and_one_without_a_body_come_whole() {
    let long = Leaf(|_| vec![b'x'; 5_000_000]);
    assert_eq!(testing::get(long, "/").body().len(), 5_000_000);
    let reply = testing::request(Method::HEAD, "/").send(Leaf(|_| "never seen"));
    assert_eq!((reply.body(), reply.header("content-length")), (&b""[..], Some("10")));
}

#[test]
fn an_answer_that_takes_its_time_is_waited_for_in_none() {
    let late = Leaf(|request: Request| defer_later(&request.reactor(), 1800 * SECOND, || "late"));
    let reply = testing::get(late, "/");
    assert_eq!((reply.text(), reply.took()), ("late", 1800 * SECOND));
    let thread = Leaf(|request: Request| request.reactor().defer_to_thread(|| Ok("from the pool")));
    assert_eq!(testing::get(thread, "/").text(), "from the pool");
    let task = Leaf(|request: Request| {
        let reactor = request.reactor();
        request.reactor().spawn(async move {
            defer_later(&reactor, SECOND, || ()).await?;
            Ok("from a task")
        })
    });
    assert_eq!(testing::get(task, "/").text(), "from a task");
}

#[test]
fn the_metrics_of_a_program_can_be_asked_for() {
    let registry = prometheus::Registry::new();
    let counter = prometheus::IntCounter::new("asked_total", "how often").expect("a good name");
    registry.register(Box::new(counter.clone())).expect("it is new");
    counter.inc();
    let reply = testing::get(Leaf(move |_| Render::from(MetricsResource::with_registry(registry.clone()))), "/");
    assert!(reply.text().contains("asked_total 1"), "{}", reply.text());
}

#[test]
fn a_test_may_wait_by_itself() {
    let late = Leaf(|request: Request| defer_later(&request.reactor(), 5 * SECOND, || "late"));
    let asked = testing::request(Method::GET, "/").begin(late);
    asked.advance(4 * SECOND);
    assert!(asked.reply().is_none() && asked.received().is_empty());
    asked.advance(SECOND);
    assert_eq!(asked.reply().expect("it is time").text(), "late");
    assert_eq!(asked.wait().took(), 5 * SECOND, "once answered there is nothing to wait for");
}

#[test]
fn a_client_that_leaves_cancels_what_it_waited_for() {
    let told: Rc<RefCell<Vec<String>>> = Rc::default();
    let ear = told.clone();
    let late = Leaf(move |request: Request| {
        let ear = ear.clone();
        defer_later(&request.reactor(), 5 * SECOND, || "late").add_errback(move |failure| {
            ear.borrow_mut().push(failure.to_string());
            Err(failure)
        })
    });
    let memory = testing::request(Method::GET, "/").begin(late).leave();
    assert_eq!(*told.borrow(), ["cancelled"]);
    memory.advance(3600 * SECOND);
    assert_eq!(told.borrow().len(), 1);
}

#[test]
fn the_figures_of_a_request_can_be_looked_at() {
    let app = Router::new();
    app.route("/<name>", |_| "here");
    let asked = testing::request(Method::GET, "/Ada").begin(app);
    asked.wait();
    let families = asked.memory().registry().gather();
    let family = families.iter().find(|family| family.name() == "http_server_requests_total").expect("it was asked");
    let routes = family.get_metric()[0].get_label().iter().find(|label| label.name() == "route").map(|it| it.value());
    assert_eq!(routes, Some("/<name>"));
}

#[test]
fn an_answer_that_never_comes_is_a_failed_test() {
    let kept = Rc::new(RefCell::new(Vec::new()));
    let keep = kept.clone();
    let silent = Leaf(move |request: Request| {
        keep.borrow_mut().push(request);
        NOT_DONE_YET
    });
    let message = message_of(|| _ = testing::get(silent, "/"));
    assert!(message.starts_with("no answer after 3600s"), "{message}");
}

#[test]
fn an_answer_that_breaks_off_is_a_failed_test() {
    let broken = Leaf(|mut request: Request| {
        request.write("half");
        Deferred::<&str>::fail("no more")
    });
    let _kept = testing::collect_logged_errors();
    let message = message_of(|| _ = testing::get(broken, "/"));
    assert!(message.starts_with("the connection ended (Reset)"), "{message}");
    assert_eq!(testing::flush_logged_errors::<&str>().len(), 1);
}

#[test]
fn a_failed_resource_answers_500_and_is_logged() {
    let _kept = testing::collect_logged_errors();
    let reply = testing::get(Leaf(|_| -> Render { panic!("no tea") }), "/");
    assert_eq!(reply.status(), 500);
    assert_eq!(testing::flush_logged_errors::<Panicked>().len(), 1);
}

#[test]
fn a_field_that_is_none_cannot_be_sent() {
    let message = message_of(|| _ = testing::request(Method::GET, "/").header("a b", "c"));
    assert_eq!(message, "no name of a field: \"a b\"");
    let message = message_of(|| _ = testing::request(Method::GET, "/").header("a", "b\r\nc: d"));
    assert_eq!(message, "no value of a field: \"b\\r\\nc: d\"");
}

#[test]
fn the_client_of_a_request_may_do_what_clients_do() {
    let asked = testing::request(Method::GET, "/").begin(Leaf(|_| "answer"));
    let first: Reply = asked.wait();
    assert_eq!(first.text(), "answer");
    asked.client().take();
    asked.client().send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(asked.wait().header("connection"), Some("close"));
    assert_eq!(asked.client().end(), Some(End::Closed));
}

fn message_of(function: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(function)).expect_err("it should have failed");
    panic.downcast_ref::<String>().expect("a text").clone()
}
