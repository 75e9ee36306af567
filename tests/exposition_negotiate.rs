//! Which format a scraper gets for its `Accept` field.

use dosimeter::exposition::Format::{self, OpenMetrics, Text};
use proptest::prelude::*;

#[test]
fn scrapers_get_what_they_prefer() {
    for (accept, format) in [
        // Prometheus 2, by default and when OpenMetrics is preferred to nothing.
        (
            "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OpenMetrics,
        ),
        // Prometheus 3.
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OpenMetrics,
        ),
        // One that prefers protobuf, which is not there.
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
             text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5",
            Text,
        ),
        // A browser, curl.
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", Text),
        ("*/*", Text),
    ] {
        assert_eq!(accepted(accept), format, "{accept}");
    }
    assert_eq!(Format::accepted([]), Text);
}

#[test]
fn quality_decides() {
    for (accept, format) in [
        ("application/openmetrics-text;q=0.4, text/plain;q=0.5", Text),
        ("application/openmetrics-text;q=0.501, text/plain;q=0.5", OpenMetrics),
        ("text/plain;q=0.9, application/openmetrics-text", OpenMetrics),
        ("text/*;q=0.3, application/*;q=0.4", OpenMetrics),
        ("application/openmetrics-text;q=0.2, */*;q=0.3", Text),
        ("application/*, text/plain", Text),
        // As good as each other: the first.
        ("application/openmetrics-text, text/plain;version=0.0.4", OpenMetrics),
        ("text/plain, application/openmetrics-text;version=1.0.0", Text),
    ] {
        assert_eq!(accepted(accept), format, "{accept}");
    }
}

#[test]
fn a_quality_of_zero_excludes() {
    for (accept, format) in [
        ("text/plain;q=0, */*", OpenMetrics),
        ("text/plain;q=0.000, application/*;q=0.001", OpenMetrics),
        ("application/openmetrics-text;q=0, application/*, text/plain;q=0.001", Text),
        ("text/plain;version=0.0.4;q=0, text/plain, */*;q=0.1", OpenMetrics),
        // Nothing is left, and something has to be sent.
        ("*/*;q=0", Text),
        ("application/openmetrics-text;q=0", Text),
    ] {
        assert_eq!(accepted(accept), format, "{accept}");
    }
}

#[test]
fn a_version_that_is_not_written_here_is_no_match() {
    for (accept, format) in [
        ("application/openmetrics-text;version=1.0.0", OpenMetrics),
        ("application/openmetrics-text;version=\"1.0.0\"", OpenMetrics),
        ("application/openmetrics-text; charset=utf-8", OpenMetrics),
        ("application/openmetrics-text;version=0.0.1", Text),
        ("application/openmetrics-text;version=2.0.0", Text),
        ("text/plain;version=1.0.0, application/openmetrics-text;q=0.1", OpenMetrics),
        ("text/plain;version=0.0.4, application/openmetrics-text;q=0.1", Text),
    ] {
        assert_eq!(accepted(accept), format, "{accept}");
    }
}

#[test]
fn the_grammar_is_that_of_the_field() {
    for (accept, format) in [
        ("  Application/OpenMetrics-Text ;\tVERSION=1.0.0 ; Q=1.0  ", OpenMetrics),
        (", ,application/openmetrics-text,,", OpenMetrics),
        // What is quoted separates nothing.
        ("a/b;c=\",application/openmetrics-text,\"", Text),
        ("a/b;c=\"\\\",application/openmetrics-text,\"", Text),
        ("a/b;c=\"\\\\\",application/openmetrics-text", OpenMetrics),
        // No ranges, and no qualities.
        ("openmetrics-text", Text),
        ("*/openmetrics-text", Text),
        ("application/openmetrics-text;q=", Text),
        ("application/openmetrics-text;q=2", Text),
        ("application/openmetrics-text;q=-1", Text),
        ("application/openmetrics-text;q=NaN", Text),
        ("application/openmetrics-text;q=0.0001", Text),
        ("application/openmetrics-text;q=1.000", OpenMetrics),
        ("", Text),
    ] {
        assert_eq!(accepted(accept), format, "{accept}");
    }
}

#[test]
fn several_fields_are_one_list() {
    let fields: [&[u8]; 2] = [b"text/plain;q=0.5", b"application/openmetrics-text;q=0.6"];
    assert_eq!(Format::accepted(fields), OpenMetrics);
}

#[test]
fn the_content_type_names_the_version() {
    assert_eq!(Text.content_type(), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(OpenMetrics.content_type(), "application/openmetrics-text; version=1.0.0; charset=utf-8");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_an_answer(field in proptest::collection::vec(any::<u8>(), 0..60)) {
        Format::accepted([&field[..]]);
    }
}

fn accepted(accept: &str) -> Format {
    Format::accepted([accept.as_bytes()])
}
