//! Over which connection a request goes to which endpoint, how often, and how long that may take.

use std::{
    mem,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use tokio::{sync::oneshot, time};

use super::{
    body::{RequestBody, Store, UpstreamBody},
    deadline::{Limit, within},
    exchange::Exchange,
    expect::{self, Gate},
    failure::Failure,
    headers::{X_ENVOY_ATTEMPT_COUNT, X_ENVOY_EXPECTED_TIMEOUT},
    own::OwnHeaders,
    response, retry,
};
use crate::model::gateway::RetryPolicy;
use crate::observe::ResponseFlag;
use crate::proxy::{
    cluster::{ClusterState, Outcome},
    parity::Difference,
    pool::{Asked as Said, Direct, Raw, SendError, Upstream},
};
use crate::route::{
    retry::{RetryDecision, RetryState},
    timeout,
};

/// How to ask for an answer.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something else about the request"
)]
#[derive(Debug)]
pub(crate) struct Errand<'a> {
    pub(crate) cluster: &'a Arc<ClusterState>,
    /// For consistent hashing.
    pub(crate) hash: Option<u64>,
    pub(crate) retry: Option<&'a RetryPolicy>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) try_timeout: Option<Duration>,
    /// Whether the connection may become something else.
    pub(crate) upgrade: bool,
    /// Whether somebody else gets a copy of the body.
    pub(crate) keep_body: bool,
    /// Whether it is one of gRPC's.
    pub(crate) grpc: bool,
    /// Whether the client expects anything before it sends the body.
    pub(crate) expects: bool,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<UpstreamBody>,
    /// When the try began that led to it.
    pub(crate) asked: Instant,
    /// What the connection becomes, if it does.
    pub(crate) raw: Option<oneshot::Receiver<Raw>>,
}

/// A request, for as long as it may have to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    parts: Parts,
    /// What is to be added to the head, if that hasn't been done.
    own: Option<OwnHeaders>,
    body: Body,
    gate: Option<Arc<Gate>>,
    http2_client: bool,
    /// Whether it may have to be sent again after it was sent.
    repeats: bool,
    /// Whether it has been sent and not kept.
    spent: bool,
}

#[derive(Debug)]
enum Body {
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
            .is_some_and(|policy| retry::needs_copy(policy, http2, errand.grpc));
        let body = if repeats || errand.keep_body {
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

    /// Puts into the head what is to be added to it.
    fn complete(&mut self) {
        if let Some(own) = self.own.take() {
            own.insert(&mut self.parts.headers);
        }
    }

    /// Says how long the endpoint may take.
    fn set_timeout(&mut self, timeout: Duration, grpc: bool) {
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
        host(&self.parts)
    }

    /// Whether there is no body.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.body, Body::Once(body) if body.is_empty())
    }

    /// Whether it is gone: sent and not kept.
    fn is_gone(&self) -> bool {
        self.spent || matches!(&self.body, Body::Kept(store) if store.body().is_none())
    }

