//! Copies of requests for mirrors. Their answers are thrown away.

use std::{future::poll_fn, rc::Rc, sync::Arc, task::Poll, time::Duration};

use http::{HeaderValue, Request, request::Parts};
use http_body_util::BodyExt as _;
use tokio::{task, time};

use super::{
    body::{Progress, RequestBody, Store},
    client::HttpPool,
    exchange::Exchange,
    head_form,
    headers::{X_ENVOY_ATTEMPT_COUNT, X_ENVOY_EXPECTED_TIMEOUT},
    outgoing::{self, Outgoing},
};
use crate::{
    cluster::{ClusterState, Observation},
    config::MirrorState,
    overload::Refusal,
    worker::Worker,
};

/// How long a copy may take if the route has no timeout.
const PATIENCE: Duration = Duration::from_mins(1);

/// Sends copies to the mirrors whose turn it is. A request with a body is copied once all of it has
/// come, unless it is too large to be kept.
// Envoy: Filter::maybeDoShadowing.
pub(crate) fn send(
    mirrors: &[&MirrorState],
    outgoing: &mut Outgoing,
    exchange: &Exchange,
    timeout: Option<Duration>,
) {
    for mirror in mirrors {
        let Some(cluster) = mirror.cluster().cloned() else {
            continue;
        };
        let worker = Rc::clone(&exchange.client.worker);
        let pool = Rc::clone(&exchange.client.pool);
        let mut parts = outgoing.parts().clone();
        if let Some(timeout) = timeout
            && let Some(time) = parts.headers.get_mut(X_ENVOY_EXPECTED_TIMEOUT)
        {
            // It is tried once: of all the time that there is, and not of a try's.
            *time = HeaderValue::from(timeout.as_millis() as u64);
        }
        let store = outgoing.store().cloned();
        let progress = exchange.request_body().cloned();
        let copy = async move {
            if let Some(body) = whole(store, progress).await {
                // A mirror's failure makes no difference to the client.
                let _ = copy(&worker, &pool, &cluster, parts, body).await;
            }
        };
        task::spawn_local(async move {
            let _ = time::timeout(timeout.unwrap_or(PATIENCE), copy).await;
        });
    }
}

/// The body, when all of it has come; none if it never does.
async fn whole(store: Option<Rc<Store>>, progress: Option<Rc<Progress>>) -> Option<RequestBody> {
    let Some(store) = store else {
        // No body, or one that was not kept.
        return progress.is_none().then_some(RequestBody::EMPTY);
    };
    poll_fn(|cx| {
        let is_left = progress.as_ref().map(|progress| progress.poll_left(cx));
        match is_left {
            Some(Poll::Ready(())) => Poll::Ready(()),
            Some(Poll::Pending) | None => store.poll_settled(cx),
        }
    })
    .await;
    store.close();
    if store.is_too_large() {
        Refusal::Copies.note();
    }
    store
        .is_whole()
        .then(|| RequestBody::copy_of(&store))
        .flatten()
}

async fn copy(
    worker: &Worker,
    pool: &Rc<HttpPool>,
    cluster: &Arc<ClusterState>,
    mut parts: Parts,
    body: RequestBody,
) -> Option<()> {
    let http2 = cluster.speaks_http2(parts.version == http::Version::HTTP_2);
    let limits = &cluster.model.policy.limits;
    let engaged = cluster.engage(None, &[])?;
    let _permit = cluster.limits().admit(http2).await.ok()?;
    let endpoint = engaged.address();
    let secured = match cluster.tls() {
        Some(tls) => Some(pool.secured(tls, head_form::host(&parts), endpoint).ok()?),
        None => None,
    };
    let pool = secured.as_ref().unwrap_or(pool);
    let pooled = pool.take(endpoint, http2, limits);
    let mut upstream = if let Some(upstream) = pooled {
        upstream
    } else {
        let connected = pool.connect(endpoint, http2, limits);
        let connected = connected.await;
        if connected.is_err() {
            engaged.observe(worker.index, Observation::Failed);
        }
        connected.ok()?
    };
    parts
        .headers
        .insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from_static("1"));
    head_form::set_version(&mut parts, http2);
    if !http2 {
        if body.is_empty() {
            outgoing::say_empty(&mut parts);
        } else {
            outgoing::say_chunked(&mut parts);
        }
    }
    let response = upstream.send(Request::from_parts(parts, body)).await.ok()?;
    engaged.observe(
        worker.index,
        Observation::Status(response.status().as_u16()),
    );
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.ok()?;
    }
    pool.give_back(upstream, worker.now(), limits);
    Some(())
}
