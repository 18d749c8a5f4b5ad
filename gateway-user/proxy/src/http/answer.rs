//! A request's way through its phases to an answer.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, request::Parts};
use nodegate_model::gateway::{Forward, HttpAction, HttpRoute};
use nodegate_route::{
    cors::{self, CorsDecision},
    edge, redirect, timeout,
};

use super::{
    body::RequestBody,
    changes::keep_facts,
    client::Client,
    context::AnswerContext,
    errand::Errand,
    exchange::Exchange,
    expect,
    failure::Failure,
    fault,
    find::{find, requested},
    forward::{self, Answer},
    hashing, mirror,
    outgoing::Outgoing,
    own_headers::OwnHeaders,
    prepare::{self, Plan},
    reply::LocalReply,
    response::{self, Extras},
    response_body::ResponseBody,
    survey::Survey,
    tunnel::Tunnel,
    validate,
};
use crate::{
    config::Routed,
    counters::Counted,
    parity::{Difference, Parity},
};

/// Answers a request.
pub(crate) async fn answer(
    request: Request<RequestBody>,
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    let client = Rc::clone(&exchange.client);
    let (mut parts, body) = request.into_parts();
    let parity = client.worker.options.parity;
    if parity != Parity::default() {
        validate::adapt(&mut parts, parity);
    }
    let survey = Survey::of(&parts.headers);
    exchange.expects = survey.expect && expect::asks_first(&parts.headers);
    let mut context = AnswerContext {
        // CONNECT has no path, and is no call (Envoy: Grpc::Common::isGrpcRequestHeaders).
        grpc: survey.content
            && parts.uri.path_and_query().is_some()
            && timeout::is_grpc(&parts.headers),
        ..AnswerContext::default()
    };
    let Admitted {
        upgrade,
        mut own,
        routed,
    } = match admit(&mut parts, survey, &mut exchange) {
        Ok(admitted) => admitted,
        Err(reply) => return reply.into_response(exchange, context),
    };
    let route = routed.route();
    context.routed = Some(&routed);
    let answers = route.fault.is_some() || upgrade.is_err();
    if answers && matches!(route.action, HttpAction::Forward(_)) {
        // What a fault answers has the headers of a destination, too. Without a fault CORS may answer
        // before a destination's turn is taken.
        let chosen = routed.state().target.choose();
        context.destination = Some(chosen.index);
        exchange.note_decision(|decision| decision.cluster = Some(chosen.name.to_owned()));
    }
    keep_facts(
        &mut parts,
        &mut own,
        &routed,
        context.destination,
        &mut exchange,
    );
    // Whether a connection may become something else is known before any filter is asked.
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(reply) => return reply.into_response(exchange, context),
    };
    // Faults come first, and their answers have no headers of CORS (Istio: buildHTTPConnectionManager).
    if let Some(fault) = &route.fault
        && let Some(reply) = Box::pin(fault::inject(fault, context.grpc, &mut exchange)).await
    {
        return reply.into_response(exchange, context);
    }
    let origin = match cross_origin(route, &parts) {
        Ok(origin) => origin,
        Err(reply) => {
            // It has none of the route's headers, but it is the route's.
            let counters = &routed.state().counters;
            counters.add(
                client.worker.index,
                Counted::Status(reply.status().as_u16()),
            );
            context.routed = None;
            // Nor is it one of gRPC, whatever is asked for (Envoy: CorsFilter::decodeHeaders, which writes
            // its answer itself).
            context.grpc = false;
            return reply.into_response(exchange, context);
        }
    };
    context.origin = origin.as_ref();
    match &route.action {
        HttpAction::Redirect(redirect) => {
            let location = redirect::location(redirect, requested(&parts, &exchange));
            LocalReply::redirect(redirect.status, &location).into_response(exchange, context)
        }
        HttpAction::DirectResponse(direct) => {
            let location = redirect::own_location(direct.status, requested(&parts, &exchange));
            LocalReply::direct(direct, location).into_response(exchange, context)
        }
        HttpAction::Forward(forward) => {
            let request = Request::from_parts(parts, body);
            pass_on(
                forward,
                &routed,
                request,
                (upgrade, survey, own),
                exchange,
                context,
            )
            .await
        }
    }
}

/// A request that has a route.
struct Admitted {
    /// What it wants the connection to become, if anything; or the answer if it can't become that.
    upgrade: Result<Option<HeaderValue>, LocalReply>,
    /// What the gateway says itself of it.
    own: OwnHeaders,
    routed: Routed,
}

