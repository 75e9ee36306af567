//! A head that comes again is not read again, and nothing but the time it takes may tell.

#[path = "support/http.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use dosimeter::http::{Connection, Event, Limits, Refusal, RequestHead};
use proptest::prelude::*;
use support::describe;

/// Heads that differ in everything a response depends on, and some that are refused.
const HEADS: [&str; 12] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /?x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nCookie: c=1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic eA==\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
];

/// What a new connection says of `input`, and what the head then holds.
fn said(input: &str, head: &mut RequestHead, limits: &Limits) -> (usize, String, String) {
    let mut connection = Connection::new();
    let (used, event) = connection.receive(input.as_bytes(), head, limits);
    let state = format!("{event:?} {} {}", connection.must_close(), connection.continue_expected());
    (used, state, describe(head))
}

proptest! {
    #[test]
    fn a_head_used_before_reads_what_a_new_one_reads(order in prop::collection::vec(0..HEADS.len(), 1..40)) {
        let (mut used_before, limits) = (RequestHead::new(), Limits::default());
        for index in order {
            let input = format!("{}more", HEADS[index]);
            let expected = said(&input, &mut RequestHead::new(), &limits);
            prop_assert_eq!(said(&input, &mut used_before, &limits), expected);
        }
    }
}

#[test]
fn a_head_that_is_the_start_of_another_is_not_taken_for_it() {
    let (mut head, limits) = (RequestHead::new(), Limits::default());
    let whole = HEADS[0];
    assert_eq!(said(whole, &mut head, &limits).0, whole.len());
    for cut in 0..whole.len() {
        let (used, state, _) = said(&whole[..cut], &mut head, &limits);
        assert_eq!((used, state.starts_with("NeedData")), (0, true), "cut at {cut}");
        assert_eq!(said(whole, &mut head, &limits).0, whole.len());
    }
}

#[test]
fn a_head_that_was_accepted_is_refused_under_tighter_limits() {
    let mut head = RequestHead::new();
    let mut limits = Limits::default();
    let post = HEADS[5];
    assert_eq!(said(post, &mut head, &limits).0, post.len());
    limits.body = 2;
    assert!(said(post, &mut head, &limits).1.starts_with(&format!("{:?}", Event::Refused(Refusal::BodyTooLarge))));
    limits = Limits::default();
    assert_eq!(said(post, &mut head, &limits).0, post.len());
    limits.headers = 1;
    assert!(said(post, &mut head, &limits).1.starts_with(&format!("{:?}", Event::Refused(Refusal::TooManyFields))));
}
