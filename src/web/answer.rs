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
    // A response is sent from where it was made. To move one out of the guard, and it is moved when it was just written, costs
    // more than to write the lines of its head.
    let unsent = guard(|| match walk(root, request) {
        Render(Answer::Response(ref response)) => {
            exchange.answer(response);
            None
        }
        other => Some(other),
    });
    if let Some(rendered) = unsent.transpose() {
        answer(exchange, rendered);
    }
}

/// Does what the resource said.
#[inline(never)]
pub(crate) fn answer(exchange: &Rc<Exchange>, mut rendered: Result<Render>) {
    for _ in 0..MAX_DELEGATIONS {
        match rendered {
            Ok(Render(Answer::Response(ref response))) => return exchange.answer(response),
            Ok(Render(Answer::NotDoneYet)) => return exchange.leave_to_handles(),
            Ok(Render(Answer::Failed(ref failure))) | Err(ref failure) => return exchange.answer_failure(failure),
            Ok(Render(Answer::Deferred(later))) => return answer_later(exchange, later),
            Ok(Render(Answer::Resource(resource))) => {
                let request = Request::new(exchange.clone());
                rendered = guard(|| walk(resource, request));
            }
        }
    }
    exchange.answer_failure(&Failure::from(GOES_ROUND));
}

fn answer_later(exchange: &Rc<Exchange>, later: Deferred<Box<Render>>) {
    exchange.set_canceller(later.canceller());
    let exchange = exchange.clone();
    later.add_both(move |result: Result<Box<Render>>| {
        answer(&exchange, result.map(|answer| *answer));
    });
}