/// Receives a request: checks it, takes from it what a client must not say, sets what the gateway says
/// itself, and only then looks for its route, as Envoy does (ConnectionManagerImpl::ActiveStream::
/// decodeHeaders: the route comes after ConnectionManagerUtility::mutateRequestHeaders).
fn admit(
    parts: &mut Parts,
    survey: Survey,
    exchange: &mut Exchange,
) -> Result<Admitted, LocalReply> {
    let client = Rc::clone(&exchange.client);
    let valid = validate::validate(parts, survey, client.worker.options.accept_http10);
    let normalized = validate::normalize(parts);
    exchange.record(parts);
    let refused = |reply: LocalReply| {
        // Envoy ends the connection with such an answer, except after `OPTIONS *`.
        let parity = client.worker.options.parity;
        let closes = parity.has(Difference::EarlyReply) && reply != LocalReply::no_path();
        if closes { reply.closing() } else { reply }
    };
    valid.and(normalized).map_err(&refused)?;
    // `upgrade` is a header of one connection, too.
    let mut upgrade = Ok(None);
    if survey.hop_by_hop {
        upgrade = validate::upgrade(parts);
        let kept = upgrade.as_ref().ok().and_then(Option::as_ref);
        edge::leave_connection(&mut parts.headers, kept);
    }
    if survey.control {
        let parity = client.worker.options.parity;
        edge::strip_control(&mut parts.headers, parity.has(Difference::XEnvoyHeaders));
    }
    let mut own = OwnHeaders::new(&client.identity);
    exchange.note(|record| own.note(&parts.headers, record));
    if parts.method == Method::CONNECT {
        // No route is one for CONNECT (Envoy: `connect_matcher`, which Istio doesn't set).
        return Err(refused(LocalReply::no_route()));
    }
    let routed = match (route(&client, parts, &mut own, exchange), &upgrade) {
        (Ok(routed), _) => routed,
        // It goes without a route, too.
        (Err(_), Err(reply)) => return Err(reply.clone()),
        (Err(reply), Ok(_)) => return Err(reply),
    };
    Ok(Admitted {
        upgrade,
        own,
        routed,
    })
}

/// Finds the route that is in force now.
fn route(
    client: &Client,
    parts: &mut Parts,
    own: &mut OwnHeaders,
    exchange: &mut Exchange,
) -> Result<Routed, LocalReply> {
    let config = client.worker.config();
    let (port, chain) = (client.listener.port, client.chain());
    let current = config
        .listener(port)
        .and_then(|listener| listener.http(chain));
    if current.is_none() {
        // Nothing is served there any more but what had come before.
        client.handle.finish();
    }
    let Some(http) = current.or_else(|| client.listener.http(chain)) else {
        // Not reached: connections come here only from where HTTP is spoken.
        return Err(LocalReply::no_route());
    };
    if http.matches_own_headers() {
        own.identify(&mut parts.headers);
    }
    find(http, parts, exchange)
}

/// The origin whose pages may use the answer, if the answer has to say so; or the answer to a preflight.
// Envoy's filter looks for a policy at routes that lead to a cluster, and nowhere else
// (CorsFilter::initializeCorsPolicies).
fn cross_origin(route: &HttpRoute, parts: &Parts) -> Result<Option<HeaderValue>, LocalReply> {
    let (Some(policy), HttpAction::Forward(_)) = (&route.cors, &route.action) else {
        return Ok(None);
    };
    match cors::decide(policy, &parts.method, &parts.headers) {
        CorsDecision::Unconcerned => Ok(None),
        CorsDecision::Allowed(origin) => Ok(Some(origin)),
        CorsDecision::Answer(headers) => {
            Err(LocalReply::new(StatusCode::OK, "cors_response").with_headers(&headers))
        }
    }
}

