//! Feeds an engine the way a socket may, and demands that the way makes no difference.

use dosimeter::http::{Connection, Event, Finished, Limits, Refusal, RequestHead};
use http::StatusCode;

/// What an engine said; adjacent pieces of a body are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `method target version`, for [`exchange`] to compare and for a test to read.
    Head(String),
    Data(Vec<u8>),
    End,
    Refused(Refusal),
    Closed,
}

/// Everything a head can be asked, in one line.
pub fn describe(head: &RequestHead) -> String {
    let fields: Vec<_> = head.headers().map(|(name, value)| format!("{name}={}", value.escape_ascii())).collect();
    format!(
        "{} {} {:?} path={} query={:?} host={:?} {:?} keep={} expect={} [{}]",
        head.method(),
        head.target(),
        head.version(),
        head.path(),
        head.query(),
        head.host(),
        head.framing(),
        head.keep_alive(),
        head.expects_continue(),
        fields.join(", "),
    )
}

/// Feeds the pieces one after the other; each complete request is answered with an empty 200.
pub fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> Vec<Step> {
    let (mut connection, mut head, mut out) = (Connection::new(), RequestHead::new(), Vec::new());
    let (mut pending, mut steps) = (Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        loop {
            let (used, event) = connection.receive(&pending, &mut head, limits);
            let stop = matches!(event, Event::NeedData | Event::Closed | Event::Refused(_));
            match event {
                Event::NeedData => {}
                Event::Head => steps.push(Step::Head(describe(&head))),
                Event::Data(data) => push_data(&mut steps, data),
                Event::End => {
                    steps.push(Step::End);
                    assert_eq!(connection.receive(&pending[used..], &mut head, limits), (0, Event::Paused));
                    connection.begin_response(&mut out, StatusCode::OK, Some(0));
                    connection.end_head(&mut out);
                    let close = connection.finish(&mut out) == Finished::Close;
                    assert_eq!(close, connection.must_close());
                }
                Event::Refused(refusal) => push_once(&mut steps, Step::Refused(refusal)),
                Event::Closed => push_once(&mut steps, Step::Closed),
                Event::Paused => panic!("paused after the response was finished"),
            }
            pending.drain(..used);
            if stop {
                break;
            }
        }
    }
    steps
}

/// Feeds `input` whole, byte by byte and cut in two everywhere; returns what every way says.
pub fn exchange_with(input: &[u8], limits: &Limits) -> Vec<Step> {
    let whole = feed([input].into_iter(), limits);
    assert_eq!(feed(input.chunks(1), limits), whole, "byte by byte: {}", input.escape_ascii());
    // Long inputs are cut at some places only, the same ones each time.
    for at in (0..input.len()).step_by(1 + input.len() / 500) {
        let (left, right) = input.split_at(at);
        assert_eq!(feed([left, right].into_iter(), limits), whole, "cut at {at}: {}", input.escape_ascii());
    }
    whole
}

pub fn exchange(input: impl AsRef<[u8]>) -> Vec<Step> {
    exchange_with(input.as_ref(), &Limits::default())
}

/// The refusal of the first request in `input`, which must come before its head.
#[track_caller]
pub fn refusal(input: impl AsRef<[u8]>) -> Refusal {
    match exchange(input.as_ref()).as_slice() {
        [Step::Refused(refusal)] => *refusal,
        steps => panic!("{} is not refused: {steps:?}", input.as_ref().escape_ascii()),
    }
}

/// The head of the only request in `input`, which must have no body.
#[track_caller]
pub fn head(input: impl AsRef<[u8]>) -> RequestHead {
    let steps = exchange(input.as_ref());
    assert!(
        matches!(steps[..], [Step::Head(_), Step::End] | [Step::Head(_), Step::End, Step::Closed]),
        "{}: {steps:?}",
        input.as_ref().escape_ascii()
    );
    let mut head = RequestHead::new();
    Connection::new().receive(input.as_ref(), &mut head, &Limits::default());
    head
}

/// The body of the first request in `input`, and how many requests are there.
#[track_caller]
pub fn body(input: impl AsRef<[u8]>) -> (Vec<u8>, usize) {
    let steps = exchange(input.as_ref());
    assert!(!matches!(steps.last(), Some(Step::Refused(_))), "{}: {steps:?}", input.as_ref().escape_ascii());
    let body = match &steps[1] {
        Step::Data(data) => data.clone(),
        _ => Vec::new(),
    };
    (body, steps.iter().filter(|step| **step == Step::End).count())
}

/// A connection that has received all of `input`, which is one request.
pub fn asked(input: impl AsRef<[u8]>) -> Connection {
    let (mut connection, mut head) = (Connection::new(), RequestHead::new());
    let mut rest = input.as_ref();
    loop {
        let (used, event) = connection.receive(rest, &mut head, &Limits::default());
        rest = &rest[used..];
        match event {
            Event::Head | Event::Data(_) => {}
            Event::End | Event::Refused(_) => return connection,
            other => panic!("{}: {other:?}", input.as_ref().escape_ascii()),
        }
    }
}

fn push_data(steps: &mut Vec<Step>, data: &[u8]) {
    assert!(!data.is_empty(), "an empty piece of a body");
    match steps.last_mut() {
        Some(Step::Data(all)) => all.extend_from_slice(data),
        _ => steps.push(Step::Data(data.to_vec())),
    }
}

/// A terminal state is reported by every call; how many there are depends on the pieces.
fn push_once(steps: &mut Vec<Step>, step: Step) {
    if steps.last() != Some(&step) {
        steps.push(step);
    }
}
