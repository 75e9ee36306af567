//! What must hold for every input. The fuzz targets call these with what the fuzzer makes up, and `tests/corpus.rs` with what it
//! has found worth keeping.
//!
//! Rules kept here:
//! - A check is a function of bytes that panics. It needs no fuzzer, and says what went wrong.
//! - An input that breaks one becomes a file in the corpus, and stays there.

mod engine;
mod web;

pub use engine::{body, engine, head};
pub use web::{connection, multipart, range, router};