/// Passes a request on and its answer back.
async fn pass_on(
    forward: &Forward,
    routed: &Routed,
    request: Request<RequestBody>,
    (upgrade, survey, mut own): (Option<HeaderValue>, Survey, OwnHeaders),
    mut exchange: Box<Exchange>,
    mut context: AnswerContext<'_>,
) -> Response<ResponseBody> {
    let client = Rc::clone(&exchange.client);
    let (mut parts, body) = request.into_parts();
    let target = &routed.state().target;
    let chosen = match context.destination {
        Some(index) => target.chosen(index),
        None => target.choose(),
    };
    context.destination = Some(chosen.index);
    keep_facts(
        &mut parts,
        &mut own,
        routed,
        context.destination,
        &mut exchange,
    );
    exchange.note_decision(|decision| decision.cluster = Some(chosen.name.to_owned()));
    let Some(cluster) = chosen.cluster else {
        return LocalReply::no_cluster().into_response(exchange, context);
    };
    let parity = client.worker.options.parity;
    let (timeout, try_timeout) =
        if routed.route().fault.is_some() && !parity.has(Difference::TimeoutWithFault) {
            (None, None)
        } else {
            timeouts(forward, &parts, context.grpc)
        };
    let plan = Plan {
        routed,
        forward,
        destination: chosen.index,
        timeout,
        try_timeout,
        survey,
    };
    let (hash, cookie) = hashing::hash(cluster, &parts, &client);
    let own = match prepare::prepare(&mut parts, &plan, own, &mut exchange) {
        Ok(own) => own,
        Err(reply) => return reply.into_response(exchange, context),
    };
    // Where there is nobody to ask, nobody gets a copy either (Envoy: Filter::decodeHeaders, which has sent its
    // answer before maybeDoShadowing).
    let has_endpoints = || cluster.addresses().next().is_some();
    let mirrors: Vec<_> = routed
        .state()
        .mirrors
        .iter()
        .filter(|mirror| has_endpoints() && mirror.percentage.includes(fastrand::u64(..)))
        .collect();
    let errand = Errand {
        cluster,
        hash,
        // With a fault policy there are no retries (Istio: HTTPFaultInjection).
        retry: forward
            .retry
            .as_ref()
            .filter(|_| routed.route().fault.is_none() || parity.has(Difference::TimeoutWithFault)),
        timeout,
        try_timeout,
        upgrade: upgrade.is_some(),
        keep_body: !mirrors.is_empty(),
        grpc: context.grpc,
        expects: survey.expect,
    };
    let mut outgoing = Outgoing::new(parts, own, body, &errand);
    mirror::send(&mirrors, &mut outgoing, &exchange, timeout);
    let began = Instant::now();
    match forward::run(&errand, &mut outgoing, &mut exchange).await {
        Ok(answer) => {
            let extras = Extras {
                service_time: service_time(began, &exchange),
                cookie,
                upgrade: None,
            };
            give_back(answer, upgrade, exchange, context, extras)
        }
        // The client isn't there to hear this; the record says that it has left.
        Err(Failure::ClientGone) => {
            let mut response = Response::new(ResponseBody::none());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
        Err(failure) => {
            let retried = exchange.attempts > 1;
            let mut reply = LocalReply::failure(&failure, retried);
            if parity.has(Difference::TransportFailure) {
                reply = reply.without_transport_failure();
            }
            reply.into_response(exchange, context)
        }
    }
}

/// How long the endpoints took, in all tries, since the whole request was here; none if it isn't yet.
// Envoy: Filter::onUpstreamHeaders, downstream_request_complete_time_.
fn service_time(began: Instant, exchange: &Exchange) -> Option<Duration> {
    match exchange.request_body() {
        None => Some(began.elapsed()),
        Some(body) => body.over_since().map(|over| over.max(began).elapsed()),
    }
}

/// How long a request may take in all, and how long a try.
// Envoy: FilterUtility::finalTimeout, which ignores a try's limit that is not below that of all.
fn timeouts(forward: &Forward, parts: &Parts, grpc: bool) -> (Option<Duration>, Option<Duration>) {
    let timeout = if grpc {
        timeout::of_request(forward.timeout, &parts.headers)
    } else {
        forward.timeout
    };
    let try_timeout = forward
        .retry
        .as_ref()
        .and_then(|policy| policy.per_try_timeout)
        .filter(|per_try| timeout.is_none_or(|timeout| *per_try < timeout));
    (timeout, try_timeout)
}

/// Gives an answer back to the client.
fn give_back(
    answer: Answer,
    upgrade: Option<HeaderValue>,
    mut exchange: Box<Exchange>,
    context: AnswerContext<'_>,
    mut extras: Extras,
) -> Response<ResponseBody> {
    if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response::finish(answer.response, exchange, context, extras);
    }
    let (Some(upgrade), Some(raw)) = (upgrade, answer.raw) else {
        // The endpoint switches without being asked to.
        return LocalReply::failure(&Failure::Protocol, false).into_response(exchange, context);
    };
    extras.upgrade = Some(upgrade);
    let (head, body) = response::head(answer.response, &mut exchange, context, extras);
    let tunnel = Tunnel {
        raw,
        exchange,
        _answer: body,
    };
    head.map(|()| ResponseBody::tunnel(tunnel))
}