    /// The request for a try, if it is one that can be asked directly.
    fn ordinary(&mut self, attempt: u32) -> Option<(&mut Parts, Option<&OwnHeaders>)> {
        if !self.is_empty() || !Direct::can_ask(&self.parts) {
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

    /// Makes the request for a try, and keeps it for another one or not.
    fn make(&mut self, attempt: u32, http2: bool, keep: bool) -> Request<RequestBody> {
        self.complete();
        let empty = self.is_empty();
        let mut parts = if keep {
            self.parts.clone()
        } else {
            self.spent = true;
            mem::replace(&mut self.parts, Request::new(()).into_parts().0)
        };
        set_version(&mut parts, http2);
        prepare(&mut parts, attempt, empty && !http2);
        let body = match &mut self.body {
            Body::Once(body) => mem::replace(body, RequestBody::EMPTY),
            Body::Kept(store) => store.body().unwrap_or(RequestBody::EMPTY),
        };
        let mut request = Request::from_parts(parts, body);
        if let Some(gate) = &self.gate {
            expect::watch(&mut request, gate);
        }
        request
    }

    /// Takes back what wasn't sent.
    fn restore(&mut self, request: Request<RequestBody>) {
        let (mut parts, body) = request.into_parts();
        if let Some(authority) = parts.uri.authority() {
            if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                parts.headers.insert(HOST, host);
            }
            let path = parts.uri.path_and_query().cloned();
            parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
        }
        parts.extensions.clear();
        self.parts = parts;
        self.spent = false;
        if let Body::Once(empty) = &mut self.body {
            *empty = body;
        }
    }
}

/// The host that the endpoint is asked for, before the head is put into the form of HTTP/2.
pub(crate) fn host(parts: &Parts) -> Option<&str> {
    parts.headers.get(HOST)?.to_str().ok()
}

/// Says of a request which try it is, and of one in HTTP/1.1 without a body that it has none.
fn prepare(parts: &mut Parts, attempt: u32, empty: bool) {
    // The first was counted before the route had its say about headers.
    if attempt > 1 {
        let attempt = HeaderValue::from(attempt);
        parts.headers.insert(X_ENVOY_ATTEMPT_COUNT, attempt);
    }
    if empty && says_empty(&parts.method) {
        let nothing = HeaderValue::from_static("0");
        parts.headers.insert(CONTENT_LENGTH, nothing);
    }
}

/// Whether a request without a body says so: methods that usually have one do (RFC 9110, section
/// 8.6).
// Envoy: Http1::RequestEncoderImpl, `bodiless_request`.
fn says_empty(method: &Method) -> bool {
    !matches!(
        *method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
    )
}

/// Puts a head into the form of the protocol that it is sent in.
pub(crate) fn set_version(parts: &mut Parts, http2: bool) {
    if http2 {
        for_http2(parts);
    } else {
        parts.version = Version::HTTP_11;
    }
}

/// HTTP/2 says in pseudo-headers what HTTP/1.1 says in `Host` (RFC 9113, section 8.3.1).
fn for_http2(parts: &mut Parts) {
    parts.version = Version::HTTP_2;
    parts.headers.remove(TRANSFER_ENCODING);
    parts.headers.remove(CONNECTION);
    let host = parts.headers.remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut uri = mem::take(&mut parts.uri).into_parts();
    uri.authority = authority;
    uri.scheme = uri.authority.is_some().then_some(Scheme::HTTP);
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
}

/// Gets an answer, in as many tries as the policy allows.
pub(crate) async fn run(
    errand: &Errand<'_>,
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
) -> Result<Answer, Failure> {
    let gate = outgoing.gate.clone();
    let worker = Rc::clone(&exchange.client.worker);
    let mut limit = Limit::new(errand.timeout, exchange.request_body());
    let answer = {
        let tries = pin!(tries(errand, outgoing, exchange));
        within(&mut limit, &worker.deadlines, tries).await
    };
    if let Some(gate) = gate {
        gate.close();
    }
    let answer = answer.unwrap_or_else(|| {
        if let Some(engaged) = exchange.engaged() {
            engaged.observe(Outcome::Failed);
        }
        Err(Failure::Timeout)
    });
    if answer.is_ok() && errand.timeout.is_some() {
        exchange.set_deadline(limit.into_deadline());
    }
    answer
}

async fn tries(
    errand: &Errand<'_>,
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
) -> Result<Answer, Failure> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let parity = exchange.client.worker.options.parity;
    let mut state = errand
        .retry
        .map(|policy| RetryState::new(policy).despite_overload(parity.has(Difference::Overloaded)));
    let retries = errand.retry.map_or(0, |policy| policy.attempts);
    loop {
        exchange.attempts += 1;
        if exchange.attempts > 1
            && let Some(left) = time_left(errand, exchange)
        {
            outgoing.set_timeout(left, errand.grpc);
        }
        let keep = exchange.attempts <= retries && outgoing.repeats;
        let result = one_try(errand, outgoing, exchange, &tried, keep).await;
        let Some(pause) = again(&result, state.as_mut(), outgoing, exchange) else {
            return result;
        };
        let Ok(permit) = errand.cluster.limits().admit_retry() else {
            exchange.flag(ResponseFlag::UpstreamOverflow);
            return result;
        };
        exchange.set_retry(permit);
        if errand
            .retry
            .is_some_and(|policy| policy.ignore_previous_hosts)
            && let Some(engaged) = exchange.engaged()
        {
            tried.push(engaged.address());
        }
        drop(result);
        exchange.disengage();
        time::sleep(pause).await;
    }
}

