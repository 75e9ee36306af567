//! Tests that neither wait nor open sockets.
//!
//! What stands in for a part of the crate is that part, on another ground: [`Clock`] is the timer queue of the reactor with a
//! "now" that the test moves, [`MemoryReactor`] a reactor whose waits take no time and whose ports are in memory. So what a
//! test finds out here holds outside.
//!
//! | to test | take |
//! |---|---|
//! | something that takes a [`Clock`](crate::Clock) | [`Clock`] |
//! | a [`Protocol`](crate::net::Protocol) by itself | [`MemoryTransport`] |
//! | two of them with each other | [`Pump`] |
//! | a whole program, with its ports and timed calls | [`MemoryReactor`] and [`MemoryClient`] |
//! | a program that sends and gets datagrams | [`MemoryReactor`] and [`MemorySocket`] |
//! | a [`Site`](crate::web::Site) or a [`Resource`](crate::web::Resource) | [`get`], [`post`], [`request`] |
//! | that something was logged, and nothing else | [`flush_logged_errors`] |
//! | what a chain came to | [`success_result_of`], [`failure_result_of`], [`assert_no_result`] |

mod client;
mod clock;
mod datagrams;
mod logged;
mod pump;
mod reactor;
mod reply;
mod results;
mod transport;
mod web;

pub use client::{End, MemoryClient};
pub use clock::Clock;
pub use datagrams::MemorySocket;
pub use logged::{LoggedErrors, collect_logged_errors, flush_all_logged_errors, flush_logged_errors};
pub use pump::Pump;
pub use reactor::MemoryReactor;
pub use reply::Reply;
pub use results::{assert_no_result, failure_result_of, success_result_of};
pub use transport::MemoryTransport;
pub use web::{Asked, IntoSite, TestRequest, get, post, request};
