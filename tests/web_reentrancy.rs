//! Code of the user may do anything from wherever it is called: no cell of the server is borrowed meanwhile.
//!
//! One function does everything at once that reaches into the server, and every test calls it from one more place.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{Address, Protocol, Transport};
use dosimeter::web::{Branch, NOT_DONE_YET, Render, Request, Resource, Router};
use dosimeter::{Clock, Deferred, Failure, Observer, Result, defer_later, time};
use http::Method;
use support::{Leaf, Server, request, take_log};

/// What user code can get hold of.
#[derive(Clone, Default)]
struct World(Rc<Things>);

#[derive(Default)]
struct Things {
    root: Branch,
    app: Router,
    server: RefCell<Option<Rc<Server>>>,
    waiting: RefCell<Vec<Request>>,
    meddled: Cell<u32>,
}

struct Silent;

impl Protocol for Silent {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl World {
    /// A tree with `resource` at `/place`, a router at `/app/`, and `/wait`, which waits to be answered by meddling.
    fn new(resource: impl Fn(&World) -> Rc<dyn Resource>) -> Self {
        let world = World::default();
        let Things { root, app, .. } = &*world.0;
        root.put_child("place", resource(&world));
        root.put_child("app", app.clone());
        root.put_child("plain", Leaf(|_| "plain"));
        let keeping = world.clone();
        root.put_child(
            "wait",
            Leaf(move |request| {
                keeping.0.waiting.borrow_mut().push(request);
                NOT_DONE_YET
            }),
        );
        *world.0.server.borrow_mut() = Some(Rc::new(Server::new(root.clone())));
        world
    }

    fn server(&self) -> Rc<Server> {
        self.0.server.borrow().clone().unwrap()
    }

    /// Does everything to the server that user code can do.
    fn meddle(&self) {
        let count = self.0.meddled.get() + 1;
        self.0.meddled.set(count);
        let (server, reactor) = (self.server(), self.server().reactor.clone());
        let _ = reactor.turn(Some(Duration::ZERO));
        let _ = reactor.stop();
        reactor.call_soon(|| ());
        reactor.call_later(Duration::from_secs(9), || ()).cancel().unwrap();
        reactor.remote().call_from_thread(|_| ()).unwrap();
        reactor.listen_tcp("127.0.0.1:0", |_: &Address| Silent).unwrap().stop_listening();
        drop(defer_later(&reactor, Duration::from_secs(9), || ()));
        reactor.defer_to_thread(|| Ok(())).cancel();
        server.registry.gather();
        self.0.root.put_child("meddled", Leaf(|_| "put"));
        self.0.root.put_child("", Leaf(|_| "put"));
        self.0.app.route(&format!("/meddled/{count}"), |_| "routed").methods([Method::GET]);
        let (completer, deferred) = Deferred::<()>::pair();
        drop(completer);
        deferred.add_errback(|_| ());
        let waiting = self.0.waiting.borrow_mut().pop();
        if let Some(mut waiting) = waiting {
            waiting.write("answered by meddling");
            let told = waiting.notify_finish();
            waiting.finish();
            assert!(told.is_fired());
        }
        let waiting = self.0.waiting.borrow_mut().pop();
        drop(waiting);
    }

    /// Asks for `/place` while other requests wait, and demands that everything is answered in the end.
    #[track_caller]
    fn check(&self, target: &str, status: u16) {
        let server = self.server();
        let mut others: Vec<_> = (0..4).map(|_| server.connect()).collect();
        for other in &mut others {
            other.send(request("GET", "/wait") + &request("GET", "/plain"));
        }
        server.until_true("they wait", || self.0.waiting.borrow().len() == 4);
        let mut client = server.connect();
        // Twice: what is used again must have got over the first time.
        for _ in 0..2 {
            client.send(request("GET", target) + &request("GET", "/plain"));
            assert_eq!(client.reply().status, status);
            assert_eq!(client.reply().text(), "plain");
        }
        self.check_rest(&mut others);
    }

