//! Heads of HTTP/1 on the wire, from clients and from endpoints: what is read directly is what hyper
//! reads, so that it makes no difference which of them reads a head.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header, request, response};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
    service::service_fn,
};
use nodegate_proxy::http1::{
    self, Coding, Framing, HeadFault, HeadScan, Length, MAX_DIRECT_HEAD, Unusual,
};

/// Heads are cut in at most so many places.
const MOST_CUTS: usize = 64;

/// What hyper makes of a message: its head, and how long its body is if that is known.
type Seen<Parts> = (Parts, Option<u64>);

/// The head of a request, as a client sends it.
pub fn request(input: &[u8]) {
    let read = Bytes::copy_from_slice(input);
    let mut scan = HeadScan::default();
    let fault = scan.read(input);
    if let Ok(Some((head, length))) = http1::request::parse(&read, HeaderMap::new) {
        assert_eq!(fault, None, "a faulty head is read directly");
        assert!(scan.is_whole() && length <= input.len());
        assert!(Framing::of(&head.headers).is_absent());
        for end in cuts(length) {
            let cut = http1::request::parse(&read.slice(..end), HeaderMap::new);
            assert!(
                matches!(cut, Ok(None)),
                "{end} of {length} bytes are a head"
            );
        }
        let (seen, body) = request_by_hyper(&input[..length]).expect("hyper reads it, too");
        assert_eq!(body, Some(0));
        assert_eq!(head.method, seen.method);
        assert_eq!(head.uri, seen.uri);
        assert_eq!(seen.version, Version::HTTP_11);
        assert_eq!(head.headers, seen.headers);
    }
    let Some((seen, body)) = request_by_hyper(input) else {
        return;
    };
    // hyper has cut a fragment off, and forgotten one of two framings.
    let framing = Framing::of(&seen.headers);
    let framed_twice = framing.length != Length::Absent && framing.coding != Coding::Absent;
    assert!(!framed_twice || fault == Some(HeadFault::TwoFramings));
    if fault.is_none() && seen.version == Version::HTTP_11 {
        match framing.coding {
            Coding::Absent => assert_eq!(body, Some(number(framing.length).unwrap_or(0))),
            Coding::Chunked | Coding::Repeated | Coding::Other => assert_eq!(body, None),
        }
    }
}

/// The head of an answer, as an endpoint sends it to a GET.
pub fn response(input: &[u8]) {
    let mut rest = Bytes::copy_from_slice(input);
    match http1::response::parse(&mut rest, |_| HeaderMap::new()) {
        Ok(Some((head, body))) => {
            let length = input.len() - rest.len();
            for end in cuts(length) {
                let mut cut = Bytes::copy_from_slice(&input[..end]);
                let cut = http1::response::parse(&mut cut, |_| HeaderMap::new());
                assert!(
                    matches!(cut, Ok(None)),
                    "{end} of {length} bytes are a head"
                );
            }
            assert!(Framing::of(&head.headers).is_proper_answer(head.status));
            let (seen, length) = response_by_hyper(&input[..length]).expect("hyper reads it, too");
            assert_eq!(length, Some(body));
            assert_eq!(head.status, seen.status);
            assert_eq!(head.version, seen.version);
            assert_eq!(head.headers, seen.headers);
        }
        Ok(None) | Err(Unusual) => assert_eq!(rest, input, "something has been taken"),
    }
    let Some((seen, body)) = response_by_hyper(input) else {
        return;
    };
    let bodiless = seen.status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&seen.status);
    let framing = Framing::of(&seen.headers);
    // What is passed on ends where it says that it ends.
    if !bodiless
        && framing.is_proper_answer(seen.status)
        && !seen.headers.contains_key(header::UPGRADE)
    {
        assert_eq!(body, number(framing.length), "{framing:?}");
    }
}

/// Some places before the end of a head.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    assert!(length <= 2 * MAX_DIRECT_HEAD);
    (0..length).step_by(length.div_ceil(MOST_CUTS).max(1))
}

fn number(length: Length) -> Option<u64> {
    match length {
        Length::Once(length) | Length::Repeated(length) => Some(length),
        Length::Absent | Length::Unreadable => None,
    }
}

/// What hyper takes these bytes of a client for, if it is a request.
fn request_by_hyper(input: &[u8]) -> Option<Seen<request::Parts>> {
    let seen = Rc::new(RefCell::new(None));
    let service = service_fn(|request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        seen.replace(Some((parts, body.size_hint().exact())));
        // One request is enough.
        std::future::pending::<Result<Response<String>, Infallible>>()
    });
    let wire = Wire::new(input, true);
    let mut connection = http1::server_builder().serve_connection(wire, service);
    let mut cx = Context::from_waker(Waker::noop());
    let _ = Pin::new(&mut connection).poll(&mut cx);
    seen.take()
}

/// What hyper takes these bytes of an endpoint for, if it is an answer.
fn response_by_hyper(input: &[u8]) -> Option<Seen<response::Parts>> {
    let mut cx = Context::from_waker(Waker::noop());
    let shaking = http1::client_builder().handshake::<_, String>(Wire::new(input, false));
    let Poll::Ready(Ok((mut sender, mut connection))) = pin!(shaking).poll(&mut cx) else {
        panic!("HTTP/1.1 begins without a word");
    };
    let mut answer = pin!(sender.send_request(Request::new(String::new())));
    for _ in 0..3 {
        let ended = Pin::new(&mut connection).poll(&mut cx);
        if let Poll::Ready(answer) = answer.as_mut().poll(&mut cx) {
            let (parts, body) = answer.ok()?.into_parts();
            return Some((parts, body.size_hint().exact()));
        }
        if ended.is_ready() {
            return None;
        }
    }
    None
}

/// A connection from which some bytes come and then nothing.
pub(crate) struct Wire {
    rest: Bytes,
    /// Whether they come, or wait until something has been written.
    open: bool,
}

impl Wire {
    pub(crate) fn new(input: &[u8], open: bool) -> Self {
        Self {
            rest: Bytes::copy_from_slice(input),
            open,
        }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.rest.len().min(cursor.remaining());
        if !self.open || length == 0 {
            return Poll::Pending;
        }
        cursor.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
