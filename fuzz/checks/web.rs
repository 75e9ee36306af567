//! The server behind the engine: no input breaks a connection's promises, a route's, a form's or a file's.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use dosimeter::prometheus::proto::MetricFamily;
use dosimeter::testing::{self, MemoryReactor};
use dosimeter::web::{FormLimits, Method, Multipart, Part, Request, Router, Site, StaticFiles};
use dosimeter::{Clock, defer_later};

/// A whole connection to a site: what comes back are responses, and nothing stays behind when the peer has left.
pub fn connection(data: &[u8]) {
    let memory = MemoryReactor::new();
    memory.reactor().listen_tcp(80, Site::new(app())).expect("nobody else listens in here");
    let client = memory.connect(([127, 0, 0, 1], 80));
    let (pieces, data) = data.split_first().unwrap_or((&0, data));
    for piece in data.chunks(usize::from(*pieces).max(1)) {
        client.send(piece);
    }
    // Longer than every deadline there is.
    memory.pump([Duration::from_secs(1); 5]);
    memory.pump([Duration::from_secs(120); 3]);
    let received = client.received();
    assert!(received.is_empty() || received.starts_with(b"HTTP/1.1 ") || received.starts_with(b"HTTP/1.0 "));
    client.close();
    memory.settle();
    for name in ["http_server_connections", "http_server_requests_in_progress"] {
        assert_eq!(gauge(&memory, name), 0.0, "{name}");
    }
}

/// Routes of every kind: what a path matched makes the same path again.
pub fn router(data: &[u8]) {
    let path: String = data.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
    if path.contains(['?', '#']) {
        return;
    }
    let reply = testing::get(app(), &format!("/{path}"));
    if let Some((url, rest)) = reply.header("x-route").zip(reply.header("x-url")) {
        let again = testing::get(app(), rest);
        assert_eq!(again.status(), 200, "{url} made {rest} of /{path}");
        assert_eq!(again.text(), reply.text(), "{url} made {rest} of /{path}");
    }
}

/// A form in parts: where it is cut makes no difference.
pub fn multipart(data: &[u8]) {
    let whole = parts([data]);
    assert_eq!(parts(data.chunks(1)), whole, "byte by byte");
    assert_eq!(parts(data.chunks(5)), whole, "five bytes at a time");
}

/// Ranges and conditions on a file: what is sent is what it says it is.
pub fn range(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n').map(|line| {
        let text = String::from_utf8_lossy(line);
        text.chars().filter(|letter| letter.is_ascii_graphic() || *letter == ' ').collect::<String>()
    });
    let mut request = testing::request(Method::GET, "/file");
    for name in ["range", "if-range", "if-none-match", "if-modified-since", "if-match", "if-unmodified-since"] {
        if let Some(line) = lines.next().filter(|line| !line.is_empty()) {
            request = request.header(name, line.trim());
        }
    }
    let reply = request.send(StaticFiles::new(&*DIRECTORY));
    match reply.status().as_u16() {
        200 => assert_eq!(reply.body(), CONTENT),
        206 => check_part(&reply),
        304 | 412 => {}
        416 => assert_eq!(reply.header("content-range"), Some("bytes */26")),
        other => panic!("{other}"),
    }
}

fn check_part(reply: &testing::Reply) {
    let Some(range) = reply.header("content-range") else {
        let kind = reply.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("multipart/byteranges; boundary="), "{kind}");
        return;
    };
    let (first, rest) = range.strip_prefix("bytes ").and_then(|range| range.split_once('-')).expect("bytes a-b/c");
    let last = rest.strip_suffix("/26").expect("the length of the file");
    let (first, last): (usize, usize) = (first.parse().expect("a number"), last.parse().expect("a number"));
    assert_eq!(reply.body(), &CONTENT[first..=last]);
}

fn app() -> Router {
    let app = Router::new();
    for pattern in PATTERNS {
        app.route(pattern, |request: Request| request.postpath().count().to_string());
    }
    app.route("/user/<int:id>/<name>", user).named("user");
    app.route("/length", |request: Request| request.body().len().to_string());
    app.route_async("/stream", |mut request: Request| async move {
        let (mut body, mut length) = (request.take_body(), 0);
        while let Some(piece) = body.next_piece().await? {
            length += piece.len();
        }
        Ok::<_, dosimeter::Failure>(length.to_string())
    })
    .streamed();
    app.route("/late", |request: Request| defer_later(&request.reactor(), Duration::from_secs(2), || "late"));
    app.route("/pieces", pieces);
    app
}

fn user(request: Request) -> dosimeter::web::Response {
    let (id, name): (String, String) =
        (request.param("id").expect("it matched"), request.param("name").expect("it matched"));
    let made = USER_URLS.with(|app| app.url_for("user", &[("id", &id), ("name", &name)]).expect("both are there"));
    let header = |text: &str| dosimeter::web::HeaderValue::from_str(text).expect("a URL is text");
    dosimeter::web::Response::text(format!("{id} {name}"))
        .with_header(dosimeter::web::HeaderName::from_static("x-route"), header("user"))
        .with_header(dosimeter::web::HeaderName::from_static("x-url"), header(&made))
}

thread_local! {
    static USER_URLS: Router = {
        let app = Router::new();
        app.route("/user/<int:id>/<name>", user).named("user");
        app
    };
}

fn pieces(mut request: Request) -> dosimeter::web::Render {
    request.write("one");
    let reactor = request.reactor();
    reactor.call_later(Duration::from_secs(1), move || {
        request.write("two");
        request.finish();
    });
    dosimeter::web::NOT_DONE_YET
}

fn parts<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let limits = FormLimits::default();
    let mut reader = Multipart::new("multipart/form-data; boundary=x", &limits).expect("a boundary");
    let (mut pending, mut said, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        loop {
            let (used, more) = match reader.receive(&pending) {
                Err(error) => {
                    said.push(error.to_string());
                    return said;
                }
                Ok((used, Part::NeedData)) => (used, false),
                Ok((used, Part::Data(piece))) => {
                    data.extend_from_slice(piece);
                    (used, true)
                }
                Ok((used, other)) => {
                    said.push(std::mem::take(&mut data).escape_ascii().to_string());
                    said.push(format!("{other:?}"));
                    (used, true)
                }
            };
            pending.drain(..used);
            if !more {
                break;
            }
        }
    }
    said.push(data.escape_ascii().to_string());
    said.push(format!("{:?}", reader.finish().map_err(|error| error.to_string())));
    said
}

fn gauge(memory: &MemoryReactor, name: &str) -> f64 {
    let families = memory.registry().gather();
    let family = families.iter().find(|family| family.name() == name);
    family.map_or(&[][..], MetricFamily::get_metric).iter().map(|metric| metric.get_gauge().get_value()).sum()
}

const PATTERNS: &[&str] = &[
    "/",
    "/a/b",
    "/v<int:major>.<int:minor>",
    "/f/<float:x>",
    "/u/<uuid:id>",
    "/<any(x,y):which>/end",
    "/deep/<path:rest>",
];

const CONTENT: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// A directory with one file, old enough for a strong tag.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("dosimeter-range-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a place for temporary files");
    let file = directory.join("file");
    fs::write(&file, CONTENT).expect("room for 26 bytes");
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(old)).expect("our own file");
    directory
});
