//! Over which connection a request goes to which endpoint, how often, and how long that may take.

use std::{net::SocketAddr, pin::pin, rc::Rc, time::Duration};

use http::{Response, StatusCode, Version};
use nodegate_observe::ResponseFlag;
use nodegate_route::retry::{RetryDecision, RetryState};
use tokio::{sync::oneshot, time};

use super::{
    body::RequestBody,
    client::HttpPool,
    errand::Errand,
    exchange::Exchange,
    failure::Failure,
    outgoing::Outgoing,
    retry,
    time_limit::{TimeLimit, within},
};
use crate::{
    cluster::{Observation, Overflow},
    http1::Framing,
    parity::Difference,
    pool::{DirectAnswer, Raw, Rest, SendError, Unsent, Upstream, UpstreamBody},
};

/// An endpoint's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<UpstreamBody<RequestBody>>,
    /// What the connection becomes, if it does.
    pub(crate) raw: Option<oneshot::Receiver<Raw>>,
}

/// Gets an answer, in as many tries as the policy allows.
pub(crate) async fn run(
    errand: &Errand<'_>,
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
) -> Result<Answer, Failure> {
    let gate = outgoing.gate().cloned();
    let worker = Rc::clone(&exchange.client.worker);
    let mut limit = TimeLimit::new(errand.timeout, exchange.request_body());
    let answer = {
        let tries = pin!(tries(errand, outgoing, exchange));
        within(&mut limit, &worker.deadlines, tries).await
    };
    if let Some(gate) = gate {
        gate.close();
    }
    let answer = answer.unwrap_or_else(|| {
        if let Some(engaged) = exchange.engaged() {
            engaged.observe(worker.index, Observation::Failed);
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
        let keep = exchange.attempts <= retries && outgoing.repeats();
        let result = one_try(errand, outgoing, exchange, &tried, keep).await;
        let Some(pause) = again(&result, state.as_mut(), outgoing, exchange) else {
            return result;
        };
        // The last one makes room for the next (Envoy: RetryStateImpl::resetRetry).
        exchange.end_retry();
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
    // A limit of no time at all would read as one of no limit.
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
        // The connection has become something else.
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
    let http2 = errand.cluster.speaks_http2(outgoing.is_from_http2()) && !errand.upgrade;
    let endpoint = engaged.address();
    let permit = match errand.cluster.limits().admit(http2).await {
        Ok(permit) => permit,
        Err(overflow) => {
            if overflow == Overflow::Requests {
                exchange.note_decision(|decision| decision.endpoint = Some(endpoint));
            }
            return Err(overflow.into());
        }
    };
    exchange.engage(engaged, permit);
    let result = ask(errand, outgoing, exchange, endpoint, http2, keep).await;
    let worker = &exchange.client.worker;
    if let Some(engaged) = exchange.engaged() {
        match &result {
            Ok((response, _)) => engaged.observe(
                worker.index,
                Observation::Status(response.status().as_u16()),
            ),
            Err(failure) if failure.is_of_endpoint() => {
                engaged.observe(worker.index, Observation::Failed);
            }
            Err(_) => {}
        }
    }
    let (response, raw) = result?;
    Ok(Answer { response, raw })
}

/// A response, and what the connection becomes, if it does.
type Responded = (
    Response<UpstreamBody<RequestBody>>,
    Option<oneshot::Receiver<Raw>>,
);

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
) -> Result<Responded, Failure> {
    let shared = Rc::clone(&exchange.client.pool);
    let limits = &errand.cluster.model.policy.limits;
    let harmless = outgoing.is_harmless();
    let secured = match errand.cluster.tls() {
        Some(tls) => Some(shared.secured(tls, outgoing.host(), endpoint)?),
        None => None,
    };
    let pool = secured.as_ref().unwrap_or(&shared);
    let mut pooled = true;
    loop {
        let mut raw = None;
        let taken = (pooled && !errand.upgrade)
            .then(|| pool.take(endpoint, http2, limits))
            .flatten();
        pooled = taken.is_some();
        // Boxed, as other rare waits here: otherwise the future of every request would have room for
        // it.
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
        if let Some(engaged) = exchange.engaged() {
            engaged.reached();
        }
        exchange.set_upstream_local(upstream.local());
        let keep = keep || (pooled && harmless);
        match send(errand, outgoing, exchange, (upstream, pool), keep).await {
            Ok(response) => return Ok((response, raw)),
            Err(Unanswered::Unsent) if pooled => {}
            Err(Unanswered::Failed(Failure::Terminated(_))) if pooled && harmless => {}
            Err(Unanswered::Unsent) => return Err(Failure::Terminated(None)),
            Err(Unanswered::Failed(failure)) => return Err(failure),
        }
        // Now over a fresh connection.
        pooled = false;
    }
}

/// Why a connection gave no answer.
#[derive(Debug)]
enum Unanswered {
    /// The connection was dead, and none of the request has been sent.
    Unsent,
    Failed(Failure),
}

async fn send(
    errand: &Errand<'_>,
    outgoing: &mut Outgoing,
    exchange: &mut Exchange,
    (mut upstream, pool): (Upstream<RequestBody>, &Rc<HttpPool>),
    keep: bool,
) -> Result<Response<UpstreamBody<RequestBody>>, Unanswered> {
    let mut limit = TimeLimit::new(errand.try_timeout, exchange.request_body());
    let answer = {
        let answer = pin!(answer(&mut upstream, outgoing, exchange.attempts, keep));
        within(&mut limit, &exchange.client.worker.deadlines, answer).await
    };
    match answer {
        None => Err(Unanswered::Failed(Failure::TryTimeout)),
        Some(Ok(response)) if !is_proper(&response) => Err(Unanswered::Failed(Failure::Protocol)),
        Some(Ok(response)) => {
            Ok(response.map(|rest| UpstreamBody::new(rest, upstream, Rc::clone(pool))))
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

/// Whether it is clear where an answer ends. What is read directly is ordinary; HTTP/2 says it by itself.
fn is_proper(response: &Response<Rest>) -> bool {
    matches!(response.body(), Rest::Direct(_))
        || response.version() == Version::HTTP_2
        || Framing::of(response.headers()).is_proper_answer(response.status())
}

/// Asks over a connection: directly if possible.
async fn answer(
    upstream: &mut Upstream<RequestBody>,
    outgoing: &mut Outgoing,
    attempt: u32,
    keep: bool,
) -> Result<Response<Rest>, SendError<RequestBody>> {
    if let Some(direct) = upstream.direct()
        && let Some((request, own)) = outgoing.ordinary(attempt)
    {
        let more = |head: &mut Vec<u8>| {
            if let Some(own) = own {
                own.write(head);
            }
        };
        direct
            .send(request, more)
            .await
            .map_err(|unsent| match unsent {
                Unsent::Whole => SendError::Unsent(None),
                Unsent::Rest => SendError::Ended,
            })?;
        return match direct.receive(|fields| outgoing.spare(fields)).await {
            DirectAnswer::Ordinary(head, length) => {
                Ok(Response::from_parts(head, Rest::Direct(length)))
            }
            DirectAnswer::Unusual => {
                let method = outgoing.method();
                let response = Box::pin(upstream.read_unusual(method)).await?;
                Ok(response.map(Rest::Hyper))
            }
            DirectAnswer::Ended => Err(SendError::Ended),
        };
    }
    let request = outgoing.make(attempt, upstream.is_http2(), keep);
    let response = upstream.send(request).await?;
    let has_body = response.version() != Version::HTTP_2
        || !matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    Ok(response.map(if has_body { Rest::Hyper } else { Rest::Nothing }))
}
