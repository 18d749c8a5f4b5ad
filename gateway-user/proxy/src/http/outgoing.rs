//! A request on its way to an endpoint, for as many tries as it takes.

use std::{mem, rc::Rc, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Request, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};
use nodegate_route::timeout;

use super::{
    body::{Gate, RequestBody, Store},
    errand::Errand,
    expect, head_form,
    headers::{X_ENVOY_ATTEMPT_COUNT, X_ENVOY_EXPECTED_TIMEOUT},
    own_headers::OwnHeaders,
    retry::Repeats,
};
use crate::http1;

/// A request, for as long as it may have to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    parts: Parts,
    /// The headers of the gateway, if they are not in the head yet.
    own: Option<OwnHeaders>,
    body: Body,
    /// What holds the body back until the endpoint asks for it.
    gate: Option<Arc<Gate>>,
    http2_client: bool,
    /// After which answers it may have to be sent again.
    repeats: Repeats,
    /// Whether it has been sent and not kept.
    spent: bool,
}

#[derive(Debug)]
enum Body {
    /// For one try.
    Once(RequestBody),
    Kept(Rc<Store>),
}

impl Outgoing {
    pub(crate) fn new(
        parts: Parts,
        own: Option<OwnHeaders>,
        mut body: RequestBody,
        errand: &Errand<'_>,
    ) -> Self {
        let gate = errand
            .expects
            .then(|| expect::hold(&parts.headers, &mut body))
            .flatten();
        let http2_client = parts.version == Version::HTTP_2;
        let http2 = errand.cluster.speaks_http2(http2_client);
        let repeats = errand
            .retry
            .map_or(Repeats::Never, |policy| Repeats::of(policy, http2));
        let body = if repeats != Repeats::Never || errand.keep_body {
            body.store().map_or_else(Body::Once, Body::Kept)
        } else {
            Body::Once(body)
        };
        Self {
            parts,
            own,
            body,
            gate,
            http2_client,
            repeats,
            spent: false,
        }
    }

    /// The body, if it is kept.
    pub(crate) fn store(&self) -> Option<&Rc<Store>> {
        match &self.body {
            Body::Once(_) => None,
            Body::Kept(store) => Some(store),
        }
    }

    /// The head.
    pub(crate) fn parts(&mut self) -> &Parts {
        self.complete();
        &self.parts
    }

    /// Puts the headers of the gateway into the head.
    fn complete(&mut self) {
        if let Some(own) = self.own.take() {
            own.insert(&mut self.parts.headers);
        }
    }

    /// Says how long the endpoint may take.
    pub(crate) fn set_timeout(&mut self, timeout: Duration, grpc: bool) {
        if let Some(own) = &mut self.own {
            own.set_timeout(timeout);
        } else {
            let time = HeaderValue::from(timeout.as_millis() as u64);
            self.parts.headers.insert(X_ENVOY_EXPECTED_TIMEOUT, time);
        }
        if grpc {
            timeout::set_grpc(&mut self.parts.headers, timeout);
        }
    }

    /// The host that the endpoint is asked for.
    pub(crate) fn host(&self) -> Option<&str> {
        head_form::host(&self.parts)
    }

    /// Whether there is no body.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.body, Body::Once(body) if body.is_empty())
    }

    /// Whether it can't be sent again: it has been sent and not kept.
    pub(crate) fn is_gone(&self) -> bool {
        self.spent || matches!(&self.body, Body::Kept(store) if !store.has_beginning())
    }

    /// The request for a try, if it can be asked directly.
    pub(crate) fn ordinary(&mut self, attempt: u32) -> Option<(&mut Parts, Option<&OwnHeaders>)> {
        if !self.is_empty() || !http1::request::is_ordinary(&self.parts) {
            return None;
        }
        if let Some(own) = &mut self.own {
            own.set_attempt(attempt);
            prepare(&mut self.parts, 1, true);
        } else {
            prepare(&mut self.parts, attempt, true);
        }
        Some((&mut self.parts, self.own.as_ref()))
    }

    /// Makes the request for a try, and keeps it for another one if that is wanted.
    pub(crate) fn make(&mut self, attempt: u32, http2: bool, keep: bool) -> Request<RequestBody> {
        self.complete();
        let empty = self.is_empty();
        let mut parts = if keep {
            self.parts.clone()
        } else {
            self.spent = true;
            mem::replace(&mut self.parts, Request::new(()).into_parts().0)
        };
        head_form::set_version(&mut parts, http2);
        prepare(&mut parts, attempt, empty && !http2);
        if !empty && !http2 {
            say_chunked(&mut parts);
        }
        let body = match &mut self.body {
            Body::Once(body) => mem::replace(body, RequestBody::EMPTY),
            Body::Kept(store) => RequestBody::copy_of(store).unwrap_or_default(),
        };
        let mut request = Request::from_parts(parts, body);
        if let Some(gate) = &self.gate {
            expect::watch(&mut request, gate);
        }
        request
    }

    /// Takes back a request that wasn't sent.
    pub(crate) fn restore(&mut self, request: Request<RequestBody>) {
        let (mut parts, body) = request.into_parts();
        head_form::restore(&mut parts);
        self.parts = parts;
        self.spent = false;
        if let Body::Once(empty) = &mut self.body {
            *empty = body;
        }
    }

    /// Whether it may have to be sent again after it was sent.
    pub(crate) fn repeats(&self) -> bool {
        self.repeats != Repeats::Never
    }

    /// The method.
    pub(crate) fn method(&self) -> &Method {
        &self.parts.method
    }

    /// A map into which the headers of an answer with these fields can be put: the request's own, unless
    /// it may have to be sent again after such an answer.
    pub(crate) fn spare(&mut self, answer: &[httparse::Header<'_>]) -> HeaderMap {
        if self.repeats.after(answer) {
            return HeaderMap::new();
        }
        self.spent = true;
        mem::take(&mut self.parts.headers)
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_from_http2(&self) -> bool {
        self.http2_client
    }

    /// Whether it can be sent twice without harm: it has no body and may be repeated (RFC 9110, section
    /// 9.2.2).
    pub(crate) fn is_harmless(&self) -> bool {
        self.is_empty() && self.parts.method.is_idempotent()
    }

    /// What holds the body back until the endpoint asks for it.
    pub(crate) fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }
}

/// Says of a request which try it is, and of one in HTTP/1.1 without a body that it has none.
fn prepare(parts: &mut Parts, attempt: u32, empty: bool) {
    // The first try is counted before the route changes headers.
    if attempt > 1 {
        let attempt = HeaderValue::from(attempt);
        parts.headers.insert(X_ENVOY_ATTEMPT_COUNT, attempt);
    }
    if empty {
        say_empty(parts);
    }
}

/// Says of a request in HTTP/1.1 with a body how that ends: hyper sends no body with GET, HEAD and CONNECT that it has
/// not been told of.
pub(crate) fn say_chunked(parts: &mut Parts) {
    if !parts.headers.contains_key(CONTENT_LENGTH) {
        let chunked = HeaderValue::from_static("chunked");
        parts.headers.insert(TRANSFER_ENCODING, chunked);
    }
}

/// Says of a request in HTTP/1.1 without a body that it has none, if one may be expected.
pub(crate) fn say_empty(parts: &mut Parts) {
    if http1::request::says_empty(&parts.method) {
        let nothing = HeaderValue::from_static("0");
        parts.headers.insert(CONTENT_LENGTH, nothing);
    }
}
