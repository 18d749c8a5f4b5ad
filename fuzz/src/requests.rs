//! Requests of HTTP/1 one behind the other: where one ends, hyper has read one, and needs nothing of the next.

use std::{
    cell::Cell,
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Waker},
};

use http::{Method, Request, Response};
use http_body::Body as _;
use hyper::{body::Incoming, service::service_fn};
use nodegate_proxy::http1::{self, Requests};

use super::heads::Wire;

/// Requests of one input that are looked at.
const MOST: usize = 8;

/// What hyper makes of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It waits for more.
    Part,
    /// A request with all of its body.
    Whole,
    /// It refuses them, or they are a request after which there may be something else than HTTP.
    Other,
}

/// What a client sends over a connection.
pub fn run(input: &[u8]) {
    let mut requests = Requests::default();
    let mut rest = input;
    for _ in 0..MOST {
        if rest.is_empty() {
            return;
        }
        let taken = requests.take(rest);
        assert!(taken.length > 0 && taken.length <= rest.len(), "{taken:?}");
        let (request, after) = rest.split_at(taken.length);
        if taken.fault.is_some() || requests.are_given_up() {
            return;
        }
        let seen = by_hyper(request);
        if seen == Seen::Other {
            return;
        }
        if !requests.are_between() {
            assert_eq!(after, b"");
            assert_eq!(
                seen,
                Seen::Part,
                "hyper has seen an end: {}",
                request.escape_ascii()
            );
            return;
        }
        assert_eq!(
            seen,
            Seen::Whole,
            "hyper waits for more: {}",
            request.escape_ascii()
        );
        let (_, before_end) = request.split_last().expect("a request");
        assert_ne!(
            by_hyper(before_end),
            Seen::Whole,
            "it ends before: {}",
            request.escape_ascii()
        );
        rest = after;
    }
}

fn by_hyper(input: &[u8]) -> Seen {
    let seen = Rc::new(Cell::new(Seen::Part));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            if request.method() == Method::CONNECT {
                seen.set(Seen::Other);
            }
            let mut body = pin!(request.into_body());
            let whole = loop {
                match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                    None => break true,
                    Some(Ok(_)) => {}
                    Some(Err(_)) => break false,
                }
            };
            if seen.get() == Seen::Part {
                seen.set(if whole { Seen::Whole } else { Seen::Other });
            }
            // One request is enough.
            std::future::pending::<Result<Response<String>, Infallible>>().await
        }
    });
    let wire = Wire::new(input, true);
    let mut connection = http1::server_builder().serve_connection(wire, service);
    let mut cx = Context::from_waker(Waker::noop());
    // A piece of a body at a time.
    for _ in 0..input.len() + 4 {
        if Pin::new(&mut connection).poll(&mut cx).is_ready() {
            return Seen::Other;
        }
        if seen.get() != Seen::Part {
            break;
        }
    }
    seen.get()
}
