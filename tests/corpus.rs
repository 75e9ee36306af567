//! What fuzzing found worth keeping holds, on a compiler without a fuzzer.

use std::fs;
use std::path::Path;

#[path = "../fuzz/checks/mod.rs"]
mod checks;

#[test]
fn every_input_kept_for_a_head_passes_its_check() {
    replay("head", checks::head);
}

#[test]
fn every_input_kept_for_a_body_passes_its_check() {
    replay("body", checks::body);
}

#[test]
fn every_input_kept_for_a_connection_passes_its_check() {
    replay("engine", checks::engine);
}

#[test]
fn every_input_kept_for_a_site_passes_its_check() {
    replay("connection", checks::connection);
}

#[test]
fn every_input_kept_for_routes_passes_its_check() {
    replay("router", checks::router);
}

#[test]
fn every_input_kept_for_forms_passes_its_check() {
    replay("multipart", checks::multipart);
}

#[test]
fn every_input_kept_for_ranges_passes_its_check() {
    replay("range", checks::range);
}

/// The name of a file is printed before its check, so that a failure shows which one it was.
fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{} has lost its files", corpus.display());
    for file in files {
        println!("{}", file.display());
        check(&fs::read(&file).unwrap());
    }
}
