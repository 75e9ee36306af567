//! From what a resource returned to the answer: now, later, or by another resource.
//!
//! Rule kept here: whatever comes of it, failures and circles included, ends in one answer.

use std::rc::Rc;

use crate::deferred::Deferred;
use crate::failure::{Failure, Result, guard};
use crate::web::exchange::Exchange;
use crate::web::request::Request;
use crate::web::resource::{Answer, GOES_ROUND, MAX_DELEGATIONS, Render, Resource, walk};

/// Has `root` answer.
#[inline]
pub(crate) fn ask(root: Rc<dyn Resource>, exchange: &Rc<Exchange>) {
    exchange.expect_answer();
    let request = Request::new(exchange.clone());
    let rendered = guard(|| walk(root, request));
    answer(exchange, rendered.unwrap_or_else(Render::failed));
}

/// Does what the resource said.
pub(crate) fn answer(exchange: &Rc<Exchange>, mut render: Render) {
    for _ in 0..MAX_DELEGATIONS {
        match render.0 {
            Answer::NotDoneYet => return exchange.leave_to_handles(),
            Answer::Response(response) => return exchange.answer(&response),
            Answer::Failed(failure) => return exchange.answer_failure(&failure),
            Answer::Deferred(later) => return answer_later(exchange, later),
            Answer::Resource(resource) => {
                let request = Request::new(exchange.clone());
                render = guard(|| walk(resource, request)).unwrap_or_else(Render::failed);
            }
        }
    }
    exchange.answer_failure(&Failure::from(GOES_ROUND));
}

fn answer_later(exchange: &Rc<Exchange>, later: Deferred<Box<Render>>) {
    exchange.set_canceller(later.canceller());
    let exchange = exchange.clone();
    later.add_both(move |result: Result<Box<Render>>| {
        answer(&exchange, result.map_or_else(Render::failed, |answer| *answer));
    });
}