/// How long another try may take: what is left of the time for all of them, if that is less than one
/// has.
// Envoy: Filter::doRetry, FilterUtility::setTimeoutHeaders.
fn time_left(errand: &Errand<'_>, exchange: &Exchange) -> Option<Duration> {
    let passed = match exchange.request_body() {
        None => exchange.started.elapsed(),
        Some(body) => body
            .over_since()
            .map_or(Duration::ZERO, |since| since.elapsed()),
    };
    // None at all would be a limit that there isn't.
    let left = |all: Duration| all.saturating_sub(passed).max(Duration::from_millis(1));
    let left = errand.timeout.map(left);
    [errand.try_timeout, left].into_iter().flatten().min()
}

/// Whether to try again, and after what pause.
fn again(
    result: &Result<Answer, Failure>,
    state: Option<&mut RetryState<'_>>,
    outgoing: &Outgoing,
    exchange: &mut Exchange,
) -> Option<Duration> {
    let outcome = match result {
        // It has become something else.
        Ok(answer) if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS => return None,
        Ok(answer) => retry::outcome(Ok(&answer.response)),
        Err(failure) => retry::outcome::<()>(Err(failure)),
    };
    match state?.decide(outcome?, fastrand::u64(..)) {
        RetryDecision::No => None,
        RetryDecision::LimitExceeded => {
            exchange.flag(ResponseFlag::UpstreamRetryLimitExceeded);
            None
        }
        RetryDecision::After(_) if outgoing.is_gone() => None,
        RetryDecision::After(pause) => Some(pause),
    }
}

/// Asks one endpoint.
async fn one_try(
    errand: &Errand<'_>,
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
    tried: &[SocketAddr],
    keep: bool,
) -> Result<Answer, Failure> {
    let engaged = errand
        .cluster
        .engage(errand.hash, tried)
        .ok_or(Failure::NoEndpoint)?;
    let http2 = errand.cluster.speaks_http2(outgoing.http2_client) && !errand.upgrade;
    let permit = errand.cluster.limits().admit(http2).await?;
    let endpoint = engaged.address();
    exchange.engage(engaged, permit);
    let asked = Instant::now();
    let result = ask(errand, outgoing, exchange, endpoint, http2, keep).await;
    if let Some(engaged) = exchange.engaged() {
        match &result {
            Ok((response, _)) => engaged.observe(Outcome::Status(response.status().as_u16())),
            Err(failure) if failure.is_the_endpoint_s() => engaged.observe(Outcome::Failed),
            Err(_) => {}
        }
    }
    let (response, raw) = result?;
    Ok(Answer {
        response,
        asked,
        raw,
    })
}

type Asked = Result<(Response<UpstreamBody>, Option<oneshot::Receiver<Raw>>), Failure>;

