//! The dashboard as a server of files; what they draw is looked at in a browser, by `tests/e2e/dashboard.py`.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use dosimeter::exposition::Landing;
use dosimeter::prometheus::{IntCounter, Registry};
use dosimeter::web::{Branch, Site};
use dosimeter::{Dashboard, Reactor};
use support::Server;

const FILES: [(&str, &str); 3] = [
    ("/board/", "text/html; charset=utf-8"),
    ("/board/dashboard.css", "text/css; charset=utf-8"),
    ("/board/dashboard.js", "text/javascript; charset=utf-8"),
];

fn server() -> Server {
    let registry = Registry::new();
    let reactor = Reactor::builder().metrics(registry.clone()).build().expect("descriptors");
    let root = Branch::new();
    root.put_child("board", Dashboard::new(&reactor));
    Server::with_site(reactor, registry, Site::new(root))
}

#[test]
fn the_page_and_its_files_run_nothing_from_elsewhere() {
    let server = server();
    for (path, content_type) in FILES {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(content_type)), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        let strange = reply.text().replace("http://www.w3.org/2000/svg", "");
        assert!(!strange.contains("http://") && !strange.contains("https://"), "{path} names another host");
    }
}

#[test]
fn nothing_in_the_page_needs_a_weaker_policy() {
    let page = server().get("/board/").text().to_owned();
    assert!(
        !page.contains("<script>")
            && !page.contains("<style")
            && !page.contains(" style=")
            && !page.contains(" onclick")
    );
}

#[test]
fn all_of_it_is_less_than_a_picture() {
    let server = server();
    let bytes: usize = FILES.iter().map(|(path, _)| server.get(path).body.len()).sum();
    assert!(bytes < 60 * 1024, "{bytes} bytes");
}

#[test]
fn without_its_slash_the_path_leads_to_the_page() {
    let reply = server().get("/board");
    assert_eq!((reply.status, reply.header("location")), (308, Some("./board/")));
}

#[test]
fn below_any_prefix_it_names_only_what_is_below_itself() {
    let registry = Registry::new();
    let reactor = Reactor::builder().metrics(registry.clone()).build().expect("descriptors");
    let (root, inner) = (Branch::new(), Branch::new());
    inner.put_child("a b", Dashboard::new(&reactor));
    root.put_child("behind", inner);
    let server = Server::with_site(reactor, registry, Site::new(root));
    // As sent: a proxy may have cut off more in front of it.
    assert_eq!(server.get("/behind/a%20b").header("location"), Some("./a%20b/"));
    let page = server.get("/behind/a%20b/").text().to_owned();
    for link in page.replace("src=", "href=").split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(!link.starts_with('/') && !link.contains(".."), "{link}");
        let status = if link.starts_with("data:") { 200 } else { server.get(&format!("/behind/a%20b/{link}")).status };
        assert_eq!(status, 200, "{link}");
    }
}

#[test]
fn a_callback_that_held_up_the_loop_is_in_the_list_of_slow_ones() {
    let server = server();
    assert_eq!(server.get("/board/slow").text(), "kind\tseconds\tended\tplace\n");
    // It is the real clock that tells who is slow.
    server.reactor.call_soon(|| std::thread::sleep(Duration::from_millis(150)));
    server.reactor.turn(Some(Duration::ZERO)).expect("a turn");
    server.reactor.turn(Some(Duration::ZERO)).expect("a turn");
    let list = server.get("/board/slow").text().to_owned();
    let row = list.lines().nth(1).expect("a slow callback");
    assert!(row.starts_with("timer\t0.") && row.contains(file!()), "{row}");
}

#[test]
fn the_page_says_which_reactor_is_its_own_and_never_as_markup() {
    for (name, said) in [("", ""), ("a\"><script>b", "a&quot;&gt;&lt;script&gt;b"), ("{label}", "{label}")] {
        let registry = Registry::new();
        let reactor = Reactor::builder().name(name).metrics(registry.clone()).build().expect("descriptors");
        let dashboard = Dashboard::new(&reactor);
        let page = Server::with_site(reactor, registry, Site::new(dashboard)).get("/").text().to_owned();
        assert!(page.contains(&format!("<body data-reactor=\"{said}\">")), "{page}");
    }
}

#[test]
fn what_it_draws_is_the_registry_of_its_reactor() {
    let server = server();
    let orders = IntCounter::new("orders_total", "Orders taken.").expect("a good name");
    server.registry.register(Box::new(orders.clone())).expect("a new name");
    orders.inc_by(3);
    let metrics = server.get("/board/metrics").text().to_owned();
    assert!(
        metrics.contains("\norders_total 3\n") && metrics.contains("\ndosimeter_loop_iterations_total "),
        "{metrics}"
    );
    assert_eq!(server.get("/board/other").status, 404);
}

#[test]
fn the_script_asks_for_what_it_draws_and_for_nothing_that_is_not_there() {
    let server = server();
    let script = server.get("/board/dashboard.js").text().to_owned();
    let (before, rest) = script.split_once("const FAMILIES = [").expect("the list");
    let (listed, behind) = rest.split_once("];").expect("its end");
    let constants: BTreeMap<&str, &str> = ["REQUESTS", "DURATIONS", "TURNS"]
        .map(|name| (name, quoted(before.split(&format!("{name} = ")).nth(1).expect(name))[0]))
        .into();
    let asked: Vec<&str> = listed.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let asked: Vec<&str> =
        asked.iter().map(|name| constants.get(name).copied().unwrap_or_else(|| quoted(name)[0])).collect();
    for name in quoted(before)
        .iter()
        .chain(&quoted(behind))
        .filter(|name| name.starts_with("dosimeter_") || name.starts_with("http_server_"))
    {
        assert!(asked.contains(name), "{name} is drawn and not asked for");
    }
    server.get("/board/");
    let families = server.registry.gather();
    for name in asked {
        assert!(families.iter().any(|family| family.name() == name), "{name} is asked for and is not there");
    }
}

/// What stands between quotes in the script.
fn quoted(script: &str) -> Vec<&str> {
    script.split('"').skip(1).step_by(2).collect()
}

#[test]
fn what_a_landing_page_is_told_is_never_markup() {
    let root = Branch::new();
    root.put_child("", Landing::new("<b>", "\"1\"").about("<p>").link("a?b&\"c", "<i>"));
    let reply = Server::new(root).get("/");
    let page = reply.text();
    assert!(page.contains("<h1>&lt;b&gt;") && page.contains("href=\"a?b&amp;&quot;c\">&lt;i&gt;</a>"), "{page}");
    assert!(page.contains("<p>&lt;p&gt;</p>"), "{page}");
    assert!(reply.header("content-security-policy").is_some());
}