    /// Demands that everybody who waited is answered, and that nothing was found borrowed.
    #[track_caller]
    fn check_rest(&self, others: &mut [support::Client<'_>]) {
        let server = self.server();
        assert!(self.0.meddled.get() > 0, "the place was never reached");
        while !self.0.waiting.borrow().is_empty() {
            self.meddle();
        }
        for other in others {
            assert!(matches!(other.reply().status, 200 | 500));
            assert_eq!(other.reply().text(), "plain");
        }
        assert_eq!(server.get("/meddled").text(), "put");
        assert_eq!(server.get("/app/meddled/1").text(), "routed");
        assert_eq!(server.in_progress(), 0.0);
        let log = take_log();
        let bad: Vec<_> = log.iter().filter(|line| line.contains("borrow") || line.contains("panicked")).collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

/// A resource that meddles wherever it is asked something.
struct Meddler(World);

impl Resource for Meddler {
    fn is_leaf(&self) -> bool {
        self.0.meddle();
        false
    }

    fn child(&self, _: &str, _: &Request) -> Option<Rc<dyn Resource>> {
        self.0.meddle();
        Some(Rc::new(Meddler(self.0.clone())))
    }

    fn render_get(&self, _: Request) -> Render {
        self.0.meddle();
        "meddled".into()
    }

    fn allowed_methods(&self) -> Vec<Method> {
        self.0.meddle();
        vec![Method::GET]
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.0.meddle();
    }
}

/// Meddles when it is dropped.
struct Tail(World);

impl Drop for Tail {
    fn drop(&mut self) {
        self.0.meddle();
    }
}

fn leaf<R: Into<Render> + 'static>(world: &World, handle: impl Fn(&World, Request) -> R + 'static) -> Rc<dyn Resource> {
    let world = world.clone();
    Rc::new(Leaf(move |request| handle(&world, request)))
}

#[test]
fn from_every_method_of_a_resource_and_its_drop() {
    World::new(|world| Rc::new(Meddler(world.clone()))).check("/place/below/it", 200);
}

#[test]
fn from_a_handler_that_has_answered_already() {
    World::new(|world| {
        leaf(world, |world, mut request| {
            request.write("first");
            request.finish();
            world.meddle();
            NOT_DONE_YET
        })
    })
    .check("/place", 200);
}

#[test]
fn from_a_handler_in_the_middle_of_its_answer() {
    World::new(|world| {
        leaf(world, |world, mut request| {
            request.write("first");
            world.meddle();
            request.write("second");
            request.finish();
            NOT_DONE_YET
        })
    })
    .check("/place", 200);
}

#[test]
fn from_the_conversion_of_what_is_written() {
    struct Lazy(World);
    impl AsRef<[u8]> for Lazy {
        fn as_ref(&self) -> &[u8] {
            self.0.meddle();
            b"bytes"
        }
    }
    World::new(|world| {
        leaf(world, |world, mut request| {
            request.write(Lazy(world.clone()));
            request.finish();
            NOT_DONE_YET
        })
    })
    .check("/place", 200);
}

#[test]
fn from_the_conversion_of_what_is_returned() {
    struct Lazy(World);
    impl From<Lazy> for Render {
        fn from(lazy: Lazy) -> Render {
            lazy.0.meddle();
            "converted".into()
        }
    }
    World::new(|world| leaf(world, |world, _| Lazy(world.clone()))).check("/place", 200);
    World::new(|world| leaf(world, |world, _| Deferred::succeed(Lazy(world.clone())))).check("/place", 200);
    World::new(|world| {
        leaf(world, |world, request| {
            let lazy = Lazy(world.clone());
            defer_later(&request.reactor(), Duration::ZERO, move || lazy)
        })
    })
    .check("/place", 200);
}

#[test]
fn from_a_callback_of_the_chain_that_is_the_answer() {
    World::new(|world| {
        leaf(world, |world, request| {
            let world = world.clone();
            defer_later(&request.reactor(), Duration::ZERO, || ()).map(move |()| {
                world.meddle();
                "answered"
            })
        })
    })
    .check("/place", 200);
}

#[test]
fn from_the_drop_of_a_chain_that_failed() {
    World::new(|world| {
        leaf(world, |world, request| {
            let tail = Tail(world.clone());
            let chain = defer_later(&request.reactor(), Duration::ZERO, || ());
            chain.add_callback(move |()| -> Result<&str> {
                let _dropped_with_this = tail;
                Err(Failure::from("on purpose"))
            })
        })
    })
    .check("/place", 500);
}

#[test]
fn from_whoever_waits_for_the_end_of_an_answer() {
    World::new(|world| {
        leaf(world, |world, request| {
            let (world, tail) = (world.clone(), Tail(world.clone()));
            request.notify_finish().map(move |()| {
                let _dropped_with_this = tail;
                world.meddle();
            });
            "answered"
        })
    })
    .check("/place", 200);
}

#[test]
fn from_the_drop_of_a_request() {
    World::new(|world| {
        leaf(world, |world, request| {
            let tail = Tail(world.clone());
            request.reactor().call_soon(move || {
                let _dropped_in_this_order = (tail, request);
            });
            NOT_DONE_YET
        })
    })
    .check("/place", 500);
}

#[test]
fn from_a_metric_of_ones_own() {
    #[derive(Clone)]
    struct Metric(World);
    impl Observer for Metric {
        fn observe(&self, _: f64) {
            self.0.meddle();
        }
    }
    World::new(|world| {
        let handle = time(&Metric(world.clone()), |request: Request| {
            defer_later(&request.reactor(), Duration::ZERO, || "timed")
        });
        Rc::new(Leaf(handle))
    })
    .check("/place", 200);
}

#[test]
fn from_everything_that_happens_when_a_peer_leaves() {
    // The canceller, the errbacks, whoever waited for the end, and the drops of all of them.
    let world = World::new(|world| {
        leaf(world, |world, request| {
            let (end, chain) = Deferred::<&str>::pair();
            let (cancelling, failing, told) = (world.clone(), world.clone(), world.clone());
            let (kept, tail) = (Cell::new(Some(end)), Tail(world.clone()));
            request.notify_finish().add_both(move |result: Result<()>| {
                assert!(result.is_err());
                told.meddle();
            });
            let kept = Rc::new(kept);
            let firing = kept.clone();
            let end = kept.take().unwrap();
            end.on_cancel(move || {
                cancelling.meddle();
                drop(firing.take());
                drop(tail);
            });
            kept.set(Some(end));
            chain.add_errback(move |failure| {
                failing.meddle();
                drop(request);
                Err(failure)
            })
        })
    });
    let server = world.server();
    let mut others: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for other in &mut others {
        other.send(request("GET", "/wait") + &request("GET", "/plain"));
    }
    server.until_true("they wait", || world.0.waiting.borrow().len() == 4);
    let mut client = server.connect();
    client.send_request("GET", "/place");
    server.until_true("it is handled", || server.in_progress() == 5.0);
    client.reset();
    server.until_true("everybody was told", || world.0.meddled.get() >= 3);
    world.check_rest(&mut others);
}