/// Sends the request and waits for the head of the response.
///
/// A pooled connection may have been closed by the endpoint in the very moment in which it is used.
/// The request is then sent again over a fresh one, once, if that can't do harm: either none of it
/// was written, or it has no body and may be repeated (RFC 9110, section 9.2.2).
async fn ask(
    errand: &Errand<'_>,
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
    endpoint: SocketAddr,
    http2: bool,
    keep: bool,
) -> Asked {
    let worker = Rc::clone(&exchange.client.worker);
    let limits = &errand.cluster.model.policy.limits;
    let harmless = outgoing.is_empty() && outgoing.parts.method.is_idempotent();
    let secured = match errand.cluster.tls() {
        Some(tls) => Some(worker.pool.secured(tls, outgoing.host(), endpoint)?),
        None => None,
    };
    let pool = secured.as_ref().unwrap_or(&worker.pool);
    let mut pooled = true;
    loop {
        let mut raw = None;
        let taken = (pooled && !errand.upgrade)
            .then(|| pool.take(endpoint, http2, limits))
            .flatten();
        pooled = taken.is_some();
        // Boxed, as other rare waits here: every request would carry the room for it.
        let upstream = match taken {
            Some(upstream) => upstream,
            None if errand.upgrade => {
                let (upstream, becomes) =
                    Box::pin(pool.connect_for_upgrade(endpoint, limits)).await?;
                raw = Some(becomes);
                upstream
            }
            None => Box::pin(pool.connect(endpoint, http2, limits)).await?,
        };
        let keep = keep || (pooled && harmless);
        match send(errand, outgoing, exchange, upstream, keep).await {
            Ok(response) => return Ok((response, raw)),
            Err(Unanswered::Unsent) if pooled => {}
            Err(Unanswered::Failed(Failure::Terminated(_))) if pooled && harmless => {}
            Err(Unanswered::Unsent) => return Err(Failure::Terminated(None)),
            Err(Unanswered::Failed(failure)) => return Err(failure),
        }
        // Over a fresh one now.
        pooled = false;
    }
}

/// Why a connection gave no answer.
#[derive(Debug)]
enum Unanswered {
    /// It was dead, and the request is where it was.
    Unsent,
    Failed(Failure),
}

async fn send(
    errand: &Errand<'_>,
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
    mut upstream: Upstream,
    keep: bool,
) -> Result<Response<UpstreamBody>, Unanswered> {
    let mut limit = Limit::new(errand.try_timeout, exchange.request_body());
    let answer = {
        let answer = pin!(answer(&mut upstream, outgoing, exchange.attempts, keep));
        within(&mut limit, &exchange.client.worker.deadlines, answer).await
    };
    match answer {
        None => Err(Unanswered::Failed(Failure::TryTimeout)),
        // What is read directly is ordinary.
        Some(Ok(response))
            if matches!(response.body(), UpstreamBody::Hyper(_))
                && !response::is_well_framed(&response) =>
        {
            Err(Unanswered::Failed(Failure::Protocol))
        }
        Some(Ok(response)) => {
            exchange.set_upstream(upstream);
            Ok(response)
        }
        Some(Err(SendError::Unsent(request))) => {
            if let Some(request) = request {
                outgoing.restore(*request);
            }
            Err(Unanswered::Unsent)
        }
        Some(Err(SendError::Ended)) => Err(Unanswered::Failed(Failure::Terminated(None))),
        Some(Err(SendError::Failed(error))) => Err(Unanswered::Failed(Failure::from(&error))),
    }
}

/// Asks over a connection: directly if that goes.
async fn answer(
    upstream: &mut Upstream,
    outgoing: &mut Outgoing,
    attempt: u32,
    keep: bool,
) -> Result<Response<UpstreamBody>, SendError> {
    let repeats = outgoing.repeats;
    if let Some(direct) = upstream.direct()
        && let Some((request, own)) = outgoing.ordinary(attempt)
    {
        let more = |head: &mut Vec<u8>| {
            if let Some(own) = own {
                own.write(head);
            }
        };
        return match direct.ask(request, more, repeats).await {
            Said::Answer(head, length) => Ok(Response::from_parts(
                head,
                UpstreamBody::Direct { left: length },
            )),
            Said::Unusual => {
                let response = Box::pin(upstream.read_unusual(&request.method)).await?;
                Ok(response.map(UpstreamBody::Hyper))
            }
            Said::Unsent => Err(SendError::Unsent(None)),
            Said::Ended => Err(SendError::Ended),
        };
    }
    let request = outgoing.make(attempt, upstream.is_http2(), keep);
    let response = upstream.send(request).await?;
    Ok(response.map(UpstreamBody::Hyper))
}
